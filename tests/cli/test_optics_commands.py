"""Micrographs through contrast transfer and in coloured noise, from the command line; and picking in them."""

from __future__ import annotations

import json

import pytest
import torch

from answers import answered, is_refused, quick
from unpicked.cli.verdicts import trial_of
from unpicked.data.gains import Gains
from unpicked.io.micrographs import read_micrographs
from unpicked.io.picks import read_picks
from unpicked.io.star_layouts import read_particles_positions

SMALL = ["--box", "7", "--voxel", "6", "--size", "128", "--count", "2", "--seed", "3", "--density", "0.1"]
SCOPE = ["--ctf", "--defocus", "6000", "12000", "--astigmatism", "500"]
COUNTED = ["--box", "7", "--voxel", "6", "--size", "256", "--count", "1", "--density", "0.1"]
FEW = quick(box=7, lmax=6, views=40)


@pytest.fixture(scope="module")
def sim(tmp_path_factory, bpti_path):
    folder = tmp_path_factory.mktemp("optics") / "sim"
    status = _main("simulate", "micrographs", "--out", folder, "--structure", bpti_path, *SMALL, *SCOPE,
                   "--noise", "coloured", "--energy", "300", "--quiet")  # fmt: skip
    assert status == 0
    return folder


@pytest.fixture(scope="module")
def bpti_path(request):
    return request.config.rootpath / "src" / "unpicked" / "simulate" / "5pti.cif"


@pytest.fixture(scope="module")
def done(tmp_path_factory, sim):
    folder = tmp_path_factory.mktemp("optics-run") / "run"
    assert (
        _main("reconstruct", "micrographs", sim / "micrographs.star", *FEW, "--out", folder, "--no-verify", "--quiet")
        == 0
    )
    return folder


def _main(*words: object) -> int:
    from unpicked.cli import main

    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return int(caught.value.code or 0)


def test_the_files_state_what_was_simulated(sim):
    data = read_micrographs(sim / "micrographs.star")
    truth = json.loads((sim / "truth.json").read_text())
    assert data.optics is not None and len(data.optics) == 2
    assert truth["noise"] == "coloured" and truth["ctf"]["groups"] == 2
    assert truth["ctf"]["astigmatism"] == pytest.approx(500)
    assert truth["ctf"]["defocus"] == pytest.approx(
        [min(*data.optics.defocus_u, *data.optics.defocus_v), max(*data.optics.defocus_u, *data.optics.defocus_v)]
    )
    assert truth["energy"] == pytest.approx(300)


def test_the_run_tells_how_transfer_and_noise_entered(done):
    result = json.loads((done / "result.json").read_text())
    notes = " ".join(result["data"]["notes"])
    assert "contrast transfer modelled: 2 settings" in notes and "whitened" in notes
    whitening = json.loads((done / "whitening.json").read_text())
    assert len(whitening["group"]) == 2 and min(min(curve) for curve in whitening["curves"]) > 0
    assert "ontrast transfer modelled" in (done / "report.html").read_text()


def test_a_verdict_is_judged_on_the_data_as_they_were_whitened(done, capsys):
    status, out, _ = answered(capsys, "verify", done, "--surrogates", "0", "--starts", "1", "--json")
    assert status == 0 and json.loads(out.splitlines()[-1])["verdict"]
    kept = (done / "whitening.json").read_text()
    (done / "whitening.json").write_text(kept[: len(kept) // 2])
    try:
        assert is_refused(answered(capsys, "verify", done, "--quiet"), "whitening.json", "damaged")
        (done / "whitening.json").unlink()
        assert is_refused(answered(capsys, "verify", done, "--quiet"), "whitening.json", "gone", "--overwrite")
    finally:
        (done / "whitening.json").write_text(kept)


def test_transfer_can_be_left_out_and_noise_taken_for_white(sim, tmp_path, capsys):
    words = ["--ignore-ctf", "--noise", "white", "--no-verify", "--quiet"]
    status, _, _ = answered(
        capsys, "reconstruct", "micrographs", sim / "micrographs.star", *FEW, "--out", tmp_path / "run", *words
    )
    notes = " ".join(json.loads((tmp_path / "run" / "result.json").read_text())["data"]["notes"])
    assert status == 0 and "contrast transfer left out" in notes
    assert not (tmp_path / "run" / "whitening.json").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--likelihood", "patches"], "--likelihood gas"),
        (["--sigma", "1"], "--noise white"),
    ],
)
def test_what_cannot_go_together_is_refused(sim, tmp_path, capsys, more, told):
    answer = answered(
        capsys, "reconstruct", "micrographs", sim / "micrographs.star", *FEW, *more, "--out", tmp_path / "run"
    )
    assert is_refused(answer, told) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--noise", "pink"], "ar:A"),
        (["--noise", "missing.mrc"], "missing.mrc"),
        (["--defocus", "5000", "9000"], "--ctf"),
        (["--ctf", "--defocus", "9000", "5000"], "least and the largest"),
        (["--ctf", "--ctf-groups", "5"], "ctf_groups"),
    ],
)
def test_simulation_refuses_what_makes_no_sense(bpti_path, tmp_path, capsys, more, told):
    answer = answered(
        capsys, "simulate", "micrographs", "--out", tmp_path / "sim", "--structure", bpti_path, *SMALL, "--energy", "9",
        *more,
    )  # fmt: skip
    assert is_refused(answer, told) and not (tmp_path / "sim").exists()


