"""Micrographs with contrast transfer that make no sense: one line each that says what is wrong, and exit status 2."""

import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from answers import answered, fails, is_refused, only_plain_errors
from unpicked._lazy import torch
from unpicked.io.cryosparc import write_cs
from unpicked.io.micrographs import read_micrographs
from unpicked.io.mrc import write_image
from unpicked.io.star import write_star

ROW = "{} 12000 11000 30 0.0 0.1 5.0\n"
HEAD = "# Pixel size: 1.5 Angstroms ; acceleration voltage: 300.0 keV ; spherical aberration: 2.70 mm ; "
HEAD += "amplitude contrast: 0.10\n"


@pytest.fixture
def two(tmp_path):
    for k in range(2):
        write_image(torch.randn(8, 8, generator=torch.Generator().manual_seed(k)), tmp_path / f"m{k}.mrc", 1.5)
    return tmp_path


def star(folder, **columns):
    default = {
        "rlnMicrographName": ["m0.mrc", "m1.mrc"], "rlnDefocusU": [9000.0, 8000.0], "rlnDefocusV": [9000.0, 8000.0],
        "rlnDefocusAngle": [0.0, 0.0], "rlnVoltage": [300.0] * 2, "rlnSphericalAberration": [2.7] * 2,
        "rlnAmplitudeContrast": [0.1] * 2,
    }  # fmt: skip
    write_star(folder / "m.star", {"": default | columns}, overwrite=True)
    return folder / "m.star"


def exposures(folder, **changes):
    fields = {
        "uid": np.arange(2, dtype="<u8"), "micrograph_blob/path": np.array([b"m0.mrc", b"m1.mrc"]),
        "micrograph_blob/psize_A": np.full(2, 1.5, "<f4"), "ctf/df1_A": np.array([9000, 8000], "<f4"),
        "ctf/df2_A": np.array([9000, 8000], "<f4"), "ctf/df_angle_rad": np.zeros(2, "<f4"),
        "ctf/accel_kv": np.full(2, 300, "<f4"), "ctf/cs_mm": np.full(2, 2.7, "<f4"),
        "ctf/amp_contrast": np.full(2, 0.1, "<f4"),
    } | {name.replace("__", "/"): value for name, value in changes.items()}  # fmt: skip
    fields = {name: np.asarray(value) for name, value in fields.items() if value is not None}
    rows = np.zeros(2, [(name, value.dtype, value.shape[1:]) for name, value in fields.items()])
    for name, value in fields.items():
        rows[name] = value
    write_cs(rows, folder / "m.cs", overwrite=True)
    return folder / "m.cs"


@pytest.mark.parametrize("value", ["None", "nan", ".", 0.0])
def test_rows_without_contrast_transfer_while_others_have(two, value):
    path = star(two, rlnDefocusU=[9000.0, value], rlnDefocusV=[9000.0, value])
    assert fails(lambda: read_micrographs(path), path, "1 of 2", "row 2", "m1.mrc", "no contrast transfer")
    number = np.nan if isinstance(value, str) else value
    path = exposures(two, ctf__df1_A=np.array([9000, number], "<f4"), ctf__df2_A=np.array([9000, number], "<f4"))
    assert fails(lambda: read_micrographs(path), path, "1 of 2", "row 2", "m1.mrc", "no contrast transfer")


def test_values_that_are_no_numbers(two):
    assert fails(lambda: read_micrographs(star(two, rlnDefocusU=[9000.0, "x"])), "rlnDefocusU", "row 2", "'x'")
    assert fails(lambda: read_micrographs(star(two, rlnVoltage=["300", "x"])), "rlnVoltage", "row 2", "'x'")
    assert fails(lambda: read_micrographs(star(two, rlnVoltage=[0.0, 0.0])), "voltage_kv must be positive")
    angle = np.array([0, np.inf], "<f4")
    assert fails(lambda: read_micrographs(exposures(two, ctf__df_angle_rad=angle)), "row 2", "df_angle_rad", "finite")


def test_missing_micrograph(two):
    (two / "m1.mrc").unlink()
    for path in (star(two), exposures(two)):
        assert fails(lambda path=path: read_micrographs(path), path, "row 2", "m1.mrc", error=FileNotFoundError)


def test_mixed_sizes_and_pixel_sizes(two):
    write_image(torch.randn(8, 10), two / "m1.mrc", 1.5, overwrite=True)
    for path in (star(two), exposures(two)):
        assert fails(lambda path=path: read_micrographs(path), "one size", "8 x 8", "8 x 10")
    write_image(torch.randn(8, 8), two / "m1.mrc", 1.6, overwrite=True)
    assert fails(lambda: read_micrographs(star(two)), "one pixel size", "1.5", "1.6")
    path = exposures(two, micrograph_blob__psize_A=np.array([1.5, 1.6], "<f4"))
    assert fails(lambda: read_micrographs(path), path, "micrograph_blob/psize_A goes from 1.5 to 1.6")
    path = exposures(two, micrograph_blob__psize_A=np.zeros(2, "<f4"))
    assert fails(lambda: read_micrographs(path), path, "must be positive")


