"""``unpicked reconstruct particles``: from a stack to a run folder, on after a stop, and what it refuses."""

import csv
import json
import math
import shutil
from functools import partial
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

import unpicked
from answers import answered, is_refused
from unpicked.cli import main
from unpicked.cli.stacks import compared
from unpicked.data.maps import Map
from unpicked.io.mrc import read_header, read_map, write_map, write_stack
from unpicked.io.particle_files import SPREAD
from unpicked.io.particles import read_particles
from unpicked.io.poses import read_poses
from unpicked.io.star import read_star, write_star

JOB = ("--no-verify", "--rounds", 1, "--starts", 1, "--threads", 1)
BOX, VOXEL, COUNT = 24, 2.0, 100
PROTEIN = Path(unpicked.__file__).parent / "simulate" / "5pti.cif"
RUN = {"volume.mrc", "mask.mrc", "particles.star", "result.json", "settings.json", "history.csv", "report.html"}


@pytest.fixture
def command(capsys):
    """Run a command; the exit status, standard output, and standard error."""

    return partial(answered, capsys)


@pytest.fixture
def reconstruct(command):
    def run(file, out, *more):
        return command("reconstruct", "particles", file, "--out", out, *JOB, *more)

    return run


def quietly(*words):
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in (*words, "--quiet")])
    assert caught.value.code == 0


@pytest.fixture(scope="module")
def sim(tmp_path_factory):
    """A stack of a small protein, shared by all tests: never write there."""
    out = tmp_path_factory.mktemp("data") / "sim"
    size = ("--box", BOX, "--voxel", VOXEL, "--count", COUNT)
    quietly("simulate", "particles", "--out", out, "--structure", PROTEIN, *size, "--energy", 3000, "--seed", 3)
    return out


@pytest.fixture(scope="module")
def done(sim, tmp_path_factory):
    """The finished small job on it, with half maps: never write there."""
    out = tmp_path_factory.mktemp("runs") / "run"
    truth = ("--truth", sim / "truth.mrc")
    quietly("reconstruct", "particles", sim / "particles.star", "--out", out, *JOB, "--halves", *truth)
    return out


@pytest.fixture
def bare(sim, tmp_path):
    """The images alone, in a file that does not say how large its pixels are."""
    images = read_particles(sim / "particles.star").images()
    write_stack(images, tmp_path / "bare.mrcs", 1.0)
    with mrcfile.open(tmp_path / "bare.mrcs", "r+") as file:
        file.voxel_size = 0.0
    return tmp_path / "bare.mrcs"


def table(path):
    return read_star(path)["particles"]


def top(path):
    """What lies in a run folder, without the checkpoint."""
    return {item.name for item in path.iterdir() if item.is_file()}


def test_the_run_folder_holds_the_named_outputs_and_nothing_else(done):
    assert top(done) == RUN | {"half1.mrc", "half2.mrc"}
    assert {item.name for item in done.iterdir() if item.is_dir()} == {"checkpoint"}


def test_the_mask_serves_the_halves(done, command):
    mask, map = read_map(done / "mask.mrc"), read_map(done / "volume.mrc")
    assert (mask.box, mask.voxel_size) == (map.box, map.voxel_size)
    assert mask.values.min() >= 0 and mask.values.max() == 1
    status, out, err = command("halves", done / "half1.mrc", done / "half2.mrc", "--mask", done / "mask.mrc", "--json")
    assert status == 0, err
    assert json.loads(out.splitlines()[-1])["fsc_corrected"]


def test_every_row_of_the_input_comes_back_in_its_order_with_a_pose_and_its_spread(sim, done):
    given, found = table(sim / "particles.star"), table(done / "particles.star")
    numbers = [name.partition("@")[0] for name in given.strings("rlnImageName")]
    assert [name.partition("@")[0] for name in found.strings("rlnImageName")] == numbers
    assert len(numbers) == COUNT and set(given.names) <= set(found.names)
    names, poses = read_poses(done / "particles.star")
    assert names == found.strings("rlnImageName")
    identity = poses.rotations @ poses.rotations.mT
    assert torch.allclose(identity, torch.eye(3, dtype=identity.dtype).expand_as(identity), atol=1e-6)
    directions = poses.rotations[:, 2]
    assert len(directions.round(decimals=3).unique(dim=0)) > 0.9 * COUNT, "every image has a view of its own"
    spread = [float(value) for value in found.strings(SPREAD)]
    assert all(0 < value <= 180 for value in spread)
    figures = json.loads((done / "result.json").read_text())["figures"]
    assert np.median(spread) == pytest.approx(figures["pose_spread_deg"], rel=0.02)


def test_the_poses_file_is_a_stack_that_can_be_read_again(sim, done):
    again, given = read_particles(done / "particles.star"), read_particles(sim / "particles.star")
    assert again.poses is not None and (len(again), again.pixel_size) == (COUNT, VOXEL)
    assert torch.equal(again.images([0, 57]), given.images([0, 57]))


