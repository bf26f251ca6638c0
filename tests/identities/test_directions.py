"""Densities of directions of view: normalised, turning with the object, the same on every grid, never invented."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from unpicked.model.directions import Directions, basis
from unpicked.model.views import InPlane, OfClasses, Projection, Weighable
from unpicked.ops import rotation, seeding
from unpicked.simulate.preference import Preference

AXIS = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def drawn(lmax: int = 3, size: float = 0.6, seed: int = 0) -> Directions:
    """A density without symmetry."""
    generator = torch.Generator().manual_seed(seed)
    return Directions(size * torch.randn((lmax + 1) ** 2 - 1, generator=generator, dtype=torch.float64))


def uniform(count: int, seed: int = 0) -> torch.Tensor:
    return rotation.random_rotations(count, torch.Generator().manual_seed(seed))


def points(count: int = 4000) -> torch.Tensor:
    """A Fibonacci spiral, other than the package's quadratures."""
    index = torch.arange(count, dtype=torch.float64)
    z = 1 - (2 * index + 1) / count
    angle = math.pi * (1 + math.sqrt(5)) * index
    flat = (1 - z.square()).sqrt()
    return torch.stack([flat * angle.cos(), flat * angle.sin(), z], 1)


def test_the_functions_have_mean_square_one() -> None:
    functions = basis(4, points(20_000))
    torch.testing.assert_close(functions.mT @ functions / 20_000, torch.eye(24).double(), atol=2e-3, rtol=0)


@pytest.mark.parametrize("density", [Directions.uniform(), drawn(), drawn(6, 0.4, 1), Directions.around(AXIS, 12.0)])
def test_a_density_is_positive_and_normalised(density: Directions) -> None:
    values = density.density(points(20_000))
    assert float(values.min()) > 0
    assert float(values.mean()) == pytest.approx(1, abs=2e-3)
    weights = density.log_weights(uniform(50)[:, 2])
    assert float(weights.exp().sum()) == pytest.approx(1, abs=1e-12)


def test_one_preferred_direction_is_that_of_von_mises_and_fisher() -> None:
    kappa, axis = 3.0, AXIS / AXIS.norm()
    density, where = Directions.around(AXIS, kappa), points(50)
    closed = kappa / math.sinh(kappa) * (kappa * where @ axis).exp()  # over the uniform density, 1 / (4 pi)
    torch.testing.assert_close(density.density(where), closed, rtol=1e-10, atol=0)
    assert density.concentration == pytest.approx(kappa, rel=1e-6)
    torch.testing.assert_close(density.mean / density.mean.norm(), axis, atol=1e-10, rtol=0)
    torch.testing.assert_close(density.axis, axis, atol=1e-8, rtol=0)
    log_sinh = math.log(kappa / math.sinh(kappa))
    entropy = -(log_sinh + kappa * (1 / math.tanh(kappa) - 1 / kappa))
    assert density.share == pytest.approx(math.exp(entropy), rel=1e-9)


def test_the_density_turns_with_the_object() -> None:
    turn, density, where = uniform(1)[0], drawn(3, 0.4), points(60)
    turned = density.turned(turn)
    torch.testing.assert_close(turned.density(where @ turn.mT), density.density(where), rtol=1e-9, atol=1e-12)
    assert turned.energy == pytest.approx(density.energy, rel=1e-12), "what is believed knows no frame"
    assert turned.sampling[0] == pytest.approx(density.sampling[0], rel=1e-3)


def test_the_sampling_is_that_of_circles() -> None:
    assert Directions.uniform().sampling == pytest.approx((1, 1, 1), abs=1e-9)
    density = Directions.around(torch.tensor([0.0, 0.0, 1.0]), 5.0)
    mean, least, most = density.sampling
    along = density.density(torch.tensor([[1.0, 0.0, 0.0]]).double())  # the circle across z has one density
    assert least == pytest.approx(float(along), rel=0.2) and least < mean < 1 < most


