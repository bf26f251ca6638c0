"""The contract of estimators, for exact maximum likelihood in 1-D; a new solver or law adds one row to ROWS."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from enumeration import draw
from unpicked.data.signal import Signal
from unpicked.estimators.base import Batch, add, log_likelihood
from unpicked.estimators.exact_em import ExactEM, cut_out, standard_errors
from unpicked.model.chain import Chain
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.spacing import HardCore, Histogram, Spacing, begins, geometric
from unpicked.model.views import Identity, OfClasses
from unpicked.objects.classes import Classes
from unpicked.objects.samples import Samples
from unpicked.ops.chain import Gaps, window_scores
from unpicked.priors import Flat, Prior, Ridge
from unpicked.reconstruct import Reconstruction, Result, reconstruct
from unpicked.simulate.signals import simulate_signal

LENGTH = 5
LAWS: dict[str, Spacing] = {
    "separated": HardCore("separated", 0.25),
    "arbitrary": geometric(0.3),
    "dense": HardCore("dense", 0.6),
    "least of 7": HardCore(7, 0.3),
    "histogram": Histogram.like(geometric(0.3), LENGTH, 14),
    "dense histogram": Histogram.like(HardCore("dense", 0.5), LENGTH, 9, smoothing=0.5),
}


@dataclass(frozen=True)
class Row:
    """An estimator, what it is tried on, and in which blocks the signals are read."""

    estimator: ExactEM
    law: Spacing
    kinds: int = 1
    block: int | None = None


FISHER, EM = ExactEM(8, tolerance=0.0), ExactEM(8, "em", tolerance=0.0)
ROWS = {
    "fisher": Row(FISHER, LAWS["separated"]),
    "em": Row(EM, LAWS["separated"]),
    "em, known": Row(replace(EM, estimate_sigma=False, estimate_density=False), LAWS["arbitrary"]),
    "em, dense": Row(EM, LAWS["dense"]),
    "fisher, dense": Row(FISHER, LAWS["dense"]),
    "em, histogram": Row(EM, LAWS["histogram"]),
    "fisher, dense histogram": Row(FISHER, LAWS["dense histogram"]),
    "em, two kinds": Row(EM, LAWS["separated"], kinds=2),
    "fisher, two kinds": Row(FISHER, LAWS["arbitrary"], kinds=2),
    "em, blocks": Row(EM, LAWS["arbitrary"], block=500),
    "fisher, blocks": Row(FISHER, LAWS["separated"], block=500),
}


@pytest.fixture(params=ROWS)
def row(request: pytest.FixtureRequest) -> Row:
    return ROWS[request.param]


def model_of(row: Row, sigma: float = 0.8) -> Model:
    samples = Samples(LENGTH)
    if row.kinds == 1:
        return Model(samples, Identity(), Chain(row.law), noise=White(sigma))
    view = OfClasses(Identity(), row.kinds)
    return Model(Classes(samples, row.kinds), view, Chain(row.law), noise=White(sigma))


def truth_of(row: Row) -> torch.Tensor:
    return 1.5 * draw(11, row.kinds, LENGTH)


def signals(row: Row, sigma: float = 0.8, rows: int = 3) -> Signal:
    """Three signals of 1000 samples, held in memory."""
    least = getattr(row.law, "least", "separated")
    spacing = least if least in ("separated", "dense") else "arbitrary"
    density = 0.6 if spacing == "dense" else 0.25
    lazy, _ = simulate_signal(
        truth_of(row), density=density, samples=1000, rows=rows, sigma=sigma, seed=4, spacing=spacing
    )  # type: ignore[arg-type]
    return Signal.of(torch.stack(list(lazy)).double(), block=row.block)


def run_of(row: Row, **settings: object) -> Reconstruction:
    data = settings.pop("data", None) or signals(row)
    return reconstruct(data, model_of(row), row.estimator, seed=5, moves=0, **settings)  # type: ignore[arg-type]


def history(run: Reconstruction) -> list[dict[str, float]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in run.history]


# 1, 2 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [Flat(), Ridge(0.3)], ids=["flat", "ridge"])
def test_objective_never_falls(row: Row, prior: Prior) -> None:
    """Baum-Welch never falls; scoring ends no lower than any accepted step."""
    values = [line["objective"] for line in run_of(row, prior=prior).history]
    if row.estimator.monotone:
        assert values[-1] > values[0] + 1
        assert all(after >= before - 1e-9 * abs(before) for before, after in pairwise(values))
    else:
        assert max(values) > values[0] + 1


def test_truth_is_a_fixed_point_without_noise(row: Row) -> None:
    x = truth_of(row)
    data = signals(row, sigma=1e-3)
    estimator = replace(row.estimator, iterations=2)
    start = x.flatten()
    run = reconstruct(data, model_of(row, 1e-2), estimator, start=start, seed=0, moves=0)
    assert float((run.x - start).norm() / start.norm()) < 2e-3


# 3 -----------------------------------------------------------------------------------------------------------------


def test_resumed_run_equals_uninterrupted(row: Row, tmp_path: Path) -> None:
    whole = run_of(row)

    class Killed(Exception):
        pass

    def kill(name: str, line: dict[str, float]) -> None:
        if line["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        run_of(row, checkpoint=tmp_path, report=kill)
    again = run_of(row, checkpoint=tmp_path, resume=True)
    assert torch.equal(whole.x, again.x)
    assert history(whole) == history(again)
    assert whole.result is again.result


def test_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    row = replace(ROWS["em"], estimator=replace(EM, iterations=2))
    run_of(row, checkpoint=tmp_path)
    other = Signal.of(torch.stack(list(signals(row))) + 0.1)
    with pytest.raises(ValueError, match="other data or settings"):
        run_of(row, checkpoint=tmp_path, resume=True, data=other)


# 4 -----------------------------------------------------------------------------------------------------------------


def test_one_batch_equals_many_and_an_empty_batch_gives_zeros(row: Row) -> None:
    data, model = signals(row), model_of(row)
    state = row.estimator.init(data, model, None, 0)
    now = row.estimator.current(model, state)
    indices = list(range(len(data)))
    whole = row.estimator.accumulate(now, Batch(data, indices), state)
    parts = row.estimator.accumulate(now, Batch(data, indices[2:]), state)
    parts = add(parts, row.estimator.accumulate(now, Batch(data, indices[:2]), state))
    none = row.estimator.accumulate(now, Batch(data, []), state)
    for name, value in whole.items():
        assert torch.allclose(value, parts[name], rtol=1e-11, atol=1e-9), name
        assert not bool(none[name].any()), name
        assert none[name].shape == value.shape


def _worker(rank: int, world: int, place: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=world)
    torch.save(run_of(ROWS["fisher"]).x, f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_worker, args=(2, str(tmp_path / "meet"), str(tmp_path)), nprocs=2)
    alone = run_of(ROWS["fisher"]).x
    for rank in range(2):
        other = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert float((other - alone).norm() / alone.norm()) < 1e-9


# 5, 6 --------------------------------------------------------------------------------------------------------------


def test_same_seed_same_answer_and_inputs_unchanged(row: Row) -> None:
    data, start = signals(row), draw(1, row.kinds * LENGTH)
    before, kept = [block.clone() for block in data], start.clone()
    quick = replace(row, estimator=replace(row.estimator, iterations=3))
    runs = [run_of(quick, data=data, start=start) for _ in range(2)]
    assert torch.equal(runs[0].x, runs[1].x)
    assert torch.equal(start, kept)
    assert all(torch.equal(old, new) for old, new in zip(before, data, strict=True))
    assert not torch.equal(run_of(quick, data=data).x, runs[0].x)


def test_nan_ends_in_a_typed_failure(row: Row) -> None:
    clean = torch.stack(list(signals(replace(row, block=None))))
    data = Signal.of(clean, block=row.block)
    data.source.samples[0, 30] = torch.nan  # type: ignore[attr-defined]
    run = run_of(row, data=data, start=truth_of(row).flatten())
    assert run.result is Result.NOT_FINITE
    assert bool(torch.isfinite(run.x).all())


def test_state_and_stats_hold_tensors_only(row: Row) -> None:
    data, model = signals(row), model_of(row)
    state = row.estimator.init(data, model, None, 0)
    stats = row.estimator.accumulate(row.estimator.current(model, state), Batch(data, [0]), state)
    new = row.estimator.update(model, state, stats, Flat())
    for held in (state, stats, new):
        assert all(isinstance(value, torch.Tensor) for value in held.values())
    assert new.keys() == state.keys()


# 8, 10 -------------------------------------------------------------------------------------------------------------


def test_scaled_data_scale_the_answer(row: Row) -> None:
    data, start = signals(row), truth_of(row).flatten()
    whole = torch.stack(list(signals(replace(row, block=None))))
    plain = reconstruct(data, model_of(row), row.estimator, start=start, moves=0)
    three = reconstruct(
        Signal.of(3 * whole, block=row.block), model_of(row, 2.4), row.estimator, start=3 * start, moves=0
    )
    assert torch.allclose(three.x, 3 * plain.x, rtol=1e-6, atol=1e-6)
    assert three.model.noise.sigma == pytest.approx(3 * plain.model.noise.sigma, rel=1e-6)
    assert three.model.placement.density == pytest.approx(plain.model.placement.density, rel=1e-6)


def test_float32_data_agree_with_float64(row: Row) -> None:
    whole = torch.stack(list(signals(replace(row, block=None))))
    start = truth_of(row).flatten()
    single, double = (
        run_of(row, data=Signal.of(values, block=row.block), start=start) for values in (whole.float(), whole)
    )
    assert float((single.x - double.x).norm() / double.x.norm()) < 1e-4


# 11, 12: exactness -------------------------------------------------------------------------------------------------


def configurations(sites: int, least: int, first: int = 0) -> Iterator[tuple[int, ...]]:
    yield ()
    for site in range(first, sites):
        for rest in configurations(sites, least, site + least):
            yield (site, *rest)


def log_prior(
    sites: tuple[int, ...], total: int, gaps: Gaps, hazard: torch.Tensor, first: torch.Tensor
) -> torch.Tensor:
    """Log-probability of a configuration, every distance written down."""

    def distance(d: int) -> torch.Tensor:
        if d < gaps.reach:
            return torch.as_tensor(gaps.chances[d - gaps.least], dtype=torch.float64)
        return gaps.tail * hazard * (1 - hazard) ** (d - gaps.reach)

    def beyond(d: int) -> torch.Tensor:  # P(distance >= d)
        left = sum(c for i, c in enumerate(gaps.chances) if gaps.least + i >= d)
        return left + gaps.tail * (1 - hazard) ** max(0, d - gaps.reach)

    left, known = 1 - first.sum(), len(first)
    if not sites:
        return (left * (1 - hazard) ** (total - known)).log()
    start = first[sites[0]] if sites[0] < known else left * hazard * (1 - hazard) ** (sites[0] - known)
    out = start.log() + beyond(total - sites[-1]).log()
    return out + sum((distance(b - a).log() for a, b in pairwise(sites)), torch.zeros(()))


def enumerated(
    y: torch.Tensor, x: torch.Tensor, shares: torch.Tensor, sigma: torch.Tensor, law: Spacing, cut: bool,
    hazard: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Log-likelihood, and the chance of a copy at every site, by writing down all configurations and kinds."""
    length, count = x.shape[1], len(y)
    total = count + (length - 1) * (1 if cut else -1)
    gaps = law.gaps(length)
    first = torch.tensor(begins(law, length, total)[0] if cut else (), dtype=torch.float64)
    hazard = torch.tensor(gaps.hazard, dtype=torch.float64) if hazard is None else hazard
    margin, terms, found = length - 1 if cut else 0, [], []
    for sites in configurations(total, gaps.least):
        chance = log_prior(sites, total, gaps, hazard, first)
        if not bool(chance > -math.inf):
            continue
        for kinds in itertools.product(range(len(x)), repeat=len(sites)):
            mean = torch.zeros(count + 2 * margin, dtype=torch.float64)
            for site, kind in zip(sites, kinds, strict=True):
                mean = mean + torch.nn.functional.pad(x[kind], (site, len(mean) - site - length))
            misfit = (y - mean[margin : margin + count]).square().sum() / (2 * sigma**2)
            weight = sum((shares[kind] for kind in kinds), torch.zeros(()))
            terms.append(chance + weight - misfit)
            found.append(sites)
    stacked = torch.stack(terms)
    value = stacked.logsumexp(0)
    marginals = torch.zeros(total, dtype=torch.float64)
    for weight, sites in zip((stacked - value).exp().detach(), found, strict=True):
        marginals[list(sites)] += weight
    return value - count / 2 * torch.log(2 * torch.pi * sigma**2), marginals


