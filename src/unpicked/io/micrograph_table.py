"""What metadata say of micrographs: read without the images, kept whole for writing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unpicked.data.optics import Optics
from unpicked.io import cryosparc
from unpicked.io._files import existing
from unpicked.io._relion import (
    GIVEN,
    MICROSCOPE,
    OPTION,
    OPTIONAL,
    aberrations,
    check_sizes,
    column,
    group_rows,
    specimen_pixels,
    star_optics,
)
from unpicked.io.star import Table, read_star

STARS = (".star", ".star.gz", ".star.bz2")
BEFORE_BINNING = "rlnMicrographOriginalPixelSize"
_SIZES = ("rlnMicrographPixelSize", "rlnPixelSize", "rlnDetectorPixelSize", "rlnImagePixelSize", BEFORE_BINNING)
_BLOBS = ("micrograph_blob", "micrograph_blob_non_dw")
_CS_MICROSCOPE = dict(zip(MICROSCOPE, ("accel_kv", "cs_mm", "amp_contrast"), strict=True))


@dataclass(frozen=True, eq=False)
class MicrographTable:
    """The rows of a STAR or .cs file of micrographs, in the file's order.

    Attributes:
        path: the file.
        kind: "star" or "cs".
        names: of the image files, as they stand there.
        pixel_sizes: ``(n,)`` angstrom, where they are stated.
        stated_by: the column that states them.
        sizes: ``(n, 2)`` height and width in pixels, where they are stated.
        optics: contrast transfer, or None.
        microscope: what is stated of voltage, aberration and amplitude contrast, per row, by RELION's column name.
        notes: sentences that tell what was read, converted, assumed and left out.
        optics_notes: likewise, of the contrast transfer.
        blocks: all blocks of a STAR file.
        block: name of the block that lists the micrographs.
        rows: the structured array of a .cs file.
    """

    path: Path
    kind: Literal["star", "cs"]
    names: tuple[str, ...]
    pixel_sizes: NDArray[np.float64] | None = None
    stated_by: str = ""
    sizes: NDArray[np.int64] | None = None
    optics: Optics | None = None
    microscope: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    optics_notes: tuple[str, ...] = ()
    blocks: Mapping[str, Table] | None = None
    block: str = ""
    rows: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def pixel_size(self) -> float | None:
        """The one that all rows state, or None.

        Raises:
            ValueError: if rows differ by more than 0.1 %.
        """
        sizes = self.pixel_sizes
        if sizes is None:
            return None
        if sizes.max() > 1.001 * sizes.min():
            raise ValueError(
                f"{self.path}: {self.stated_by} goes from {sizes.min():g} to {sizes.max():g} A; expected one pixel "
                "size; split the file by optics group, or give pixel_size= (--pixel-size) if one is wrong"
            )
        return float(sizes[0])


def read_micrograph_table(
    path: Path | str,
    *,
    passthrough: Path | str | Sequence[Path | str] = (),
    ctf: bool = True,
    given: Mapping[str, float] | None = None,
) -> MicrographTable:
    """What a file says of micrographs; the images need not be there.

    Args:
        path: RELION STAR file (3.0 to 5), or .cs file of cryoSPARC's exposures.
        passthrough: .cs files with more fields of the same exposures, joined by ``uid``.
        ctf: False leaves contrast transfer out.
        given: values for what the file does not say of the microscope, by RELION's column name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it lists no micrographs, one of them twice, only some have contrast transfer, or values make no
            sense.
    """
    if str(path).lower().endswith(".cs"):
        table = _from_cs(existing(path, ".cs file"), passthrough, ctf, given or {})
    elif passthrough:
        raise ValueError(f"passthrough files belong to a .cs file; got {path}")
    else:
        table = _from_star(existing(path, "STAR file"), ctf, given or {})
    check_once(table.names, str(path))
    return table


def check_once(names: Sequence[str], where: str) -> None:
    """Raise ValueError where a name occurs twice."""
    if len(set(names)) != len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{where} names {twice} more than once; expected every micrograph once")


def blank(
    where: str, names: Sequence[str], u: NDArray[np.float64], v: NDArray[np.float64], phase: NDArray[np.float64]
) -> bool:
    """Whether no micrograph has a defocus: not a number, or 0 without a phase shift, as programs fill it in.

    Raises:
        ValueError: if some have one and others do not.
    """
    none = ~(np.isfinite(u) & np.isfinite(v)) | ((u == 0) & (v == 0) & (phase == 0))
    if none.any() and not none.all():
        row = int(np.argmax(none))
        raise ValueError(
            f"{where}: {int(none.sum())} of {len(none)} micrographs have no contrast transfer while the others do, the "
            f"first is row {row + 1}, {names[row]} (defocus {u[row]:g}, {v[row]:g}); estimate it for all, or leave "
            "these out"
        )
    return bool(none.all())


def optics_note(optics: Optics) -> str:
    """The range of the contrast transfer of a set, in one sentence."""
    mean = [(u + v) / 2 for u, v in zip(optics.defocus_u, optics.defocus_v, strict=True)]
    most = max(abs(u - v) for u, v in zip(optics.defocus_u, optics.defocus_v, strict=True))
    parts = [
        f"defocus {_range(mean)} A (mean of u and v, underfocus positive)",
        f"astigmatism up to {most:.5g} A",
        f"phase shift {_range(optics.phase_shift)} degrees",
        f"{_range(optics.voltage_kv)} kV",
        f"Cs {_range(optics.cs_mm)} mm",
        f"amplitude contrast {_range(optics.amplitude_contrast)}",
    ]
    if any(optics.b_factor):
        parts.append(f"B factor {_range(optics.b_factor)} A^2")
    if any(scale != 1 for scale in optics.scale):
        parts.append(f"scale {_range(optics.scale)}")
    doubt = ""
    if min(mean) < 0 or max(mean) > 1e5:
        doubt = "; defocus beyond 0 to 100,000 A is unusual: check its sign and unit"
    return ", ".join(parts) + doubt


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.6g}", f"{max(values):.6g}"
    return low if low == high else f"{low} to {high}"


def _from_star(path: Path, ctf: bool, given: Mapping[str, float]) -> MicrographTable:
    blocks = read_star(path)
    groups = blocks.get("optics")
    block = next((name for name, t in blocks.items() if name != "optics" and "rlnMicrographName" in t), None)
    if block is None:
        raise ValueError(f"{path} lists no micrographs; expected a column rlnMicrographName")
    table = blocks[block]
    if "rlnImageName" in table or "rlnCoordinateX" in table:
        raise ValueError(f"{path} is a STAR file of particles; expected one of micrographs")
    names = table.strings("rlnMicrographName")
    rows = group_rows(path, table, groups)
    sizes, stated_by = _star_sizes(path, table, groups, rows)
    optics, told = _star_optics(path, names, table, groups, rows, given) if ctf else (None, [])
    stated = {name: column(name, table, groups, rows) for name in MICROSCOPE}
    microscope = {name: values for name, values in stated.items() if values is not None}
    notes = (f"micrographs listed in {path}, {_layout(groups)}", *aberrations(table, groups))
    return MicrographTable(
        path, "star", names, sizes, stated_by, None, optics, microscope, notes, tuple(told), blocks, block
    )


def _star_optics(
    path: Path,
    names: Sequence[str],
    table: Table,
    groups: Table | None,
    rows: Sequence[int],
    given: Mapping[str, float],
) -> tuple[Optics | None, list[str]]:
    """Contrast transfer of every row, and notes."""
    u, v, phase = (_defocus(name, table) for name in ("rlnDefocusU", "rlnDefocusV", "rlnPhaseShift"))
    if u is not None and v is not None and blank(str(path), names, u, v, np.zeros(len(u)) if phase is None else phase):
        return None, ["no contrast transfer is known: the defocus is empty or 0 in every row"]
    optics, remark = star_optics(table, groups, rows, "micrographs", given)
    notes = [remark.partition("; give ")[0] + _missing(optics, {name: name for name in MICROSCOPE}, remark)]
    if optics is not None:
        taken = [name for name in given if column(name, table, groups, rows) is None]
        notes += [f"{name} is {given[name]:g}, as given: the file has none" for name in taken]
        absent = [(name, value) for name, value in OPTIONAL if column(name, table, groups, rows) is None]
        if absent:
            told = ", ".join(f"{name} {value:g}" for name, value in absent)
            notes.append(f"assumed, as the file has no such columns: {told}")
    return optics, notes


def _missing(optics: Optics | None, titles: Mapping[str, str], remark: str) -> str:
    """What to give where nothing but the microscope's properties is missing; ``titles`` name them in the file."""
    if optics is not None:
        return ""
    absent = remark.rpartition(" has no ")[2].partition(";")[0].split(", ")
    if not set(absent) <= set(titles):
        return ""
    return "; give " + ", ".join(f"{GIVEN[titles[name]]} ({OPTION[titles[name]]})" for name in absent)


