"""``unpicked simulate micrographs``: the files it names, the truth it states, and what it refuses."""

import json
import math
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from answers import answered, is_refused
from unpicked.data.maps import Map
from unpicked.io.micrographs import read_micrographs
from unpicked.io.mrc import read_header, read_map, write_map
from unpicked.io.star import read_star
from unpicked.io.structure import read_structure
from unpicked.model.conical import conical
from unpicked.ops.rotation import euler_to_matrix

SMALL = ["--box", "8", "--voxel", "6", "--size", "64", "--count", "2", "--seed", "3", "--threads", "1"]
KEYS = {"sigma", "density", "occurrences", "energy", "snr_box", "snr_disc", "snr_db", "seed", "contrast", "voxel_size",
        "box", "noise"}  # fmt: skip


@pytest.fixture
def simulate(capsys):
    """Run the command with small data; the exit status, standard output, and standard error."""

    def run(out, *more, source=None, small=SMALL):
        source = ["--phantom", "shepp-logan"] if source is None else source  # the fastest
        return answered(capsys, "simulate", "micrographs", "--out", out, *source, *small, *more)

    return run


def images(folder, contrast="dark"):
    data = read_micrographs(folder / "micrographs.star", contrast=contrast)
    return np.stack([image.double().numpy() for image in data])


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_named_outputs_exist_and_nothing_else(simulate, tmp_path):
    status, out, err = simulate(tmp_path / "sim", "--energy", "400")
    assert (status, err) == (0, "") and "12 particles" in out
    assert set(files(tmp_path / "sim")) == {
        "micrographs/micrograph_0001.mrc", "micrographs/micrograph_0002.mrc", "micrographs.star",
        "truth.mrc", "truth.star", "truth.json",
    }  # fmt: skip
    data = read_micrographs(tmp_path / "sim" / "micrographs.star")
    assert (len(data), data.shape, data.pixel_size) == (2, (64, 64), 6.0)
    header = read_header(tmp_path / "sim" / "micrographs" / "micrograph_0002.mrc")
    assert header.dtype == np.float32 and header.voxel[0] == 6.0
    truth = read_map(tmp_path / "sim" / "truth.mrc")
    assert (truth.box, truth.voxel_size) == (8, 6.0)
    assert len(read_star(tmp_path / "sim" / "truth.star")["particles"]) == 12


def test_the_truth_has_every_key_and_the_figures_agree_with_each_other(simulate, tmp_path):
    status, out, _ = simulate(tmp_path / "sim", "--energy", "400", "--json")
    truth = json.loads((tmp_path / "sim" / "truth.json").read_text())
    assert status == 0 and set(truth) == KEYS
    assert json.loads(out.splitlines()[-1]) == truth
    assert truth["energy"] == pytest.approx(400)
    assert truth["snr_box"] == pytest.approx(400 / 64)
    assert truth["snr_disc"] == pytest.approx(400 / (math.pi * 16))
    assert truth["occurrences"] == 12 and truth["density"] == pytest.approx(6 * 64 / 64**2)
    assert (truth["seed"], truth["contrast"], truth["voxel_size"]) == (3, "dark", 6.0)
    assert (truth["box"], truth["noise"]) == (8, "white")


def test_preferred_views_are_around_their_axis(simulate, tmp_path):
    options = ("--energy", "400", "--preferred", "50", "--preferred-axis", "1", "0", "-1")
    assert simulate(tmp_path / "sim", *options)[0] == 0
    truth = json.loads((tmp_path / "sim" / "truth.json").read_text())
    assert truth["preferred"] == {"concentration": 50.0, "axis": [1.0, 0.0, -1.0]}
    particles = read_star(tmp_path / "sim" / "truth.star")["particles"]
    rot, tilt = (np.deg2rad(particles.floats(name)) for name in ("rlnAngleRot", "rlnAngleTilt"))
    heights = (np.sin(tilt) * np.cos(rot) - np.cos(tilt)) / math.sqrt(2)
    assert heights.min() > 0.8, "the true directions are in the file of the truth"
    assert truth["energy"] == pytest.approx(400)


