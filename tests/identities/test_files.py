"""What is written is read back; what others write is read as they mean it."""

import bz2
import gzip
from collections import Counter

import numpy as np
import pytest

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.micrographs import Source
from unpicked.data.optics import Optics
from unpicked.io.micrographs import read_micrographs
from unpicked.io.mrc import (
    MrcSource,
    map_notes,
    read_header,
    read_map,
    write_image,
    write_map,
    write_stack,
)
from unpicked.io.star import Table, read_star, write_star
from unpicked.io.star_layouts import read_particles_positions, write_micrographs_star, write_particles_star
from unpicked.io.structure import read_structure
from unpicked.ops.rotation import random_rotations

mrcfile = pytest.importorskip("mrcfile")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# maps and images


@pytest.mark.parametrize("name", ["m.mrc", "m.map", "m.mrc.gz", "m.mrc.bz2"])
@pytest.mark.parametrize("box", [5, 8])
def test_map_round_trip(tmp_path, name, box):
    map = Map(noise(box, box, box), 1.37, (1.0, -2.5, 3.0))
    write_map(map, tmp_path / name)
    back = read_map(tmp_path / name)
    assert torch.equal(back.values, map.values) and back.values.dtype == torch.float32
    assert back.voxel_size == pytest.approx(1.37, rel=1e-6)
    assert back.origin == pytest.approx(map.origin)


def test_written_map_as_others_read_it(tmp_path):
    values = noise(6, 6, 6)
    write_map(Map(values.double(), 2.5), tmp_path / "m.mrc")
    assert mrcfile.validate(tmp_path / "m.mrc")
    with mrcfile.open(tmp_path / "m.mrc") as file:
        assert file.is_volume() and file.header.mode == 2 and file.header.nxstart == 0
        assert float(file.voxel_size.z) == pytest.approx(2.5)
        np.testing.assert_array_equal(file.data, values.numpy())


def test_same_map_same_bytes(tmp_path):
    for name in ("a.mrc", "b.mrc"):
        write_map(Map(noise(4, 4, 4), 2.0), tmp_path / name)
    assert (tmp_path / "a.mrc").read_bytes() == (tmp_path / "b.mrc").read_bytes()


def test_stack_as_others_read_it(tmp_path):
    images = noise(3, 4, 6)
    write_stack(images, tmp_path / "s.mrcs", 2.5)
    with mrcfile.open(tmp_path / "s.mrcs") as file:
        assert file.is_image_stack()
        np.testing.assert_array_equal(file.data, images.numpy())


@pytest.mark.parametrize("name", ["i.mrc", "i.mrc.gz", "i.mrc.bz2"])
@pytest.mark.parametrize("contrast", ["dark", "bright"])
def test_image_round_trip_restores_bright_matter(tmp_path, name, contrast):
    image = noise(12, 17)  # K3 images are not square either
    write_image(image, tmp_path / name, 0.83, contrast=contrast)
    mics = read_micrographs(tmp_path / name, contrast=contrast)
    assert mics.shape == (12, 17) and len(mics) == 1
    assert torch.equal(mics[0], image)
    assert mics.pixel_size == pytest.approx(0.83, rel=1e-6)
    assert any(contrast in note for note in mics.notes)


def test_dark_is_the_default_and_inverts(tmp_path):
    image = noise(4, 4)
    write_image(image, tmp_path / "i.mrc", 1.1)
    assert torch.equal(read_micrographs(tmp_path / "i.mrc")[0], -image)


@pytest.mark.parametrize(("mode", "dtype"), [(0, "i1"), (1, "i2"), (2, "f4"), (6, "u2"), (12, "f2")])
@pytest.mark.parametrize("packed", [None, "gzip", "bzip2"])
def test_modes(tmp_path, mode, dtype, packed):
    values = (noise(5, 7).numpy() * 20 + 60).clip(0, 127).astype(dtype)
    path = tmp_path / "m.mrc"
    with mrcfile.new(path, compression=packed) as file:
        file.set_data(values)
        file.voxel_size = 1.5
        assert file.header.mode == mode
    mics = read_micrographs(path, contrast="bright")
    assert mics[0].dtype == torch.float32
    np.testing.assert_array_equal(mics[0].numpy(), values.astype("f4"))
    assert any(np.dtype(dtype).name in note for note in mics.notes)


