"""Simulated images: their truth, their noise, their turns, and that they depend on the seed alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from unpicked.objects.disk import Disk
from unpicked.simulate.images import (
    DiskTargets,
    ImageSimulation,
    PixelTargets,
    random_targets,
    simulate_images,
)
from unpicked.simulate.spacing import least_distance


def simulated(**more: object) -> ImageSimulation:
    settings = {"size": (120, 100), "density": 0.1, "sigma": 0.5, "seed": 4, "count": 2} | more
    return simulate_images(random_targets(7, 1, kinds=2), **settings)[1]  # type: ignore[arg-type]


@pytest.mark.parametrize(("spacing", "density"), [("separated", 0.12), ("arbitrary", 0.4), ("dense", 0.8)])
def test_copies_keep_their_distance_and_the_facts_are_true(spacing: str, density: float) -> None:
    truth = simulated(spacing=spacing, density=density, rotations="none", count=1)
    corners = truth.corners(0)
    apart = (corners[:, None] - corners).abs().amax(-1) + 1000 * torch.eye(len(corners), dtype=torch.int64)
    assert int(apart.min()) >= least_distance(spacing, 7)
    assert int(corners.min()) >= 0
    assert bool((corners + 7 <= torch.tensor([120, 100])).all())
    facts = truth.facts()
    assert facts["density"] == pytest.approx(density, rel=0.02)
    assert facts["occurrences"] == len(corners)
    assert facts["density"] == pytest.approx(len(corners) * 49 / 12000)
    drawn = torch.zeros(120, 100, dtype=torch.float64)
    for (row, column), kind in zip(corners.tolist(), truth.kinds(0).tolist(), strict=True):
        drawn[row : row + 7, column : column + 7] += truth.targets.values[kind]
    assert torch.allclose(truth.clean(0), drawn, atol=1e-12)
    noise = truth.read(0).double() - truth.clean(0)
    assert float(noise.std()) == pytest.approx(0.5, rel=0.03)
    assert abs(float(noise.mean())) < 0.02


def test_images_depend_on_the_seed_and_their_number_only() -> None:
    first, again, other = simulated(), simulated(count=3), simulated(seed=5)
    assert torch.equal(first.read(1), again.read(1))
    assert not torch.equal(first.read(0), first.read(1))
    assert not torch.equal(first.read(0), other.read(0))


def test_angles_are_uniform_and_kinds_have_their_shares() -> None:
    truth = simulated(size=(900, 900), shares=[3, 1], count=1)
    kinds, angles = truth.kinds(0), truth.angles(0)
    assert float(kinds.double().mean()) == pytest.approx(0.25, abs=0.04)
    for order in (1, 2, 3):
        assert abs(float((order * angles).cos().mean())) < 0.08
    assert not bool(simulated(rotations="none").angles(0).any())


def test_targets_are_turned_from_x_towards_y() -> None:
    disk = Disk(15)
    line = torch.arange(15, dtype=torch.float64) - 7

    def bump(x: float, y: float) -> torch.Tensor:
        return torch.exp(-((line[:, None] - y).square() + (line - x).square()) / (2 * 1.5**2))

    angles = torch.tensor([0.0, 0.5, math.pi / 2, 4.0], dtype=torch.float64)
    kinds = torch.zeros(4, dtype=torch.int64)
    for targets in (PixelTargets(bump(3, -1)[None]), DiskTargets(disk, disk.fit(bump(3, -1))[None])):
        for angle, image in zip(angles.tolist(), targets.turned(kinds, angles), strict=True):
            expected = bump(3 * math.cos(angle) + math.sin(angle), 3 * math.sin(angle) - math.cos(angle))
            assert float((image - expected).norm() / expected.norm()) < 0.02
    values = torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(PixelTargets(values).turned(kinds, 0 * angles)[2], values[0])


def test_random_targets_have_mean_square_one_and_the_published_size() -> None:
    targets = random_targets(9, 3, kinds=2)
    assert targets.x.shape == (2, 34)
    assert torch.allclose(targets.values.square().mean((-2, -1)), torch.ones(2, dtype=torch.float64))
    assert not torch.allclose(targets.x[0], targets.x[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: simulated(density=0.3), "density must lie between 0 and 0.177 for separated copies.*got 0.3"),
        (lambda: simulated(density=1e-6), "puts less than one copy on 120 x 100"),
        (lambda: simulated(sigma=-1.0), "sigma must be a positive finite number; got -1.0"),
        (lambda: simulated(size=(13, 100)), "size must be at least 2 x 7 pixels.*got 13 x 100"),
        (lambda: simulated(count=0), "count must be at least 1 image; got 0"),
        (lambda: simulated(spacing="close"), "spacing must be one of separated, arbitrary, dense; got 'close'"),
        (lambda: simulated(shares=[1.0]), r"shares must be 2 numbers, none negative; got \[1.0\]"),
        (
            lambda: simulate_images(PixelTargets(torch.zeros(1, 5, 5)), size=(50, 50), density=0.1, sigma=1, seed=0),
            "targets must be finite and not all zero",
        ),
    ],
)
def test_impossible_images_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
