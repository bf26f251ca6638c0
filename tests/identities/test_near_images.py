"""Moments of images whose copies lie near each other."""

from __future__ import annotations

import math
from itertools import product

import torch

from unpicked.estimators import gmm
from unpicked.estimators.image_fit import ImageUnknowns
from unpicked.model import expected_images, near_images
from unpicked.objects.disk import Disk
from unpicked.ops import steerable
from unpicked.simulate.images import random_targets, simulate_images


def draw(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def offsets(side: int, radius: int, *chosen: tuple[int, int]) -> torch.Tensor:
    """Weights of single offsets, one row each."""
    most = radius + side - 1
    out = torch.zeros(len(chosen), 2 * most + 1, 2 * most + 1, dtype=torch.float64)
    for row, (y, x) in zip(out, chosen, strict=True):
        row[most + y, most + x] = 1
    return out


def total(disk: Disk, x: torch.Tensor, corners: list[tuple[int, int]], functions: steerable.Discs) -> torch.Tensor:
    """Moments, summed over the image, of copies at known places: the mean over five angles of each.

    Copies of order 2 at most, whose products of two are averaged exactly by five angles.
    """
    images = disk.values(disk.rotate(x, 2 * math.pi / 5 * torch.arange(5, dtype=torch.float64) + 0.1))
    side = disk.side
    out = torch.zeros(functions.size, dtype=torch.float64)
    for angles in product(range(5), repeat=len(corners)):
        image = torch.zeros(30, 30, dtype=torch.float64)
        for angle, (y, x) in zip(angles, corners, strict=True):
            image[12 + y : 12 + y + side, 12 + x : 12 + x + side] += images[angle]
        out += steerable.steerable_sums(image, functions).sum(0)[1:]
    return out / 5 ** len(corners)


def test_two_and_three_copies_at_known_places() -> None:
    disk, functions = Disk(4), steerable.discs(3)
    x = draw(1, disk.size)
    assert int(disk.index.abs()[:, 0].max()) == 2
    places = ((0, 0), (4, 1), (-1, 4))
    alone = [total(disk, x, [place], functions) for place in places]
    twos = ((0, 1), (0, 2), (1, 2))
    pairs = [total(disk, x, [places[i], places[j]], functions) for i, j in twos]
    one = torch.ones(1, 1, dtype=torch.float64)

    def steps(i: int, j: int) -> tuple[int, int]:
        return places[j][0] - places[i][0], places[j][1] - places[i][1]

    for (i, j), pair in zip(twos, pairs, strict=True):
        weights = offsets(4, 3, steps(i, j), steps(j, i)).sum(0, keepdim=True)
        table = near_images.tables(disk, functions, weights)
        near = [near_images.expected_near(x[None, None], one, sign * one, table)[0][0] for sign in (1, -1)]
        found = (near[0] - near[1]) / 2  # triples are even in h
        torch.testing.assert_close(found, pair - alone[i] - alone[j], rtol=1e-9, atol=1e-9)
        assert float(found.norm()) > 1e-3 * float(pair.norm())
    three = total(disk, x, list(places), functions) - sum(pairs) + sum(alone)
    found = torch.zeros_like(three)
    for i, j, k in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):  # seen from each of them
        table = near_images.tables(disk, functions, offsets(4, 3, steps(i, j), steps(i, k)))
        round = (x.to(table.harmonics) @ table.harmonics.mT)[table.round].real
        found[-functions.third :] += 2 * torch.einsum("rstu,s,t,u->r", table.triple[0, 1], round, round, round)
    torch.testing.assert_close(found, three, rtol=1e-9, atol=1e-9)
    assert float(three.norm()) > 1e-4 * float(alone[0].norm())


