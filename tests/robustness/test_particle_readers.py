"""Every bad file of particles gives one line that says what is wrong; nothing gives anything else."""

import gzip
import io
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from answers import fails, only_plain_errors
from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.micrographs import InMemory
from unpicked.data.optics import Optics
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.io.cryosparc import read_cs, with_fields, write_cs
from unpicked.io.mrc import write_image, write_map, write_stack
from unpicked.io.particle_files import write_particles
from unpicked.io.particles import read_particle_table, read_particles
from unpicked.io.poses import read_poses
from unpicked.io.stacks import write_stack_of
from unpicked.io.star import read_star, write_star
from unpicked.ops.rotation import random_rotations

mrcfile = pytest.importorskip("mrcfile")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def data(tmp_path):
    """A stack of six images with STAR and .cs file."""
    write_stack(noise(6, 8, 8), tmp_path / "s.mrcs", 1.5)
    names = tuple(f"{k + 1:06d}@s.mrcs" for k in range(6))
    one = ((12000.0,), (11000.0,), (30.0,), (300.0,), (2.7,), (0.1,), (0.0,), (0.0,), (1.0,))
    poses = Poses(random_rotations(6, torch.Generator().manual_seed(1)), noise(6, 2).double())
    truth = Particles(InMemory(noise(6, 8, 8)), 1.5, names, Optics(*one, group=(0,) * 6), poses, (1, 2) * 3)
    write_particles(tmp_path / "p.star", truth)
    write_particles(tmp_path / "p.cs", truth)
    return tmp_path


def star(data, optics=(), **changes):
    """The STAR file with some columns changed (None: left out)."""
    blocks = {
        name: dict(zip(table.names, table.columns, strict=True)) for name, table in read_star(data / "p.star").items()
    }
    for block, new in (("optics", dict(optics)), ("particles", changes)):
        for name, values in new.items():
            blocks[block].pop(name, None)
            if values is not None:
                blocks[block][name] = values
    write_star(data / "q.star", blocks, overwrite=True)
    return data / "q.star"


def cs(data, **changes):
    """The .cs file with some fields changed; the first underscore of a name is its slash."""
    rows = with_fields(read_cs(data / "p.cs"), {n.replace("_", "/", 1): np.array(v) for n, v in changes.items()})
    write_cs(rows, data / "q.cs", overwrite=True)
    return data / "q.cs"


def test_missing_stack_lists_all_places(data, monkeypatch):
    (data / "cwd").mkdir()
    monkeypatch.chdir(data / "cwd")
    path = star(data, rlnImageName=["1@s.mrcs"] * 5 + ["1@Extract/no.mrcs"])
    (data / "root").mkdir()
    places = [
        data / "Extract/no.mrcs",
        data / "cwd/Extract/no.mrcs",
        data / "root/Extract/no.mrcs",
        data / "root/no.mrcs",
    ]
    assert fails(
        lambda: read_particles(path, root=data / "root"), path, "row 6", "--root", *places, error=FileNotFoundError
    )
    assert fails(lambda: read_particles(path, root=data / "nowhere"), "root", "nowhere", error=FileNotFoundError)
    write_stack(noise(1, 8, 8), data / "root" / "no.mrcs", 1.5)
    assert len(read_particles(path, root=data / "root")) == 6


def test_missing_inputs(tmp_path):
    for name in ("no.star", "no.cs", "no.mrcs"):
        assert fails(lambda name=name: read_particles(tmp_path / name), name, "not found", error=FileNotFoundError)
    assert fails(lambda: read_particles([]), "at least one")
    assert fails(lambda: read_particles(tmp_path), "folder")


def test_index_outside_the_stack(data):
    path = star(data, rlnImageName=[f"{k}@s.mrcs" for k in (1, 2, 3, 4, 5, 7)])
    assert fails(lambda: read_particles(path), path, "row 6", "000007@s.mrcs", "holds 6 images")
    assert fails(
        lambda: read_particles(cs(data, blob_idx=[0, 1, 2, 3, 4, 6])), "row 6", "000007@s.mrcs", "holds 6 images"
    )
    path = star(data, rlnImageName=["0@s.mrcs"] + ["1@s.mrcs"] * 5)
    assert fails(lambda: read_particles(path), "row 1", "counted from 1")


