"""``unpicked reconstruct micrographs``: the whole small job, from files to a run folder, and on after a stop."""

import csv
import errno
import fcntl
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from answers import answered, fails, is_refused
from unpicked.cli import main
from unpicked.cli.common import IN_USE, alone
from unpicked.cli.micrographs import Input
from unpicked.data.maps import Map
from unpicked.estimators.em import EM
from unpicked.io.mrc import read_header, read_map, write_image, write_map
from unpicked.preprocess import prepare
from unpicked.priors import Wilson
from unpicked.recipes import MicrographJob
from unpicked.recipes.known import Known, kept

JOB = "--box 8 --lmax 4 --no-verify --views 12 --iterations 2 --starts 1 --moves 0 --threads 1".split()
LONG = "--box 8 --lmax 4 --no-verify --views 12 24 --iterations 5 3 --starts 2 --moves 1 --threads 1".split()
RUN = {"volume.mrc", "result.json", "settings.json", "history.csv", "report.html", "patches.npz", "micrographs.npz"}
RUN |= {"mask.mrc"}
RUN |= {f"checkpoint/stage-0/{name}" for name in ("start-0.pt", "start-0.pt.old", "known.json")}


@pytest.fixture
def command(capsys):
    """Run a command; the exit status, standard output, and standard error."""

    return partial(answered, capsys)


@pytest.fixture
def reconstruct(command):
    def run(files, out, *more, job=JOB):
        names = files if isinstance(files, list) else [files]
        return command("reconstruct", "micrographs", *names, "--out", out, *job, *more)

    return run


def quietly(*words):
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in (*words, "--quiet")])
    assert caught.value.code == 0


@pytest.fixture(scope="module")
def sim(tmp_path_factory):
    """Two micrographs of a phantom, shared by all tests: never write there."""
    out = tmp_path_factory.mktemp("data") / "sim"
    size = ("--box", 8, "--voxel", 6, "--size", 64, "--count", 2)
    quietly("simulate", "micrographs", "--out", out, "--phantom", "shepp-logan", *size, "--energy", 400)
    return out


@pytest.fixture(scope="module")
def done(sim, tmp_path_factory):
    """The finished small job on them: never write there."""
    out = tmp_path_factory.mktemp("runs") / "run"
    quietly("reconstruct", "micrographs", sim / "micrographs.star", "--out", out, *JOB)
    return out


@pytest.fixture
def finished(done, tmp_path):
    """A copy of the finished run, to write to."""
    return shutil.copytree(done, tmp_path / "finished")


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_run_folder_holds_the_named_outputs_and_nothing_else(done):
    assert set(files(done)) == RUN


def test_the_volume_has_the_box_and_the_voxel_of_the_data(done, sim):
    found = read_map(done / "volume.mrc")
    assert (found.box, found.voxel_size) == (8, 6.0)
    assert found.values.dtype == torch.float32 and found.values.std() > 0
    assert read_header(done / "volume.mrc").kind.startswith("a volume")
    # grey values of the files: the projections of the volume are as strong as the phantom's
    power = (found.values.norm() / read_map(sim / "truth.mrc").values.norm()).item()
    assert 0.3 < power < 3


def test_the_result_has_every_key_of_the_contract(done, sim):
    result = json.loads((done / "result.json").read_text(), parse_constant=pytest.fail)
    assert {"command", "settings", "version", "seed", "data", "result", "verdict", "figures", "seconds",
            "peak_memory_mb"} <= set(result)  # fmt: skip
    assert result["command"].startswith("unpicked reconstruct micrographs ")
    assert result["verdict"] == "not verified"
    settings = {"box": 8, "lmax": 4, "views": [12], "iterations": [2], "starts": 1, "moves": 0, "seed": 0}
    assert settings.items() <= result["settings"].items()
    assert result["settings"]["files"] == [str(sim / "micrographs.star")]
    assert (result["seed"], result["data"]["files"], result["data"]["voxel_size"]) == (0, 2, 6.0)
    assert "iteration limit" in result["result"]
    assert {"sigma", "density", "log_likelihood", "energy"} <= set(result["figures"])
    shares = result["figures"].pop("data_share")
    assert len(shares) == 4 and all(0 <= share <= 1 for share in shares)
    assert result["figures"].pop("data_share_kind") == "precision"
    assert all(math.isfinite(value) for value in result["figures"].values())
    truth = json.loads((sim / "truth.json").read_text())
    assert result["figures"]["sigma"] == pytest.approx(truth["sigma"], rel=0.1)
    assert result["figures"]["energy"] == pytest.approx(400, rel=0.5)
    assert result["seconds"] > 0 and result["peak_memory_mb"] > 10


