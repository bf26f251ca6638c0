"""Particles written as RELION 3.1 STAR or cryoSPARC .cs: every row, in input order, with all columns that it had."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpicked.data.optics import Optics
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.io._relion import MICROSCOPE
from unpicked.io.cryosparc import narrowed, new_rows, paths_of, with_fields, with_poses, write_cs
from unpicked.io.particle_table import ANGLES, ANGSTROM, PIXELS, ParticleTable
from unpicked.io.particles import source_of, table_of
from unpicked.io.star import Column, Table, as_table, write_star
from unpicked.io.star_layouts import defocus_columns
from unpicked.ops.rotation import matrix_to_euler

Blocks = dict[str, Table]

Stacks = Mapping[str, str] | None

SPREAD = "unpickedPoseSpread"  # column: standard deviation of an image's rotation that its noise implies, in degrees


def write_particles(
    path: Path | str,
    particles: Particles,
    poses: Poses | None = None,
    *,
    halves: Sequence[int] | None = None,
    columns: Mapping[str, Column] | None = None,
    relocate: bool = False,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Write the rows of a set of particles, in its order, with poses.

    Rows that were read from a STAR file keep all their columns as text, those of a .cs file all their fields; poses,
    half sets and ``columns`` are put in or replace what was there. For other sets the columns are made: image names,
    optics, pixel size, box.

    Args:
        path: file name, ending in .star or .cs.
        particles: the set, or a part of one. Of a cropped one the images as they are stored are meant.
        poses: of every image; None keeps those that came with the images.
        halves: half set of every image, 1 or 2; None keeps what was there.
        columns: more columns (STAR) or numeric fields (.cs), one value per image.
        relocate: write the stacks' places as seen from the folder of ``path``, instead of their names as they were.
        overwrite: replace an existing file.

    Returns:
        Sentences on what the written format cannot hold.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        ValueError: for another ending, or poses, halves or columns of another number of images.
    """
    path, count = Path(path), len(particles)
    extra = dict(columns or {})
    lengths = {"poses": poses, "halves": halves} | {f"column {name}": values for name, values in extra.items()}
    for what, values in lengths.items():
        if values is not None and len(values) != count:
            raise ValueError(f"{what} must have one entry per image, {count}; got {len(values)}")
    if halves is not None and not set(halves) <= {1, 2}:
        raise ValueError(f"halves must number the half sets 1 and 2; got {sorted(set(halves))}")
    if poses is not None and not all(bool(v.isfinite().all()) for v in (poses.rotations, poses.shifts)):
        raise ValueError(f"not written, {path}: poses must be finite numbers; got NaN or infinity")
    if path.suffix.lower() not in (".star", ".cs"):
        raise ValueError(f"{path} must end in .star (RELION) or .cs (cryoSPARC)")
    particles = particles.stored()
    table = table_of(particles)
    stacks = _stacks(particles, table, path) if relocate else None
    listed = Listed(
        particles.names, particles.pixel_size, particles.box, particles.optics, particles.poses, particles.halves,
        _signs(particles), table,
    )  # fmt: skip
    return write_listed(path, listed, poses, halves=halves, columns=extra, stacks=stacks, overwrite=overwrite)


@dataclass(frozen=True, eq=False)
class Listed:
    """Rows of particle images to be written; the images need not be there.

    Attributes:
        names: ``000001@stack``.
        pixel_size: angstrom, where it is known.
        box: edge of the images in pixels, where it is known.
        optics: contrast transfer.
        poses: rotations and shifts.
        halves: half set of every image, 1 or 2.
        signs: factors, 1 or -1, that make matter bright; None is 1 for all.
        table: what they were read with; its columns are kept where the format stays.
    """

    names: tuple[str, ...]
    pixel_size: float | None
    box: int | None
    optics: Optics | None = None
    poses: Poses | None = None
    halves: tuple[int, ...] | None = None
    signs: NDArray[Any] | None = None
    table: ParticleTable | None = None

    def __len__(self) -> int:
        return len(self.names)


