"""Likelihoods of ``Anywhere``: the gas against all configurations x views, its screen, and sub-pixel templates."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product

import pytest
import torch

from enumeration import configurations, draw
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.snr import energy
from unpicked.estimators import maximisation
from unpicked.estimators.base import Batch, judge, log_likelihood
from unpicked.model import gas
from unpicked.model.gas import Gas, Screen, Window
from unpicked.model.likelihoods import Likelihood, Scene, Stats
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.patches import Patches
from unpicked.model.placements import Anywhere, gas_activity
from unpicked.model.views import Projection
from unpicked.objects.ball import Ball
from unpicked.objects.gaussians import Gaussians
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation
from unpicked.priors import Flat
from unpicked.simulate.micrographs import Specimen, simulate_micrographs


@dataclass(frozen=True, eq=False)
class Truth:
    """The posterior of everything, and the log-evidence, of which templates may have a gradient."""

    log_evidence: torch.Tensor
    stats: Stats
    marginals: torch.Tensor


def enumerate_gas(templates: torch.Tensor, log_weights: torch.Tensor, model: Model, image: torch.Tensor) -> Truth:
    """Every configuration of copies and views, drawn as an image; nothing shared with the package's E-step."""
    placement = model.placement
    assert isinstance(placement, Anywhere) and placement.activity is not None
    length, width, variance = model.side, placement.width(model.side), model.noise.sigma**2
    shape = image.shape[0] - length + 1, image.shape[1] - length + 1
    sites, count = list(product(range(shape[0]), range(shape[1]))), len(templates)
    states, logs = [], []
    for chosen in configurations(*shape, width):
        free = sum(all(max(abs(y - v), abs(x - u)) >= width for v, u in chosen) for y, x in sites)
        for views in product(range(count), repeat=len(chosen)):
            drawn = torch.zeros_like(image)
            for (y, x), view in zip(chosen, views, strict=True):
                pad = (x, image.shape[1] - x - length, y, image.shape[0] - y - length)
                drawn = drawn + torch.nn.functional.pad(templates[view], pad)
            misfit = (image - model.noise.mean - drawn).square().sum() / (2 * variance)
            prior = len(chosen) * math.log(placement.activity) + sum(float(log_weights[view]) for view in views)
            states.append((chosen, views, free))
            logs.append(prior - misfit)
    log_evidence = torch.stack(logs).logsumexp(0)
    posterior = (torch.stack(logs) - log_evidence).exp().detach().tolist()
    marginals = torch.zeros(shape, dtype=torch.float64)
    stats: Stats = {
        "numerator": torch.zeros(templates.shape, dtype=torch.float64),
        "views": torch.zeros(count, dtype=torch.float64),
        "free": torch.zeros((), dtype=torch.float64),
    }
    for chance, (chosen, views, free) in zip(posterior, states, strict=True):
        stats["free"] += chance * free
        for (y, x), view in zip(chosen, views, strict=True):
            marginals[y, x] += chance
            stats["views"][view] += chance
            stats["numerator"][view] += chance * (image[y : y + length, x : x + length] - model.noise.mean)
    return Truth(log_evidence, stats | {"occupied": marginals.sum()}, marginals)


def tiny(subpixel: int, spacing: str, views: int = 2) -> tuple[Model, torch.Tensor, torch.Tensor]:
    """A model, coefficients, and a micrograph of a few sites that holds one copy and noise."""
    placement = Anywhere(0.3, Gas(), spacing=spacing, subpixel=subpixel, activity=0.15)  # type: ignore[arg-type]
    model = Model(Voxels(4), Projection(rotation.super_fibonacci(views)), placement, noise=White(0.9, 0.2))
    x = 0.35 * draw(1, 64)
    image = 0.2 + 0.9 * draw(2, *((7, 8) if subpixel > 1 else (8, 9)))
    image[1:5, 2:6] += model.templates(x)[0]
    return model, x, image


