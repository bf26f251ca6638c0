"""The contract of estimators, for the one that reads the data once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from unpicked.data.base import Data
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.signal import Signal
from unpicked.estimators.autocorrelation import Autocorrelation
from unpicked.estimators.base import Batch, add
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.placements import Anywhere
from unpicked.model.views import Identity, InPlane, OfClasses
from unpicked.objects.classes import Classes
from unpicked.objects.disk import Disk
from unpicked.objects.pixels import Pixels
from unpicked.objects.samples import Samples
from unpicked.priors import Flat, Positive, Ridge, Smooth
from unpicked.reconstruct import Result, reconstruct
from unpicked.simulate.images import random_targets, simulate_images
from unpicked.simulate.signals import simulate_signal

PLAIN = Autocorrelation(starts=4, average=False)
TARGET = torch.tensor([1.0, 1.5, -1.0, 0.5], dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """Data, and what is believed of them."""

    data: Data
    model: Model
    estimator: Autocorrelation = PLAIN


def signal(spacing: str = "separated", estimator: Autocorrelation = PLAIN) -> Case:
    samples, _ = simulate_signal(
        TARGET,
        density=0.2,
        sigma=0.7,
        seed=3,
        samples=60_000,
        spacing=spacing,
        block=9000,
        halo=5,  # type: ignore[arg-type]
    )
    model = Model(Samples(4), Identity(), Anywhere(0.1, spacing=spacing))  # type: ignore[arg-type]
    return Case(samples, model, estimator)


def image() -> Case:
    data, _ = simulate_images(random_targets(5, 2), size=(120, 120), count=4, density=0.1, sigma=0.7, seed=4)
    return Case(data, Model(Disk(5), InPlane(8), Anywhere(0.1)))


def crowd() -> Case:
    """Two kinds, at least L apart."""
    targets = random_targets(5, 2, kinds=2)
    data, _ = simulate_images(targets, size=(120, 120), count=4, density=0.3, sigma=0.7, seed=4, spacing="arbitrary")
    model = Model(Classes(Disk(5), 2), OfClasses(InPlane(8), 2), Anywhere(0.2, spacing="arbitrary"))
    return Case(data, model, replace(PLAIN, starts=2, steps=60))


CASES = {
    "raw": signal(),
    "average": signal(estimator=replace(PLAIN, average=True)),
    "cumulant": signal(estimator=replace(PLAIN, form="cumulant")),
    "published": signal(estimator=replace(PLAIN, weights="published")),
    "long-run": signal(estimator=replace(PLAIN, weights="long-run", block=2048)),
    "marching": signal(estimator=replace(PLAIN, marching=True)),
    "known": signal(estimator=replace(PLAIN, estimate_sigma=False, estimate_density=False)),
    "arbitrary": signal("arbitrary"),
    "image": image(),
    "crowd": crowd(),
}


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_one_pass_and_the_figures(case: Case) -> None:
    reads: list[int] = []

    class Counted:
        def __getattr__(self, name: str) -> object:
            return getattr(case.data, name)

        def __len__(self) -> int:
            return len(case.data)

        def __getitem__(self, index: int) -> torch.Tensor:
            reads.append(index)
            return case.data[index]

    counted = Counted() if not isinstance(case.data, Signal) else case.data
    run = reconstruct(counted, case.model, case.estimator, seed=1, moves=0)  # type: ignore[arg-type]
    assert len(run.history) == 2
    assert sorted(reads) == (list(range(len(case.data))) if counted is not case.data else [])
    row = run.history[-1]
    assert all(math.isfinite(value) for value in row.values())
    assert row["objective"] <= 0
    assert 0 < row["density"] < 1
    assert row["error"] > 0
    again = reconstruct(case.data, case.model, case.estimator, seed=1, moves=0)
    assert torch.equal(again.x, run.x)
    assert run.result is again.result


def test_statistics_add(case: Case) -> None:
    state = case.estimator.init(case.data, case.model, None, 0)
    whole = case.estimator.accumulate(case.model, Batch(case.data, range(len(case.data))), state)
    total = case.estimator.accumulate(case.model, Batch(case.data, []), state)
    assert all(not value.any() for value in total.values())
    for index in range(len(case.data)):
        total = add(total, case.estimator.accumulate(case.model, Batch(case.data, [index]), state))
    for name, value in whole.items():
        torch.testing.assert_close(total[name], value, rtol=1e-12, atol=1e-9)


def test_resumed_run_equals_uninterrupted(case: Case, tmp_path: Path) -> None:
    whole = reconstruct(case.data, case.model, case.estimator, prior=Ridge(4.0), seed=5, moves=0)

    class Killed(Exception):
        pass

    def kill(name: str, row: dict[str, float]) -> None:
        raise Killed

    settings = {"prior": Ridge(4.0), "seed": 5, "moves": 0, "checkpoint": tmp_path}
    with pytest.raises(Killed):
        reconstruct(case.data, case.model, case.estimator, report=kill, **settings)  # type: ignore[arg-type]
    resumed = reconstruct(case.data, case.model, case.estimator, resume=True, **settings)  # type: ignore[arg-type]
    assert torch.equal(whole.x, resumed.x)
    assert whole.result is resumed.result


def test_fit_from_a_saved_record_alone(case: Case, tmp_path: Path) -> None:
    from unpicked.data.moments import Moments, merge

    half = len(case.data) // 2
    parts = [case.estimator.measure(case.data, case.model, p) for p in (range(half), range(half, len(case.data)))]
    for number, part in enumerate(parts):
        part.save(tmp_path / f"{number}.npz")
    record = merge([Moments.load(tmp_path / f"{number}.npz") for number in range(2)])
    found = case.estimator.fit(record, case.model, Flat(), 1)
    run = reconstruct(case.data, case.model, case.estimator, seed=1, moves=0)
    torch.testing.assert_close(found.x, run.x, rtol=1e-4, atol=1e-4)


def test_truth_is_a_fixed_point_without_noise() -> None:
    samples, truth = simulate_signal(TARGET, density=0.2, sigma=1e-4, seed=3, samples=40_000, halo=3)
    model = Model(Samples(4), Identity(), Anywhere(truth.density), noise=White(1e-4))
    exact = replace(PLAIN, weights="analytic")
    run = reconstruct(samples, model, exact, start=TARGET, moves=0)
    assert float((run.x - TARGET).norm() / TARGET.norm()) < 1e-2


def test_not_a_number_ends_in_a_typed_failure(case: Case) -> None:
    pieces = torch.stack([case.data[0], case.data[0]])
    pieces[1, 7] = torch.nan
    data: Data = (
        Micrographs(InMemory(pieces), 1.0, ("a", "b"))
        if pieces.dim() == 3
        else Signal(_Rows(pieces), None, 0)  # a simulation or a file could give it, Signal.of would refuse it
    )
    run = reconstruct(data, case.model, case.estimator, seed=0, moves=0)
    assert run.result is Result.NOT_FINITE


class _Rows:
    def __init__(self, samples: torch.Tensor) -> None:
        self.samples = samples
        self.rows, self.length = samples.shape
        self.digest = ("rows",)

    def read(self, row: int, start: int, stop: int) -> torch.Tensor:
        return self.samples[row, start:stop]


def test_inputs_are_not_changed(case: Case) -> None:
    state = case.estimator.init(case.data, case.model, None, 0)
    kept = {name: value.clone() for name, value in state.items()}
    stats = case.estimator.accumulate(case.model, Batch(case.data, [0]), state)
    case.estimator.update(case.model, state, stats, Flat())
    assert state.keys() == kept.keys()
    for name, value in kept.items():
        torch.testing.assert_close(state[name], value, equal_nan=True)


def test_moves_repair_a_shifted_start() -> None:
    case = signal()
    shifted = torch.roll(TARGET, 1)
    shifted[0] = 0.0
    run = reconstruct(case.data, case.model, case.estimator, start=shifted, moves=2, seed=0)
    assert float((run.x - TARGET).norm() / TARGET.norm()) < 0.2


def test_two_kinds_of_target() -> None:
    targets = torch.stack([TARGET, torch.tensor([2.0, -1.0, 0.5, 1.5], dtype=torch.float64)])
    samples, truth = simulate_signal(targets, density=0.3, sigma=0.5, seed=1, samples=400_000, block=50_000, halo=3)
    model = Model(Classes(Samples(4), 2), OfClasses(Identity(), 2), Anywhere(0.2))
    run = reconstruct(samples, model, replace(PLAIN, starts=10), seed=0, moves=0)
    kinds = run.x.reshape(2, 4)
    error = min(float((kinds[list(order)] - targets).norm() / targets.norm()) for order in ((0, 1), (1, 0)))
    assert error < 0.15
    shares = run.model.view.log_weights.exp()
    assert float((shares - 0.5).abs().max()) < 0.1
    assert abs(run.model.placement.density - truth.density) < 0.03


def test_overlapping_blocks_and_offsets_change_nothing() -> None:
    case = signal()
    assert isinstance(case.data, Signal)
    records = [PLAIN.measure(case.data.cut(*cut), case.model) for cut in ((None, 0), (9000, 3), (7000, 50))]
    for record in records[1:]:
        torch.testing.assert_close(record.sums, records[0].sums, rtol=1e-5, atol=1e-2)
    lifted = Signal.of(torch.cat(list(case.data.cut(None))) + 3.0)
    method = replace(PLAIN, form="cumulant")
    plain, offset = (
        method.fit(method.measure(data, case.model), case.model, Flat(), 0) for data in (case.data.cut(None), lifted)
    )
    torch.testing.assert_close(plain.x, offset.x, rtol=0.02, atol=0.02)


def test_a_model_that_the_data_contradict_is_told() -> None:
    """Targets of six samples taken for targets of four."""
    longer = torch.tensor([1.0, 1.5, -1.0, 0.5, -1.5, 1.2], dtype=torch.float64)
    samples, _ = simulate_signal(longer, density=0.3, sigma=0.2, seed=3, samples=60_000, spacing="separated")
    run = reconstruct(samples, Model(Samples(4), Identity(), Anywhere(0.1)), PLAIN, seed=1, moves=0)
    assert run.result is Result.MISFIT
    assert run.history[-1]["agrees"] == 0 and run.history[-1]["chi2"] > 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"starts": 0}, "starts must be at least 1"),
        ({"form": "central"}, "form must be"),
        ({"weights": "best"}, "weights must be"),
        ({"steps": 0}, "steps must be"),
        ({"tolerance": -1.0}, "tolerance must"),
        ({"block": 1000}, "multiple of 2048"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(PLAIN, **changes)  # type: ignore[arg-type]


def test_what_cannot_be_fitted_is_refused() -> None:
    case, picture = signal(), image()
    record = PLAIN.measure(case.data, case.model)
    with pytest.raises(ValueError, match="of windows of 4 samples"):
        PLAIN.fit(record, replace(case.model, object=Samples(5)), Flat(), 0)
    with pytest.raises(ValueError, match="quadratic"):
        PLAIN.fit(record, case.model, Positive(1.0), 0)
    with pytest.raises(ValueError, match="start must hold 4"):
        PLAIN.init(case.data, case.model, torch.zeros(3), 0)
    pictures = PLAIN.measure(picture.data, picture.model)
    with pytest.raises(ValueError, match="fitted by a Disk"):
        PLAIN.fit(pictures, replace(picture.model, object=Pixels(5)), Flat(), 0)


def test_smooth_prior_is_the_inverse_covariance() -> None:
    prior, x = Smooth(2.0, 1.5), torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    place = torch.arange(6, dtype=torch.float64)
    covariance = 2.0 * (torch.exp(-(place[:, None] - place).square() / 9) + 1e-3 * torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(prior.energy(x, Samples(6)), 0.5 * x @ torch.linalg.solve(covariance, x))
    both = Smooth(2.0, 1.5, kinds=True).energy(torch.cat([x, 2 * x]), Classes(Samples(6), 2))
    torch.testing.assert_close(both, 5 * prior.energy(x, Samples(6)))
    with pytest.raises(ValueError, match="correlation must be positive"):
        Smooth(1.0, 0.0)
