"""How far an estimated small image is from the truth, up to a rotation in the plane."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

from unpicked._lazy import torch
from unpicked.objects.disk import Disk
from unpicked.objects.pixels import Pixels

_ANGLES = 180  # of the first search
_COARSE = 36  # of that over shifts
_CANDIDATES = 6  # shifts that are tried exactly


@dataclass(frozen=True)
class ImageComparison:
    """An estimate of one or several kinds of target beside the truth.

    Attributes:
        relative_error: ||x - x*|| / ||x*|| over all kinds in their best order; where rotations are allowed, each kind
            turned by its own best angle.
        relative_error_shifted: the least of it over shifts of up to half of L, filled with zeros, before the turn.
        shift: that shift (x, y) of the estimate in pixels; of the first kind where there are several.
        angle_deg: by which the estimate was turned, from +x towards +y, not shifted; of the first kind.
        order: which kind of the estimate stands for each kind of the truth.
    """

    relative_error: float
    relative_error_shifted: float
    shift: tuple[int, int]
    angle_deg: float
    order: tuple[int, ...] = (0,)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return {**self.__dict__, "shift": list(self.shift), "order": list(self.order)}


def compare_images(estimate: torch.Tensor, truth: torch.Tensor, *, rotations: bool = True) -> ImageComparison:
    """Compare images ``(L, L)``, or several kinds ``(k, L, L)`` in any order.

    Raises:
        ValueError: for other shapes, values that are not finite, a truth of zeros, or more than eight kinds.
    """
    first, second = (values.double() if values.dim() == 3 else values.double()[None] for values in (estimate, truth))
    if first.dim() != 3 or first.shape != second.shape or first.shape[-1] != first.shape[-2] or first.shape[-1] < 3:
        raise ValueError(
            "both images must have one shape, (L, L) or (kinds, L, L) with L >= 3; "
            f"got {tuple(estimate.shape)} and {tuple(truth.shape)}"
        )
    if len(first) > 8:
        raise ValueError(f"at most 8 kinds can be put in order; got {len(first)}")
    if not bool(torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise ValueError("an image holds NaN or infinity")
    if not bool(second.any()):
        raise ValueError("the truth is zero everywhere")
    kinds = range(len(first))
    plain = {(t, e): _least(first[e], second[t], rotations) for t, e in product(kinds, kinds)}
    order = _order({pair: cost for pair, (cost, _) in plain.items()}, len(first))
    moved = {(t, e): _least_shifted(first[e], second[t], rotations) for t, e in product(kinds, kinds)}
    shifted = _order({pair: cost for pair, (cost, _) in moved.items()}, len(first))
    power = float(second.square().sum())
    return ImageComparison(
        math.sqrt(sum(plain[t, e][0] for t, e in enumerate(order)) / power),
        math.sqrt(sum(moved[t, e][0] for t, e in enumerate(shifted)) / power),
        moved[0, shifted[0]][1],
        math.degrees(plain[0, order[0]][1]),
        order,
    )


def best_angle(estimate: torch.Tensor, truth: torch.Tensor) -> float:
    """Angle in radians, in (-pi, pi], by which the estimate ``(L, L)`` is turned to be nearest to the truth.

    Both are expanded in a disk, where the inner product is a trigonometric polynomial of the angle: the best of a fine
    grid, then Newton's steps.
    """
    disk = _disk(truth.shape[-1])
    a, b = disk.fit(estimate.double()), disk.fit(truth.double())
    orders = disk.index[:, 0].abs().double()
    grid = torch.arange(_ANGLES, dtype=torch.float64) * (2 * math.pi / _ANGLES)
    angle = grid[(disk.rotate(a[None], grid) @ b).argmax()]
    for _ in range(5):
        here = disk.rotate(a, angle)
        slope, curve = (orders * _quarter(disk, here)) @ b, -(orders.square() * here) @ b
        if not float(curve) < 0:
            break
        angle = angle - (slope / curve).clamp(-0.02, 0.02)
    return math.remainder(float(angle), 2 * math.pi)


def _quarter(disk: Disk, x: torch.Tensor) -> torch.Tensor:
    """Every order n turned by 90 degrees / n: n times it is the derivative by the angle of the turn."""
    sign = disk.index[:, 0].sign()
    return -sign * x[torch.arange(len(x)) + sign]


def turned(image: torch.Tensor, angle: float) -> torch.Tensor:
    """An image ``(L, L)`` turned in its plane: what a disk holds of it exactly, the rest by interpolation."""
    disk, angles = _disk(image.shape[-1]), torch.tensor([angle], dtype=torch.float64)
    x = disk.fit(image.double())
    rest = image.double() - disk.values(x)
    pixels = Pixels(image.shape[-1]).rotator(angles).project(rest.flatten())[0]
    return disk.values(disk.rotate(x, angles[0])) + pixels


def _disk(side: int) -> Disk:
    return Disk(side, (side + 1) / 2)


def _least(estimate: torch.Tensor, truth: torch.Tensor, rotations: bool) -> tuple[float, float]:
    """Squared distance at the best angle, and that angle."""
    angle = best_angle(estimate, truth) if rotations else 0.0
    seen = turned(estimate, angle) if rotations else estimate
    return float((seen - truth).square().sum()), angle


def _least_shifted(estimate: torch.Tensor, truth: torch.Tensor, rotations: bool) -> tuple[float, tuple[int, int]]:
    """Least squared distance over shifts, and the shift (x, y); what is moved out of the square counts too."""
    side = truth.shape[-1]
    reach = side // 2
    windows = torch.nn.functional.pad(estimate, (reach,) * 4).unfold(0, side, 1).unfold(1, side, 1).flatten(0, 1)
    lost = estimate.square().sum() - windows.square().sum((-2, -1))
    if rotations:  # the likeliest few by their expansions, which are nearly orthonormal on the pixels
        disk = _disk(side)
        x, y = disk.fit(windows), disk.fit(truth)
        grid = torch.arange(_COARSE, dtype=torch.float64) * (2 * math.pi / _COARSE)
        costs = lost + windows.square().sum((-2, -1)) - 2 * (disk.rotate(x[:, None], grid) @ y).amax(1)
    else:
        costs = lost + (windows - truth).square().sum((-2, -1))
    found = []
    for index in costs.argsort()[:_CANDIDATES].tolist():
        row, column = divmod(index, 2 * reach + 1)
        cost = _least(windows[index], truth, rotations)[0] + float(lost[index])
        found.append((cost, (reach - column, reach - row)))
    return min(found)


def _order(costs: dict[tuple[int, int], float], kinds: int) -> tuple[int, ...]:
    """The order of the estimates that costs least."""
    return min(permutations(range(kinds)), key=lambda order: sum(costs[t, e] for t, e in enumerate(order)))
