"""Positions of particles against true ones: matched one to one, precision, recall, and their curve over the score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.float64]


@dataclass(frozen=True)
class PickComparison:
    """How many positions are true ones.

    Attributes:
        precision: matched positions over all that were found; 0 where none was.
        recall: matched positions over all true ones.
        f1: harmonic mean of both.
        count: positions found, true, and matched.
        distance: root mean square distance of matched pairs, in units of the positions; None where there are none.
        curve: (least score, precision, recall) of the best positions alone, from the highest score down; empty
            without scores.
        average_precision: area under precision over recall along the curve; None without scores.
    """

    precision: float
    recall: float
    f1: float
    count: tuple[int, int, int]
    distance: float | None
    curve: tuple[tuple[float, float, float], ...]
    average_precision: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        found, true, matched = self.count
        return {
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "count": {"found": found, "true": true, "matched": matched},
            "distance": self.distance,
            "average_precision": self.average_precision,
            "curve": [list(point) for point in self.curve],
        }


def compare_picks(
    found: Mapping[str, Positions],
    truth: Mapping[str, Positions],
    radius: float,
    scores: Mapping[str, NDArray[np.float64]] | None = None,
) -> PickComparison:
    """Match positions with true ones within a radius, one to one and as many as possible.

    Taken in the order of their scores, every position joins if the matching grows by it (augmenting paths, Kuhn 1955):
    so the count is the largest possible for every threshold, not only for the last.

    Args:
        found: per micrograph ``(n, 2)`` positions x, y.
        truth: per micrograph ``(m, 2)``; micrographs that are in one of both only count, too.
        radius: largest distance of a pair, in units of the positions.
        scores: per micrograph ``(n,)``, the higher the surer; None without them.

    Raises:
        ValueError: for no true positions, a radius that is not positive, or scores that do not fit.
    """
    if not 0 < radius < np.inf:
        raise ValueError(f"the radius must be positive; got {radius}")
    total = sum(len(rows) for rows in truth.values())
    if not total:
        raise ValueError("there are no true positions to compare with")
    if scores is not None and {name: len(rows) for name, rows in found.items()} != {
        name: len(rows) for name, rows in scores.items()
    }:
        raise ValueError("scores must be one per position")
    ranked: list[tuple[float, bool]] = []
    squares: list[float] = []
    for name, rows in found.items():
        own = np.zeros(len(rows)) if scores is None else scores[name]
        order = np.argsort(-own, kind="stable")
        grew, pairs = _matching(rows[order], truth.get(name, np.empty((0, 2))), radius)
        ranked += zip(own[order].tolist(), grew, strict=True)
        squares += pairs
    count = len(ranked)
    hits = sum(grown for _, grown in ranked)
    precision, recall = hits / count if count else 0.0, hits / total
    curve = () if scores is None else _curve(ranked, total)
    return PickComparison(
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if hits else 0.0,
        count=(count, total, hits),
        distance=float(np.sqrt(np.mean(squares))) if squares else None,
        curve=curve,
        average_precision=None if scores is None else _area(curve),
    )


def _matching(found: Positions, truth: Positions, radius: float) -> tuple[list[bool], list[float]]:
    """For each position whether the largest matching grew by it, and the squared distances of the last pairs."""
    from scipy.spatial import KDTree

    if not len(found) or not len(truth):
        return [False] * len(found), []
    near = KDTree(truth).query_ball_point(found, radius)
    gaps = [np.linalg.norm(truth[some] - place, axis=1) for some, place in zip(near, found, strict=True)]
    near = [[some[k] for k in np.argsort(gap)] for some, gap in zip(near, gaps, strict=True)]
    owner: dict[int, int] = {}
    held: dict[int, int] = {}
    grew = [_augment(row, near, owner, held) for row in range(len(found))]
    return grew, [float(((found[row] - truth[place]) ** 2).sum()) for place, row in owner.items()]


def _augment(row: int, near: Sequence[Sequence[int]], owner: dict[int, int], held: dict[int, int]) -> bool:
    """Give ``row`` a true position, moving others to free ones; False, and nothing changed, where there is no way.

    Args:
        row: a position that holds no true one.
        near: per position the true ones within the radius.
        owner: true position to the position that holds it.
        held: the same the other way round.
    """
    came: dict[int, int] = {}  # true position: the row that asks for it
    asking = [row]
    while asking:
        one = asking.pop()
        for place in near[one]:
            if place in came:
                continue
            came[place] = one
            if place in owner:
                asking.append(owner[place])
                continue
            free: int | None = place
            while free is not None:  # hand the positions on, back to ``row``, which held none
                asker = came[free]
                owner[free] = asker
                before = held.get(asker)
                held[asker] = free
                free = before
            return True
    return False


def _curve(ranked: Sequence[tuple[float, bool]], total: int) -> tuple[tuple[float, float, float], ...]:
    """One point per score that occurs."""
    best = sorted(ranked, key=lambda pair: -pair[0])
    points, hits = [], 0
    for number, (score, grown) in enumerate(best, 1):
        hits += grown
        if number == len(best) or best[number][0] < score:
            points.append((score, hits / number, hits / total))
    return tuple(points)


def _area(curve: Sequence[tuple[float, float, float]]) -> float:
    """Sum of precision times the recall gained at each threshold."""
    before, area = 0.0, 0.0
    for _, precision, recall in curve:
        area += precision * (recall - before)
        before = recall
    return area