def test_cs_without_micrographs(two):
    path = exposures(two, micrograph_blob__path=None)
    assert fails(lambda: read_micrographs(path), path, "micrograph_blob/path", "passthrough")
    path = exposures(two, micrograph_blob__path=None, blob__path=np.array([b"a", b"b"]))
    assert fails(lambda: read_micrographs(path), "particle images")
    path = exposures(two, micrograph_blob__path=None, movie_blob__path=np.array([b"a", b"b"]))
    assert fails(lambda: read_micrographs(path), "movies")
    path = exposures(two, micrograph_blob__path=np.array([b"m0.mrc", b"m0.mrc"]))
    assert fails(lambda: read_micrographs(path), "m0.mrc more than once")
    assert fails(lambda: read_micrographs(star(two), passthrough=path), "passthrough", ".cs file")
    assert fails(lambda: read_micrographs(two / "m0.mrc", passthrough=path), "passthrough", ".cs file")
    assert fails(lambda: read_micrographs([path, two / "m0.mrc"]), "alone")
    (two / "junk.cs").write_bytes(b"junk")
    assert fails(lambda: read_micrographs(two / "junk.cs"), "junk.cs", "structured array")


def test_ctffind_that_does_not_fit(two):
    path, mics = two / "all.txt", [two / "m0.mrc", two / "m1.mrc"]

    def refused(text, *words):
        path.write_text(text)
        return fails(lambda: read_micrographs(mics, ctf=path), path, *words)

    assert refused(HEAD + "".join(ROW.format(k) for k in (1, 2, 3)), "3 rows for 2 micrographs")
    assert refused(HEAD + ROW.format(1), "1 rows for 2 micrographs")
    assert refused(HEAD, "no fit")
    assert refused("", "no fit")
    assert refused(HEAD + ROW.format(1) + "2 1 2\n", "line 3", "expected 7 numbers", "2 1 2")
    assert refused(HEAD + ROW.format(1) + "2 x 2 3 4 5 6\n", "line 3", "expected 7 numbers")
    assert refused(HEAD + ROW.format(1) + "2 nan 2 3 4 5 6\n", "line 3", "defocus 1 must be a finite number")
    assert refused(HEAD + ROW.format(1) + "2 0 0 0 0 0 0\n", "line 3", "defocus is 0")
    assert refused(ROW.format(1) + ROW.format(2), "rlnVoltage", "voltage_kv=", "--voltage")
    path.write_bytes(b"\xff\xfe\x00")
    assert fails(lambda: read_micrographs(mics, ctf=path), path, "not a text file")
    assert fails(lambda: read_micrographs(mics, ctf=two / "no.txt"), "no.txt", "not found", error=FileNotFoundError)
    (two / "empty").mkdir()
    assert fails(lambda: read_micrographs(mics, ctf=two / "empty"), "no text files", error=FileNotFoundError)


def test_ctffind_files_that_belong_to_nothing(two):
    (two / "ctf").mkdir()
    mics = [two / "m0.mrc", two / "m1.mrc"]
    (two / "ctf" / "m0.txt").write_text(HEAD + ROW.format(1))
    assert fails(lambda: read_micrographs(mics, ctf=two / "ctf"), "1 of 2", "m1.mrc", "m1.txt")
    (two / "ctf" / "m1_b.txt").write_text(HEAD + ROW.format(1))
    (two / "other.txt").write_text(HEAD + ROW.format(1))
    assert fails(lambda: read_micrographs(mics, ctf=[*(two / "ctf").iterdir(), two / "other.txt"]), "other.txt", "none")
    (two / "ctf" / "m1_c.txt").write_text(HEAD + ROW.format(1))
    assert fails(lambda: read_micrographs(mics, ctf=two / "ctf"), "m1_b.txt", "m1_c.txt", "both")
    (two / "ctf" / "m1_c.txt").unlink()
    (two / "ctf" / "m1_b.txt").write_text(HEAD + ROW.format(1) + ROW.format(2))
    assert fails(lambda: read_micrographs(mics, ctf=two / "ctf"), "2 rows", "m1.mrc")


def test_microscope_without_a_defocus(two):
    assert fails(lambda: read_micrographs(two / "m0.mrc", voltage_kv=300), "--ctf")