def test_unused_images_are_legal(data):
    particles = read_particles(star(data, rlnImageName=["3@s.mrcs"] * 6))
    assert torch.equal(particles[5], noise(6, 8, 8)[2])
    assert any("5 images" in note and "not used" in note for note in particles.notes)
    assert any("5 rows" in note and "earlier row" in note for note in particles.notes)


def test_contrast_transfer_asked_for_and_absent(data):
    path = star(data, rlnDefocusU=None, rlnDefocusV=None)
    particles = read_particles(path)
    assert particles.optics is None and any("rlnDefocusU, rlnDefocusV" in note for note in particles.notes)
    assert fails(lambda: read_particles(path, ctf=True), path, "asked for", "rlnDefocusU, rlnDefocusV")
    assert fails(lambda: read_particles(data / "s.mrcs", ctf=True), "asked for", "bare stack")
    rows = read_cs(data / "p.cs")
    kept = [name for name in rows.dtype.names if not name.startswith("ctf/df")]
    write_cs(np.array(rows[kept].tolist(), [(n, rows.dtype[n]) for n in kept]), data / "q.cs")
    assert fails(lambda: read_particles(data / "q.cs", ctf=True), "asked for", "ctf/df1_A", "passthrough")
    assert read_particles(data / "q.cs").optics is None
    assert read_particles(data / "p.star", ctf=True).optics is not None
    assert read_particles(data / "p.star", ctf=False).optics is None


@pytest.mark.parametrize("flag", ["rlnCtfDataAreCtfPremultiplied", "rlnCtfDataArePhaseFlipped"])
@pytest.mark.parametrize("block", ["optics", "particles"])
def test_images_whose_contrast_transfer_is_corrected_already(data, flag, block):
    """A model that multiplies by C once more would turn every second ring of coefficients round."""

    def path(value):
        return star(data, {flag: [value]}) if block == "optics" else star(data, **{flag: [value] * 6})

    assert read_particles(path(0)).optics is not None
    assert fails(lambda: read_particles(path(1)), data / "q.star", flag, "ctf=False", "--no-ctf")
    particles = read_particles(path(1), ctf=False)
    assert particles.optics is None and any(flag in note for note in particles.notes)


@pytest.mark.parametrize("bad", ["?", ".", "nan", "None", "1e999"])
def test_row_without_contrast_transfer(data, bad):
    path = star(data, rlnDefocusU=["12000"] * 4 + [bad, "1"])
    assert fails(lambda: read_particles(path), "rlnDefocusU", "row 5", bad)
    assert read_particles(path, ctf=False).optics is None


def test_mixed_pixel_sizes(data):
    two = {"rlnOpticsGroup": [1, 2], "rlnOpticsGroupName": ["a", "b"], "rlnVoltage": [300, 300], "rlnImageSize": [8, 8],
           "rlnSphericalAberration": [2.7] * 2, "rlnAmplitudeContrast": [0.1] * 2, "rlnImageDimensionality": [2, 2],
           "rlnImagePixelSize": [1.5, 1.6]}  # fmt: skip
    path = star(data, two, rlnOpticsGroup=[1, 1, 1, 2, 2, 2])
    assert fails(lambda: read_particles(path), path, "1.5", "1.6", "split the file", "--voxel")
    assert len(read_poses(path)[1]) == 6  # a table of poses may hold both
    pixels = {"rlnOriginXAngst": None, "rlnOriginX": [1.0] * 6, "rlnOriginY": [-2.0] * 6}
    shifts = read_poses(star(data, two, rlnOpticsGroup=[1, 1, 1, 2, 2, 2], **pixels))[1].shifts
    expected = torch.tensor([[-1.5, 3.0]] * 3 + [[-1.6, 3.2]] * 3, dtype=torch.float64)
    torch.testing.assert_close(shifts, expected)
    path = star(data, two, rlnOpticsGroup=[1, 1, 1, 2, 2, 2])
    assert read_particles(path, pixel_size=1.55).pixel_size == 1.55
    assert fails(lambda: read_particles(cs(data, blob_psize_A=[1.5, 1.5, 1.5, 1.5, 1.5, 1.6])), "1.5", "1.6")
    write_stack(noise(2, 8, 8), data / "t.mrcs", 1.7)
    assert fails(lambda: read_particles([data / "s.mrcs", data / "t.mrcs"]), "1.5", "1.7", "--voxel")


