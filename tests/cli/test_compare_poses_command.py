"""``unpicked compare-poses``: STAR files of several ages, rows by name, the fixed keys, and refusals on one line."""

import json

import pytest
import torch

from answers import answered, is_refused
from unpicked.data.maps import Map
from unpicked.io.mrc import write_map
from unpicked.io.poses import read_poses
from unpicked.io.star import write_star
from unpicked.ops.point_group import axis_turn
from unpicked.ops.rotation import matrix_to_euler, random_rotations

KEYS = {"median_deg", "mean_deg", "p90_deg", "below_10_deg", "view_median_deg", "inplane_median_deg", "shift_rmse_A",
        "hand", "count", "median_deg_pseudo", "below_10_deg_pseudo", "pseudo_axis", "pseudo_angle_deg"}  # fmt: skip
COUNT = 40
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


def truth(seed=1):
    g = torch.Generator().manual_seed(seed)
    return random_rotations(COUNT, g), 3 * torch.randn(COUNT, 2, generator=g, dtype=torch.float64)


def star(path, turns, shifts=None, *, names=None, order=None, drop=(), pixels=None, optics=True):
    """A particle STAR file; origins in angstrom, or in pixels of the size ``pixels``."""
    shifts = torch.zeros(len(turns), 2) if shifts is None else shifts
    names = [f"{i + 1:06d}@stack.mrcs" for i in range(len(turns))] if names is None else names
    columns = {"rlnImageName": names, **dict(zip(ANGLES, matrix_to_euler(turns).T.tolist(), strict=True))}
    kind = ("rlnOriginXAngst", "rlnOriginYAngst") if pixels is None else ("rlnOriginX", "rlnOriginY")
    columns |= dict(zip(kind, (-shifts.double().T / (pixels or 1.0)).tolist(), strict=True))
    columns["rlnOpticsGroup"] = [2] * len(turns)
    rows = list(range(len(turns))) if order is None else order
    blocks = {"particles": {name: [column[i] for i in rows] for name, column in columns.items() if name not in drop}}
    if optics:
        blocks = {"optics": {"rlnOpticsGroup": [1, 2], "rlnImagePixelSize": [9.0, pixels or 1.0]}, **blocks}
    write_star(path, blocks, overwrite=True)
    return path


@pytest.fixture
def compare(capsys, tmp_path):
    def run(*words):
        return answered(capsys, "compare-poses", *words)

    return run


def found(answer):
    status, out, err = answer
    assert (status, err) == (0, "") and out.count("\n") == 1
    return json.loads(out, parse_constant=pytest.fail)


def test_rows_are_matched_by_name_and_every_key_is_there(compare, tmp_path):
    turns, shifts = truth()
    frame = axis_turn((1.0, 2.0, -0.5), 77.0)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(4)).tolist()
    files = star(tmp_path / "e.star", turns @ frame, shifts, order=order), star(tmp_path / "t.star", turns, shifts)
    figures = found(compare(*files, "--json"))
    assert set(figures) >= KEYS and figures["notes"] == []
    assert figures["count"] == COUNT and figures["hand"] == "same"
    assert figures["mean_deg"] < 1e-5 and figures["shift_rmse_A"] < 1e-6
    assert figures["median_deg_pseudo"] is figures["pseudo_axis"] is figures["pseudo_angle_deg"] is None
    status, out, err = compare(*files)
    assert (status, err) == (0, "") and "images             40" in out and "hand               same" in out


def test_origins_in_pixels_and_in_angstrom_are_the_same_shifts(compare, tmp_path):
    turns, shifts = truth()
    star(tmp_path / "a.star", turns, shifts)
    star(tmp_path / "p.star", turns, shifts, pixels=2.5)
    for name in ("a.star", "p.star"):
        _, poses = read_poses(tmp_path / name)
        assert torch.allclose(poses.shifts, shifts, atol=1e-9)
        assert torch.allclose(poses.rotations, turns, atol=1e-9)
    assert found(compare(tmp_path / "a.star", tmp_path / "p.star", "--json"))["shift_rmse_A"] < 1e-6
    star(tmp_path / "n.star", turns, shifts, pixels=2.5, optics=False)
    assert is_refused(compare(tmp_path / "n.star", tmp_path / "a.star"), "n.star", "pixel size", "rlnImagePixelSize")


def test_a_subset_is_compared_and_told(compare, tmp_path):
    turns, shifts = truth()
    part = star(tmp_path / "e.star", turns, shifts, order=list(range(5, 25)))
    figures = found(compare(part, star(tmp_path / "t.star", turns, shifts), "--json"))
    assert figures["count"] == 20 and figures["mean_deg"] < 1e-5
    assert figures["notes"] == ["20 of the 40 images of the truth are not in the other file."]


def test_numbers_and_folders_of_names_need_not_be_spelt_alike(compare, tmp_path):
    turns, shifts = truth()
    names = [f"{i + 1}@stack.mrcs" for i in range(COUNT)]
    files = star(tmp_path / "e.star", turns, shifts, names=names), star(tmp_path / "t.star", turns, shifts)
    assert found(compare(*files, "--json"))["notes"] == []
    star(tmp_path / "e.star", turns, shifts, names=[name.replace("@", "@/data/run/") for name in names])
    (note,) = found(compare(*files, "--json"))["notes"]
    assert "without their folders" in note


