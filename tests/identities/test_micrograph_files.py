"""Contrast transfer of micrographs as users bring them: STAR, exposures of cryoSPARC, CTFFIND give the same values."""

import math
from pathlib import Path

import numpy as np
import pytest

from unpicked._lazy import torch
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.optics import Optics
from unpicked.io.cryosparc import write_cs
from unpicked.io.ctffind import read_ctffind
from unpicked.io.micrograph_table import read_micrograph_table
from unpicked.io.micrographs import files_of, read_micrographs
from unpicked.io.mrc import write_image
from unpicked.io.star import write_star
from unpicked.preprocess import prepare

U, V, ANGLE = [12000.0, 9000.0, 12000.0], [11500.0, 9000.0, 11500.0], [30.0, 0.0, 30.0]
PHASE = [0.0, 90.0, 0.0]
KNOWN = Optics(
    (12000.0, 9000.0), (11500.0, 9000.0), (30.0, 0.0), (300.0,) * 2, (2.7,) * 2, (0.1,) * 2, (0.0, 90.0), (0.0,) * 2,
    (1.0,) * 2, (0, 1, 0),
)  # fmt: skip
MICROSCOPE = {"rlnVoltage": [300.0], "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1]}
HEAD = """# Output from CTFFind version 4.1.14, run on 2025-12-28 18:56:33
# Input file: {name}.mrc ; Number of micrographs: {count}
# Pixel size: {pixel:.3f} Angstroms ; acceleration voltage: 300.0 keV ; spherical aberration: 2.70 mm ; amplitude contrast: 0.10
# Box size: 512 pixels ; min. res.: 30.0 Angstroms ; max. res.: 5.0 Angstroms ; min. def.: 5000.0 um; max. def. 50000.0 um
# Columns: #1 - micrograph number; #2 - defocus 1 [Angstroms]; #3 - defocus 2; #4 - azimuth of astigmatism; #5 - additional phase shift [radians]; #6 - cross correlation; #7 - spacing (in Angstroms) up to which CTF rings were fit successfully
"""  # noqa: E501


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ctffind(path, rows, head=True, pixel=1.5):
    text = HEAD.format(name=path.stem, count=len(rows), pixel=pixel) if head else ""
    path.write_text(text + "".join(f"{k + 1:.6f} " + " ".join(str(x) for x in row) + "\n" for k, row in rows))


def fits(*rows):
    return [(k, (U[r], V[r], ANGLE[r], math.radians(PHASE[r]), 0.1, "inf")) for k, r in enumerate(rows)]


@pytest.fixture
def three(tmp_path):
    (tmp_path / "mics").mkdir()
    for k in range(3):
        write_image(noise(8, 12, seed=k), tmp_path / "mics" / f"m{k}.mrc", 1.5)
    return tmp_path


NAMES = [f"mics/m{k}.mrc" for k in range(3)]
DEFOCUS = {"rlnDefocusU": U, "rlnDefocusV": V, "rlnDefocusAngle": ANGLE, "rlnPhaseShift": PHASE}


def close(found: Optics | None, known: Optics = KNOWN, tolerance: float = 1e-6) -> bool:
    """Whether every micrograph has the same values; groups may be numbered otherwise."""
    assert found is not None and len(found) == len(known)
    for name in vars(known):
        if name != "group":
            one, other = ([getattr(o, name)[g] for g in o.group] for o in (found, known))
            assert one == pytest.approx(other, rel=tolerance, abs=1e-6), name
    return True


def exposures(room="micrograph_blob", **changes):
    fields = {
        "uid": np.arange(3, dtype="<u8"),
        f"{room}/path": np.array([name.encode() for name in NAMES]),
        f"{room}/shape": np.full((3, 2), (8, 12), "<u4"),
        f"{room}/psize_A": np.full(3, 1.5, "<f4"),
        "ctf/accel_kv": np.full(3, 300, "<f4"),
        "ctf/cs_mm": np.full(3, 2.7, "<f4"),
        "ctf/amp_contrast": np.full(3, 0.1, "<f4"),
        "ctf/df1_A": np.array(U, "<f4"),
        "ctf/df2_A": np.array(V, "<f4"),
        "ctf/df_angle_rad": np.radians(ANGLE).astype("<f4"),
        "ctf/phase_shift_rad": np.radians(PHASE).astype("<f4"),
    } | {name.replace("__", "/"): value for name, value in changes.items()}
    fields = {name: value for name, value in fields.items() if value is not None}
    rows = np.zeros(3, [(name, value.dtype, value.shape[1:]) for name, value in fields.items()])
    for name, value in fields.items():
        rows[name] = value
    return rows


# the same values from every kind of file


def test_relion_31(three):
    optics = {"rlnOpticsGroup": [1], "rlnMicrographPixelSize": [1.5], **MICROSCOPE}
    columns = {"rlnMicrographName": NAMES, **DEFOCUS, "rlnOpticsGroup": [1] * 3}
    write_star(three / "m.star", {"optics": optics, "micrographs": columns})
    mics = read_micrographs(three / "m.star")
    assert mics.optics == KNOWN and mics.pixel_size == 1.5
    told = "\n".join(mics.notes)
    for words in (
        "2 settings for 3 micrographs",
        "defocus 9000 to 11750 A",
        "astigmatism up to 500 A",
        "phase shift 0 to 90 degrees",
        "300 kV",
        "assumed, as the file has no such columns: rlnCtfBfactor 0, rlnCtfScalefactor 1",
    ):
        assert words in told


def test_relion_30(three):
    """One block, the microscope in every row, pixel size from detector and magnification."""
    columns = {"rlnMicrographName": NAMES, **DEFOCUS, **{name: values * 3 for name, values in MICROSCOPE.items()}}
    columns |= {"rlnMagnification": [50000.0] * 3, "rlnDetectorPixelSize": [7.5] * 3}
    write_star(three / "m.star", {"": columns})
    mics = read_micrographs(three / "m.star")
    assert mics.optics == KNOWN and mics.pixel_size == pytest.approx(1.5)


def test_two_microscopes_are_two_groups(three):
    optics = {
        "rlnOpticsGroup": [1, 2], "rlnMicrographPixelSize": [1.5] * 2, "rlnVoltage": [300.0, 200.0],
        "rlnSphericalAberration": [2.7] * 2, "rlnAmplitudeContrast": [0.1] * 2,
    }  # fmt: skip
    columns = {"rlnMicrographName": NAMES, **DEFOCUS, "rlnOpticsGroup": [1, 1, 2]}
    columns |= {"rlnCtfBfactor": [0.0, 10.0, 0.0], "rlnCtfScalefactor": [1.0, 0.5, 1.0]}
    write_star(three / "m.star", {"optics": optics, "micrographs": columns})
    found = read_micrographs(three / "m.star").optics
    assert found is not None and found.group == (0, 1, 2) and found.voltage_kv == (300.0, 300.0, 200.0)
    assert found.b_factor == (0.0, 10.0, 0.0) and found.scale == (1.0, 0.5, 1.0)


@pytest.mark.parametrize("room", ["micrograph_blob", "micrograph_blob_non_dw"])
def test_exposures_of_cryosparc(three, room):
    write_cs(exposures(room), three / "m.cs")
    mics = read_micrographs(three / "m.cs")
    assert close(mics.optics, tolerance=3e-7) and mics.pixel_size == 1.5 and mics.names == tuple(NAMES)
    assert torch.equal(mics[2], -noise(8, 12, seed=2))
    assert any("2 settings for 3 micrographs" in note for note in mics.notes)


def test_exposures_below_the_project(three):
    """Paths are seen from the project's folder; the .cs file lies in that of a job."""
    (three / "J7").mkdir()
    write_cs(exposures(), three / "J7" / "exposures.cs")
    assert len(read_micrographs(three / "J7" / "exposures.cs")) == 3
    columns = {"rlnMicrographName": NAMES}
    (three / "CtfFind" / "job003").mkdir(parents=True)
    write_star(three / "CtfFind" / "job003" / "micrographs_ctf.star", {"micrographs": columns})
    assert len(read_micrographs(three / "CtfFind" / "job003" / "micrographs_ctf.star")) == 3


def test_exposures_with_their_contrast_transfer_elsewhere(three):
    rows = exposures()
    names = [name for name in rows.dtype.names if name.startswith("ctf") or name == "uid"]
    other = rows[names][::-1]
    write_cs(np.array(other.tolist(), [(n, rows.dtype[n]) for n in names]), three / "passthrough.cs")
    lone = {f"ctf__{n}": None for n in ("accel_kv", "cs_mm", "amp_contrast", "df1_A", "df2_A", "df_angle_rad")}
    write_cs(exposures(**lone), three / "m.cs")
    assert read_micrographs(three / "m.cs").optics is None
    assert close(read_micrographs(three / "m.cs", passthrough=three / "passthrough.cs").optics)


def test_exposures_take_the_microscope_s_own_voltage(three):
    kilovolts = np.full(3, 300, "<f4")
    write_cs(exposures(ctf__accel_kv=None, mscope_params__accel_kv=kilovolts), three / "m.cs")
    mics = read_micrographs(three / "m.cs")
    assert close(mics.optics) and any("mscope_params" in note for note in mics.notes)
    varied = np.array([b"J5/spline.npy"] * 3)
    write_cs(exposures(ctf__path=varied), three / "m.cs", overwrite=True)
    assert any("varies over a micrograph" in note for note in read_micrographs(three / "m.cs").notes)


def test_ctffind_one_file_for_all(three):
    ctffind(three / "all.txt", fits(0, 1, 2))
    mics = read_micrographs(three / "mics", ctf=three / "all.txt")
    assert close(mics.optics)
    assert any("3 rows, taken in the order of the micrographs" in note for note in mics.notes)


def test_ctffind_rows_in_any_order(three):
    ctffind(three / "all.txt", fits(0, 1, 2)[::-1])
    assert close(read_micrographs(three / "mics", ctf=[three / "all.txt"]).optics)


def test_ctffind_folder_by_name(three):
    (three / "ctf").mkdir()
    for k in range(3):
        ctffind(three / "ctf" / f"m{k}_ctffind4.txt", fits(k))
        (three / "ctf" / f"m{k}_ctffind4_avrot.txt").write_text("# spectra\n1 2 3\n")
    ctffind(three / "ctf" / "other.txt", fits(1))
    mics = read_micrographs(three / "mics", ctf=three / "ctf")
    assert close(mics.optics)
    assert any("by the micrographs' names" in note for note in mics.notes)
    assert any("1 text files belong to no micrograph" in note for note in mics.notes)


def test_ctffind_longest_name_wins(tmp_path):
    for k, name in enumerate(("a", "a_1", "a_10")):
        write_image(noise(8, 8, seed=k), tmp_path / f"{name}.mrc", 1.5)
        ctffind(tmp_path / f"{name}_PS.txt", fits(k))
    mics = read_micrographs(str(tmp_path / "*.mrc"), ctf=tmp_path)
    assert [Path(name).stem for name in mics.names] == ["a", "a_1", "a_10"] and close(mics.optics)


def test_ctffind_in_order_where_no_name_fits(three):
    for k in range(3):
        ctffind(three / f"x{k}.txt", fits(k))
    mics = read_micrographs(three / "mics", ctf=[three / f"x{k}.txt" for k in range(3)])
    assert close(mics.optics) and any("their names fit no micrograph" in note for note in mics.notes)


def test_ctffind_without_a_head(three):
    """Then the microscope is given; what is given wins over a head, too."""
    ctffind(three / "all.txt", fits(0, 1, 2), head=False)
    given = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1}
    assert close(read_micrographs(three / "mics", ctf=three / "all.txt", **given).optics)
    ctffind(three / "all.txt", fits(0, 1, 2))
    found = read_micrographs(three / "mics", ctf=three / "all.txt", voltage_kv=200).optics
    assert found is not None and set(found.voltage_kv) == {200.0} and set(found.cs_mm) == {2.7}


