"""Particles that lie on the grid as they prefer: directions of view around an axis of theirs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.model.conical import check_tilt, conical
from unpicked.ops import rotation


@dataclass(frozen=True)
class Preference:
    """Von Mises-Fisher directions of view, any angle in the plane.

    Attributes:
        concentration: kappa; 0 means all directions alike. Half of the particles are seen from within about
            67 / sqrt(kappa) degrees of the axis where kappa is large.
        axis: direction in the frame of the particle, x, y, z, of any length.

    Raises:
        ValueError: for a concentration that is negative or not finite, or an axis without direction.
    """

    concentration: float = 0.0
    axis: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.concentration) and self.concentration >= 0):
            raise ValueError(f"the concentration of views must be a number from 0; got {self.concentration}")
        if not (all(math.isfinite(value) for value in self.axis) and any(self.axis)):
            raise ValueError(f"the axis of preferred views must be a direction x y z; got {self.axis}")

    def rotations(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Views ``(count, 3, 3)``, object to view, float64."""
        if not self.concentration:
            return rotation.random_rotations(count, generator)
        height, around, plane = torch.rand(3, count, generator=generator, dtype=torch.float64)
        low = math.exp(-2 * self.concentration)
        # the height above the equator has a density proportional to exp(kappa z) (Fisher 1953)
        z = (1 + (low + (1 - low) * height).log() / self.concentration).clamp(-1, 1)
        angles = torch.stack([360 * around, torch.rad2deg(z.arccos()), 360 * plane], -1)
        x, y, up = self.axis
        rot, tilt = math.degrees(math.atan2(y, x)), math.degrees(math.atan2(math.hypot(x, y), up))
        pole = rotation.euler_to_matrix(torch.tensor([rot, tilt, 0.0], dtype=torch.float64))
        return rotation.euler_to_matrix(angles) @ pole

    @property
    def told(self) -> dict[str, object]:
        """What ``truth.json`` says of it."""
        return {"preferred": {"concentration": self.concentration, "axis": list(self.axis)}}


@dataclass(frozen=True)
class OnTilted:
    """Particles that lie alike on a tilted grid: any angle in its plane, one tilt (random conical tilt).

    Attributes:
        tilt: of the grid, in degrees; see :class:`unpicked.model.conical.Conical`.
        axis: direction of the tilt axis in the image, in degrees from +y towards +x.

    Raises:
        ValueError: for angles that are none.
    """

    tilt: float
    axis: float = 0.0

    def __post_init__(self) -> None:
        check_tilt(self.tilt, self.axis)

    def rotations(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Views ``(count, 3, 3)``, object to view, float64."""
        return conical(360 * torch.rand(count, generator=generator, dtype=torch.float64), self.tilt, self.axis)

    @property
    def told(self) -> dict[str, object]:
        """What ``truth.json`` says of it."""
        return {"tilt": self.tilt, "tilt_axis": self.axis}


UNIFORM = Preference()