def test_mixed_box_sizes(data):
    write_stack(noise(6, 10, 10), data / "t.mrcs", 1.5)
    assert fails(lambda: read_particles([data / "s.mrcs", data / "t.mrcs"]), "s.mrcs", "8 x 8", "t.mrcs", "10 x 10")
    path = star(data, rlnImageName=["1@s.mrcs"] * 5 + ["1@t.mrcs"])
    assert fails(lambda: read_particles(path), "8 x 8", "10 x 10")
    path = star(data, {"rlnImageSize": None}, rlnImageSize=[8] * 5 + [10])
    assert fails(lambda: read_particles(path), "rlnImageSize", "8", "10")
    write_stack(noise(2, 8, 10), data / "u.mrcs", 1.5)
    assert fails(lambda: read_particles(data / "u.mrcs"), "8 x 10", "square")
    path = star(data, {"rlnImageSize": [12]})
    assert any("box of 12" in note and "8" in note for note in read_particles(path).notes)


def test_no_pixel_size(data):
    raw = bytearray((data / "s.mrcs").read_bytes())
    struct.pack_into("<fff", raw, 40, 0, 0, 0)
    (data / "s.mrcs").write_bytes(raw)
    assert read_particles(data / "p.star").pixel_size == 1.5
    path = star(data, {"rlnImagePixelSize": None})
    for call in (lambda: read_particles(path), lambda: read_particles(data / "s.mrcs")):
        assert fails(call, "no pixel size", "pixel_size=", "--voxel")
    assert read_particles(path, pixel_size=2.0).pixel_size == 2.0


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_pixel_sizes(data, size):
    for path in ("p.star", "p.cs", "s.mrcs"):
        assert fails(lambda path=path: read_particles(data / path, pixel_size=size), "pixel_size must be positive")
    if size <= 0:
        assert fails(lambda: read_particles(star(data, {"rlnImagePixelSize": [size]})), "rlnImagePixelSize", "positive")


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "1 of 64 pixels that are not finite"), (0.0, "constant")])
def test_images_that_are_not_finite_or_constant(data, value, word):
    images = noise(6, 8, 8).numpy()
    if value == 0:
        images[3] = 0
    else:
        images[3, 2, 2] = value
    raw = (data / "s.mrcs").read_bytes()[:1024] + images.astype("<f4").tobytes()
    (data / "s.mrcs").write_bytes(raw)
    assert fails(lambda: read_particles(data / "p.star"), "000004@s.mrcs", word)
    particles = read_particles(data / "p.star", check=0)
    assert torch.equal(particles[2], noise(6, 8, 8)[2])
    assert fails(lambda: particles[3], "000004@s.mrcs", word)


def test_public_names(data):
    import unpicked as up

    assert up.read_star is up.read_particles
    assert up.read_star(data / "p.star").names == up.read_particle_table(data / "p.star").names
    assert up.write_particles is write_particles


def test_one_image(data):
    write_stack(noise(1, 8, 8), data / "t.mrcs", 1.5)
    write_image(noise(8, 8), data / "one.mrc", 1.5)
    path = data / "one.star"
    write_star(path, {"particles": {"rlnImageName": ["one.mrc"]}})
    for name in ("t.mrcs", "one.mrc", "one.star"):
        particles = read_particles(data / name)
        assert len(particles) == 1 and particles.box == 8
        assert any("at least 5 images" in note for note in particles.notes)
    write_particles(data / "x.star", particles, Poses(torch.eye(3)[None], torch.zeros(1, 2)))
    assert len(read_particles(data / "x.star")) == 1


