"""The error of a featureless ball, beside which every error is to be read."""

from __future__ import annotations

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.ops import fourier

SPACING = 0.5  # voxels between the knots of the radial profile: fine beside a band of half a cycle per voxel


def ball_error(truth: Map) -> float:
    """Relative error ||b - x*|| / ||x*|| of the best radially symmetric map b: an error says nothing without it.

    A map without any structure has this error already; it is .3 to .6 for small chains of beads, lower for smoother
    objects. b is the least-squares radial profile about the box's centre, linear between knots half a voxel apart.

    Args:
        truth: x*, any grey values, centred.

    Returns:
        A number from 0 (the truth is a ball) to 1.

    Raises:
        ValueError: if the truth is not finite, or zero everywhere.
    """
    values = truth.values.detach().double().cpu()
    if not bool(torch.isfinite(values).all()) or not bool((values != 0).any()):
        raise ValueError("the truth must be finite and hold a structure; got NaN, infinity or zeros only")
    return float((radial(values) - values).norm() / values.norm())


def radial(values: Float[torch.Tensor, "n n n"]) -> Float[torch.Tensor, "n n n"]:
    """The radially symmetric map next to ``values`` in the mean square, float64 (see :func:`ball_error`)."""
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
