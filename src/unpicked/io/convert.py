"""From RELION's files to cryoSPARC's and back: rows of particle images and of micrographs; pixel size and contrast."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpicked.data.maps import Map
from unpicked.io import cryosparc
from unpicked.io._files import existing
from unpicked.io._mrc import header_pixel_size, read_header
from unpicked.io._relion import MICROSCOPE, NEEDED, OPTIONAL
from unpicked.io.micrograph_table import BEFORE_BINNING, STARS, MicrographTable, optics_note, read_micrograph_table
from unpicked.io.micrographs import locate_micrograph
from unpicked.io.mrc import Contrast, MrcSource, check_contrast, read_map, write_image, write_map
from unpicked.io.particle_files import Listed, made_groups, with_columns, write_listed
from unpicked.io.particle_table import ANGLES, ANGSTROM, PIXELS, ParticleTable, checked_pixel_size
from unpicked.io.particles import locate_stack, read_particle_table
from unpicked.io.stacks import StackSource, stack_header, write_stack_of
from unpicked.io.star import Table, as_table, read_star, write_star
from unpicked.io.star_layouts import write_micrographs_star
from unpicked.ops import seeding

IMAGES = (".mrc", ".mrcs", ".map")
_STAR_TAKEN = {
    "rlnImageName", "rlnMicrographName", *ANGLES, *ANGSTROM, *PIXELS, *NEEDED, *(name for name, _ in OPTIONAL),
    "rlnOpticsGroup", "rlnOpticsGroupName", "rlnImagePixelSize", "rlnPixelSize", "rlnDetectorPixelSize",
    "rlnMagnification", "rlnImageSize", "rlnImageDimensionality", "rlnRandomSubset", "rlnMicrographPixelSize",
    BEFORE_BINNING,
}  # fmt: skip
_CTF = ("type", "exp_group_id", "accel_kv", "cs_mm", "amp_contrast", "df1_A", "df2_A", "df_angle_rad",
        "phase_shift_rad", "scale", "bfactor")  # fmt: skip
_ALIGNED = ("alignments3D/pose", "alignments3D/shift", "alignments3D/psize_A")
_CS_TAKEN = {
    "uid", *(f"blob/{name}" for name in ("path", "idx", "shape", "psize_A", "sign")), *(f"ctf/{name}" for name in _CTF),
    *_ALIGNED, *(name.replace("3D", "_class_0") for name in _ALIGNED), "alignments3D/split", "location/micrograph_path",
    *(f"micrograph_blob/{name}" for name in ("path", "idx", "shape", "psize_A", "format")),
    "mscope_params/accel_kv", "mscope_params/cs_mm",
}  # fmt: skip


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        kind: "particles", "micrographs", "stack", "image" or "map".
        count: rows, images, or 1.
        notes: sentences: read, converted, assumed, left out.
    """

    kind: str
    count: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Changes:
    """How a file is read or what is changed in it.

    Attributes:
        pixel_size: angstrom, in place of what the file says.
        contrast: of the images that the file lists or holds; None takes its word for it, and bright without one.
        passthrough: .cs files with more fields of the same rows, joined by ``uid``.
        ctf: False leaves contrast transfer out where the format changes.
        relocate: write the places of the image files as seen from the new file's folder; they must be there.
    """

    pixel_size: float | None = None
    contrast: Contrast | None = None
    passthrough: tuple[Path, ...] = ()
    ctf: bool = True
    relocate: bool = False

    def __post_init__(self) -> None:
        if self.pixel_size is not None:
            checked_pixel_size(self.pixel_size)
        if self.contrast is not None:
            check_contrast(self.contrast)


