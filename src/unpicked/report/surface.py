"""The map in three dimensions: the values that the page's script draws, and still pictures for where it cannot."""

from __future__ import annotations

import base64
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpicked.data.maps import Map
from unpicked.evaluate.resample import centred
from unpicked.report.tiles import Tile, png

SHARE = 0.7  # of the positive density: what the first level encloses; near 10 Å about a protein's own volume
FINE = 64  # samples along an edge on which the surface is drawn
LARGEST = 72  # voxels along an edge that a page holds; a larger map is Fourier-cropped
EXACT = 48  # up to this box a voxel has 16 bits, above 8
_LIGHT = np.array([-0.40, -0.55, -0.73])  # from the surface to the lamp: left, above, before


@dataclass(frozen=True)
class Embedded:
    """A map as the script reads it; zero is the mean outside the inscribed ball.

    Attributes:
        box: voxels along an edge.
        fine: samples along an edge on which to draw.
        voxel_size: angstrom.
        bits: of a voxel, 8 or 16 (little endian); x runs fastest, then y, then z.
        low: value of code 0.
        step: value of one code.
        deviation: standard deviation of the map's voxels.
        level: where the surface starts.
        codes: the voxels, base64.
    """

    box: int
    fine: int
    voxel_size: float
    bits: int
    low: float
    step: float
    deviation: float
    level: float
    codes: str

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and strings for ``json.dumps``."""
        return asdict(self)


def embedded(map: Map) -> Embedded | None:
    """The map for the script; None where it has no surface (it is constant, or not finite)."""
    values = _values(map)
    level = first_level(values) if np.isfinite(values).all() else None
    if level is None:
        return None
    box = len(values)
    bits = 16 if box <= EXACT else 8
    low, high = float(values.min()), float(values.max())
    step = (high - low) / (2**bits - 1)
    codes = ((values - low) / step).round().astype("<u2" if bits == 16 else "u1")
    return Embedded(
        box,
        max(FINE, box),
        map.voxel_size * map.box / box,
        bits,
        _rounded(low),
        _rounded(step),
        _rounded(float(values.std())),
        level,
        base64.b64encode(codes.tobytes()).decode(),
    )


def first_level(values: NDArray[np.float64]) -> float | None:
    """The level above which :data:`SHARE` of the positive density lies; None where nothing is positive."""
    fine = _sampled(values, (max(FINE, len(values)),) * 3)[1:-1, 1:-1, 1:-1]  # the script closes the faces
    ordered = np.sort(fine[fine > 0])[::-1]
    if not len(ordered) or not values.max() > values.min():
        return None
    mass = np.cumsum(ordered)
    return _rounded(float(ordered[np.searchsorted(mass, SHARE * mass[-1])]))


def stills(map: Map, level: float, edge: int = 192) -> tuple[Tile, ...]:
    """The surface as seen along x, y and z, over the same field and in the same orientation as the projections.

    Rows and columns are (z, y), (z, x), (y, x); right, down and away must be a right-handed frame, so the surface
    is seen along +x, -y and +z.
    """
    values = _values(map)
    tiles = []
    for name, axes, backwards in (("x", (2, 0, 1), False), ("y", (1, 0, 2), True), ("z", (0, 1, 2), False)):
        turned = values.transpose(axes)
        turned = turned[::-1] if backwards else turned
        tiles.append(Tile(f"surface seen along {name}", _shaded(turned, level, edge)))
    return tuple(tiles)


def _rounded(value: float) -> float:
    """Seven digits: the page must not change with the order in which a machine sums."""
    return float(f"{value:.7g}")


def _values(map: Map) -> NDArray[np.float64]:
    kept = map if map.box <= LARGEST else Map(map.values.double(), map.voxel_size).rescale(LARGEST)
    return centred(kept.values).numpy()


def _sampled(values: NDArray[np.float64], counts: tuple[int, int, int]) -> NDArray[np.float64]:
    """The sinc series of the zero-padded map, at the centres of so many equal parts of each axis."""
    for axis, count in enumerate(counts):
        size = values.shape[axis]
        places = (np.arange(count) + 0.5) * size / count - 0.5
        weights = np.sinc(places[:, None] - np.arange(size))
        values = np.moveaxis(np.tensordot(weights, values, (1, axis)), 0, axis)
    return values


def _shaded(values: NDArray[np.float64], level: float, edge: int) -> str:
    """The surface as seen along the first axis, lit from the upper left; nothing where no ray meets it."""
    depth = 96
    field = _sampled(values, (depth, edge, edge))
    inside, peak = field >= level, field.max(0)
    slope = np.hypot(*np.gradient(peak)) + 1e-30
    cover = (0.5 + (peak - level) / slope).clip(0, 1)  # of a pixel at the outline, where the peak meets the level
    rows, columns = np.nonzero(cover)
    at = np.where(inside.any(0), inside.argmax(0), field.argmax(0))[rows, columns]
    before = field[np.maximum(at - 1, 0), rows, columns]
    here = field[at, rows, columns]
    part = np.where((at > 0) & (here > level) & (before < level), (level - before) / (here - before + 1e-30), 1.0)
    slopes = np.zeros((3, len(rows)))  # along columns, rows and depth, per edge of the box
    for axis, (place, size) in enumerate(((columns, edge), (rows, edge), (at, depth))):
        steps = []
        for offset in (1, -1):
            index = [at, rows, columns]
            index[2 - axis] = (place + offset).clip(0, size - 1)
            behind = [np.maximum(index[0] - 1, 0), index[1], index[2]]
            steps.append(part * field[tuple(index)] + (1 - part) * field[tuple(behind)])
        slopes[axis] = (steps[0] - steps[1]) * size
    normal = -slopes / np.maximum(np.sqrt((slopes**2).sum(0)), 1e-30)
    lit = (_LIGHT @ normal / math.sqrt(float(_LIGHT @ _LIGHT))).clip(0, 1)
    away = (at - 1 + part) / depth
    grey = 255 * (0.25 + 0.70 * lit) * (1 - 0.25 * away)
    pixels = np.zeros((edge, edge, 2), np.uint8)
    pixels[rows, columns, 0] = grey.clip(0, 255).round().astype(np.uint8)
    pixels[rows, columns, 1] = (255 * cover[rows, columns]).round().astype(np.uint8)
    return png(pixels)