def test_counts_that_are_alike_give_the_uniform_density_whatever_the_views() -> None:
    views = Preference(3.0).rotations(200, torch.Generator().manual_seed(1))  # unevenly spread
    found = drawn().fitted(views[:, 2], torch.full((200,), 4.0))
    assert float(found.coefficients.abs().max()) < 1e-6
    none = drawn().fitted(views[:, 2], torch.zeros(200))
    assert float(none.coefficients.abs().max()) < 1e-6, "no particles, no preference"


def test_the_density_is_the_same_on_every_grid() -> None:
    truth, found = drawn(2), []
    for count, turn in ((500, 1), (2000, 2), (2000, 3)):
        directions = (rotation.super_fibonacci(count) @ uniform(1, turn)[0])[:, 2]
        counts = 1e6 * truth.log_weights(directions).exp()
        found.append(Directions.uniform().fitted(directions, counts).density(points(200)))
    for other in found:
        torch.testing.assert_close(other, truth.density(points(200)), rtol=0.01, atol=0.01)


def test_fitting_turns_with_views_and_object() -> None:
    directions, turn = rotation.super_fibonacci(300)[:, 2], uniform(1, 5)[0]
    counts = 200 * drawn(2).log_weights(directions).exp()
    one = Directions.uniform().fitted(directions, counts).turned(turn)
    other = Directions.uniform().fitted(directions @ turn.mT, counts)
    torch.testing.assert_close(one.coefficients, other.coefficients, atol=1e-5, rtol=0)