def convert(source: Path | str, out: Path | str, changes: Changes = Changes(), *, overwrite: bool = False) -> Converted:
    """Write what a file says of particle images or micrographs in another format, or in its own with changes.

    STAR to STAR keeps every column as text (and becomes RELION 3.1), .cs to .cs every field; between the two go names,
    pixel size, box, contrast transfer, poses, half sets and micrographs, and what is left out is told. An MRC stack or
    map is written again with another pixel size or sign.

    Args:
        source: STAR file, .cs file, or MRC stack or map.
        out: file name, ending in .star or .cs; for MRC files in .mrc, .mrcs or .map.
        changes: see :class:`Changes`.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: if ``out`` exists and ``overwrite`` is False.
        FileNotFoundError: if there is no such file.
        ValueError: for files that list neither particle images nor micrographs, or rows that the other format cannot
            hold together.
    """
    source, out = existing(source, "file to convert"), Path(out)
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; give overwrite=True (--overwrite) or another name")
    name, ending = source.name.lower(), out.suffix.lower()
    if name.endswith(IMAGES):
        return _images(source, out, changes, overwrite)
    if not name.endswith((*STARS, ".cs")):
        raise ValueError(f"{source} is no file to convert; expected .star, .cs, {', '.join(IMAGES)}")
    if ending not in (".star", ".cs"):
        raise ValueError(f"{out} must end in .star (RELION) or .cs (cryoSPARC)")
    kind = _kind(source, changes.passthrough)
    return (_particles if kind == "particles" else _micrographs)(source, out, changes, overwrite)


def _kind(source: Path, passthrough: Sequence[Path]) -> str:
    """Whether a file lists particles or micrographs."""
    if source.name.lower().endswith(".cs"):
        fields = {name for path in (source, *passthrough) for name in cryosparc.read_cs(path).dtype.names or ()}
        if "blob/path" in fields:
            return "particles"
        if {"micrograph_blob/path", "micrograph_blob_non_dw/path"} & fields:
            return "micrographs"
        raise ValueError(f"{source} lists neither particle images (blob/path) nor micrographs (micrograph_blob/path)")
    blocks = [block for name, block in read_star(source).items() if name != "optics"]
    if any("rlnImageName" in block for block in blocks):
        return "particles"
    if any("rlnMicrographName" in block and "rlnCoordinateX" not in block for block in blocks):
        return "micrographs"
    raise ValueError(f"{source} lists neither particle images (rlnImageName) nor micrographs (rlnMicrographName alone)")


def _particles(source: Path, out: Path, changes: Changes, overwrite: bool) -> Converted:
    kind = "cs" if out.suffix.lower() == ".cs" else "star"
    same = kind == ("cs" if source.name.lower().endswith(".cs") else "star")
    ctf = None if changes.ctf and not same else False
    table = read_particle_table(source, pixel_size=changes.pixel_size, passthrough=changes.passthrough, ctf=ctf)
    notes = [note for note in table.notes if not same or "contrast transfer" not in note]
    if table.mixed and not same:
        raise ValueError(table.mixed)
    if same and changes.pixel_size is not None:
        table = _resized(table, changes.pixel_size)
        notes.append(
            f"pixel size {changes.pixel_size:g} A, as given; shifts stay in the unit in which the file has them"
        )
    signs = None if table.signs is None else np.array(table.signs, "<f4")
    if changes.contrast == "dark":
        signs = -(np.ones(len(table), "<f4") if signs is None else signs)
    box = table.box if same or table.box is not None else _box(table)
    if box is None and not same:
        notes.append("no box is stated, and the first stack is not there: left out")
    stacks = None
    if changes.relocate:
        stacks = _relocated(out, table.files, lambda _, name: locate_stack(table, name))
    else:
        notes += _far(source, out, table.files)
    poses = None if same else table.poses()
    listed = Listed(table.names, table.pixel_size, box, table.optics, poses, table.halves, signs, table)
    columns = _in_angstrom(table) if same and table.blocks is not None else {}
    more = write_listed(out, listed, columns=columns, stacks=stacks, overwrite=overwrite)
    notes += [*more, *([] if same else _left_out(table.blocks, table.rows))]
    return Converted("particles", len(table), tuple(notes))


def _in_angstrom(table: ParticleTable) -> dict[str, list[float]]:
    """Origins in angstrom, as RELION 3.1 wants them, for rows that have them in pixels only."""
    rows = (table.blocks or {})[table.block]
    if ANGSTROM[0] in rows or PIXELS[0] not in rows or table.pixel_size is None or table.shifts is None:
        return {}
    origins = 0.0 - table.shifts * table.pixel_size
    return {name: origins[:, axis].tolist() for axis, name in enumerate(ANGSTROM)}


