"""What several experiments share: random targets, and powers in figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unpicked._lazy import torch
from unpicked.ops import seeding


def random_target(length: int, seed: int, name: str) -> torch.Tensor:
    """Independent Gaussian samples ``(length,)`` float64, scaled to mean square 1."""
    x = torch.randn(length, generator=seeding.generator(seed, name), dtype=torch.float64)
    return x / x.square().mean().sqrt()


def rms(values: Sequence[float]) -> float:
    """Root of the mean square; NaN of nothing."""
    return math.sqrt(sum(value**2 for value in values) / len(values)) if values else math.nan


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of log y against log x; NaN for one point."""
    if len(x) < 2:
        return math.nan
    a, b = [math.log(value) for value in x], [math.log(value) for value in y]
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    above = sum((p - mean_a) * (q - mean_b) for p, q in zip(a, b, strict=True))
    return above / sum((p - mean_a) ** 2 for p in a)
