"""What metadata say of particle images: read without the images, kept whole for writing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unpicked._lazy import torch
from unpicked.data.optics import Optics
from unpicked.data.poses import Poses
from unpicked.io._files import existing
from unpicked.io._relion import (
    TREATED,
    aberrations,
    check_sizes,
    column,
    group_rows,
    is_set,
    specimen_pixels,
    star_optics,
)
from unpicked.io.star import Table, read_star
from unpicked.ops.rotation import euler_to_matrix

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ANGSTROM = ("rlnOriginXAngst", "rlnOriginYAngst")
PIXELS = ("rlnOriginX", "rlnOriginY")


@dataclass(frozen=True, eq=False)
class ParticleTable:
    """The rows of a STAR or .cs file of particles, or of bare stacks, in the file's order.

    Attributes:
        path: the file.
        kind: "star", "cs" or "stack".
        files: names of the stacks as they stand in the file, each once.
        which: for every row, which of ``files`` holds its image.
        indices: for every row the place in that stack, counted from 0.
        names: for every row ``000001@stack``, counted from 1.
        signs: for every row the factor, 1 or -1, that makes matter bright, where the file says so.
        pixel_size: angstrom, where one is given or stated for all rows.
        pixel_origin: where that comes from, in words.
        pixel_sizes: what every row states.
        mixed: why the rows cannot be read as one set of images, where they have several pixel or box sizes.
        box: edge of the images in pixels, where it is stated.
        rotations: ``(n, 3, 3)``, active, object to image, float64; None without poses.
        shifts: ``(n, 2)`` t_x, t_y; None without poses.
        shifts_in_pixels: whether ``shifts`` still has to be multiplied by the pixel size.
        odd_box: whether one pixel in x and y was added to the shifts of the particles that were read with this table.
        optics: contrast transfer, or None.
        halves: half set of every row, 1 or 2, or None.
        notes: sentences that tell what was read, converted, assumed and left out.
        blocks: all blocks of a STAR file.
        block: name of the block that lists the particles.
        rows: the structured array of a .cs file.
    """

    path: Path
    kind: Literal["star", "cs", "stack"]
    files: tuple[str, ...]
    which: tuple[int, ...]
    indices: tuple[int, ...]
    names: tuple[str, ...]
    signs: tuple[int, ...] | None = None
    pixel_size: float | None = None
    pixel_origin: str = ""
    pixel_sizes: NDArray[np.float64] | None = None
    mixed: str = ""
    box: int | None = None
    rotations: torch.Tensor | None = None
    shifts: torch.Tensor | None = None
    shifts_in_pixels: bool = False
    odd_box: bool = False
    optics: Optics | None = None
    halves: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    blocks: Mapping[str, Table] | None = None
    block: str = ""
    rows: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def poses(self, pixel_size: float | None = None) -> Poses | None:
        """Rotations and shifts in angstrom, or None.

        Args:
            pixel_size: angstrom; None takes the table's. Needed only for shifts that are stored in pixels.

        Raises:
            ValueError: if shifts are in pixels and no pixel size is known.
        """
        if self.rotations is None or self.shifts is None:
            return None
        if not self.shifts_in_pixels:
            return Poses(self.rotations, self.shifts)
        size = self.pixel_size if pixel_size is None else pixel_size
        if size is not None:
            return Poses(self.rotations, self.shifts * size)
        if self.pixel_sizes is not None:
            return Poses(self.rotations, self.shifts * torch.from_numpy(self.pixel_sizes)[:, None])
        if bool(self.shifts.any()):
            raise ValueError(
                f"{self.path}: origins are in pixels but there is no pixel size; expected rlnImagePixelSize in "
                "data_optics, rlnPixelSize, rlnDetectorPixelSize with rlnMagnification; or give pixel_size= (--voxel)"
            )
        return Poses(self.rotations, self.shifts)

    def part(self, rows: Sequence[int]) -> ParticleTable:
        """Some of the rows, in this order; the list of stacks stays."""
        picks = list(rows)
        blocks = None
        if self.blocks is not None:
            table = self.blocks[self.block]
            chosen = tuple(tuple(values[row] for row in picks) for values in table.columns)
            blocks = {**self.blocks, self.block: replace(table, columns=chosen)}
        return replace(
            self,
            which=tuple(self.which[row] for row in picks),
            indices=tuple(self.indices[row] for row in picks),
            names=tuple(self.names[row] for row in picks),
            signs=None if self.signs is None else tuple(self.signs[row] for row in picks),
            pixel_sizes=None if self.pixel_sizes is None else self.pixel_sizes[picks],
            rotations=None if self.rotations is None else self.rotations[picks],
            shifts=None if self.shifts is None else self.shifts[picks],
            optics=None if self.optics is None else self.optics.part(picks),
            halves=None if self.halves is None else tuple(self.halves[row] for row in picks),
            blocks=blocks,
            rows=None if self.rows is None else self.rows[picks],
        )


def star_table(
    path: Path | str,
    *,
    pixel_size: float | None = None,
    ctf: bool | None = None,
    given: Mapping[str, float] | None = None,
) -> ParticleTable:
    """The particles of a STAR file (RELION 3.0 to 5); the image files need not be there.

    Args:
        path: file name.
        pixel_size: angstrom; overrides the file.
        ctf: True asks for contrast transfer, False leaves it out, None takes it where it is known.
        given: values for columns of the contrast transfer that the file does not have, by column name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a STAR file of 2-D particle images, or its values make no sense.
    """
    path = existing(path, "STAR file of particles")
    blocks = read_star(path)
    groups = blocks.get("optics")
    block = next((name for name, t in blocks.items() if name != "optics" and "rlnImageName" in t), None)
    if block is None:
        listed = any("rlnMicrographName" in t for t in blocks.values())
        more = "; it is a STAR file of micrographs" if listed else ""
        raise ValueError(f"{path} lists no particle images; expected a column rlnImageName{more}")
    table = blocks[block]
    rows = group_rows(path, table, groups)
    files, which, indices = _image_names(path, table.strings("rlnImageName"))
    names = tuple(f"{index + 1:06d}@{files[file]}" for file, index in zip(which, indices, strict=True))
    box, mixed = _box(path, table, groups, rows)
    sizes = _pixel_size(path, table, groups, rows, pixel_size)
    rotations, shifts, in_pixels, remarks = _star_poses(table)
    optics, remark = _star_ctf(path, table, groups, rows, ctf, given)
    halves, half_notes = _halves(table)
    layout = f"{len(groups)} optics groups" if groups is not None and len(groups) > 1 else "one optics group"
    head = f"{len(table)} particle images listed in {path}, {layout if groups is not None else 'no optics block'}"
    notes = [head, *doubles(names), *sizes.notes, *remarks, remark, *aberrations(table, groups), *half_notes]
    return ParticleTable(
        path, "star", files, which, indices, names, None, sizes.one, sizes.origin, sizes.each, mixed or sizes.mixed,
        box, rotations, shifts, in_pixels, False, optics, halves, tuple(notes), blocks, block,
    )  # fmt: skip


def checked_pixel_size(value: float) -> float:
    """A pixel size that was given by hand.

    Raises:
        ValueError: unless it is positive.
    """
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"pixel_size must be positive, in angstrom; got {value}")
    return float(value)


@dataclass(frozen=True)
class Sizes:
    """Pixel sizes of the rows: one, several, or none stated.

    Attributes:
        one: angstrom, where all rows have it.
        each: what every row states.
        origin: where it comes from, in words.
        notes: sentences on disagreement and fillers.
        mixed: why there is not one size, as an error would say it.
    """

    one: float | None = None
    each: NDArray[np.float64] | None = None
    origin: str = ""
    notes: tuple[str, ...] = ()
    mixed: str = ""


def choose_pixel_size(path: Path, given: float | None, stated: NDArray[np.float64] | None, name: str) -> Sizes:
    """Pixel size: what was given by hand, else what the rows state; sizes within 0.1 % are one.

    Raises:
        ValueError: for sizes that are not positive.
    """
    if stated is not None:
        check_sizes(path, stated, name)
    if given is not None:
        notes: tuple[str, ...] = ()
        if stated is not None and np.abs(stated / given - 1).max() > 5e-3:
            sizes = ", ".join(f"{size:g}" for size in np.unique(stated)[:5])
            notes = (f"{name} says {sizes} A per pixel; {given:g} A is used, as given",)
        return Sizes(checked_pixel_size(given), None, "as given", notes)
    if stated is None:
        return Sizes()
    if stated.max() > 1.001 * stated.min():
        mixed = (
            f"{path}: {name} goes from {stated.min():g} to {stated.max():g} A; expected one pixel size; "
            "split the file by optics group, or give pixel_size= (--voxel) if one is wrong"
        )
        return Sizes(None, stated, f"from {name}", (), mixed)
    size = float(stated[0])
    filler = (f"the pixel size is exactly 1 A ({name}), a common filler; check it",) if size == 1.0 else ()
    return Sizes(size, stated, f"from {name}", filler)


def half_sets(numbers: Sequence[float], name: str) -> tuple[tuple[int, ...] | None, list[str]]:
    """Half set labels 1 and 2 of every image, or None with the reason."""
    found = set(numbers)
    if found == {1.0, 2.0}:
        halves = tuple(int(number) for number in numbers)
        return halves, [f"half sets from {name}: {halves.count(1)} and {halves.count(2)} images"]
    values = ", ".join(f"{number:g}" for number in sorted(found)[:5])
    return None, [f"{name} names no two half sets (values {values}); not used"]


def doubles(names: Sequence[str]) -> list[str]:
    """A note where images occur in several rows."""
    more = len(names) - len(set(names))
    return [f"{more} rows name an image that an earlier row names too; every row is used"] if more else []


def _image_names(path: Path, values: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...]]:
    places: dict[str, int] = {}
    which, indices = [], []
    for row, value in enumerate(values, start=1):
        found = re.fullmatch(r"([0-9]{1,18})@(.+)", value)
        number, name = (int(found[1]), found[2]) if found else (1, value)
        if "@" in name or name in (".", "?"):
            raise ValueError(f"{path}, row {row}: rlnImageName must be like 000001@stack.mrcs; got {value!r}")
        if number < 1:
            raise ValueError(f"{path}, row {row}: images are counted from 1 in rlnImageName; got {value!r}")
        which.append(places.setdefault(name, len(places)))
        indices.append(number - 1)
    return tuple(places), tuple(which), tuple(indices)


def _box(path: Path, table: Table, groups: Table | None, rows: Sequence[int]) -> tuple[int | None, str]:
    """The stated box, and why there is not one, as an error would say it."""
    dimensions = column("rlnImageDimensionality", table, groups, rows)
    if dimensions is not None and (dimensions != 2).any():
        raise ValueError(
            f"{path} lists images of {dimensions.max():g} dimensions (rlnImageDimensionality), as of tomograms; "
            "expected 2-D particle images"
        )
    sizes = column("rlnImageSize", table, groups, rows)
    if sizes is None:
        return None, ""
    if sizes.max() != sizes.min():
        return None, (
            f"{path}: rlnImageSize goes from {sizes.min():g} to {sizes.max():g} pixels; expected one box size; "
            "split the file by optics group, or extract the images again in one box"
        )
    return int(sizes[0]), ""


def _pixel_size(path: Path, table: Table, groups: Table | None, rows: Sequence[int], given: float | None) -> Sizes:
    for name in ("rlnImagePixelSize", "rlnPixelSize"):
        if (sizes := column(name, table, groups, rows)) is not None:
            return choose_pixel_size(path, given, sizes, name)
    detector, magnification = (column(f"rln{n}", table, groups, rows) for n in ("DetectorPixelSize", "Magnification"))
    if detector is None or magnification is None:
        return choose_pixel_size(path, given, None, "")
    if not (magnification > 0).all():
        raise ValueError(f"{path}: rlnMagnification must be positive; got {magnification.min():g}")
    sizes = specimen_pixels(detector, magnification)
    return choose_pixel_size(path, given, sizes, "rlnDetectorPixelSize / rlnMagnification")


def _star_poses(table: Table) -> tuple[torch.Tensor | None, torch.Tensor | None, bool, list[str]]:
    """Rotations, shifts, whether these are in pixels, and notes."""
    if missing := [name for name in ANGLES if name not in table]:
        return None, None, False, [f"no poses: the file has no {', '.join(missing)}"]
    angles = np.stack([table.floats(name) for name in ANGLES], -1)
    rotations = euler_to_matrix(torch.from_numpy(angles))
    notes = ["poses from rlnAngleRot, rlnAngleTilt, rlnAnglePsi"]
    if len(angles) > 1 and (angles == angles[0]).all():
        notes.append("all images have the same three angles: they were probably never aligned")
    for names, unit in ((ANGSTROM, "angstrom"), (PIXELS, "pixels")):
        if all(name in table for name in names):
            origins = np.stack([table.floats(name) for name in names], -1)
            notes.append(f"shifts are minus {' and '.join(names)}, in {unit}")
            return rotations, torch.from_numpy(0.0 - origins), unit == "pixels", notes
    notes.append("no shifts: the file has no origins; particles are taken as centred")
    return rotations, torch.zeros(len(table), 2, dtype=torch.float64), False, notes


def _star_ctf(
    path: Path,
    table: Table,
    groups: Table | None,
    rows: Sequence[int],
    ctf: bool | None,
    given: Mapping[str, float] | None,
) -> tuple[Optics | None, str]:
    if ctf is False:
        return None, "contrast transfer is left out, as asked"
    for name, what in TREATED:
        if is_set(name, table, groups):
            raise ValueError(
                f"{path}: {name} says that the images are already {what}; expected images as the microscope gives "
                "them; extract them again without this, or leave contrast transfer out with ctf=False (--no-ctf)"
            )
    optics, remark = star_optics(table, groups, rows, "images", given)
    if optics is None and ctf:
        raise ValueError(f"{path}: contrast transfer is asked for, but {remark}; add the columns, or ask without it")
    return optics, remark


def _halves(table: Table) -> tuple[tuple[int, ...] | None, list[str]]:
    if "rlnRandomSubset" not in table:
        return None, []
    return half_sets(table.floats("rlnRandomSubset").tolist(), "rlnRandomSubset")