def test_unsigned_values_above_the_signed_range(tmp_path):
    values = np.array([[0, 40000], [65535, 1]], np.uint16)
    with mrcfile.new(tmp_path / "m.mrc") as file:
        file.set_data(values)
        file.voxel_size = 1.5
    assert read_micrographs(tmp_path / "m.mrc")[0].tolist() == [[0, -40000], [-65535, -1]]


@pytest.mark.parametrize("axes", [(1, 2, 3), (2, 1, 3), (3, 2, 1), (2, 3, 1), (3, 1, 2), (1, 3, 2), (0, 0, 0)])
def test_permuted_axes(tmp_path, axes):
    """axes = what the column, row and section axes of the file are: 1 x, 2 y, 3 z."""
    values = noise(4, 4, 4).numpy()  # z, y, x
    column, row, section = axes if any(axes) else (1, 2, 3)
    stored = values.transpose([3 - section, 3 - row, 3 - column])
    with mrcfile.new(tmp_path / "m.mrc") as file:
        file.set_data(np.ascontiguousarray(stored))
        file.set_volume()
        file.voxel_size = 2.0
        file.header.mapc, file.header.mapr, file.header.maps = axes
        file.header.nxstart, file.header.nystart, file.header.nzstart = column, row, section
    map = read_map(tmp_path / "m.mrc")
    np.testing.assert_array_equal(map.values.numpy(), values)
    assert map.origin == (2.0, 4.0, 6.0)  # nstart times voxel, as x, y, z


def test_transposed_image(tmp_path):
    values = noise(4, 6).numpy()
    with mrcfile.new(tmp_path / "m.mrc") as file:
        file.set_data(np.ascontiguousarray(values.T))
        file.voxel_size = 2.0
        file.header.mapc, file.header.mapr = 2, 1
        file.header.mx, file.header.my = 6, 4
        file.header.cella.x, file.header.cella.y = 12.0, 8.0
    mics = read_micrographs(tmp_path / "m.mrc", contrast="bright")
    np.testing.assert_array_equal(mics[0].numpy(), values)


def test_extended_header_and_trailing_bytes_are_skipped(tmp_path):
    values = noise(4, 6).numpy()
    path = tmp_path / "m.mrc"
    with mrcfile.new(path) as file:
        file.set_extended_header(np.zeros(100, "V8"))
        file.set_data(values)
        file.voxel_size = 2.0
    path.write_bytes(path.read_bytes() + b"more")
    np.testing.assert_array_equal(read_micrographs(path, contrast="bright")[0].numpy(), values)


def test_big_endian(tmp_path):
    values = noise(4, 6).numpy().astype(">f4")
    with mrcfile.new(tmp_path / "m.mrc") as file:
        file.set_data(values)
        file.voxel_size = 2.0
        assert file.header.mode.dtype.byteorder == ">"
    mics = read_micrographs(tmp_path / "m.mrc", contrast="bright")
    np.testing.assert_array_equal(mics[0].numpy(), values)
    assert not any("stamp" in note for note in mics.notes)


@pytest.mark.parametrize("where", [208, 212])
def test_missing_id_or_stamp_is_noted(tmp_path, where):
    path = tmp_path / "m.mrc"
    write_image(noise(4, 4), path, 1.5)
    data = bytearray(path.read_bytes())
    data[where : where + 4] = bytes(4)
    path.write_bytes(data)
    mics = read_micrographs(path)
    assert torch.equal(mics[0], -noise(4, 4))
    assert any(("MAP id" if where == 208 else "machine stamp") in note for note in mics.notes)


def test_pixel_size_of_exactly_one_is_noted(tmp_path):
    write_image(noise(4, 4), tmp_path / "m.mrc", 1.0)
    assert any("filler" in note for note in read_micrographs(tmp_path / "m.mrc").notes)
    assert not any("filler" in note for note in read_micrographs(tmp_path / "m.mrc", pixel_size=1.0).notes)
    write_map(Map(noise(4, 4, 4), 1.0), tmp_path / "v.mrc")
    assert any("filler" in note for note in map_notes(tmp_path / "v.mrc"))