def test_ctffind_replaces_the_list_s_and_takes_its_microscope(three):
    optics = {"rlnOpticsGroup": [1], "rlnMicrographPixelSize": [1.5], **MICROSCOPE}
    columns = {"rlnMicrographName": NAMES, **DEFOCUS, "rlnOpticsGroup": [1] * 3, "rlnDefocusU": [1.0, "None", 3.0]}
    write_star(three / "m.star", {"optics": optics, "micrographs": columns})
    ctffind(three / "all.txt", fits(0, 1, 2), head=False)
    mics = read_micrographs(three / "m.star", ctf=three / "all.txt")
    assert close(mics.optics) and any("replaces what m.star" in note for note in mics.notes)


def test_ctffind_of_another_pixel_size_is_told(three):
    ctffind(three / "all.txt", fits(0, 1, 2), pixel=0.75)
    mics = read_micrographs(three / "mics", ctf=three / "all.txt")
    assert close(mics.optics) and any("0.75 A per pixel, these have 1.5 A" in note for note in mics.notes)


def test_ctffind_as_it_is_written(tmp_path):
    """A line of CTFFIND 4.1.14, and one with CTFFIND5's further columns."""
    (tmp_path / "a.txt").write_text(
        HEAD.format(name="a", count=1, pixel=1.4)
        + "1.000000 10864.138672 10575.676758 78.283111 0.5 0.131144 4.874623\n"
    )
    found = read_ctffind(tmp_path / "a.txt")
    assert found.values.tolist() == [[10864.138672, 10575.676758, 78.283111, 0.5]] and found.pixel_size == 1.4
    assert found.microscope == {"rlnVoltage": 300.0, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}
    (tmp_path / "b.txt").write_text("1.0 100.5 90.5 1.0 0.0 0.1 inf 0.0 0.0 120.0\n")
    assert read_ctffind(tmp_path / "b.txt").values.tolist() == [[100.5, 90.5, 1.0, 0.0]]


