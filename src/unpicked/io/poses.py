"""Poses of particle images from STAR files, and images of two files brought together by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unpicked._lazy import torch
from unpicked.data.poses import Poses
from unpicked.io.star import Table, read_star
from unpicked.ops.rotation import euler_to_matrix

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_ANGSTROM = ("rlnOriginXAngst", "rlnOriginYAngst")
_PIXELS = ("rlnOriginX", "rlnOriginY")


def read_poses(path: Path | str) -> tuple[tuple[str, ...], Poses]:
    """Image names and poses of a particle STAR file (RELION 3.0 to 5), in its order; float64.

    t = -(rlnOriginXAngst, rlnOriginYAngst), else -(rlnOriginX, rlnOriginY) times the pixel size (of the optics group,
    else of the row), else 0.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a STAR file with rlnImageName and the three angles, a value is not a finite number, an
            image occurs twice, or origins in pixels come without a pixel size.
    """
    tables = read_star(path)
    rows = [table for name, table in tables.items() if name != "optics"]
    table = next((t for t in rows if _ANGLES[0] in t), None)
    if table is None:
        raise ValueError(f"{path} holds no poses; expected the columns rlnImageName, {', '.join(_ANGLES)}")
    names = table.strings("rlnImageName")
    count = Counter(_key(name) for name in names)
    if twice := next((name for name in names if count[_key(name)] > 1), None):
        raise ValueError(f"{path}: the image {twice} occurs {count[_key(twice)]} times; expected one row per image")
    angles = torch.tensor(np.stack([table.floats(name) for name in _ANGLES], -1))
    return names, Poses(euler_to_matrix(angles), -torch.tensor(_origins(path, table, tables.get("optics"))))


def matched(estimate: Sequence[str], truth: Sequence[str]) -> tuple[list[int], list[int], tuple[str, ...]]:
    """Rows of both lists that name the same image, in the order of the first, and sentences on what was left out.

    Names agree if number and path do ("1@a.mrcs" is "000001@a.mrcs"); where no name does, the folders are left out.

    Raises:
        ValueError: if no image is named by both.
    """
    notes: list[str] = []
    keys = [[_key(name) for name in names] for names in (estimate, truth)]
    if not set(keys[0]) & set(keys[1]):
        keys = [[(number, path.rpartition("/")[2]) for number, path in part] for part in keys]
        if any(len(set(part)) < len(part) for part in keys) or not set(keys[0]) & set(keys[1]):
            raise ValueError(
                f"no image is named in both files: the estimate has {estimate[0]}, the truth {truth[0]};"
                " check that both come from one stack"
            )
        notes.append(f"Images were matched without their folders: {estimate[0]} is {truth[0]}.")
    places = {key: row for row, key in enumerate(keys[1])}
    first = [row for row, key in enumerate(keys[0]) if key in places]
    second = [places[keys[0][row]] for row in first]
    for name, names in (("estimate", estimate), ("truth", truth)):
        if len(names) > len(first):
            notes.append(
                f"{len(names) - len(first)} of the {len(names)} images of the {name} are not in the other file."
            )
    return first, second, tuple(notes)


def _key(name: str) -> tuple[int, str]:
    """Number (0 for a file of one image) and path of an image name."""
    found = re.fullmatch(r"(\d+)@(.*)", name)
    return (int(found[1]), found[2]) if found else (0, name)


def _origins(path: Path | str, table: Table, optics: Table | None) -> NDArray[np.float64]:
    if all(name in table for name in _ANGSTROM):
        return np.stack([table.floats(name) for name in _ANGSTROM], -1)
    if not all(name in table for name in _PIXELS):
        return np.zeros((len(table), 2))
    pixels = np.stack([table.floats(name) for name in _PIXELS], -1)
    return pixels * _pixel_sizes(path, table, optics)[:, None] if pixels.any() else pixels


def _pixel_sizes(path: Path | str, table: Table, optics: Table | None) -> NDArray[np.float64]:
    """Angstrom per pixel of every row: the optics group's, else the row's, else detector pixel by magnification."""
    if optics is not None and "rlnOpticsGroup" in table and "rlnOpticsGroup" in optics:
        sizes = _sizes(optics)
        if sizes is not None:
            groups = dict(zip(optics.strings("rlnOpticsGroup"), sizes, strict=True))
            wanted = table.strings("rlnOpticsGroup")
            if missing := next((group for group in wanted if group not in groups), None):
                raise ValueError(f"{path}: optics group {missing} is not in data_optics; found {', '.join(groups)}")
            return np.array([groups[group] for group in wanted])
    sizes = _sizes(table)
    if sizes is None:
        raise ValueError(
            f"{path}: origins are in pixels but there is no pixel size; expected rlnImagePixelSize in data_optics,"
            " rlnPixelSize, or rlnDetectorPixelSize with rlnMagnification"
        )
    return sizes


def _sizes(table: Table) -> NDArray[np.float64] | None:
    for name in ("rlnImagePixelSize", "rlnPixelSize"):
        if name in table:
            return table.floats(name)
    if "rlnDetectorPixelSize" in table and "rlnMagnification" in table:
        return 1e4 * table.floats("rlnDetectorPixelSize") / table.floats("rlnMagnification")
    return None