TOYS = {
    "separated": (HardCore("separated", 0.4), 1),
    "separated, two kinds": (HardCore("separated", 0.4), 2),
    "arbitrary": (geometric(0.5), 1),
    "arbitrary, two kinds": (geometric(0.5), 2),
    "dense": (HardCore("dense", 0.8), 1),
    "least of 4": (HardCore(4, 0.5), 1),
    "histogram": (Histogram(3, 3, (0.1, 0.3, 0.05), 0.2), 1),
    "dense histogram": (Histogram(3, 2, (0.1, 0.3, 0.05), 0.2), 1),
}


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("scale", [1.0, 40.0], ids=["noise", "loud"])
@pytest.mark.parametrize("name", TOYS)
def test_e_step_equals_brute_force_enumeration(name: str, scale: float, cut: bool) -> None:
    """Log-likelihood and chances of all sites; loud: ratios that no floating-point number holds as exponentials."""
    law, kinds = TOYS[name]
    x, y = scale * draw(2, kinds, 3), draw(3, 9)
    y[2:5] += x[0]
    shares = draw(4, kinds).log_softmax(0)
    value, marginals = enumerated(y, x, shares, torch.tensor(0.9, dtype=torch.float64), law, cut)
    step = Chain(law, cut).step(x, shares, White(0.9))
    step.add(y)
    assert float(step.finish()["log_likelihood"]) == pytest.approx(float(value), rel=1e-12)
    sums, _ = step._sums(y, None, 2, chances=True)
    assert float((sums.chances - marginals).abs().max()) < 1e-10
    assert float(step.stats["occupied"]) > 0


