"""Positions of particles on micrographs, from STAR files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unpicked.io.star import Table, read_star

SCORES = ("rlnAutopickFigureOfMerit", "rlnMaxValueProbDistribution")


@dataclass(frozen=True)
class Picks:
    """Positions per micrograph.

    Attributes:
        positions: micrograph to ``(n, 2)`` x and y in pixels, counted from 0; the name "" where none is given.
        scores: likewise ``(n,)``, the higher the surer; None without them.
        pixel_size: of the micrographs in angstrom; None where it is not said.
        box: edge of a particle's box in angstrom; None where it is not said.
    """

    positions: dict[str, NDArray[np.float64]]
    scores: dict[str, NDArray[np.float64]] | None
    pixel_size: float | None
    box: float | None


def read_picks(path: Path | str) -> Picks:
    """Read rlnCoordinateX and Y of a STAR file of particles or of one micrograph's picks.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no STAR file of positions.
    """
    blocks = read_star(path)
    table = next((block for block in blocks.values() if "rlnCoordinateX" in block), None)
    if table is None:
        raise ValueError(f"{path} holds no positions; expected a STAR file with rlnCoordinateX and rlnCoordinateY")
    places = np.stack([table.floats("rlnCoordinateX"), table.floats("rlnCoordinateY")], 1)
    score = next((table.floats(name) for name in SCORES if name in table), None)
    names = table.strings("rlnMicrographName") if "rlnMicrographName" in table else [""] * len(table)
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    optics = blocks.get("optics", table)
    size = _one(path, optics, "rlnMicrographPixelSize") or _one(path, optics, "rlnMicrographOriginalPixelSize")
    edge, own = _one(path, optics, "rlnImageSize"), _one(path, optics, "rlnImagePixelSize")
    return Picks(
        positions={name: places[some] for name, some in rows.items()},
        scores=None if score is None else {name: score[some] for name, some in rows.items()},
        pixel_size=size,
        box=edge * own if edge and own else None,
    )


def _one(path: Path | str, table: Table, name: str) -> float | None:
    """The one value of a column; None where there is no such column."""
    if name not in table:
        return None
    values = set(table.floats(name).tolist())
    if len(values) > 1:
        raise ValueError(f"{path}: {name} differs between optics groups: {', '.join(map(str, sorted(values)))}")
    return float(values.pop())