def _layout(groups: Table | None) -> str:
    if groups is None:
        return "no optics block (RELION 3.0 style)"
    return "one optics group" if len(groups) == 1 else f"{len(groups)} optics groups"


def _defocus(name: str, table: Table) -> NDArray[np.float64] | None:
    """A column in which entries without a value are NaN; None where there is no such column."""
    if name not in table:
        return None
    values = table.strings(name)
    out = np.full(len(values), math.nan)
    for row, text in enumerate(values):
        if text.lower() in ("", ".", "?", "none", "nan", "-nan", "null", "<na>", "inf", "-inf"):
            continue
        try:
            out[row] = float(text)
        except ValueError:
            table.floats(name)  # says which row holds what
    return out


def _star_sizes(
    path: Path, table: Table, groups: Table | None, rows: Sequence[int]
) -> tuple[NDArray[np.float64] | None, str]:
    """The pixel sizes that the STAR file states, and the column that states them."""
    for name in _SIZES:
        sizes = column(name, table, groups, rows)
        if sizes is None:
            continue
        if name == "rlnDetectorPixelSize":
            magnification = column("rlnMagnification", table, groups, rows)
            if magnification is None or not (magnification > 0).all():
                continue
            sizes = specimen_pixels(sizes, magnification)
        check_sizes(path, sizes, name)
        return sizes, name
    return None, ""