def test_the_volume_has_the_box_and_the_voxel_of_the_data_in_its_grey_values(sim, done):
    found, truth = read_map(done / "volume.mrc"), read_map(sim / "truth.mrc")
    assert found.box == BOX and found.voxel_size == pytest.approx(VOXEL, rel=1e-6)
    assert read_header(done / "volume.mrc").kind.startswith("a volume")
    assert 0.5 < float(found.values.norm() / truth.values.norm()) < 2


def test_the_result_has_every_key_of_the_contract(sim, done):
    result = json.loads((done / "result.json").read_text(), parse_constant=pytest.fail)
    assert {"command", "settings", "version", "seed", "data", "result", "verdict", "figures", "seconds",
            "peak_memory_mb"} <= set(result)  # fmt: skip
    assert result["command"].startswith("unpicked reconstruct particles ")
    assert result["verdict"] == "not verified"
    settings = {"method": "auto", "max_shift": 0.0, "voxel": None, "starts": 1, "rounds": 1, "halves": True, "seed": 0}
    assert settings.items() <= result["settings"].items()
    data = {"kind": "particles", "images": COUNT, "box": BOX, "pixel_size": pytest.approx(VOXEL)}
    assert data.items() <= {key: result["data"][key] for key in data}.items()
    figures = result["figures"]
    assert {"sigma", "log_likelihood", "energy", "particles", "pose_spread_deg", "halves", "compare"} <= set(figures)
    assert all(math.isfinite(figures[name]) for name in ("sigma", "log_likelihood", "energy", "pose_spread_deg"))
    assert figures["compare"]["correlation"] > 0.5
    assert len(figures["halves"]["fsc"]) == BOX // 2 and figures["halves"]["shared_start"] is False
    assert result["seconds"] > 0 and result["peak_memory_mb"] > 10