def test_particles_of_a_tilted_grid_differ_in_one_angle_only(simulate, tmp_path):
    assert simulate(tmp_path / "sim", "--energy", "400", "--tilt", "-60", "--tilt-axis", "20")[0] == 0
    truth = json.loads((tmp_path / "sim" / "truth.json").read_text())
    assert (truth["tilt"], truth["tilt_axis"]) == (-60.0, 20.0)
    particles = read_star(tmp_path / "sim" / "truth.star")["particles"]
    rot, tilt, psi = (torch.from_numpy(particles.floats(f"rlnAngle{name}")) for name in ("Rot", "Tilt", "Psi"))
    turns = euler_to_matrix(torch.stack([rot, tilt, psi], -1))
    assert torch.allclose(turns, conical(torch.rad2deg(torch.atan2(turns[:, 2, 1], turns[:, 2, 0])) + 180, -60.0, 20.0))
    assert float(turns[:, 2, 0].std()) > 0.3, "turned at will in the plane of the grid"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--preferred", "-1"), "--preferred: the concentration of views must be a number from 0"),
        (("--preferred", "3", "--preferred-axis", "0", "0", "0"), "--preferred: the axis"),
        (("--preferred-axis", "0", "0", "1"), "--preferred-axis needs --preferred"),
        (("--tilt", "91"), "--tilt: a tilt must lie between -90 and 90 degrees; got 91"),
        (("--tilt-axis", "10"), "--tilt-axis needs --tilt"),
        (("--tilt", "60", "--preferred", "3"), "--preferred cannot be given with --tilt"),
    ],
)
def test_preferences_that_there_are_not_are_refused(simulate, tmp_path, options, said):
    assert is_refused(simulate(tmp_path / "sim", "--energy", "400", *options), said)
    assert not (tmp_path / "sim").exists()


@pytest.mark.parametrize("option", ["energy", "snr-box", "snr-disc", "snr-db", "sigma"])
def test_every_noise_level_is_taken_at_its_word(simulate, tmp_path, option):
    assert simulate(tmp_path / "sim", "--" + option, "5")[0] == 0
    truth = json.loads((tmp_path / "sim" / "truth.json").read_text())
    assert truth[option.replace("-", "_")] == pytest.approx(5)


def test_the_energy_of_the_written_files_is_the_stated_one(simulate, tmp_path):
    small = ["--box", "8", "--voxel", "6", "--size", "64", "--count", "8", "--seed", "3"]
    assert simulate(tmp_path / "noisy", "--energy", "400", small=small)[0] == 0
    assert simulate(tmp_path / "clean", "--sigma", "1e-3", small=small)[0] == 0
    clean, noisy = images(tmp_path / "clean"), images(tmp_path / "noisy")
    truth = json.loads((tmp_path / "noisy" / "truth.json").read_text())
    noise = noisy - clean
    assert noise.std() == pytest.approx(truth["sigma"], rel=0.02)  # 32768 pixels: 0.4 %
    assert abs(noise.mean()) < 0.03 * truth["sigma"]
    energy = (clean**2).sum() / truth["occurrences"] / truth["sigma"] ** 2
    assert energy == pytest.approx(400, rel=0.1)  # 48 views of one object


def test_matter_is_dark_unless_bright_is_asked_and_the_files_are_exact_negatives(simulate, tmp_path):
    assert simulate(tmp_path / "dark", "--sigma", "1e-3")[0] == 0
    assert simulate(tmp_path / "bright", "--sigma", "1e-3", "--contrast", "bright")[0] == 0
    dark, bright = (images(tmp_path / name, contrast="bright") for name in ("dark", "bright"))  # as they lie there
    assert dark.mean() < 0 < bright.mean()
    assert np.array_equal(dark, -bright)
    assert json.loads((tmp_path / "bright" / "truth.json").read_text())["contrast"] == "bright"
    assert (tmp_path / "dark" / "truth.mrc").read_bytes() == (tmp_path / "bright" / "truth.mrc").read_bytes()


