"""The error of a featureless ball, beside which every error is to be read."""

from __future__ import annotations

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.ops.radial import radial


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
