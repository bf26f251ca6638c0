"""Every bad input gives one line that says what is wrong; nothing gives anything else."""

import bz2
import gzip
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from answers import fails, only_plain_errors
from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.structure import Structure
from unpicked.io.micrographs import read_micrographs
from unpicked.io.mrc import (
    MrcSource,
    read_header,
    read_map,
    write_image,
    write_map,
    write_stack,
)
from unpicked.io.star import read_star, write_star
from unpicked.io.star_layouts import write_micrographs_star, write_particles_star
from unpicked.io.structure import read_structure

mrcfile = pytest.importorskip("mrcfile")


def image(path, shape=(12, 16), pixel=1.5, seed=0):
    write_image(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), path, pixel)
    return path


def header_bytes(path, changes):
    """Overwrite 4-byte words of a header: {word index from 0: int or float}."""
    data = bytearray(path.read_bytes())
    for word, value in changes.items():
        struct.pack_into("<f" if isinstance(value, float) else "<i", data, 4 * word, value)
    path.write_bytes(data)
    return path


def test_truncated_micrograph(tmp_path):
    path = image(tmp_path / "a.mrc")
    path.write_bytes(path.read_bytes()[:-10])
    assert fails(lambda: read_micrographs(path), "truncated", path, 1024 + 12 * 16 * 4, 1024 + 12 * 16 * 4 - 10)


def test_truncated_between_header_and_read(tmp_path):
    path = image(tmp_path / "a.mrc")
    mics = read_micrographs(path)
    path.write_bytes(path.read_bytes()[:-10])
    assert fails(lambda: mics[0], "truncated", path)


@pytest.mark.parametrize("cut", [5, 40, 700])
def test_truncated_gzip(tmp_path, cut):
    path = image(tmp_path / "a.mrc.gz", (40, 40))
    path.write_bytes(path.read_bytes()[:-cut])
    assert fails(lambda: read_micrographs(path)[0], "damaged gzip", path)


def test_gzip_of_a_truncated_file(tmp_path):
    plain = image(tmp_path / "a.mrc")
    path = tmp_path / "b.mrc.gz"
    path.write_bytes(gzip.compress(plain.read_bytes()[:-10]))
    assert fails(lambda: read_micrographs(path)[0], "truncated", path)


def test_damaged_bzip2(tmp_path):
    path = image(tmp_path / "a.mrc.bz2")
    path.write_bytes(path.read_bytes()[:60])
    assert fails(lambda: read_micrographs(path)[0], "damaged bzip2", path)


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff" * 5000, b"hello world " * 500, bytes(4096)])
@pytest.mark.parametrize("read", [read_map, read_micrographs])
def test_junk(tmp_path, content, read):
    path = tmp_path / "junk.mrc"
    path.write_bytes(content)
    assert fails(lambda: read(path), path, "MRC file")


def test_nan_micrograph_says_how_many(tmp_path):
    values = np.zeros((12, 16), np.float32)
    values[3, 4:9] = np.nan
    values[5, 5] = np.inf
    path = tmp_path / "nan.mrc"
    with pytest.warns(RuntimeWarning), mrcfile.new(path) as file:
        file.set_data(values)
        file.voxel_size = 1.2
    assert fails(lambda: read_micrographs(path)[0], path, "6 pixels", "not finite")


def test_nan_map(tmp_path):
    values = np.zeros((4, 4, 4), np.float32)
    values[1, 1, 1] = np.nan
    path = tmp_path / "nan.mrc"
    with pytest.warns(RuntimeWarning), mrcfile.new(path) as file:
        file.set_data(values)
        file.voxel_size = 1.2
    assert fails(lambda: read_map(path), path, "1 voxels", "not finite")


def test_constant_micrograph(tmp_path):
    path = tmp_path / "flat.mrc"
    write_image(torch.full((8, 8), 3.0), path, 1.2)
    assert fails(lambda: read_micrographs(path)[0], path, "constant", "3")


