"""The grey-value pictures of the report, as PNG data addresses: true pixels, on a stated common scale."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unpicked.data.maps import Map


@dataclass(frozen=True)
class Tile:
    """One grey-value image.

    Attributes:
        label: what is seen, e.g. "slice across x".
        uri: the image as a data address.
    """

    label: str
    uri: str


def slices(map: Map) -> tuple[Tile, ...]:
    """The three central slices, across x, y and z."""
    values, middle = array(map), map.box // 2
    planes = (values[:, :, middle], values[:, middle, :], values[middle])
    return images(planes, ("slice across x", "slice across y", "slice across z"))


def projections(map: Map) -> tuple[Tile, ...]:
    """The three sums along x, y and z."""
    values = array(map)
    planes = tuple(values.sum(axis) for axis in (2, 1, 0))
    return images(planes, ("projection along x", "projection along y", "projection along z"))


def images(planes: Sequence[NDArray[np.float64]], labels: Sequence[str], edge: int = 240) -> tuple[Tile, ...]:
    """Images of one common grey scale, from the 0.5th to the 99.8th percentile, at least ``edge`` pixels wide."""
    scale = np.stack(planes)
    return tuple(Tile(label, grey(plane, scale, edge)) for plane, label in zip(planes, labels, strict=True))


def grey(plane: NDArray[np.float64], scale: NDArray[np.float64], edge: int = 1) -> str:
    """A PNG data address of an image, at least ``edge`` pixels high; its grey scale is that of other values."""
    low, high = np.percentile(scale, (0.5, 99.8))
    span = high - low if high > low else 1.0
    values = (255 * ((plane - low) / span).clip(0, 1)).round().astype(np.uint8)
    times = max(1, -(-edge // plane.shape[0]))
    return png(values.repeat(times, 0).repeat(times, 1)[..., None])  # nearest neighbour, whatever the viewer does


def scale_bar(field: float) -> tuple[float, float]:
    """A round length of about a third of the field of view: angstrom, and percent of the field."""
    target = field / 3
    unit = 10.0 ** math.floor(math.log10(target))
    length = max(step * unit for step in (1, 2, 5) if step * unit <= target * (1 + 1e-9))
    return length, 100 * length / field


def array(map: Map) -> NDArray[np.float64]:
    """The values as numpy float64, axes z, y, x."""
    return map.values.detach().double().cpu().numpy()


def png(pixels: NDArray[np.uint8]) -> str:
    """A PNG data address of ``(height, width, 1)`` grey or ``(height, width, 2)`` grey and opacity."""
    height, width, channels = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], 1).tobytes()
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, {1: 0, 2: 4}[channels], 0, 0, 0)),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    )
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    whole = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    return "data:image/png;base64," + base64.b64encode(whole).decode()
