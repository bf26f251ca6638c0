"""``unpicked moments``: one pass over files, merged passes, and what is refused."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import unpicked
from answers import answered, is_refused
from unpicked.data.moments import Moments
from unpicked.io.mrc import write_image

PROTEIN = str(Path(unpicked.__file__).parent / "simulate" / "5pti.cif")


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = partial(answered, capsys)
    made = run(
        "simulate", "micrographs", "--structure", PROTEIN, "--box", "7", "--voxel", "8", "--count", "2",
        "--size", "512", "--density", "0.1", "--energy", "15", "--seed", "3", "--out", "sim",
    )  # fmt: skip
    assert made[0] == 0, made[2]
    return partial(run, "moments")


def test_a_pass_two_passes_and_their_sum(command, tmp_path: Path) -> None:
    files = sorted(str(path) for path in (tmp_path / "sim" / "micrographs").glob("*.mrc"))
    small = ("--lmax", "2", "--starts", "2")
    whole = command(*files, "--box", "7", "--out", "all.npz", "--json", *small)
    assert whole[0] == 0, whole[2]
    told = json.loads(whole[1].splitlines()[-1])
    truth = json.loads((tmp_path / "sim" / "truth.json").read_text())
    assert abs(told["density"] - truth["density"]) < 4 * told["density_error"]
    assert told["sigma"] == pytest.approx(1, abs=0.05) and told["energy"] > 5
    assert len(told["micrographs"]) == 2 and all(row["z"] > 3 for row in told["micrographs"])
    for number, file in enumerate(files):
        assert command(file, "--box", "7", "--out", f"{number}.npz", *small)[0] == 0
    both = command("0.npz", "1.npz", "--merge", "--out", "both.npz", "--json", *small)
    assert both[0] == 0, both[2]
    again = json.loads(both[1].splitlines()[-1])
    assert again["density"] == pytest.approx(told["density"], rel=1e-6)
    assert command(files[0], "--box", "7", "--out", "bright.npz", "--contrast", "bright", *small)[0] == 0
    assert is_refused(command("bright.npz", "1.npz", "--merge", "--out", "no.npz"), "one kind")
    one, other = Moments.load("all.npz"), Moments.load("both.npz")
    assert one.kind == other.kind and one.names == other.names
    np.testing.assert_allclose(one.sums.numpy(), other.sums.numpy())


def test_a_small_record_is_kept_and_tells_nothing_yet(command, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(2, 256, 256)).astype(np.float32)
    noise[1] = 3.0  # a constant one
    for number, image in enumerate(noise):
        write_image(torch.from_numpy(image), tmp_path / f"{number}.mrc", 8.0)
    done = command("0.mrc", "1.mrc", "--box", "7", "--out", "small.npz", "--json")
    assert done[0] == 0, done[2]
    told = json.loads(done[1].splitlines()[-1])
    assert "density" not in told and any("1.mrc" in note and "left out" in note for note in told["notes"])
    assert Moments.load("small.npz").names == ("0.mrc",)
    assert is_refused(command("small.npz", "--merge", "--lmax", "99", "--out", "no.npz"), "lmax")
    assert not (tmp_path / "no.npz").exists()


def test_bad_input_is_refused_and_nothing_written(command, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert is_refused(command("sim/micrographs", "--out", "m.npz"), "--box")
    assert is_refused(command("sim/micrographs", "--box", "7", "--out", "m.dat"), ".npz")
    assert is_refused(command("sim/micrographs", "--box", "200", "--out", "m.npz"), "4 to 14")
    assert is_refused(command("sim/micrographs", "--box", "7", "--out", "no/m.npz"), "folder that exists")
    assert is_refused(command("sim/micrographs", "--box", "7", "--out", "m.npz", "--device", "cuda"), "CPU")
    assert is_refused(command("sim/micrographs", "--box", "7", "--lmax", "99", "--out", "m.npz"), "lmax")
    assert is_refused(command("nothing.npz", "--merge", "--out", "m.npz"), "nothing.npz")
    assert is_refused(command("sim/truth.json", "--merge", "--out", "m.npz"), "no moments")
    assert is_refused(command("sim/truth.json", "--merge", "--box", "7", "--out", "m.npz"), "--merge")
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "old.npz").write_text("mine")
    assert is_refused(command("sim/micrographs", "--box", "7", "--out", "old.npz"), "--overwrite")
    assert (tmp_path / "old.npz").read_text() == "mine"
