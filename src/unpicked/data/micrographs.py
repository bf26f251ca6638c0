"""A set of micrographs that is read one by one, when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from unpicked._lazy import torch
from unpicked.data.gains import Gains
from unpicked.data.optics import Optics


class Source(Protocol):
    """Images of one shape that can be read by number; ``unpicked.io`` and ``unpicked.simulate`` make them."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels, the same for every image."""

    def read(self, index: int) -> torch.Tensor:
        """Image ``index`` as ``(height, width)`` float32, matter bright."""


@dataclass(frozen=True)
class Derived:
    """What a source has in common with the one of which it is made, image by image, of the same size.

    Attributes:
        source: the other.
    """

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.source.shape


@dataclass(frozen=True)
class Micrographs:
    """A lazy set of micrographs of one size and pixel size, matter bright.

    Attributes:
        source: where the images come from.
        pixel_size: angstrom.
        names: one name per micrograph, e.g. its path.
        optics: contrast transfer parameters with one group number per micrograph, or None where nothing is known of
            them. Lengths are in angstrom, so that micrographs at another pixel keep them.
        notes: sentences that tell what was read, converted and assumed.
        gains: by which the images were whitened, or None where they were not.
        masks: which pixels count, a source of booleans of the images' size; None: all do.
    """

    source: Source
    pixel_size: float
    names: tuple[str, ...]
    optics: Optics | None = None
    notes: tuple[str, ...] = ()
    gains: Gains | None = None
    masks: Source | None = None

    def __post_init__(self) -> None:
        if not self.pixel_size > 0:
            raise ValueError(f"pixel_size must be positive, in angstrom; got {self.pixel_size}")
        if len(self.names) != len(self.source):
            raise ValueError(f"names must be one per micrograph, {len(self.source)}; got {len(self.names)}")
        for name, found in (("optics", self.optics), ("gains", self.gains)):
            if found is not None and len(found) != len(self.source):
                raise ValueError(f"{name} must have one entry per micrograph, {len(self.source)}; got {len(found)}")
        if self.masks is not None and (len(self.masks), *self.masks.shape) != (len(self.source), *self.source.shape):
            raise ValueError(
                f"masks must be one per micrograph and of its size, {(len(self.source), *self.source.shape)}; "
                f"got {(len(self.masks), *self.masks.shape)}"
            )
        if len(self.source) == 0:
            raise ValueError("a set of micrographs must hold at least one image; got none")

    def __len__(self) -> int:
        return len(self.source)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of every micrograph in pixels."""
        return self.source.shape

    @property
    def digest(self) -> tuple[Any, ...]:
        """What tells these data from others: names, shape, pixel size, optics where known, and whether whitened.

        By what they were whitened is left out: on another machine the last digits differ.
        """
        known: tuple[Any, ...] = () if self.optics is None else (self.optics,)
        known += () if self.gains is None else ("whitened",)
        known += () if self.masks is None else ("masked",)
        return (self.names, self.shape, self.pixel_size, *known)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Micrograph ``index`` as ``(height, width)``, matter bright."""
        return self.source.read(index)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[index] for index in range(len(self)))

    def mask(self, index: int) -> torch.Tensor | None:
        """Which pixels of micrograph ``index`` count, ``(height, width)`` booleans; None: all do."""
        return None if self.masks is None else self.masks.read(index)

    def counted(self) -> float:
        """Share of all pixels that counts."""
        if self.masks is None:
            return 1.0
        return sum(float(self.masks.read(index).float().mean()) for index in range(len(self))) / len(self)

    def part(self, indices: Sequence[int]) -> Micrographs:
        """Some of the micrographs, in this order; still read one by one."""
        return replace(
            self,
            source=Part(self.source, tuple(indices)),
            names=tuple(self.names[index] for index in indices),
            optics=None if self.optics is None else self.optics.part(indices),
            gains=None if self.gains is None else self.gains.part(indices),
            masks=None if self.masks is None else Part(self.masks, tuple(indices)),
        )

    def split(self) -> tuple[Micrographs, Micrographs]:
        """Two halves that share no pixel: every other micrograph, or the two sides of a single one."""
        if len(self) > 1:
            return self.part(range(0, len(self), 2)), self.part(range(1, len(self), 2))
        width = self.shape[1] // 2
        left, right = (
            replace(
                self,
                source=_Strip(self.source, first, width),
                names=(f"{self.names[0]} {number}",),
                masks=None if self.masks is None else _Strip(self.masks, first, width),
            )
            for number, first in enumerate((0, self.shape[1] - width))
        )
        return left, right


@dataclass(frozen=True)
class Part:
    """A :class:`Source` of some images of another."""

    source: Source
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.source.shape

    def read(self, index: int) -> torch.Tensor:
        """Image ``index`` of the part."""
        return self.source.read(self.indices[index])


@dataclass(frozen=True)
class _Strip:
    """A :class:`Source` of upright strips of the images of another."""

    source: Source
    first: int
    width: int

    def __len__(self) -> int:
        return len(self.source)

    @property
    def shape(self) -> tuple[int, int]:
        return self.source.shape[0], self.width

    def read(self, index: int) -> torch.Tensor:
        return self.source.read(index)[:, self.first : self.first + self.width]


@dataclass(frozen=True)
class InMemory:
    """A :class:`Source` over images that are already in memory, ``(n, height, width)``."""

    images: torch.Tensor

    def __len__(self) -> int:
        return int(self.images.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.images.shape[1]), int(self.images.shape[2])

    def read(self, index: int) -> torch.Tensor:
        """Image ``index``."""
        return self.images[index]
