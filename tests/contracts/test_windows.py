"""Windows of signals and patches of images: the E-step against all configurations, and its statistics as gradient."""

from __future__ import annotations

import math
from itertools import pairwise, product

import pytest
import torch

from enumeration import draw
from unpicked.data.signal import Signal
from unpicked.estimators.base import Batch, add
from unpicked.estimators.em import EM
from unpicked.model import signal_patches
from unpicked.model.likelihoods import Scene, Stats
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.patches import Patches
from unpicked.model.placements import Anywhere, Gas, Window
from unpicked.model.views import Identity, InPlane, OfClasses
from unpicked.objects.base import Object
from unpicked.objects.classes import Classes
from unpicked.objects.disk import Disk
from unpicked.objects.samples import Samples
from unpicked.ops.viterbi import likeliest_starts
from unpicked.simulate.signals import simulate_signal

NOISE = White(0.7, 0.1)


def enumerate_window(
    window: torch.Tensor, templates: torch.Tensor, log_weights: torch.Tensor, rate: float, width: int
) -> torch.Tensor:
    """Log-probability of a window: all configurations of a stationary renewal process, drawn one by one."""
    side, (count, length) = len(window), templates.shape
    chance = rate / (1 - rate * (width - 1))
    logs: list[torch.Tensor] = []

    def go_on(site: int, drawn: torch.Tensor, log_prior: torch.Tensor) -> None:
        if site >= side:
            misfit = (window - drawn).square().sum() / (2 * NOISE.sigma**2)
            logs.append(log_prior - misfit - side / 2 * math.log(2 * math.pi * NOISE.sigma**2))
            return
        go_on(site + 1, drawn, log_prior + math.log1p(-chance))
        for kind in range(count):
            go_on(site + width, drawn + placed(site, kind), log_prior + math.log(chance) + log_weights[kind])

    def placed(site: int, kind: int) -> torch.Tensor:
        low, high = max(0, -site), max(0, min(length, side - site))
        if low >= high:
            return torch.zeros(side, dtype=torch.float64)
        return torch.nn.functional.pad(templates[kind, low:high], (max(0, site), side - site - high))

    nothing = torch.zeros(side, dtype=torch.float64)
    go_on(0, nothing, torch.tensor(math.log(1 - rate * (width - 1)), dtype=torch.float64))
    for site, kind in product(range(-(width - 1), 0), range(count)):
        go_on(site + width, placed(site, kind), math.log(rate) + log_weights[kind])
    return torch.stack(logs).logsumexp(0)


def statistics(likelihood: Patches, scene: Scene, *signals: torch.Tensor) -> Stats:
    step = likelihood.step(scene)
    for signal in signals:
        step.add(signal, 0)
    return step.finish()


CASES = {
    "patches of the talk": (3, 5, 3, 3, 1),
    "overlapping, three copies": (3, 5, 9, 1, 1),
    "closer copies": (3, 3, 7, 2, 1),
    "two kinds": (3, 5, 8, 4, 2),
    "three kinds, closer": (2, 2, 4, 1, 3),
}


@pytest.mark.parametrize(("length", "width", "side", "stride", "kinds"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "logarithms"])
def test_windows_equal_enumeration(
    monkeypatch: pytest.MonkeyPatch, plain: bool, length: int, width: int, side: int, stride: int, kinds: int
) -> None:
    """Log-likelihood, its gradient by the templates (Fisher's identity) and by the density."""
    if not plain:
        monkeypatch.setattr(signal_patches, "_RANGE", 0.0)
    templates, signal = draw(1, kinds, length).requires_grad_(), draw(2, 13)
    log_weights = torch.arange(1.0, kinds + 1, dtype=torch.float64).log()
    log_weights = log_weights - log_weights.logsumexp(0)
    share, density = min(1.0, stride / side), 0.3

    def exact(now: float) -> torch.Tensor:
        firsts = range(0, 13 - side + 1, stride)
        some = [signal[i : i + side] - NOISE.mean for i in firsts]
        return share * sum(
            (enumerate_window(each, templates, log_weights, now / length, width) for each in some),
            torch.zeros((), dtype=torch.float64),
        )

    scene = Scene(templates.detach(), log_weights, NOISE, density, 1.0, width)
    likelihood = Patches(side, stride)
    stats = statistics(likelihood, scene, signal)
    value = exact(density)
    assert float(stats["log_likelihood"]) == pytest.approx(float(value.detach()), abs=1e-11)
    (gradient,) = torch.autograd.grad(value, templates)
    fisher = (stats["numerator"] - stats["weight"] * templates.detach()) / NOISE.sigma**2
    assert torch.allclose(fisher, gradient, rtol=0, atol=1e-11)
    with torch.no_grad():  # the density that the statistics suggest is a step uphill
        new = float(likelihood.density(stats, length, width))
        assert new != density
        assert float(exact(new)) > float(value.detach())


