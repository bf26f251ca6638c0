"""``unpicked halves``: the figures that the contract names, through files."""

import json

import pytest
import torch

from answers import is_refused, maps_answered
from unpicked.data.maps import Map
from unpicked.io.mrc import write_map, write_stack
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
