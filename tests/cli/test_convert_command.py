"""``unpicked convert``: what goes from STAR to .cs and back, what stays, and what is refused."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from answers import answered, is_refused
from unpicked.data.maps import Map
from unpicked.data.optics import Optics
from unpicked.data.poses import Poses
from unpicked.io.cryosparc import read_cs, write_cs
from unpicked.io.micrographs import read_micrographs
from unpicked.io.mrc import read_map, write_image, write_map, write_stack
from unpicked.io.particles import read_particle_table, read_particles
from unpicked.io.star import read_star, write_star
from unpicked.io.star_layouts import write_micrographs_star, write_stack_star
from unpicked.ops.rotation import random_rotations

COUNT, BOX, PIXEL = 6, 8, 1.5
OPTICS = Optics(
    (12000.0, 9000.5), (11500.0, 9000.0), (30.0, -20.0), (300.0,) * 2, (2.7,) * 2, (0.1,) * 2, (0.0, 90.0),
    (0.0, 50.0), (1.0, 0.9), (0, 1, 0, 1, 1, 0),
)  # fmt: skip


@pytest.fixture
def convert(capsys):
    return partial(answered, capsys, "convert")


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(3)
    poses = Poses(random_rotations(COUNT, generator), torch.randn(COUNT, 2, generator=generator, dtype=torch.float64))
    write_stack(torch.randn(COUNT, BOX, BOX, generator=generator), tmp_path / "s.mrcs", PIXEL)
    names = [f"{k:06d}@s.mrcs" for k in (3, 1, 2, 6, 5, 4)]
    path = tmp_path / "p.star"
    write_stack_star(path, names, PIXEL, BOX, optics=OPTICS, poses=poses)
    blocks = read_star(path)
    rows = dict(zip(blocks["particles"].names, blocks["particles"].columns, strict=True))
    rows |= {"rlnRandomSubset": ["1", "2", "1", "2", "1", "2"], "rlnMicrographName": [f"m{k}.mrc" for k in range(6)]}
    rows |= {"rlnMyOwnColumn": ["a b", "'", "c", "d", "e", "f"], "rlnBeamTiltX": ["0.1"] * 6}
    write_star(path, {"optics": blocks["optics"], "particles": rows, "extra": {"x": [1]}}, overwrite=True)
    return path


def agree(one: Path, other: Path, tolerance: float = 2e-6) -> bool:
    """Whether two files say the same of the same images, to the digits of float32."""
    first, second = read_particle_table(one), read_particle_table(other)
    assert first.names == second.names and first.halves == second.halves and first.box == second.box
    assert first.pixel_size == pytest.approx(second.pixel_size)
    poses, others = first.poses(), second.poses()
    assert poses is not None and others is not None
    assert torch.allclose(poses.rotations, others.rotations, atol=tolerance)
    assert torch.allclose(poses.shifts, others.shifts, atol=1e-5)
    if first.optics is None or second.optics is None:
        return first.optics is second.optics
    for name in vars(OPTICS):
        if name != "group":
            values = [[getattr(o, name)[g] for g in o.group] for o in (first.optics, second.optics)]
            assert values[0] == pytest.approx(values[1], rel=1e-6, abs=1e-5), name
    return True


def test_there_and_back(convert, stack):
    cs, back = stack.with_name("p.cs"), stack.with_name("q.star")
    status, out, _ = convert(stack, cs)
    assert status == 0 and "left out, as they are not converted: rlnMyOwnColumn, rlnBeamTiltX, x" in out
    assert agree(stack, cs)
    rows = read_cs(cs)
    assert rows["blob/idx"].tolist() == [2, 0, 1, 5, 4, 3] and rows["location/micrograph_path"][1] == b"m1.mrc"
    assert rows["blob/shape"].tolist() == [[BOX, BOX]] * COUNT
    assert convert(cs, back)[0] == 0
    assert agree(stack, back)
    table = read_star(back)["particles"]
    assert table.strings("rlnMicrographName") == tuple(f"m{k}.mrc" for k in range(6))
    assert set(read_star(back)["optics"].names) >= {"rlnVoltage", "rlnImagePixelSize", "rlnImageSize"}


def test_star_to_star_keeps_every_column_as_text(convert, stack):
    out = stack.with_name("q.star")
    assert convert(stack, out)[0] == 0
    before, after = read_star(stack), read_star(out)
    assert list(after) == ["optics", "particles", "extra"]
    for name, block in before.items():
        assert after[name].names == block.names and after[name].columns == block.columns


def test_star_to_star_with_another_pixel_size(convert, stack):
    out = stack.with_name("q.star")
    status, said, _ = convert(stack, out, "--pixel-size", 1.6)
    assert status == 0 and "pixel size 1.6 A, as given" in said
    assert read_particle_table(out).pixel_size == 1.6
    before, after = read_star(stack)["particles"], read_star(out)["particles"]
    assert before.columns == after.columns


def test_relion_30_becomes_31(convert, tmp_path):
    columns = {
        "rlnImageName": ["1@s.mrcs", "2@s.mrcs"], "rlnAngleRot": [10.0, 20.0], "rlnAngleTilt": [30.0, 40.0],
        "rlnAnglePsi": [50.0, 60.0], "rlnOriginX": [1.0, -2.0], "rlnOriginY": [0.5, 0.0],
        "rlnDetectorPixelSize": [5.0] * 2, "rlnMagnification": [25000.0] * 2, "rlnVoltage": [300.0, 200.0],
        "rlnSphericalAberration": [2.7] * 2, "rlnAmplitudeContrast": [0.1] * 2, "rlnDefocusU": [9000.0, 8000.0],
        "rlnDefocusV": [9000.0, 8000.0], "rlnDefocusAngle": [0.0, 1.0], "rlnMine": ["x", "y"],
    }  # fmt: skip
    write_star(tmp_path / "old.star", {"": columns})
    assert convert(tmp_path / "old.star", tmp_path / "new.star")[0] == 0
    blocks = read_star(tmp_path / "new.star")
    assert list(blocks) == ["optics", "particles"] and len(blocks["optics"]) == 2
    assert blocks["particles"].floats("rlnOriginXAngst").tolist() == [2.0, -4.0]
    assert set(columns) < set(blocks["particles"].names)
    assert blocks["optics"].floats("rlnImagePixelSize").tolist() == [2.0, 2.0]
    status, out, _ = convert(tmp_path / "old.star", tmp_path / "new.cs")
    assert status == 0 and "the first stack is not there" in out
    table = read_particle_table(tmp_path / "new.cs")
    poses = table.poses()
    assert poses is not None and poses.shifts.tolist() == [[-2.0, -1.0], [4.0, 0.0]]
    assert table.optics is not None and table.optics.voltage_kv == (300.0, 200.0)


def test_cs_to_cs_keeps_every_field_and_joins(convert, stack):
    cs, more, out = (stack.with_name(name) for name in ("p.cs", "more.cs", "q.cs"))
    convert(stack, cs)
    rows = read_cs(cs)
    other = np.zeros(COUNT, [("uid", "<u8"), ("mine/own", "<f4")])
    other["uid"], other["mine/own"] = rows["uid"][::-1], np.arange(COUNT)
    write_cs(other, more)
    assert convert(cs, out, "--passthrough", more, "--contrast", "dark", "--pixel-size", 1.6)[0] == 0
    found = read_cs(out)
    assert found["mine/own"].tolist() == [5, 4, 3, 2, 1, 0]
    assert set(found["blob/sign"].tolist()) == {-1.0} and found["blob/psize_A"][0] == np.float32(1.6)
    for name in set(rows.dtype.names) - {"blob/sign", "blob/psize_A"}:
        assert np.array_equal(found[name], rows[name]), name


def test_a_sign_that_star_cannot_hold_is_told(convert, stack):
    status, out, _ = convert(stack, stack.with_name("q.star"), "--contrast", "dark")
    assert status == 0 and "which a STAR file cannot tell" in out


def test_places_of_stacks(convert, stack):
    folder = stack.parent / "deep" / "er"
    folder.mkdir(parents=True)
    status, out, _ = convert(stack, folder / "p.star")
    assert status == 0 and "--relocate" in out
    assert convert(stack, folder / "q.star", "--relocate")[0] == 0
    assert convert(stack, folder / "q.cs", "--relocate")[0] == 0
    images = read_particles(stack).images()
    for name in ("q.star", "q.cs"):
        assert "../../s.mrcs" in read_particle_table(folder / name).names[0]
        assert torch.equal(read_particles(folder / name).images(), images)


def test_json(convert, stack):
    status, out, _ = convert(stack, stack.with_name("p.cs"), "--json")
    found = json.loads(out.splitlines()[-1])
    assert status == 0 and found["kind"] == "particles" and found["count"] == COUNT and found["notes"]


# micrographs


@pytest.fixture
def mics(tmp_path: Path) -> Path:
    names = [f"m{k}.mrc" for k in range(COUNT)]
    for k, name in enumerate(names):
        write_image(torch.randn(8, 12, generator=torch.Generator().manual_seed(k)), tmp_path / name, PIXEL)
    write_micrographs_star(tmp_path / "m.star", names, PIXEL, optics=OPTICS)
    return tmp_path / "m.star"


def test_micrographs_there_and_back(convert, mics):
    cs, back = mics.with_name("m.cs"), mics.with_name("n.star")
    status, out, _ = convert(mics, cs)
    assert status == 0 and "micrographs, 6" in out
    rows = read_cs(cs)
    assert rows["micrograph_blob/shape"].tolist() == [[8, 12]] * COUNT
    assert rows["mscope_params/accel_kv"].tolist() == [300.0] * COUNT
    assert convert(cs, back)[0] == 0
    for path in (cs, back):
        found = read_micrographs(path)
        assert found.names == tuple(f"m{k}.mrc" for k in range(COUNT)) and found.pixel_size == pytest.approx(PIXEL)
        assert found.optics is not None
        for name in vars(OPTICS):
            if name != "group":
                values = [[getattr(o, name)[g] for g in o.group] for o in (found.optics, OPTICS)]
                assert values[0] == pytest.approx(values[1], rel=1e-6, abs=1e-5), name


def test_micrographs_star_to_star(convert, mics):
    columns = {
        "rlnMicrographName": ["m0.mrc", "m1.mrc"], "rlnVoltage": [300.0, 200.0], "rlnSphericalAberration": [2.7] * 2,
        "rlnAmplitudeContrast": [0.1] * 2, "rlnMine": ["x y", "z"], "rlnDetectorPixelSize": [5.0] * 2,
        "rlnMagnification": [25000.0] * 2,
    }  # fmt: skip
    write_star(mics.with_name("old.star"), {"": columns})
    assert convert(mics.with_name("old.star"), mics.with_name("new.star"))[0] == 0
    blocks = read_star(mics.with_name("new.star"))
    assert blocks["optics"].floats("rlnMicrographPixelSize").tolist() == [2.0, 2.0]
    assert blocks["optics"].floats("rlnVoltage").tolist() == [300.0, 200.0]
    assert set(columns) < set(blocks["micrographs"].names)
    assert convert(mics, mics.with_name("n.star"), "--pixel-size", 1.6)[0] == 0
    assert read_micrographs(mics.with_name("n.star")).pixel_size == 1.6


def test_micrographs_cs_to_cs(convert, mics):
    convert(mics, mics.with_name("m.cs"))
    (mics.parent / "deep").mkdir()
    assert convert(mics.with_name("m.cs"), mics.parent / "deep" / "m.cs", "--relocate", "--pixel-size", 1.6)[0] == 0
    found = read_micrographs(mics.parent / "deep" / "m.cs")
    assert found.names[0] == "../m0.mrc" and found.pixel_size == 1.6


def test_micrographs_that_are_not_there(convert, mics):
    (mics.parent / "m3.mrc").unlink()
    status, out, _ = convert(mics, mics.with_name("m.cs"))
    assert status == 0 and "micrograph_blob/shape is left out" in out
    assert "micrograph_blob/shape" not in read_cs(mics.with_name("m.cs")).dtype.names
    assert is_refused(convert(mics, mics.with_name("n.star"), "--relocate"), "row 4", "m3.mrc")


# images


def test_images(convert, tmp_path):
    values = torch.randn(3, 8, 8)
    write_stack(values, tmp_path / "s.mrcs", 1.5)
    assert convert(tmp_path / "s.mrcs", tmp_path / "t.mrcs", "--contrast", "dark", "--pixel-size", 2.0)[0] == 0
    found = read_particles(tmp_path / "t.mrcs", check=0)
    assert torch.equal(found.images(), -values) and found.pixel_size == 2.0
    write_image(torch.randn(8, 12), tmp_path / "m.mrc", 1.5)
    assert convert(tmp_path / "m.mrc", tmp_path / "n.mrc", "--contrast", "dark")[0] == 0
    one = read_micrographs(tmp_path / "m.mrc")
    assert torch.equal(one[0], read_micrographs(tmp_path / "n.mrc", contrast="bright")[0])
    write_map(Map(torch.randn(8, 8, 8), 1.5), tmp_path / "v.mrc")
    assert convert(tmp_path / "v.mrc", tmp_path / "w.map", "--pixel-size", 3)[0] == 0
    assert read_map(tmp_path / "w.map").voxel_size == 3.0
    assert is_refused(convert(tmp_path / "v.mrc", tmp_path / "w.star"), ".mrc")


# files of other programs


@pytest.mark.parametrize(
    "name",
    ["particles/relion31.star", "metadata/relion31.v2.star", "metadata/FinalRefinement-OriginalParticles-PfCRT.star"],
)
def test_files_of_relion(convert, shared_data, tmp_path, name):
    source = shared_data(name)
    assert convert(source, tmp_path / "p.cs")[0] == 0
    assert agree(source, tmp_path / "p.cs", 1e-5)
    assert convert(source, tmp_path / "p.star")[0] == 0
    assert agree(source, tmp_path / "p.star")
    before, after = read_star(source), read_star(tmp_path / "p.star")
    rows = next(block for key, block in before.items() if key != "optics")
    for column in rows.names:
        if column not in ("rlnOpticsGroup", "rlnOriginXAngst", "rlnOriginYAngst"):
            assert after["particles"].strings(column) == rows.strings(column)


def test_a_file_of_cryosparc(convert, shared_data, tmp_path):
    source = shared_data("metadata/cryosparc_J2_particles_exported.cs")
    assert convert(source, tmp_path / "p.star")[0] == 0
    table, other = read_particle_table(source), read_particle_table(tmp_path / "p.star")
    assert table.names == other.names and table.optics is not None and other.optics is not None
    assert [table.optics.defocus_u[g] for g in table.optics.group] == [
        other.optics.defocus_u[g] for g in other.optics.group
    ]
    assert convert(source, tmp_path / "q.cs")[0] == 0
    assert np.array_equal(read_cs(source), read_cs(tmp_path / "q.cs"))


# refusals


def test_refusals(convert, stack, mics):
    before = stack.read_bytes()
    assert is_refused(convert(mics, stack), stack, "exists", "--overwrite") and stack.read_bytes() == before
    assert is_refused(convert(stack, stack.with_name("p.txt")), "p.txt", ".star", ".cs")
    assert is_refused(convert(stack.with_name("no.star"), stack.with_name("p.cs")), "no.star", "not found")
    stack.with_name("x.txt").write_text("x")
    assert is_refused(convert(stack.with_name("x.txt"), stack.with_name("p.cs")), "x.txt", "no file to convert")
    write_star(stack.with_name("x.star"), {"a": {"b": [1]}})
    assert is_refused(convert(stack.with_name("x.star"), stack.with_name("p.cs")), "lists neither")
    write_cs(np.zeros(2, [("uid", "<u8")]), stack.with_name("x.cs"))
    assert is_refused(convert(stack.with_name("x.cs"), stack.with_name("y.star")), "lists neither")
    assert is_refused(convert(mics, stack.with_name("m.cs"), "--contrast", "dark"), "--contrast")
    assert is_refused(convert(stack, stack.with_name("p.cs"), "--pixel-size", 0), "pixel_size must be positive")
    assert not stack.with_name("p.cs").exists()


def test_refusals_of_sets_that_the_other_format_cannot_hold(convert, stack):
    blocks = read_star(stack)
    rows = dict(zip(blocks["particles"].names, blocks["particles"].columns, strict=True))
    rows["rlnOpticsGroup"] = ["1", "2"] * 3
    head = {
        "rlnOpticsGroup": [1, 2], "rlnImagePixelSize": [1.5, 1.6], "rlnImageSize": [BOX] * 2, "rlnVoltage": [300.0] * 2,
        "rlnSphericalAberration": [2.7] * 2, "rlnAmplitudeContrast": [0.1] * 2,
    }  # fmt: skip
    path = stack.with_name("mixed.star")
    write_star(path, {"optics": head, "particles": rows})
    assert is_refused(convert(path, stack.with_name("p.cs")), "rlnImagePixelSize goes from 1.5 to 1.6")
    assert convert(path, stack.with_name("same.star"))[0] == 0
    write_star(path, {"particles": {"rlnImageName": ["1@s.mrcs"], "rlnAngleRot": [0.0], "rlnAngleTilt": [0.0],
                                    "rlnAnglePsi": [0.0]}}, overwrite=True)  # fmt: skip
    assert is_refused(convert(path, stack.with_name("p.cs")), "no pixel size", "--pixel-size")
