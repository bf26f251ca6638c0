"""Projections of a map from evenly spread directions, for programs that pick particles with them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.evaluate.resample import centred, on_grid
from unpicked.objects.voxels import Voxels
from unpicked.ops.rotation import direction_grid
from unpicked.ops.window import crop_or_pad

POINTS = 1 << 20  # of the slices that are held at once
CUT = 0.01  # share of a map's power outside the box that is worth a word


@dataclass(frozen=True, eq=False)
class Templates:
    """Images of a map, computed when asked for.

    Attributes:
        map: on the images' grid, without its background.
        rotations: ``(n, 3, 3)`` active, object to image, not turned in the plane; float64.
        notes: sentences on what was done to the map.
    """

    map: Map
    rotations: torch.Tensor
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return int(self.rotations.shape[0])

    def __iter__(self) -> Iterator[torch.Tensor]:
        """``(box, box)`` float32 each, matter bright: sums over the voxels along the direction of view."""
        object = Voxels(self.map.box)
        x = object.fit(self.map.values.float())
        count = max(1, POINTS // (self.map.box * (self.map.box // 2 + 1)))
        for some in self.rotations.float().split(count):
            yield from object.projector(some).project(x)


def templates(map: Map, angle: float, *, box: int | None = None, voxel: float | None = None) -> Templates:
    """Projections of a map from directions ``angle`` degrees apart over the whole sphere, none turned in its plane.

    Args:
        map: matter bright.
        angle: degrees between neighbouring directions, 1 to 90.
        box: edge of the images in pixels; None keeps the map's field of view, in an even number of pixels where the
            voxel is another one.
        voxel: pixel size of the images in angstrom, reached within 0.1 % by Fourier crop or pad; None keeps the map's.

    Raises:
        ValueError: for an angle, box or voxel out of range, a map without structure, or one that cannot be brought to
            this grid.
    """
    rotations = direction_grid(angle)
    for name, value in (("--voxel", voxel), ("--box", box)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive; got {value}")
    size = map.voxel_size if voxel is None else float(voxel)
    edge = box
    if edge is None:
        field = map.box * map.voxel_size / size
        edge = map.box if abs(field - map.box) < 1e-3 * map.box else 2 * math.ceil(field / 2 - 1e-3)
    if edge < 4:
        raise ValueError(f"templates must have at least 4 pixels an edge; got {edge}; try a larger --box")
    values = centred(map.values)
    if not bool(torch.isfinite(values).all()) or not bool(values.abs().amax() > 0):
        raise ValueError("the map holds no structure, or values that are not finite; check the file")
    found = on_grid(Map(values, map.voxel_size), edge, size)
    level = float((map.values.double().cpu() - values).mean())
    notes = [f"{len(rotations)} directions about {angle:g} degrees apart; turns in the plane are left to the picker"]
    if abs(level) > 1e-3 * float(values.abs().amax()):
        notes.append(f"the background of the map, {level:.3g}, is taken off")
    if (found.box, found.voxel_size) != (map.box, map.voxel_size):
        notes.append(
            f"the map of {map.box} voxels of {map.voxel_size:g} A is brought to {found.box} of {found.voxel_size:g} A"
        )
    lost = _lost(values, edge * size / map.voxel_size)
    if lost > CUT:
        notes.append(
            f"the box of {edge * size:.4g} A cuts off {100 * lost:.0f} % of the map's power; try a larger --box"
        )
    if size < map.voxel_size * (1 - 1e-3):
        notes.append(f"no detail beyond the map's {2 * map.voxel_size:.3g} A: its voxels are larger than the pixels")
    return Templates(found, rotations, tuple(notes))


def _lost(values: torch.Tensor, field: float) -> float:
    """Share of the map's power that lies outside a cube of so many of its voxels."""
    edge = max(1, math.ceil(field))
    if edge >= len(values):
        return 0.0
    inside = crop_or_pad(values, (edge,) * 3)
    return 1 - float(inside.square().sum() / values.square().sum())
