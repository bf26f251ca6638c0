"""Spacing laws: how far from one copy the next one starts, in one dimension.

Distances are independent. A wrong law biases the answer: compare the expected distances of a run with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

from unpicked._lazy import torch
from unpicked.ops.chain import Gaps

Least = Literal["separated", "arbitrary", "dense"]
_EDGE = 1e-9  # parameters stay so far from what is impossible


class Counts(NamedTuple):
    """What the data say of the distances, expected numbers.

    Attributes:
        gaps: ``(h + 1,)`` of the explicit distances, and of the tail's.
        begins: ``(reach + 1,)`` ways in which signals that were cut out begin.
        starts: copies that began at a free site.
        free: free sites.
    """

    gaps: torch.Tensor
    begins: torch.Tensor
    starts: float
    free: float


class Spacing(Protocol):
    """A law of distances, with its parameters."""

    @property
    def density(self) -> float:
        """Covered fraction, copies x L / samples (above 1 only where copies overlap)."""

    @property
    def scalar(self) -> bool:
        """Whether the hazard is its only parameter, so that scores can be taken."""

    def gaps(self, length: int) -> Gaps:
        """The law for copies of ``length`` samples."""

    def fitted(self, length: int, counts: Counts) -> Spacing:
        """The same kind of law that maximises the expected log-likelihood."""

    def thinned(self, length: int, hazard: float) -> Spacing:
        """The same law with another chance of a start at free sites."""

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        """What is estimated, by name."""

    def present(self, parameters: Mapping[str, torch.Tensor]) -> Spacing:
        """The law with these parameters put in; other names are ignored."""


@dataclass(frozen=True)
class HardCore:
    """A least distance, then a geometric law: sites beyond it are alike.

    It is the law of copies thrown at random, of which none lie closer than the least distance.

    Attributes:
        least: "separated" (2 L - 1), "arbitrary" (L: a geometric law of gaps), "dense" (half of L, rounded up: two
            copies may overlap, three may not), or a number of samples.
        density: covered fraction, copies x L / samples.
    """

    least: Least | int = "separated"
    density: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.least, int) and self.least < 1:
            raise ValueError(f"least distance must be at least 1 sample; got {self.least}")
        if not (math.isfinite(self.density) and self.density > 0):
            raise ValueError(f"density must be a positive covered fraction; got {self.density}")

    @property
    def scalar(self) -> bool:
        """It is."""
        return True

    def width(self, length: int) -> int:
        """Least distance for copies of ``length`` samples.

        Raises:
            ValueError: for one at which three copies may overlap.
        """
        if isinstance(self.least, str):
            return {"separated": 2 * length - 1, "arbitrary": length, "dense": -(-length // 2)}[self.least]
        if 2 * self.least < length:
            raise ValueError(f"least distance must be at least half of {length} samples; got {self.least}")
        return self.least

    def gaps(self, length: int) -> Gaps:
        """The law; distances at which copies overlap are explicit.

        Raises:
            ValueError: for a density that the least distance makes impossible.
        """
        width = self.width(length)
        if not self.density < length / width:
            raise ValueError(
                f"density must be below {length / width:.3f} where copies of {length} samples start {width} samples "
                f"apart; got {self.density}; try a lower density or a smaller least distance"
            )
        return _geometric(width, max(0, length - width), 1 / (length / self.density - width + 1))

    def thinned(self, length: int, hazard: float) -> HardCore:
        """The law with this hazard."""
        hazard = min(max(hazard, _EDGE), 1 - _EDGE)
        return replace(self, density=length / (self.width(length) - 1 + 1 / hazard))

    def fitted(self, length: int, counts: Counts) -> HardCore:
        """Hazard = starts / sites where one could be, or where signals were cut, the best one in all."""
        explicit, tail = counts.gaps[:-1], float(counts.gaps[-1])
        trials = float((explicit * torch.arange(1, len(explicit) + 1)).sum()) + tail * len(explicit) + counts.free
        starts = float(explicit.sum()) + counts.starts
        if not trials > 0:
            return self
        hazard = starts / trials
        if float(counts.begins.sum()) > 0:
            width, extra = self.width(length), len(explicit)

            def loss(hazard: float) -> float:
                value = starts * math.log(hazard) + (trials - starts) * math.log1p(-hazard)
                return -value - float(counts.begins @ _log_begins(_geometric(width, extra, hazard)))

            hazard = _least(loss, hazard)
        return self.thinned(length, hazard)

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        """The density."""
        return {"density": torch.tensor(self.density, dtype=torch.float64)}

    def present(self, parameters: Mapping[str, torch.Tensor]) -> HardCore:
        """With this density."""
        return replace(self, density=float(parameters["density"]))


def geometric(density: float = 0.1) -> HardCore:
    """Copies that may touch, with a geometric law of the gaps between them: every free site starts one alike."""
    return HardCore("arbitrary", density)


@dataclass(frozen=True)
class Histogram:
    """A free law of the first distances, and a geometric tail.

    Attributes:
        length: L, samples of a copy.
        least: least distance.
        chances: probabilities of ``least``, ``least + 1``, ...; what they leave is the tail's.
        hazard: chance of a start at every site beyond.
        smoothing: of every estimate, so many copies are spread evenly over the explicit distances.
    """

    length: int
    least: int
    chances: tuple[float, ...]
    hazard: float
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.length <= 2 * self.least:
            raise ValueError(f"least must be at least half of {self.length} samples; got {self.least}")
        if self.least + len(self.chances) < self.length:
            raise ValueError(f"chances must reach the distance of {self.length} samples; got {len(self.chances)}")
        if min(self.chances, default=0.0) < 0 or not sum(self.chances) < 1:
            raise ValueError("chances must not be negative, and leave something to the tail")
        if not 0 < self.hazard < 1:
            raise ValueError(f"hazard must lie between 0 and 1; got {self.hazard}")
        if self.smoothing < 0:
            raise ValueError(f"smoothing must not be negative; got {self.smoothing}")

    @staticmethod
    def like(law: HardCore, length: int, reach: int, *, smoothing: float = 0.0) -> Histogram:
        """A free law up to the distance ``reach`` that begins as another one."""
        gaps = law.gaps(length)
        made = _geometric(gaps.least, max(reach - gaps.least, 0, len(gaps.chances)), gaps.hazard)
        return Histogram(length, made.least, made.chances, made.hazard, smoothing)

    @property
    def scalar(self) -> bool:
        """It has many parameters."""
        return False

    @property
    def density(self) -> float:
        """Covered fraction."""
        return self.length / self.gaps(self.length).mean

    def gaps(self, length: int) -> Gaps:
        """The law.

        Raises:
            ValueError: for copies of another length than the law was made for.
        """
        if length != self.length:
            raise ValueError(f"the law was made for copies of {self.length} samples; got {length}")
        return Gaps(self.least, self.chances, 1 - sum(self.chances), self.hazard)

    def thinned(self, length: int, hazard: float) -> Histogram:
        """The law with this hazard in its tail."""
        return replace(self, hazard=min(max(hazard, _EDGE), 1 - _EDGE))

    def fitted(self, length: int, counts: Counts) -> Histogram:
        """Shares of the expected distances; the way in which cut signals begin is left out of account."""
        explicit = counts.gaps[:-1] + self.smoothing / max(1, len(self.chances))
        total = float(explicit.sum() + counts.gaps[-1])
        if not (total > 0 and counts.free > 0):
            return self
        shares = explicit / total * min(1.0, (1 - _EDGE) * total / max(float(explicit.sum()), 1e-300))
        return replace(self, chances=tuple(shares.tolist())).thinned(length, counts.starts / counts.free)

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        """Chances and hazard."""
        chances = torch.tensor(self.chances, dtype=torch.float64)
        return {"chances": chances, "hazard": torch.tensor(self.hazard, dtype=torch.float64)}

    def present(self, parameters: Mapping[str, torch.Tensor]) -> Histogram:
        """With these chances and this hazard."""
        return replace(self, chances=tuple(parameters["chances"].tolist()), hazard=float(parameters["hazard"]))


def begins(law: Spacing, length: int, sites: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """How a signal begins that was cut out of a longer one, ``begin`` of :func:`unpicked.ops.chain.sums`.

    The first start lies r sites behind the first one with chance P(distance > r) / mean distance.

    Args:
        law: of the distances.
        length: samples of a copy.
        sites: of the signal, at most so many chances are given.
    """
    gaps = law.gaps(length)
    logs = _log_begins(gaps, sites)
    slopes = torch.zeros_like(logs)
    if law.scalar:
        step = 1e-5 * min(gaps.hazard, 1 - gaps.hazard)
        above, below = (law.thinned(length, gaps.hazard + turn).gaps(length) for turn in (step, -step))
        change = _log_begins(above, sites) - _log_begins(below, sites)
        slopes = (change / (above.hazard - below.hazard)).nan_to_num(0.0)
    return tuple(logs[:-1].exp().tolist()), tuple(slopes.tolist())


def _geometric(width: int, extra: int, hazard: float) -> Gaps:
    """The law of :class:`HardCore` with ``extra`` explicit distances."""
    miss = 1 - hazard
    chances = tuple(hazard * miss**i for i in range(extra))
    slopes = (*(1 / hazard - i / miss for i in range(extra)), -extra / miss)
    return Gaps(width, chances, miss**extra, hazard, slopes)


def _log_begins(gaps: Gaps, sites: int | None = None) -> torch.Tensor:
    """Logarithms ``(r + 1,)`` of the chances that the first start lies at site 0, 1, ..., and of what they leave."""
    chances = torch.tensor((*(0.0,) * gaps.least, *gaps.chances), dtype=torch.float64)  # of the distances 0, 1, ...
    beyond = (1 - chances.cumsum(0)).clamp(min=0)
    first = beyond[:sites] / gaps.mean
    return torch.cat([first, (1 - first.sum()).clamp(min=0)[None]]).log()


def _least(loss: Callable[[float], float], start: float) -> float:
    """Where a function of a chance is least, near a first guess."""
    from scipy.optimize import minimize_scalar

    low, high = math.log(max(start / 3, _EDGE)), math.log(min(3 * start, 1 - _EDGE))
    options = {"xatol": 1e-12}
    found = minimize_scalar(lambda log: loss(math.exp(log)), bounds=(low, high), method="bounded", options=options)
    return math.exp(float(found.x)) if found.fun <= loss(start) else start