def statistics(model: Model, x: torch.Tensor, image: torch.Tensor, likelihood: Likelihood, seed: int = 0) -> Stats:
    placement = replace(model.placement, likelihood=likelihood)  # type: ignore[type-var]
    step = placement.step(model.templates(x), model.log_weights, model.noise)
    step.add(image, seed)
    return step.finish()


@pytest.mark.parametrize(("subpixel", "spacing"), [(1, "arbitrary"), (1, "separated"), (2, "arbitrary")])
def test_gas_equals_enumeration_of_all_configurations_and_views(subpixel: int, spacing: str) -> None:
    model, x, image = tiny(subpixel, spacing)
    x = x.requires_grad_()
    truth = enumerate_gas(model.templates(x), model.log_weights, model, image)
    stats = statistics(model, x.detach(), image, Gas(sweeps=60_000, burn=100, screen=None))
    assert 0.3 < float(truth.stats["occupied"]) < 3
    assert float(stats["occupied"]) == pytest.approx(float(truth.stats["occupied"]), rel=0.01)
    assert float(stats["free"]) == pytest.approx(float(truth.stats["free"]), rel=0.01)
    assert float((stats["views"] - truth.stats["views"]).abs().max()) < 0.01
    scale = float(truth.stats["numerator"].abs().max())
    assert float((stats["numerator"] - truth.stats["numerator"]).abs().max()) < 0.01 * scale
    assert torch.equal(stats["weight"], stats["views"][:, None, None].expand_as(stats["weight"]))
    assert int(stats["windows"]) == truth.marginals.numel()
    # Fisher's identity holds for the gas too, within what the sampling leaves
    (gradient,) = torch.autograd.grad(truth.log_evidence, x)
    operator = model.operator(x.detach())
    residual = stats["numerator"] - stats["weight"] * operator.project(x.detach())
    fisher = operator.backproject(residual) / model.noise.sigma**2
    assert float((fisher - gradient).norm() / gradient.norm()) < 0.02


def test_window_equals_direct_competition() -> None:
    model, x, image = tiny(1, "arbitrary")
    templates, length, variance = model.templates(x), 4, 0.81
    stats = statistics(model, x, image, Window(screen=None))
    ratios = torch.zeros(5, 6, 2, dtype=torch.float64)
    for y, u, k in product(range(5), range(6), range(2)):
        window, t = image[y : y + length, u : u + length] - 0.2, templates[k]
        ratios[y, u, k] = 0.15 / 2 * ((window * t).sum() / variance - t.square().sum() / (2 * variance)).exp()
    expected = torch.zeros(2, 4, 4, dtype=torch.float64)
    for y, u in product(range(5), range(6)):
        near = ratios[max(0, y - 3) : y + 4, max(0, u - 3) : u + 4].sum()
        window = image[y : y + length, u : u + length] - 0.2
        expected += (ratios[y, u] / (1 + near))[:, None, None] * window
    assert torch.allclose(stats["numerator"], expected, rtol=1e-9, atol=1e-12)
    single = model.placement.step(templates.float(), model.log_weights, model.noise)  # as EM runs it by default
    assert single.finish()["numerator"].dtype == torch.float64


@pytest.mark.parametrize("likelihood", [Gas(), Gas(screen=None), Window(), Window(screen=None)], ids=repr)
def test_statistics_are_deterministic_given_the_seed(likelihood: Likelihood) -> None:
    model, x, _ = tiny(1, "arbitrary")
    image = draw(3, 40, 37)
    first, again, other = (statistics(model, x, image, likelihood, seed) for seed in (5, 5, 6))
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
        assert value.dtype == torch.float64
    chance = likelihood != Window(screen=None)  # even the window has its sites of little weight drawn
    assert torch.equal(first["numerator"], other["numerator"]) != chance