def _resized(table: ParticleTable, pixel_size: float) -> ParticleTable:
    """The rows with another pixel size."""
    if table.rows is not None:
        sizes = np.full(len(table), pixel_size, "<f4")
        return replace(table, rows=cryosparc.with_fields(table.rows, {"blob/psize_A": sizes}))
    blocks = dict(table.blocks or {})
    for name in {"optics", table.block} & set(blocks):
        block = blocks[name]
        if name == "optics" or "rlnImagePixelSize" in block:
            blocks[name] = with_columns(block, {"rlnImagePixelSize": [pixel_size] * len(block)})
    return replace(table, blocks=blocks, pixel_origin="")


def _box(table: ParticleTable) -> int | None:
    """The box of the first stack, where that is there."""
    try:
        return stack_header(locate_stack(table, table.files[0]), named=True).shape[1]
    except (OSError, ValueError):
        return None


def _micrographs(source: Path, out: Path, changes: Changes, overwrite: bool) -> Converted:
    if changes.contrast is not None:
        raise ValueError("lists of micrographs do not say their contrast; leave --contrast out, or convert the images")
    kind = "cs" if out.suffix.lower() == ".cs" else "star"
    other = source.name.lower().endswith(".cs") != (kind == "cs")
    table = read_micrograph_table(source, passthrough=changes.passthrough, ctf=changes.ctf and other)
    size = changes.pixel_size if changes.pixel_size is not None else table.pixel_size if other else None
    names: Sequence[str] = table.names
    notes = [*table.notes, *table.optics_notes]
    if changes.relocate:
        places = _relocated(out, names, lambda row, name: locate_micrograph(table.path, row, name))
        names = [places[name] for name in names]
    else:
        notes += _far(source, out, names)
    if table.optics is not None:
        notes.append(optics_note(table.optics))
    if other:
        if size is None:
            raise ValueError(f"{source} states no pixel size; give pixel_size= (--pixel-size), in angstrom")
        notes += _left_out(table.blocks, table.rows)
    if kind == "cs":
        rows = table.rows
        if rows is None:
            shapes, remark = _shapes(table)
            with cryosparc.narrowed(out):
                rows, notes = _exposures(table, names, size or 0.0, shapes), notes + remark
        else:
            with cryosparc.narrowed(out):
                rows = _changed_rows(table, rows, names if changes.relocate else None, size)
        cryosparc.write_cs(rows, out, overwrite=overwrite)
    elif table.rows is not None:
        write_micrographs_star(out, names, size or 0.0, optics=table.optics, overwrite=overwrite)
    else:
        write_star(out, _star_blocks(table, names, size), overwrite=overwrite)
    return Converted("micrographs", len(table), tuple(notes))


def _changed_rows(
    table: MicrographTable, rows: NDArray[Any], names: Sequence[str] | None, size: float | None
) -> NDArray[Any]:
    """The rows of a .cs file with other places or another pixel size."""
    room = table.stated_by.partition("/")[0]
    fields: dict[str, NDArray[Any]] = {}
    if names is not None:
        fields[f"{room}/path"] = np.array([name.encode() for name in names])
    if size is not None:
        fields[f"{room}/psize_A"] = np.full(len(rows), size, "<f4")
    return cryosparc.with_fields(rows, fields)


def _star_blocks(table: MicrographTable, names: Sequence[str], size: float | None) -> dict[str, Table]:
    """All blocks of a STAR file of micrographs, with every column, in the layout of RELION 3.1."""
    blocks = dict(table.blocks or {})
    rows, groups = with_columns(blocks.pop(table.block), {"rlnMicrographName": list(names)}), blocks.pop("optics", None)
    if groups is None:
        head, rows = made_groups(rows, None)
        sizes = size if size is not None else table.pixel_size
        if sizes is not None:
            head["rlnMicrographPixelSize"] = [sizes] * len(head["rlnOpticsGroup"])
        groups = as_table("optics", head)
    elif size is not None:
        groups = with_columns(groups, {"rlnMicrographPixelSize": [size] * len(groups)})
    if size is not None and "rlnMicrographPixelSize" in rows:
        rows = with_columns(rows, {"rlnMicrographPixelSize": [size] * len(rows)})
    return {"optics": groups, "micrographs": rows} | {n: t for n, t in blocks.items() if n != "micrographs"}