def test_zero_voxel_size(tmp_path):
    path = header_bytes(image(tmp_path / "a.mrc"), {10: 0.0, 11: 0.0})
    assert fails(lambda: read_micrographs(path), path, "no pixel size", "--pixel-size")
    assert read_micrographs(path, pixel_size=2.0).pixel_size == 2.0
    cube = tmp_path / "m.mrc"
    write_map(Map(torch.ones(4, 4, 4), 2.0), cube)
    header_bytes(cube, {10: 0.0})
    assert fails(lambda: read_map(cube), cube, "no voxel size", "--map-voxel")
    assert read_map(cube, voxel_size=3.0).voxel_size == 3.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -3.0])
def test_senseless_voxel_size(tmp_path, bad):
    path = header_bytes(image(tmp_path / "a.mrc"), {10: bad})
    assert fails(lambda: read_micrographs(path), path, "no pixel size")


def test_anisotropic_voxels(tmp_path):
    path = header_bytes(image(tmp_path / "a.mrc"), {10: 30.0})
    assert fails(lambda: read_micrographs(path), path, "1.875", "1.5")


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_overrides(tmp_path, size):
    path = image(tmp_path / "a.mrc")
    assert fails(lambda: read_micrographs(path, pixel_size=size), "pixel_size must be positive")
    write_map(Map(torch.ones(4, 4, 4), 2.0), tmp_path / "m.mrc")
    assert fails(lambda: read_map(tmp_path / "m.mrc", voxel_size=size), "voxel_size must be positive")
    assert fails(lambda: write_image(torch.ones(4, 4), tmp_path / "x.mrc", size), "must be positive")


def test_contradictory_sizes(tmp_path):
    image(tmp_path / "a.mrc", (12, 16))
    image(tmp_path / "b.mrc", (16, 12))
    assert fails(lambda: read_micrographs(tmp_path), "a.mrc", "b.mrc", "12 x 16", "16 x 12")


def test_contradictory_pixel_sizes(tmp_path):
    image(tmp_path / "a.mrc", pixel=1.0)
    image(tmp_path / "b.mrc", pixel=1.1)
    assert fails(lambda: read_micrographs(tmp_path), "a.mrc", "b.mrc", "1 A", "1.1 A")
    assert read_micrographs(tmp_path, pixel_size=1.0).pixel_size == 1.0


def test_stack_given_as_micrograph(tmp_path):
    path = tmp_path / "stack.mrc"
    write_stack(torch.randn(3, 8, 8), path, 1.5)
    assert fails(lambda: read_micrographs(path), path, "stack", "3 x 8 x 8", "one micrograph")


def test_volume_given_as_micrograph(tmp_path):
    path = tmp_path / "volume.mrc"
    write_map(Map(torch.randn(8, 8, 8), 1.5), path)
    assert fails(lambda: read_micrographs(path), path, "a volume", "8 x 8 x 8")


def test_non_cubic_map(tmp_path):
    path = tmp_path / "block.mrc"
    with mrcfile.new(path) as file:
        file.set_data(np.ones((4, 6, 8), np.float32))
        file.set_volume()
        file.voxel_size = 1.5
    assert fails(lambda: read_map(path), path, "4 x 6 x 8", "cubic")


def test_non_cubic_shared_map(shared_data):
    path = shared_data("maps/50S-vol.mrc")
    assert fails(lambda: read_map(path), path, "128 x 32 x 32", "cubic")
    assert read_header(path).shape == (128, 32, 32)


def test_image_given_as_map(tmp_path):
    assert fails(lambda: read_map(image(tmp_path / "a.mrc")), "one image (12 x 16)", "cubic")


def test_cubic_image_stack_given_as_map(tmp_path):
    write_stack(torch.randn(4, 4, 4), tmp_path / "a.mrcs", 1.5)
    assert fails(lambda: read_map(tmp_path / "a.mrcs"), "image stack", "expected a map")


@pytest.mark.parametrize("mode", [3, 4, 101])
def test_unsupported_mode_by_name(tmp_path, mode):
    path = header_bytes(image(tmp_path / "a.mrc"), {3: mode})
    assert fails(lambda: read_micrographs(path), path, f"mode {mode}", "float32")