def test_folder_pattern_and_list(tmp_path):
    for k, name in enumerate(("b.mrc", "a.mrc", "c.mrc.gz", "d.map", "note.txt", ".hidden.mrc")):
        if name.endswith("txt"):
            (tmp_path / name).write_text("x")
        else:
            write_image(noise(4, 4, seed=k), tmp_path / name, 1.5)
    expected = [str(tmp_path / name) for name in ("a.mrc", "b.mrc", "c.mrc.gz", "d.map")]
    assert list(read_micrographs(tmp_path).names) == expected
    assert list(read_micrographs(str(tmp_path)).names) == expected
    assert list(read_micrographs(f"{tmp_path}/?.mrc").names) == expected[:2]
    listed = read_micrographs([tmp_path / "b.mrc", f"{tmp_path}/[cd].m*"])
    assert list(listed.names) == [expected[1], expected[2], expected[3]]
    assert torch.equal(listed[0], -noise(4, 4, seed=0))
    assert "3 micrographs" in listed.notes[0]


def test_source_is_a_source_and_repeatable(tmp_path):
    write_image(noise(4, 4), tmp_path / "a.mrc", 1.5)
    source: Source = MrcSource((tmp_path / "a.mrc",))
    first = source.read(0)
    first.zero_()  # what a caller does to an image stays with the caller
    assert torch.equal(source.read(0), -noise(4, 4))


# shared files


def test_shared_micrographs(shared_data):
    mics = read_micrographs(shared_data("micrographs/epu2.9_example_bin4.mrc"))
    assert mics.shape == (1024, 1024) and mics.pixel_size == pytest.approx(2.666, abs=2e-3)
    assert float(-mics[0].mean()) == pytest.approx(5612, abs=1)
    crop = read_micrographs(shared_data("micrographs/epu2.9_example_crop1024.mrc"))
    assert crop.pixel_size == pytest.approx(0.6666, abs=2e-4) and "uint16" in crop.notes[0]
    assert float(-crop[0].mean()) == pytest.approx(5621, abs=1)


def test_shared_maps(shared_data):
    with pytest.raises(ValueError, match="no voxel size"):
        read_map(shared_data("maps/BPTI-5A.mrc"))
    map = read_map(shared_data("maps/BPTI-5A.mrc"), voxel_size=5.0)
    assert map.box == 31 and map.voxel_size == 5.0
    grid = torch.arange(31.0)
    centre = [float((map.values.sum(dims) * grid).sum() / map.values.sum()) for dims in ((1, 2), (0, 2), (0, 1))]
    assert centre == pytest.approx([15, 15, 15], abs=0.5)
    deposited = read_map(shared_data("maps/EMD-3197.map"))
    assert deposited.box == 20 and deposited.voxel_size == pytest.approx(11.4) and float(deposited.values.min()) < 0
    assert deposited.origin[0] == pytest.approx(-2 * 11.4)
    assert read_header(shared_data("maps/adk_4ake_dimer_128_0.8A_B20.mrc")).voxel[0] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("particles/relion31.star", 5),
        ("particles/toy_projections.star", 1000),
        ("metadata/relion5.star", 17),
        ("metadata/relion31.v2.star", 5),
        ("metadata/FinalRefinement-OriginalParticles-PfCRT.star", 5),
        ("metadata/sta_testing_bin8.star", 219),
    ],
)
def test_shared_star_files_survive(shared_data, tmp_path, name, rows):
    tables = read_star(shared_data(name))
    assert len(next(t for key, t in tables.items() if key != "optics")) == rows
    write_star(tmp_path / "copy.star", tables)
    back = read_star(tmp_path / "copy.star")
    assert list(back) == list(tables)
    for key in tables:
        assert back[key].names == tables[key].names and back[key].columns == tables[key].columns
    if name.startswith("metadata/sta"):
        assert list(tables) == [""]
    if name.startswith("particles/toy"):
        assert any("_dummyVariable" in n or "dummyVariable" in n for t in back.values() for n in t.names)


# STAR


def test_star_round_trip_is_exact(tmp_path):
    floats = [0.1, 1 / 3, -1e-300, 1.7976931348623157e308, 5e-324, 0.0, float(np.float32(0.1))]
    texts = ["plain", "two words", "", "_tag", "data_x", "#hash", "it's", "?"[0:1]]
    blocks = {
        "optics": {"rlnVoltage": [300.0]},
        "": {"f": floats, "i": np.arange(7), "g": np.float32(floats[:3] + [0] * 4)},
        "t": {"s": texts, "k": list(range(8))},
    }
    write_star(tmp_path / "a.star", blocks)
    back = read_star(tmp_path / "a.star")
    assert list(back) == ["optics", "", "t"]
    assert back[""].floats("f").tolist() == floats
    assert back[""].floats("i").tolist() == list(range(7))
    assert np.float32(back[""].floats("g")[1]) == np.float32(1 / 3)
    assert back["t"].strings("s") == tuple(texts)
    assert len(back["t"]) == 8 and "s" in back["t"] and "x" not in back["t"]