def test_derivatives_are_those_of_autograd() -> None:
    disk, functions = Disk(5), steerable.discs(4)
    table = near_images.neighbours(disk, functions)
    x, rate, h = draw(1, 2, 2, disk.size), draw(2, 2, 2).exp(), draw(3, 2, table.knots).exp()
    _, *slopes = near_images.expected_near(x, rate, h, table)

    def moments(*parts: torch.Tensor) -> torch.Tensor:
        return near_images.expected_near(*(part[None] for part in parts), table)[0][0]

    for start in range(2):
        auto = torch.autograd.functional.jacobian(moments, (x[start], rate[start], h[start]))
        for ours, right in zip(slopes, auto, strict=True):
            torch.testing.assert_close(ours[start], right, rtol=1e-9, atol=1e-9)


def test_slope_of_the_fit() -> None:
    """Two kinds, noise, densities and pair density unknown, or noise and densities known."""
    disk, functions = Disk(5), steerable.discs(4)
    parts = expected_images.polynomial(disk, functions), near_images.neighbours(disk, functions), 5
    guess = torch.tensor([0.1, 0.2], dtype=torch.float64).log()
    for density, sigma in ((None, None), (guess, 0.8)):
        unknowns = ImageUnknowns(functions, *parts, density, sigma, 2 * disk.size, guess)
        theta = gmm.pack(unknowns, draw(1, 2, unknowns.size), guess.exp(), 0.8)
        theta = theta + 0.1 * draw(2, *theta.shape)
        assert theta.shape == (2, unknowns.count)
        _, slope = unknowns.slope(theta)
        for start in range(2):
            auto = torch.autograd.functional.jacobian(lambda t, of=unknowns: of.slope(t[None])[0][0], theta[start])
            torch.testing.assert_close(slope[start], auto, rtol=1e-9, atol=1e-9)


def test_moments_of_densely_packed_images() -> None:
    """Without noise, 40 % covered: within the standard errors of ten images, where single copies are far off."""
    side, size, rows, corners = 5, 300, [], []
    targets, functions = random_targets(side, 3), steerable.discs(side - 1)
    for seed in range(10):
        _, truth = simulate_images(targets, size=(size, size), density=0.4, sigma=1.0, seed=seed, spacing="arbitrary")
        inner = truth.clean(0)[2 * side : -2 * side, 2 * side : -2 * side]
        sums = steerable.steerable_sums(inner, functions).sum(0)
        rows.append(sums[1:] / sums[0])
        corners.append(truth.corners(0))
    rate, h = pair_density(corners, side, size)
    means, errors = torch.stack(rows).mean(0), torch.stack(rows).std(0) / math.sqrt(10)
    one = expected_images.expected_images(targets.x, expected_images.polynomial(targets.disk, functions))[0] * rate
    table = near_images.neighbours(targets.disk, functions)
    near = near_images.expected_near(targets.x[None], torch.tensor([[rate]]).double(), h[None], table)[0][0]
    alone, whole = ((values - means) / errors for values in (one, one + near))
    assert float(whole.square().mean().sqrt()) < 2
    assert float(alone.square().mean().sqrt()) > 10


def pair_density(corners: list[torch.Tensor], side: int, size: int) -> tuple[float, torch.Tensor]:
    """Copies per pixel, and pair density over rate x rate at the knots, of copies away from the edges."""
    weights = near_images.shells(side, side - 1)
    most, edge = weights.shape[-1] // 2, 3 * side
    counts, copies = torch.zeros(weights.shape[1:], dtype=torch.float64), 0
    for places in corners:
        inside = places[((places >= edge) & (places < size - edge - side)).all(1)]
        steps = places - inside[:, None]
        y, x = (steps[(steps.abs() <= most).all(-1)] + most).unbind(1)
        counts.index_put_((y, x), torch.ones(len(y), dtype=torch.float64), accumulate=True)
        copies += len(inside)
    rate = copies / len(corners) / (size - 2 * edge - side) ** 2
    reached = weights.sum(0) > 0
    law = counts[reached] / copies / rate
    return rate, torch.linalg.lstsq(weights[:, reached].mT, law[:, None]).solution[:, 0]
