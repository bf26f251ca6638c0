"""What independent fits are worth to one another: maps of folds, of other starts, and of data without structure.

The folds of a verification share neither data nor random numbers, so their maps agree as far as the structure is
determined; maps of data of random phases agree with them as far as the pipeline alone makes maps alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unpicked.data.maps import Map
from unpicked.evaluate.halves import Halves, halves


@dataclass(frozen=True)
class Rival:
    """Another run beside that of the first fold: on data of random phases, or from another random start.

    Attributes:
        gain: what its structure is worth on the other fold, in log units: over the best null where the phases are
            random, over the first fold's own run where only the start is another.
        fsc: of its map with that of the first fold, shells 0, 1, ...; empty where there are no maps.
    """

    gain: float
    fsc: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"gain": self.gain, "fsc": list(self.fsc)}

    @classmethod
    def of_json(cls, held: Mapping[str, Any]) -> Rival:
        """The record of :meth:`to_json`."""
        return cls(float(held["gain"]), tuple(float(value) for value in held["fsc"]))


def agreement(first: Map | None, second: Map | None, *, shared_start: bool = False) -> Halves | None:
    """How far two maps agree, laid on one another by their low shells; None without maps, or with an empty one.

    Args:
        first: a map.
        second: another of the same grid.
        shared_start: whether both fits began at one map.
    """
    if first is None or second is None:
        return None
    one, other = (replace(map, values=map.values.detach().cpu()) for map in (first, second))
    try:
        return halves(one, other, shared_start=shared_start)[0]
    except ValueError:  # a constant map, or one without low shells
        return None


def shells(first: Map | None, second: Map | None) -> tuple[float, ...]:
    """The curve of :func:`agreement`; empty where there is none."""
    found = agreement(first, second)
    return () if found is None else tuple(found.fsc)


def floor(rivals: Sequence[Rival]) -> tuple[float, ...]:
    """Per shell the best agreement that data of random phases reached: what lies below it shows nothing."""
    curves = [rival.fsc for rival in rivals if rival.fsc]
    return tuple(max(values) for values in zip(*curves, strict=True)) if curves else ()


def determined(found: Halves, lowest: Sequence[float]) -> float | None:
    """Angstrom: FSC 0.143 between the folds, and no finer than the last shell above the floor up to there.

    None where no shell is. In the lowest shells any two compact particles agree.
    """
    if not lowest or found.resolution_0143 is None:
        return found.resolution_0143
    field = found.cutoff_angstrom * found.cutoff_shell
    last = len(found.fsc) - 1 if found.at_nyquist else math.floor(field / found.resolution_0143 + 1e-9)
    above = [shell for shell in range(1, last + 1) if found.fsc[shell] > (*lowest, 0.0)[min(shell, len(lowest))]]
    if not above:
        return None
    return found.resolution_0143 if above[-1] == last else max(found.resolution_0143, field / above[-1])
