"""Long signals with known truth: copies of short targets at unknown places in white noise.

Places are drawn from all configurations of so many copies that keep their least distance, with equal chances: m
distinct sites of a line from which (m - 1) (W - 1) sites were taken out, and put back behind every copy. The line is
drawn in pieces, so that a signal of any length is made block by block, the same however it is read.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from unpicked._lazy import torch
from unpicked.data.signal import Signal
from unpicked.ops import seeding
from unpicked.ops.normal import normal
from unpicked.simulate.spacing import Spacing, least_distance, probabilities

PIECE = 1 << 20  # samples, and sites of the line, that are drawn at once
_KEPT = 2  # pieces that are remembered, so that a halo costs nothing


@dataclass(frozen=True, eq=False)
class SignalSimulation:
    """A lazy simulated signal, or several: what is read depends on the seed only.

    Attributes:
        targets: ``(k, L)`` float64, the kinds of target.
        shares: probabilities of the kinds.
        length: samples of each signal.
        rows: number of signals.
        per_row: copies in each.
        spacing: least distance of two copies: 2 L - 1 ("separated"), L ("arbitrary") or the half of L, rounded up
            ("dense": two copies may overlap, three may not).
        sigma: standard deviation of the noise.
        seed: of everything random.
    """

    targets: torch.Tensor
    shares: tuple[float, ...]
    length: int
    rows: int
    per_row: int
    spacing: Spacing
    sigma: float
    seed: int
    _pieces: OrderedDict[tuple[int, int], torch.Tensor] = field(default_factory=OrderedDict, repr=False)

    @property
    def size(self) -> int:
        """Samples L of a target."""
        return int(self.targets.shape[1])

    @property
    def digest(self) -> tuple[Any, ...]:
        """What tells this signal from others."""
        return self.targets.tolist(), self.shares, self.per_row, self.spacing, self.sigma, self.seed

    @property
    def density(self) -> float:
        """Copies x L / samples, as realised."""
        return self.per_row * self.size / self.length

    @property
    def occurrences(self) -> int:
        """Copies in all signals."""
        return self.rows * self.per_row

    @property
    def energy(self) -> float:
        """E: mean sum of squares of a target over sigma^2."""
        power = self.targets.square().sum(1) @ torch.tensor(self.shares, dtype=torch.float64)
        return float(power) / self.sigma**2

    def positions(self, row: int, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """First samples of the copies that begin in [start, stop), rising, int64."""
        stop = self.length if stop is None else stop
        firsts = self._counts[row]
        # the first site of a piece of the line, once the sites behind the copies before it are put back
        edges = [number * PIECE + self._gap * int(firsts[number]) for number in range(len(firsts))]
        found = [
            self._piece_positions(row, number)
            for number in range(len(firsts) - 1)
            if edges[number] < stop and edges[number + 1] + self._gap >= start
        ]
        if not found:
            return torch.zeros(0, dtype=torch.int64)
        places = torch.cat(found)
        return places[(places >= start) & (places < stop)]

    def kinds(self, row: int, positions: torch.Tensor) -> torch.Tensor:
        """Kind of the copy at every position ``(n,)``."""
        if len(self.targets) == 1:
            return torch.zeros_like(positions)
        key = seeding.derive(self.seed, "kinds", row)
        chances = torch.tensor([seeding.derive(key, "kind", at) / 2.0**63 for at in positions.tolist()])
        edges = torch.tensor(self.shares, dtype=torch.float64).cumsum(0)[:-1]
        return torch.bucketize(chances.double(), edges)

    def clean(self, row: int, start: int, stop: int) -> torch.Tensor:
        """Samples ``start`` .. ``stop - 1`` of a signal without noise, float64."""
        out = torch.zeros(stop - start + 2 * self.size, dtype=torch.float64)
        places = self.positions(row, max(0, start - self.size + 1), stop)
        if len(places):
            kinds = self.kinds(row, places)
            sites = (places - start + self.size)[:, None] + torch.arange(self.size)
            out.index_add_(0, sites.flatten(), self.targets[kinds].flatten())
        return out[self.size : self.size + stop - start]

    def read(self, row: int, start: int, stop: int) -> torch.Tensor:
        """Samples ``start`` .. ``stop - 1`` of a signal, float32."""
        parts = []
        for number in range(start // PIECE, -(-stop // PIECE)):
            begin, piece = number * PIECE, self._piece(row, number)
            parts.append(piece[max(0, start - begin) : stop - begin])
        return parts[0].clone() if len(parts) == 1 else torch.cat(parts)

    def facts(self) -> dict[str, Any]:
        """The truth in figures, the keys of ``truth.json``."""
        variance = float(self.targets.var(1, correction=0) @ torch.tensor(self.shares, dtype=torch.float64))
        return {
            "sigma": self.sigma,
            "density": self.density,
            "occurrences": self.occurrences,
            "samples": self.length,
            "length": self.size,
            "rows": self.rows,
            "classes": len(self.targets),
            "spacing": self.spacing,
            "energy": self.energy,
            "snr_box": self.energy / self.size,
            "snr_db": 10 * math.log10(variance / self.sigma**2) if variance > 0 else -math.inf,
            "seed": self.seed,
            "noise": "white",
        }

    @property
    def _gap(self) -> int:
        return least_distance(self.spacing, self.size) - 1

    @property
    def _line(self) -> int:
        """Sites of the line."""
        return self.length - self.size + 1 - (self.per_row - 1) * self._gap

    @cached_property
    def _counts(self) -> list[Any]:
        """Per signal, the copies before every piece of the line."""
        import numpy as np

        sizes = [min(PIECE, self._line - first) for first in range(0, self._line, PIECE)]
        out = []
        for row in range(self.rows):
            generator = np.random.Generator(np.random.Philox(seeding.derive(self.seed, "counts", row)))
            out.append(np.cumsum([0, *_marked(generator, sizes, self.per_row)]))
        return out

    def _piece_positions(self, row: int, number: int) -> torch.Tensor:
        """Places of the copies of one piece of the line."""
        import numpy as np

        first, last = (int(value) for value in self._counts[row][number : number + 2])
        size = min(PIECE, self._line - number * PIECE)
        key = seeding.derive(self.seed, "places", row)
        generator = np.random.Generator(np.random.Philox(seeding.derive(key, "piece", number)))
        sites = np.sort(generator.choice(size, last - first, replace=False, shuffle=False)) + number * PIECE
        return torch.from_numpy(sites + self._gap * np.arange(first, last))

    def _piece(self, row: int, number: int) -> torch.Tensor:
        """Samples of one piece of the signal; the last ones are remembered."""
        if (row, number) not in self._pieces:
            start, stop = number * PIECE, min((number + 1) * PIECE, self.length)
            out = normal(stop - start, seeding.derive(self.seed, "noise", row), "piece", number, scale=self.sigma)
            places = self.positions(row, max(0, start - self.size + 1), stop)
            if len(places):
                _add(out, places - start, self.kinds(row, places), self.targets.float())
            self._pieces[row, number] = out
            while len(self._pieces) > _KEPT:
                self._pieces.popitem(last=False)
        return self._pieces[row, number]


def simulate_signal(
    targets: torch.Tensor,
    *,
    density: float,
    sigma: float,
    seed: int,
    samples: int | None = None,
    occurrences: int | None = None,
    spacing: Spacing = "separated",
    shares: Sequence[float] | None = None,
    rows: int = 1,
    block: int | None = None,
    halo: int = 0,
) -> tuple[Signal, SignalSimulation]:
    """A lazy signal: copies of targets at whole samples, all inside, in white noise.

    Args:
        targets: ``(L,)`` or, for several kinds, ``(k, L)``.
        density: occupied fraction, copies x L / samples.
        sigma: standard deviation of the noise.
        seed: of everything random.
        samples: length of the signal; give this or ``occurrences``.
        occurrences: number of copies in a signal.
        spacing: least distance of the copies' first samples: "separated" (2 L - 1), "arbitrary" (L) or "dense" (half
            of L, rounded up).
        shares: probabilities of the kinds; None means equal.
        rows: number of signals.
        block: base points per block of the data; None means whole signals.
        halo: samples behind a block that come with it.

    Returns:
        The data as an estimator sees them, and the simulation, which knows the truth.

    Raises:
        ValueError: for an impossible density, a signal shorter than 2 L, or figures that are not positive.
    """
    targets = torch.atleast_2d(torch.as_tensor(targets, dtype=torch.float64))
    _check(targets, density, sigma, samples, occurrences, rows)
    length = int(targets.shape[1])
    least = least_distance(spacing, length)
    limit = length / least
    if not 0 < density <= limit:
        raise ValueError(
            f"density must lie between 0 and {limit:.3f} for {spacing} copies of {length} samples; got {density}"
        )
    samples = samples if samples is not None else max(2 * length, round((occurrences or 1) * length / density))
    count = occurrences if occurrences is not None else round(density * samples / length)
    if samples < 2 * length:
        raise ValueError(f"samples must be at least 2 x {length} for a target of {length} samples; got {samples}")
    if count < 1:
        raise ValueError(f"density {density} puts less than one copy into {samples} samples; try a longer signal")
    most = (samples - length) // least + 1
    if count > most:
        raise ValueError(
            f"{count} copies {least} samples apart do not fit {samples} samples ({most} do); try a lower density"
        )
    weights = probabilities(shares, len(targets))
    simulation = SignalSimulation(targets, weights, samples, rows, count, spacing, float(sigma), seed)
    return Signal(simulation, block, halo, f"simulated signal, seed {seed}"), simulation


TARGETS = ("step", "gauss", "bump")


def target(name: str, length: int) -> torch.Tensor:
    """A built-in target ``(length,)`` float64, of mean square 1.

    "step" is that of the talk: (length + 1) // 2 ones, then minus ones; "gauss" one smooth bump off the centre;
    "bump" two smooth bumps of different height and width.

    Raises:
        ValueError: for an unknown name.
    """
    place = (torch.arange(length, dtype=torch.float64) + 0.5) / length

    def bell(centre: float, width: float) -> torch.Tensor:
        return torch.exp(-0.5 * ((place - centre) / width).square())

    if name == "step":
        values = torch.where(torch.arange(length) < (length + 1) // 2, 1.0, -1.0).double()
    elif name == "gauss":
        values = bell(0.45, 0.15)
    elif name == "bump":
        values = bell(0.3, 0.1) + 0.6 * bell(0.7, 0.08)
    else:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, or values; got {name!r}")
    return values / values.square().mean().sqrt()


def _check(
    targets: torch.Tensor, density: float, sigma: float, samples: int | None, occurrences: int | None, rows: int
) -> None:
    if targets.dim() != 2 or not bool(torch.isfinite(targets).all()) or not bool(targets.any(1).all()):
        raise ValueError(
            f"targets must be finite and not all zero, (L,) or (kinds, L); got shape {tuple(targets.shape)}"
        )
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be a positive finite number; got {sigma}")
    if not math.isfinite(density):
        raise ValueError(f"density must be a finite number; got {density}")
    if (samples is None) == (occurrences is None):
        raise ValueError("give exactly one of samples and occurrences")
    if occurrences is not None and occurrences < 1:
        raise ValueError(f"occurrences must be at least 1; got {occurrences}")
    if rows < 1:
        raise ValueError(f"rows must be at least 1 signal; got {rows}")


def _marked(generator: Any, sizes: Sequence[int], draws: int) -> list[int]:
    """How many of so many sites, drawn without replacement, fall into each of some pieces of a line."""
    left, counts = sum(sizes), []
    if left >= _GIANT and len(sizes) > 1:  # NumPy's hypergeometric law ends here; halves get their normal counts
        half = len(sizes) // 2
        share = sum(sizes[:half]) / left
        deviation = math.sqrt(draws * share * (1 - share) * (left - draws) / (left - 1))
        first = round(draws * share + deviation * generator.standard_normal())
        first = min(max(first, 0, draws - sum(sizes[half:])), draws, sum(sizes[:half]))
        return _marked(generator, sizes[:half], first) + _marked(generator, sizes[half:], draws - first)
    for size in sizes:
        counts.append(int(generator.hypergeometric(size, left - size, draws)) if draws else 0)
        left, draws = left - size, draws - counts[-1]
    return counts


_GIANT = 10**9


def _add(out: torch.Tensor, places: torch.Tensor, kinds: torch.Tensor, targets: torch.Tensor) -> None:
    """Add copies to samples in place, cut off at both ends."""
    length, total = targets.shape[1], len(out)
    inside = (places >= 0) & (places + length <= total)
    sites = places[inside, None] + torch.arange(length)
    out.index_add_(0, sites.flatten(), targets[kinds[inside]].flatten())
    for place, kind in zip(places[~inside].tolist(), kinds[~inside].tolist(), strict=True):
        low, high = max(0, place), min(total, place + length)
        out[low:high] += targets[kind, low - place : high - place]
