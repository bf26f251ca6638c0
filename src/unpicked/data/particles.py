"""A stack of particle images that is read one by one, when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unpicked._lazy import torch
from unpicked.data.micrographs import InMemory, Part, Source
from unpicked.data.optics import Optics
from unpicked.data.poses import Poses
from unpicked.ops import fourier, seeding


@dataclass(frozen=True)
class Resized(InMemory):
    """Images held at another pixel.

    Attributes:
        origin: where they come from.
        pixel_size: of the origin, angstrom.
    """

    origin: Source
    pixel_size: float


@dataclass(frozen=True)
class Particles:
    """A lazy set of square particle images of one size and pixel size, matter bright.

    Attributes:
        source: where the images come from; read one by one.
        pixel_size: angstrom.
        names: one name per image, ``000001@stack.mrcs``; an image is addressed by it, never by its position.
        optics: contrast transfer parameters with one group number per image, or None where nothing is known of them.
        poses: rotations and shifts that came with the images, or None.
        halves: half set of every image, 1 or 2, where the data say; None otherwise.
        notes: sentences that tell what was read, converted and assumed.
    """

    source: Source
    pixel_size: float
    names: tuple[str, ...]
    optics: Optics | None = None
    poses: Poses | None = None
    halves: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.source)
        if not self.pixel_size > 0:
            raise ValueError(f"pixel_size must be positive, in angstrom; got {self.pixel_size}")
        if count == 0:
            raise ValueError("a stack of particles must hold at least one image; got none")
        if len(set(self.source.shape)) != 1 or self.source.shape[0] < 4:
            raise ValueError(f"particle images must be square, of at least 4 pixels; got {self.source.shape}")
        lengths = {
            "names": len(self.names),
            "optics.group": count if self.optics is None else len(self.optics.group),
            "poses": count if self.poses is None else len(self.poses),
            "halves": count if self.halves is None else len(self.halves),
        }
        for name, length in lengths.items():
            if length != count:
                raise ValueError(f"{name} must have one entry per image, {count}; got {length}")
        if self.halves is not None and not set(self.halves) <= {1, 2}:
            raise ValueError(f"halves must number the half sets 1 and 2; got {sorted(set(self.halves))}")

    def __len__(self) -> int:
        return len(self.source)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of every image in pixels."""
        return self.source.shape

    @property
    def box(self) -> int:
        """Edge of every image in pixels."""
        return self.source.shape[0]

    @property
    def digest(self) -> tuple[Any, ...]:
        """What tells these data from others: names, shape, pixel size, optics, poses."""
        poses = None if self.poses is None else (self.poses.rotations.tolist(), self.poses.shifts.tolist())
        return self.names, self.shape, self.pixel_size, self.optics, poses

    def __getitem__(self, index: int) -> torch.Tensor:
        """Image ``index`` as ``(box, box)``, matter bright."""
        return self.source.read(index)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[index] for index in range(len(self)))

    def images(self, indices: Sequence[int] | None = None) -> torch.Tensor:
        """Some of the images (None: all), ``(n, box, box)``."""
        picks = range(len(self)) if indices is None else indices
        first = self[picks[0] if len(picks) else 0]
        out = first.new_empty((len(picks), *self.shape))  # filled in place: a stack of the list would need twice this
        for row, index in enumerate(picks):
            out[row] = self[index] if row else first
        return out

    def part(self, indices: Sequence[int]) -> Particles:
        """Some of the images, in this order; still read one by one."""
        picks = tuple(indices)
        rows = torch.tensor(picks, dtype=torch.long)
        return replace(
            self,
            source=Part(self.source, picks),
            names=tuple(self.names[index] for index in picks),
            optics=None if self.optics is None else self.optics.part(picks),
            poses=None if self.poses is None else Poses(self.poses.rotations[rows], self.poses.shifts[rows]),
            halves=None if self.halves is None else tuple(self.halves[index] for index in picks),
        )

    def split(self, seed: int = 0) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Indices of two half sets: those that the data name, else every image drawn at random for one of them.

        Raises:
            ValueError: if a half would be empty.
        """
        if self.halves is not None:
            first, second = (tuple(i for i, half in enumerate(self.halves) if half == n) for n in (1, 2))
        else:
            order = torch.randperm(len(self), generator=seeding.generator(seed, "halves")).tolist()
            first, second = tuple(sorted(order[::2])), tuple(sorted(order[1::2]))
        if not first or not second:
            raise ValueError(f"two halves need an image each; got {len(first)} and {len(second)}")
        return first, second

    def cropped(self, box: int) -> Particles:
        """The images at a coarser pixel, held in memory: Fourier coefficients below the new Nyquist stay as they are.

        White noise keeps its variance per pixel, and every pose in angstrom stays what it is.

        Raises:
            ValueError: for a box larger than the present one or smaller than 4.
        """
        if not 4 <= box <= self.box:
            raise ValueError(f"box must lie between 4 and {self.box} pixels; got {box}")
        pieces = [fourier.resize_image(image, (box, box)) for image in self]
        source = Resized(torch.stack(pieces), self.source, self.pixel_size)
        return replace(self, source=source, pixel_size=self.pixel_size * self.box / box)

    def stored(self) -> Particles:
        """The same images at the pixel at which they are stored, whatever crops and parts led to this set."""
        source, size, picks = self.source, self.pixel_size, list(range(len(self)))
        found = None
        while isinstance(source, Part | Resized):
            if isinstance(source, Part):
                picks, source = [source.indices[row] for row in picks], source.source
            else:
                size, source = source.pixel_size, source.origin
                found = Part(source, tuple(picks)), size
        return self if found is None else replace(self, source=found[0], pixel_size=found[1])
