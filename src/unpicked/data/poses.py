"""Where particles are and how they are turned."""

from __future__ import annotations

from dataclasses import dataclass

from unpicked._lazy import torch


@dataclass(frozen=True)
class Poses:
    """Rotations and shifts of n particle images.

    Attributes:
        rotations: ``(n, 3, 3)``, active, object to image.
        shifts: ``(n, 2)`` t_x, t_y in angstrom: where the object's centre appears relative to the box centre.
    """

    rotations: torch.Tensor
    shifts: torch.Tensor

    def __post_init__(self) -> None:
        count = self.rotations.shape[0]
        if tuple(self.rotations.shape) != (count, 3, 3):
            raise ValueError(f"rotations must be (n, 3, 3); got {tuple(self.rotations.shape)}")
        if tuple(self.shifts.shape) != (count, 2):
            raise ValueError(f"shifts must be ({count}, 2); got {tuple(self.shifts.shape)}")

    def __len__(self) -> int:
        return int(self.rotations.shape[0])


@dataclass(frozen=True)
class Occurrences:
    """Copies of the object on one micrograph.

    Attributes:
        corners: ``(n, 2)`` row and column of the first pixel of each copy's box (placement s of the conventions).
        rotations: ``(n, 3, 3)``, active, object to image.
    """

    corners: torch.Tensor
    rotations: torch.Tensor

    def __len__(self) -> int:
        return int(self.corners.shape[0])