def test_the_history_has_one_row_of_numbers_per_pass(done):
    with open(done / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["stage-0 start-0"] * 2
    assert [float(row["step"]) for row in rows] == [0, 1]
    assert all(
        math.isfinite(float(value)) for row in rows for name, value in row.items() if name not in ("run", "judge")
    )
    result = json.loads((done / "result.json").read_text())
    assert float(rows[-1]["judge"]) == result["figures"]["log_likelihood"]


def test_the_report_is_one_page_that_tells_the_result(done):
    page = (done / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html") and "</html>" in page
    assert "not verified" in page.lower() and "iteration limit" in page


def test_json_prints_one_object_on_the_last_line(reconstruct, sim, tmp_path):
    status, out, _ = reconstruct(sim / "micrographs.star", tmp_path / "run", "--json")
    assert status == 0
    assert json.loads(out.splitlines()[-1]) == json.loads((tmp_path / "run" / "result.json").read_text())
    assert out.count("\n") == 1


def test_quiet_says_nothing(reconstruct, sim, tmp_path):
    assert reconstruct(sim / "micrographs.star", tmp_path / "run", "--quiet") == (0, "", "")


def test_progress_is_one_line_per_pass_with_the_figures(reconstruct, sim, tmp_path):
    status, out, err = reconstruct(sim / "micrographs.star", tmp_path / "run")
    assert status == 0 and err.count("\n") == 2
    assert all("to gain" in line for line in err.splitlines())
    for told in ("pixel size 6 A", "contrast dark", "2 micrographs of 64 x 64", "not verified", "report.html"):
        assert told in out, out


def test_one_seed_gives_the_same_volume_and_another_gives_another(reconstruct, sim, done, tmp_path):
    assert reconstruct(sim / "micrographs.star", tmp_path / "a")[0] == 0
    assert reconstruct(sim / "micrographs.star", tmp_path / "b", "--seed", 1)[0] == 0
    volume = (done / "volume.mrc").read_bytes()
    assert (tmp_path / "a" / "volume.mrc").read_bytes() == volume
    assert (tmp_path / "b" / "volume.mrc").read_bytes() != volume


@pytest.mark.parametrize("how", ["folder", "glob", "list", "relative"])
def test_every_way_to_name_the_files_gives_the_same_volume(reconstruct, sim, done, tmp_path, monkeypatch, how):
    folder = sim / "micrographs"
    monkeypatch.chdir(sim)
    names = {
        "folder": folder,
        "glob": str(folder / "*.mrc"),
        "list": sorted(folder.iterdir()),
        "relative": "micrographs.star",
    }
    assert reconstruct(names[how], tmp_path / "run")[0] == 0
    assert (tmp_path / "run" / "volume.mrc").read_bytes() == (done / "volume.mrc").read_bytes()


def test_bright_files_give_the_volume_of_the_dark_ones(reconstruct, sim, done, tmp_path):
    size = ("--box", 8, "--voxel", 6, "--size", 64, "--count", 2)
    bright = tmp_path / "sim"
    quietly("simulate", "micrographs", "--out", bright, "--phantom", "shepp-logan", *size, "--energy", 400,
            "--contrast", "bright")  # fmt: skip
    assert reconstruct(bright / "micrographs.star", tmp_path / "right", "--contrast", "bright")[0] == 0
    assert reconstruct(bright / "micrographs.star", tmp_path / "wrong")[0] == 0
    volume = (done / "volume.mrc").read_bytes()
    assert (tmp_path / "right" / "volume.mrc").read_bytes() == volume
    assert (tmp_path / "wrong" / "volume.mrc").read_bytes() != volume


def test_the_working_voxel_that_results_is_exact_and_told(reconstruct, sim, tmp_path):
    # 64 pixels of 6 A at 7 A are 54.86 pixels, hence 54 of 64 * 6 / 54 A
    status, out, _ = reconstruct(sim / "micrographs.star", tmp_path / "run", "--voxel", 7)
    exact = 64 * 6 / 54
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert status == 0 and f"{exact:.6g} A" in out
    assert result["data"]["voxel_size"] == pytest.approx(exact, rel=1e-12) and result["data"]["size"] == [54, 54]
    found = read_map(tmp_path / "run" / "volume.mrc")
    assert found.box == 8 and found.voxel_size == pytest.approx(exact, rel=1e-6)


def test_the_truth_is_compared_when_it_is_given(reconstruct, sim, tmp_path):
    status, out, _ = reconstruct(sim / "micrographs.star", tmp_path / "run", "--truth", sim / "truth.mrc")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert status == 0 and "correlation with the truth" in out
    assert 0 < result["figures"]["compare"]["correlation"] <= 1


def test_given_sigma_and_density_are_kept(reconstruct, sim, tmp_path):
    sigma = json.loads((sim / "truth.json").read_text())["sigma"]
    given = ("--sigma", sigma, "--density", 0.05)
    assert reconstruct(sim / "micrographs.star", tmp_path / "run", *given)[0] == 0
    figures = json.loads((tmp_path / "run" / "result.json").read_text())["figures"]
    assert figures["sigma"] == pytest.approx(sigma, rel=1e-6)
    assert figures["density"] == pytest.approx(0.05, rel=1e-6)


def noise_file(path, shape, seed=0, pixel=4.0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    write_image(values, path, pixel)
    return path


def test_a_micrograph_that_is_not_square_goes_through(reconstruct, tmp_path):
    path = noise_file(tmp_path / "m.mrc", (40, 72))
    assert reconstruct(path, tmp_path / "plain")[0] == 0
    assert json.loads((tmp_path / "plain" / "result.json").read_text())["data"]["size"] == [40, 72]
    status, out, _ = reconstruct(path, tmp_path / "coarse", "--voxel", 6)
    assert status == 0 and "at the far edges are left out" in out
    assert read_map(tmp_path / "coarse" / "volume.mrc").voxel_size == pytest.approx(6, rel=0.1)


@pytest.mark.parametrize(
    ("name", "voxel", "pixel"),
    [("epu2.9_example_bin4.mrc", 40, "2.66621"), ("epu2.9_example_crop1024.mrc", 10, "0.666551")],
)
def test_a_real_micrograph_goes_through(reconstruct, shared_data, tmp_path, name, voxel, pixel):
    path = shared_data("micrographs/" + name)
    status, out, err = reconstruct(path, tmp_path / "run", "--voxel", voxel)
    assert status == 0, err
    assert f"pixel size {pixel} A, from the headers" in out and "contrast dark" in out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["data"]["voxel_size"] == pytest.approx(voxel, rel=0.05)
    found = read_map(tmp_path / "run" / "volume.mrc")
    assert found.voxel_size == pytest.approx(result["data"]["voxel_size"], rel=1e-6)
    assert math.isfinite(result["figures"]["log_likelihood"])


def test_contrast_transfer_is_told_kept_and_read_again(reconstruct, sim, tmp_path):
    """CTFFIND's file for both micrographs: in the notes of the run, in its settings, and among the files it needs."""
    head = "# acceleration voltage: 300.0 keV ; spherical aberration: 2.70 mm ; amplitude contrast: 0.10\n"
    rows = "1 9000 8800 20 0.0 0.1 5.0\n2 12000 11900 -20 0.0 0.1 inf\n"
    (tmp_path / "fits.txt").write_text(head + rows)
    words = (sim / "micrographs.star", tmp_path / "run", "--ctf", tmp_path / "fits.txt")
    status, out, _ = reconstruct(*words)
    assert status == 0 and "defocus 8900 to 11950 A" in out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert any("defocus 8900 to 11950 A" in note for note in result["data"]["notes"])
    assert "efocus 8900 to 11950" in (tmp_path / "run" / "report.html").read_text()
    assert result["settings"]["ctf"] == [str(tmp_path / "fits.txt")]
    again = Input.of(result["settings"]).read(result["settings"]["files"])
    assert again.optics is not None and again.optics.defocus_u == (9000.0, 12000.0)
    assert reconstruct(*words, "--resume")[0] == 0
    assert is_refused(reconstruct(*words[:2], "--resume"), "ctf was ")
    (tmp_path / "fits.txt").write_text(head + rows.replace("9000", "9100"))
    assert is_refused(reconstruct(*words, "--resume"), "data_files was", "fits.txt")


def test_a_tilted_grid_is_told_in_settings_and_on_the_page(reconstruct, command, sim, tmp_path):
    status, _, _ = reconstruct(sim / "micrographs.star", tmp_path / "run", "--tilt", "-60", "--tilt-axis", "20")
    assert status == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["settings"]["tilt"], result["settings"]["tilt_axis"]) == (-60.0, 20.0)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "As right as the sign of the tilt, -60 degrees" in page and "untilted" not in page
    flat = reconstruct(sim / "micrographs.star", tmp_path / "flat", "--tilt", "0")
    assert is_refused(flat, "--tilt must be 5 to 85 degrees")
    assert not (tmp_path / "flat").exists()


def test_a_tilted_grid_by_moments_goes_through_and_on(reconstruct, sim, tmp_path, capsys):
    words = "--box 8 --lmax 2 --tilt 60 --method autocorrelation --starts 1 --threads 1 --no-verify".split()
    status, _, err = reconstruct(sim / "micrographs.star", tmp_path / "run", job=words)
    assert status == 0, err
    first = read_map(tmp_path / "run" / "volume.mrc")
    (tmp_path / "run" / "result.json").unlink()
    status, _, err = reconstruct(sim / "micrographs.star", tmp_path / "run", "--resume", job=words)
    assert status == 0, err
    assert torch.equal(read_map(tmp_path / "run" / "volume.mrc").values, first.values)
    picked = answered(capsys, "pick", tmp_path / "run", sim / "micrographs.star", "--out", tmp_path / "picks.star")
    assert is_refused(picked, "tilted grid") and not (tmp_path / "picks.star").exists()
    for more in ("--views 8 8 8", "--moves 0", "--solver em", "--object voxels", "--held-out 1"):
        refused = reconstruct(sim / "micrographs.star", tmp_path / "no", *more.split(), job=words)
        assert is_refused(refused, "--method autocorrelation") and not (tmp_path / "no").exists()


def test_a_start_map_is_used(reconstruct, sim, done, tmp_path):
    truth = read_map(sim / "truth.mrc").values.numpy().ravel()
    assert reconstruct(sim / "micrographs.star", tmp_path / "run", "--start", sim / "truth.mrc")[0] == 0
    found, random_start = (read_map(run / "volume.mrc").values.numpy().ravel() for run in (tmp_path / "run", done))
    # two passes do not turn it away from where it started
    assert np.corrcoef(found, truth)[0, 1] > max(0.7, np.corrcoef(random_start, truth)[0, 1])


def test_what_moments_tell_is_a_start(reconstruct, sim, tmp_path):
    job = [*JOB, "--start", "autocorrelation"]
    status, _, err = reconstruct(sim / "micrographs.star", tmp_path / "run", job=job)
    assert status == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["settings"]["start"] == "autocorrelation"
    assert any(note.startswith("started from moments: ") for note in result["data"]["notes"])
    with open(tmp_path / "run" / "history.csv", newline="") as file:
        names = [row["run"] for row in csv.DictReader(file)]
    assert names == ["moments-first start-0"] * 2 + ["stage-0 start-0"] * 2 + ["stage-0 start-1"] * 2
    assert "2 starts; 2 passes over the data" in (tmp_path / "run" / "report.html").read_text()
    before = read_map(tmp_path / "run" / "volume.mrc").values
    (tmp_path / "run" / "result.json").unlink()  # stopped before the end
    assert reconstruct(sim / "micrographs.star", tmp_path / "run", "--resume", job=job)[0] == 0
    assert torch.equal(read_map(tmp_path / "run" / "volume.mrc").values, before)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--tilt 60", ("--tilt 60", "--start random")),
        ("--spacing arbitrary", ("--spacing separated", "got arbitrary")),
        ("--view-distribution estimated", ("--view-distribution uniform", "got estimated")),
    ],
)
def test_a_start_that_moments_cannot_give_is_refused(reconstruct, sim, tmp_path, more, words):
    answer = reconstruct(sim / "micrographs.star", tmp_path / "run", "--start", "autocorrelation", *more.split())
    assert is_refused(answer, "--start autocorrelation", *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("box", "voxel"), [(9, 6.0), (8, 5.0)])