def test_float32_agrees_with_float64() -> None:
    model, x, _ = tiny(1, "arbitrary")
    image = draw(3, 40, 37)
    for likelihood in (Gas(sweeps=200, burn=5, screen=None), Window(screen=None)):
        placement = replace(model.placement, likelihood=likelihood)  # type: ignore[type-var]
        sums = []
        for templates in (model.templates(x), model.templates(x).float()):
            step = placement.step(templates, model.log_weights, model.noise)
            step.add(image, 0)
            sums.append(step.finish()["numerator"])
        assert float((sums[0] - sums[1]).norm() / sums[0].norm()) < 1e-4


@pytest.mark.parametrize("object", [Voxels(5), Ball(6, 3)], ids=["voxels", "ball"])
@pytest.mark.parametrize("subpixel", [1, 2, 3])
def test_subpixel_templates_have_an_exact_adjoint(object: Voxels | Ball, subpixel: int) -> None:
    views = rotation.super_fibonacci(4)
    model = Model(object, Projection(views), Anywhere(0.1, subpixel=subpixel))
    x = draw(1, object.size)
    operator, templates = model.operator(x), model.templates(x)
    assert templates.shape == (4 * subpixel**2, model.side, model.side)
    assert model.log_weights.shape == (len(templates),)
    assert float(model.log_weights.exp().sum()) == pytest.approx(1)
    images = draw(2, *templates.shape)
    left, right = (templates * images).sum(), (x * operator.backproject(images)).sum()
    assert abs(float(left - right)) < 1e-12 * float(templates.norm() * images.norm())
    if subpixel == 3 and model.side % 2:  # positions of one view stand together; even sides lose a frequency
        whole = model.view.operator(object, x).project(x)
        assert torch.allclose(templates.view(4, 9, *whole.shape[1:])[:, 4], whole, atol=1e-12)


def test_subpixel_positions_are_positive_towards_higher_indices() -> None:
    positions = torch.tensor([[0.0, 0.0, 0.0]], dtype=torch.float64)
    object = Gaussians(15, positions, torch.tensor([1.5], dtype=torch.float64))
    model = Model(object, Projection(torch.eye(3, dtype=torch.float64)[None]), Anywhere(0.1, subpixel=2))
    templates = model.templates(torch.ones(1, dtype=torch.float64))
    line = torch.arange(15, dtype=torch.float64) - 7
    centres = torch.stack([(templates.sum(-2) * line).sum(-1), (templates.sum(-1) * line).sum(-1)], -1)
    expected = 0.25 * torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    mass = templates.sum((-2, -1))[:, None]
    got = centres / mass
    assert torch.allclose(got.sort(0).values, expected.sort(0).values, atol=1e-3)
    assert len({tuple(row) for row in got.round(decimals=2).tolist()}) == 4


# the screen --------------------------------------------------------------------------------------------------------


def scene() -> tuple[Scene, torch.Tensor]:
    """600 views of a chain of beads, and a micrograph in which its copies have an energy of 40."""
    beads = torch.tensor([[-1.8, 0.4, 0.2], [-0.6, -1.2, 0.9], [0.7, 0.1, -0.4], [1.5, 1.3, 0.8], [0.2, 1.6, -1.4]])
    fine = Gaussians(18, 2 * beads.double(), torch.full((5,), 1.5, dtype=torch.float64))
    specimen = Specimen(fine, torch.tensor([1.0, 0.7, 1.3, 0.9, 1.1], dtype=torch.float64), 9, 1.0)
    data, truth = simulate_micrographs(specimen, count=1, size=(150, 150), density=0.1, noise=energy(40), seed=3)
    ball = Ball(9, 7)
    x = ball.fit(specimen.truth().values.double())
    model = Model(ball, Projection(rotation.super_fibonacci(600)), Anywhere(0.1, Gas()), noise=White(truth.sigma))
    activity = gas_activity(0.1, 9, 17)
    return Scene(model.templates(x), model.log_weights, model.noise, 0.1, activity, 17), data[0].double()


