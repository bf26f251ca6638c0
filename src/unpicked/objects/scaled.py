"""A volume that is known up to a factor."""

from __future__ import annotations

from dataclasses import dataclass, field

from unpicked._lazy import torch
from unpicked.objects.base import Projector, Volume


@dataclass(frozen=True, eq=False)
class Scaled:
    """One coefficient: a factor of a given volume.

    Attributes:
        object: what the volume is described by.
        x: its coefficients, ``(object.size,)``, not all zero.
    """

    object: Volume
    x: torch.Tensor = field(repr=False)

    def __post_init__(self) -> None:
        if not float(self.x.norm()) > 0:
            raise ValueError("the volume that is to be scaled is zero")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values."""
        return self.object.shape

    @property
    def size(self) -> int:
        """One."""
        return 1

    def values(self, x: torch.Tensor) -> torch.Tensor:
        """The factor ``(..., 1)`` times the volume."""
        return x[..., None, None] * self.object.values(self.x.to(x))

    def fit(self, values: torch.Tensor) -> torch.Tensor:
        """The factor by which the volume is nearest to values ``(..., *shape)``."""
        own = self.object.values(self.x.to(values))
        return ((values * own).sum((-3, -2, -1)) / own.square().sum())[..., None]

    def projector(self, rotations: torch.Tensor) -> Projector:
        """Projections along ``(k, 3, 3)`` active rotations."""
        images = self.object.projector(rotations).project(self.x.to(rotations))

        def backproject(seen: torch.Tensor) -> torch.Tensor:
            return (seen * images).sum((-3, -2, -1))[..., None]

        return Projector(lambda x: x[..., None, None] * images, backproject)
