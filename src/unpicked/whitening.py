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
from unpicked.data.masks import Grown, cleared
from unpicked.data.micrographs import Derived, Micrographs, Source
from unpicked.data.store import Store
from unpicked.ops import filters

TILE = 128  # pixels; of small micrographs a quarter of their shorter side
LOWEST = 2  # rings from the centre that take the value of this one: the background was taken out of them
LEAST = 0.2  # part of the measured power that is noise at least
REACH = 32  # pixels that a filter reaches, about
SHOWN = 0.5  # of a tile's taper, that a mask must leave
LEAK = 0.01  # share of a filter's energy that may come from hidden pixels
_MEDIAN = math.log(2)  # of an exponential distribution of mean 1


def spectrum(image: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[float, ...]:
    """Power of a micrograph, per pixel, at lengths of the frequency evenly spaced from 0 to sqrt(1/2) cycles per pixel.

    Args:
        image: ``(h, w)``, without its background.
        mask: ``(h, w)`` booleans, which pixels count; of the tiles, the quarter that shows most is taken, and all that
            are whole. None: all pixels count.

    Returns:
        One value per ring of a tile's frequencies; white noise of variance v has v in all of them.

    Raises:
        ValueError: for micrographs that are too small, or where a mask leaves less than half of any tile.
    """
    if mask is not None and bool(mask.all()):
        mask = None
    side = tile((image.shape[0], image.shape[1]))
    window = torch.hann_window(side, periodic=True, dtype=torch.float32, device=image.device)
    taper = window[:, None] * window
    taper = taper / taper.square().sum().sqrt()
    tiles = _tiles(cleared(image.float(), mask), side)
    if mask is not None:
        return rings(_median(_seen(tiles, _tiles(mask.to(image.device), side), taper)))
    found = torch.fft.rfft2((tiles - tiles.mean((1, 2), keepdim=True)) * taper)
    return rings(_median(found))


def _tiles(image: torch.Tensor, side: int) -> torch.Tensor:
    """Squares that overlap by half, ``(n, side, side)``."""
    return image.unfold(0, side, side // 2).unfold(1, side, side // 2).flatten(0, 1)


def _median(found: torch.Tensor) -> torch.Tensor:
    """Median over tiles of the power of their transforms, as the mean that it would be of normal noise."""
    return (found.real.square() + found.imag.square()).median(0).values.double() / _MEDIAN


def _seen(tiles: torch.Tensor, masks: torch.Tensor, taper: torch.Tensor) -> torch.Tensor:
    """Transforms of the tiles that show most, each divided by the part of the taper that is seen.

    Raises:
        ValueError: where a mask leaves less than half of any tile.
    """
    shown = (masks * taper.square()).sum((1, 2))
    kept = shown >= max(SHOWN, min(1 - 1e-6, float(shown.quantile(0.75))))
    if not bool(kept.any()):
        raise ValueError(
            f"a mask leaves too little to measure the noise: less than half of every tile of {len(taper)} pixels; "
            "leave that micrograph out, or try --noise white"
        )
    tiles, masks, shown = tiles[kept], masks[kept].to(tiles), shown[kept]
    means = (tiles * masks).sum((1, 2)) / masks.sum((1, 2))
    return torch.fft.rfft2((tiles - means[:, None, None]) * masks * taper / shown.sqrt()[:, None, None])


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
    """The micrographs filtered by some gains, which go with them; computed when first read.

    Hidden pixels are zero before the filter, which leaves the least trace, and the hidden areas grow by as much as it
    takes to keep all but 1 % of what a filter weighs out of them.
    """
    masks = None if data.masks is None else Grown(data.masks, _reaches(by))
    return replace(data, source=_Whitened(data.source, by, data.masks, masks), gains=by, masks=masks)


def _of(gains: Gains, item: int) -> filters.Factors:
    return lambda fx, fy: gains.at(item, fx, fy)


def _reaches(by: Gains) -> tuple[int, ...]:
    """Pixels from the centre beyond which a filter has no more than :data:`LEAK` of its energy, per micrograph."""
    known: dict[int, int] = {}
    for item, group in enumerate(by.group):
        if group not in known:
            square = filters.lags(_of(by, item), REACH).square()
            squares = (slice(REACH - n, REACH + n + 1) for n in range(REACH + 1))
            inner = [float(square[part, part].sum()) for part in squares]
            known[group] = next(n for n, part in enumerate(inner) if part >= (1 - LEAK) * inner[-1])
    return tuple(known[group] for group in by.group)


@dataclass(frozen=True)
class _Whitened(Derived):
    """A ``Source`` of filtered images."""

    gains: Gains
    masks: Source | None = None  # of the images as they are, and as they are after the filter
    grown: Source | None = None
    _images: Store = field(default_factory=Store, repr=False, compare=False)

    def read(self, index: int) -> torch.Tensor:
        index = range(len(self))[index]
        image = self._images.get(index)
        if image is not None:
            return image
        before, after = (None if some is None else some.read(index) for some in (self.masks, self.grown))
        image = cleared(self.source.read(index), before)
        image = cleared(filters.filtered(image, _of(self.gains, index), REACH), after)
        return self._images.put(index, image)
