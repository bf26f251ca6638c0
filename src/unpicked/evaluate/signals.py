"""How far an estimated signal is from the truth."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any

from unpicked._lazy import torch

STEPS = 100
"""Shifts tried per sample."""


@dataclass(frozen=True)
class SignalComparison:
    """An estimate of one or several kinds of target beside the truth.

    Attributes:
        relative_error: ||x - x*|| / ||x*||, no shift allowed, over all kinds in their best order.
        relative_error_shifted: the least of it over shifts of up to L samples, in steps of a hundredth, of the
            estimate as a band-limited signal with zeros around it. Data whose copies lie anywhere do not tell
            where a smooth target lies within its window, so this is the error of the shape.
        shift: that shift of the estimate, in samples; of the first kind where there are several.
        order: which kind of the estimate stands for each kind of the truth.
    """

    relative_error: float
    relative_error_shifted: float
    shift: float
    order: tuple[int, ...] = (0,)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return {**self.__dict__, "order": list(self.order)}


def compare_signals(estimate: torch.Tensor, truth: torch.Tensor) -> SignalComparison:
    """Compare signals ``(L,)``, or several kinds ``(k, L)`` in any order.

    Raises:
        ValueError: for other shapes, values that are not finite, a truth of zeros, or more than eight kinds.
    """
    first, second = (torch.atleast_2d(values.double()) for values in (estimate, truth))
    if first.dim() != 2 or first.shape != second.shape:
        raise ValueError(
            f"both signals must have one shape, (L,) or (kinds, L); "
            f"got {tuple(estimate.shape)} and {tuple(truth.shape)}"
        )
    if len(first) > 8:
        raise ValueError(f"at most 8 kinds can be put in order; got {len(first)}")
    if not bool(torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise ValueError("a signal holds NaN or infinity")
    if not bool(second.any()):
        raise ValueError("the truth is zero everywhere")
    plain = torch.cdist(second, first).square()
    moved, shifts = _shifted(first, second)
    orders = list(permutations(range(len(first))))
    rows = torch.arange(len(first))
    power = second.square().sum()

    def best(costs: torch.Tensor) -> tuple[float, tuple[int, ...]]:
        found = [(float(costs[rows, list(order)].sum()), order) for order in orders]
        cost, order = min(found)
        return float((cost / power).sqrt()), order

    error, _ = best(plain)
    least, order = best(moved)
    return SignalComparison(error, min(error, least), float(shifts[0, order[0]]), order)


def _shifted(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least squared distances ``(truths, estimates)`` over shifts of -L .. L, and the shifts.

    The correlations at fractions of a sample come from the spectra filled with zeros.
    """
    length = first.shape[1]
    around = 3 * length - (length + 1) % 2  # odd: no frequency of which half would be lost; two signals do not meet
    ours, theirs = (torch.fft.rfft(signals, around) for signals in (first, second))
    fine = STEPS * torch.fft.irfft(theirs[:, None] * ours.conj(), STEPS * around)
    shifts = torch.arange(-STEPS * length, STEPS * length + 1)
    powers = second.square().sum(1)[:, None] + first.square().sum(1)
    found = fine[..., shifts % fine.shape[-1]].max(-1)
    return (powers - 2 * found.values).clamp(min=0), shifts[found.indices].double() / STEPS