def rendered(path, turn, x, y, voxel, box):
    """Our own picture of the molecule at (x, y) pixels: a sum over atoms, in Fourier space, of the box's band."""
    molecule = read_structure(path)
    weight = np.array([sum(gemmi.Element(e).c4322.a) for e in molecule.elements]) * molecule.occupancies.numpy()
    place = molecule.positions.double().numpy()
    place = (place - weight @ place / weight.sum()) @ turn.T / voxel  # R p, in pixels
    q = np.arange(-(box // 2) + 1, box // 2)
    waves = (np.exp(-2j * np.pi * np.outer(q, place[:, axis]) / box) for axis in (1, 0))
    blur = np.exp(-(60 + 15) / 4 * (q / (box * voxel)) ** 2)  # B of the command, and about that of an atom
    rows, columns = waves
    spectrum = np.einsum("qa,ka,a->qk", rows, columns, weight) * np.outer(blur, blur)
    corner = np.array([round(y) - box // 2, round(x) - box // 2])
    where_y = np.arange(box) + corner[0] - y
    where_x = np.arange(box) + corner[1] - x
    wave_y, wave_x = (np.exp(2j * np.pi * np.outer(where, q) / box) for where in (where_y, where_x))
    return corner, (wave_y @ spectrum @ wave_x.T).real


@pytest.mark.parametrize("positions", ["pixel", "continuous"])
def test_the_poses_and_centres_of_the_truth_draw_the_micrographs(simulate, tmp_path, bpti, positions):
    source = ["--structure", bpti]
    assert simulate(tmp_path / "sim", "--sigma", "1e-3", "--positions", positions, source=source)[0] == 0
    clean = dict(zip(("0001", "0002"), images(tmp_path / "sim"), strict=True))
    table = read_star(tmp_path / "sim" / "truth.star")["particles"]
    angles = np.stack([table.floats(f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")], -1)
    turns = Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().transpose(0, 2, 1)
    centres = np.stack([table.floats("rlnCoordinateX"), table.floats("rlnCoordinateY")], -1)
    if positions == "continuous":
        assert np.abs(centres - centres.round()).max() > 0.2
    else:
        assert np.array_equal(centres, centres.round())
    for name, turn, (x, y) in zip(table.strings("rlnMicrographName"), turns, centres, strict=True):
        (row, column), expected = rendered(bpti, turn, x, y, 6.0, 8)
        found = clean[name[-8:-4]][row : row + 8, column : column + 8]
        assert found.shape == (8, 8)
        correlation = (found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected)
        assert correlation > 0.99


def test_one_seed_gives_the_same_bytes_and_another_gives_others(simulate, tmp_path):
    for name in ("a", "b"):
        assert simulate(tmp_path / name, "--energy", "400")[0] == 0
    small = [word if word != "3" else "4" for word in SMALL]
    assert simulate(tmp_path / "c", "--energy", "400", small=small)[0] == 0
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert a == b
    assert a["micrographs/micrograph_0001.mrc"] != c["micrographs/micrograph_0001.mrc"]
    assert a["micrographs/micrograph_0001.mrc"] != a["micrographs/micrograph_0002.mrc"]
    assert a["truth.mrc"] == c["truth.mrc"]


def test_two_numbers_of_size_are_height_and_width(simulate, tmp_path):
    small = ["--box", "8", "--voxel", "6", "--size", "64", "96", "--count", "1"]
    assert simulate(tmp_path / "sim", "--energy", "400", small=small)[0] == 0
    assert read_micrographs(tmp_path / "sim" / "micrographs.star").shape == (64, 96)
    table = read_star(tmp_path / "sim" / "truth.star")["particles"]
    assert table.floats("rlnCoordinateX").max() <= 92 and table.floats("rlnCoordinateY").max() <= 60
    assert table.floats("rlnCoordinateX").max() > 60
    assert is_refused(simulate(tmp_path / "no", "--energy", "4", small=["--size", "64", "64", "64"]), "--size", "3")


def blob(path):
    write_map(Map(blobs(16), 3.0), path)
    return path


def blobs(box):
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    wide = (box / 8) ** 2
    return sum(torch.exp(-((x - a) ** 2 + (y - b) ** 2 + z**2) / wide) for a, b in ((0, 0), (box / 6, 0), (0, box / 8)))


def test_a_map_can_be_the_source(simulate, tmp_path):
    small = ["--box", "8", "--size", "64", "--count", "1"]
    source = ["--map", blob(tmp_path / "m.mrc")]
    assert simulate(tmp_path / "sim", "--energy", "400", source=source, small=small)[0] == 0
    truth = read_map(tmp_path / "sim" / "truth.mrc")
    assert truth.box == 8 and truth.voxel_size == pytest.approx(6.0)  # its whole field of view
    coarse = blobs(16)[::2, ::2, ::2].numpy()  # every second voxel: the centres 16 // 2 and 8 // 2 are the same point
    assert np.corrcoef(truth.values.numpy().ravel(), coarse.ravel())[0, 1] > 0.98


def test_the_phantom_has_voxels_of_one_angstrom_unless_told(simulate, tmp_path):
    small = ["--box", "8", "--size", "64", "--count", "1"]
    source = ["--phantom", "shepp-logan"]
    assert simulate(tmp_path / "sim", "--energy", "400", source=source, small=small)[0] == 0
    assert read_map(tmp_path / "sim" / "truth.mrc").values.std() > 0
    assert read_micrographs(tmp_path / "sim" / "micrographs.star").pixel_size == 1.0


def test_a_map_without_voxel_size_is_refused_unless_it_is_given(simulate, tmp_path):
    path = blob(tmp_path / "m.mrc")
    data = bytearray(path.read_bytes())
    data[40:52] = bytes(12)  # cell lengths
    path.write_bytes(data)
    small = ["--box", "8", "--size", "64", "--count", "1", "--energy", "400"]
    assert is_refused(simulate(tmp_path / "sim", source=["--map", path], small=small), "no voxel size", "--map-voxel")
    assert not (tmp_path / "sim").exists()
    assert simulate(tmp_path / "sim", "--map-voxel", "3", source=["--map", path], small=small)[0] == 0
    assert read_map(tmp_path / "sim" / "truth.mrc").voxel_size == pytest.approx(6.0)


def test_none_or_two_sources_are_refused(simulate, tmp_path, bpti):
    out = tmp_path / "sim"
    assert is_refused(simulate(out, "--energy", "4", source=[]), "exactly one", "--structure", "none")
    assert not out.exists()
    two = ["--structure", bpti, "--phantom", "shepp-logan"]
    assert is_refused(simulate(out, "--energy", "4", source=two), "--structure and --phantom")
    assert not out.exists()


@pytest.mark.parametrize("density", ["0", "-0.1", "0.5", "nan"])
def test_an_impossible_density_is_refused(simulate, tmp_path, density):
    assert is_refused(simulate(tmp_path / "sim", "--energy", "4", "--density", density), "density", density)
    assert not (tmp_path / "sim").exists()


def test_copies_that_do_not_fit_leave_nothing_behind(simulate, tmp_path):
    # within the limit of the density, but random order never puts 5 corners 15 apart on 29 x 29 places
    small = ["--box", "8", "--voxel", "6", "--size", "36", "--count", "2", "--density", "0.223"]
    assert is_refused(simulate(tmp_path / "sim", "--energy", "4", small=small), "copies do not fit", "lower density")
    assert not (tmp_path / "sim").exists()


def test_two_noise_levels_are_refused(simulate, tmp_path):
    assert is_refused(
        simulate(tmp_path / "sim", "--energy", "4", "--sigma", "1"), "exactly one noise level", "--energy and --sigma"
    )
    assert not (tmp_path / "sim").exists()


def test_no_noise_level_is_refused(simulate, tmp_path):
    assert is_refused(simulate(tmp_path / "sim"), "exactly one noise level", "--snr-box", "got none")
    assert not (tmp_path / "sim").exists()


def test_a_bare_snr_does_not_exist(simulate, tmp_path):
    assert is_refused(simulate(tmp_path / "sim", "--snr", "4"), "--snr")
    assert not (tmp_path / "sim").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--energy", "0"),
        ("--sigma", "-1"),
        ("--snr-box", "nan"),
        ("--snr-db", "inf"),
        ("--energy", "much"),
    ],
)
def test_a_senseless_noise_level_is_refused(simulate, tmp_path, option, value):
    assert is_refused(simulate(tmp_path / "sim", option, value), value)
    assert not (tmp_path / "sim").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--box", "3"], "--box"),
        (["--voxel", "inf"], "--voxel"),
        (["--voxel", "nan"], "--voxel"),
        (["--voxel", "-6"], "--voxel"),
        (["--b-factor", "0"], "--b-factor"),
        (["--count", "0"], "count"),
        (["--size", "4"], "does not fit a micrograph"),
        (["--size", "-64"], "does not fit a micrograph"),
        (["--seed", "-1"], "--seed"),
        (["--spacing", "none"], "--spacing"),
        (["--threads", "0"], "--threads"),
    ],
)
def test_a_senseless_setting_is_refused(simulate, tmp_path, words, told):
    assert is_refused(simulate(tmp_path / "sim", "--energy", "400", small=words), told)
    assert not (tmp_path / "sim").exists()


def test_a_molecule_larger_than_the_box_is_refused(simulate, tmp_path, bpti):
    small = ["--box", "8", "--voxel", "1", "--energy", "400"]
    assert is_refused(simulate(tmp_path / "sim", source=["--structure", bpti], small=small), "does not fit a box of 8")
    assert not (tmp_path / "sim").exists()


@pytest.mark.parametrize("name", ["missing.pdb", "junk.pdb"])
def test_a_missing_or_senseless_structure_is_refused(simulate, tmp_path, name):
    (tmp_path / "junk.pdb").write_text("nothing here\n")
    assert is_refused(simulate(tmp_path / "sim", "--energy", "4", source=["--structure", tmp_path / name]), name)
    assert not (tmp_path / "sim").exists()


def test_a_micrograph_too_large_for_the_memory_is_told_as_that(simulate, tmp_path):
    small = ["--box", "8", "--voxel", "6", "--size", "10000000", "--count", "1"]
    status, _, err = simulate(tmp_path / "sim", "--energy", "400", small=small)
    assert status == 3 and err.startswith("unpicked: out of memory") and err.count("\n") == 1
    assert not (tmp_path / "sim").exists()


def test_an_existing_folder_is_refused_and_its_files_are_kept(simulate, tmp_path):
    out = tmp_path / "sim"
    assert simulate(out, "--energy", "400")[0] == 0
    before = files(out)
    assert is_refused(simulate(out, "--energy", "300"), "not empty", "--overwrite")
    assert files(out) == before


def test_overwrite_replaces_the_simulation_and_nothing_else(simulate, tmp_path):
    out = tmp_path / "sim"
    assert simulate(out, "--energy", "400")[0] == 0
    before = files(out)
    others = {"notes.txt": b"mine", "micrographs/real_0001.mrc": b"a microscope's", "volume.mrc": b"a run's"}
    for name, data in others.items():
        (out / name).write_bytes(data)
    small = [word if word != "2" else "1" for word in SMALL]
    assert simulate(out, "--energy", "300", "--overwrite", small=small)[0] == 0
    after = files(out)
    assert {name: after.pop(name) for name in others} == others
    assert set(before) - set(after) == {"micrographs/micrograph_0002.mrc"}
    assert after["micrographs/micrograph_0001.mrc"] != before["micrographs/micrograph_0001.mrc"]


def test_a_refusal_with_overwrite_loses_nothing(simulate, tmp_path):
    out = tmp_path / "sim"
    assert simulate(out, "--energy", "400")[0] == 0
    before = files(out)
    assert is_refused(simulate(out, "--energy", "400", "--overwrite", "--density", "0.5"), "density")
    assert files(out) == before


def test_a_file_as_folder_is_refused(simulate, tmp_path):
    out: Path = tmp_path / "sim"
    out.write_text("mine")
    assert is_refused(simulate(out, "--energy", "400", "--overwrite"), "is a file")
    assert out.read_text() == "mine"


def test_quiet_says_nothing(simulate, tmp_path):
    assert simulate(tmp_path / "sim", "--energy", "400", "--quiet") == (0, "", "")