def e_step(likelihood: Likelihood, where: Scene, image: torch.Tensor, seed: int = 0) -> Stats:
    step = likelihood.step(where)
    step.add(image, seed)
    return step.finish()


@pytest.mark.parametrize("kind", [Gas, Window])
def test_a_screen_that_leaves_nothing_out_changes_nothing(kind: type[Gas] | type[Window]) -> None:
    where, image = scene()
    open_ = e_step(kind(screen=Screen(views=30, floor=0, thin=0)), where, image)
    none = e_step(kind(screen=None), where, image)
    for name, value in none.items():
        assert torch.allclose(open_[name], value, rtol=1e-9, atol=1e-10), name


def test_pixels_without_a_chance_meet_the_representatives_only() -> None:
    where, image = scene()
    met = {}
    for floor in (0.0, 1e-5, 1e-3):
        step = Gas(screen=Screen(views=100, floor=floor)).step(where)
        step.add(image, 0)
        met[floor] = step.met / float(step.stats["windows"])
    assert met[0.0] == 1 and 0 < met[1e-3] < met[1e-5] < 0.5


def test_the_screen_keeps_the_expectations() -> None:
    """Copies of energy 40, 600 views of which 100 see every pixel; tolerances are thrice what was measured."""
    where, image = scene()
    full = e_step(Window(screen=None), where, image)
    seeds = range(8)
    runs = [e_step(Window(screen=Screen(views=100)), where, image, seed) for seed in seeds]
    mean = {name: sum(run[name] for run in runs) / len(seeds) for name in full}
    assert float(mean["occupied"]) == pytest.approx(float(full["occupied"]), rel=1e-3)
    assert float(mean["free"]) == pytest.approx(float(full["free"]), rel=1e-3)

    def error(ours: torch.Tensor, exact: torch.Tensor) -> float:
        return float((ours - exact).norm() / exact.norm())

    assert error(mean["numerator"].sum(0), full["numerator"].sum(0)) < 1e-3  # measured 1.5e-4
    assert error(mean["numerator"], full["numerator"]) < 2e-3  # measured 7e-4
    assert error(runs[0]["numerator"], full["numerator"]) < 6e-3
    # the gas itself, whose sampling goes the same way with the same seed
    sampled, exact = (e_step(Gas(screen=screen), where, image) for screen in (Screen(views=100), None))
    assert float(sampled["occupied"]) == pytest.approx(float(exact["occupied"]), rel=0.02)
    assert error(sampled["numerator"], exact["numerator"]) < 0.05


# scores of parts ---------------------------------------------------------------------------------------------------

SCORED = [Gas(), Gas(screen=None), Window(), Window(screen=None)]


def informed(model: Model, x: torch.Tensor, images: list[torch.Tensor], likelihood: Likelihood) -> Stats:
    """Statistics of several micrographs, the information among them; seeds are 5, 6, ..."""
    placement = replace(model.placement, likelihood=likelihood)  # type: ignore[type-var]
    score = maximisation.score(replace(model, placement=placement), x)
    step = placement.step(model.templates(x), model.log_weights, model.noise, score=score)
    for seed, image in enumerate(images, 5):
        step.add(image, seed)
    return step.finish()