def test_a_start_map_of_another_size_is_refused(reconstruct, sim, tmp_path, box, voxel):
    write_map(Map(torch.randn(box, box, box), voxel), tmp_path / "start.mrc")
    answer = reconstruct(sim / "micrographs.star", tmp_path / "run", "--start", tmp_path / "start.mrc")
    assert is_refused(answer, "start", "8 voxels of 6 A", f"{box} of {voxel:g} A")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_not_empty_is_refused_and_kept(reconstruct, sim, finished):
    before = files(finished)
    assert is_refused(reconstruct(sim / "micrographs.star", finished), "not empty", "--resume", "--overwrite")
    assert is_refused(reconstruct(sim / "micrographs.star", finished, "--seed", 5), "not empty")
    assert files(finished) == before


def test_an_empty_folder_is_taken(reconstruct, sim, done, tmp_path):
    (tmp_path / "run").mkdir()
    assert reconstruct(sim / "micrographs.star", tmp_path / "run")[0] == 0
    assert set(files(tmp_path / "run")) == RUN


@pytest.mark.parametrize("how", ["--resume", "--overwrite"])
def test_a_folder_in_which_another_process_runs_is_left_alone(reconstruct, command, sim, finished, how):
    before = files(finished)
    with alone(finished):
        assert is_refused(reconstruct(sim / "micrographs.star", finished, how), finished, "in use", "another folder")
        assert is_refused(command("verify", finished), finished, "in use")
    assert files(finished) == before
    assert reconstruct(sim / "micrographs.star", finished, how)[0] == 0


