"""Updates from part of the data: which part, and running averages of its statistics (Cappe and Moulines 2009)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unpicked._lazy import torch
from unpicked.model.likelihoods import Stats
from unpicked.ops import seeding

_OWN = ("numerator", "information", "log_likelihood", "square", "sum")  # what is not averaged


def part(count: int, parts: int, step: int, seed: int) -> list[int]:
    """Which of ``count`` pieces update ``step`` takes; ``parts`` of them in a row take each piece once, at random."""
    turn, number = divmod(step, parts)
    order = torch.randperm(count, generator=seeding.generator(seed, "parts", turn))
    return sorted(order[number::parts].tolist())


def averaged(stats: Stats) -> Stats:
    """What is averaged over updates as it is: all but what views that turn meanwhile make incomparable."""
    return {name: value for name, value in stats.items() if name not in _OWN}


def blended(average: Mapping[str, Any], stats: Stats, templates: torch.Tensor, rate: float) -> Stats:
    """Statistics whose M-step, gone a part ``rate`` of the way, is that of running averages.

    Let x solve M x = b, M and b averages of all statistics so far. With those of this update, M_t and b_t, the average
    M' x' = (1 - rate) M x + rate b_t has the solution x' = x + rate M'^-1 (b_t - M_t x). So M alone is averaged, and
    the numerators that are returned leave the gradient at x this update's own, whichever views gave the earlier ones.

    Args:
        average: running averages of :func:`averaged` before this update.
        stats: of this update, scaled to all the data.
        templates: ``(k, L, L)`` of the present coefficients x.
        rate: weight of this update.
    """
    out = stats | {name: mean.lerp(stats[name], rate) for name, mean in average.items()}
    out["numerator"] = stats["numerator"] + (out["weight"] - stats["weight"]) * templates
    return out
