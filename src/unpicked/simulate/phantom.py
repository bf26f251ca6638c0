"""Phantoms that need no file."""

from __future__ import annotations

import math

from unpicked._lazy import torch
from unpicked.data.maps import Map

# contrast, half axes a b c, centre x y z (box half-widths), turn about z in degrees: Toft's contrast (1996) in three
# dimensions, the table of Schabel's widely used phantom3d
_ELLIPSOIDS = (
    (1.0, 0.69, 0.92, 0.81, 0.0, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.78, 0.0, -0.0184, 0.0, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.22, 0.0, 0.0, -18.0),
    (-0.2, 0.16, 0.41, 0.28, -0.22, 0.0, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.41, 0.0, 0.35, -0.15, 0.0),
    (0.1, 0.046, 0.046, 0.05, 0.0, 0.1, 0.25, 0.0),
    (0.1, 0.046, 0.046, 0.05, 0.0, -0.1, 0.25, 0.0),
    (0.1, 0.046, 0.023, 0.05, -0.08, -0.605, 0.0, 0.0),
    (0.1, 0.023, 0.023, 0.02, 0.0, -0.606, 0.0, 0.0),
    (0.1, 0.023, 0.046, 0.02, 0.06, -0.605, 0.0, 0.0),
)


def shepp_logan(box: int, voxel_size: float = 1.0, *, oversampling: int = 2) -> Map:
    """The modified Shepp-Logan phantom in three dimensions, values 0 to 1, averaged over sub-voxels.

    Args:
        box: edge in voxels.
        voxel_size: angstrom.
        oversampling: sub-voxels per voxel and axis.
    """
    steps = box * oversampling
    axis = ((torch.arange(steps, dtype=torch.float64) + 0.5) / oversampling - 0.5 - box // 2) / (box / 2)
    z, y, x = axis[:, None, None], axis[:, None], axis
    values = torch.zeros(steps, steps, steps, dtype=torch.float64)
    for contrast, a, b, c, x0, y0, z0, turn in _ELLIPSOIDS:
        cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        u = (x - x0) * cosine + (y - y0) * sine
        v = (y - y0) * cosine - (x - x0) * sine
        values += contrast * (((u / a) ** 2 + (v / b) ** 2 + ((z - z0) / c) ** 2) <= 1)
    blocks = values.reshape(box, oversampling, box, oversampling, box, oversampling)
    return Map(blocks.mean((1, 3, 5)), voxel_size)
