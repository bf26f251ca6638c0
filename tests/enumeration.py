"""All configurations of a small hard-core gas, and the noise that its tests draw."""

from __future__ import annotations

from collections.abc import Iterator

import torch

Site = tuple[int, int]


def draw(seed: int, *shape: int) -> torch.Tensor:
    """Standard normal numbers, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def configurations(height: int, length: int, width: int, chosen: tuple[Site, ...] = ()) -> Iterator[tuple[Site, ...]]:
    """All sets of sites of which no two lie closer than ``width`` in both directions."""
    yield chosen
    first = chosen[-1][0] * length + chosen[-1][1] + 1 if chosen else 0
    for number in range(first, height * length):
        y, x = divmod(number, length)
        if all(max(abs(y - v), abs(x - u)) >= width for v, u in chosen):
            yield from configurations(height, length, width, (*chosen, (y, x)))