def _exposures(table: MicrographTable, names: Sequence[str], size: float, shapes: NDArray[Any] | None) -> NDArray[Any]:
    """Rows of a new .cs file of exposures."""
    count = len(names)
    fields: dict[str, NDArray[Any]] = {
        "uid": np.array([seeding.derive(row, name) for row, name in enumerate(names)], "<u8"),
        "micrograph_blob/path": np.array([name.encode() for name in names]),
        "micrograph_blob/idx": np.zeros(count, "<u4"),
        "micrograph_blob/psize_A": np.full(count, size, "<f4"),
    }
    if shapes is not None:
        fields["micrograph_blob/shape"] = shapes.astype("<u4")
    for name, entry in zip(MICROSCOPE[:2], ("accel_kv", "cs_mm"), strict=True):
        if name in table.microscope:
            fields[f"mscope_params/{entry}"] = table.microscope[name].astype("<f4")
    if table.optics is not None:
        fields |= cryosparc.ctf_fields(table.optics)
    return cryosparc.with_fields(np.zeros(count, [("uid", "<u8")]), fields)


def _shapes(table: MicrographTable) -> tuple[NDArray[Any] | None, list[str]]:
    """Height and width of every micrograph, where the files are there."""
    try:
        paths = [locate_micrograph(table.path, row, name) for row, name in enumerate(table.names, start=1)]
        return np.array([read_header(path).shape[1:] for path in paths]), []
    except (OSError, ValueError):
        return None, ["the micrographs are not there, or no MRC files: micrograph_blob/shape is left out"]


def _relocated(out: Path, names: Sequence[str], find: Callable[[int, str], Path]) -> dict[str, str]:
    """Names of image files as they stand to their places as seen from the folder of ``out``."""
    here = out.resolve().parent
    return {name: os.path.relpath(find(row, name).resolve(), here) for row, name in enumerate(names, start=1)}


def _far(source: Path, out: Path, names: Sequence[str]) -> list[str]:
    """A note where names that were seen from one folder will be seen from another."""
    if out.resolve().parent == source.resolve().parent or all(Path(name).is_absolute() for name in names):
        return []
    return [
        "names of image files are as they were, though the new file lies in another folder: --relocate changes them"
    ]


def _left_out(blocks: Mapping[str, Table] | None, rows: NDArray[Any] | None) -> list[str]:
    """A note on the columns or fields that the other format was not given."""
    if rows is not None:
        left = [name for name in rows.dtype.names or () if name not in _CS_TAKEN]
    else:
        left = [name for block in (blocks or {}).values() for name in block.names if name not in _STAR_TAKEN]
    return [f"left out, as they are not converted: {', '.join(dict.fromkeys(left))}"] if left else []


def _images(source: Path, out: Path, changes: Changes, overwrite: bool) -> Converted:
    """An MRC stack, image or map with another pixel size or sign."""
    if not out.name.lower().endswith(IMAGES):
        raise ValueError(f"{out} must end in {', '.join(IMAGES)}, as {source.name} does")
    header = read_header(source)
    notes = [*header.notes]
    if changes.contrast == "dark":
        notes.append("contrast dark: values are multiplied by -1")
    contrast: Contrast = changes.contrast or "bright"
    if header.shape[0] == 1:
        image = MrcSource((source,), "bright", changes.pixel_size)
        size = changes.pixel_size if changes.pixel_size is not None else image.stated
        write_image(image.read(0), out, size, contrast=contrast, overwrite=overwrite)
        return Converted("image", 1, (*notes, f"one image of {size:g} A per pixel"))
    if source.name.lower().endswith(".mrcs"):
        size = changes.pixel_size if changes.pixel_size is not None else header_pixel_size(header)
        count = stack_header(source).shape[0]
        images = StackSource((source,), (0,) * count, tuple(range(count)), tuple(f"{k}@{source}" for k in range(count)))
        write_stack_of((images.read(k) for k in range(count)), out, count, size, contrast=contrast, overwrite=overwrite)
        return Converted("stack", count, (*notes, f"{count} images of {size:g} A per pixel"))
    map = read_map(source, voxel_size=changes.pixel_size)
    values = -map.values if changes.contrast == "dark" else map.values
    write_map(Map(values, map.voxel_size, map.origin), out, overwrite=overwrite)
    return Converted("map", 1, (*notes, f"a map of {map.box} voxels of {map.voxel_size:g} A"))
