"""Particles of RELION and cryoSPARC are read as they mean them, and written with every row and column."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from unpicked._lazy import torch
from unpicked.cli.stacks import poses_of
from unpicked.data.micrographs import InMemory
from unpicked.data.optics import Optics
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.io.cryosparc import read_cs, with_fields, write_cs
from unpicked.io.mrc import write_stack
from unpicked.io.particle_checks import contrast_notes
from unpicked.io.particle_files import write_particles
from unpicked.io.particles import read_particle_table, read_particles, table_of
from unpicked.io.poses import read_poses
from unpicked.io.stacks import write_stack_of
from unpicked.io.star import read_star, write_star
from unpicked.objects.gaussians import Gaussians
from unpicked.objects.voxels import Voxels
from unpicked.ops import fourier, rotation, shift

mrcfile = pytest.importorskip("mrcfile")

PIXEL = 1.7
STARS = {  # rows, pixel size, poses, settings of the contrast transfer, half sets
    "particles/rln_proj_64.star": (5, None, True, None, False),
    "particles/relion31.star": (5, 2.806, True, 5, False),
    "particles/toy_projections.star": (1000, None, False, 1, False),
    "metadata/relion5.star": (17, 0.89, True, 17, True),
    "metadata/relion31.v2.star": (5, 2.806, True, 5, False),
    "metadata/FinalRefinement-OriginalParticles-PfCRT.star": (5, 1.035, True, None, True),
    "metadata/sta_testing_bin8.star": (219, 1.96, True, 219, True),
    "metadata/toy.star": (1000, None, False, 1, False),
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_poses(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Poses(rotation.random_rotations(count, generator), 4 * draw(count, 2, seed=seed))


def has(notes, *words):
    return any(all(str(word) in note for word in words) for note in notes)


def same_poses(first, second, degrees=1e-9, angstrom=1e-9):
    far = rotation.geodesic_distance(first.rotations, second.rotations)
    return float(far.max()) < degrees and float((first.shifts - second.shifts).abs().max()) < angstrom


def simulated(count=12, box=10):
    """Particles in memory with optics of two microscopes, poses, and half sets."""
    group = tuple(k % 3 for k in range(count))
    optics = Optics(
        (12000.0, 9000.5, 15000.25), (11000.0, 9000.5, 14000.0), (30.0, 0.0, -71.5), (300.0, 300.0, 200.0),
        (2.7, 2.7, 1.4), (0.1, 0.1, 0.07), (0.0, 90.0, 0.0), (0.0, 20.0, 0.0), (1.0, 1.0, 0.9), group,
    )  # fmt: skip
    names = tuple(f"{k + 1:06d}@s.mrcs" for k in range(count))
    halves = tuple(1 + k % 2 for k in range(count))
    return Particles(InMemory(draw(count, box, box).float()), PIXEL, names, optics, some_poses(count), halves)


@pytest.fixture
def written(tmp_path) -> tuple[Particles, Path]:
    """Particles of two optics groups in two stacks, with their RELION 3.1 file."""
    truth = simulated()
    images = truth.images()
    write_stack(images[:7], tmp_path / "a.mrcs", PIXEL)
    write_stack(images[7:], tmp_path / "b.mrcs", PIXEL)
    names = [f"{k + 1:06d}@a.mrcs" if k < 7 else f"{k - 6:06d}@b.mrcs" for k in range(12)]
    truth = Particles(truth.source, PIXEL, tuple(names), truth.optics, truth.poses, truth.halves)
    write_particles(tmp_path / "p.star", truth)
    return truth, tmp_path / "p.star"


def agrees(found: Particles, truth: Particles, degrees=1e-9, angstrom=1e-9, relative=1e-12):
    """Whether two sets hold the same particles, whatever their order."""
    order = [found.names.index(name) for name in truth.names]
    found = found.part(order)
    assert torch.equal(found.images(), truth.images())
    assert found.pixel_size == pytest.approx(truth.pixel_size, rel=1e-6) and found.halves == truth.halves
    assert same_poses(found.poses, truth.poses, degrees, angstrom)
    s = torch.linspace(0, 0.25, 20, dtype=torch.float64)
    torch.testing.assert_close(
        found.optics.values(s, -s), truth.optics.values(s, -s), rtol=relative, atol=10 * relative
    )


# real files


@pytest.mark.parametrize("name", STARS)
def test_shared_star_is_read_without_loss(shared_data, name):
    path = shared_data(name)
    rows, pixel_size, poses, settings, halves = STARS[name]
    table = read_particle_table(path)
    assert len(table) == rows and table.names[0].startswith("000001@")
    assert table.pixel_size == (None if pixel_size is None else pytest.approx(pixel_size, rel=1e-12))
    assert (table.rotations is not None) == poses and (table.halves is not None) == halves
    assert (None if table.optics is None else len(table.optics.defocus_u)) == settings
    assert sum(len(t) for n, t in table.blocks.items() if n != "optics") == rows


@pytest.mark.parametrize("name", STARS)
def test_star_round_trip_is_exact_in_text(shared_data, tmp_path, name):
    before = read_star(shared_data(name))
    write_star(tmp_path / "x.star", before)
    after = read_star(tmp_path / "x.star")
    assert list(after) == list(before)
    assert all(after[k].names == before[k].names and after[k].columns == before[k].columns for k in before)


def test_relion5_notes_and_units(shared_data):
    table = read_particle_table(shared_data("metadata/relion5.star"))
    assert table.optics.voltage_kv[0] == 100 and table.optics.cs_mm[0] == 1.6 and table.box == 448
    for words in (("beam tilt", "rlnBeamTiltX"), ("aberrations", "rlnOddZernike", "rlnEvenZernike"),
                  ("anisotropic magnification", "rlnMagMat01"), ("2 rows", "earlier row")):  # fmt: skip
        assert has(table.notes, *words), words
    assert table.files == ("toy_images_a.mrcs", "toy_images_b.mrcs") and table.indices[:3] == (0, 1, 2)


def test_relion30_origins_are_pixels(shared_data):
    path = shared_data("metadata/FinalRefinement-OriginalParticles-PfCRT.star")
    table = read_particle_table(path)
    raw = next(iter(read_star(path).values()))
    origins = np.stack([raw.floats("rlnOriginX"), raw.floats("rlnOriginY")], -1)
    np.testing.assert_allclose(table.poses().shifts.numpy(), -1.035 * origins, rtol=1e-12)
    np.testing.assert_allclose(table.poses(2.0).shifts.numpy(), -2 * origins, rtol=1e-12)
    assert table.optics is None and has(table.notes, "rlnAmplitudeContrast", "amplitude_contrast=")
    assert len(read_particle_table(path, amplitude_contrast=0.1).optics) == 5


def test_stack_with_an_unused_image(shared_data):
    star = shared_data("metadata/sta_testing_bin8.star")
    particles = read_particles(star, root=shared_data("particles"))
    assert len(particles) == 219 and has(particles.notes, "1 images", "not used")
    assert particles.pixel_size == pytest.approx(1.96)
    assert has(particles.notes, "the header says 1 A", "1.96 A is used")


def test_star_wins_over_the_header(shared_data):
    particles = read_particles(shared_data("particles/relion31.star"))
    assert particles.pixel_size == 2.806 and particles.box == 256 and len(particles.images()) == 5
    assert has(particles.notes, "the header says 1 A", "2.806 A is used", "rlnImagePixelSize")
    assert has(particles.notes, "normalised")


def test_stack_without_pixel_size(shared_data):
    star = shared_data("particles/rln_proj_64.star")
    with pytest.raises(ValueError, match=r"no pixel size.*pixel_size= \(command line: --voxel\)"):
        read_particles(star)
    particles = read_particles(star, pixel_size=2.82)
    assert particles.pixel_size == 2.82 and particles.optics is None and has(particles.notes, "matter is bright")


def test_relion_projections_are_reproduced(shared_data):
    """MANIFEST, fact 1: after the map's own offset of half a voxel, correlations of 0.9996 and more."""
    particles = read_particles(shared_data("particles/rln_proj_64.star"), pixel_size=2.82)
    with mrcfile.mmap(shared_data("maps/clean70SRibosome_vol_65p.mrc"), permissive=True) as file:
        volume = torch.tensor(np.array(file.data), dtype=torch.float64)
    volume = shift.shift_volume(volume, torch.full((3,), -0.5, dtype=torch.float64))

    def correlation(rotations):
        model = fourier.resize_image(Voxels(65).projector(rotations).project(volume.flatten()), (64, 64))
        a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (model, particles.images().double()))
        return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))

    assert float(correlation(particles.poses.rotations).min()) > 0.9995
    assert float(correlation(particles.poses.rotations.mT).max()) < 0.85


