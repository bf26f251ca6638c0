"""Which pixels of micrographs count: what contamination, carbon or an edge hides is no part of the data.

A mask is a boolean image, True where the pixel counts. What lies elsewhere may hold any number, NaN too: nothing reads
it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unpicked._lazy import torch
from unpicked.data.micrographs import Derived, Source
from unpicked.data.store import Store

if TYPE_CHECKING:
    from unpicked.data.base import Data


@dataclass(frozen=True)
class Grown(Derived):
    """A source of masks whose hidden areas are larger than those of another.

    Attributes:
        source: masks.
        by: pixels, in both directions, by which the hidden areas of every mask grow.
    """

    by: tuple[int, ...]
    _masks: Store = field(default_factory=Store, repr=False, compare=False)

    def read(self, index: int) -> torch.Tensor:
        """Mask ``index``."""
        index = range(len(self))[index]
        mask = self._masks.get(index)
        return self._masks.put(index, grown(self.source.read(index), self.by[index])) if mask is None else mask


@dataclass(frozen=True)
class Covered:
    """Masks of images that were trimmed and Fourier-cropped.

    A pixel counts where all those of the larger image that it covers do, and, after a crop, those of its neighbours.

    Attributes:
        source: masks of the larger images.
        trimmed: height and width after rows and columns at the far edges were left out.
        size: height and width after the crop.
    """

    source: Source
    trimmed: tuple[int, int]
    size: tuple[int, int]
    _masks: Store = field(default_factory=Store, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.size

    def read(self, index: int) -> torch.Tensor:
        """Mask ``index``."""
        index = range(len(self))[index]
        mask = self._masks.get(index)
        if mask is not None:
            return mask
        mask = self.source.read(index)[: self.trimmed[0], : self.trimmed[1]]
        if self.size != self.trimmed:
            mask = grown(covering(mask, self.size), 1)
        return self._masks.put(index, mask)


def covering(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Which pixels of a grid of ``size``, of fewer pixels, cover no hidden pixel of a mask.

    Pixel n // 2 of the grid lies on pixel N // 2 of the mask, as in a Fourier crop.
    """
    hidden = (~mask).double()
    for axis, (old, new) in enumerate(zip(mask.shape, size, strict=True)):
        edges = (torch.arange(new + 1, dtype=torch.float64) - new // 2 - 0.5) * (old / new) + old // 2 + 0.5
        first, last = edges[:-1].floor().long().clamp(0, old), edges[1:].ceil().long().clamp(0, old)
        sums = torch.nn.functional.pad(hidden.cumsum(axis), (0, 0, 1, 0) if axis == 0 else (1, 0))
        hidden = sums.index_select(axis, last) - sums.index_select(axis, first)
    return hidden == 0


def grown(mask: torch.Tensor, by: int) -> torch.Tensor:
    """A mask ``(h, w)`` whose hidden areas reach ``by`` pixels further in both directions."""
    if by < 1:
        return mask
    hidden = largest((~mask).float(), 2 * by + 1, by)
    return hidden == 0


def largest(values: torch.Tensor, side: int, margin: int) -> torch.Tensor:
    """Largest of the non-negative values in every square of ``side`` pixels, ``margin`` zeros put around the image."""
    padded = torch.nn.functional.pad(values[None, None], (margin,) * 4)
    pooled = torch.nn.functional.max_pool2d(padded, (side, 1), 1)
    return torch.nn.functional.max_pool2d(pooled, (1, side), 1)[0, 0]


def cleared(image: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The image with zeros where pixels do not count."""
    return image if mask is None else image.masked_fill(~mask.to(image.device), 0.0)


def counted(data: Data, index: int) -> torch.Tensor:
    """The numbers of a piece of data that count: the piece, or the visible pixels of a micrograph in a row."""
    masks: Source | None = getattr(data, "masks", None)
    return data[index] if masks is None else data[index][masks.read(index).to(data[index].device)]