def test_star_table_helpers():
    table = Table(("a", "b"), (("1", "x"), ("2", "inf")), "t.star")
    assert table.strings("a") == ("1", "x")
    with pytest.raises(ValueError, match=r"t.star: a of row 2 must be a finite number; got 'x'"):
        table.floats("a")
    with pytest.raises(ValueError, match="b of row 2"):
        table.floats("b")
    with pytest.raises(ValueError, match="no column c; found a, b"):
        table.strings("c")
    with pytest.raises(ValueError, match="one length"):
        Table(("a", "b"), (("1",), ("1", "2")))


def test_pairs_are_one_row_and_gz_is_read(tmp_path):
    (tmp_path / "a.star.gz").write_bytes(gzip.compress(b"data_general\n_rlnA 1.5\n_rlnB 'x y'\n"))
    table = read_star(tmp_path / "a.star.gz")["general"]
    assert len(table) == 1 and table.floats("rlnA")[0] == 1.5 and table.strings("rlnB") == ("x y",)
    (tmp_path / "b.star").write_bytes(bz2.compress(b"data_\n_a 1\n"))
    assert list(read_star(tmp_path / "b.star")) == [""]


@pytest.fixture
def three(tmp_path):
    for k in range(3):
        write_image(noise(4, 4, seed=k), tmp_path / f"m{k}.mrc", 1.5)
    return tmp_path


def test_relion_31_micrographs(three):
    """Groups by number, not by row; optics before or after; the STAR's pixel size wins over the header's."""
    optics = (
        "data_optics\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnMicrographPixelSize #3\n"
        "_rlnVoltage #4\n_rlnSphericalAberration #5\n_rlnAmplitudeContrast #6\n"
        "b 7 1.7 200 1.4 0.07\na 2 1.7 300.0 2.7 0.1\n\n"
    )
    rows = (
        "data_micrographs\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n"
        "m2.mrc 2 11000 10000 30\nm0.mrc 7 12000 11500 -20\nm1.mrc 2 11000 10000 30\n\n"
    )
    for text in (optics + rows, rows + optics):
        (three / "a.star").write_text(text)
        mics = read_micrographs(three / "a.star")
        assert mics.names == ("m2.mrc", "m0.mrc", "m1.mrc")
        assert torch.equal(mics[0], -noise(4, 4, seed=2))
        assert mics.pixel_size == 1.7
        assert any("1.5 A" in note and "1.7 A is used" in note for note in mics.notes)
        assert mics.optics == Optics(
            (11000.0, 12000.0), (10000.0, 11500.0), (30.0, -20.0), (300.0, 200.0), (2.7, 1.4), (0.1, 0.07),
            (0.0, 0.0), (0.0, 0.0), (1.0, 1.0), (0, 1, 0),
        )  # fmt: skip
    given = read_micrographs(three / "a.star", pixel_size=1.6)
    assert given.pixel_size == 1.6 and any("1.7 A per pixel; 1.6 A is used" in note for note in given.notes)


def test_relion_30_micrographs(three):
    (three / "a.star").write_text(
        "data_\n\nloop_\n_rlnMicrographName #1\n_rlnDefocusU #2\n_rlnDefocusV #3\n_rlnDefocusAngle #4\n"
        "_rlnVoltage #5\n_rlnSphericalAberration #6\n_rlnAmplitudeContrast #7\n_rlnMagnification #8\n"
        "_rlnDetectorPixelSize #9\n_rlnPhaseShift #10\nm1.mrc 9000 8900 10 300 2.7 0.1 38168 5 90\n"
        "m0.mrc 9100 8900 10 300 2.7 0.1 38168 5 85\n"
    )
    mics = read_micrographs(three / "a.star")
    assert mics.pixel_size == pytest.approx(1.31, abs=1e-4)
    assert mics.optics is not None
    assert mics.optics.phase_shift == (90.0, 85.0) and mics.optics.group == (0, 1)


