"""Files made to do harm, or damaged so that they could: bombs, headers that claim too much, what other libraries say.

Each was found by ``benchmarks/fuzz.py``, of which some inputs are tried here as well.
"""

import bz2
import gzip
import hashlib
import io
import itertools
import logging
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from answers import fails, only_plain_errors
from unpicked import checkpoint
from unpicked._lazy import torch
from unpicked.cli import runs
from unpicked.cli.micrographs import gains_of_run
from unpicked.data import arrays
from unpicked.data.moments import Moments
from unpicked.io.convert import convert
from unpicked.io.cryosparc import read_cs
from unpicked.io.micrograph_table import read_micrograph_table
from unpicked.io.micrographs import read_micrographs
from unpicked.io.mrc import write_image
from unpicked.io.npy import read_array, read_signal
from unpicked.io.particles import read_particle_table
from unpicked.io.star import read_star
from unpicked.io.structure import read_structure
from unpicked.report import archives, reading

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MIB = 1 << 20
ROW = {"descr": [("uid", "<u8"), ("blob/path", "S8")], "fortran_order": False, "shape": (2,)}


def grown(call):
    """Bytes that a call allocates at its peak."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def npy(head, data=b"", version=1, length=None):
    """A ``.npy`` file whose header is any text, with any length."""
    text = head.encode("latin-1") if isinstance(head, str) else repr(head).encode()
    size = len(text) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", size) + text + data


def array(descr="<f8", shape=(4,)):
    return {"descr": descr, "fortran_order": False, "shape": shape}


def zipped(path, members, packing=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", packing) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        npy(array(shape=(2**40,)), bytes(32)),
        npy(array(shape=(2**62, 2**62)), bytes(32)),
        npy(array(shape=(-1,)), bytes(32)),
        npy(array(shape=(True,)), bytes(32)),
        npy(array(shape=4), bytes(32)),
        npy(array("|V0", (10**12,))),
        npy(array("|S0", (10**12,))),
        npy(array([("a", "|S0")], (10**12,))),
        npy(array("|O"), bytes(32)),
        npy(array(["x"]), bytes(32)),
        npy("{'descr': '<f8'", bytes(32)),
        npy("[" * 5000, bytes(32)),
        npy(array(), bytes(32), version=2, length=2**31),
        npy(array(), bytes(32), version=9),
        b"\x93NUMPY",
        b"PK\x03\x04" + bytes(40),
        b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    ],
    ids=itertools.count(),
)
def test_headers_of_arrays_that_claim_too_much(tmp_path, content):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    for read in (read_array, read_signal, read_cs):
        assert grown(lambda read=read: fails(lambda: read(path), path)) < MIB


def test_tables_that_python_2_wrote_are_read(tmp_path):
    path = tmp_path / "x.cs"
    path.write_bytes(npy(repr(ROW).replace("(2,)", "(2L,)"), bytes(32)))
    assert read_cs(path)["uid"].tolist() == [0, 0]


def test_types_by_names_that_numpy_gave_up(tmp_path):
    path = tmp_path / "x.cs"
    path.write_bytes(npy({**ROW, "descr": [("uid", "<u8"), ("blob/path", "|a8")]}, bytes(32)))
    assert only_plain_errors(lambda: read_cs(path))
    path.write_bytes(npy(repr(ROW).replace("blob/path", "blob\\d"), bytes(32)))
    assert read_cs(path).dtype.names == ("uid", "blob\\d")


def test_signalling_nan_is_told_as_nan(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(npy(array("<f4", (2,)), struct.pack("<II", 0x7F800001, 0x3F800000)))
    assert fails(lambda: read_array(path), path, "NaN")


def test_text_that_is_no_unicode(tmp_path):
    path = tmp_path / "x.cs"
    path.write_bytes(npy({**ROW, "descr": [("uid", "<u8"), ("blob/path", "<U1")], "shape": (1,)}, b"\xff" * 12))
    assert fails(lambda: read_cs(path), path, "no Unicode")


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_are_read_as_far_as_they_go(tmp_path, packing):
    good = npy(array(shape=(2, 2)), np.arange(4.0).tobytes())
    path = zipped(tmp_path / "x.npz", {"a.npy": good, "../b.npy": good}, packing)
    assert arrays.members(path, ("a", "c"))["a"].tolist() == [[0, 1], [2, 3]]
    assert list(tmp_path.iterdir()) == [path]  # nothing is unpacked to disk
    zipped(path, {"a.npy": npy(array(shape=(2**40,)), bytes(32))}, packing)
    assert fails(lambda: arrays.members(path, ["a"]), "its header needs 8796093022")


def test_archives_that_lie_about_their_sizes(tmp_path):
    path = zipped(tmp_path / "x.npz", {"kind.npy": npy(array(), bytes(32))})
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 20 : place + 28] = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(data)
    assert grown(lambda: fails(lambda: Moments.load(path), path, "claims more bytes")) < MIB
    zipped(path, {"kind.npy": bytes(4 * MIB)}, zipfile.ZIP_BZIP2)
    assert grown(lambda: fails(lambda: Moments.load(path), path, "unknown way")) < MIB


def test_damaged_archives_of_a_run(tmp_path):
    notes = []
    path = zipped(tmp_path / "patches.npz", {"patches.npy": npy(array("|S3", (1, 1, 1)), b"abc")})
    assert archives.patches(path, notes) is None and "patches of a wrong type" in notes[-1]
    path.write_bytes(path.read_bytes().replace(b"NUMPY", b"NUMPU"))
    assert archives.patches(path, notes) is None and "cannot be read" in notes[-1]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_bombs_of_text(tmp_path, pack):
    path = tmp_path / "x.star.gz"
    path.write_bytes(pack(b"\n" * (8 * MIB)))
    assert grown(lambda: fails(lambda: read_star(path), path, "256 times its size")) < 8 * MIB


def test_image_that_bzip2_must_not_hold(tmp_path):
    write_image(torch.randn(8, 8), tmp_path / "x.mrc", 1.0)
    head = bytearray((tmp_path / "x.mrc").read_bytes()[:1024])
    head[:8] = struct.pack("<ii", 2**14, 2**14)
    path = tmp_path / "x.mrc.bz2"
    path.write_bytes(bz2.compress(head))
    assert grown(lambda: fails(lambda: read_micrographs(path), path, str(2**30 + 1024))) < MIB


def test_pixels_are_turned_round_in_place(tmp_path):
    path = tmp_path / "x.mrc"
    write_image(torch.randn(512, 512), path, 1.0)
    micrographs = read_micrographs(path)
    assert grown(lambda: micrographs[0]) < 1.1 * path.stat().st_size


@pytest.fixture
def tiff(tmp_path):
    """A TIFF file with some tags set to something else."""
    package = pytest.importorskip("tifffile")

    def write(**options):
        path, values = tmp_path / "x.tif", np.arange(64, dtype="u1").reshape(8, 8)
        tags = options.pop("tags", {})
        package.imwrite(path, values, **options)
        data = bytearray(path.read_bytes())
        with package.TiffFile(path) as file:
            for name, value in tags.items():
                tag = file.pages.first.tags[name]
                data[tag.offset + 8 : tag.offset + 12] = struct.pack("<I", value)
                data[tag.offset + 2 : tag.offset + 4] = struct.pack("<H", 4)
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize(
    ("tags", "word"),
    [
        ({"ImageWidth": 2**20, "ImageLength": 2**20}, "truncated"),
        ({"StripByteCounts": 2**31}, "truncated"),
        ({"ImageWidth": 0, "ImageLength": 2**24}, "of shape"),
        ({"Compression": 34925}, "packed by method 34925"),
        ({"StripOffsets": 2**30}, "truncated"),
        ({"BitsPerSample": 7}, "damaged TIFF"),
    ],
)
def test_tiff_files_that_claim_too_much(tiff, tags, word, caplog):
    path = tiff(tags=tags)
    with caplog.at_level(logging.WARNING):
        assert grown(lambda: fails(lambda: read_micrographs(path, pixel_size=1.0)[0], path, word)) < MIB
    assert not caplog.records


def test_what_tifffile_logs_is_not_heard(tiff, capfd):
    path = tiff()
    path.write_bytes(path.read_bytes()[:-70])
    assert fails(lambda: read_micrographs(path, pixel_size=1.0)[0], path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("read", [read_particle_table, read_micrograph_table])
def test_pixels_larger_than_numbers_go(tmp_path, read):
    path = tmp_path / "x.star"
    names = "rlnImageName" if read is read_particle_table else "rlnMicrographName"
    path.write_text(f"data_\nloop_\n_{names}\n_rlnMagnification\n_rlnDetectorPixelSize\na.mrc 1e-320 7.5\n")
    assert fails(lambda: read(path), path, "rlnDetectorPixelSize", "positive", "inf")


def test_atoms_named_in_letters_of_two_bytes(tmp_path):
    path = tmp_path / "x.pdb"
    line = "ATOM      1  C?? ALA A   1       0.000   0.000   0.000  1.00 10.00           C\n"
    path.write_text(line.replace("?", "\N{NO-BREAK SPACE}"))
    assert len(read_structure(path)) == 1


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"figures": {}, "settings": [1]}', "\0", '{"seconds": 1' + "0" * 400 + "}"]
)
def test_results_that_are_none(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text)
    assert fails(lambda: runs.finished(tmp_path), path, "damaged")


def test_whitening_that_is_none(tmp_path):
    path = tmp_path / "whitening.json"
    path.write_text('{"curves": [[1, 1]], "group": [1e999]}')
    assert fails(lambda: gains_of_run(tmp_path), path, "damaged")


@pytest.mark.parametrize("data", [b"run,step\n\xff,1\n", b"run,step\n" + b"a" * 200_000 + b",1\n"])
def test_histories_that_are_none(tmp_path, data):
    path = tmp_path / "history.csv"
    path.write_bytes(data)
    assert fails(lambda: reading.read_history(path), path, "cannot be read as a table")


def test_checkpoint_that_torch_takes_for_something_else(tmp_path):
    path = tmp_path / "x.pt"
    checkpoint.save(path, "f", checkpoint.Checkpoint({"x": torch.ones(2)}, []))
    head, _, content = path.read_bytes().partition(b"\n")
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    zipped(path, {**members, f"{next(iter(members)).partition('/')[0]}/constants.pkl": b""})
    content = path.read_bytes()
    path.write_bytes(head[:-64] + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    assert fails(lambda: checkpoint.load(path, "f"), path, "not a readable checkpoint")


def test_checkpoint_that_is_a_stream(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(b"\x80\x02X\xff\xff\xff\x7f")
    assert grown(lambda: fails(lambda: checkpoint.load(path, "f"), path, "not a readable checkpoint")) < MIB


@pytest.mark.parametrize("column", ["ImageSize 1e30", "ImagePixelSize 1e300", "DefocusU 1e300", "OpticsGroup 1e30"])
def test_numbers_that_the_other_format_cannot_hold(tmp_path, column):
    names = ("ImagePixelSize", "DefocusU", "DefocusV", "DefocusAngle", "Voltage", "SphericalAberration")
    values = dict.fromkeys((*names, "AmplitudeContrast", "ImageSize"), "1") | dict([column.split()])
    head = "".join(f"_rln{name}\n" for name in ("ImageName", *values))
    (tmp_path / "x.star").write_text(f"data_\nloop_\n{head}1@a.mrcs {' '.join(values.values())}\n")
    out = tmp_path / "x.cs"
    assert fails(lambda: convert(tmp_path / "x.star", out), out, "too large for a .cs file")
    assert not out.exists()


def test_a_few_inputs_of_the_fuzzer(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import fuzz
    from fuzz_readers import readers

    said, found = fuzz.Said(), []
    for name, reader in readers(tmp_path).items():
        for number in range(8):
            data = fuzz.made(reader, name, 1, number)
            (tmp_path / reader.name).write_bytes(data)
            found += fuzz.attempt(reader, tmp_path / reader.name, len(data), said)[1]
    assert not found
