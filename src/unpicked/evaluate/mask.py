"""The soft mask around a molecule, which other programs ask for beside a map."""

from __future__ import annotations

import math

from unpicked._lazy import torch
from unpicked.data.maps import Map

_KEPT = 0.05  # of the largest piece: smaller ones are noise
_BINS = 256


def mask_around(map: Map, *, extend: float | None = None, edge: float | None = None) -> Map:
    """1 where the molecule is and a little around it, 0 far from it, a cosine edge between.

    The map is smoothed, parted into matter and solvent where the variance between both is largest (Otsu 1979), small
    pieces are left out, holes are filled.

    Args:
        map: matter bright, any grey values.
        extend: voxels around the molecule that are 1, too; a fortieth of the box and at least 1 if not given.
        edge: voxels of the cosine edge; a twentieth of the box and at least 2 if not given.

    Returns:
        Values 0 to 1, float32, on the grid of the map; where the map holds no matter, the ball that the box holds.

    Raises:
        ValueError: if the map is not finite, or a width is negative.

    Example:
        >>> values = torch.zeros(16, 16, 16)
        >>> values[6:10, 6:10, 6:10] = 1
        >>> float(mask_around(Map(values, 4.0)).values[8, 8, 8])
        1.0
    """
    import numpy as np
    from scipy import ndimage

    values = map.values.detach().double().cpu()
    if not bool(torch.isfinite(values).all()):
        raise ValueError("the map must be finite; got NaN or infinity")
    extend = max(1.0, map.box / 40) if extend is None else extend
    edge = max(2.0, map.box / 20) if edge is None else edge
    if not (extend >= 0 and edge >= 0):
        raise ValueError(f"extend and edge must not be negative; got {extend} and {edge}")
    smooth = ndimage.gaussian_filter(values.numpy(), max(0.7, map.box / 60), mode="constant")
    axis = torch.arange(map.box, dtype=torch.float64) - map.box // 2
    radius = (axis[:, None, None].square() + axis[:, None].square() + axis.square()).sqrt()
    ball = (radius <= map.box // 2).numpy()
    level = _parting(torch.from_numpy(smooth[ball]))
    matter = ball & (smooth > level)
    pieces, count = ndimage.label(matter)
    if count:
        sizes = torch.from_numpy(ndimage.sum_labels(matter, pieces, range(1, count + 1)))
        kept = [number for number, size in enumerate(sizes.tolist(), 1) if size >= _KEPT * float(sizes.max())]
        inside = ndimage.binary_fill_holes(np.isin(pieces, kept))
    else:
        inside = ball
    away = torch.from_numpy(ndimage.distance_transform_edt(~inside)) - extend
    soft = 0.5 + 0.5 * torch.cos(math.pi * (away / max(edge, 1e-9)).clamp(0, 1))
    return Map(soft.float(), map.voxel_size)


def _parting(values: torch.Tensor) -> float:
    """The grey value at which two classes differ most, the brighter one above zero; infinity where there is none."""
    low, high = max(0.0, float(values.min())), float(values.max())
    if not high > low:
        return math.inf
    counts = torch.histc(values.clamp(min=low), _BINS, low, high)
    middles = low + (torch.arange(_BINS, dtype=torch.float64) + 0.5) * (high - low) / _BINS
    below, mass = counts.cumsum(0), (counts * middles).cumsum(0)
    above, rest = below[-1] - below, mass[-1] - mass
    between = below * above * (mass / below.clamp(min=1) - rest / above.clamp(min=1)).square()
    return float(middles[int(between.argmax())]) + 0.5 * (high - low) / _BINS