@pytest.mark.parametrize("name", TOYS)
def test_statistics_are_the_gradient_of_the_log_likelihood(name: str) -> None:
    """Fisher's identity for templates, sigma and hazard, against autograd through the enumeration."""
    law, kinds = TOYS[name]
    x, y = draw(2, kinds, 3).requires_grad_(True), draw(3, 9)
    shares = draw(4, kinds).log_softmax(0)
    sigma = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    hazard = torch.tensor(law.gaps(3).hazard, dtype=torch.float64, requires_grad=True)
    value, _ = enumerated(y, x, shares, sigma, law, False, hazard)
    gradient = torch.autograd.grad(value, (x, sigma, hazard))
    step = Chain(law).step(x.detach(), shares, White(0.9))
    step.add(y)
    scores = step.finish()["scores"]
    assert torch.allclose(scores[: 3 * kinds], gradient[0].flatten(), rtol=1e-9, atol=1e-10)
    assert float(scores[-2]) == pytest.approx(float(gradient[1]), rel=1e-9)
    if name in ("separated", "separated, two kinds", "arbitrary", "arbitrary, two kinds", "least of 4"):
        assert float(scores[-1]) == pytest.approx(float(gradient[2]), rel=1e-9)


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("name", ["separated", "arbitrary", "dense", "least of 4"])
def test_the_hazard_s_score_is_the_likelihood_s_slope(name: str, cut: bool) -> None:
    """Where the hazard also decides overlaps and beginnings, against finite differences."""
    law = TOYS[name][0]
    x, y, hazard = draw(2, 1, 3), draw(3, 40), law.gaps(3).hazard

    def at(value: float) -> float:
        step = Chain(law.thinned(3, value), cut).step(x, torch.zeros(1), White(0.9))
        step.add(y)
        return float(step.finish()["log_likelihood"])

    step = Chain(law, cut).step(x, torch.zeros(1), White(0.9))
    step.add(y)
    slope = (at(hazard + 1e-5) - at(hazard - 1e-5)) / 2e-5
    assert float(step.finish()["scores"][-1]) == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_a_signal_in_blocks_is_almost_the_signal_in_one(row: Row) -> None:
    """Copies that a border cuts are counted on both sides: hardly anything is lost."""
    whole = torch.stack(list(signals(replace(row, block=None))))
    model, x = model_of(row), truth_of(row).flatten()
    values = []
    for block in (None, 250):
        data = Signal.of(whole, block=block)
        state = row.estimator.init(data, model, x, 0)
        values.append(float(row.estimator.accumulate(model, Batch(data, range(len(data))), state)["log_likelihood"]))
    assert values[1] == pytest.approx(values[0], rel=5e-3)