def test_a_folder_is_kept_to_one_process_and_a_new_one_leaves_no_trace(tmp_path):
    new = tmp_path / "a" / "b" / "new"
    with alone(new):
        assert fails(lambda: alone(new).__enter__(), "in use")
        with alone(new, ".other"):
            pass
        assert fails(lambda: alone(new).__enter__(), "in use")
    assert list(tmp_path.iterdir()) == []
    with alone(new):
        (new / "result.json").touch()
    assert files(tmp_path) == {"a/b/new/result.json": b""}


def test_a_file_that_a_dead_process_left_keeps_nobody_out(tmp_path, reconstruct, sim):
    run = tmp_path / "run"
    run.mkdir()
    (run / IN_USE).touch()
    assert reconstruct(sim / "micrographs.star", run)[0] == 0
    assert set(files(run)) == RUN


def test_two_processes_never_hold_one_folder_together(tmp_path):
    """One takes the folder, removes its file and lets go, again and again, while others try."""
    taken, held = [], threading.Lock()

    def take() -> None:
        for _ in range(200):
            try:
                with alone(tmp_path):
                    assert held.acquire(blocking=False), "two hold it"
                    taken.append(1)
                    held.release()
            except ValueError:
                pass

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) > 20 and not held.locked() and list(tmp_path.iterdir()) == []


def test_where_files_cannot_be_locked_a_run_goes_on(tmp_path, monkeypatch):
    def none(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    with alone(tmp_path / "run"):
        assert fails(lambda: alone(tmp_path / "run").__enter__(), "in use"), "where they can be"
    monkeypatch.setattr(fcntl, "flock", none)
    entered = []
    with alone(tmp_path / "run"):
        entered.append(files(tmp_path / "run"))
        with alone(tmp_path / "run"):
            entered.append(files(tmp_path / "run"))
    assert entered == [{}, {}], "both go on, and leave no file that locks nothing"
    assert list(tmp_path.iterdir()) == []


def test_overwrite_replaces_the_run_and_nothing_else(reconstruct, sim, finished):
    others = {"notes.txt": b"mine", "checkpoint/mine.txt": b"mine too", "micrographs/a.mrc": b"data", "truth.mrc": b"t"}
    (finished / "micrographs").mkdir()
    for name, data in others.items():
        (finished / name).write_bytes(data)
    before = files(finished)
    assert reconstruct(sim / "micrographs.star", finished, "--overwrite", "--seed", 5)[0] == 0
    after = files(finished)
    assert {name: after[name] for name in others} == others
    assert set(after) == set(before)
    assert after["volume.mrc"] != before["volume.mrc"]
    assert json.loads(after["result.json"])["seed"] == 5


def test_overwrite_in_the_folder_of_the_data_leaves_the_data_alone(reconstruct, sim, tmp_path):
    folder = shutil.copytree(sim, tmp_path / "sim")
    before = files(folder)
    assert reconstruct(folder / "micrographs.star", folder, "--overwrite")[0] == 0
    after = files(folder)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == RUN


def test_a_refusal_with_overwrite_loses_nothing(reconstruct, sim, finished):
    before = files(finished)
    assert is_refused(reconstruct(sim / "micrographs.star", finished, "--overwrite", "--voxel", 2), "voxel")
    assert is_refused(reconstruct(sim / "micrographs.star", finished, "--overwrite", job=["--box", "65"]), "--box 65")
    assert files(finished) == before


def test_resume_of_a_finished_run_ends_at_once_and_changes_nothing(reconstruct, sim, finished):
    before = files(finished)
    result = json.loads(before["result.json"])
    status, out, err = reconstruct(sim / "micrographs.star", finished, "--resume", "--json")
    assert (status, err) == (0, "") and json.loads(out) == result
    assert files(finished) == before


def test_resume_of_a_run_stopped_before_its_report_writes_the_report(reconstruct, sim, finished):
    (finished / "report.html").unlink()
    assert reconstruct(sim / "micrographs.star", finished, "--resume")[0] == 0
    assert "</html>" in (finished / "report.html").read_text()


def test_resume_without_a_checkpoint_starts_anew(reconstruct, sim, done, tmp_path):
    run = tmp_path / "run"
    assert reconstruct(sim / "micrographs.star", run, "--resume")[0] == 0  # no folder
    assert (run / "volume.mrc").read_bytes() == (done / "volume.mrc").read_bytes()
    for name in ("result.json", "volume.mrc", "report.html", "history.csv"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoint")
    assert reconstruct(sim / "micrographs.star", run, "--resume")[0] == 0  # no checkpoint
    assert (run / "volume.mrc").read_bytes() == (done / "volume.mrc").read_bytes()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--seed", "7"], "seed was 0, now 7"),
        (["--prior", "none"], "prior was 'wilson', now 'none'"),
        (["--contrast", "bright"], "contrast was 'dark', now 'bright'"),
        (["--voxel", "7"], "voxel was None, now 7.0"),
    ],
)
def test_resume_with_another_setting_is_refused_by_its_name(reconstruct, sim, finished, more, told):
    before = files(finished)
    assert is_refused(reconstruct(sim / "micrographs.star", finished, "--resume", *more), "--resume", told)
    assert files(finished) == before


