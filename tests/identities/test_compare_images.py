"""Images compared with the truth: the best turn, the best shift, the best order of the kinds."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from unpicked.evaluate.images import best_angle, compare_images, turned
from unpicked.simulate.images import random_targets


def test_turned_and_exchanged_kinds_are_found() -> None:
    targets = random_targets(9, 1, kinds=2)
    angles = torch.tensor([0.7, -2.0], dtype=torch.float64)
    estimate = targets.turned(torch.tensor([1, 0]), angles)
    found = compare_images(estimate, targets.values)
    assert found.order == (1, 0)
    assert found.relative_error < 1e-7
    assert found.relative_error_shifted < 1e-7
    assert found.shift == (0, 0)
    assert found.angle_deg == pytest.approx(math.degrees(2.0), abs=1e-5)
    plain = compare_images(estimate, targets.values, rotations=False)
    assert plain.relative_error > 0.5
    assert plain.angle_deg == 0


@pytest.mark.parametrize("seed", range(4))
def test_no_angle_is_better_than_the_best(seed: int) -> None:
    """Also where noise leaves no exact answer."""
    targets = random_targets(8, seed)
    noise = random_targets(8, seed + 100).values[0]
    estimate = targets.turned(torch.tensor([0]), torch.tensor([1.1], dtype=torch.float64))[0] + 0.5 * noise
    best = best_angle(estimate, targets.values[0])
    distances = [
        float((turned(estimate, best + step) - targets.values[0]).norm()) for step in (-0.3, -0.05, 0.0, 0.05, 0.3)
    ]
    assert min(distances) == distances[2]
    assert all(before > after for before, after in pairwise(distances[:3]))


def test_a_shift_is_found_and_what_leaves_the_square_counts() -> None:
    truth = random_targets(9, 1).values[0]
    shifted = torch.zeros_like(truth)
    shifted[1:, 2:] = truth[:-1, :-2]
    found = compare_images(shifted, truth, rotations=False)
    assert found.shift == (-2, -1)
    lost = torch.cat([truth[-1], truth[:-1, -2:].flatten()]).norm() / truth.norm()
    assert found.relative_error_shifted == pytest.approx(float(lost), rel=1e-9)
    assert found.relative_error > found.relative_error_shifted
    assert set(found.to_json()) == {"relative_error", "relative_error_shifted", "shift", "angle_deg", "order"}


@pytest.mark.parametrize(
    ("estimate", "truth", "message"),
    [
        (torch.ones(4, 5), torch.ones(4, 5), "must have one shape"),
        (torch.ones(5, 5), torch.ones(6, 6), "must have one shape"),
        (torch.full((5, 5), math.nan), torch.ones(5, 5), "NaN"),
        (torch.ones(5, 5), torch.zeros(5, 5), "zero everywhere"),
        (torch.ones(9, 5, 5), torch.ones(9, 5, 5), "at most 8 kinds"),
    ],
)
def test_what_cannot_be_compared_is_refused(estimate: torch.Tensor, truth: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        compare_images(estimate, truth)
    assert "\n" not in str(caught.value)