def test_a_fit_never_lowers_its_objective_and_ends_at_a_stationary_point() -> None:
    directions = rotation.super_fibonacci(200)[:, 2]
    counts = torch.rand(200, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 8

    def objective(density: Directions) -> float:
        return float(counts @ density.log_weights(directions)) - density.energy

    start = drawn(6, 0.3)
    found = start.fitted(directions, counts)
    assert objective(found) > objective(start)
    for seed in range(5):
        step = 1e-3 * drawn(6, 1.0, seed).coefficients
        assert objective(Directions(found.coefficients + step)) < objective(found)


def test_the_gradient_is_that_of_the_objective() -> None:
    directions, density = rotation.super_fibonacci(80)[:, 2], drawn(6, 0.3)
    counts = torch.rand(80, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    a = density.coefficients.clone().requires_grad_()
    (counts @ torch.log_softmax(basis(6, directions) @ a, 0)).backward()
    torch.testing.assert_close(counts @ density.scores(directions), a.grad)
    wanted, step = torch.zeros(len(a)).double(), 1e-5
    for index in range(len(a)):
        there, back = (density.coefficients + sign * step * torch.eye(len(a)).double()[index] for sign in (1, -1))
        wanted[index] = (Directions(back).energy - Directions(there).energy) / (2 * step)
    found = density.gradient(directions, counts) - counts @ density.scores(directions)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_scoring_ends_where_em_does_and_goes_farther_where_directions_are_hidden() -> None:
    """Copies whose directions are known, then of which nine in ten show nothing of theirs."""
    directions = rotation.super_fibonacci(300)[:, 2]
    wanted = 400 * Directions.around(AXIS, 2.0).log_weights(directions).exp()

    def after(steps: int, shown: float, scored: bool) -> Directions:
        now = Directions.uniform()
        for _ in range(steps):
            counts = shown * wanted + (1 - shown) * 400 * now.log_weights(directions).exp()
            scores = now.scores(directions)
            information = (scores.mT * (shown * wanted)) @ scores
            now = now.stepped(directions, counts, information) if scored else now.fitted(directions, counts)
        return now

    known = Directions.uniform().fitted(directions, wanted)
    torch.testing.assert_close(after(40, 1.0, True).coefficients, known.coefficients, atol=1e-3, rtol=0)
    end = after(400, 0.1, False)
    torch.testing.assert_close(after(40, 0.1, True).coefficients, end.coefficients, atol=1e-2, rtol=0)
    early = [float((after(6, 0.1, scored).coefficients - end.coefficients).norm()) for scored in (True, False)]
    assert early[0] < 0.5 * early[1], "few steps of scoring get nearer than as many of EM"


def test_twenty_views_tell_of_their_side() -> None:
    views = Preference(8.0, (1.0, -2.0, 0.5)).rotations(20, torch.Generator().manual_seed(3))
    grid = rotation.super_fibonacci(1600)[:, 2]
    found = Directions.uniform().fitted(
        grid, torch.bincount((views[:, 2] @ grid.mT).argmax(1), minlength=1600).double()
    )
    assert found.share < 0.3, "of the sphere; the truth is 0.17"
    assert float(found.mean @ AXIS / AXIS.norm() / found.mean.norm()) > 0.97


@pytest.mark.parametrize("count", [100, 1000, 10_000])
def test_uniform_views_are_found_to_be_uniform(count: int) -> None:
    shares = []
    for seed in range(6):
        directions = rotation.super_fibonacci(1600) @ uniform(1, seed)[0]
        chosen = torch.randint(1600, (count,), generator=torch.Generator().manual_seed(seed))
        counts = torch.bincount(chosen, minlength=1600).double()
        shares.append(Directions.uniform().fitted(directions[:, 2], counts).share)
    assert float(np.mean(shares)) > 1 - 24 / count, "less than 48 coefficients lose that are not smoothed"
    assert min(shares) > 0.9


def test_preferred_views_are_found_from_few_hundred_particles() -> None:
    views = Preference(4.0, (1.0, -2.0, 0.5)).rotations(400, torch.Generator().manual_seed(3))
    grid = rotation.super_fibonacci(1600)[:, 2]
    nearest = (views[:, 2] @ grid.mT).argmax(1)
    found = Directions.uniform().fitted(grid, torch.bincount(nearest, minlength=1600).double())
    assert found.concentration == pytest.approx(4, abs=0.6)
    assert float(found.mean @ AXIS / AXIS.norm() / found.mean.norm()) > 0.99


def test_simulated_views_follow_the_law() -> None:
    kappa = 2.5
    views = Preference(kappa, (1.0, -2.0, 0.5)).rotations(20_000, torch.Generator().manual_seed(0))
    assert float((views @ views.mT - torch.eye(3).double()).abs().max()) < 1e-12
    heights = views[:, 2] @ AXIS / AXIS.norm()
    assert float(heights.mean()) == pytest.approx(1 / math.tanh(kappa) - 1 / kappa, abs=0.01)
    half = math.acos(1 + math.log((1 + math.exp(-2 * kappa)) / 2) / kappa)  # of them within this angle
    assert float((heights > math.cos(half)).double().mean()) == pytest.approx(0.5, abs=0.015)
    assert float(views[:, 0].mean(0).norm()) < 0.03, "any angle in the plane"
    same = rotation.random_rotations(5, seeding.generator(1, "views"))
    assert torch.equal(Preference().rotations(5, seeding.generator(1, "views")), same)


def test_every_view_tells_its_parameters() -> None:
    for view in (InPlane(6), OfClasses(InPlane(3), 2), Projection(rotation.super_fibonacci(30))):
        assert isinstance(view, Weighable)
        again = view.weighted(view.parameters)
        torch.testing.assert_close(again.log_weights, view.log_weights, atol=1e-12, rtol=0)
        assert view.energy == 0
    seen = Projection(rotation.super_fibonacci(30), drawn())
    assert seen.digest != Projection(seen.rotations).digest
    turned = seen.turned(uniform(1)[0])
    assert turned.seen is seen.seen, "other views of the same object have the same density"
    torch.testing.assert_close(turned.log_weights, drawn().log_weights(turned.rotations[:, 2]))


@pytest.mark.parametrize("bad", [torch.zeros(0), torch.zeros(4), torch.zeros(3, 1), torch.tensor([0.0, math.nan, 0.0])])
def test_coefficients_that_make_no_density_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="coefficients must be"):
        Directions(bad)


@pytest.mark.parametrize(
    ("concentration", "axis"), [(-1.0, (0.0, 0.0, 1.0)), (math.inf, (0.0, 0.0, 1.0)), (2.0, (0.0, 0.0, 0.0))]
)
def test_preferences_that_there_are_not_are_refused(concentration: float, axis: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"concentration|axis"):
        Preference(concentration, axis)


def test_an_lmax_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="lmax must be at least 1"):
        Directions.uniform(0)