def test_volume_for_a_stack(data):
    write_map(Map(noise(8, 8, 8), 1.5), data / "v.mrc")
    assert fails(lambda: read_particles(data / "v.mrc"), "v.mrc", "a volume", "8 x 8 x 8", "expected a stack")
    path = star(data, rlnImageName=[f"{k}@v.mrc" for k in range(1, 7)])
    assert fails(lambda: read_particles(path), "v.mrc", "a volume")
    assert fails(lambda: read_particles(data / "p.star.txt"), "not found", error=FileNotFoundError)


def test_stack_that_its_header_calls_a_volume(data):
    with mrcfile.new(data / "w.mrc") as file:
        file.set_data(noise(6, 8, 8).numpy())
        file.set_volume()
        file.voxel_size = 1.5
    assert fails(lambda: read_particles(data / "w.mrc"), "a volume", "6 x 8 x 8", "name it .mrcs")
    found = read_particles(star(data, rlnImageName=[f"{k}@w.mrc" for k in range(1, 7)]))
    assert any("says volume" in note for note in found.notes) and torch.equal(found[5], noise(6, 8, 8)[5])


def test_truncated_and_compressed_stacks(data):
    raw = (data / "s.mrcs").read_bytes()
    particles = read_particles(data / "p.star")
    (data / "s.mrcs").write_bytes(raw[:-10])
    assert fails(lambda: particles[5], "truncated", "s.mrcs")
    assert fails(lambda: read_particles(data / "p.star"), "truncated", "s.mrcs")
    (data / "s.mrcs").write_bytes(gzip.compress(raw))
    assert fails(lambda: read_particles(data / "p.star"), "compressed", "unpack")
    (data / "s.mrcs").write_bytes(b"")
    assert fails(lambda: read_particles(data / "p.star"), "empty")


def test_file_that_changes_is_read_again(data):
    particles = read_particles(data / "p.star")
    assert torch.equal(particles[0], noise(6, 8, 8)[0])
    write_stack(noise(6, 8, 8, seed=1), data / "s.mrcs", 1.5, overwrite=True)
    assert torch.equal(particles[0], noise(6, 8, 8, seed=1)[0])


def test_star_of_something_else(data):
    write_star(data / "m.star", {"micrographs": {"rlnMicrographName": ["a.mrc"]}})
    assert fails(lambda: read_particles(data / "m.star"), "rlnImageName", "micrographs")
    assert fails(lambda: read_particles(star(data, {"rlnImageDimensionality": [3]})), "3 dimensions", "2-D")
    assert fails(lambda: read_particles(star(data, rlnImageName=["1@2@s.mrcs"] * 6)), "row 1", "000001@stack.mrcs")
    assert fails(lambda: read_particles(star(data, rlnOpticsGroup=[1, 1, 1, 1, 1, 9])), "row 6", "optics group 9")
    assert fails(lambda: read_particles(star(data, rlnAnglePsi=["x"] * 6)), "rlnAnglePsi", "row 1", "'x'")
    assert fails(lambda: read_particles([data / "p.star", data / "s.mrcs"]), "alone")
    assert fails(lambda: read_particles([data / "s.mrcs", data / "s.mrcs"]), "more than once")
    assert fails(lambda: read_particles(data / "p.star", passthrough=data / "p.cs"), "passthrough", "p.star")


def test_poses_and_halves_that_are_not_there(data):
    particles = read_particles(star(data, rlnAngleTilt=None, rlnRandomSubset=[0] * 6))
    assert particles.poses is None and particles.halves is None
    assert any("no poses" in note and "rlnAngleTilt" in note for note in particles.notes)
    assert any("rlnRandomSubset" in note and "not used" in note for note in particles.notes)
    still = star(data, rlnAngleRot=[0.0] * 6, rlnAngleTilt=[0.0] * 6, rlnAnglePsi=[0.0] * 6)
    assert any("never aligned" in note for note in read_particles(still).notes)


