"""``unpicked simulate image`` and ``unpicked reconstruct image``: their files, their JSON, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from answers import answered, is_refused

SMALL = ("--no-verify", "--length", 5, "--angles", 8, "--starts", 1, "--moves", 0, "--iterations", 3, 3, "--window", 5)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from unpicked.cli import main

    folder = tmp_path_factory.mktemp("images") / "sim"
    words = ["simulate", "image", "--out", folder, "--length", 5, "--size", 48, 44, "--count", 2, "--sigma", 0.5]
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in (*words, "--density", 0.12, "--seed", 3, "--quiet")])
    assert caught.value.code == 0
    return folder


def test_simulate_writes_images_target_and_truth(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.save(tmp_path / "kinds.npy", np.random.default_rng(0).normal(size=(2, 6, 6)))
    out = tmp_path / "sim"
    words = (
        "--target",
        tmp_path / "kinds.npy",
        "--classes",
        2,
        "--size",
        60,
        "--rotations",
        "none",
        "--density",
        0.3,
        "--spacing",
        "arbitrary",
    )
    status, said, err = answered(capsys, "simulate", "image", "--out", out, *words, "--json", "--seed", 2)
    assert (status, err) == (0, "")
    facts = json.loads(said.splitlines()[-1])
    assert facts == json.loads((out / "truth.json").read_text())
    assert {"sigma", "density", "occurrences", "energy", "snr_box", "seed", "noise", "rotations"} <= set(facts)
    assert facts["occurrences"] == round(0.3 * 3600 / 36)
    assert np.allclose(np.load(out / "target.npy"), np.load(tmp_path / "kinds.npy"))
    assert [path.name for path in sorted((out / "images").iterdir())] == ["image_0001.mrc"]
    assert is_refused(answered(capsys, "simulate", "image", "--out", out, *words), "not empty", "--overwrite")
    status, _, _ = answered(capsys, "simulate", "image", "--out", out, *words, "--overwrite", "--quiet")
    assert status == 0


def test_a_png_is_a_target(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from matplotlib.image import imsave

    values = np.linspace(0, 1, 49).reshape(7, 7)
    imsave(tmp_path / "t.png", values, cmap="gray", vmin=0, vmax=1)
    status, _, err = answered(
        capsys, "simulate", "image", "--out", tmp_path / "s", "--target", tmp_path / "t.png", "--size", 40, "--quiet"
    )
    assert (status, err) == (0, "")
    assert np.abs(np.load(tmp_path / "s" / "target.npy") - values).max() < 0.01


def test_reconstruct_writes_the_target_and_a_finished_run_is_left_alone(
    capsys: pytest.CaptureFixture[str], simulated: Path, tmp_path: Path
) -> None:
    out, truth = tmp_path / "run", simulated / "target.npy"
    words = ("reconstruct", "image", simulated / "images", *SMALL, "--out", out, "--quiet", "--json")
    status, said, _ = answered(capsys, *words, "--truth", truth)
    assert status == 0
    summary = json.loads(said.splitlines()[-1])
    assert summary["verdict"] == "not verified"
    assert {"sigma", "density", "log_likelihood", "energy", "compare", "shares"} <= set(summary["figures"])
    assert summary["data"]["kind"] == "image"
    assert np.load(out / "target.npy").shape == (5, 5)
    assert {"history.csv", "report.html", "checkpoint", "result.json"} <= {path.name for path in out.iterdir()}
    before = (out / "result.json").read_text()
    assert is_refused(answered(capsys, *words), "not empty", "--resume")
    status, said, _ = answered(capsys, *words, "--resume")
    assert status == 0
    assert json.loads(said.splitlines()[-1]) == json.loads(before)
    (out / "result.json").unlink()  # stopped before the end: the checkpoints hold the rest
    status, said, _ = answered(capsys, *words, "--resume")
    assert status == 0
    again = json.loads(said.splitlines()[-1])["figures"]
    assert again["log_likelihood"] == summary["figures"]["log_likelihood"]
    assert is_refused(
        answered(capsys, *words, "--seed", 9, "--resume"), "--resume needs the settings", "seed was 0, now 9"
    )


@pytest.mark.parametrize(
    "words",
    [("--classes", 2), ("--rotations", "none"), ("--likelihood", "gas"), ("--start", "autocorrelation")],
    ids=str,
)
def test_other_models_run(
    capsys: pytest.CaptureFixture[str], simulated: Path, tmp_path: Path, words: tuple[object, ...]
) -> None:
    small = SMALL[:-2] if "gas" in words else SMALL
    out = tmp_path / "run"
    status, said, _ = answered(
        capsys, "reconstruct", "image", simulated / "images", *small, *words, "--out", out, "--quiet", "--json"
    )
    assert status == 0
    shares = json.loads(said.splitlines()[-1])["figures"]["shares"]
    assert sum(shares) == pytest.approx(1)
    assert np.load(out / "target.npy").shape == ((2, 5, 5) if len(shares) == 2 else (5, 5))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--density", 0.5), ("density must lie between 0 and", "got 0.5")),
        (("--sigma", -1), ("sigma must be a positive", "got -1")),
        (("--length", 2), ("--length must be at least 3", "got 2")),
        (("--size", 20, 20, 20), ("--size must be one or two", "got 3")),
        (("--size", 12), ("size must be at least 2 x 9", "got 12 x 12")),
        (("--target", "disk"), ("--target must be random, or a .npy or .png file", "got 'disk'")),
        (("--target", "no.npy"), ("no.npy",)),
        (("--target", "no.png"), ("no.png", "not found")),
        (("--classes", 0), ("--classes must be at least 1", "got 0")),
        (("--rotations", "some"), ("some",)),
    ],
    ids=str,
)
def test_impossible_simulations_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[object, ...], said: tuple[str, ...]
) -> None:
    assert is_refused(answered(capsys, "simulate", "image", "--out", tmp_path / "sim", *words), *said)
    assert not (tmp_path / "sim").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--length", 2), ("--length must be at least 3 pixels", "got 2")),
        (("--length", 30), ("at least 2 x 30 pixels", "48 x 44", "--length")),
        (("--length", 5, "--density", 0.9), ("--density must lie between 0 and 0.309", "got 0.9")),
        (("--length", 5, "--sigma", -1), ("--sigma must be a positive number", "got -1")),
        (("--length", 5, "--window", 0), ("--window must be at least 1 pixel", "got 0")),
        (("--length", 5, "--window", 5, "--likelihood", "gas"), ("--window", "of patches", "gas")),
        (("--length", 5, "--starts", 0), ("--starts must be at least 1", "got 0")),
        (
            ("--length", 5, "--method", "autocorrelation", "--start", "autocorrelation"),
            ("--start autocorrelation", "leave it out"),
        ),
        (("--length", 5, "--rotations", "none", "--start", "autocorrelation"), ("needs --rotations uniform",)),
        (
            ("--length", 5, "--method", "autocorrelation", "--rotations", "none"),
            ("--method autocorrelation needs --rotations uniform", "try --method em"),
        ),
        (("--length", 5, "--reach", 9), ("reach must lie between 1 and 3", "got 9")),
        (("--length", 5, "--truth", "none.npy"), ("none.npy", "not found")),
    ],
    ids=str,
)
def test_impossible_jobs_are_refused(
    capsys: pytest.CaptureFixture[str],
    simulated: Path,
    tmp_path: Path,
    words: tuple[object, ...],
    said: tuple[str, ...],
) -> None:
    out = tmp_path / "run"
    assert is_refused(answered(capsys, "reconstruct", "image", simulated / "images", *words, "--out", out), *said)
    assert not out.exists()


@pytest.mark.filterwarnings("ignore:Data array contains NaN")
def test_damaged_images_and_targets_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import mrcfile

    for name, value in (("nan", np.nan), ("constant", 1.0)):
        values = np.full((40, 40), value, dtype=np.float32)
        with mrcfile.new(tmp_path / f"{name}.mrc", overwrite=True) as file:
            if name == "nan":
                values[:] = np.arange(1600).reshape(40, 40)
                values[3, 4] = value
            file.set_data(values)
            file.voxel_size = 1.0
        assert is_refused(
            answered(capsys, "reconstruct", "image", tmp_path / f"{name}.mrc", "--length", 5, "--out", tmp_path / "r"),
            f"{name}.mrc",
        )
    np.save(tmp_path / "wrong.npy", np.zeros((4, 5)))
    assert is_refused(
        answered(capsys, "simulate", "image", "--out", tmp_path / "s", "--target", tmp_path / "wrong.npy"),
        "must hold (length, length)",
        "got (1, 4, 5)",
    )
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert is_refused(
        answered(capsys, "simulate", "image", "--out", tmp_path / "s", "--target", tmp_path / "broken.png"),
        "not a readable PNG",
    )


def test_compare_signal_turns_images(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import torch

    from unpicked.simulate.images import random_targets

    targets = random_targets(9, 1)
    seen = targets.turned(torch.tensor([0]), torch.tensor([0.6], dtype=torch.float64))[0]
    np.save(tmp_path / "a.npy", seen.numpy())
    np.save(tmp_path / "b.npy", targets.values[0].numpy())
    words = ("compare-signal", tmp_path / "a.npy", tmp_path / "b.npy")
    status, said, _ = answered(capsys, *words, "--rotations", "--json")
    found = json.loads(said)
    assert status == 0
    assert found["relative_error"] < 1e-6
    assert found["angle_deg"] == pytest.approx(-np.degrees(0.6), abs=1e-4)
    status, said, _ = answered(capsys, *words, "--json")
    assert json.loads(said)["relative_error"] > 0.2
    status, said, _ = answered(capsys, *words, "--rotations")
    assert status == 0
    assert "angle" in said
    assert is_refused(answered(capsys, words[0], words[1], tmp_path / "no.npy", "--rotations"), "no.npy", "not found")
