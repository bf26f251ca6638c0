"""Updates from part of the micrographs: what they average, where they stay, and where they end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.snr import energy
from unpicked.estimators import maximisation, minibatches
from unpicked.estimators.base import Batch, State
from unpicked.estimators.em import EM
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.placements import Anywhere
from unpicked.model.views import Identity, Projection
from unpicked.objects.ball import Ball
from unpicked.objects.pixels import Pixels
from unpicked.ops import rotation
from unpicked.priors import Flat, Ridge
from unpicked.recipes import MicrographJob, from_micrographs
from unpicked.reconstruct import reconstruct
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.phantom import bead_chain

EXACT = EM(frozen=0, precision="float64", solver_steps=300, solver_tolerance=1e-13)


def draw(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flat(sigma: float, *, count: int = 8) -> tuple[Model, Micrographs, torch.Tensor]:
    """An image that never turns, its copies in micrographs, and its coefficients."""
    image, generator = 2 * draw(0, 5, 5), torch.Generator().manual_seed(1)
    fields = 0.1 + sigma * draw(2, count, 36, 36)
    for field in fields:
        for top in range(1, 22, 10):
            for left in range(1, 22, 10):
                down, right = torch.randint(0, 5, (2,), generator=generator).tolist()
                field[top + down : top + down + 5, left + right : left + right + 5] += image
    model = Model(Pixels(5), Identity(), Anywhere(0.1), noise=White(sigma, 0.1))
    return model, Micrographs(InMemory(fields), 1.0, tuple("abcdefghij"[:count])), model.object.fit(image)


def states(estimator: EM, data: Micrographs, model: Model, start: torch.Tensor, updates: int) -> Iterator[State]:
    state = estimator.init(data, model, start, 3)
    for _ in range(updates):
        now = estimator.current(model, state)
        stats = estimator.accumulate(now, Batch(data, range(len(data))), state)
        state = estimator.update(now, state, stats, Flat())
        yield state


@pytest.mark.parametrize(("count", "parts"), [(8, 4), (7, 3), (5, 5)])
def test_every_pass_takes_each_micrograph_once(count: int, parts: int) -> None:
    for turn in range(3):
        pieces = [minibatches.part(count, parts, turn * parts + number, 7) for number in range(parts)]
        assert sorted(index for piece in pieces for index in piece) == list(range(count))
        assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
    assert minibatches.part(100, 4, 0, 7) != minibatches.part(100, 4, 0, 8)
    assert minibatches.part(100, 4, 0, 7) != minibatches.part(100, 4, 4, 7)


def test_updates_are_those_of_averaged_normal_equations() -> None:
    """On views that stay: numerators and weights of all updates averaged, then one M-step (Cappe and Moulines 2009)."""
    ball = Ball(6, 2)
    model = Model(ball, Projection(rotation.super_fibonacci(8)), Anywhere(0.15), noise=White(0.8, 0.0))
    data = Micrographs(InMemory(0.8 * draw(4, 6, 30, 30)), 1.0, tuple("abcdef"))
    estimator = replace(EXACT, batch=1 / 3, estimate_sigma=False, estimate_density=False)
    fixed = {"turn": torch.eye(3, dtype=torch.float64), "mean": torch.tensor(0.0, dtype=torch.float64)}
    prior, whole = Ridge(0.05), Batch(data, range(6))
    state = estimator.init(data, model, 0.3 * draw(5, ball.size), 3) | fixed
    numerator = weight = torch.zeros(())
    for update in range(5):
        now = estimator.current(model, state)
        stats = estimator.accumulate(now, whole, state)
        rate = (update + 2) ** -0.6 if update else 1.0
        numerator = (1 - rate) * numerator + rate * stats["numerator"]
        weight = (1 - rate) * weight + rate * stats["weight"]
        problem = maximisation.Problem(ball, now.operator(state["x"]), numerator, weight, 0.64, prior, 1e-13, 300)
        expected = problem.maximise(state["x"])
        state = estimator.update(now, state, stats, prior) | fixed
        assert float((state["x"] - expected).norm() / expected.norm()) < 1e-9


@pytest.mark.parametrize("batch", [0.1, 0.9])
def test_a_part_that_is_all_the_data_is_em(batch: float) -> None:
    """One micrograph cannot be parted, and nine tenths of two are both."""
    model, data, x = flat(1.0, count=1 if batch < 0.5 else 2)
    plain = reconstruct(data, model, replace(EXACT, iterations=4), start=0.5 * x, moves=0)
    parts = reconstruct(data, model, replace(EXACT, iterations=4, batch=batch), start=0.5 * x, moves=0)
    assert torch.equal(plain.x, parts.x)
    assert plain.model.noise == parts.model.noise


def test_statistics_of_the_parts_add_up_to_those_of_the_data() -> None:
    model, data, x = flat(1.0)
    parted, whole = replace(EXACT, batch=0.25), Batch(data, range(8))
    state = parted.init(data, model, x, 3)
    expected = EXACT.accumulate(model, whole, EXACT.init(data, model, x, 3))
    pieces = [parted.accumulate(model, whole, state | {"step": torch.tensor(step)}) for step in range(4)]
    for name, value in expected.items():
        assert torch.allclose(sum(piece[name] for piece in pieces) / 4, value, rtol=1e-10, atol=1e-10), name


def test_truth_is_a_fixed_point_without_noise() -> None:
    model, data, x = flat(1e-2)
    for state in states(replace(EXACT, batch=0.25), data, model, x, 8):
        assert float((state["x"] - x).norm() / x.norm()) < 5e-3
        assert float(state["mean"]) == pytest.approx(0.1, abs=1e-3)


def test_averages_converge_where_single_parts_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the optimum of all the data, in x, noise and density; without memory the answer is that of the last part."""
    model, data, x = flat(1.2)
    start = x + 0.3 * draw(6, len(x))
    *_, best = states(replace(EXACT, iterations=15), data, model, start, 15)
    parted = replace(EXACT, iterations=80, batch=0.125)

    def distance(state: State) -> float:
        return float((state["x"] - best["x"]).norm() / best["x"].norm())

    *_, last = averaged = list(states(parted, data, model, start, 80))
    early, late = (max(map(distance, some)) for some in (averaged[4:12], averaged[-8:]))
    monkeypatch.setattr(EM, "_rate", lambda self, state: 1.0)
    single = min(map(distance, list(states(parted, data, model, start, 24))[-8:]))
    assert late < 0.5 * early
    assert late < 0.25 * single
    for name in ("sigma", "mean", "placement.density"):
        assert float(last[name]) == pytest.approx(float(best[name]), rel=0.03)


@pytest.mark.parametrize("batch", [0.0, -1.0, 1.5, float("nan")])
def test_bad_parts_are_refused(batch: float) -> None:
    with pytest.raises(ValueError, match="--batch must be a part of the micrographs"):
        MicrographJob(box=11, batch=batch)


def test_a_job_takes_its_first_stage_in_parts() -> None:
    """Four updates for a pass, of which each sees one of four micrographs; the last stage sees all."""
    made, _ = simulate_micrographs(bead_chain(7, 0), count=4, size=(60, 60), density=0.12, noise=energy(200), seed=1)
    job = MicrographJob(box=7, lmax=3, views=(12, 16), iterations=(2, 2), starts=1, moves=0, batch=0.25)
    answer = from_micrographs(made, job, seed=2)
    first, last = answer.stages["stage-0"], answer.stages["stage-1"]
    assert len(first.history) == 8 and len(last.history) <= 2
    assert int(first.state["parts"]) == 4 and "parts" not in last.state