def test_junk_cs(data):
    path = data / "x.cs"
    for content, word in (
        (b"", "structured array"),
        (b"junk" * 50, "structured array"),
        (b"\x94CSDAT\x00", "compressed"),
        ((data / "p.cs").read_bytes()[:-5], "damaged"),
        (b"\x93NUMPY\x01\x00", "damaged"),
    ):
        path.write_bytes(content)
        assert fails(lambda: read_particles(path), path, word)
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    path.write_bytes(buffer.getvalue())
    assert fails(lambda: read_particles(path), path, "damaged")
    for array, word in (
        (np.zeros(3), "named fields"),
        (np.zeros(0, [("uid", "u8")]), "no rows"),
        (np.zeros(2, [("uid", "u8")]), "blob/path"),
    ):
        buffer = io.BytesIO()
        np.save(buffer, array)
        path.write_bytes(buffer.getvalue())
        assert fails(lambda: read_particles(path), path, word)


def test_cs_that_makes_no_sense(data):
    for changes, word in (
        ({"blob_sign": [1, 1, 1, 1, 1, 0]}, "1 or -1"),
        ({"blob_psize_A": [0.0] * 6}, "positive"),
        ({"alignments3D_pose": [[np.nan] * 3] * 6}, "row 1: alignments3D/pose must be finite"),
        ({"alignments3D_pose": [0.0] * 6}, "shape (3,)"),
        ({"alignments3D_psize_A": [0.0] * 6}, "psize_A must be positive"),
        ({"blob_path": [b"\xff\xfe"] * 6}, "UTF-8"),
        ({"blob_path": [b">"] * 6}, "names no file"),
        ({"blob_path": [1] * 6}, "must be text"),
        ({"blob_idx": [b"a"] * 6}, "blob/idx must hold numbers"),
        ({"blob_idx": [0.0, 1.5, 2.0, 3.0, 4.0, 5.0]}, "row 2: blob/idx must be a whole number from 0 on; got 1.5"),
        ({"blob_idx": [0, 1, -1, 3, 4, 5]}, "row 3: blob/idx must be a whole number from 0 on; got -1"),
        ({"ctf_accel_kv": [0.0] * 6}, "voltage_kv must be positive"),
    ):
        assert fails(lambda changes=changes: read_particles(cs(data, **changes)), word)


def test_passthrough_that_does_not_fit(data):
    other = read_cs(data / "p.cs")
    write_cs(other[:4], data / "y.cs")
    assert fails(lambda: read_particles(data / "p.cs", passthrough=data / "y.cs"), "lacks 2 of the 6")
    write_cs(other[[0, 0, 1, 2, 3, 4, 5]], data / "y.cs", overwrite=True)
    assert fails(lambda: read_particles(data / "p.cs", passthrough=data / "y.cs"), "uid of another row")
    write_cs(np.zeros(6, [("x", "f4")]), data / "y.cs", overwrite=True)
    assert fails(lambda: read_particles(data / "p.cs", passthrough=data / "y.cs"), "no field uid")


def test_writers_refuse_and_leave_nothing(data):
    particles = read_particles(data / "p.star")
    before = sorted(data.iterdir())
    poses = Poses(torch.eye(3).expand(5, 3, 3), torch.zeros(5, 2))
    assert fails(lambda: write_particles(data / "x.star", particles, poses), "poses", "6", "5")
    assert fails(lambda: write_particles(data / "x.star", particles, halves=[1, 2, 3] * 2), "1 and 2")
    assert fails(lambda: write_particles(data / "x.star", particles, columns={"a": [1]}), "column a", "6", "1")
    assert fails(lambda: write_particles(data / "x.txt", particles), ".star", ".cs")
    nan = Poses(torch.eye(3).expand(6, 3, 3), torch.full((6, 2), torch.nan))
    assert fails(lambda: write_particles(data / "x.star", particles, nan), "finite")
    assert fails(lambda: write_particles(data / "x.cs", particles, nan), "finite")
    assert fails(lambda: write_particles(data / "p.star", particles), "exists", error=FileExistsError)
    held = replace(particles, source=InMemory(particles.images()))
    assert fails(lambda: write_particles(data / "x.star", held, relocate=True), "relocate")
    images = noise(3, 4, 4)
    path = data / "x.mrcs"
    assert fails(lambda: write_stack_of(images, path, 4, 1.0), "3 images came, 4")
    assert fails(lambda: write_stack_of(images, path, 2, 1.0), "more images than the 2")
    assert fails(lambda: write_stack_of(images, path, 3, 0.0), "pixel size", "positive")
    assert fails(lambda: write_stack_of([], path, 0, 1.0), "at least 1")
    assert fails(lambda: write_stack_of([images[0], images[1, :3]], path, 2, 1.0), "image 2", "(4, 4)", "(3, 4)")
    assert fails(lambda: write_stack_of([images[0], images[1] / 0], path, 2, 1.0), "image 2", "16 of 16")
    assert fails(lambda: write_stack_of(images, data / "s.mrcs", 3, 1.0), "exists", error=FileExistsError)
    assert sorted(data.iterdir()) == before


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