def test_blocks_tell_at_which_ends_they_are_cut() -> None:
    data = Signal.of(draw(1, 2, 100), block=40, halo=7)
    ends = [cut_out(data, index, data[index])[2] for index in range(len(data))]
    assert ends == [(False, True), (True, True), (True, False)] * 2
    assert [len(cut_out(data, index, data[index])[0]) for index in range(3)] == [40, 40, 20]


def test_log_likelihood_is_that_of_the_placement() -> None:
    row = ROWS["em"]
    data, model, x = signals(row), model_of(row), truth_of(row).flatten()
    values = log_likelihood(data, model, x)
    run = reconstruct(data, model, replace(row.estimator, iterations=1), start=x, moves=0)
    assert float(values.sum()) == pytest.approx(run.history[0]["log_likelihood"], rel=1e-12)


# settings, moves, errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "value"), [("iterations", 0), ("solver", "newton"), ("tolerance", -1.0)])
def test_bad_settings_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        ExactEM(**{field: value})  # type: ignore[arg-type]


def test_another_placement_is_refused() -> None:
    from unpicked.model.placements import Anywhere

    model = Model(Samples(LENGTH), Identity(), Anywhere(0.1))
    with pytest.raises(ValueError, match="Chain"):
        reconstruct(signals(ROWS["em"]), model, ExactEM())


