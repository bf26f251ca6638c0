"""A volume on a cubic grid; its coefficients are its voxels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.objects.base import Projector
from unpicked.ops import evidence, gridding, project
from unpicked.ops.gridding import Cube


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

    def slicer(
        self, rotations: torch.Tensor, points: torch.Tensor, radius: float, *, like: torch.Tensor, precise: bool
    ) -> Projector:
        """Orthonormal coefficients ``(..., k, p)`` of projections at frequencies ``(p, 2)``, by gridding.

        Args:
            rotations: ``(k, 3, 3)``.
            points: integer frequencies (q_x, q_y) of a half plane.
            radius: no smaller than the length of any of them.
            like: dtype and device of the coefficients x.
            precise: everything in the dtype of ``like``, and no ``normal``; otherwise slices are float32.
        """
        cube, lags = Cube(self.box, radius), Cube(self.box, radius, pad=3, span=2)
        single = like.dtype if precise else torch.float32
        turned = rotations.to(like.device, single)

        def one(values: torch.Tensor) -> torch.Tensor:
            values = values if evidence.needs_gradient(values) else values.to(single)
            found = gridding.read(cube, gridding.spectrum(values, cube), turned, points)
            return found.to(torch.complex128 if like.dtype == torch.float64 else torch.complex64)

        def project(x: torch.Tensor) -> torch.Tensor:
            values = self.values(x)
            many = [one(part) for part in values.reshape(-1, *self.shape)]
            return torch.stack(many).reshape(*x.shape[:-1], *many[0].shape)

        def backproject(slices: torch.Tensor) -> torch.Tensor:
            kind = torch.complex64 if single == torch.float32 else torch.complex128
            many = slices.to(kind).reshape(-1, *slices.shape[-2:])
            found = [gridding.backprojected(cube, gridding.insert(cube, part, turned, points)) for part in many]
            return self.fit(torch.stack(found).reshape(*slices.shape[:-2], *self.shape)).to(like.dtype)

        def normal(weights: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
            inserted = gridding.insert(lags, weights.to(single), turned, points)
            kernel = gridding.normal_kernel(lags, inserted).to(like.dtype)
            return lambda x: self.fit(gridding.apply_normal(kernel, self.values(x)))

        return Projector(project, backproject, None if precise else normal)