def test_a_file_lends_its_spectrum(sim, bpti_path, tmp_path, capsys):
    file = next((sim / "micrographs").glob("*.mrc"))
    words = ["--structure", bpti_path, *SMALL, "--energy", "50", "--noise", file, "--quiet"]
    assert answered(capsys, "simulate", "micrographs", "--out", tmp_path / "sim", *words)[0] == 0
    assert file.name in json.loads((tmp_path / "sim" / "truth.json").read_text())["noise"]


def test_picks_are_found_with_their_poses(sim, tmp_path, capsys):
    picks = tmp_path / "picks.star"
    status, out, _ = answered(
        capsys, "pick", sim / "truth.mrc", sim / "micrographs.star", "--views", "200", "--out", picks, "--json"
    )
    told = json.loads(out.splitlines()[-1])
    names, places, rotations = read_particles_positions(picks)
    assert status == 0 and told["count"] == len(names) == len(rotations)
    assert torch.allclose(rotations @ rotations.mT, torch.eye(3, dtype=rotations.dtype), atol=1e-5)
    read = read_picks(picks)
    assert read.scores is not None and all((scores >= 0.5).all() for scores in read.scores.values())
    status, out, _ = answered(capsys, "compare-picks", picks, sim / "truth.star", "--json")
    found = json.loads(out.splitlines()[-1])
    assert found["precision"] >= 0.9 and found["recall"] >= 0.9
    assert places.shape[1] == 2
    assert is_refused(
        answered(capsys, "pick", sim / "truth.mrc", sim / "micrographs.star", "--out", picks), "--overwrite"
    )


def test_picks_tell_from_where_particles_are_seen(sim, tmp_path, capsys):
    words = ["pick", sim / "truth.mrc", sim / "micrographs.star", "--views", "40", "--view-distribution", "estimated"]
    status, out, _ = answered(capsys, *words, "--out", tmp_path / "picks.star", "--json")
    views = json.loads(out.splitlines()[-1])["views"]
    assert status == 0 and 0.5 < views["share"] <= 1 and len(views["axis"]) == 3, "simulated from all sides alike"


@pytest.mark.parametrize(
    ("more", "told"),
    [(["--least", "1.5"], "--least"), (["--views", "0"], "--views"), (["--density", "2"], "--density")],
)
def test_picking_refuses_what_makes_no_sense(sim, tmp_path, capsys, more, told):
    picks = tmp_path / "picks.star"
    answer = answered(capsys, "pick", sim / "truth.mrc", sim / "micrographs.star", "--out", picks, "--quiet", *more)
    assert answer[0] == 2 and told in answer[2] and not picks.exists()


def test_picks_do_not_replace_the_list_they_are_picked_from(sim, tmp_path, capsys):
    listed = tmp_path / "micrographs.star"
    listed.write_bytes((sim / "micrographs.star").read_bytes())
    answer = answered(capsys, "pick", sim / "truth.mrc", listed, "--out", listed, "--overwrite")
    assert is_refused(answer, "--out", "micrographs.star", "another name")
    assert listed.read_bytes() == (sim / "micrographs.star").read_bytes()


@pytest.fixture
def asked(monkeypatch):
    """What picking is asked for, without picking."""
    calls = []

    def stopped(data, map, job, **settings):
        calls.append((data, job, settings["gains"]))
        raise ValueError("stopped here")

    monkeypatch.setattr("unpicked.recipes.picks.pick_from_map", stopped)
    return calls


