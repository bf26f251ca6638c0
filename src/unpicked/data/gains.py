"""What micrographs were multiplied by in Fourier space, so that their noise is white."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any

from unpicked._lazy import torch

LAST = math.sqrt(0.5)  # cycles per pixel, the corner of Fourier space


@dataclass(frozen=True)
class Gains:
    """Factors per length of the frequency, one curve per group of micrographs.

    Attributes:
        curves: per group, factors at frequencies evenly spaced from 0 to sqrt(1/2) cycles per pixel; linear between.
        group: group number of every micrograph.
    """

    curves: tuple[tuple[float, ...], ...]
    group: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(len(curve) < 2 for curve in self.curves):
            raise ValueError("a curve of gains needs at least two values")
        if any(not (math.isfinite(value) and value > 0) for curve in self.curves for value in curve):
            raise ValueError("gains must be positive and finite")
        if any(not 0 <= item < len(self.curves) for item in self.group):
            raise ValueError(f"group must number the curves 0 .. {len(self.curves) - 1}; got {sorted(set(self.group))}")

    def __len__(self) -> int:
        return len(self.group)

    def part(self, items: Sequence[int]) -> Gains:
        """Those of some micrographs, in this order."""
        used = sorted({self.group[item] for item in items})
        place = {group: number for number, group in enumerate(used)}
        curves = tuple(self.curves[group] for group in used)
        return replace(self, curves=curves, group=tuple(place[self.group[item]] for item in items))

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {"curves": [list(curve) for curve in self.curves], "group": list(self.group)}

    @staticmethod
    def of_json(values: Any) -> Gains:
        """From :meth:`to_json`; raises KeyError, TypeError or ValueError for anything else."""
        return Gains(tuple(tuple(map(float, curve)) for curve in values["curves"]), tuple(map(index, values["group"])))

    def at(self, item: int, fx: torch.Tensor, fy: torch.Tensor) -> torch.Tensor:
        """Factors of micrograph ``item`` at frequencies in cycles per pixel, in their shape and dtype."""
        curve = torch.tensor(self.curves[self.group[item]], dtype=fx.dtype, device=fx.device)
        place = (fx.square() + fy.square()).sqrt() * ((len(curve) - 1) / LAST)
        first = place.floor().long().clamp(0, len(curve) - 2)
        share = (place - first).clamp(0, 1)
        return curve[first] * (1 - share) + curve[first + 1] * share
