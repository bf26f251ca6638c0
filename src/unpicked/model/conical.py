"""Views of particles that lie alike on a tilted grid: random conical tilt (Radermacher et al. 1987)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from unpicked._lazy import torch
from unpicked.model.views import Projection
from unpicked.objects.base import Projector, Volume
from unpicked.ops import rotation


@dataclass(frozen=True, eq=False)
class Conical:
    """Particles of one orientation but for the angle in the plane of the grid, which is tilted by a known angle.

    Object to view is R = Rz(-axis) Ry(-tilt) Rz(-a), RELION's (rot, tilt, psi) = (a, tilt, axis) with a uniform.

    Attributes:
        tilt: of the grid, in degrees, from -90 to 90; its sign tells the hand.
        count: number of angles in the plane of the grid.
        axis: direction of the tilt axis in the image, in degrees from +y towards +x.
        first: the first angle in radians.
        device: where the rotations are held.

    Raises:
        ValueError: if count < 1, or for an angle that is none.
    """

    tilt: float
    count: int = 72
    axis: float = 0.0
    first: float = 0.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1 angle; got {self.count}")
        check_tilt(self.tilt, self.axis)

    def __len__(self) -> int:
        return self.count

    @cached_property
    def rotations(self) -> torch.Tensor:
        """``(k, 3, 3)`` object to view, float64."""
        angles = math.degrees(self.first) + torch.arange(self.count, dtype=torch.float64) * (360 / self.count)
        return conical(angles, self.tilt, self.axis).to(self.device)

    @cached_property
    def log_weights(self) -> torch.Tensor:
        """``(k,)``: -log k each."""
        return torch.full((self.count,), -math.log(self.count), dtype=torch.float64, device=self.device)

    @cached_property
    def digest(self) -> str:
        """Number of angles, the first, and how the grid is tilted."""
        return f"{self.count} angles from {self.first:.12g} of a grid tilted by {self.tilt:.12g} at {self.axis:.12g}"

    def turned(self, rotation: torch.Tensor) -> Conical:
        """The same views of the object turned by the azimuth of ``rotation``, ``(3, 3)``: of where +x goes."""
        return replace(self, first=self.first - math.atan2(float(rotation[1, 0]), float(rotation[0, 0])))

    def spread(self, count: int) -> Conical:
        """So many angles."""
        return replace(self, count=count)

    def image_shape(self, object: Volume) -> tuple[int, int]:
        """Height and width of a template."""
        return self._plain.image_shape(object)

    def operator(self, object: Volume, like: torch.Tensor) -> Projector:
        """All views as one linear operator, in the dtype and on the device of ``like``."""
        return self._plain.operator(object, like)

    @cached_property
    def _plain(self) -> Projection:
        return Projection(self.rotations)


def check_tilt(tilt: float, axis: float) -> None:
    """Raise ValueError for angles, in degrees, that are none of a tilted grid."""
    if not (abs(tilt) <= 90 and math.isfinite(axis)):
        raise ValueError(f"a tilt must lie between -90 and 90 degrees; got {tilt}, axis at {axis}")


def conical(angles: torch.Tensor, tilt: float, axis: float = 0.0) -> torch.Tensor:
    """Rotations ``(n, 3, 3)``, object to view, of particles turned by ``angles`` in the plane of a tilted grid.

    Args:
        angles: ``(n,)`` in degrees.
        tilt: of the grid, in degrees.
        axis: direction of the tilt axis in the image, in degrees from +y towards +x.
    """
    others = [torch.full_like(angles, value) for value in (tilt, axis)]
    return rotation.euler_to_matrix(torch.stack([angles, *others], -1))