# what is done with them


def test_parts_and_halves_keep_their_contrast_transfer():
    mics = Micrographs(InMemory(noise(3, 8, 12)), 1.5, ("a", "b", "c"), KNOWN)
    part = mics.part([1])
    assert part.optics is not None and part.optics.defocus_u == (9000.0,) and part.optics.group == (0,)
    first, second = mics.split()
    assert first.optics is not None and first.optics.defocus_u == (12000.0,) and first.optics.group == (0, 0)
    assert second.optics is not None and second.optics.phase_shift == (90.0,)
    left, right = part.split()
    assert left.optics == right.optics == part.optics and left.shape == (8, 6)
    assert mics.digest != Micrographs(InMemory(noise(3, 8, 12)), 1.5, ("a", "b", "c")).digest
    with pytest.raises(ValueError, match="optics must have one entry per micrograph, 2; got 3"):
        Micrographs(InMemory(noise(2, 8, 12)), 1.5, ("a", "b"), KNOWN)


def test_binned_micrographs_keep_their_contrast_transfer():
    """The same values at the frequencies that both grids have: defocus is a length, not a number of pixels."""
    mics = Micrographs(InMemory(noise(3, 64, 64)), 1.5, ("a", "b", "c"), KNOWN)
    coarse = prepare(mics, voxel_size=3.0).micrographs
    assert coarse.pixel_size == 3.0 and coarse.optics == KNOWN and coarse.optics is not None

    def transfer(data):
        q = torch.fft.fftfreq(data.shape[0], data.pixel_size, dtype=torch.float64)
        return data.optics.values(*torch.meshgrid(q, q, indexing="xy"))

    fine, binned = transfer(mics), transfer(coarse)
    assert torch.allclose(fine[:, :16, :16], binned[:, :16, :16], atol=1e-12)