def test_statistics_add_over_blocks_and_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that share their halo hold every window once; so do the pieces of which tables are held."""
    signal = draw(3, 230)
    scene = Scene(draw(1, 2, 4), torch.tensor([0.5, 0.5]).double().log(), NOISE, 0.3, 1.0, 7)
    likelihood = Patches(12, 3)
    whole = statistics(likelihood, scene, signal)
    blocks = statistics(likelihood, scene, *Signal.of(signal, block=30, halo=11))
    monkeypatch.setattr(signal_patches, "_HELD", 1)
    pieces = statistics(likelihood, scene, signal)
    for name, value in whole.items():
        assert torch.allclose(value, blocks[name], rtol=1e-11, atol=1e-11), name
        assert torch.allclose(value, pieces[name], rtol=1e-11, atol=1e-11), name
        assert value.dtype == torch.float64
    short = statistics(likelihood, scene, signal[:11])
    assert not any(bool(value.any()) for value in short.values())


def test_one_long_window_is_the_signal_itself() -> None:
    """Weights of a window that holds everything: every sample is seen as often as copies cover it."""
    truth = draw(1, 5)
    data, simulation = simulate_signal(3 * truth, density=0.25, sigma=0.3, samples=600, seed=1)
    scene = Scene(3 * truth[None], torch.zeros(1).double(), White(0.3), 0.25, 1.0, 9)
    stats = statistics(Patches(600), scene, data[0])
    assert float(stats["weight"].mean()) == pytest.approx(simulation.per_row, rel=1e-3)
    found = stats["numerator"] / stats["weight"]
    assert float((found - 3 * truth).norm() / (3 * truth).norm()) < 0.05


def test_scores_beyond_the_range_of_numbers_are_no_trouble() -> None:
    template = torch.full((1, 4), 60.0, dtype=torch.float64)
    signal = torch.zeros(60, dtype=torch.float64)
    signal[28:32] = 60.0
    stats = statistics(Patches(12, 1), Scene(template, torch.zeros(1).double(), White(0.5), 0.2, 1.0, 7), signal)
    assert float(stats["weight"].mean()) == pytest.approx(1, rel=1e-6)
    assert bool(torch.isfinite(stats["log_likelihood"]))


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [
        (Patches(law="free"), "free law .* is for images; for signals try"),
        (Gas(), r"lattice gas is for images.*try ExactEM"),
        (Window(), r"lattice gas is for images.*try ExactEM"),
    ],
)
def test_likelihoods_of_images_are_refused_for_signals(likelihood: Patches | Gas | Window, message: str) -> None:
    placement = Anywhere(0.2, likelihood)
    with pytest.raises(ValueError, match=message) as caught:
        placement.step(draw(1, 1, 4), torch.zeros(1).double(), NOISE)
    assert "\n" not in str(caught.value)


def test_impossible_densities_and_subpixels_are_refused_for_signals() -> None:
    with pytest.raises(ValueError, match=r"density must be below 0\.571 .*got 0\.6.*try a lower density") as caught:
        Anywhere(0.6).step(draw(1, 1, 4), torch.zeros(1).double(), NOISE)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="subpixel must be 1 for signals; got 2"):
        Model(Samples(4), Identity(), Anywhere(0.2, subpixel=2)).templates(draw(1, 4))


# images ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("object", [Disk(3), Classes(Disk(3), 2)], ids=["disk", "kinds"])
def test_patches_of_turned_images_equal_enumeration(object: Object) -> None:
    """Every offset, angle and kind of every patch, or none; the gradient by the coefficients is EM's statistic."""
    view = InPlane(4, 0.3) if isinstance(object, Disk) else OfClasses(InPlane(3, 0.3), 2)
    if isinstance(view, OfClasses):
        view = view.weighted((draw(4, 6).softmax(0)).log())
    density = 0.15
    model = Model(object, view, Anywhere(density), noise=NOISE)
    x, image = draw(1, object.size).requires_grad_(), draw(2, 7, 6)
    templates, occupied = model.templates(x), density * (5 / 3) ** 2
    total = torch.zeros((), dtype=torch.float64)
    for top, left in product((0, 3), (0, 3)):
        patch = image[top : top + 3, left : left + 3] - NOISE.mean
        logs = [math.log1p(-occupied) - patch.square().sum() / (2 * NOISE.sigma**2)]
        for k, y, u in product(range(len(view)), range(-2, 3), range(-2, 3)):
            drawn = torch.nn.functional.pad(templates[k], (3, 3, 3, 3))[3 - y : 6 - y, 3 - u : 6 - u]
            prior = math.log(occupied / 25) + view.log_weights[k]
            logs.append(prior - (patch - drawn).square().sum() / (2 * NOISE.sigma**2))
        total = total + torch.stack(logs).logsumexp(0) - 4.5 * math.log(2 * math.pi * NOISE.sigma**2)
    step = model.placement.step(templates.detach(), model.log_weights, model.noise)
    step.add(image, 0)
    stats = step.finish()
    assert float(stats["log_likelihood"]) == pytest.approx(float(total.detach()), abs=1e-10)
    (gradient,) = torch.autograd.grad(total, x)
    residual = stats["numerator"] - stats["weight"] * templates.detach()
    fisher = model.operator(x.detach()).backproject(residual) / NOISE.sigma**2
    assert torch.allclose(fisher, gradient, rtol=0, atol=1e-10)


