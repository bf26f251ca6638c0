"""What every RELION table shares: optics groups matched by number, columns of either block, contrast transfer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unpicked.data.optics import Optics
from unpicked.io.star import Table

MICROSCOPE = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
NEEDED = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", *MICROSCOPE)
GIVEN = dict(zip(MICROSCOPE, ("voltage_kv=", "cs_mm=", "amplitude_contrast="), strict=True))
OPTION = dict(zip(MICROSCOPE, ("--voltage", "--cs", "--amplitude-contrast"), strict=True))
OPTIONAL = (("rlnPhaseShift", 0.0), ("rlnCtfBfactor", 0.0), ("rlnCtfScalefactor", 1.0))
ABERRATIONS = (
    ("beam tilt", ("rlnBeamTiltX", "rlnBeamTiltY")),
    ("higher-order aberrations", ("rlnOddZernike", "rlnEvenZernike")),
    ("anisotropic magnification", ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")),
)
TREATED = (
    ("rlnCtfDataAreCtfPremultiplied", "multiplied by their contrast transfer"),
    ("rlnCtfDataArePhaseFlipped", "phase flipped"),
)


def group_rows(path: Path, table: Table, groups: Table | None) -> list[int]:
    """For every row of a table the row of its optics group, matched by number.

    Raises:
        ValueError: if a group is numbered twice or missing, or rows do not say which of several groups is theirs.
    """
    if groups is None:
        return [0] * len(table)
    if "rlnOpticsGroup" not in table or "rlnOpticsGroup" not in groups:
        if len(groups) > 1:
            raise ValueError(f"{path}: {len(groups)} optics groups, but no column rlnOpticsGroup")
        return [0] * len(table)
    numbers = groups.floats("rlnOpticsGroup").tolist()
    places = {number: row for row, number in enumerate(numbers)}
    if len(places) < len(numbers):
        raise ValueError(f"{path}: optics groups must have different numbers; got {[int(n) for n in numbers]}")
    rows = []
    for row, value in enumerate(table.floats("rlnOpticsGroup").tolist(), start=1):
        if value not in places:
            raise ValueError(f"{path}, row {row}: optics group {value:g} is not one of {[int(n) for n in numbers]}")
        rows.append(places[value])
    return rows


def column(name: str, table: Table, groups: Table | None, rows: Sequence[int]) -> NDArray[np.float64] | None:
    """A column per row of the table, from the table itself or its optics group; None where neither has it."""
    if name in table:
        return table.floats(name)
    if groups is not None and name in groups:
        return groups.floats(name)[list(rows)]
    return None


def specimen_pixels(detector: NDArray[np.float64], magnification: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixel sizes at the specimen in angstrom, from micrometres on the detector; infinite where floats end."""
    with np.errstate(over="ignore"):
        return 1e4 * detector / magnification


def check_sizes(path: Path, sizes: NDArray[np.float64], name: str) -> None:
    """Raise ValueError unless pixel sizes are positive and finite."""
    good = np.isfinite(sizes) & (sizes > 0)
    if not good.all():
        raise ValueError(f"{path}: {name} must be positive, in angstrom; got {sizes[~good][0]:g}")


def star_optics(
    table: Table,
    groups: Table | None,
    rows: Sequence[int],
    what: str,
    given: Mapping[str, float] | None = None,
) -> tuple[Optics | None, str]:
    """Contrast transfer of every row, and a sentence on it; None where a needed column is missing.

    Args:
        table: rows.
        groups: optics block.
        rows: row of the optics block for every row of the table.
        what: what the rows are, for the sentence.
        given: values for needed columns that the file does not have.
    """
    given = given or {}
    columns = [column(name, table, groups, rows) for name in NEEDED]
    columns = [
        np.full(len(table), float(given[name])) if found is None and name in given else found
        for name, found in zip(NEEDED, columns, strict=True)
    ]
    if missing := [name for name, found in zip(NEEDED, columns, strict=True) if found is None]:
        hint = f"; give {', '.join(GIVEN[n] for n in missing)}" if set(missing) <= set(GIVEN) else ""
        return None, f"no contrast transfer is known: the STAR file has no {', '.join(missing)}{hint}"
    for name, default in OPTIONAL:
        found = column(name, table, groups, rows)
        columns.append(np.full(len(table), default) if found is None else found)
    optics = grouped(np.stack([found for found in columns if found is not None], -1), table.source or what)
    return optics, f"contrast transfer from the STAR file: {len(optics.defocus_u)} settings for {len(table)} {what}"


def grouped(parameters: NDArray[np.float64], where: str) -> Optics:
    """Optics of ``(n, 9)`` parameters, u, v, angle, kV, Cs, w, phase shift, B, scale; equal rows share a group.

    Raises:
        ValueError: for values that no microscope has; it says ``where`` they stand.
    """
    kinds = [tuple(row) for row in parameters.tolist()]
    found = {kind: k for k, kind in enumerate(dict.fromkeys(kinds))}
    u, v, angle, voltage, cs, amplitude, phase, b_factor, scale = zip(*found, strict=True)
    group = tuple(found[kind] for kind in kinds)
    try:
        return Optics(u, v, angle, voltage, cs, amplitude, phase, b_factor, scale, group)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def aberrations(table: Table, groups: Table | None) -> list[str]:
    """Notes on what the contrast transfer of this package leaves out."""
    notes = []
    for what, names in ABERRATIONS:
        found = [name for name in names if is_set(name, table, groups)]
        if found:
            notes.append(f"the file has {what} ({', '.join(found)}): kept there, but not modelled")
    treated = [f"{name} says that the images are already {what}" for name, what in TREATED]
    return notes + [note for note, (name, _) in zip(treated, TREATED, strict=True) if is_set(name, table, groups)]


def is_set(name: str, table: Table, groups: Table | None) -> bool:
    """Whether a column of either block holds a number that is not neutral."""
    neutral = 1.0 if name in ("rlnMagMat00", "rlnMagMat11") else 0.0
    for block in (table, groups):
        if block is not None and name in block:
            for text in set(block.strings(name)):
                numbers = re.findall(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", text)
                if any(float(number) != neutral for number in numbers):
                    return True
    return False