def test_star_without_pixel_size_or_optics_takes_the_header(three):
    (three / "a.star").write_text("data_micrographs\nloop_\n_rlnMicrographName\nm1.mrc\nm0.mrc\n")
    mics = read_micrographs(str(three / "a.star"))
    assert mics.pixel_size == 1.5 and mics.optics is None
    assert any("rlnDefocusU" in note for note in mics.notes) and any("from the headers" in n for n in mics.notes)


def test_star_paths_from_the_working_folder_and_absolute(three, tmp_path, monkeypatch):
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(three)
    write_micrographs_star(tmp_path / "job" / "a.star", ["m1.mrc", str(three / "m0.mrc")], 1.5)
    mics = read_micrographs(tmp_path / "job" / "a.star")
    assert torch.equal(mics[0], -noise(4, 4, seed=1)) and torch.equal(mics[1], -noise(4, 4, seed=0))


def test_micrographs_star_round_trip(three):
    optics = Optics(
        (11000.0, 12000.1), (10000.0, 11500.0), (30.0, -20.0), (300.0, 300.0), (2.7, 2.7), (0.1, 0.1),
        (0.0, 90.0), (0.0, 50.0), (1.0, 0.9), (1, 0, 1),
    )  # fmt: skip
    names = ["m0.mrc", "m1.mrc", "m2.mrc"]
    write_micrographs_star(three / "a.star", names, 1.5, optics=optics)
    assert len(read_star(three / "a.star")["optics"]) == 1
    back = read_micrographs(three / "a.star").optics
    assert back is not None
    for field in (
        "defocus_u",
        "defocus_v",
        "astigmatism_angle",
        "voltage_kv",
        "phase_shift",
        "b_factor",
        "scale",
    ):
        of = [[getattr(o, field)[g] for g in o.group] for o in (optics, back)]
        assert of[0] == of[1]


def test_particles_star_round_trip(tmp_path):
    generator = torch.Generator().manual_seed(1)
    rotations = random_rotations(20, generator)
    coordinates = torch.rand(20, 2, generator=generator, dtype=torch.float64) * 1000
    names = [f"m{k % 3}.mrc" for k in range(20)]
    write_particles_star(tmp_path / "p.star", names, coordinates, rotations, 5.0, 11)
    back = read_particles_positions(tmp_path / "p.star")
    assert back[0] == tuple(names)
    assert torch.equal(back[1], coordinates)
    assert float((back[2] - rotations).abs().max()) < 1e-12
    optics = read_star(tmp_path / "p.star")["optics"]
    assert optics.floats("rlnImagePixelSize")[0] == 5.0 and optics.strings("rlnImageSize") == ("11",)


# structures

ATOM = "{:6}{:5d} {:4}{:1}{:>3} {:1}{:4d}    {:8.3f}{:8.3f}{:8.3f}{:6.2f}{:6.2f}          {:>2}\n"


def pdb(*atoms):
    """Lines from (record, name, altloc, residue, number, x, occupancy, B, element)."""
    return "".join(
        ATOM.format(record, k, name, alt, residue, "A", number, x, 0.0, 0.0, occupancy, b, element)
        for k, (record, name, alt, residue, number, x, occupancy, b, element) in enumerate(atoms, start=1)
    )


