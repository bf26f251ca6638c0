"""How near copies come to each other, how densely they can lie, and how often each kind of them occurs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Spacing = Literal["separated", "arbitrary", "dense"]


def least_distance(spacing: str, length: int) -> int:
    """Least distance of the first samples of two copies of ``length`` samples; of images, in the larger direction.

    Raises:
        ValueError: for an unknown spacing.
    """
    known = {"separated": 2 * length - 1, "arbitrary": length, "dense": -(-length // 2)}
    if spacing not in known:
        raise ValueError(f"spacing must be one of {', '.join(known)}; got {spacing!r}")
    return known[spacing]


def densest(size: tuple[int, int], side: int, least: int) -> float:
    """Covered fraction up to which squares of ``side`` pixels are placed on an image, ``least`` pixels apart."""
    # random sequential placement of squares jams at a covered fraction of 0.562 (Brosilow et al. 1991)
    return 0.55 * (side / least) ** 2 * math.prod(1 + (least - side) / n for n in size)


def probabilities(shares: Sequence[float] | None, kinds: int) -> tuple[float, ...]:
    """Shares of the kinds, to sum to 1; None means equal.

    Raises:
        ValueError: for another number of shares, or negative ones.
    """
    chances = [1.0] * kinds if shares is None else list(shares)
    if len(chances) != kinds or min(chances) < 0 or not sum(chances) > 0:
        raise ValueError(f"shares must be {kinds} numbers, none negative; got {chances}")
    return tuple(share / sum(chances) for share in chances)