def test_overlapping_copies_of_two_kinds_are_refused() -> None:
    row = Row(EM, LAWS["dense"], kinds=2)
    with pytest.raises(ValueError, match="several kinds must not overlap"):
        run_of(row, data=signals(ROWS["em"]))


@pytest.mark.parametrize("solver", ["fisher", "em"])
def test_moves_repair_a_shifted_start(solver: str) -> None:
    x = 1.5 * draw(11, 1, 9)
    data, _ = simulate_signal(x, density=0.3, samples=6000, sigma=1.0, seed=3)
    model = Model(Samples(9), Identity(), Chain(HardCore("separated", 0.3)), noise=White(1.0))
    start = torch.cat([torch.zeros(3, dtype=torch.float64), x[0, :-3]])
    estimator = ExactEM(60, solver)  # type: ignore[arg-type]
    stay, moved = (reconstruct(data, model, estimator, start=start, moves=moves) for moves in (0, 2))
    assert any("move taken" in note for note in moved.notes)
    assert moved.objective > stay.objective + 10
    assert float((moved.x - x[0]).norm() / x.norm()) < 0.1 < float((stay.x - x[0]).norm() / x.norm())


def test_standard_errors_need_a_run() -> None:
    row = ROWS["fisher"]
    state = row.estimator.init(signals(row), model_of(row), None, 0)
    with pytest.raises(ValueError, match="no information"):
        standard_errors(state)
    run = run_of(row)
    assert run.information is not None
    assert run.information.shape == (LENGTH, LENGTH)
    errors = standard_errors(run.state)
    tighter = standard_errors(run.state, 100 * torch.eye(LENGTH, dtype=torch.float64))
    assert bool((tighter["x"] < errors["x"]).all())


@pytest.mark.parametrize(("side", "stride"), [(15, 1), (5, 5), (9, 4)])
def test_scores_of_windows_are_those_of_signals_cut_out(side: int, stride: int) -> None:
    law, x, y = HardCore("separated", 0.3), draw(2, LENGTH), draw(3, 40)
    begin = begins(law, LENGTH, side + LENGTH - 1)
    found = window_scores(y, x, 0.9, law.gaps(LENGTH), begin, side=side, stride=stride)
    starts = range(0, 40 - side + 1, stride)
    assert len(found) == len(starts)
    for row, start in zip(found, starts, strict=True):
        step = Chain(law, cut=True).step(x[None], torch.zeros(1), White(0.9))
        step.add(y[start : start + side])
        assert torch.allclose(row, step.finish()["scores"], rtol=1e-9, atol=1e-11)
    with pytest.raises(ValueError, match="windows must have"):
        window_scores(y, x, 0.9, law.gaps(LENGTH), begin, side=41, stride=1)
    with pytest.raises(ValueError, match="must not overlap"):
        window_scores(y, x, 0.9, HardCore("dense", 0.3).gaps(LENGTH), begin, side=9, stride=1)