def test_size_before_binning_gives_way_to_the_header(three):
    for size, used in ((0.75, 1.5), (1.5, 1.5)):
        columns = {"rlnMicrographName": NAMES, "rlnMicrographOriginalPixelSize": [size] * 3}
        write_star(three / "m.star", {"micrographs": columns}, overwrite=True)
        mics = read_micrographs(three / "m.star")
        assert mics.pixel_size == used
        told = [note for note in mics.notes if "0.75 A per pixel; 1.5 A is used" in note]
        assert len(told) == (size != used)


def test_pixel_size_by_hand_mends_a_list_of_several(three):
    optics = {"rlnOpticsGroup": [1, 2], "rlnMicrographPixelSize": [1.5, 1.6]}
    columns = {"rlnMicrographName": NAMES, "rlnOpticsGroup": [1, 1, 2]}
    write_star(three / "m.star", {"optics": optics, "micrographs": columns})
    with pytest.raises(ValueError, match="rlnMicrographPixelSize goes from"):
        read_micrographs(three / "m.star")
    assert read_micrographs(three / "m.star", pixel_size=1.5).pixel_size == 1.5


def test_defocus_of_zero_everywhere_is_unknown(three):
    columns = {"rlnMicrographName": NAMES, **{name: values * 3 for name, values in MICROSCOPE.items()}}
    zeros = {"rlnDefocusU": [0.0] * 3, "rlnDefocusV": [0.0] * 3, "rlnDefocusAngle": [0.0] * 3}
    write_star(three / "m.star", {"": columns | zeros})
    mics = read_micrographs(three / "m.star")
    assert mics.optics is None and any("empty or 0 in every row" in note for note in mics.notes)
    write_star(three / "m.star", {"": columns | zeros | {"rlnPhaseShift": [90.0] * 3}}, overwrite=True)
    found = read_micrographs(three / "m.star").optics  # in focus, behind a phase plate
    assert found is not None and found.phase_shift == (90.0,)
    write_cs(exposures(ctf__df1_A=np.zeros(3, "<f4"), ctf__df2_A=np.zeros(3, "<f4"), ctf__phase_shift_rad=None),
             three / "m.cs")  # fmt: skip
    assert read_micrographs(three / "m.cs").optics is None