def test_cs_file_is_read_without_its_images(shared_data):
    path = shared_data("metadata/cryosparc_J2_particles_exported.cs")
    table = read_particle_table(path)
    rows = read_cs(path)
    assert len(table) == 22 and table.pixel_size == 1.345 and table.box == 300
    assert set(table.signs) == {-1} and table.rotations is None and has(table.notes, "two-dimensional")
    assert not any(name.startswith(">") for name in table.files) and table.indices[:2] == (0, 1)
    assert table.names[1].startswith("000002@J1/imported/")
    assert table.optics.defocus_u[0] == pytest.approx(16412.178, rel=1e-6)
    assert table.optics.astigmatism_angle[0] == pytest.approx(math.degrees(0.86163914), rel=1e-6)
    with pytest.raises(FileNotFoundError, match=r"row 1: stack J1/imported/.*tried"):
        read_particles(path)
    assert table.rows.dtype == rows.dtype and (table.rows == rows).all()


# one set, many layouts


def test_two_stacks_two_groups(written):
    truth, star = written
    found = read_particles(star)
    agrees(found, truth)
    assert len(read_star(star)["optics"]) == 2  # one per microscope, not per defocus
    assert has(found.notes, "2 stacks") and has(found.notes, "half sets", "6 and 6")


def test_permuted_rows_and_blocks(written):
    truth, star = written
    blocks = read_star(star)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3)).tolist()
    particles = {n: [c[k] for k in order] for n, c in zip(blocks["particles"].names, blocks["particles"].columns,
                                                         strict=True)}  # fmt: skip
    optics = {n: c[::-1] for n, c in zip(blocks["optics"].names, blocks["optics"].columns, strict=True)}
    write_star(star.with_name("q.star"), {"particles": particles, "optics": optics})
    found = read_particles(star.with_name("q.star"))
    assert found.names == tuple(truth.names[k] for k in order)
    agrees(found, truth)


