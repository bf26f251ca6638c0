"""The micrographs on the page: small grey pictures, what masks leave out of them, and the places that were found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from unpicked.report import words
from unpicked.report.archives import Array, Pictures
from unpicked.report.reading import Run
from unpicked.report.tiles import grey, scale_bar

LEFT_OUT = 0.5  # share of a pixel beyond which it counts as left out
SMALLEST = 0.012  # radius of a ring, of the width of the picture


def micrographs(run: Run) -> dict[str, Any] | None:
    """Up to a few of them, each with its own grey scale; None where there are no pictures."""
    held = run.pictures
    if held is None:
        return None
    count, height, width = held.pictures.shape
    bar, percent = scale_bar(width * held.pixel_size)
    some = count < held.total
    return {
        "tiles": [_tile(held, index) for index in range(count)],
        "size": (width, height),
        "masked": held.hidden is not None,
        "found": held.marks is not None,
        "count": f"{count} of {held.total:,} micrographs" if some else words.counted(count, "micrograph"),
        "some": some,
        "pixel": f"{held.pixel_size:.3g}",
        "bar": f"{bar:g} Å",
        "percent": f"{percent:.2f}",
    }


def outline(area: Array) -> str:
    """An SVG path around where ``(h, w)`` values exceed a half; pixels have an edge of 1."""
    from matplotlib.figure import Figure

    if not area.max() > LEFT_OUT:
        return ""
    padded = np.pad(area, 1)  # areas end where the picture ends
    loops = Figure().subplots().contour(padded, levels=[LEFT_OUT]).allsegs[0]
    return "".join(_loop(loop - 0.5) for loop in loops)


def rings(centres: Array, radius: float) -> str:
    """An SVG path of circles around places x, y."""
    arc = f"a{radius:.2f} {radius:.2f} 0 1 0 "
    turn = f"{arc}{2 * radius:.2f} 0{arc}{-2 * radius:.2f} 0"
    return "".join(f"M{x - radius:.1f} {y:.1f}{turn}" for x, y in centres.tolist())


def _tile(held: Pictures, index: int) -> dict[str, Any]:
    """A picture, what is drawn over it, and its caption."""
    picture, width = held.pictures[index], held.pictures.shape[2]
    said, area, marks = [], "", ""
    seen = picture
    if held.hidden is not None:
        hidden = held.hidden[index]
        area = outline(hidden)
        seen = picture[hidden == 0] if (hidden == 0).any() else picture
        said.append(f"{100 * held.shares[index]:.1f} % left out")
    if held.marks is not None and index == 0:
        marks = rings(held.marks, max(held.width / 2, SMALLEST * width))
        said.append(f"{words.counted(len(held.marks), 'particle')} found")
    return {
        "uri": grey(picture, seen),
        "name": held.names[index],
        "said": "; ".join(said),
        "area": area,
        "marks": marks,
    }


def _loop(points: Array) -> str:
    return "M" + "L".join(_numbers(points)) + "Z"


def _numbers(points: Array) -> Iterable[str]:
    return (f"{x:.1f} {y:.1f}" for x, y in points.tolist())
