"""Moments of projections over all rotations: against quadrature, autograd and the pixels, and back to the volume."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import roots_legendre

from unpicked.estimators import bispectrum_fit
from unpicked.estimators.bispectrum_fit import Inversion, invert
from unpicked.evaluate.coefficients import lay
from unpicked.model import expected_volumes
from unpicked.model.expected_volumes import Triangles, VolumeMoments
from unpicked.objects.ball import Ball
from unpicked.ops import invariants, rotation, seeding, special
from unpicked.ops.least_squares import levenberg_marquardt

BALL, PLACES = Ball(8, 3), expected_volumes.triangles(6)


def drawn(count: int, seed: int = 0, ball: Ball = BALL) -> torch.Tensor:
    return torch.randn(count, ball.size, generator=seeding.generator(seed, "volumes"), dtype=torch.float64)


def whole_group(lmax: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotations and weights that integrate products of three harmonics of degree lmax exactly."""
    steps = 3 * lmax + 1
    nodes, weights = (torch.as_tensor(values) for values in roots_legendre(steps // 2 + 1))
    turn = torch.arange(steps, dtype=torch.float64) * (360 / steps)
    first, tilt, last = torch.meshgrid(turn, torch.rad2deg(torch.acos(nodes)), turn, indexing="ij")
    rotations = rotation.euler_to_matrix(torch.stack([first, tilt, last], -1).reshape(-1, 3))
    return rotations, weights[None, :, None].expand_as(first).reshape(-1) / 2 / steps**2


def transform(x: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Fourier transform of a volume at frequency vectors, written down from the basis' definition."""
    radius = points.norm(dim=-1)
    east = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    unit = torch.where(radius[:, None] > 0, points / radius.clamp(min=1e-300)[:, None], east)
    harmonics, out, start = special.spherical_harmonics(BALL.lmax, unit), 0, 0
    for degree, f in enumerate(BALL.radial_functions(radius)):
        part = x[start : start + len(f) * (2 * degree + 1)].view(len(f), -1)
        start += part.numel()
        values = (part.mT @ f).mT * harmonics[:, degree**2 : (degree + 1) ** 2]
        out = out + (-1j) ** degree * values.sum(-1)
    return out


@pytest.mark.parametrize("degrees", [(0, 0, 0), (1, 1, 2), (2, 2, 2), (1, 2, 3), (3, 3, 2)])
def test_invariants_are_unmoved_by_rotations(degrees: tuple[int, int, int]) -> None:
    w = invariants.invariant(*degrees)
    turns = special.wigner(3, rotation.random_rotations(3, seeding.generator(1, "turns")))
    moved = torch.einsum("kia,kjb,klc,abc->kijl", *(turns[degree] for degree in degrees), w)
    assert float(w.norm()) == pytest.approx(1)
    torch.testing.assert_close(moved, w.expand_as(moved), rtol=0, atol=1e-12)


def test_degrees_of_no_invariant_are_refused() -> None:
    for degrees in ((1, 1, 1), (0, 1, 3), (0, 0, 2)):
        with pytest.raises(ValueError, match="even sum"):
            invariants.invariant(*degrees)


def test_moments_are_means_over_all_rotations() -> None:
    x = drawn(1)[0]
    found = expected_volumes.expected_volumes(x[None], BALL, PLACES)
    rotations, weights = whole_group(BALL.lmax)
    sides = PLACES.radii[PLACES.sides]
    ways = expected_volumes.directions(PLACES)
    vectors = [sides[:, place, None] * way for place, way in enumerate(ways)]
    torch.testing.assert_close(sum(vectors), torch.zeros_like(vectors[0]), rtol=0, atol=1e-12)
    third = power = first = 0
    along = torch.nn.functional.pad(PLACES.radii[:, None], (0, 2))
    for turn, weight in zip(rotations, weights, strict=True):
        one, two, three = (transform(x, vector @ turn) for vector in vectors)  # R^T k
        third = third + weight * one * two * three
        plane = transform(x, along @ turn)
        power = power + weight * plane.abs().square()
        first = first + weight * plane[0]
    scale = float(found.bispectrum.abs().max())
    torch.testing.assert_close(third.real, found.bispectrum[0], rtol=0, atol=1e-9 * scale)
    torch.testing.assert_close(third.imag, torch.zeros_like(third.real), rtol=0, atol=1e-9 * scale)
    torch.testing.assert_close(power, found.power[0], rtol=1e-9, atol=1e-9)
    assert float(first.real) == pytest.approx(float(found.first), rel=1e-9)


def test_power_is_that_of_projections_on_pixels() -> None:
    ball = Ball(15, 2, 3.5)  # well inside its box, so that pixels hold nearly all of a projection
    x = drawn(1, 3, ball)
    places = expected_volumes.triangles(6)
    rotations, weights = whole_group(2)
    images = ball.project(x, rotations)[0]
    line = torch.arange(15, dtype=torch.float64) - 7
    waves = torch.exp(-2j * math.pi * places.radii[:, None] * line)
    seen = (images.to(waves) @ waves.mT).sum(-2)  # along x
    power = (seen.abs().square() * weights[:, None]).sum(0)
    found = expected_volumes.expected_volumes(x, ball, places)
    torch.testing.assert_close(power, found.power[0], rtol=0, atol=0.02 * float(power.max()))
    assert float((images.sum((1, 2)) * weights).sum()) == pytest.approx(float(found.first), rel=0.05)


def test_slopes_are_those_of_autograd() -> None:
    x = drawn(2)
    values, slopes = expected_volumes.expected_volumes_slope(x, BALL, PLACES)
    for place, (value, slope) in enumerate(zip(values, slopes, strict=True)):

        def summed(x: torch.Tensor, place: int = place) -> torch.Tensor:
            return expected_volumes.expected_volumes(x, BALL, PLACES)[place].sum(0)

        by_hand = torch.autograd.functional.jacobian(summed, x)
        torch.testing.assert_close(slope, by_hand.movedim(1, 0), rtol=1e-10, atol=1e-9)
        torch.testing.assert_close(value, expected_volumes.expected_volumes(x, BALL, PLACES)[place])


def test_rotations_and_mirrors_are_not_seen() -> None:
    x = drawn(1)
    turned = BALL.rotate(x, rotation.random_rotations(1, seeding.generator(5, "turn"))[0])
    mirrored = x * (1 - 2 * (BALL.index[:, 0] % 2).double())
    told = expected_volumes.expected_volumes(x, BALL, PLACES)
    for other in (turned, mirrored):
        for a, b in zip(told, expected_volumes.expected_volumes(other, BALL, PLACES), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_triangles_are_all_of_them_once() -> None:
    found = expected_volumes.triangles(16)
    assert len(found.sides) == 444 and len(expected_volumes.triangles(11).sides) == 161
    a, b, c = found.sides.unbind(1)
    assert bool(((a >= b) & (b >= c) & (a <= b + c)).all())
    assert len(torch.unique(found.sides, dim=0)) == 444
    assert float(found.radii[-1]) < 0.5
    with pytest.raises(ValueError, match="radii"):
        expected_volumes.triangles(1)


def test_counts_of_triangles_are_those_of_pairs_of_frequencies() -> None:
    found = expected_volumes.triangles(8)
    generator = seeding.generator(2, "pairs")
    radius = 8 * torch.rand(2, 400_000, generator=generator, dtype=torch.float64).sqrt()
    angle = 2 * math.pi * torch.rand(2, 400_000, generator=generator, dtype=torch.float64)
    ends = radius[..., None] * torch.stack([angle.cos(), angle.sin()], -1)
    sides = torch.stack([*radius, (ends[0] + ends[1]).norm(dim=-1)], 1).round().long().sort(1, descending=True).values
    code = (sides * torch.tensor([10_000, 100, 1])).sum(1)
    wanted = (found.sides * torch.tensor([10_000, 100, 1])).sum(1)
    drawn_counts = torch.stack([(code == one).sum() for one in wanted]).double()
    inner = (found.sides[:, 2] >= 2) & (found.sides[:, 0] < found.sides[:, 1] + found.sides[:, 2] - 1)
    inner &= found.sides[:, 0] < 7
    ratio = (drawn_counts / found.counts[1])[inner]
    assert float(ratio.std() / ratio.mean()) < 0.15


def test_clean_moments_give_the_volume_back_most_times() -> None:
    ball, places = Ball(7, 2), expected_volumes.triangles(8)
    tau, exact = bispectrum_fit.spectrum(torch.linspace(9, 1, 8).double(), ball, places), 0
    for seed in range(4):  # of other volumes; starts may all end in side valleys
        truth = drawn(1, seed, ball) * tau
        clean = expected_volumes.expected_volumes(truth, ball, places)
        target = VolumeMoments(*(0.07 * part for part in clean))
        found = invert(target, ball, places, Inversion(starts=6, marches=(3, 5), last=200), seed)
        assert bool((found.cost.diff() >= 0).all())
        if found.cost[0] <= bispectrum_fit.EXACT:
            exact += 1
            assert lay(found.x[0], truth[0], ball).error < 1e-8
            assert float(found.density[0]) == pytest.approx(0.07, rel=1e-9)
    assert exact >= 2


def test_uniform_weights_are_offered_and_bad_settings_refused() -> None:
    two, one, three = bispectrum_fit.weights(torch.ones(6).double(), PLACES, "uniform")
    assert bool((two == 1).all() and (one == 1).all() and (three == 1).all())
    for settings in ({"weights": "some"}, {"starts": 0}, {"density": 0.0}, {"last": 0}):
        with pytest.raises(ValueError, match="must be"):
            Inversion(**settings)
    clean = expected_volumes.expected_volumes(drawn(1), BALL, PLACES)
    with pytest.raises(ValueError, match="sizes"):
        invert(clean._replace(power=clean.power[:, :3]), BALL, PLACES, Inversion(), 0)
    with pytest.raises(ValueError, match="positive"):
        invert(clean._replace(power=-clean.power), BALL, PLACES, Inversion(), 0)


def test_laying_on_finds_any_rotation_and_hand() -> None:
    truth = drawn(1, 7)[0]
    for number, turn in enumerate(rotation.random_rotations(3, seeding.generator(4, "turns"))):
        other = BALL.rotate(truth, turn)
        if number:
            other = other * (1 - 2 * (BALL.index[:, 0] % 2).double())
        laid = lay(other, truth, BALL)
        assert laid.error < 1e-8 and laid.mirrored == bool(number)
        torch.testing.assert_close(laid.x, truth, rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match="coefficients"):
        lay(truth[:-1], truth, BALL)
    with pytest.raises(ValueError, match="zero"):
        lay(truth, 0 * truth, BALL)


def test_bends_of_a_narrow_valley_are_followed() -> None:
    """Rosenbrock's valley with walls a million times steeper than its floor."""
    wall = 1e3

    def values(theta: torch.Tensor) -> torch.Tensor:
        return torch.stack([1 - theta[:, 0], wall * (theta[:, 1] - theta[:, 0] ** 2)], 1)

    def residuals(theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        jacobian = theta.new_zeros(len(theta), 2, 2)
        jacobian[:, 0, 0] = -1
        jacobian[:, 1, 0], jacobian[:, 1, 1] = -2 * wall * theta[:, 0], wall
        return values(theta), jacobian

    start = torch.tensor([[-1.2, 1.0], [3.0, -2.0]], dtype=torch.float64)
    plain = levenberg_marquardt(residuals, start, steps=300)
    bent = levenberg_marquardt(residuals, start, steps=300, values=values, enough=1e-20)
    assert bool((bent.cost <= 1e-16).all()) and bool(bent.converged.all())
    assert float(plain.cost.max()) > 1e-2


def test_a_degenerate_triangle_has_directions() -> None:
    places = Triangles(torch.tensor([0.0, 0.1]).double(), torch.tensor([[0, 0, 0], [1, 1, 0]]), (torch.ones(2),) * 2)
    for way in expected_volumes.directions(places):
        torch.testing.assert_close(way.norm(dim=1), torch.ones(2).double())
    one, two, _ = (way[1] for way in expected_volumes.directions(places))
    torch.testing.assert_close(one, -two)  # a side of no length: the others lie against each other