def test_resume_with_other_settings_of_an_unfinished_run_keeps_its_checkpoint(reconstruct, sim, finished):
    (finished / "result.json").unlink()
    before = files(finished)
    job = [word if word != "2" else "3" for word in JOB]
    assert is_refused(
        reconstruct(sim / "micrographs.star", finished, "--resume", job=job), "iterations was [2], now [3]"
    )
    assert files(finished) == before


def test_in_place_of_a_damaged_checkpoint_the_one_before_is_taken_and_told(reconstruct, sim, done, finished):
    (finished / "result.json").unlink()
    path = finished / "checkpoint" / "stage-0" / "start-0.pt"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert reconstruct(sim / "micrographs.star", finished, "--resume", "--quiet") == (0, "", "")
    assert (finished / "volume.mrc").read_bytes() == (done / "volume.mrc").read_bytes()
    told = json.loads((finished / "result.json").read_text())["data"]["notes"]
    assert any("start-0.pt was damaged" in note for note in told)


def test_damaged_checkpoints_are_refused_by_the_name_of_the_file(reconstruct, sim, finished):
    (finished / "result.json").unlink()
    path = finished / "checkpoint" / "stage-0" / "start-0.pt"
    for one in (path, path.with_suffix(".pt.old")):
        one.write_bytes(one.read_bytes()[:200])
    before = files(finished)
    assert is_refused(
        reconstruct(sim / "micrographs.star", finished, "--resume", "--quiet"), str(path), "not a readable checkpoint"
    )
    assert files(finished) == before


def test_a_checkpoint_of_another_version_is_refused_and_kept(reconstruct, sim, finished):
    (finished / "result.json").unlink()
    path = finished / "checkpoint" / "stage-0" / "start-0.pt"
    for content in (b"PK\x03\x04", path.read_bytes().replace(b"checkpoint 2", b"checkpoint 3", 1)):
        path.write_bytes(content)
        answer = reconstruct(sim / "micrographs.star", finished, "--resume", "--quiet")
        assert is_refused(answer, path, "another version of unpicked", "--overwrite")
        assert path.read_bytes() == content


