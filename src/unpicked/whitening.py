"""Noise that is not white, made white: its spectrum in every micrograph, and the micrograph filtered to have none.

The spectrum is the median of periodograms of overlapping tapered tiles, ring by ring; what particles add to it is
subtracted where a map of them is known. The filter is short and has no phase, so that every particle stays where it
is; templates are filtered alike (:mod:`unpicked.model.transfer`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from unpicked._lazy import torch
from unpicked.data.gains import LAST, Gains
from unpicked.data.micrographs import Micrographs, Source
from unpicked.ops import filters

TILE = 128  # pixels; of small micrographs a quarter of their shorter side
LOWEST = 2  # rings from the centre that take the value of this one: the background was taken out of them
LEAST = 0.2  # part of the measured power that is noise at least
MEMORY = 4 << 30  # bytes of whitened images that are kept
REACH = 32  # pixels that a filter reaches, about
_MEDIAN = math.log(2)  # of an exponential distribution of mean 1


def spectrum(image: torch.Tensor) -> tuple[float, ...]:
    """Power of a micrograph, per pixel, at lengths of the frequency evenly spaced from 0 to sqrt(1/2) cycles per pixel.

    Args:
        image: ``(h, w)``, without its background.

    Returns:
        One value per ring of a tile's frequencies; white noise of variance v has v in all of them.
    """
    side = tile((image.shape[0], image.shape[1]))
    window = torch.hann_window(side, periodic=True, dtype=torch.float32, device=image.device)
    taper = window[:, None] * window
    taper = taper / taper.square().sum().sqrt()
    tiles = image.float().unfold(0, side, side // 2).unfold(1, side, side // 2).flatten(0, 1)
    found = torch.fft.rfft2((tiles - tiles.mean((1, 2), keepdim=True)) * taper)
    power = (found.real.square() + found.imag.square()).median(0).values.double() / _MEDIAN
    return rings(power)


def tile(shape: tuple[int, int]) -> int:
    """Side of the tiles whose periodograms are taken, in pixels.

    Raises:
        ValueError: for micrographs that are too small.
    """
    side = min(TILE, min(shape) // 4 // 2 * 2)
    if side < 8:
        raise ValueError(f"a spectrum needs micrographs of at least 32 pixels a side; got {shape[0]} x {shape[1]}")
    return side


def rings(power: torch.Tensor) -> tuple[float, ...]:
    """Means of a half spectrum ``(n, n / 2 + 1)`` around rings, each value shared between its two neighbours.

    The first rings take the value of ring :data:`LOWEST`.
    """
    side = len(power)
    fx, fy = filters.half_plane((side, side), device=power.device)
    count = round(LAST * side) + 1
    place = (fx.square() + fy.square()).sqrt() * ((count - 1) / LAST)
    return tuple(_means(power.flatten(), place.flatten(), count).tolist())


def _means(values: torch.Tensor, place: torch.Tensor, rings: int) -> torch.Tensor:
    first = place.floor().long().clamp(0, rings - 2)
    share = (place - first).clamp(0, 1)
    sums, weights = values.new_zeros(rings), values.new_zeros(rings)
    for ring, part in ((first, 1 - share), (first + 1, share)):
        sums.index_add_(0, ring, part * values)
        weights.index_add_(0, ring, part)
    means = sums / weights.clamp(min=1e-12)
    for number in range(1, rings):  # a corner without a frequency
        if weights[number] < 1e-6:
            means[number] = means[number - 1]
    means[: LOWEST + 1] = means[LOWEST]
    return means.clamp(min=1e-6 * float(means.max()) + 1e-300)


def gains(spectra: Sequence[Sequence[float]], signal: Sequence[Sequence[float]] | None = None) -> Gains:
    """What whitens micrographs of these spectra.

    Args:
        spectra: of every micrograph, see :func:`spectrum`.
        signal: what particles add to them, at the same frequencies; at least 20 % of a power is taken for noise.
    """
    curves = []
    for number, total in enumerate(spectra):
        noise = total
        if signal is not None:
            noise = [max(a - b, LEAST * a) for a, b in zip(total, signal[number], strict=True)]
        curves.append(tuple(value**-0.5 for value in noise))
    return Gains(tuple(curves), tuple(range(len(curves))))


def whitened(data: Micrographs, by: Gains) -> Micrographs:
    """The micrographs filtered by some gains, which go with them; computed when first read."""
    kept = min(getattr(data.source, "kept", len(data)), MEMORY // (4 * math.prod(data.shape)))
    return replace(data, source=_Whitened(data.source, by, kept), gains=by)


@dataclass(frozen=True)
class _Whitened:
    """A ``Source`` of filtered images; the first ones stay in memory."""

    source: Source
    gains: Gains
    kept: int
    _images: dict[int, torch.Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def shape(self) -> tuple[int, int]:
        return self.source.shape

    def read(self, index: int) -> torch.Tensor:
        index = range(len(self))[index]
        if index in self._images:
            return self._images[index]
        image = filters.filtered(self.source.read(index), lambda fx, fy: self.gains.at(index, fx, fy), REACH)
        if index < self.kept:
            self._images[index] = image
        return image