def test_tiff_without_the_package(two, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    (two / "a.tif").write_bytes(b"II*\x00")
    assert fails(lambda: read_micrographs(two / "a.tif", pixel_size=1.0), "a.tif", "unpicked[tiff]", "tif2mrc")
    assert fails(lambda: read_micrographs([two / "a.tif", two / "m0.mrc"], pixel_size=1.0), "one format")


def test_tiff_that_makes_no_sense(two):
    tifffile = pytest.importorskip("tifffile")
    path = two / "a.tif"
    path.write_bytes(b"junk" * 100)
    assert fails(lambda: read_micrographs(path, pixel_size=1.0), path, "not a TIFF file")
    tifffile.imwrite(path, np.arange(128, dtype="f4").reshape(2, 8, 8))
    assert fails(lambda: read_micrographs(path, pixel_size=1.0), path, "2 frames")
    tifffile.imwrite(path, np.zeros((8, 8, 3), "u1"), photometric="rgb")
    assert fails(lambda: read_micrographs(path, pixel_size=1.0), path, "8 x 8 x 3")
    tifffile.imwrite(path, np.zeros((8, 8), "u1"))
    assert fails(lambda: read_micrographs(path), path, "--pixel-size")
    assert fails(lambda: read_micrographs(path, pixel_size=1.0)[0], path, "constant")
    tifffile.imwrite(two / "b.tif", np.zeros((8, 9), "u1"))
    assert fails(lambda: read_micrographs([path, two / "b.tif"], pixel_size=1.0), "one size", "8 x 8", "8 x 9")


def test_the_command_answers_in_one_line(two, capsys):
    command = ("reconstruct", "micrographs")
    job = ("--box", 4, "--out", two / "run")
    path = star(two, rlnDefocusU=[9000.0, 0.0], rlnDefocusV=[9000.0, 0.0])
    assert is_refused(answered(capsys, *command, path, *job), "1 of 2", "m1.mrc")
    (two / "all.txt").write_text(HEAD + ROW.format(1))
    answer = answered(capsys, *command, two / "m0.mrc", two / "m1.mrc", "--ctf", two / "all.txt", *job)
    assert is_refused(answer, "1 rows for 2 micrographs")
    assert is_refused(answered(capsys, *command, exposures(two, micrograph_blob__path=None), *job), "lists no")
    (two / "m1.mrc").unlink()
    assert is_refused(answered(capsys, *command, exposures(two), *job), "row 2", "not found")
    assert not (two / "run").exists()


def test_microscope_that_is_not_known_is_told_with_what_to_give(two):
    write_star(two / "n.star", {"": {"rlnMicrographName": ["m0.mrc"], "rlnDefocusU": [9000.0], "rlnDefocusV": [9000.0],
                                     "rlnDefocusAngle": [0.0], "rlnSphericalAberration": [2.7]}})  # fmt: skip
    mics = read_micrographs(two / "n.star")
    told = next(note for note in mics.notes if "no contrast transfer" in note)
    assert mics.optics is None and "voltage_kv= (--voltage), amplitude_contrast= (--amplitude-contrast)" in told
    found = read_micrographs(two / "n.star", voltage_kv=200, amplitude_contrast=0.07).optics
    assert found is not None and found.voltage_kv == (200.0,)
    mics = read_micrographs(exposures(two, ctf__accel_kv=None))
    told = next(note for note in mics.notes if "no contrast transfer" in note)
    assert mics.optics is None and "voltage_kv= (--voltage)" in told
    found = read_micrographs(exposures(two, ctf__accel_kv=None), voltage_kv=200).optics
    assert found is not None and set(found.voltage_kv) == {200.0}


def test_a_percentage_for_a_fraction(two):
    assert fails(lambda: read_micrographs(star(two, rlnAmplitudeContrast=[10.0] * 2)), "between 0 and 1", "got 10")


FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
WORDS = st.sampled_from(
    ["1", "2", "0", "-5", "9000", "nan", "inf", "x", "#", "\n", "# amplitude contrast: 0.1", "1e400"]
)


@FUZZ
@given(st.lists(WORDS, max_size=40).map(" ".join))
def test_fuzzed_ctffind(two, text):
    (two / "f.txt").write_text(text)
    assert only_plain_errors(lambda: read_micrographs([two / "m0.mrc", two / "m1.mrc"], ctf=two / "f.txt"))


KINDS = ["<f4", "<f8", "<u4", "S4", "<i2", "<c8", "?"]
FIELDS = ["micrograph_blob/psize_A", "micrograph_blob/shape", "micrograph_blob/path", "ctf/df1_A", "ctf/df2_A",
          "ctf/phase_shift_rad", "ctf/accel_kv", "ctf/path", "ctf/amp_contrast", "mscope_params/accel_kv"]  # fmt: skip


@FUZZ
@given(st.sampled_from(FIELDS), st.sampled_from(KINDS), st.integers(0, 3), st.integers(-1, 3))
def test_fuzzed_exposures(two, name, kind, width, value):
    array = np.full((2, width) if width else 2, value).astype(kind)
    path = exposures(two, **{name.replace("/", "__"): array})
    assert only_plain_errors(lambda: read_micrographs(path))