def test_a_run_killed_while_it_wrote_its_first_or_a_later_file_goes_on(reconstruct, sim, done, finished, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("settings.json.part", IN_USE):
        (run / name).write_text('{"fil')
    (finished / "result.json").unlink()
    (finished / ".123.volume.mrc").write_bytes(b"half")
    for folder in (run, finished):
        assert reconstruct(sim / "micrographs.star", folder, "--resume", "--quiet") == (0, "", "")
        assert set(files(folder)) == RUN
        assert (folder / "volume.mrc").read_bytes() == (done / "volume.mrc").read_bytes()


def started(sim, run):
    words = ["reconstruct", "micrographs", sim / "micrographs.star", "--out", run, *LONG, "--quiet"]
    return subprocess.Popen(
        [sys.executable, "-m", "unpicked", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def stopped(process, run, number, delay=0.0):
    """Wait for the first checkpoint, then a little, then send the signal; exit status, stdout, stderr."""
    while not list(run.glob("checkpoint/*/*.pt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(number)
    out, err = process.communicate()
    return process.returncode, out, err


@pytest.fixture(scope="module")
def uninterrupted(sim, tmp_path_factory):
    out = tmp_path_factory.mktemp("long") / "run"
    quietly("reconstruct", "micrographs", sim / "micrographs.star", "--out", out, *LONG)
    return out


def goes_on(reconstruct, sim, run, uninterrupted):
    """The resumed run equals the uninterrupted one in everything but times."""
    status, out, err = reconstruct(sim / "micrographs.star", run, "--resume", "--quiet", job=LONG)
    assert (status, out, err) == (0, "", "")
    assert (run / "volume.mrc").read_bytes() == (uninterrupted / "volume.mrc").read_bytes()
    a, b = (json.loads((folder / "result.json").read_text()) for folder in (run, uninterrupted))
    assert a["figures"] == b["figures"] and a["result"] == b["result"] and a["data"] == b["data"]
    histories = [(folder / "history.csv").read_text().splitlines() for folder in (run, uninterrupted)]
    a, b = ([line.rpartition(",")[0] for line in lines] for lines in histories)
    assert a == b and histories[0][0].endswith(",seconds")
    assert set(files(run)) == set(files(uninterrupted))


def test_a_killed_run_resumes_to_the_same_bytes(reconstruct, sim, uninterrupted, tmp_path):
    run = tmp_path / "run"
    assert stopped(started(sim, run), run, signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (run / "result.json").exists()
    goes_on(reconstruct, sim, run, uninterrupted)


def test_a_run_told_to_stop_says_so_in_one_line_and_resumes_to_the_same_bytes(
    reconstruct, sim, uninterrupted, tmp_path
):
    run = tmp_path / "run"
    status, out, err = stopped(started(sim, run), run, signal.SIGTERM)
    assert (status, out) == (3, "")
    assert re.fullmatch(r"unpicked: stopped.*--resume\n", err)
    assert not (run / "result.json").exists()
    goes_on(reconstruct, sim, run, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_run_killed_at_any_time_resumes_to_the_same_bytes(reconstruct, sim, uninterrupted, tmp_path, seed):
    run = tmp_path / "run"
    delay = random.Random(seed).uniform(0, 2)
    stopped(started(sim, run), run, signal.SIGKILL, delay)
    run_ended = (run / "result.json").exists()
    if run_ended:  # the machine was faster: the finished run must be whole, and stay
        assert (run / "volume.mrc").read_bytes() == (uninterrupted / "volume.mrc").read_bytes()
        return
    goes_on(reconstruct, sim, run, uninterrupted)


def test_a_run_stopped_again_and_again_ends_with_the_same_bytes(reconstruct, sim, uninterrupted, tmp_path, monkeypatch):
    """Round n is interrupted in-process after its n-th write of a file, until one is not."""
    run, replace, left, rounds = tmp_path / "run", os.replace, 0, 0

    def interrupted(*names):
        nonlocal left
        replace(*names)
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    status = 3
    while status == 3:
        rounds = left = rounds + 1
        status, _, err = reconstruct(sim / "micrographs.star", run, "--resume", "--quiet", job=LONG)
        assert rounds < 20 and status in (0, 3), err
    monkeypatch.undo()
    assert rounds > 3
    assert np.array_equal(read_map(run / "volume.mrc").values, read_map(uninterrupted / "volume.mrc").values)
    assert set(files(run)) == set(files(uninterrupted))


def test_halves_are_written_compared_and_told(reconstruct, sim, tmp_path):
    run = tmp_path / "run"
    status, _, err = reconstruct(sim / "micrographs.star", run, "--halves", "--quiet")
    assert (status, err) == (0, "")
    found = json.loads((run / "result.json").read_text())["figures"]["halves"]
    assert len(found["fsc"]) == 4 and not found["shared_start"]
    whole, first, second = (read_map(run / name).values for name in ("volume.mrc", "half1.mrc", "half2.mrc"))
    assert first.shape == second.shape == whole.shape
    assert not torch.equal(first, second) and not torch.equal(first, whole)
    assert "half maps" in (run / "report.html").read_text().lower()


def test_held_out_micrographs_judge(reconstruct, sim, tmp_path):
    run = tmp_path / "run"
    status, _, _ = reconstruct(sim / "micrographs.star", run, "--held-out", 1, "--quiet")
    assert status == 0
    result = json.loads((run / "result.json").read_text())
    assert result["figures"]["particles"] < 0.75 * (result["figures"]["density"] * 2 * 64 * 64 / 8**2)
    assert math.isfinite(result["figures"]["judge"])


@pytest.mark.parametrize(
    "more",
    [
        ("--likelihood", "window", "--solver", "lbfgs"),
        ("--likelihood", "patches-2l", "--solver", "squarem", "--density", "0.05"),
        ("--likelihood", "patches", "--march", "2", "--subpixel", "2"),
        ("--signed", "--support", "3.5", "--symmetry", "C2", "--prior", "ridge"),
        ("--object", "voxels", "--spacing", "arbitrary"),
    ],
    ids=" ".join,
)
def test_every_choice_runs_to_the_end(reconstruct, sim, tmp_path, more):
    status, _, err = reconstruct(sim / "micrographs.star", tmp_path / "run", *more, "--quiet")
    assert (status, err) == (0, "")
    figures = json.loads((tmp_path / "run" / "result.json").read_text())["figures"]
    assert figures["particles"] > 5 and figures["energy"] > 20


def test_the_prior_is_learned_between_stages(reconstruct, sim, tmp_path):
    """The run tells what it believed in the end, and how much of every shell the observed information holds."""
    job = "--box 8 --lmax 4 --no-verify --starts 1 --moves 0 --threads 1".split()
    two, one = "--views 12 24 --iterations 5 2".split(), "--views 12 --iterations 2".split()
    told = []
    for solver, stages in (("fisher", two), ("anderson", two), ("squarem", one)):
        run = tmp_path / solver
        status, _, err = reconstruct(sim / "micrographs.star", run, "--solver", solver, "--quiet", *stages, job=job)
        assert (status, err) == (0, "")
        result = json.loads((run / "result.json").read_text())
        (note,) = (note for note in result["data"]["notes"] if note.startswith("prior: a molecule with an envelope"))
        told.append(re.findall(r"[0-9.]+ voxels", note))
        assert note.endswith("assumed" if stages is one else "as the data suggest")
        assert result["figures"]["data_share_observed"] is (solver == "fisher")
        shares = result["figures"]["data_share"]
        assert len(shares) == 4 and all(0 <= share <= 1 for share in shares)
    assert told[2] == ["1.60 voxels", "0.70 voxels"]  # nothing was learned
    assert told[2] not in told[:2]


def test_overwrite_leaves_nothing_that_a_later_resume_could_take_for_its_own(reconstruct, sim, done, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(done, run)
    old = [run / "checkpoint" / place for place in ("stage-1/known.json", "half-1/rival-1/stage-1/start-0.pt")]
    old.append(run / "checkpoint" / "moments" / "starts.json")
    for path in old:
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    status, _, err = reconstruct(sim / "micrographs.star", run, "--quiet", "--overwrite")
    assert (status, err) == (0, "")
    assert not any(path.exists() for path in old)
    assert set(files(run)) == RUN


def test_several_starts_go_through_all_stages(reconstruct, sim, tmp_path):
    run = tmp_path / "run"
    job = [*LONG[:-9], "--iterations", "4", "3", "--starts", "3", "--refined", "2", "--moves", "0", "--threads", "1"]
    status, _, err = reconstruct(sim / "micrographs.star", run, "--quiet", job=job)
    assert (status, err) == (0, "")
    assert {"checkpoint/stage-1/start-0.pt", "checkpoint/rival-1/stage-1/start-0.pt"} <= set(files(run))
    assert "checkpoint/rival-1/stage-0/start-0.pt" not in files(run)
    (note,) = (note for note in json.loads((run / "result.json").read_text())["data"]["notes"] if "refined" in note)
    assert re.match(r"2 refined starts ended at objectives [-0-9.]+, [-0-9.]+; ", note)
    with open(run / "history.csv") as file:
        names = {row["run"] for row in csv.DictReader(file)}
    assert {"stage-1 start-0", "rival-1 stage-1 start-0"} < names
    again, _, err = reconstruct(
        sim / "micrographs.star", tmp_path / "no", "--quiet", job=[*job[:10], "2", "--refined", "5"]
    )
    assert again == 2 and "--refined must lie between 1 and --starts" in err


def test_scoring_of_too_many_coefficients_is_refused_in_one_line(reconstruct, sim, tmp_path):
    job = ["--box", "13", "--object", "voxels", *JOB[4:]]
    status, _, err = reconstruct(sim / "micrographs.star", tmp_path / "run", "--solver", "fisher", "--quiet", job=job)
    assert status == 2 and "--solver fisher needs at most" in err and err.count("\n") == 1


def test_the_smallest_box_runs(reconstruct, sim, tmp_path):
    job = ["--box", "4", *JOB[2:]]
    status, _, err = reconstruct(sim / "micrographs.star", tmp_path / "run", "--quiet", job=job)
    assert (status, err) == (0, "")
    assert read_map(tmp_path / "run" / "volume.mrc").box == 4


def test_what_a_stage_was_told_is_read_back_to_the_last_bit(tmp_path):
    """Else another number of threads, whose sums round otherwise, could not go on with a run."""
    told = Known(1 / 3, 0.1 + 0.2, Wilson(1 / 7, 2.2000000000000006, 0.7, 1.0))
    assert kept(tmp_path / "stage-0", False, lambda: told) == told
    other = Known(1.0, 2.0)
    assert kept(tmp_path / "stage-0", True, lambda: other) == told
    assert kept(tmp_path / "stage-1", True, lambda: other) == other
    assert kept(tmp_path / "stage-0", False, lambda: other) == other == kept(tmp_path / "stage-0", True, lambda: told)
    assert kept(None, True, lambda: told) == told
    path = tmp_path / "stage-0" / "known.json"
    whole = path.read_text()
    for text, reason in (
        ("{", "not a readable checkpoint"),
        (whole.replace("1.0", "1.5"), "not a readable checkpoint"),
        ('{"power": 1, "energy": 2, "wilson": null}', "another version"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=reason):
            kept(tmp_path / "stage-0", True, lambda: told)


def test_a_run_goes_on_with_another_number_of_threads(reconstruct, sim, tmp_path):
    for threads, more in (("1", ()), ("2", ("--resume",))):
        job = [*JOB[:-1], threads]
        status, _, err = reconstruct(sim / "micrographs.star", tmp_path / "run", "--quiet", *more, job=job)
        assert (status, err) == (0, "")
        (tmp_path / "run" / "result.json").unlink()


def test_views_are_planned_smaller_where_memory_is_short(monkeypatch):
    from unpicked.recipes import parts

    monkeypatch.setattr(parts, "free_memory", lambda: 2 * 64 * 121 * 500.0)
    job = MicrographJob(box=11, views=(100, 1000), iterations=(2, 2), solver="anderson")
    object = parts.volume(job)[0]
    assert parts.affordable(job, object) == ((100, 500), [
        "views lowered to (100, 500): 0.0 GB of memory are free"
    ])  # fmt: skip
    assert parts.affordable(replace(job, views=(100, 500)), object) == ((100, 500), [])
    # scores need room of their own
    assert parts.affordable(replace(job, solver="fisher"), object)[0] == (16, 16)
    # what was not given might become 1600 in the second stage
    job = replace(job, views=())
    assert parts.affordable(job, object)[0] == (100, 400)
    monkeypatch.setattr(parts, "free_memory", lambda: 2 * 64 * 121 * 1600.0)
    assert parts.affordable(job, object) == ((), [])
    assert parts.affordable(job, object, filtered=True)[0] == (100, 320)


def test_views_grow_with_the_stage_and_where_particles_stand_out():
    from unpicked.recipes import parts
    from unpicked.recipes.known import Known

    faint, clear = Known(1.0, 0.5 * parts.FAINT), Known(1.0, 2 * parts.FAINT)
    job = MicrographJob(box=11)
    assert [parts.views(job, stage, faint) for stage in range(3)] == [100, 400, 1600]
    assert [parts.views(job, stage, clear) for stage in range(3)] == [100, 400, 6400]
    given = replace(job, views=(7, 8, 9))
    assert [parts.views(given, stage, clear) for stage in range(3)] == [7, 8, 9]
    assert parts.views(replace(job, iterations=(4,)), 0, clear) == 100, "the only stage is for the random starts"


DENOISERS = """
import torch

def half(values):
    return values.numpy() / 2

def flat(values):
    return values.sum(0)

def broken(values):
    raise RuntimeError("no weights")
"""


@pytest.mark.slow
def test_a_denoiser_of_the_user_is_believed_and_its_share_of_the_map_told(reconstruct, sim, tmp_path):
    (tmp_path / "mine.py").write_text(DENOISERS)
    options = ("--denoiser", f"{tmp_path / 'mine.py'}:half", "--prior", "none", "--denoiser-noise")
    norms = []
    for noise in ("0.001", "10"):
        status, _, _ = reconstruct(sim / "micrographs.star", tmp_path / noise, *options, noise)
        assert status == 0
        result = json.loads((tmp_path / noise / "result.json").read_text())
        share = result["figures"]["data_share"]
        assert result["figures"]["data_share_kind"] == "response" and len(share) == 4
        assert any("mine.py:half" in note for note in result["data"]["notes"])
        assert max(share[1:]) < 0.5 if noise == "0.001" else min(share[1:3]) > 0.5
        assert "small change in what the data say" in (tmp_path / noise / "report.html").read_text()
        norms.append(float(read_map(tmp_path / noise / "volume.mrc").values.norm()))
    assert norms[0] < norms[1]  # half of it is taken for noise


def test_given_structures_are_believed_and_told(reconstruct, command, sim, tmp_path):
    truth = read_map(sim / "truth.mrc")
    for number in (1, 2):
        write_map(Map(truth.values.roll(number, 0) + truth.values, truth.voxel_size), tmp_path / f"{number}.mrc")
    given = ("--structures", str(tmp_path / "1.mrc"), str(tmp_path / "2.mrc"))
    status, _, _ = reconstruct(sim / "micrographs.star", tmp_path / "run", *given)
    assert status == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert any("a conformation of 2 given structures" in note for note in result["data"]["notes"])
    assert result["settings"]["structures"] == list(given[1:])
    assert str(tmp_path / "1.mrc") in " ".join(
        json.loads((tmp_path / "run" / "settings.json").read_text())["data_files"]
    )
    write_map(truth, tmp_path / "2.mrc", overwrite=True)
    told = command("verify", tmp_path / "run", "--surrogates", 0, "--starts", 1, "--threads", 1)
    assert is_refused(told, "2.mrc", "was changed")
    wrong = reconstruct(sim / "micrographs.star", tmp_path / "wrong", *given[:2])
    assert is_refused(wrong, "--structures", "at least two files")
    assert is_refused(reconstruct(sim / "micrographs.star", tmp_path / "wrong", *given[:2], "no.pdb"), "no.pdb")
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("half", ("FILE.py:FUNCTION", "'half'")),
        ("no.py:half", ("no.py", "not found")),
        ("mine.py:none", ("no function none",)),
        ("mine.py:broken", ("RuntimeError: no weights",)),
        ("mine.py:flat", ("(8, 8, 8)", "(8, 8)")),
        ("no_such_module:half", ("no_such_module", "ModuleNotFoundError")),
        ("syntax.py:half", ("syntax.py", "SyntaxError")),
    ],
)
def test_a_denoiser_that_cannot_be_used_is_refused_before_a_folder_is_made(
    reconstruct, sim, tmp_path, monkeypatch, name, words
):
    (tmp_path / "mine.py").write_text(DENOISERS)
    (tmp_path / "syntax.py").write_text("def half(values:\n")
    monkeypatch.chdir(tmp_path)
    assert is_refused(reconstruct(sim / "micrographs.star", tmp_path / "run", "--denoiser", name), "--denoiser", *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("spoil", "told"), [(Path.unlink, "has gone"), (Path.touch, "was changed")])
def test_a_file_that_goes_or_changes_under_a_run_is_told_and_loses_nothing(
    reconstruct, sim, done, tmp_path, monkeypatch, spoil, told
):
    data = shutil.copytree(sim / "micrographs", tmp_path / "data")
    path = sorted(data.iterdir())[-1]
    kept = shutil.copy2(path, tmp_path / path.name)
    update = EM.update

    def spoiled(*given):
        spoil(path)
        return update(*given)

    with monkeypatch.context() as patch:
        patch.setattr("unpicked.recipes.micrographs.prepare", partial(prepare, keep=False))
        patch.setattr(EM, "update", spoiled)
        assert is_refused(reconstruct(data, tmp_path / "run", "--quiet"), path, told, "put ")
    assert not (tmp_path / "run" / "result.json").exists()
    shutil.copy2(kept, path)
    assert reconstruct(data, tmp_path / "run", "--quiet", "--resume") == (0, "", "")
    assert np.array_equal(read_map(tmp_path / "run" / "volume.mrc").values, read_map(done / "volume.mrc").values)


def test_of_many_files_the_one_that_changed_is_named(reconstruct, sim, finished, tmp_path):
    (finished / "result.json").unlink()
    path = finished / "settings.json"
    held = json.loads(path.read_text())
    first, second = held["data_files"][-2:]
    path.write_text(json.dumps({**held, "data_files": [*held["data_files"][:-1], f"{second}9"]}))
    answer = reconstruct(sim / "micrographs.star", finished, "--resume")
    assert is_refused(answer, f"data_files was '{second}9', now '{second}'") and first not in answer[2]
    path.write_text(json.dumps({**held, "data_files": held["data_files"][:-1]}))
    assert is_refused(reconstruct(sim / "micrographs.star", finished, "--resume"), "data_files had 2 entries, now 3")