def test_the_history_has_the_search_and_the_refinement_of_the_whole_and_of_both_halves(done):
    with open(done / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    runs = list(dict.fromkeys(row["run"] for row in rows))
    stages = ["search-0", f"refine-{BOX}"]
    wanted = [f"{prefix}{stage} start-0" for prefix in ("", "half-1-", "half-2-") for stage in stages]
    assert runs == wanted
    for row in rows:
        assert all(math.isfinite(float(row[name])) for name in ("step", "log_likelihood", "energy", "sigma", "seconds"))
    last = [row for row in rows if row["run"] == f"refine-{BOX} start-0"][-1]
    assert 0 < float(last["spread"]) < 180 and 0 <= float(last["rescued"]) <= 1
    halves = [float(row["images"]) for row in rows if row["run"].startswith("half-") and "refine" in row["run"]]
    assert sum(halves) == COUNT


def test_the_half_maps_lie_on_the_grid_of_the_map(done):
    whole = read_map(done / "volume.mrc")
    halves = [read_map(done / f"half{number}.mrc") for number in (1, 2)]
    assert all((half.box, half.voxel_size) == (whole.box, whole.voxel_size) for half in halves)
    assert not torch.equal(halves[0].values, halves[1].values)


def test_a_finished_run_is_resumed_at_once_and_only_with_its_settings(sim, done, tmp_path, reconstruct):
    run = shutil.copytree(done, tmp_path / "run")
    before = {name: (run / name).read_bytes() for name in RUN}
    status, out, err = reconstruct(sim / "particles.star", run, "--halves", "--resume")
    assert status == 0 and "finished run" in err + out
    assert {name: (run / name).read_bytes() for name in RUN} == before
    again = reconstruct(sim / "particles.star", run, "--halves", "--resume", "--max-shift", 3)
    assert is_refused(again, "--resume", "max_shift was 0.0, now 3.0")


def test_known_poses_give_the_map_and_come_back_unchanged(sim, tmp_path, reconstruct):
    poses = ("--method", "known", "--poses", sim / "truth.star")
    status, out, err = reconstruct(
        sim / "particles.star", tmp_path / "run", *poses, "--truth", sim / "truth.mrc", "--json"
    )
    assert status == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["figures"]["compare"]["correlation"] > 0.9 and result["figures"]["compare"]["hand"] == "same"
    truth, found = (read_poses(path)[1] for path in (sim / "truth.star", tmp_path / "run" / "particles.star"))
    assert torch.allclose(truth.rotations, found.rotations, atol=1e-6)


def test_known_poses_are_matched_by_name_not_by_row(sim, tmp_path, reconstruct):
    truth = read_star(sim / "truth.star")
    rows = truth["particles"]
    backwards = type(rows)(rows.names, tuple(tuple(reversed(column)) for column in rows.columns), rows.source)
    shutil.copy(sim / "particles.mrcs", tmp_path / "particles.mrcs")
    write_star(tmp_path / "backwards.star", {**truth, "particles": backwards})
    run = ("--method", "known", "--poses", tmp_path / "backwards.star")
    assert reconstruct(sim / "particles.star", tmp_path / "run", *run)[0] == 0
    wanted, found = (read_poses(path)[1] for path in (sim / "truth.star", tmp_path / "run" / "particles.star"))
    assert torch.allclose(wanted.rotations, found.rotations, atol=1e-6)


def test_a_coarser_voxel_crops_the_images_and_leaves_the_rows_as_they_were(sim, tmp_path, reconstruct):
    run = ("--method", "known", "--poses", sim / "truth.star", "--voxel", BOX * VOXEL / 16)
    assert reconstruct(sim / "particles.star", tmp_path / "run", *run)[0] == 0
    found = read_map(tmp_path / "run" / "volume.mrc")
    assert found.box == 16 and found.voxel_size == pytest.approx(BOX * VOXEL / 16, rel=1e-6)
    again = read_particles(tmp_path / "run" / "particles.star")
    assert (again.box, len(again)) == (BOX, COUNT) and again.pixel_size == pytest.approx(VOXEL)


def test_a_bare_stack_takes_its_pixel_size_from_voxel_and_is_not_cropped(bare, done, tmp_path, reconstruct):
    out = tmp_path / "run"
    assert is_refused(reconstruct(bare, out), "bare.mrcs", "no pixel size", "--voxel")
    assert not out.exists()
    assert reconstruct(bare, out, "--voxel", VOXEL)[0] == 0
    found, wanted = read_map(out / "volume.mrc"), read_map(done / "volume.mrc")
    assert found.box == BOX and found.voxel_size == pytest.approx(VOXEL, rel=1e-6)
    assert torch.equal(found.values, wanted.values), "the same images give the same map"
    again = read_particles(out / "particles.star")
    assert len(again) == COUNT and again.pixel_size == pytest.approx(VOXEL)
    result = json.loads((out / "result.json").read_text())
    assert result["settings"]["voxel"] == VOXEL and result["settings"]["pixel_size"] is None
    assert any("--voxel" in note for note in result["data"]["notes"])
    assert reconstruct(bare, out, "--voxel", VOXEL, "--resume")[0] == 0


def test_the_pixel_size_of_a_bare_stack_is_not_its_voxel_where_both_are_given(bare, tmp_path, reconstruct):
    out = tmp_path / "run"
    assert is_refused(reconstruct(bare, out, "--pixel-size", VOXEL, "--voxel", 1), "--voxel", "pixel size, 2 A")
    assert not out.exists()


def test_words_of_a_comparison_that_found_no_resolution():
    assert compared({"correlation": 0.2, "resolution_05": None}) == (
        "correlation with the truth 0.2000, FSC below 0.5 in every shell"
    )


def test_bad_input_is_refused_in_one_line_and_nothing_is_written(sim, tmp_path, reconstruct):
    star, out = sim / "particles.star", tmp_path / "run"
    write_map(Map(torch.ones(BOX, BOX, BOX), 2 * VOXEL), tmp_path / "wide.mrc")
    write_stack(torch.randn(1, BOX, BOX, generator=torch.Generator().manual_seed(1)), tmp_path / "one.mrcs", VOXEL)
    for words, told in (
        ((tmp_path / "no.star", out), ("no.star", "not found")),
        ((star, out, "--method", "known"), ("--method known", "--poses")),
        ((star, out, "--poses", tmp_path / "no.star"), ("no.star", "not found")),
        ((star, out, "--voxel", VOXEL / 2), ("--voxel", f"{VOXEL:g} A", f"{VOXEL / 2:g}")),
        ((star, out, "--voxel", 20), ("--voxel", "finer")),
        ((star, out, "--max-shift", -1), ("--max-shift", "negative", "-1")),
        ((star, out, "--max-shift", 30), ("--max-shift", "half the box")),
        ((star, out, "--start", tmp_path / "wide.mrc"), ("start map", "field of view", f"{BOX * VOXEL:.1f} A")),
        ((tmp_path / "one.mrcs", out), ("at least 2 images", "got 1")),
        ((star, out, "--pixel-size", 0), ("pixel",)),
        ((star, out, "--method", "guess"), ("guess",)),
        ((star, out, "--ctf"), ("contrast transfer",)),
        ((star, sim), ("--out", "replace the input")),
    ):
        assert is_refused(reconstruct(*words), *told), words
        assert not out.exists(), words


def test_a_folder_that_holds_something_is_left_alone(sim, tmp_path, reconstruct):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    assert is_refused(reconstruct(sim / "particles.star", tmp_path / "run"), "not empty", "--overwrite")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_poses_that_do_not_name_every_image_are_refused(sim, tmp_path, reconstruct):
    truth = read_star(sim / "truth.star")
    rows = truth["particles"]
    fewer = type(rows)(rows.names, tuple(column[:-3] for column in rows.columns), rows.source)
    write_star(tmp_path / "fewer.star", {**truth, "particles": fewer})
    found = reconstruct(
        sim / "particles.star", tmp_path / "run", "--method", "known", "--poses", tmp_path / "fewer.star"
    )
    assert is_refused(found, "no pose for 3 of 100 images", "000098@")
