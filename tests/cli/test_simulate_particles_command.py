"""``unpicked simulate particles``: the files it names, the truth it states, and what it refuses."""

import json
import math

import numpy as np
import pytest
import torch

from answers import answered, is_refused
from unpicked.io.mrc import read_header, read_map
from unpicked.io.star import read_star
from unpicked.io.star_layouts import write_stack_star
from unpicked.io.structure import read_structure
from unpicked.ops.rotation import euler_to_matrix
from unpicked.simulate.particles import simulate_particles
from unpicked.simulate.specimens import specimen_from_structure

KEYS = {"sigma", "density", "occurrences", "energy", "snr_box", "snr_disc", "snr_db", "seed", "contrast", "voxel_size",
        "box", "noise"}  # fmt: skip
ALL = {"particles.mrcs", "particles.star", "truth.star", "truth.mrc", "truth.json"}


@pytest.fixture
def simulate(capsys, bpti):
    """Run the command with small data; the exit status, standard output, and standard error."""

    def run(out, *more, source=None):
        source = ["--structure", bpti, "--box", "16", "--voxel", "4"] if source is None else source
        return answered(capsys, "simulate", "particles", "--out", out, *source, "--count", 20, "--seed", 3, *more)

    return run


def stack(folder):
    header = read_header(folder / "particles.mrcs")
    return np.memmap(header.path, header.dtype, "r", header.offset, header.stored)


