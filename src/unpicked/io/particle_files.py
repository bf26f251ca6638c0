"""Particles written as RELION 3.1 STAR or cryoSPARC .cs: every row, in input order, with all columns that it had."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.io._relion import MICROSCOPE
from unpicked.io.cryosparc import new_rows, with_fields, with_poses, write_cs
from unpicked.io.particle_table import ANGLES, ANGSTROM, PIXELS, ParticleTable
from unpicked.io.particles import source_of, table_of
from unpicked.io.star import Column, Table, as_table, write_star
from unpicked.io.star_layouts import defocus_columns
from unpicked.ops.rotation import matrix_to_euler

Blocks = dict[str, Table]

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
    if path.suffix.lower() == ".cs":
        rows = _cs_rows(particles, table, poses, halves, stacks)
        if extra:
            rows = with_fields(rows, {name: np.asarray(values) for name, values in extra.items()})
        write_cs(rows, path, overwrite=overwrite)
        return ()
    write_star(path, _star_blocks(particles, table, poses, halves, extra, stacks), overwrite=overwrite)
    return _lost(path, particles, table)


def _stacks(particles: Particles, table: ParticleTable | None, out: Path) -> dict[str, str]:
    """Names of stacks as they stand in the table to their places as seen from the folder of ``out``."""
    source = source_of(particles)
    if table is None or source is None:
        raise ValueError("relocate=True needs particles that were read from files; leave it out")
    here = out.resolve().parent
    places = (os.path.relpath(file.resolve(), here) for file in source.files)
    return dict(zip(table.files, places, strict=True))


def _lost(path: Path, particles: Particles, table: ParticleTable | None) -> tuple[str, ...]:
    """What a STAR file cannot hold, and where it says something else than was used."""
    notes = []
    if table is not None and table.odd_box:
        notes.append(f"{path}: the pixel that relion_odd_box=True added to the shifts is taken off again")
    signs = _signs(particles)
    if signs is not None and (minus := int((signs < 0).sum())):
        notes.append(
            f"{path}: {minus} of {len(signs)} images are multiplied by -1 on reading, which a STAR file cannot tell; "
            "read it with contrast='dark' (--contrast dark), or invert the stacks"
        )
    if table is not None and table.pixel_origin == "as given" and "optics" in (table.blocks or {}):
        notes.append(f"{path}: its optics groups say what {table.path} says, not the pixel size that was given")
    return tuple(notes)


def _star_blocks(
    particles: Particles,
    table: ParticleTable | None,
    poses: Poses | None,
    halves: Sequence[int] | None,
    extra: Mapping[str, Column],
    stacks: Mapping[str, str] | None,
) -> Blocks:
    if table is not None and table.blocks is not None:
        blocks, rows = dict(table.blocks), table.blocks[table.block]
        optics = blocks.pop("optics", None)
        del blocks[table.block]
    else:
        blocks, optics, rows = {}, None, _made(particles)
        poses = particles.poses if poses is None else poses
    if stacks is not None:
        values = rows.strings("rlnImageName")
        rows = _with(rows, {"rlnImageName": [_renamed(value, stacks) for value in values]})
    if optics is None:
        optics, rows = _made_optics(particles, rows)
    if poses is not None:
        if table is not None and table.odd_box:
            poses = replace(poses, shifts=poses.shifts - particles.pixel_size)
        rows = _with(rows, _pose_columns(poses, PIXELS[0] in rows, particles.pixel_size))
    if halves is not None:
        rows = _with(rows, {"rlnRandomSubset": [int(half) for half in halves]})
    rows = _with(rows, extra)
    return {"optics": optics, "particles": rows} | {n: t for n, t in blocks.items() if n != "particles"}


def _renamed(value: str, stacks: Mapping[str, str]) -> str:
    number, at, name = value.rpartition("@") if re.match(r"[0-9]+@", value) else ("", "", value)
    return f"{number}{at}{stacks[name]}"


def _with(table: Table, columns: Mapping[str, Column]) -> Table:
    """The table with some columns put in or replaced."""
    if not columns:
        return table
    new = as_table("particles", columns)
    kept = dict(zip(table.names, table.columns, strict=True)) | dict(zip(new.names, new.columns, strict=True))
    return replace(table, names=tuple(kept), columns=tuple(kept.values()))


def _pose_columns(poses: Poses, in_pixels: bool, pixel_size: float) -> dict[str, Column]:
    """Angles in degrees and origins in angstrom; also in pixels where a table has such columns already."""
    angles = matrix_to_euler(poses.rotations.detach().double().cpu())
    origins = 0.0 - poses.shifts.detach().double().cpu()
    columns: dict[str, Column] = {name: angles[:, axis].tolist() for axis, name in enumerate(ANGLES)}
    columns |= {name: origins[:, axis].tolist() for axis, name in enumerate(ANGSTROM)}
    if in_pixels:
        columns |= {name: (origins[:, axis] / pixel_size).tolist() for axis, name in enumerate(PIXELS)}
    return columns


def _made(particles: Particles) -> Table:
    """Rows of particles that came without a STAR file."""
    columns: dict[str, Column] = {"rlnImageName": list(particles.names)}
    if particles.optics is not None:
        columns |= defocus_columns(particles.optics)
    if particles.halves is not None:
        columns["rlnRandomSubset"] = list(particles.halves)
    return as_table("particles", columns)


def _made_optics(particles: Particles, rows: Table) -> tuple[Table, Table]:
    """An optics block for rows without one: a group per number that the rows name and setting of the microscope."""
    count, optics = len(particles), particles.optics
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
    head["rlnImagePixelSize"] = [float(particles.pixel_size)] * len(found)
    head["rlnImageSize"] = [particles.box] * len(found)
    head["rlnImageDimensionality"] = [2] * len(found)
    return as_table("optics", head), _with(rows, {"rlnOpticsGroup": [place[pair] for pair in pairs]})


def _cs_rows(
    particles: Particles,
    table: ParticleTable | None,
    poses: Poses | None,
    halves: Sequence[int] | None,
    stacks: Mapping[str, str] | None,
) -> NDArray[Any]:
    if table is not None and table.rows is not None:
        rows, stated = table.rows, table.signs
    else:
        poses, stated = particles.poses if poses is None else poses, None
        rows = new_rows(particles.names, particles.box, particles.pixel_size, particles.optics, particles.halves)
    signs = _signs(particles)
    signs = np.ones(len(rows), "<f4") if signs is None else signs
    if (signs != (1 if stated is None else np.array(stated))).any():
        rows = with_fields(rows, {"blob/sign": signs})
    if stacks is not None and table is not None:
        places = [stacks[table.files[file]].encode() for file in table.which]
        rows = with_fields(rows, {"blob/path": np.array(places)})
    if halves is not None:
        rows = with_fields(rows, {"alignments3D/split": np.array(halves, "<u4") - np.uint32(1)})
    return rows if poses is None else with_poses(rows, poses, particles.pixel_size)


def _signs(particles: Particles) -> NDArray[Any] | None:
    """Signs of stacks that were read as dark."""
    source = source_of(particles)
    if source is None or source.signs is None:
        return None
    place = {name: sign for name, sign in zip(source.names, source.signs, strict=True)}
    return np.array([place[name] for name in particles.names], "<f4")
