"""A volume on a cubic grid; its coefficients are its voxels."""

from __future__ import annotations

from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.objects.base import Projector
from unpicked.ops import project


@dataclass(frozen=True)
class Voxels:
    """Voxel values on a cube of edge ``box`` (any box >= 4, even or odd).

    Attributes:
        box: edge in voxels.
        pad: zero-padding of the Fourier slices; 2 gives projections to 3e-3, 3 to 1e-3.
    """

    box: int
    pad: int = 2

    def __post_init__(self) -> None:
        if self.box < 4:
            raise ValueError(f"box must be at least 4 voxels; got {self.box}")
        if self.pad < 1:
            raise ValueError(f"pad must be at least 1; got {self.pad}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the values."""
        return (self.box, self.box, self.box)

    @property
    def size(self) -> int:
        """Number of voxels."""
        return self.box**3

    def values(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., size)`` to ``(..., box, box, box)``.

        Raises:
            ValueError: if the last axis of x is not ``size``.
        """
        if x.shape[-1:] != (self.size,):
            raise ValueError(f"x must end in shape ({self.size},); got {tuple(x.shape)}")
        return x.reshape(*x.shape[:-1], *self.shape)

    def fit(self, values: torch.Tensor) -> torch.Tensor:
        """``(..., box, box, box)`` to ``(..., size)``.

        Raises:
            ValueError: if the last three axes are not ``(box, box, box)``.
        """
        if tuple(values.shape[-3:]) != self.shape:
            raise ValueError(f"values must end in shape {self.shape}; got {tuple(values.shape)}")
        return values.reshape(*values.shape[:-3], self.size)

    def projector(self, rotations: torch.Tensor) -> Projector:
        """Projections along ``(k, 3, 3)`` rotations by the padded Fourier slice."""
        plan = project.plan_slices(rotations, self.box, self.pad)
        return Projector(
            lambda x: project.project(self.values(x), plan),
            lambda images: self.fit(project.backproject(images, plan)),
        )