def _from_cs(
    path: Path, passthrough: Path | str | Sequence[Path | str], ctf: bool, given: Mapping[str, float]
) -> MicrographTable:
    rows, remarks = cryosparc.joined(path, cryosparc.read_cs(path), passthrough)
    fields = rows.dtype.names or ()
    room = next((name for name in _BLOBS if f"{name}/path" in fields), None)
    if room is None:
        more = ""
        if "blob/path" in fields:
            more = "; it is a .cs file of particle images: try reconstruct particles"
        elif "movie_blob/path" in fields:
            more = "; it lists movies: correct their motion first"
        raise ValueError(
            f"{path} lists no micrographs: it has no micrograph_blob/path{more}; give the exposures of a job, or the "
            "file that has the field as passthrough= (--passthrough)"
        )
    names = tuple(cryosparc.paths_of(path, rows, f"{room}/path"))
    sizes = cryosparc.pixel_sizes(path, rows, f"{room}/psize_A")
    if sizes is not None:
        check_sizes(path, sizes, f"{room}/psize_A")
    shapes = None
    if f"{room}/shape" in fields:
        shapes = cryosparc.numbers(path, rows, f"{room}/shape", (2,)).astype(np.int64)
    notes = [f"micrographs listed in {path}, {room}", *remarks]
    full, remarks_on_it = _with_microscope(rows)
    optics, told = _cs_optics(path, names, full, given) if ctf else (None, [])
    microscope = {
        name: cryosparc.numbers(path, full, f"ctf/{entry}")
        for name, entry in _CS_MICROSCOPE.items()
        if f"ctf/{entry}" in (full.dtype.names or ())
    }
    notes += [*remarks_on_it, *cryosparc.cs_aberrations(rows)]
    return MicrographTable(
        path, "cs", names, sizes, f"{room}/psize_A", shapes, optics, microscope, tuple(notes), tuple(told), rows=rows
    )


def _with_microscope(rows: NDArray[Any]) -> tuple[NDArray[Any], list[str]]:
    """Rows whose ctf fields have the microscope's own where they have none, and notes."""
    notes = []
    for entry in ("accel_kv", "cs_mm"):
        fields = rows.dtype.names or ()
        if f"ctf/{entry}" not in fields and f"mscope_params/{entry}" in fields:
            rows = cryosparc.with_fields(rows, {f"ctf/{entry}": rows[f"mscope_params/{entry}"]})
            notes.append(f"{entry} is that of mscope_params")
    return rows, notes


def _cs_optics(
    path: Path, names: Sequence[str], rows: NDArray[Any], given: Mapping[str, float]
) -> tuple[Optics | None, list[str]]:
    """Contrast transfer of every row, and notes."""
    fields = rows.dtype.names or ()
    if "ctf/df1_A" in fields and "ctf/df2_A" in fields:
        names_of = ("ctf/df1_A", "ctf/df2_A", "ctf/phase_shift_rad")
        u, v, phase = (_doubtful(path, rows, name) if name in fields else np.zeros(len(rows)) for name in names_of)
        if blank(str(path), names, u, v, phase):
            return None, ["no contrast transfer is known: the defocus is empty or 0 in every row"]
    optics, remark = cryosparc.cs_optics(path, rows, None, given, "micrographs")
    notes = [remark + _missing(optics, {f"ctf/{entry}": name for name, entry in _CS_MICROSCOPE.items()}, remark)]
    if "ctf/path" in fields and any(value not in (b"", "") for value in rows["ctf/path"].tolist()):
        notes.append("a defocus that varies over a micrograph (ctf/path, of Patch CTF) is not read: its mean is taken")
    return optics, notes


def _doubtful(path: Path, rows: NDArray[Any], name: str) -> NDArray[np.float64]:
    """A field as float64, some of which may not be finite."""
    values = rows[name]
    if values.dtype.kind not in "fiub" or values.ndim != 1:
        raise ValueError(f"{path}: {name} must hold a number per row; got {values.dtype}, {values.shape[1:]}")
    with np.errstate(all="ignore"):  # of signalling NaN
        return values.astype(np.float64)
