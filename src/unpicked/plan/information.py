"""How well N particles of energy E can determine a structure at best, from a measured table.

The table (``information.json``, made by ``benchmarks/plan_information.py``) holds, for several structures in a box of
11 voxels, the relative error and the FSC with the truth that the Fisher information of the micrographs' likelihood
and a learned Wilson prior leave. Between its entries logarithms are interpolated; beyond them straight lines go on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

HALF = 0.5  # FSC with the truth that counts as resolved
ROUND = 0.9  # FSC of the first shell from which the round part of a map is known


@dataclass(frozen=True)
class Range:
    """A figure with the least and the largest that any structure of the table gives."""

    middle: float
    low: float
    high: float
    at_most: bool = False
    """Whether it is the smallest number of the table, and less may do."""
    extrapolated: bool = False
    """Whether energy, particles or resolution lie beyond those of the table."""

    def times(self, factor: float) -> Range:
        """All three, so many times."""
        return replace(self, middle=self.middle * factor, low=self.low * factor, high=self.high * factor)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        told = {"expected": self.middle, "low": self.low, "high": self.high}
        return told | {"at_most": self.at_most, "extrapolated": self.extrapolated}


@dataclass(frozen=True, eq=False)
class Curves:
    """What one structure's table says.

    Attributes:
        energies: rising.
        counts: numbers of particles, rising.
        error: ``(energies, counts)`` relative errors.
        lost: ``(energies, counts, shells)``: 1 - FSC^2 of the shells from 1.
    """

    energies: np.ndarray
    counts: np.ndarray
    error: np.ndarray
    lost: np.ndarray

    def needed(self, energy: float, *, error: float) -> float:
        """Particles for a relative error."""
        return self._across(energy, [_count(self.counts, row, error) for row in self.error])

    def resolved(self, energy: float, shell: float) -> float:
        """Particles for an FSC of 0.5 in a shell, between whole ones too."""
        last = self.lost.shape[-1]
        shell = min(max(shell, 1.0), float(last))
        below = min(int(shell), last - 1)
        ends = [
            np.log(self._across(energy, [_count(self.counts, row[:, at], 1 - HALF**2) for row in self.lost]))
            for at in (below - 1, below)
        ]
        return float(np.exp(ends[0] + (shell - below) * (ends[1] - ends[0])))

    def _across(self, energy: float, counts: Sequence[float]) -> float:
        """Between the energies of the table; above it particles fall as 1 / E, below it as they last did."""
        x, y, at = np.log(self.energies), np.log(counts), np.log(energy)
        if at > x[-1]:
            return float(max(np.exp(y[-1] - (at - x[-1])), self.counts[0]))
        if at < x[0]:
            return float(np.exp(y[0] + (at - x[0]) * (y[1] - y[0]) / (x[1] - x[0])))
        return float(np.exp(np.interp(at, x, y)))


def needed(energy: float, *, error: float | None = None, shell: float | None = None) -> Range:
    """Particles for a relative error, or for an FSC of 0.5 with the truth in a shell of the box of 11.

    Args:
        energy: E of one particle.
        error: relative error, or
        shell: cycles per box, from 1 to 5.

    Returns:
        At least the smallest number in the table, 100, which then means "no more than".

    Raises:
        ValueError: unless one of the two is given.
    """
    if (error is None) == (shell is None):
        raise ValueError("give error or shell, one of the two")
    if error is not None:
        wanted = error
        found = _range(lambda curves: curves.needed(energy, error=wanted))
    else:
        place = float(shell or 0)
        found = _range(lambda curves: curves.resolved(energy, place))
    beyond = _beyond(energy) or found.middle > float(table()[0].counts[-1])
    return replace(found, at_most=found.middle <= 1.001 * least(), extrapolated=beyond)


def least() -> float:
    """The smallest number of particles in the table."""
    return float(table()[0].counts[0])


def _beyond(energy: float) -> bool:
    known = table()[0].energies
    return not float(known[0]) <= energy <= float(known[-1])


def expected(energy: float, particles: float) -> tuple[Range, tuple[float, float, float]]:
    """Relative error of so many particles, and the last shell with an FSC of 0.5: expected, worst and best.

    Raises:
        ValueError: for fewer particles than the table has.
    """
    if particles < least():
        raise ValueError(f"particles must be at least {least():g}, the fewest of the table; got {particles:g}")
    levels = np.geomspace(1e-6, 1.2, 281)
    shells = np.linspace(1.0, 5.0, 41)

    def error(curves: Curves) -> float:
        counts = np.array([curves.needed(energy, error=level) for level in levels])  # falling
        there = counts > 1.001 * curves.counts[0]
        x, y = np.log(counts[there][::-1]), np.log(levels[there][::-1])
        return float(np.exp(np.interp(np.log(particles), x, y)))

    def shell(curves: Curves) -> float:
        counts = np.maximum.accumulate([curves.resolved(energy, at) for at in shells])
        there = np.flatnonzero(counts <= particles)
        return float(shells[there[-1]]) if len(there) else 0.0

    found = _range(shell)
    return replace(_range(error), extrapolated=_beyond(energy)), (found.middle, found.low, found.high)


def _range(of: Callable[[Curves], float]) -> Range:
    values = [of(curves) for curves in table()]
    return Range(float(np.median(values)), min(values), max(values))


def _count(counts: np.ndarray, falling: np.ndarray, level: float) -> float:
    """Where a falling curve comes to a level; beyond the last count it falls as it did, before the first it is it."""
    x, y = np.log(counts), np.log(np.maximum(np.minimum.accumulate(falling), 1e-12))
    at = np.log(level)
    if at < y[-1]:
        slope = min((y[-1] - y[-2]) / (x[-1] - x[-2]), -0.1)
        return float(np.exp(x[-1] + (at - y[-1]) / slope))
    return float(np.exp(np.interp(at, y[::-1], x[::-1])))


@cache
def table() -> tuple[Curves, ...]:
    """The shipped table, one entry per structure."""
    held: dict[str, Any] = json.loads(resources.files(__package__).joinpath("information.json").read_text())
    rows, counts = held["rows"], np.array(held["particles"])
    out = []
    for volume in dict.fromkeys(row["volume"] for row in rows):
        own = sorted((row for row in rows if row["volume"] == volume), key=lambda row: row["energy"])
        error, fsc = (np.array([row[name] for row in own]) for name in ("error", "fsc"))
        # where the first shell is known, a round map is: the prior of the table does not know that this is better
        error = np.where(fsc[:, :, 1] > ROUND, np.minimum(error, own[0]["ball_error"]), error)
        out.append(Curves(np.array([row["energy"] for row in own]), counts, error, 1 - fsc[:, :, 1:] ** 2))
    return tuple(out)
