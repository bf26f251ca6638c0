"""The radially symmetric part of a volume."""

from __future__ import annotations

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.ops import fourier

SPACING = 0.5  # voxels between the knots of the radial profile: fine beside a band of half a cycle per voxel


def radial(values: Float[torch.Tensor, "n n n"]) -> Float[torch.Tensor, "n n n"]:
    """The radially symmetric map next to ``values`` in the mean square, float64."""
    place = fourier.distances(values.shape).flatten() / SPACING
    flat = values.double().flatten()
    below = place.floor().long()
    high = place - below
    low = 1 - high
    count = int(below.max()) + 2
    normal = torch.zeros(count, count, dtype=torch.float64)
    index = torch.arange(count)
    normal[index, index] = torch.bincount(below, low.square(), count) + torch.bincount(below + 1, high.square(), count)
    side = torch.bincount(below, low * high, count)[:-1]
    normal[index[:-1], index[1:]] = side
    normal[index[1:], index[:-1]] = side
    right = torch.bincount(below, low * flat, count) + torch.bincount(below + 1, high * flat, count)
    profile = torch.linalg.pinv(normal, hermitian=True) @ right  # a knot that no voxel sees stays 0
    smooth: torch.Tensor = low * profile[below] + high * profile[below + 1]
    return smooth.reshape(values.shape)
