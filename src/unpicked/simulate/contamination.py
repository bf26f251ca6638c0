"""Carbon and ice on simulated micrographs, with the truth of where they lie."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from unpicked._lazy import torch
from unpicked.data.micrographs import Derived, Micrographs
from unpicked.ops import seeding

CARBON = 0.4  # part of the contaminated area that the edge of the carbon film takes
RADII = (0.015, 0.05)  # of ice, in shorter sides of the micrograph
HEIGHT = (2.0, 8.0)  # grey value of ice and carbon, in standard deviations of a clean micrograph
ROUGH = 1.5  # standard deviation of the texture of carbon, of ice half of it, in the same


@dataclass(frozen=True)
class TrueMasks:
    """Where contaminated micrographs are clean, a :class:`~unpicked.data.micrographs.Source` of booleans.

    A straight edge of carbon film crosses every micrograph, and discs of ice lie on it.

    Attributes:
        count: number of micrographs.
        size: height and width in pixels.
        share: of the area, that is contaminated, to the pixel.
        seed: of everything random; mask i depends on (seed, i) only.
    """

    count: int
    size: tuple[int, int]
    share: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.share <= 0.9:
            raise ValueError(f"contamination must be a share of the area, above 0 and at most 0.9; got {self.share}")

    def __len__(self) -> int:
        return self.count

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.size

    def read(self, index: int) -> torch.Tensor:
        """Mask ``index``, True where nothing lies."""
        carbon, ice = self.parts(index)
        return ~(carbon | ice)

    def parts(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Carbon, and the ice beside it, ``(height, width)`` booleans."""
        generator = seeding.generator(self.seed, "contamination", index)
        rows, columns = (torch.arange(n, dtype=torch.float64) for n in self.size)
        angle = float(torch.rand(1, generator=generator, dtype=torch.float64)) * 2 * math.pi
        depth = math.sin(angle) * rows[:, None] + math.cos(angle) * columns
        wanted = round(self.share * depth.numel())
        film = max(1, round(CARBON * wanted))
        carbon = depth <= depth.flatten().kthvalue(film).values
        ice, shorter = torch.zeros_like(carbon), min(self.size)
        while (missing := wanted - int((carbon | ice).sum())) > 0:
            row, column, draw = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
            radius = shorter * (RADII[0] + (RADII[1] - RADII[0]) * draw)
            far = (rows[:, None] - row * self.size[0]).square() + (columns - column * self.size[1]).square()
            new = (far <= radius**2) & ~carbon & ~ice
            if int(new.sum()) > missing:  # the last disc is as large as it takes
                new &= far <= far[new].kthvalue(missing).values
            ice |= new
        return carbon, ice


@dataclass(frozen=True)
class _Contaminated(Derived):
    """A ``Source`` of micrographs on which carbon and ice lie."""

    masks: TrueMasks

    def read(self, index: int) -> torch.Tensor:
        image = self.source.read(index)
        generator = seeding.generator(self.masks.seed, "dirt", index)
        texture = torch.randn(image.shape, generator=generator)
        heights = torch.rand(2, generator=generator) * (HEIGHT[1] - HEIGHT[0]) + HEIGHT[0]
        sd = float(image.std())
        for part, height, rough in zip(self.masks.parts(index), heights.tolist(), (ROUGH, ROUGH / 2), strict=True):
            image = torch.where(part, image + sd * (height + rough * texture), image)
        return image


def contaminated(data: Micrographs, share: float, seed: int) -> tuple[Micrographs, TrueMasks]:
    """Micrographs with carbon and ice on a share of their area, bright as matter is, and where they are clean.

    Particles go on under them. What is clean is as it was, to the last bit; the result does not know its masks.

    Args:
        data: clean micrographs.
        share: of the area of every micrograph.
        seed: of everything random.

    Raises:
        ValueError: for a share that is not above 0 and at most 0.9.
    """
    masks = TrueMasks(len(data), data.shape, share, seed)
    return replace(data, source=_Contaminated(data.source, masks)), masks