def test_a_pseudo_symmetric_mixture_through_files(compare, tmp_path):
    turns, _ = truth()
    g = torch.Generator().manual_seed(8)
    points = 5 * torch.randn(10, 3, generator=g, dtype=torch.float64).clamp(-1.6, 1.6)
    two_fold = axis_turn((0.3, 1.0, 0.2), 180.0)
    near = points @ two_fold.T + 0.2 * torch.randn(10, 3, generator=g, dtype=torch.float64)
    axis = torch.arange(32, dtype=torch.float64) - 16
    values = torch.zeros(32, 32, 32, dtype=torch.float64)
    for point in torch.cat([points, near]):
        x, y, z = (torch.exp(-(axis - c).square() / 6.5) for c in point)
        values += z[:, None, None] * y[:, None] * x
    write_map(Map(values, 2.0), tmp_path / "m.mrc")
    swapped = (torch.arange(COUNT) % 2 == 0)[:, None, None]
    files = star(tmp_path / "e.star", torch.where(swapped, turns @ two_fold, turns)), star(tmp_path / "t.star", turns)
    figures = found(compare(*files, "--pseudo", tmp_path / "m.mrc", "--json"))
    assert figures["mean_deg"] == pytest.approx(90, abs=1) and figures["below_10_deg"] == 0.5
    assert figures["median_deg_pseudo"] < 2 and figures["below_10_deg_pseudo"] == 1
    assert figures["pseudo_angle_deg"] == pytest.approx(180, abs=1)
    assert abs(torch.tensor(figures["pseudo_axis"]) @ torch.tensor([0.3, 1.0, 0.2])) / 1.13**0.5 > 0.999
    assert len(figures["pseudo_symmetries"]) == 1
    status, out, _ = compare(*files, "--pseudo", tmp_path / "m.mrc")
    assert status == 0 and "median modulo it" in out and "50.0 %, 50.0 %" in out


def test_a_structure_without_pseudo_symmetry_is_told(compare, tmp_path, bpti):
    turns, _ = truth()
    file = star(tmp_path / "t.star", turns)
    figures = found(compare(file, file, "--pseudo", bpti, "--json"))
    assert figures["median_deg_pseudo"] is None and figures["pseudo_symmetries"] == []
    assert "no pseudo-symmetry" in figures["notes"][0]


def test_the_dimer_names_its_axis_and_angle(compare, tmp_path, shared_data):
    turns, _ = truth()
    file = star(tmp_path / "t.star", turns)
    figures = found(compare(file, file, "--pseudo", shared_data("structures/4ake_dimer_workshop.pdb"), "--json"))
    assert figures["pseudo_angle_deg"] == pytest.approx(178.75, abs=0.01) and abs(figures["pseudo_axis"][0]) > 0.999


def test_relion_files_are_read(compare, shared_data):
    file = shared_data("particles/rln_proj_64.star")
    assert found(compare(file, file, "--json"))["mean_deg"] < 1e-5
    real = shared_data("metadata/relion31.v2.star")
    names, poses = read_poses(real)
    assert len(names) == len(poses) and bool(poses.shifts.any())


@pytest.mark.parametrize("drop", ["rlnAngleRot", "rlnAngleTilt", "rlnImageName"])
def test_a_missing_column_is_named(compare, tmp_path, drop):
    turns, _ = truth()
    whole, part = star(tmp_path / "t.star", turns), star(tmp_path / "e.star", turns, drop=(drop,))
    assert is_refused(compare(part, whole, "--json"), "e.star", drop)
    assert is_refused(compare(whole, part), "e.star", drop)


def test_what_cannot_be_compared_is_refused(compare, tmp_path):
    turns, _ = truth()
    whole = star(tmp_path / "t.star", turns)
    other = star(tmp_path / "e.star", turns, names=[f"{i + 1}@other.mrcs" for i in range(COUNT)])
    assert is_refused(compare(other, whole), "no image is named in both", "1@other.mrcs", "000001@stack.mrcs")
    twice = star(tmp_path / "e.star", turns, names=["1@stack.mrcs"] * COUNT)
    assert is_refused(compare(twice, whole), "1@stack.mrcs occurs 40 times")
    one = star(tmp_path / "e.star", turns, order=[3])
    assert is_refused(compare(one, whole), "at least 2 images")
    assert is_refused(compare(tmp_path / "no.star", whole), "no.star", "not found")
    assert is_refused(compare(whole, whole, "--symmetry", "Q4"), "symmetry", "Q4")
    assert is_refused(compare(whole, whole, "--kind", "best"), "best")
    assert is_refused(compare(whole, whole, "--pseudo", tmp_path / "no.mrc"), "no.mrc", "not found")
    text = whole.read_text().splitlines()
    bad = tmp_path / "nan.star"
    bad.write_text("\n".join([*text[:-2], text[-2].replace(text[-2].split()[1], "nan"), ""]))
    assert is_refused(compare(bad, whole), "nan.star", "rlnAngleRot of row 40", "finite number")