# moves -------------------------------------------------------------------------------------------------------------


def test_moves_hold_the_shifts_that_undo_a_shifted_answer() -> None:
    x = draw(1, 9)
    pushed = torch.nn.functional.pad(x, (3, 0))[:9]
    back = dict(Anywhere(0.2).moves(Samples(9), pushed))
    assert set(back) == {f"by {s:+d}" for s in (-4, -3, -2, -1, 1, 2, 3, 4)}
    assert torch.equal(back["by -3"][:6], x[:6])
    assert not bool(back["by -3"][6:].any())
    disk = Disk(7)
    image = torch.zeros(7, 7, dtype=torch.float64)
    image[4, 2] = 1.0  # one down, one left
    moved = dict(Anywhere(0.2).moves(disk, disk.fit(image)))
    assert len(moved) == 16
    centred = disk.values(moved["by +1, -1"])  # x, y
    assert int(centred.flatten().argmax()) == 3 * 7 + 3
    kinds = dict(Anywhere(0.2).moves(Classes(Samples(4), 2), draw(2, 8)))
    assert len(kinds) == 8
    assert torch.equal(kinds["kind 2 by +1"][:4], draw(2, 8)[:4])


# the likeliest configuration ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_likeliest_starts_equal_enumeration(width: int) -> None:
    for seed in range(20):
        values = draw(seed, 9)
        best = 0.0
        for chosen in product((False, True), repeat=9):
            sites = [i for i, here in enumerate(chosen) if here]
            if all(b - a >= width for a, b in pairwise(sites)):
                best = max(best, float(values[sites].sum()))
        found = likeliest_starts(values, width)
        assert float(values[found].sum()) == pytest.approx(best, abs=1e-12)
        assert bool((found.diff() >= width).all())
    with pytest.raises(ValueError, match=r"width at least 1; got .* 0"):
        likeliest_starts(values, 0)


def test_statistics_of_signals_do_not_depend_on_batches() -> None:
    data, _ = simulate_signal(draw(1, 6), density=0.3, sigma=0.8, samples=1000, seed=2, block=120, halo=17)
    model = Model(Samples(6), Identity(), Anywhere(0.2, Patches(18, 6)), noise=White(1.0))
    estimator = EM(iterations=3, frozen=3)
    state = estimator.init(data, model, draw(2, 6), 0)
    now = estimator.current(model, state)
    whole = estimator.accumulate(now, Batch(data, range(len(data))), state)
    parts = add(
        estimator.accumulate(now, Batch(data, [0, 3]), state),
        estimator.accumulate(now, Batch(data, [1, 2, *range(4, len(data))]), state),
    )
    for name, value in whole.items():
        assert torch.allclose(value, parts[name], rtol=1e-12, atol=1e-12), name
