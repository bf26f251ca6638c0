"""``unpicked halves``: the figures that the contract names, through files."""

import json

import pytest
import torch

from answers import is_refused, maps_answered
from unpicked.data.maps import Map
from unpicked.io.mrc import read_map, write_map, write_stack
from unpicked.ops import fourier
from unpicked.simulate.phantom import bead_chain

KEYS = {"fsc", "error", "resolution_0143", "at_nyquist", "cutoff_shell", "hand", "rotation", "shift", "shared_start",
        "fsc_full", "fsc_masked", "fsc_randomised", "fsc_corrected", "resolution_corrected"}  # fmt: skip


def half(seed, mirrored=False):
    """A bead chain at 4 A a voxel with noise of this seed."""
    values = bead_chain(11, 2).truth().values
    values = values / values.max() + 0.05 * torch.randn(11, 11, 11, generator=torch.Generator().manual_seed(seed))
    return Map(fourier.mirror(values, (0,)) if mirrored else values, 4.0)


@pytest.fixture
def halves(tmp_path, capsys):
    """Write maps and compare them; the exit status, standard output, and standard error."""

    def run(first, second, *more):
        return maps_answered(capsys, tmp_path, "halves", {"half1": first, "half2": second}, *more)

    return run


def test_a_mirrored_half_is_laid_on_the_other_and_every_figure_is_told(halves, tmp_path):
    write_map(Map((fourier.distances((11, 11, 11)) <= 4.5).float(), 4.0), tmp_path / "mask.mrc")
    status, out, err = halves(half(1), half(2, mirrored=True), "--mask", tmp_path / "mask.mrc", "--json")
    assert (status, err) == (0, "") and out.count("\n") == 1
    found = json.loads(out, parse_constant=pytest.fail)
    assert KEYS <= set(found)
    assert found["hand"] == "mirrored" and found["cutoff_shell"] == 3 and found["shared_start"] is False
    assert len(found["fsc"]) == len(found["error"]) == len(found["fsc_corrected"]) == 6
    assert min(found["fsc"][1:3]) > 0.9 and found["resolution_0143"] <= 11 * 4 / 4


def test_the_table_tells_the_same_and_that_a_shared_start_validates_nothing(halves):
    status, out, err = halves(half(1), half(2), "--shared-start", "--cutoff-shell", "4")
    assert (status, err) == (0, "")
    for words in ("resolution at .143", "aligned by shells  1 to 4", "hand               same", "not validation"):
        assert words in out
    assert "masked" not in out


def test_bad_input_is_refused_in_one_line(halves, tmp_path):
    write_stack(torch.randn(4, 6, 6), tmp_path / "s.mrcs", 4.0)
    (tmp_path / "junk.mrc").write_bytes(b"junk " * 1000)
    write_map(Map(2 * torch.ones(11, 11, 11), 4.0), tmp_path / "loud.mrc")
    assert is_refused(halves(half(1), tmp_path / "no.mrc", "--json"), "no.mrc", "not found")
    assert is_refused(halves(tmp_path / "junk.mrc", half(1)), "junk.mrc")
    assert is_refused(halves(half(1), tmp_path / "s.mrcs"), "s.mrcs", "cubic")
    assert is_refused(halves(half(1), Map(torch.randn(12, 12, 12), 4.0)), "grid", "12 of 4 A")
    assert is_refused(halves(half(1), Map(torch.ones(11, 11, 11), 4.0)), "second half", "nothing")
    assert is_refused(halves(half(1), half(2), "--mask", tmp_path / "loud.mrc"), "mask", "between 0 and 1")
    assert is_refused(halves(half(1), half(2), "--cutoff-shell", "9"), "cutoff", "1 to 5")
    assert is_refused(halves(half(1), half(2), "--cutoff-shell", "2.5"), "whole number")


def test_resolution_by_place_and_direction_is_told_written_and_drawn(halves, tmp_path):
    more = ("--local", tmp_path / "local.mrc", "--directional", "--picture", tmp_path / "halves.png", "--window", "28")
    status, out, err = halves(half(1), half(2), *more, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out, parse_constant=pytest.fail)
    local, ways = found["local"], found["directional"]
    assert local["window"] == pytest.approx(28) and local["best"] <= local["median"] <= local["worst"] <= 28
    places = read_map(tmp_path / "local.mrc")
    assert places.voxel_size == pytest.approx(4) and places.box == 11
    assert 8 <= float(places.values.min()) and float(places.values.max()) <= 28.001
    assert len(ways["directions"]) == len(ways["resolution"]) == 200 and 0 < ways["sphericity"] <= 1.01
    curves = zip(found["fsc_low"], found["fsc"], found["fsc_high"], strict=True)
    assert all(low <= value <= high for low, value, high in curves)
    assert found["fsc_area"] == pytest.approx(sum(found["fsc"][1:]) / 5)
    assert (tmp_path / "halves.png").read_bytes().startswith(b"\x89PNG")
    status, out, err = halves(half(1), half(2), *more, "--overwrite")
    assert (status, err) == (0, "")
    for words in ("local resolution", "worst direction", "sphericity", "FSC, 95 % from", "mean FSC"):
        assert words in out


def test_what_cannot_be_written_or_seen_is_refused_before_anything_is_written(halves, tmp_path):
    (tmp_path / "there.mrc").write_bytes(b"mine")
    (tmp_path / "there.png").write_bytes(b"mine")
    new = ("--local", tmp_path / "local.mrc")
    assert is_refused(halves(half(1), half(2), "--window", "30"), "--window", "--local")
    assert is_refused(halves(half(1), half(2), "--local", tmp_path / "there.mrc"), "there.mrc", "--overwrite")
    assert is_refused(halves(half(1), half(2), "--local", tmp_path / "l.txt"), "--local", ".mrc")
    assert is_refused(halves(half(1), half(2), "--local", tmp_path / "no" / "l.mrc"), "no folder")
    assert is_refused(halves(half(1), half(2), *new, "--picture", tmp_path / "there.png"), "there.png", "--overwrite")
    assert is_refused(halves(half(1), half(2), *new, "--picture", tmp_path / "p.jpg"), "--picture", ".png")
    assert is_refused(halves(half(1), half(2), "--local", tmp_path / "half1.mrc", "--overwrite"), "half1.mrc", "read")
    write_map(half(3), tmp_path / "mask.mrc")
    kept = (tmp_path / "mask.mrc").read_bytes()
    mask = ("--mask", tmp_path / "mask.mrc", "--local", tmp_path / "mask.mrc")
    assert is_refused(halves(half(1), half(2), *mask, "--overwrite"), "mask.mrc", "another name")
    assert (tmp_path / "mask.mrc").read_bytes() == kept
    (tmp_path / "folder.mrc").mkdir()
    assert is_refused(halves(half(1), half(2), "--local", tmp_path / "folder.mrc", "--overwrite"), "is a folder")
    assert is_refused(halves(half(1), half(2), *new, "--window", "45"), "window", "44 A", "45 A")
    assert is_refused(halves(half(1), half(2), *new, "--window", "nan"), "window", "nan")
    assert not (tmp_path / "local.mrc").exists() and (tmp_path / "there.mrc").read_bytes() == b"mine"