@pytest.mark.parametrize("subpixel", [1, 2])
@pytest.mark.parametrize("likelihood", SCORED, ids=repr)
def test_an_e_step_with_scores_has_the_same_statistics(likelihood: Likelihood, subpixel: int) -> None:
    model, x, _ = tiny(subpixel, "arbitrary", views=3)
    image = draw(3, 40, 37)
    plain, scored = statistics(model, x, image, likelihood, 5), informed(model, x, [image], likelihood)
    assert "information" not in plain
    assert scored.keys() - plain.keys() == {"information"}
    for name, value in plain.items():
        assert torch.allclose(scored[name], value, rtol=1e-10, atol=1e-12), name
    information = scored["information"]
    assert information.shape == (model.object.size,) * 2
    assert information.dtype == torch.float64
    assert torch.allclose(information, information.mT, rtol=1e-12, atol=1e-12)
    values = torch.linalg.eigvalsh(information)
    assert float(values[0]) > -1e-10 * float(values[-1])
    tiles = -(-(40 - 3) // 8) * -(-(37 - 3) // 8)
    assert 2 <= int((values > 1e-6 * values[-1]).sum()) <= tiles


@pytest.mark.parametrize("likelihood", SCORED, ids=repr)
def test_information_adds_over_micrographs_and_is_zero_without_any(likelihood: Likelihood) -> None:
    model, x, _ = tiny(1, "arbitrary")
    images = [draw(3, 40, 37), draw(4, 29, 33)]
    both, first = (informed(model, x, some, likelihood)["information"] for some in (images, images[:1]))
    placement = replace(model.placement, likelihood=likelihood)  # type: ignore[type-var]
    step = placement.step(model.templates(x), model.log_weights, model.noise, score=maximisation.score(model, x))
    step.add(images[1], 6)
    assert torch.allclose(both, first + step.finish()["information"], rtol=1e-12, atol=1e-12)
    none = informed(model, x, [], likelihood)["information"]
    assert none.shape == both.shape
    assert not bool(none.any())


@pytest.mark.parametrize("likelihood", SCORED, ids=repr)
def test_information_of_one_tile_is_the_square_of_the_gradient(likelihood: Likelihood) -> None:
    """A tile holds the copies that start within 2 L pixels; the whole score is the gradient (Fisher's identity)."""
    model, x, _ = tiny(1, "arbitrary", views=3)
    image = draw(3, 11, 10)
    stats = informed(model, x, [image], likelihood)
    variance = model.noise.sigma**2
    operator = model.operator(x)
    problem = maximisation.Problem(model.object, operator, stats["numerator"], stats["weight"], variance, Flat())
    gradient = problem.gradient(x)
    assert float(gradient.norm()) > 0
    square = torch.outer(gradient, gradient)
    assert float((stats["information"] - square).abs().max()) < 1e-5 * float(square.abs().max())


def test_information_is_the_sum_over_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against one step for every tile; and the same where few tiles are held at once."""
    model, x, _ = tiny(1, "arbitrary", views=3)
    image, length = draw(3, 40, 37), 4
    stats = informed(model, x, [image], Window(screen=None))
    placement = replace(model.placement, likelihood=Window(screen=None))  # type: ignore[type-var]
    score = maximisation.score(model, x)
    step = placement.step(model.templates(x), model.log_weights, model.noise)
    chances = step.likelihood.marginals(step._log_activities(image - 0.2), placement.width(length), 0)[0]
    expected = torch.zeros_like(stats["information"])
    for top, left in product(range(0, 37, 8), range(0, 34, 8)):
        some = torch.zeros_like(chances)
        some[top : top + 8, left : left + 8] = chances[top : top + 8, left : left + 8]
        tile = placement.step(model.templates(x), model.log_weights, model.noise)
        tile._gather(image - 0.2, some.flatten(), 0)
        sums = tile.finish()
        one = score(sums["numerator"][None], sums["views"][None])[0].double()
        expected += torch.outer(one, one)
    scale = float(expected.abs().max())
    assert float((stats["information"] - expected).abs().max()) < 1e-5 * scale
    monkeypatch.setattr(gas, "SCORED", 1)
    few = informed(model, x, [image], Window(screen=None))
    assert float((few["information"] - stats["information"]).abs().max()) < 1e-6 * scale
    assert torch.allclose(few["numerator"], stats["numerator"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("likelihood", [Patches(), Patches(side=8), Patches(side=5), Patches(law="free")], ids=repr)
def test_information_of_patches_is_the_sum_over_windows_of_the_squared_gradient(likelihood: Patches) -> None:
    """Against autograd through the log-likelihood of every window alone."""
    model, x, _ = tiny(1, "arbitrary", views=3)
    placement = replace(model.placement, likelihood=likelihood, density=0.05)  # type: ignore[type-var]
    assert placement.scored
    image, side = draw(3, 2 * (likelihood.side or 4), 3 * (likelihood.side or 4)), likelihood.side or 4
    step = placement.step(model.templates(x), model.log_weights, model.noise, score=maximisation.score(model, x))
    step.add(image, 0)
    stats = step.finish()
    expected = torch.zeros_like(stats["information"])
    for top, left in product(range(0, 2 * side, side), range(0, 3 * side, side)):

        def value(y: torch.Tensor, top: int = top, left: int = left) -> torch.Tensor:
            one = placement.step(model.templates(y), model.log_weights, model.noise, statistics=False)
            one.add(image[top : top + side, left : left + side], 0)
            return one.finish()["log_likelihood"]

        (gradient,) = torch.autograd.grad(value(y := x.clone().requires_grad_()), y)
        expected += torch.outer(gradient, gradient)
    assert float((stats["information"] - expected).abs().max()) < 1e-9 * float(expected.abs().max())
    plain = placement.step(model.templates(x), model.log_weights, model.noise)
    plain.add(image, 0)
    other = plain.finish()
    for name in ("numerator", "weight", "views", "log_likelihood"):
        assert torch.allclose(stats[name], other[name], rtol=1e-9, atol=1e-10)


# judging -----------------------------------------------------------------------------------------------------------


def test_likelihoods_without_a_likelihood_say_so() -> None:
    model, x, image = tiny(1, "arbitrary")
    data = Micrographs(InMemory(image[None]), 1.0, ("m",))
    with pytest.raises(ValueError, match="has no log-likelihood; try Patches"):
        log_likelihood(data, model, x)


@pytest.mark.parametrize("side", [None, 6])
def test_judge_equals_the_likelihood_of_patches_at_its_best_density(side: int | None) -> None:
    views = rotation.super_fibonacci(3)
    model = Model(Voxels(4), Projection(views), Anywhere(0.3, Gas()), noise=White(0.9, 0.2))
    x = 0.7 * draw(1, 64)
    image = 0.2 + 0.9 * draw(2, 41, 33)
    image[3:7, 4:8] += model.templates(x)[0]
    data = Micrographs(InMemory(image[None]), 1.0, ("m",))
    window = side or 8
    noise = -(image[: 41 // window * window, : 33 // window * window] - 0.2).square() / (2 * 0.81)
    noise = noise.sum() - noise.numel() / 2 * math.log(2 * math.pi * 0.81)

    def ratio(share: float) -> float:
        placement = Anywhere(share / ((window + 3) / 4) ** 2, Patches(window), spacing="arbitrary")
        return float(log_likelihood(data, replace(model, placement=placement), x)[0] - noise)

    low, high = 1e-6, 1 - 1e-6
    for _ in range(30):  # concave in the share
        first, second = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, second) if ratio(first) > ratio(second) else (first, high)
    got = float(judge(Batch(data, [0]), model, x, side=side))
    assert got == pytest.approx(ratio((low + high) / 2), abs=1e-3)


# settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Gas(sweeps=0), "sweeps"),
        (lambda: Gas(burn=-1), "burn"),
        (lambda: Screen(views=0), "views"),
        (lambda: Screen(floor=-1.0), "floor"),
        (lambda: Screen(thin=1.0), "thin"),
        (lambda: Patches(side=0), "side"),
        (lambda: Anywhere(0.0), "density"),
        (lambda: Anywhere(0.1, subpixel=0), "subpixel"),
    ],
)
def test_bad_settings_are_refused(make: object, name: str) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        make()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