def read(tmp_path, text, name="s.pdb"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    return read_structure(path)


@pytest.mark.parametrize("name", ["s.pdb", "s.pdb.gz", "s.ent"])
def test_pdb_rules(tmp_path, name):
    structure = read(tmp_path, pdb(
        ("ATOM", " N  ", "", "ALA", 1, 1.0, 1.0, 10.0, "N"),
        ("ATOM", " CA ", "A", "ALA", 1, 2.0, 0.4, 11.0, "C"),
        ("ATOM", " CA ", "B", "ALA", 1, 3.0, 0.6, 12.0, "C"),
        ("ATOM", " CB ", "A", "ALA", 1, 4.0, 0.5, 13.0, "C"),
        ("ATOM", " CB ", "B", "ALA", 1, 5.0, 0.5, 14.0, "C"),
        ("ATOM", " H  ", "", "ALA", 1, 6.0, 1.0, 15.0, "H"),
        ("ATOM", " D  ", "", "ALA", 1, 7.0, 1.0, 15.0, "D"),
        ("HETATM", "CA  ", "", " CA", 2, 8.0, 1.0, 16.0, "CA"),
        ("HETATM", " O  ", "", "HOH", 3, 9.0, 1.0, 17.0, "O"),
        ("HETATM", " O  ", "", "DOD", 4, 9.5, 1.0, 17.0, "O"),
    ), name)  # fmt: skip
    assert structure.elements == ("N", "C", "C", "Ca")
    assert structure.positions[:, 0].tolist() == [1.0, 3.0, 4.0, 8.0] and structure.positions.dtype == torch.float64
    assert structure.b_factors.tolist() == [10.0, 12.0, 13.0, 16.0]
    assert structure.occupancies.tolist() == pytest.approx([1.0, 0.6, 0.5, 1.0])
    assert structure.mass_kda == pytest.approx((14.007 + 2 * 12.011 + 40.078) / 1000, rel=1e-3)
    text = "; ".join(structure.notes)
    assert "2 atoms of waters" in text and "2 hydrogen or deuterium" in text and "2 atoms at alternate" in text
    assert "B factors" not in text and structure.name == "s"


def test_blank_element_column(tmp_path):
    """A plain reader takes CA for calcium, HG1 for mercury, CE for cerium, NE for neon, CD for cadmium."""
    atoms = ("N   ", "CA  ", "CB  ", "CE  ", "NE  ", "CD  ", "HG1 ", "1HB ", "C   ", "O   ", "SD  ", "OG1 ")
    for residue in ("MET", "HSD", "XYZ"):
        lines = [("ATOM", name, "", residue, 1, float(k), 1.0, 5.0, "") for k, name in enumerate(atoms)]
        structure = read(tmp_path, pdb(*lines))
        assert structure.elements == ("N", "C", "C", "C", "N", "C", "C", "O", "S", "O")
        assert any("blank element column" in note and "10 polymer atoms" in note for note in structure.notes)
    selenium = read(tmp_path, pdb(("ATOM", "SE  ", "", "MSE", 1, 0.0, 1.0, 5.0, "")))
    assert selenium.elements == ("Se",)


def test_alternative_residues_at_one_place(tmp_path):
    lines = [("ATOM", f" {n:3}", "A", "SER", 1, 1.0, 0.3, 5.0, n[0]) for n in ("N", "CA", "OG")]
    lines += [("ATOM", f" {n:3}", "B", "CYS", 1, 2.0, 0.7, 5.0, n[0]) for n in ("N", "CA", "SG")]
    structure = read(tmp_path, pdb(*lines))
    assert structure.elements == ("N", "C", "S") and structure.positions[:, 0].tolist() == [2.0] * 3


def test_first_model_and_zero_b(tmp_path):
    one = pdb(("ATOM", " C  ", "", "GLY", 1, 1.0, 1.0, 0.0, "C"))
    two = pdb(("ATOM", " C  ", "", "GLY", 1, 2.0, 1.0, 0.0, "C"))
    structure = read(tmp_path, f"MODEL        1\n{one}ENDMDL\nMODEL        2\n{two}ENDMDL\n")
    assert structure.positions[:, 0].tolist() == [1.0]
    assert any("first of 2 models" in note for note in structure.notes)
    assert any("B factors are 0" in note for note in structure.notes)


def test_bpti(bpti):
    """A neutron structure: many D atoms; 454 heavy atoms of the protein and 5 of the phosphate."""
    structure = read_structure(bpti)
    assert Counter(structure.elements) == {"C": 284, "N": 84, "O": 83, "S": 7, "P": 1}
    assert structure.name == "5PTI" and 6.1 < structure.mass_kda < 6.3


def test_shared_structures(shared_data):
    chain = read_structure(shared_data("structures/adk_open_4ake_chain_heavy.pdb"))
    trap = read_structure(shared_data("structures/adk_open_mdanalysis_original.pdb"))
    assert len(trap) == 1656 and Counter(trap.elements) == Counter(chain.elements)
    assert any("1656 polymer atoms" in note for note in trap.notes)
    dimer = read_structure(shared_data("structures/4ake_dimer_workshop.pdb"))
    assert len(dimer) == 3312 and dimer.mass_kda == pytest.approx(43.8, abs=0.1)
    assert any("147 atoms of waters" in note for note in dimer.notes)
    assert len(read_structure(shared_data("structures/1uao.pdb"))) == 77
