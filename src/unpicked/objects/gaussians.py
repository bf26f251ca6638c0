"""A volume made of Gaussians at known places: atoms or pseudo-atoms, projected exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.objects.base import Projector


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Isotropic Gaussians; the coefficients are their integrals.

    V(p) = sum_i x_i (2 pi s_i^2)^(-3/2) exp(-|p - m_i|^2 / (2 s_i^2)); its projection is the same sum of
    two-dimensional Gaussians at (R m_i)_xy, exactly, at any rotation.

    Attributes:
        box: edge of the grid in voxels.
        positions: ``(n, 3)`` x, y, z in voxels from the centre.
        sigmas: ``(n,)`` widths in voxels.
    """

    box: int
    positions: torch.Tensor
    sigmas: torch.Tensor

    def __post_init__(self) -> None:
        if self.box < 4:
            raise ValueError(f"box must be at least 4 voxels; got {self.box}")
        count = self.positions.shape[0]
        if tuple(self.positions.shape) != (count, 3) or count == 0:
            raise ValueError(f"positions must be (n, 3) with n >= 1; got {tuple(self.positions.shape)}")
        if tuple(self.sigmas.shape) != (count,):
            raise ValueError(f"sigmas must be ({count},), one per position; got {tuple(self.sigmas.shape)}")
        if not bool((self.sigmas > 0).all()):
            raise ValueError(f"sigmas must be positive, in voxels; got a smallest value of {float(self.sigmas.min())}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the values."""
        return (self.box, self.box, self.box)

    @property
    def size(self) -> int:
        """Number of Gaussians."""
        return int(self.positions.shape[0])

    def values(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., size)`` to ``(..., box, box, box)``, sampled at the voxel centres."""
        self._check("x", x, (self.size,))
        axes = self._axes(self.positions.to(x), x)
        return torch.einsum("...i,zi,yi,xi->...zyx", x, axes[2], axes[1], axes[0])

    def fit(self, values: torch.Tensor) -> torch.Tensor:
        """Least-squares integrals of given voxel values; needs well separated Gaussians to be unique."""
        self._check("values", values, self.shape)
        axes = self._axes(self.positions.to(values), values)
        gram = torch.ones((), dtype=values.dtype, device=values.device)
        for axis in axes:
            gram = gram * (axis.mT @ axis)
        right = torch.einsum("...zyx,zi,yi,xi->...i", values, axes[2], axes[1], axes[0])
        columns = right.reshape(-1, self.size).mT
        return torch.linalg.lstsq(gram, columns).solution.mT.reshape(right.shape)

    def projector(self, rotations: torch.Tensor) -> Projector:
        """Exact projections along ``(k, 3, 3)`` rotations."""
        if rotations.dim() != 3 or rotations.shape[-2:] != (3, 3):
            raise ValueError(f"rotations must have shape (k, 3, 3); got {tuple(rotations.shape)}")
        planar = torch.einsum("kab,ib->aki", rotations[:, :2], self.positions.to(rotations))
        across, down = self._axes(planar, rotations)

        def project(x: torch.Tensor) -> torch.Tensor:
            self._check("x", x, (self.size,))
            if x.dim() == 1:
                return torch.einsum("kyi,kxi->kyx", down, across * x)
            return torch.einsum("kyi,kxi,...i->...kyx", down, across, x)

        def backproject(images: torch.Tensor) -> torch.Tensor:
            self._check("images", images, (rotations.shape[0], self.box, self.box))
            return torch.einsum("...kyx,kyi,kxi->...i", images, down, across)

        return Projector(project, backproject)

    def _check(self, name: str, value: torch.Tensor, expected: tuple[int, ...]) -> None:
        if tuple(value.shape[-len(expected) :]) != expected:
            raise ValueError(f"{name} must end in shape {expected}; got {tuple(value.shape)}")

    def _axes(self, positions: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Unit-integral 1-D Gaussians on the grid per coordinate: each ``(..., box, n)``."""
        grid = (torch.arange(self.box, device=like.device) - self.box // 2).to(like)
        width = self.sigmas.to(like)
        coordinates = positions.unbind(-1) if positions.shape[-1] == 3 and positions.dim() == 2 else positions.unbind(0)
        return tuple(
            (-0.5 * ((grid[:, None] - c[..., None, :]) / width).square()).exp() / (width * math.sqrt(2 * math.pi))
            for c in coordinates
        )