def test_existing_output(tmp_path):
    path = image(tmp_path / "a.mrc")
    before = path.read_bytes()
    star = tmp_path / "a.star"
    write_star(star, {"x": {"a": [1]}})
    cube = Map(torch.ones(4, 4, 4), 1.0)
    for call in (
        lambda: write_map(cube, path),
        lambda: write_image(torch.ones(4, 4), path, 1.0),
        lambda: write_stack(torch.ones(2, 4, 4), path, 1.0),
        lambda: write_star(star, {"x": {"a": [2]}}),
        lambda: write_micrographs_star(star, ["m"], 1.0),
        lambda: write_particles_star(star, ["m"], torch.zeros(1, 2), torch.eye(3)[None], 1.0, 8),
    ):
        assert fails(call, "exists", "overwrite", error=FileExistsError)
    assert path.read_bytes() == before
    write_map(cube, path, overwrite=True)
    assert read_map(path).box == 4


def test_failed_output_leaves_nothing(tmp_path):
    assert fails(lambda: write_image(torch.full((4, 4), torch.nan), tmp_path / "a.mrc", 1.0), "16 of 16", "not finite")
    assert fails(lambda: write_image(torch.ones(4, 4, 4), tmp_path / "a.mrc", 1.0), "(height, width)")
    assert fails(lambda: write_stack(torch.ones(4, 4), tmp_path / "a.mrc", 1.0), "(n, height, width)")
    assert fails(lambda: write_image(torch.ones(0, 4), tmp_path / "a.mrc", 1.0), "nothing to write")
    assert fails(lambda: write_image(torch.ones(4, 4), tmp_path / "no" / "a.mrc", 1.0), "no", error=FileNotFoundError)
    assert fails(lambda: write_image(torch.ones(4, 4), tmp_path, 1.0), "is a folder")
    assert fails(lambda: write_image(torch.ones(4, 4), tmp_path / "a.mrc", 1.0, contrast="black"), "'dark' or 'bright'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.mrc", "a.mrc.gz"])