def test_a_run_picks_as_it_was_made(done, sim, tmp_path, capsys, asked):
    pick, out = ["pick", done], ["--out", tmp_path / "picks.star"]
    files = sorted((sim / "micrographs").glob("*.mrc"))
    kept = (done / "whitening.json").read_text()
    gains = Gains.of_json(json.loads(kept))
    answered(capsys, *pick, sim / "micrographs.star", *out)
    assert asked[-1][2] == gains and asked[-1][1].coloured(optics=True)
    answered(capsys, *pick, files[1], *out, "--noise", "coloured")  # one of the run's, by another way
    assert asked[-1][2] == gains.part([1])
    answered(capsys, *pick, sim / "micrographs.star", *out, "--noise", "white", "--spacing", "arbitrary")
    assert asked[-1][2] is None and asked[-1][1].spacing == "arbitrary"
    copy = tmp_path / "other.mrc"
    copy.write_bytes(files[0].read_bytes())
    _, said, _ = answered(capsys, *pick, files[0], copy, *out, "--noise", "coloured")
    assert asked[-1][2] is None and "1 of 2 micrographs are not those of the run" in said
    (done / "whitening.json").unlink()
    try:
        _, said, _ = answered(capsys, *pick, sim / "micrographs.star", *out)
        assert asked[-1][2] is None and "whitening.json is not there" in said
    finally:
        (done / "whitening.json").write_text(kept)


def test_settings_of_a_run_are_those_of_its_picks(sim, tmp_path, capsys, asked):
    run, pick = tmp_path / "run", ["pick", tmp_path / "run", sim / "micrographs.star", "--out", tmp_path / "p.star"]
    words = ["--ignore-ctf", "--noise", "white", "--spacing", "arbitrary", "--contrast", "bright", "--no-verify"]
    words += ["--view-distribution", "estimated"]
    few = ["--box", "7", "--lmax", "3", "--views", "8", "--iterations", "1", "--starts", "1", "--moves", "0"]
    made = answered(capsys, "reconstruct", "micrographs", sim / "micrographs.star", *few, *words, "--out", run)
    assert made[0] == 0, made[2]
    bright = read_micrographs(sim / "micrographs.star", contrast="bright")
    assert is_refused(answered(capsys, *pick, "--quiet"), "stopped here")
    data, job, gains = asked[-1]
    assert (job.ignore_ctf, job.noise, job.spacing, gains) == (True, "white", "arbitrary", None)
    assert job.view_distribution == "estimated"
    answered(capsys, *pick, "--view-distribution", "uniform")
    assert asked[-1][1].view_distribution == "uniform"
    answered(capsys, *pick)
    assert torch.equal(data[0], bright[0])
    answered(capsys, *pick, "--contrast", "dark", "--noise", "coloured")
    assert torch.equal(asked[-1][0][0], -bright[0]) and asked[-1][1].noise == "coloured"
    summary = json.loads((run / "result.json").read_text())  # as a version wrote it that knew neither
    for name in ("ignore_ctf", "noise"):
        del summary["settings"][name]
    (run / "result.json").write_text(json.dumps(summary))
    answered(capsys, *pick)
    assert (asked[-1][1].ignore_ctf, asked[-1][1].noise) == (True, "white")
    trial = trial_of(run, summary, summary["settings"], "cpu")()  # a verdict misses no whitening.json
    assert trial.data.micrographs.optics is None and trial.data.micrographs.gains is None
    summary["data"]["kind"] = "image"
    (run / "result.json").write_text(json.dumps(summary))
    assert is_refused(answered(capsys, *pick, "--quiet"), "on image")


def test_electrons_are_counted(bpti_path, tmp_path, capsys):
    words = ["--structure", bpti_path, *COUNTED]
    status, out, _ = answered(
        capsys, "simulate", "micrographs", "--out", tmp_path / "sim", *words, "--physical", "--pixel", "3", "--json"
    )
    truth = json.loads(out.splitlines()[-1])
    assert status == 0 and truth["noise"] == "electrons and ice"
    assert (truth["voxel_size"], truth["box"], truth["pixel_size"]) == (6.0, 7, 3.0)
    data = read_micrographs(tmp_path / "sim" / "micrographs.star", contrast="bright")
    assert data.pixel_size == 3.0 and data.optics is not None
    assert float(data[0].mean()) == pytest.approx(50 * 0.6 * 9, rel=0.01)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--physical", "--energy", "5"], "--energy"),
        (["--physical", "--noise", "1/f"], "--noise"),
        (["--physical", "--pixel", "5"], "--pixel"),
        (["--physical", "--dose", "-5"], "dose"),
        (["--energy", "5", "--dose", "20"], "--physical"),
    ],
)
def test_electrons_cannot_be_counted_so(bpti_path, tmp_path, capsys, more, told):
    words = ["--structure", bpti_path, *COUNTED]
    answer = answered(capsys, "simulate", "micrographs", "--out", tmp_path / "sim", *words, *more)
    assert is_refused(answer, told) and not (tmp_path / "sim").exists()


def test_picking_refuses_a_folder_that_is_not_there_before_it_begins(sim, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("unpicked.recipes.picks.fit_scale", lambda *_, **__: pytest.fail("it began"))
    answer = answered(capsys, "pick", sim / "truth.mrc", sim / "micrographs.star", "--out", tmp_path / "no" / "p.star")
    assert is_refused(answer, "does not exist")