def test_what_the_table_keeps(three):
    write_cs(exposures(), three / "m.cs")
    table = read_micrograph_table(three / "m.cs")
    assert table.kind == "cs" and len(table) == 3 and table.rows is not None
    assert table.sizes is not None and table.sizes.tolist() == [[8, 12]] * 3
    assert read_micrograph_table(three / "m.cs", ctf=False).optics is None
    write_cs(exposures(micrograph_blob__shape=np.full((3, 2), 7, "<u4")), three / "n.cs")
    assert any("says 7 x 7 pixels" in note for note in read_micrographs(three / "n.cs").notes)
    assert files_of(read_micrographs(three / "n.cs")) == tuple(three / name for name in NAMES)


# TIFF


def test_tiff(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    values = np.arange(96, dtype="<u2").reshape(8, 12)
    tifffile.imwrite(tmp_path / "a.tif", values)
    tifffile.imwrite(tmp_path / "b.tiff", values + np.uint16(7))
    mics = read_micrographs(tmp_path, pixel_size=0.9)
    assert mics.shape == (8, 12) and mics.pixel_size == 0.9 and "uint16" in " ".join(mics.notes)
    assert torch.equal(mics[0], -torch.from_numpy(values[::-1].astype("f4")))  # the first row is at the top
    write_star(tmp_path / "m.star", {"m": {"rlnMicrographName": ["a.tif"], "rlnMicrographPixelSize": [1.1]}})
    assert read_micrographs(tmp_path / "m.star").pixel_size == 1.1
    write_image(noise(8, 12), tmp_path / "c.mrc", 0.9)
    assert len(read_micrographs(tmp_path)) == 1  # the TIFF files of a folder of micrographs are gain references