def test_hostile_header_fails_fast_without_allocating(tmp_path, name):
    plain = header_bytes(image(tmp_path / "p.mrc"), {0: 2**31 - 1, 1: 2**31 - 1, 2: 1})
    path = tmp_path / name
    path.write_bytes(gzip.compress(plain.read_bytes()) if name.endswith("gz") else plain.read_bytes())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert fails(lambda: read_micrographs(path), "truncated", path, (2**31 - 1) ** 2 * 4 + 1024)
    assert fails(lambda: read_map(path), "truncated", path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # kB


def test_hostile_compressed_header_is_read_in_pieces(tmp_path):
    plain = header_bytes(image(tmp_path / "p.mrc"), {0: 2**15, 1: 2**15})
    path = tmp_path / "a.mrc.bz2"
    path.write_bytes(bz2.compress(plain.read_bytes()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert fails(lambda: read_micrographs(path)[0], "truncated", path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 * 1024


def test_missing_inputs(tmp_path):
    assert fails(lambda: read_micrographs(tmp_path / "no.mrc"), "no.mrc", "not found", error=FileNotFoundError)
    assert fails(lambda: read_map(tmp_path / "no.mrc"), "no.mrc", "not found", error=FileNotFoundError)
    assert fails(lambda: read_star(tmp_path / "no.star"), "no.star", "not found", error=FileNotFoundError)
    assert fails(lambda: read_structure(tmp_path / "no.pdb"), "no.pdb", "not found", error=FileNotFoundError)
    assert fails(lambda: read_micrographs(tmp_path), tmp_path, "no micrographs", error=FileNotFoundError)
    assert fails(lambda: read_micrographs(f"{tmp_path}/*.mrc"), "no file matches", error=FileNotFoundError)
    assert fails(lambda: read_micrographs([]), "at least one")
    assert fails(lambda: MrcSource(()), "at least one")
    assert fails(lambda: read_map(tmp_path), "is a folder")


def test_same_micrograph_twice(tmp_path):
    path = image(tmp_path / "a.mrc")
    assert fails(lambda: read_micrographs([path, tmp_path]), "more than once", path)


def test_bad_contrast(tmp_path):
    path = image(tmp_path / "a.mrc")
    assert fails(lambda: read_micrographs(path, contrast="black"), "'dark' or 'bright'", "black")


MICROGRAPHS = "data_micrographs\n\nloop_\n_rlnMicrographName #1\n"


def star(tmp_path, text):
    path = tmp_path / "m.star"
    path.write_text(text)
    return path


def test_missing_file_in_star(tmp_path, monkeypatch):
    image(tmp_path / "a.mrc")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    path = star(tmp_path, MICROGRAPHS + "a.mrc\nb.mrc\n")
    places = (tmp_path / "b.mrc", tmp_path / "cwd" / "b.mrc")
    assert fails(lambda: read_micrographs(path), path, "row 2", *places, error=FileNotFoundError)


def test_empty_star(tmp_path):
    assert fails(lambda: read_star(star(tmp_path, "")), "empty")
    assert fails(lambda: read_star(star(tmp_path, "# only a comment\n")), "no table")
    assert fails(lambda: read_micrographs(star(tmp_path, MICROGRAPHS)), "line 3", "no rows")


def test_ragged_star_names_the_row(tmp_path):
    text = "\ndata_x\n\nloop_\n_a #1\n_b #2\n1 2\n3 'x y'\n4\n5 6\n"
    assert fails(lambda: read_star(star(tmp_path, text)), "line 9", "1 values", "2 columns")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("junk\n", "line 1"),
        ("data_a\n_b 1\n\njunk junk\n", "line 4"),
        ("data_a\n_b\n", "line 2"),
        ("data_a\nloop_\n_b\n'open\n", "line 4"),
        ("data_a\nloop_\n_b\n_b\n1 2\n", "line 2"),
        ("data_a\n_b 1\nloop_\n_c\n2\n", "line 3"),
        ("data_a\n_b 1\ndata_a\n_c 1\n", "duplicate"),
    ],
)
def test_junk_star(tmp_path, text, line):
    assert fails(lambda: read_star(star(tmp_path, text)), "m.star", line)


def test_binary_star(tmp_path):
    path = tmp_path / "m.star"
    path.write_bytes(b"\xff\xfe\x00\x01" * 100)
    assert fails(lambda: read_star(path), path, "not a text file")


def test_star_of_something_else(tmp_path):
    image(tmp_path / "a.mrc")
    assert fails(lambda: read_micrographs(star(tmp_path, "data_x\n_b 1\n")), "no micrographs", "rlnMicrographName")
    text = "data_particles\nloop_\n_rlnMicrographName\n_rlnImageName\na.mrc 1@b.mrcs\n"
    assert fails(lambda: read_micrographs(star(tmp_path, text)), "particles")
    assert fails(lambda: read_micrographs(star(tmp_path, MICROGRAPHS + "a.mrc\na.mrc\n")), "more than once")
    path = star(tmp_path, MICROGRAPHS + "a.mrc\n")
    assert fails(lambda: read_micrographs([path, tmp_path / "a.mrc"]), "alone")


def test_star_optics_that_do_not_fit(tmp_path):
    image(tmp_path / "a.mrc")
    image(tmp_path / "b.mrc")
    optics = "data_optics\nloop_\n_rlnOpticsGroup\n_rlnMicrographPixelSize\n"
    body = "data_micrographs\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\na.mrc 1\nb.mrc 2\n"
    assert fails(lambda: read_micrographs(star(tmp_path, optics + "1 1.5\n" + body)), "row 2", "optics group 2")
    assert fails(lambda: read_micrographs(star(tmp_path, optics + "1 1.5\n2 1.6\n" + body)), "1.5", "1.6")
    assert fails(lambda: read_micrographs(star(tmp_path, optics + "1 0\n2 0\n" + body)), "must be positive")
    assert fails(lambda: read_micrographs(star(tmp_path, optics + "1 x\n2 0\n" + body)), "row 1", "'x'")


def test_star_writer_refuses(tmp_path):
    path = tmp_path / "x.star"
    assert fails(lambda: write_star(path, {}), "at least one")
    assert fails(lambda: write_star(path, {"x": {"a": []}}), "no rows")
    assert fails(lambda: write_star(path, {"x": {"a": [1, 2], "b": [1]}}), "a: 2", "b: 1")
    assert fails(lambda: write_star(path, {"x": {"a": [float("nan")]}}), "finite", "nan")
    assert fails(lambda: write_star(path, {"x": {"a": ["one\ntwo"]}}), "control characters")
    assert fails(lambda: write_star(path, {"x": {"a b": [1]}}), "without spaces")
    assert fails(lambda: write_star(path, {"x": {"a": ["""mixed ' and " marks' " x"""]}}), "quotes")
    eye = torch.eye(3)[None]
    assert fails(lambda: write_particles_star(path, ["m"], torch.zeros(2, 2), eye, 1.0, 8), "(1, 2)", "(2, 2)")
    assert fails(lambda: write_particles_star(path, ["m"], torch.zeros(1, 2), eye[0], 1.0, 8), "(1, 3, 3)")
    assert fails(lambda: write_particles_star(path, [], torch.zeros(0, 2), eye[:0], 1.0, 8), "no particles")
    assert fails(lambda: write_particles_star(path, ["m"], torch.zeros(1, 2), eye, 0.0, 8), "pixel_size")
    assert not path.exists()


@pytest.mark.parametrize("name", ["a.pdb", "a.cif", "a.txt"])
@pytest.mark.parametrize("content", [b"", b"junk\n", bytes(range(256)) * 4, b"data_x\n_a 1\n", b"END\n", b"data_x\n"])
def test_junk_structure(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert fails(lambda: read_structure(path), path)


def test_structure_of_water_only(tmp_path):
    path = tmp_path / "w.pdb"
    path.write_text("HETATM    1  O   HOH A   1       0.000   0.000   0.000  1.00 10.00           O\n")
    assert fails(lambda: read_structure(path), path, "no heavy atom")


def test_structure_record_checks():
    one = torch.zeros(1)
    assert fails(lambda: Structure((), torch.zeros(0, 3), one[:0], one[:0]), "at least one atom")
    assert fails(lambda: Structure(("C",), torch.zeros(1, 2), one, one), "positions", "(1, 3)", "(1, 2)")
    assert fails(lambda: Structure(("C",), torch.full((1, 3), torch.nan), one, one), "finite")


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@FUZZ
@given(st.dictionaries(st.integers(0, 60), st.one_of(st.integers(-2, 20), st.integers(-(2**31), 2**31 - 1))))
def test_fuzzed_header_words(tmp_path, changes):
    path = tmp_path / "a.mrc"
    write_image(torch.arange(16.0).reshape(4, 4), path, 1.0, overwrite=True)
    header_bytes(path, changes)
    assert only_plain_errors(lambda: read_micrographs(path)[0])
    assert only_plain_errors(lambda: read_map(path))


@FUZZ
@given(st.binary(min_size=900, max_size=1100), st.integers(0, 2))
def test_fuzzed_header_bytes(tmp_path, data, start):
    path = tmp_path / "a.mrc"
    path.write_bytes((b"", b"\x1f\x8b\x08", b"BZh9")[start] + data)
    assert only_plain_errors(lambda: read_micrographs(path)[0])


STAR_PIECES = ["data_", "data_optics", "data_x", "loop_", "_rlnMicrographName", "_rlnOpticsGroup",
               "_rlnDefocusU", "a.mrc", "1", "'", '"', "#", ";", "\n", "\n;", " ", "\t", "?", ".",
               "nan", "1e999",
               "\0", "é", "save_a", "global_", "stop_", "$f"]  # fmt: skip


@FUZZ
@given(st.one_of(st.text(max_size=80), st.lists(st.sampled_from(STAR_PIECES), max_size=30).map(" ".join)))
def test_fuzzed_star(tmp_path, text):
    path = tmp_path / "a.star"
    path.write_text(text, encoding="utf-8", errors="replace")
    assert only_plain_errors(lambda: read_star(path))
    assert only_plain_errors(lambda: read_micrographs(path))


ATOM_PIECES = ["ATOM  ", "HETATM", "    1", "  CA ", " ALA", " A", "  1", "   0.000", "MODEL", "\n",
               "data_a\n", "loop_\n", "_atom_site.id\n", "END", " C", "nan", "A" * 30]  # fmt: skip


@FUZZ
@given(st.lists(st.sampled_from(ATOM_PIECES), max_size=40))
def test_fuzzed_structure(tmp_path, pieces):
    path: Path = tmp_path / "a.pdb"
    path.write_text("".join(pieces))
    assert only_plain_errors(lambda: read_structure(path))