def poses(table):
    angles = np.stack([table.floats(name) for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")], -1)
    origins = np.stack([table.floats(f"rlnOrigin{axis}Angst") for axis in "XY"], -1)
    return euler_to_matrix(torch.tensor(angles)), -torch.tensor(origins)


def test_the_named_outputs_hold_what_python_makes(simulate, tmp_path, bpti):
    status, out, err = simulate(tmp_path / "sim", "--snr-db", "0", "--ctf", "--defocus", 5000, 9000, "--max-shift", 3)
    assert (status, err) == (0, "") and "20 images of 16 x 16 pixels" in out
    assert {path.name for path in (tmp_path / "sim").iterdir()} == ALL
    specimen = specimen_from_structure(read_structure(bpti), 16, 4.0)
    options = {"defocus": (5000.0, 9000.0), "max_shift": 3.0}
    from unpicked.data import snr

    data, truth = simulate_particles(specimen, count=20, noise=snr.snr_db(0), seed=3, **options)
    images = stack(tmp_path / "sim")
    assert images.shape == (20, 16, 16) and np.allclose(images, data.images().numpy(), rtol=0, atol=1e-5 * truth.sigma)
    header = read_header(tmp_path / "sim" / "particles.mrcs")
    assert (header.voxel[0], header.space_group) == (4.0, 0)
    given, told = (read_star(tmp_path / "sim" / f"{name}.star") for name in ("particles", "truth"))
    assert not any("Angle" in name or "Origin" in name for name in given["particles"].names if "Defocus" not in name)
    assert given["particles"].strings("rlnImageName")[19] == "000020@particles.mrcs"
    assert np.array_equal(given["particles"].floats("rlnDefocusU"), data.optics.defocus_u)
    assert given["optics"].floats("rlnImagePixelSize")[0] == 4 and given["optics"].floats("rlnImageSize")[0] == 16
    assert given["optics"].floats("rlnVoltage")[0] == 300
    turns, shifts = poses(told["particles"])
    assert float((turns - truth.poses().rotations).abs().max()) < 1e-12
    assert float((shifts - truth.poses().shifts).abs().max()) < 1e-12
    written = read_map(tmp_path / "sim" / "truth.mrc")
    assert written.voxel_size == 4 and np.allclose(written.values, truth.truth().values.float())


def test_the_truth_has_every_key(simulate, tmp_path):
    status, out, _ = simulate(tmp_path / "sim", "--energy", "40", "--json", "--held", "4")
    truth = json.loads((tmp_path / "sim" / "truth.json").read_text())
    assert status == 0 and set(truth) >= KEYS and json.loads(out.splitlines()[-1]) == truth
    assert truth["energy"] == pytest.approx(40) and truth["snr_box"] == pytest.approx(40 / 256)
    assert truth["snr_disc"] == pytest.approx(40 / (math.pi * 64))
    assert (truth["occurrences"], truth["fit"], truth["held"], truth["seed"]) == (20, 16, 4, 3)
    assert (truth["contrast"], truth["voxel_size"], truth["box"], truth["noise"]) == ("bright", 4.0, 16, "white")
    assert truth["ctf"] is None and truth["density"] is None


def test_held_out_images_are_the_last_of_the_same_stack(simulate, tmp_path):
    assert simulate(tmp_path / "sim", "--clean", "--held", "4")[0] == 0
    fit, held, told = (
        read_star(tmp_path / "sim" / f"{name}.star")["particles"].strings("rlnImageName")
        for name in ("particles", "held", "truth")
    )
    assert fit + held == told and len(held) == 4 and len(stack(tmp_path / "sim")) == 20
    truth = json.loads((tmp_path / "sim" / "truth.json").read_text())
    assert truth["sigma"] == 0 and truth["energy"] is None and truth["noise"] == "none"
    assert simulate(tmp_path / "sim", "--clean", "--overwrite")[0] == 0
    assert {path.name for path in (tmp_path / "sim").iterdir()} == ALL  # held.star of before has gone


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_threads(simulate, tmp_path):
    for name, threads in (("one", 1), ("three", 3)):
        assert simulate(tmp_path / name, "--snr-db", "0", "--ctf", "--threads", threads)[0] == 0
    for name in ALL:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()
    torch.set_num_threads(1)


def test_dark_stacks_are_exact_negatives(simulate, tmp_path):
    for contrast in ("dark", "bright"):
        assert simulate(tmp_path / contrast, "--clean", "--contrast", contrast)[0] == 0
    dark, bright = stack(tmp_path / "dark"), stack(tmp_path / "bright")
    assert np.array_equal(dark, -bright) and bright.mean() > 0


def test_a_dataset_by_its_letter(simulate, tmp_path, bpti, monkeypatch):
    status, _, err = simulate(tmp_path / "D", "--dataset", "D", source=["--structure", bpti, "--box", "16"])
    assert (status, err) == (0, "")
    truth = json.loads((tmp_path / "D" / "truth.json").read_text())
    assert (truth["dataset"], truth["fit"], truth["held"], truth["box"]) == ("D", 18, 2, 16)
    assert truth["voxel_size"] == pytest.approx(6.4) and truth["snr_db"] > 10  # 0 dB at 128 pixels
    assert {path.name for path in (tmp_path / "D").iterdir()} == ALL | {"held.star"}
    monkeypatch.setenv("UNPICKED_SHARED", str(tmp_path / "nowhere"))
    answer = simulate(tmp_path / "A", "--dataset", "A", source=[])
    assert is_refused(answer, "4AKE", "not shipped", "--structure", "UNPICKED_SHARED")
    assert not (tmp_path / "A").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], ["exactly one noise level", "--clean", "none"]),
        (["--snr-db", "0", "--sigma", "1"], ["exactly one noise level", "--snr-db and --sigma"]),
        (["--clean", "--sigma", "1"], ["--clean or one noise level", "--sigma"]),
        (["--sigma", "-1"], ["sigma must be a positive finite number", "-1"]),
        (["--clean", "--defocus", "5000", "9000"], ["--defocus needs --ctf"]),
        (["--clean", "--ctf", "--defocus", "9000", "5000"], ["least and the largest", "9000 5000"]),
        (["--clean", "--ctf", "--ctf-groups", "21"], ["between 1 and", "20", "21"]),
        (["--clean", "--max-shift", "40"], ["max_shift", "32 A", "40"]),
        (["--clean", "--held", "20"], ["--held", "19", "20"]),
        (["--clean", "--voxel", "2"], ["molecule of 38 A does not fit", "try a larger --box or --voxel"]),
        (["--clean", "--box", "2"], ["--box must be at least 4", "2"]),
        (["--clean", "--map", "a.mrc"], ["exactly one of --structure, --map and --phantom"]),
        (["--dataset", "Q"], ["--dataset must be one of A, B", "Q"]),
        (["--dataset", "D", "--snr-db", "3"], ["dataset D is at 0 dB by definition"]),
        (["--dataset", "D", "--ctf"], ["--dataset fixes what --ctf says"]),
        (["--dataset", "M", "--box", "200"], ["between 4 and 128", "200"]),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(simulate, tmp_path, bpti, words, told):
    box, voxel = (
        [] if "--box" in words else ["--box", 16],
        [] if {"--voxel", "--dataset"} & {*words} else ["--voxel", 4],
    )
    answer = simulate(tmp_path / "sim", *words, source=["--structure", bpti, *box, *voxel])
    assert is_refused(answer, *told)
    assert not (tmp_path / "sim").exists()


def test_a_missing_structure_and_a_folder_in_use_are_refused(simulate, tmp_path):
    answer = simulate(tmp_path / "sim", "--clean", source=["--structure", tmp_path / "no.pdb"])
    assert is_refused(answer, "not found", "no.pdb")
    assert simulate(tmp_path / "sim", "--clean")[0] == 0
    assert is_refused(simulate(tmp_path / "sim", "--clean"), "not empty", "--overwrite")


def test_lists_of_stacks_need_a_pose_and_a_setting_per_image(tmp_path, bpti):
    specimen = specimen_from_structure(read_structure(bpti), 16, 4.0)
    data, truth = simulate_particles(specimen, count=3, noise=None, seed=0, defocus=(5000.0, 6000.0))
    for words, changes in (("poses", {"poses": truth.poses([0])}), ("optics", {"optics": data.part([0]).optics})):
        with pytest.raises(ValueError, match=f"{words} must"):
            write_stack_star(tmp_path / "a.star", data.names, 4.0, 16, **changes)
    with pytest.raises(ValueError, match="pixel_size must be positive"):
        write_stack_star(tmp_path / "a.star", data.names, 0.0, 16)
    assert not list(tmp_path.iterdir())