WORDS = ["data_", "data_optics", "data_particles", "loop_", "_rlnImageName", "_rlnOpticsGroup", "_rlnDefocusU",
         "_rlnImagePixelSize", "_rlnImageSize", "_rlnAngleRot", "_rlnAngleTilt", "_rlnAnglePsi", "_rlnOriginX",
         "_rlnRandomSubset", "_rlnMagnification", "_rlnDetectorPixelSize", "1@s.mrcs", "99@s.mrcs", "@", "1", "0", "-3",
         "'", "#", "\n", "?", "nan", "1e999", "\0", "é"]  # fmt: skip


@FUZZ
@given(st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join))
def test_fuzzed_star(tmp_path, text):
    if not (tmp_path / "s.mrcs").exists():
        write_stack(noise(3, 6, 6), tmp_path / "s.mrcs", 1.5)
    path = tmp_path / "a.star"
    path.write_text(text, encoding="utf-8", errors="replace")
    assert only_plain_errors(lambda: read_particles(path))
    assert only_plain_errors(lambda: read_particle_table(path, pixel_size=1.5))


CELLS = st.one_of(
    st.sampled_from(["1", "2", "0", "-1", "3.5", "nan", "?", "x", "1e300", "[1,2]", "1@s.mrcs", "7@s.mrcs"])
)
COLUMNS = st.sampled_from([word[1:] for word in WORDS if word.startswith("_") and word != "_rlnImageName"])


@FUZZ
@given(
    st.dictionaries(COLUMNS, st.tuples(CELLS, CELLS), max_size=8),
    st.dictionaries(COLUMNS, st.tuples(CELLS), max_size=6),
    st.tuples(CELLS, CELLS),
)
def test_fuzzed_columns(tmp_path, rows, optics, names):
    if not (tmp_path / "s.mrcs").exists():
        write_stack(noise(3, 6, 6), tmp_path / "s.mrcs", 1.5)
    blocks = {"optics": optics} if optics else {}
    write_star(tmp_path / "a.star", {**blocks, "particles": {"rlnImageName": names, **rows}}, overwrite=True)
    assert only_plain_errors(lambda: read_particles(tmp_path / "a.star"))
    assert only_plain_errors(lambda: read_particles(tmp_path / "a.star", ctf=False, pixel_size=1.0))


@FUZZ
@given(st.binary(max_size=200), st.integers(0, 400))
def test_fuzzed_cs(tmp_path, data, place):
    rows = np.zeros(2, [("uid", "<u8"), ("blob/path", "S8"), ("blob/idx", "<u4"), ("blob/psize_A", "<f4")])
    buffer = io.BytesIO()
    np.save(buffer, rows)
    raw = bytearray(buffer.getvalue())
    raw[place : place + len(data)] = data
    path = tmp_path / "a.cs"
    path.write_bytes(raw)
    assert only_plain_errors(lambda: read_particles(path))