@pytest.mark.parametrize("block", ["", "images", "particles"])
def test_relion30_layout(written, block):
    truth, star = written
    table = read_star(star)["particles"]
    columns = dict(zip(table.names, table.columns, strict=True))
    del columns["rlnOpticsGroup"]
    for axis in "XY":
        columns[f"rlnOrigin{axis}"] = [float(v) / PIXEL for v in columns.pop(f"rlnOrigin{axis}Angst")]
    optics, group = truth.optics, truth.optics.group
    columns["rlnVoltage"] = [optics.voltage_kv[g] for g in group]
    columns["rlnSphericalAberration"] = [optics.cs_mm[g] for g in group]
    columns["rlnAmplitudeContrast"] = [optics.amplitude_contrast[g] for g in group]
    columns["rlnDetectorPixelSize"] = [5.0] * 12
    columns["rlnMagnification"] = [5e4 / PIXEL] * 12
    write_star(star.with_name("q.star"), {block: columns})
    found = read_particles(star.with_name("q.star"))
    agrees(found, truth)
    assert has(found.notes, "rlnOriginX", "in pixels")


def test_star_and_cs_tell_the_same(written):
    truth, star = written
    write_particles(star.with_suffix(".cs"), read_particles(star))
    rows = read_cs(star.with_suffix(".cs"))
    assert rows["blob/idx"].tolist() == [*range(7), *range(5)] and rows["blob/path"][7] == b"b.mrcs"
    assert set(rows["alignments3D/split"].tolist()) == {0, 1} and len(set(rows["uid"].tolist())) == 12
    agrees(read_particles(star.with_suffix(".cs")), truth, 2e-5, 1e-5, 1e-5)
    names, poses = read_poses(star.with_suffix(".cs"))
    assert names == truth.names and same_poses(poses, truth.poses, 2e-5, 1e-5)
    write_particles(star.with_name("back.star"), read_particles(star.with_suffix(".cs")))
    agrees(read_particles(star.with_name("back.star")), truth, 2e-5, 1e-5, 1e-5)


