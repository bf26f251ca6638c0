"""``unpicked compare``: the figures that the contract names, through files."""

import json
import math

import pytest
import torch

from answers import answered, is_refused, maps_answered
from unpicked.data.maps import Map
from unpicked.io.mrc import write_map, write_stack

KEYS = {"correlation", "relative_error", "resolution_05", "resolution_0143", "at_nyquist", "nyquist", "fsc", "fsc_area",
        "hand", "hand_margin", "rotation", "shift"}  # fmt: skip
# a chiral set of blobs: centres (x, y, z) in angstrom, weights
BLOBS = ((0.0, 0.0, 0.0, 1.0), (13.0, 2.0, 0.0, 0.9), (-2.0, -11.0, 3.0, 0.7), (3.0, 6.0, 12.0, 0.6))
TURN = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def drawn(box=16, voxel=4.0, turn=None, shift=(0.0, 0.0, 0.0), mirrored=False):
    """The blobs, mirrored in z, then turned, then shifted, drawn at the voxel centres."""
    axis = (torch.arange(box, dtype=torch.float64) - box // 2) * voxel
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    values = torch.zeros(box, box, box, dtype=torch.float64)
    for *centre, weight in BLOBS:
        point = torch.tensor(centre, dtype=torch.float64)
        if mirrored:
            point = point * torch.tensor([1.0, 1.0, -1.0])
        if turn is not None:
            point = turn @ point
        a, b, c = (point + torch.tensor(shift)).tolist()
        values += weight * torch.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * 6.0**2))
    return Map(values, voxel)


@pytest.fixture
def compare(tmp_path, capsys):
    """Write two maps and compare them; the exit status, standard output, and standard error."""

    def run(estimate, truth, *more):
        return maps_answered(capsys, tmp_path, "compare", {"estimate": estimate, "truth": truth}, *more)

    return run


def found(answer):
    status, out, err = answer
    assert (status, err) == (0, "") and out.count("\n") == 1
    return json.loads(out, parse_constant=pytest.fail)


def test_a_map_with_itself_gives_every_figure_of_the_contract(compare):
    figures = found(compare(drawn(), drawn(), "--json"))
    assert KEYS <= set(figures)
    assert figures["correlation"] > 0.9999 and figures["relative_error"] < 0.02
    assert figures["at_nyquist"] is True
    assert figures["nyquist"] == figures["resolution_05"] == figures["resolution_0143"] == 8.0
    assert len(figures["fsc"]) == 8 and figures["fsc_area"] > 0.99
    assert figures["hand"] == "same" and figures["hand_margin"] > 0
    rotation = torch.tensor(figures["rotation"], dtype=torch.float64)
    assert torch.allclose(rotation, torch.eye(3, dtype=torch.float64), atol=0.02)
    assert max(map(abs, figures["shift"])) < 0.2


def test_a_turned_shifted_and_mirrored_copy_is_recognised_and_the_moves_are_told(compare):
    shift = (4.0, -4.0, 2.0)
    figures = found(compare(drawn(turn=TURN, shift=shift, mirrored=True), drawn(), "--json"))
    assert figures["correlation"] > 0.999
    assert figures["hand"] == "mirrored"
    rotation = torch.tensor(figures["rotation"], dtype=torch.float64)
    assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-5)
    assert torch.det(rotation) == pytest.approx(1)
    assert math.dist(figures["shift"], (0, 0, 0)) == pytest.approx(math.dist(shift, (0, 0, 0)), abs=0.3)


@pytest.mark.slow
def test_a_turn_without_mirror_keeps_the_hand_and_is_undone(compare):
    figures = found(compare(drawn(turn=TURN), drawn(), "--json"))
    assert figures["correlation"] > 0.999 and figures["hand"] == "same"
    rotation = torch.tensor(figures["rotation"], dtype=torch.float64)
    assert torch.allclose(rotation @ TURN, torch.eye(3, dtype=torch.float64), atol=0.03)


@pytest.mark.slow
def test_another_object_is_not_recognised(compare):
    generator = torch.Generator().manual_seed(1)
    figures = found(compare(Map(torch.randn(16, 16, 16, generator=generator), 4.0), drawn(), "--json"))
    assert figures["correlation"] < 0.7 and figures["at_nyquist"] is False


def test_a_map_on_another_grid_is_brought_to_that_of_the_truth(compare):
    figures = found(compare(drawn(22, 3.0), drawn(), "--json"))
    assert figures["correlation"] > 0.99 and len(figures["fsc"]) == 8
    assert "22 voxels of 3 A" in " ".join(figures["notes"])


def test_a_voxel_size_can_be_given_where_the_header_has_none_and_the_table_tells_the_same(compare, tmp_path):
    write_map(drawn(), tmp_path / "bare.mrc")
    data = bytearray((tmp_path / "bare.mrc").read_bytes())
    data[40:52] = bytes(12)  # cell lengths
    (tmp_path / "bare.mrc").write_bytes(data)
    assert is_refused(compare(tmp_path / "bare.mrc", drawn()), "bare.mrc", "no voxel size")
    status, out, err = compare(tmp_path / "bare.mrc", drawn(), "--voxel", "4")
    assert (status, err) == (0, "")
    assert "correlation        1.0000" in out and "8.00 A (Nyquist)" in out and "hand               same" in out


@pytest.mark.parametrize("place", [0, 1])
def test_a_missing_file_is_refused_by_name(compare, tmp_path, place):
    maps = [drawn(), drawn()]
    maps[place] = tmp_path / "no.mrc"
    assert is_refused(compare(*maps, "--json"), "no.mrc", "not found")


@pytest.mark.parametrize("content", [b"", b"junk\n", b"junk " * 1000])
def test_a_junk_file_is_refused_by_name(compare, tmp_path, content):
    (tmp_path / "junk.mrc").write_bytes(content)
    assert is_refused(compare(tmp_path / "junk.mrc", drawn(), "--json"), "junk.mrc")


def test_a_stack_or_a_constant_map_is_refused(compare, tmp_path):
    write_stack(torch.randn(4, 6, 6), tmp_path / "s.mrcs", 4.0)
    assert is_refused(compare(tmp_path / "s.mrcs", drawn(), "--json"), "s.mrcs", "cubic")
    assert is_refused(compare(Map(torch.ones(16, 16, 16), 4.0), drawn(), "--json"), "1 in every voxel")


@pytest.mark.parametrize("symmetry", ["X3", "C0", "", "c"])
def test_an_unknown_symmetry_is_refused(compare, symmetry):
    assert is_refused(compare(drawn(), drawn(), "--symmetry", symmetry), "symmetry")


def test_one_map_alone_is_refused(capsys, tmp_path):
    assert is_refused(answered(capsys, "compare", tmp_path / "a.mrc", "--json"), "TRUTH")


def test_resolution_by_place_and_direction_at_the_threshold_of_a_truth(compare, tmp_path):
    answer = compare(drawn(turn=TURN), drawn(), "--local", tmp_path / "local.mrc", "--directional", "--json")
    told = found(answer)
    assert told["local"]["threshold"] == told["directional"]["threshold"] == 0.5
    assert set(told["directional"]["resolution"]) != {None} and len(told["fsc_low"]) == len(told["fsc"])
    assert (tmp_path / "local.mrc").is_file()
    assert is_refused(compare(drawn(), drawn(), "--local", tmp_path / "local.mrc"), "local.mrc", "--overwrite")