FIELDS = {
    "blob/idx": ("<i4", ()), "blob/psize_A": ("<f4", ()), "blob/sign": ("<f4", ()), "blob/shape": ("<i4", (2,)),
    "alignments3D/pose": ("<f4", (3,)), "alignments3D/shift": ("<f4", (2,)), "alignments3D/psize_A": ("<f8", ()),
    "alignments3D/split": ("<i4", ()), "ctf/df1_A": ("<f4", ()), "ctf/df2_A": (">f4", ()),
    "ctf/df_angle_rad": ("<f4", ()), "ctf/accel_kv": ("<f4", ()), "ctf/cs_mm": ("<f8", ()),
    "ctf/amp_contrast": ("<f4", ()), "ctf/tilt_A": ("<f4", (2,)),
}  # fmt: skip
VALUES = st.sampled_from([0, 1, 1, 1, 2, -1, 6, 300, 0.5, 1e30, -1e30, float("nan"), float("inf")])


@FUZZ
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), VALUES, max_size=15), st.binary(max_size=6), st.booleans())
def test_fuzzed_cs_fields(tmp_path, fields, name, right):
    """Any numbers in the known fields, any bytes as name: the particles, or one line."""
    if not (tmp_path / "s.mrcs").exists():
        write_stack(noise(3, 6, 6), tmp_path / "s.mrcs", 1.5)
    rows = np.zeros(2, [("uid", "<u8"), ("blob/path", "S8"), *((n, *FIELDS[n]) for n in ("blob/idx", *fields))][:2]
                    + [(n, *FIELDS[n]) for n in dict.fromkeys(("blob/idx", *fields))])  # fmt: skip
    rows["blob/path"] = b">s.mrcs" if right else name
    with np.errstate(all="ignore"):
        for field, value in fields.items():
            rows[field] = np.full(rows[field].shape, value).astype(FIELDS[field][0])
    write_cs(rows, tmp_path / "a.cs", overwrite=True)
    assert only_plain_errors(lambda: read_particle_table(tmp_path / "a.cs"))
    assert only_plain_errors(lambda: read_particles(tmp_path / "a.cs", pixel_size=1.0))


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)
TITLES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,10}", fullmatch=True).map(lambda title: f"my{title}")


@FUZZ
@given(
    st.dictionaries(TITLES, st.tuples(TEXT, TEXT, TEXT), max_size=4),
    st.permutations([1, 2, 3]),
    st.sampled_from(["particles", "images", ""]),
    st.sampled_from(["", "Angst"]),
    st.lists(st.floats(-1e4, 1e4), min_size=15, max_size=15),
)
def test_rows_are_kept_whatever_their_columns(tmp_path, columns, order, block, unit, numbers):
    """Unknown columns come back as they were, in the order of the file, and poses as they were given."""
    if not (tmp_path / "s.mrcs").exists():
        write_stack(noise(3, 6, 6), tmp_path / "s.mrcs", 1.5)
    columns = {title: values for title, values in columns.items() if not any({"'", '"'} <= set(v) for v in values)}
    names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", f"rlnOriginX{unit}", f"rlnOriginY{unit}")
    known = {name: numbers[3 * k : 3 * k + 3] for k, name in enumerate(names)}
    write_star(
        tmp_path / "a.star", {block: {"rlnImageName": [f"{k}@s.mrcs" for k in order], **known, **columns}},
        overwrite=True,
    )  # fmt: skip
    first = read_particles(tmp_path / "a.star")
    assert torch.equal(first.images(), noise(3, 6, 6)[torch.tensor(order) - 1])
    poses = Poses(random_rotations(3, torch.Generator().manual_seed(order[0])), torch.tensor(known[names[3]])[:, None]
                  * torch.tensor([1.0, -1.0], dtype=torch.float64))  # fmt: skip
    write_particles(tmp_path / "b.star", first, poses, overwrite=True)
    second = read_particles(tmp_path / "b.star")
    assert second.names == first.names and second.pixel_size == first.pixel_size
    torch.testing.assert_close(second.poses.rotations, poses.rotations, rtol=0, atol=1e-12)
    torch.testing.assert_close(second.poses.shifts, poses.shifts.double(), rtol=0, atol=1e-9)
    before, after = read_star(tmp_path / "a.star")[block], read_star(tmp_path / "b.star")["particles"]
    assert all(after.strings(title) == before.strings(title) == columns[title] for title in columns)
    assert set(before.names) <= set(after.names)