def write_listed(
    path: Path,
    listed: Listed,
    poses: Poses | None = None,
    *,
    halves: Sequence[int] | None = None,
    columns: Mapping[str, Column] | None = None,
    stacks: Stacks = None,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Write rows of particle images as .star or .cs; see :func:`write_particles`.

    Args:
        path: file name, ending in .star or .cs.
        listed: the rows.
        poses: in place of those that came with the rows.
        halves: likewise.
        columns: more columns or fields.
        stacks: names of stacks as they stand in the table to what is written.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        ValueError: for poses without a pixel size in a .cs file.
    """
    if path.suffix.lower() == ".cs":
        with narrowed(path):
            rows = _cs_rows(listed, poses, halves, stacks)
        if columns:
            rows = with_fields(rows, {name: np.asarray(values) for name, values in columns.items()})
        write_cs(rows, path, overwrite=overwrite)
        return ()
    write_star(path, _star_blocks(listed, poses, halves, columns or {}, stacks), overwrite=overwrite)
    return _lost(path, listed)


def _stacks(particles: Particles, table: ParticleTable | None, out: Path) -> dict[str, str]:
    """Names of stacks as they stand in the table to their places as seen from the folder of ``out``."""
    source = source_of(particles)
    if table is None or source is None:
        raise ValueError("relocate=True needs particles that were read from files; leave it out")
    here = out.resolve().parent
    places = (os.path.relpath(file.resolve(), here) for file in source.files)
    return dict(zip(table.files, places, strict=True))


def _lost(path: Path, listed: Listed) -> tuple[str, ...]:
    """What a STAR file cannot hold, and where it says something else than was used."""
    notes, table = [], listed.table
    if table is not None and table.odd_box:
        notes.append(f"{path}: the pixel that relion_odd_box=True added to the shifts is taken off again")
    signs = listed.signs
    if signs is not None and (minus := int((signs < 0).sum())):
        notes.append(
            f"{path}: {minus} of {len(signs)} images are multiplied by -1 on reading, which a STAR file cannot tell; "
            "read it with contrast='dark' (--contrast dark), or invert the stacks"
        )
    if table is not None and table.pixel_origin == "as given" and "optics" in (table.blocks or {}):
        notes.append(f"{path}: its optics groups say what {table.path} says, not the pixel size that was given")
    return tuple(notes)


def _star_blocks(
    listed: Listed, poses: Poses | None, halves: Sequence[int] | None, extra: Mapping[str, Column], stacks: Stacks
) -> Blocks:
    table = listed.table
    if table is not None and table.blocks is not None:
        blocks, rows = dict(table.blocks), table.blocks[table.block]
        optics = blocks.pop("optics", None)
        del blocks[table.block]
    else:
        blocks, optics, rows = {}, None, _made(listed)
        poses = listed.poses if poses is None else poses
    if stacks is not None:
        values = rows.strings("rlnImageName")
        rows = with_columns(rows, {"rlnImageName": [_renamed(value, stacks) for value in values]})
    if optics is None:
        optics, rows = _made_optics(listed, rows)
    if poses is not None:
        if table is not None and table.odd_box and listed.pixel_size is not None:
            poses = replace(poses, shifts=poses.shifts - listed.pixel_size)
        rows = with_columns(rows, _pose_columns(poses, listed.pixel_size if PIXELS[0] in rows else None))
    if halves is not None:
        rows = with_columns(rows, {"rlnRandomSubset": [int(half) for half in halves]})
    rows = with_columns(rows, extra)
    return {"optics": optics, "particles": rows} | {n: t for n, t in blocks.items() if n != "particles"}


def _renamed(value: str, stacks: Mapping[str, str]) -> str:
    number, at, name = value.rpartition("@") if re.match(r"[0-9]+@", value) else ("", "", value)
    return f"{number}{at}{stacks[name]}"


def with_columns(table: Table, columns: Mapping[str, Column]) -> Table:
    """The table with some columns put in or replaced."""
    if not columns:
        return table
    new = as_table("particles", columns)
    kept = dict(zip(table.names, table.columns, strict=True)) | dict(zip(new.names, new.columns, strict=True))
    return replace(table, names=tuple(kept), columns=tuple(kept.values()))


def _pose_columns(poses: Poses, pixel_size: float | None) -> dict[str, Column]:
    """Angles in degrees and origins in angstrom; also in pixels of this size, where it is given."""
    angles = matrix_to_euler(poses.rotations.detach().double().cpu())
    origins = 0.0 - poses.shifts.detach().double().cpu()
    columns: dict[str, Column] = {name: angles[:, axis].tolist() for axis, name in enumerate(ANGLES)}
    columns |= {name: origins[:, axis].tolist() for axis, name in enumerate(ANGSTROM)}
    if pixel_size is not None:
        columns |= {name: (origins[:, axis] / pixel_size).tolist() for axis, name in enumerate(PIXELS)}
    return columns


def _made(listed: Listed) -> Table:
    """Rows of particles that came without a STAR file."""
    columns: dict[str, Column] = {"rlnImageName": list(listed.names)}
    rows = None if listed.table is None else listed.table.rows
    fields = () if rows is None else rows.dtype.names or ()
    if rows is not None and listed.table is not None and "location/micrograph_path" in fields:
        if all(rows["location/micrograph_path"].tolist()):  # imported particles have none
            columns["rlnMicrographName"] = paths_of(listed.table.path, rows, "location/micrograph_path")
    if rows is not None and "ctf/exp_group_id" in fields:
        numbers = rows["ctf/exp_group_id"].tolist()
        place = {number: str(k) for k, number in enumerate(sorted(set(numbers)), start=1)}
        columns["rlnOpticsGroup"] = [place[number] for number in numbers]
    if listed.optics is not None:
        columns |= defocus_columns(listed.optics)
    if listed.halves is not None:
        columns["rlnRandomSubset"] = list(listed.halves)
    return as_table("particles", columns)


def _made_optics(listed: Listed, rows: Table) -> tuple[Table, Table]:
    """An optics block for rows without one: a group per number that the rows name and setting of the microscope."""
    head, rows = made_groups(rows, listed.optics)
    count = len(head["rlnOpticsGroup"])
    if listed.pixel_size is not None:
        head["rlnImagePixelSize"] = [float(listed.pixel_size)] * count
    if listed.box is not None:
        head["rlnImageSize"] = [listed.box] * count
    head["rlnImageDimensionality"] = [2] * count
    return as_table("optics", head), rows


def made_groups(rows: Table, optics: Optics | None) -> tuple[dict[str, Column], Table]:
    """The columns of an optics block for rows without one, and the rows with their group's number."""
    count = len(rows)
    given = rows.strings("rlnOpticsGroup") if "rlnOpticsGroup" in rows else ("1",) * count
    settings: list[tuple[float, ...]] = [()] * count
    titles: tuple[str, ...] = ()
    if optics is not None:
        kinds = list(zip(optics.voltage_kv, optics.cs_mm, optics.amplitude_contrast, strict=True))
        settings = [kinds[group] for group in optics.group]
        titles = MICROSCOPE
    elif titles := tuple(title for title in MICROSCOPE if title in rows):
        settings = list(zip(*(rows.floats(title).tolist() for title in titles), strict=True))
    pairs = list(zip(given, settings, strict=True))
    found = list(dict.fromkeys(pairs))
    names = [name for name, _ in found]
    if len(set(names)) < len(names) or any(re.fullmatch(r"[0-9]+", name) is None for name in names):
        names = [str(number) for number in range(1, len(found) + 1)]
    place = dict(zip(found, names, strict=True))
    head: dict[str, Column] = {"rlnOpticsGroup": names, "rlnOpticsGroupName": [f"opticsGroup{name}" for name in names]}
    head |= {title: [setting[axis] for _, setting in found] for axis, title in enumerate(titles)}
    return head, with_columns(rows, {"rlnOpticsGroup": [place[pair] for pair in pairs]})


def _cs_rows(listed: Listed, poses: Poses | None, halves: Sequence[int] | None, stacks: Stacks) -> NDArray[Any]:
    table = listed.table
    if table is not None and table.rows is not None:
        rows, stated = table.rows, table.signs
    else:
        poses, stated = listed.poses if poses is None else poses, None
        rows = new_rows(listed.names, listed.box, listed.pixel_size, listed.optics, listed.halves)
        rows = with_fields(rows, _carried(table))
    signs = np.ones(len(rows), "<f4") if listed.signs is None else listed.signs
    if (signs != (1 if stated is None else np.array(stated))).any():
        rows = with_fields(rows, {"blob/sign": signs})
    if stacks is not None and table is not None:
        places = [stacks[table.files[file]].encode() for file in table.which]
        rows = with_fields(rows, {"blob/path": np.array(places)})
    if halves is not None:
        rows = with_fields(rows, {"alignments3D/split": np.array(halves, "<u4") - np.uint32(1)})
    if poses is None:
        return rows
    if listed.pixel_size is None:
        where = "" if table is None else f"{table.path}: "
        raise ValueError(
            f"{where}shifts of a .cs file are in pixels, and no pixel size is known; give pixel_size= (--pixel-size)"
        )
    return with_poses(rows, poses, listed.pixel_size)


def _carried(table: ParticleTable | None) -> dict[str, NDArray[Any]]:
    """What else of a STAR file's rows a .cs file has a place for: micrograph and group."""
    if table is None or table.blocks is None:
        return {}
    rows, fields = table.blocks[table.block], {}
    if "rlnMicrographName" in rows:
        fields["location/micrograph_path"] = np.array([name.encode() for name in rows.strings("rlnMicrographName")])
    if "rlnOpticsGroup" in rows:
        fields["ctf/exp_group_id"] = rows.floats("rlnOpticsGroup").astype("<u4")
    return fields


def _signs(particles: Particles) -> NDArray[Any] | None:
    """Signs of stacks that were read as dark."""
    source = source_of(particles)
    if source is None or source.signs is None:
        return None
    place = {name: sign for name, sign in zip(source.names, source.signs, strict=True)}
    return np.array([place[name] for name in particles.names], "<f4")
