"""EM that begins with what autocorrelations of the same micrographs tell, over several seeds; and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from answers import fails
from unpicked.data.gains import Gains
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.optics import Optics
from unpicked.data.snr import energy
from unpicked.evaluate.compare import compare
from unpicked.objects.ball import Ball
from unpicked.recipes import MicrographJob, from_micrographs, ready, stages
from unpicked.recipes.moment_starts import _unwhitened
from unpicked.recipes.trials import MicrographTrial
from unpicked.simulate.micrographs import Simulation, simulate_micrographs
from unpicked.simulate.phantom import bead_chain
from unpicked.verify import verify

JOB = MicrographJob(box=7, lmax=4, views=(40,), iterations=(6,), starts=2, moves=0)


def beads(seed: int, size: int, count: int = 2, level: float = 300.0) -> tuple[Micrographs, Simulation]:
    return simulate_micrographs(
        bead_chain(7, seed), count=count, size=(size, size), density=0.12, noise=energy(level), seed=seed
    )


def noise(size: int = 60, count: int = 2) -> Micrographs:
    values = torch.randn(count, size, size, generator=torch.Generator().manual_seed(0))
    return Micrographs(InMemory(values), 5.0, tuple("abcd"[:count]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_chain_is_recovered_from_what_moments_tell(seed: int) -> None:
    data, truth = beads(seed, 180)
    job = replace(JOB, lmax=6, views=(60,), iterations=(12,))
    answer = from_micrographs(data, job, seed=100 + seed, start="autocorrelation")
    assert compare(answer.map, bead_chain(7, seed).truth()).correlation > 0.9
    first = answer.stages["moments-first"].history[-1]
    assert first["density"] == pytest.approx(truth.density, rel=0.25)
    assert first["sigma"] * answer.prepared.scale == pytest.approx(truth.sigma, rel=0.05)
    assert answer.figures()["density"] == pytest.approx(truth.density, rel=0.15)


def test_a_run_goes_on_with_the_very_same_starts(tmp_path: Path) -> None:
    data, _ = beads(3, 100)
    told: list[str] = []
    run = lambda resume: from_micrographs(  # noqa: E731
        data, JOB, seed=1, start="autocorrelation", checkpoint=tmp_path / "run", resume=resume,
        report=lambda name, row: told.append(name),
    )  # fmt: skip
    whole = run(False)
    assert told[:2] == ["moments, start-0"] * 2 and len(set(told[2:])) == 3, "two random ones, and the fit"
    assert list(whole.stages) == ["moments-first", "stage-0"]
    assert any("started from moments" in note for note in whole.notes)
    held = tmp_path / "run" / "moments"
    assert {path.name for path in held.iterdir()} == {"start-0.pt", "start-0.pt.old", "known.json", "starts.json"}
    for name in ("start-2.pt", "start-2.pt.old"):
        (tmp_path / "run" / "stage-0" / name).unlink()  # stopped before the end
    told.clear()
    again = run(True)
    assert torch.equal(again.map.values, whole.map.values)
    assert set(told) == {"stage 1 of 1, start-2"}
    (held / "starts.json").write_text((held / "starts.json").read_text().replace("1", "2"))
    assert fails(lambda: run(True), "starts.json is not a readable checkpoint")


def test_what_is_held_out_or_given_is_not_asked_of_moments() -> None:
    data, truth = beads(4, 100)
    job = replace(JOB, held_out=1, density=0.12, sigma=truth.sigma, starts=1, iterations=(2,))
    answer = from_micrographs(data, job, seed=1, start="autocorrelation")
    first = answer.stages["moments-first"].history[-1]
    assert (first["density"], first["sigma"]) == pytest.approx((0.12, truth.sigma))
    assert first["particles"] == pytest.approx(0.12 * (100 - 2 * 6) ** 2 / 49, rel=0.05), "one micrograph of two"


def test_every_half_and_every_fold_starts_from_its_own_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, ...]] = []
    real = stages.moment_starts

    def spied(data: Micrographs, *rest: object, **named: object) -> object:
        seen.append(data.names)
        return real(data, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(stages, "moment_starts", spied)
    data, _ = beads(5, 170, level=400.0)
    job = replace(JOB, starts=1, halves=True)
    prepared = ready(data, job, "autocorrelation")
    names = prepared.micrographs.names
    answer = from_micrographs(prepared, job, seed=2, start="autocorrelation")
    assert seen == [names, names[:1], names[1:]]
    assert answer.halves is not None and not answer.halves[2].shared_start
    assert set(answer.stages) >= {"moments-first", "half-1 moments-first", "half-2 moments-first"}
    seen.clear()
    found = verify(MicrographTrial(prepared, job, "autocorrelation"), seed=2)
    assert seen == [names[:1], names[1:]]
    assert found.agreement is None or not found.agreement.shared_start


def test_noise_tells_no_density_and_ends_like_any_run() -> None:
    answer = from_micrographs(noise(80), replace(JOB, starts=1), seed=1, start="autocorrelation")
    assert answer.sigma == pytest.approx(1.0, rel=0.05)


def test_gains_are_taken_off_again() -> None:
    ball = Ball(9, 2)
    x = torch.randn(2, ball.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    maps = ball.values(x)
    flat = Gains(((4.0, 4.0), (2.0, 2.0)), (0, 1))
    torch.testing.assert_close(_unwhitened(maps, flat), maps / 3)
    rising = Gains(((0.5, 2.0),), (0,))
    softer, low = _unwhitened(maps, rising), maps.sum((1, 2, 3))
    torch.testing.assert_close(softer.sum((1, 2, 3)), 2 * low, rtol=0.2, atol=0.2 * float(low.abs().max()))


def test_coloured_noise_is_whitened_before_moments_are_summed() -> None:
    data, _ = beads(6, 128)
    answer = from_micrographs(data, replace(JOB, noise="coloured"), seed=1, start="autocorrelation")
    assert compare(answer.map, bead_chain(7, 6).truth()).correlation > 0.8
    assert answer.stages["moments-first"].history[-1]["sigma"] == pytest.approx(1.0, rel=0.2)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"tilt": 60.0}, ("--tilt 60", "--start random")),
        ({"tilt": 60.0, "method": "autocorrelation"}, ("--method autocorrelation", "leave it out")),
        ({"spacing": "arbitrary"}, ("--spacing separated", "arbitrary")),
        ({"view_distribution": "estimated"}, ("--view-distribution uniform", "estimated")),
        ({"box": 15}, ("--box of at most 14", "got 15", "--voxel")),
        ({"box": 14}, ("4 boxes a side, 56 pixels", "50 x 50")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_moments_do_not_know_is_refused(changed: dict[str, object], words: tuple[str, ...]) -> None:
    job = MicrographJob(**({"box": 7} | changed))  # type: ignore[arg-type]
    if job.tilt is not None and job.method == "autocorrelation":
        job = replace(job, lmax=2)
    assert fails(lambda: ready(noise(50), job, "autocorrelation"), "--start autocorrelation", *words)


def test_optics_and_masks_are_refused() -> None:
    settings = (1e4,), (1e4,), (0.0,), (300.0,), (2.7,), (0.1,), (0.0,), (0.0,), (1.0,)
    shown = replace(noise(64), optics=Optics(*settings, group=(0, 0)))
    assert fails(lambda: ready(shown, JOB, "autocorrelation"), "no contrast transfer", "--ignore-ctf")
    prepared = ready(shown, JOB)
    assert fails(lambda: from_micrographs(prepared, JOB, start="autocorrelation"), "no contrast transfer")
    assert ready(shown, replace(JOB, ignore_ctf=True), "autocorrelation").micrographs.optics is None
    masked = replace(noise(64), masks=InMemory(torch.ones(2, 64, 64, dtype=torch.bool)))
    assert fails(lambda: ready(masked, JOB, "autocorrelation"), "knows no masks")


def test_moment_starts_of_another_run_are_refused(tmp_path: Path) -> None:
    data, _ = beads(3, 100)
    job = replace(JOB, starts=1, iterations=(2,))
    from_micrographs(data, job, seed=1, start="autocorrelation", checkpoint=tmp_path)
    assert json.loads((tmp_path / "moments" / "starts.json").read_text())
    resumed = lambda: from_micrographs(  # noqa: E731
        data, job, seed=2, start="autocorrelation", checkpoint=tmp_path, resume=True
    )
    assert fails(resumed, "other data or settings")