def test_cryosparc_pose_vector_and_pixels(written):
    """Identity 14: w = (0, 0, t) is Rz(-t); shifts are in pixels of the alignment, not of the images."""
    truth, star = written
    write_particles(star.with_suffix(".cs"), truth)
    rows = read_cs(star.with_suffix(".cs"))
    rows["alignments3D/pose"] = [(0, 0, 0.3)] * 12
    rows["alignments3D/shift"] = [(2, -1)] * 12
    rows["alignments3D/psize_A"] = 3.4
    rows["blob/sign"] = -1
    rows = with_fields(rows, {"blob/path": np.array([b">" + name for name in rows["blob/path"].tolist()])})
    write_cs(rows, star.with_name("q.cs"))
    found = read_particles(star.with_name("q.cs"))
    c, s = math.cos(0.3), math.sin(0.3)
    expected = torch.tensor([[c, s, 0], [-s, c, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(found.poses.rotations[0], expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(found.poses.shifts[0], torch.tensor([-6.8, 3.4], dtype=torch.float64), atol=1e-6, rtol=0)
    assert torch.equal(found.images(), -truth.images()) and has(found.notes, "12 of 12", "blob/sign")


def test_passthrough_is_joined_by_uid(written):
    truth, star = written
    write_particles(star.with_suffix(".cs"), truth)
    rows = read_cs(star.with_suffix(".cs"))
    first = [n for n in rows.dtype.names if not n.startswith("blob/")]
    second = ["uid", *(n for n in rows.dtype.names if n.startswith("blob/"))]
    write_cs(np.array(rows[first].tolist(), [(n, rows.dtype[n]) for n in first]), star.with_name("x.cs"))
    more = np.array(rows[second].tolist(), [(n, rows.dtype[n]) for n in second])[::-1]
    write_cs(more, star.with_name("x_passthrough.cs"))
    with pytest.raises(ValueError, match="blob/path"):
        read_particles(star.with_name("x.cs"))
    found = read_particles(star.with_name("x.cs"), passthrough=star.with_name("x_passthrough.cs"))
    agrees(found, truth, 2e-5, 1e-5, 1e-5)


# writing


def test_written_star_keeps_every_column_and_row(shared_data, tmp_path):
    path = shared_data("particles/toy_projections.star")
    particles = read_particles(path)
    poses = some_poses(1000)
    assert write_particles(tmp_path / "x.star", particles, poses, columns={"rlnClassNumber": [1] * 1000}) == ()
    before, after = read_star(path)["images"], read_star(tmp_path / "x.star")["particles"]
    assert all(after.strings(name) == before.strings(name) for name in before.names)
    assert after.strings("_dummyVariable"[1:])[12] == "42" and "rlnClassNumber" in after
    found = read_particles(tmp_path / "x.star", root=path.parent)
    assert same_poses(found.poses, poses) and found.optics == particles.optics
    write_particles(tmp_path / "y.star", particles, poses, relocate=True)
    assert torch.equal(read_particles(tmp_path / "y.star")[999], particles[999])


@pytest.mark.parametrize("name", ["relion5.star", "FinalRefinement-OriginalParticles-PfCRT.star"])
def test_written_poses_replace_those_in_angstrom_and_in_pixels(shared_data, tmp_path, name):
    path = shared_data(f"metadata/{name}")
    table = read_particle_table(path)
    for k, stack in enumerate(table.files):
        (tmp_path / stack).parent.mkdir(parents=True, exist_ok=True)
        write_stack(draw(17, 8, 8, seed=k).float(), tmp_path / stack, table.pixel_size)
    particles = read_particles(path, root=tmp_path)
    poses = some_poses(len(particles))
    halves = [1 + k % 2 for k in range(len(particles))]
    write_particles(tmp_path / "x.star", particles, poses, halves=halves)
    before, after = table.blocks[table.block], read_star(tmp_path / "x.star")["particles"]
    changed = {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginX",
               "rlnOriginY", "rlnRandomSubset"}  # fmt: skip
    assert all(after.strings(n) == before.strings(n) for n in before.names if n not in changed)
    found = read_particles(tmp_path / "x.star")
    assert same_poses(found.poses, poses) and found.halves == tuple(halves)
    assert found.pixel_size == pytest.approx(table.pixel_size, rel=1e-12)
    optics = read_star(tmp_path / "x.star")["optics"]  # what rows say of the microscope is lifted into the new block
    assert set(optics.floats("rlnVoltage")) == {100.0 if "relion5" in name else 300.0}
    assert "rlnSphericalAberration" in optics
    if "rlnOriginX" in before:
        np.testing.assert_allclose(after.floats("rlnOriginX"), -poses.shifts[:, 0].numpy() / table.pixel_size)


def test_part_is_written_with_its_own_rows(written):
    truth, star = written
    part = read_particles(star).part([9, 2, 2, 0]).part([0, 3])
    write_particles(star.with_name("q.star"), part)
    found = read_particles(star.with_name("q.star"))
    assert found.names == (truth.names[9], truth.names[0])
    assert torch.equal(found[0], truth[9]) and table_of(part).names == found.names


def test_bare_stack_gets_its_columns(written):
    truth, star = written
    bare = read_particles([star.with_name("a.mrcs"), star.with_name("b.mrcs")])
    assert torch.equal(bare.images(), truth.images()) and bare.poses is None and bare.optics is None
    write_particles(star.with_name("q.star"), bare, truth.poses)
    found = read_particles(star.with_name("q.star"))
    assert found.names == bare.names and same_poses(found.poses, truth.poses) and found.pixel_size == bare.pixel_size


def test_signs_that_star_cannot_hold_are_told(written):
    truth, star = written
    dark = read_particles(star, contrast="dark")
    assert torch.equal(dark.images(), -truth.images())
    assert has(write_particles(star.with_name("q.star"), dark), "12 of 12", "contrast='dark'")
    write_particles(star.with_name("q.cs"), dark)
    assert torch.equal(read_particles(star.with_name("q.cs")).images(), dark.images())


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("contrast", ["bright", "dark"])
def test_written_cs_holds_the_signs_with_which_images_were_read(written, mixed, contrast):
    truth, star = written
    write_particles(star.with_name("p.cs"), truth)
    rows = with_fields(read_cs(star.with_name("p.cs")), {"blob/sign": np.array([1, -1 if mixed else 1] * 6, "<f4")})
    write_cs(rows, star.with_name("p.cs"), overwrite=True)
    found = read_particles(star.with_name("p.cs"), contrast=contrast).part([3, 0, 11])
    write_particles(star.with_name("q.cs"), found)
    assert torch.equal(read_particles(star.with_name("q.cs")).images(), found.images())


@pytest.mark.parametrize("ending", ["star", "cs"])
def test_cropped_particles_are_written_as_they_are_stored(written, ending):
    """Poses found on coarser images belong to the stacks, whose pixel, box and columns the file keeps."""
    truth, star = written
    crop = read_particles(star).part([7, 2, 2, 0, 11]).cropped(8).part([0, 1, 3]).cropped(6).part([2, 0])
    assert crop.box == 6 and crop.pixel_size == pytest.approx(PIXEL * 10 / 6)
    kept = crop.stored()
    assert kept.pixel_size == PIXEL and torch.equal(kept.images(), truth.images([0, 7]))
    assert table_of(crop).names == crop.names == (truth.names[0], truth.names[7])
    poses = some_poses(2, seed=4)
    path = star.with_name(f"q.{ending}")
    write_particles(path, crop, poses)
    found = read_particles(path)
    assert found.pixel_size == pytest.approx(PIXEL) and not has(found.notes, "says a box")
    assert torch.equal(found.images(), kept.images()) and found.halves == kept.halves
    assert same_poses(found.poses, poses, 2e-5, 1e-5)
    held = Particles(truth.source, PIXEL, truth.names, truth.optics, truth.poses, truth.halves)
    assert held.stored() is held and held.cropped(6).stored().part(range(12)).pixel_size == PIXEL


def test_names_of_single_images(tmp_path):
    """A name without a number is a file of one image, in both formats."""
    images = draw(3, 8, 8).float()
    for k, image in enumerate(images):
        write_stack(image[None], tmp_path / f"im{k}.mrc", PIXEL)
    truth = Particles(InMemory(images), PIXEL, tuple(f"im{k}.mrc" for k in range(3)), poses=some_poses(3))
    for ending in ("star", "cs"):
        write_particles(tmp_path / f"p.{ending}", truth)
        found = read_particles(tmp_path / f"p.{ending}")
        assert torch.equal(found.images(), images) and same_poses(found.poses, truth.poses, 2e-5, 1e-5)


@pytest.mark.parametrize("mark", ["", "~0~", "~0~0000e9"])
def test_folders_in_any_language(written, mark):
    """RELION writes paths as they are; CIF knows ASCII alone."""
    truth, star = written
    folder = f"Ångström{mark}粒子"
    (star.parent / folder).mkdir()
    for name in ("a.mrcs", "b.mrcs"):
        (star.parent / name).rename(star.parent / folder / name)
    text = star.read_text(encoding="utf-8").replace("@", f"@{folder}/")
    (star.parent / "é.star").write_text("\ufeff# é\n" + text, encoding="utf-8")
    found = read_particles(star.parent / "é.star")
    assert found.names == tuple(name.replace("@", f"@{folder}/") for name in truth.names)
    assert torch.equal(found.images(), truth.images())
    for ending in ("star", "cs"):
        write_particles(star.with_name(f"q.{ending}"), found)
        assert read_particles(star.with_name(f"q.{ending}")).names == found.names


def test_numbers_of_cryosparc_are_exact(written):
    """float32 is read by its shortest decimal: a round number stays round, and no digit is lost."""
    truth, star = written
    write_particles(star.with_suffix(".cs"), truth)
    defocus = (np.float32(16412.178), np.float32(12000.1), np.float32(9000.5))
    rows = with_fields(read_cs(star.with_suffix(".cs")), {"ctf/df1_A": np.array(defocus * 4, "<f4")})
    write_cs(rows, star.with_suffix(".cs"), overwrite=True)
    optics = read_particle_table(star.with_suffix(".cs")).optics
    found = [optics.defocus_u[group] for group in optics.group[:3]]
    assert found[1:] == [12000.1, 9000.5] and np.float32(found[0]) == defocus[0]


# images


def test_streamed_stack_is_the_stack(tmp_path):
    images = draw(5, 6, 8).float()
    write_stack(images, tmp_path / "a.mrcs", 2.5)
    write_stack_of((image for image in images), tmp_path / "b.mrcs", 5, 2.5)
    assert mrcfile.validate(tmp_path / "b.mrcs")
    with mrcfile.open(tmp_path / "a.mrcs") as first, mrcfile.open(tmp_path / "b.mrcs") as second:
        assert second.is_image_stack() and np.array_equal(first.data, second.data)
        for name in first.header.dtype.names:
            if name in ("dmean", "rms", "dmin", "dmax"):
                assert float(second.header[name]) == pytest.approx(float(first.header[name]), abs=1e-6)
            elif name not in ("exttyp", "label"):
                assert first.header[name].tobytes() == second.header[name].tobytes(), name


@pytest.mark.parametrize(("dtype", "exact"), [("i1", True), ("i2", True), ("u2", True), ("f2", True), ("f4", True)])
def test_types_of_pixels(tmp_path, dtype, exact):
    values = np.arange(2 * 6 * 6).reshape(2, 6, 6).astype(dtype)
    with mrcfile.new(tmp_path / "a.mrcs") as file:
        file.set_data(values)
        file.set_image_stack()
        file.voxel_size = 1.5
    found = read_particles(tmp_path / "a.mrcs")
    assert found[1].dtype == torch.float32
    assert np.array_equal(found.images().numpy(), values.astype("f4"))


def test_odd_box_of_relion(tmp_path):
    truth = simulated(box=9)
    write_stack(truth.images(), tmp_path / "s.mrcs", PIXEL)
    write_particles(tmp_path / "p.star", truth)
    plain, moved = (read_particles(tmp_path / "p.star", relion_odd_box=asked) for asked in (False, True))
    assert has(plain.notes, "odd box of 9", "--relion-odd-box") and same_poses(plain.poses, truth.poses)
    torch.testing.assert_close(moved.poses.shifts, truth.poses.shifts + PIXEL)


@pytest.mark.parametrize("again", [None, [5, 0, 7]])
def test_odd_box_that_was_corrected_is_written_as_relion_means_it(tmp_path, again):
    truth = simulated(box=9)
    write_stack(truth.images(), tmp_path / "s.mrcs", PIXEL)
    write_particles(tmp_path / "p.star", truth)
    moved = read_particles(tmp_path / "p.star", relion_odd_box=True)
    moved = moved if again is None else moved.part(again)
    told = write_particles(tmp_path / "q.star", moved, moved.poses)
    assert has(told, "q.star", "taken off again")
    rows = list(range(12)) if again is None else again
    plain, back = (read_particles(tmp_path / "q.star", relion_odd_box=asked) for asked in (False, True))
    torch.testing.assert_close(plain.poses.shifts, truth.poses.shifts[rows])
    torch.testing.assert_close(back.poses.shifts, moved.poses.shifts)
    write_particles(tmp_path / "q.cs", moved)  # cryoSPARC knows no such pixel: the shifts as they are
    torch.testing.assert_close(read_particles(tmp_path / "q.cs").poses.shifts, moved.poses.shifts, rtol=0, atol=1e-5)
    for name in ("q.star", "q.cs"):  # and given to the command as --poses, either file means the same
        assert same_poses(poses_of(moved, tmp_path / name), moved.poses, 2e-5, 1e-5)


def test_poses_of_another_file_are_matched_by_name(written):
    truth, star = written
    data = read_particles(star).part([3, 11, 0])
    write_particles(star.with_name("q.star"), truth.part(range(11, -1, -1)))
    assert same_poses(poses_of(data, star.with_name("q.star")), data.poses)
    write_particles(star.with_name("r.star"), truth.part([3, 4, 5]))
    with pytest.raises(ValueError, match=r"r\.star has no pose for 2 of 3 images, the first 000005@b\.mrcs"):
        poses_of(data, star.with_name("r.star"))


def test_even_box_asked_for_the_odd_correction_stays(written):
    truth, star = written
    found = read_particles(star, relion_odd_box=True)
    assert same_poses(found.poses, truth.poses)
    assert write_particles(star.with_name("q.star"), found, found.poses) == ()
    assert same_poses(read_particles(star.with_name("q.star")).poses, truth.poses)


def test_contrast_is_told(tmp_path):
    box, count = 32, 60
    mu = 0.2 * box * (torch.rand(12, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64) - 0.5)
    volume = Gaussians(box, mu, torch.full((12,), 2.0, dtype=torch.float64)).values(torch.ones(12).double())
    poses = some_poses(count)
    images = Voxels(box).projector(poses.rotations).project(volume.flatten())
    images = images / images.std() + 2 * draw(*images.shape, seed=8)
    names = tuple(f"{k + 1:06d}@s.mrcs" for k in range(count))
    for sign, words in ((1, "matter is bright"), (-1, "looks inverted")):
        write_stack((sign * images).float(), tmp_path / "s.mrcs", 3.0, overwrite=True)
        assert has(read_particles(tmp_path / "s.mrcs").notes, words)
    assert has(read_particles(tmp_path / "s.mrcs").notes, "contrast='dark' (--contrast dark)")
    assert has(read_particles(tmp_path / "s.mrcs", contrast="dark").notes, "matter is bright")
    noise = draw(count, box, box, seed=9)
    assert has(contrast_notes(noise, 3.0), "cannot be told") and len(names) == count


def test_normalisation_is_told(tmp_path):
    for scale, words in ((1.0, "images are normalised"), (3.0, "not normalised")):
        write_stack(scale * draw(20, 32, 32).float(), tmp_path / "s.mrcs", 3.0, overwrite=True)
        assert has(read_particles(tmp_path / "s.mrcs").notes, words)


def test_logarithm_of_rotations():
    vectors = draw(200, 3)
    vectors = vectors / vectors.norm(dim=-1, keepdim=True) * torch.linspace(0, math.pi - 1e-6, 200).double()[:, None]
    torch.testing.assert_close(rotation.log_map(rotation.exp_map(vectors)), vectors, rtol=0, atol=1e-9)
    tiny = draw(50, 3) * 1e-9
    torch.testing.assert_close(rotation.log_map(rotation.exp_map(tiny)), tiny, rtol=1e-6, atol=0)
    half = math.pi * torch.eye(3, dtype=torch.float64)  # both signs are right at pi
    back = rotation.log_map(rotation.exp_map(half))
    torch.testing.assert_close(back.abs(), half, rtol=0, atol=1e-7)
    random = rotation.random_rotations(100, torch.Generator().manual_seed(2))
    assert float(rotation.geodesic_distance(rotation.exp_map(rotation.log_map(random)), random).max()) < 1e-10
