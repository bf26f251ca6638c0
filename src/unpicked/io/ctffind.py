"""Contrast transfer from the text that CTFFIND4 and 5 write."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unpicked.data.optics import Optics
from unpicked.io._files import existing, read_text
from unpicked.io._relion import GIVEN, MICROSCOPE, OPTION, grouped

COLUMNS = 7  # number, defocus 1 and 2, azimuth, phase shift, score, spacing; CTFFIND5 writes more of them
_NUMBER = r"([-+]?\d+(?:\.\d+)?)"
_HEADER = {
    "rlnVoltage": rf"acceleration voltage:\s*{_NUMBER}\s*keV",
    "rlnSphericalAberration": rf"spherical aberration:\s*{_NUMBER}\s*mm",
    "rlnAmplitudeContrast": rf"amplitude contrast:\s*{_NUMBER}",
}


@dataclass(frozen=True, eq=False)
class Fits:
    """What one text file of CTFFIND holds.

    Attributes:
        path: the file.
        values: ``(n, 4)`` defocus 1 and 2 in angstrom, azimuth of astigmatism in degrees from x, additional phase shift
            in radians; in the order of the micrographs' numbers.
        microscope: voltage in kV, spherical aberration in mm, amplitude contrast, by RELION's column name, where the
            file's head says them.
        pixel_size: angstrom, of the images that were fitted, where the head says it.
    """

    path: Path
    values: NDArray[np.float64]
    microscope: Mapping[str, float]
    pixel_size: float | None = None

    def __len__(self) -> int:
        return len(self.values)


def read_ctffind(path: Path | str) -> Fits:
    """One text file of CTFFIND4 or 5: lines of at least 7 numbers under a head of lines that begin with #.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a file, has no rows, or a value is not a finite number (it names the line).
    """
    path = existing(path, "text file of CTFFIND")
    head, rows = [], []
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        if text.lstrip().startswith("#"):
            head.append(text)
        elif text.strip():
            rows.append(_row(path, line, text.split()))
    if not rows:
        raise ValueError(f"{path} holds no fit: no row of {COLUMNS} numbers; expected a text file of CTFFIND4")
    table = np.array(rows)
    order = np.argsort(table[:, 0], kind="stable")
    if table[order, 0].tolist() != list(range(1, len(rows) + 1)):
        order = np.arange(len(rows))
    told = "\n".join(head)
    found = {name: re.search(pattern, told) for name, pattern in _HEADER.items()}
    pixel = re.search(rf"Pixel size:\s*{_NUMBER}\s*Angstrom", told)
    return Fits(
        path,
        table[order, 1:5],
        {name: float(match[1]) for name, match in found.items() if match},
        float(pixel[1]) if pixel and float(pixel[1]) > 0 else None,
    )


def ctffind_files(items: Sequence[Path | str]) -> tuple[list[Path], bool]:
    """The text files that some paths name, and whether one of these is a folder: its .txt files but for ``_avrot``.

    Raises:
        FileNotFoundError: if there is no such file, or a folder has none.
    """
    out, folder = [], False
    for item in items:
        path = Path(item)
        if not path.is_dir():
            out.append(existing(path, "text file of CTFFIND"))
            continue
        folder = True
        found = [p for p in sorted(path.iterdir()) if p.name.lower().endswith(".txt") and not p.name.startswith(".")]
        found = [p for p in found if not p.stem.lower().endswith("_avrot")]
        if not found:
            raise FileNotFoundError(f"{path} holds no text files of CTFFIND; expected files .txt, not _avrot.txt")
        out += found
    return list(dict.fromkeys(out)), folder


def ctffind_optics(
    items: Sequence[Path | str],
    names: Sequence[str],
    pixel_size: float,
    *,
    given: Mapping[str, float] | None = None,
    known: Mapping[str, NDArray[np.float64]] | None = None,
) -> tuple[Optics, list[str], tuple[Path, ...]]:
    """Contrast transfer of micrographs from files of CTFFIND, sentences on it, and the files that were used.

    One file with a row per micrograph is taken in their order. Several files of one row belong to the micrographs whose
    names they begin with (``a.mrc``: ``a.txt``, ``a_ctffind4.txt``); where no name fits, they are taken in their order.

    Args:
        items: files, or folders of them.
        names: of the micrographs.
        pixel_size: of the micrographs, angstrom; only to tell where another was fitted.
        given: what is to be taken of the microscope, by RELION's column name, before what the files' heads say.
        known: what else is known of it, per micrograph, where the heads say nothing.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if rows and micrographs do not match, or voltage, aberration or amplitude contrast are not known.
    """
    files, folder = ctffind_files(items)
    fits = [read_ctffind(path) for path in files]
    count = len(names)
    if len(fits) == 1 and not (folder and count > 1 and len(fits[0]) == 1):
        fit = fits[0]
        if len(fit) != count:
            raise ValueError(
                f"{fit.path} holds {len(fit)} rows for {count} micrographs; expected one row per micrograph, in their "
                "order, or one file per micrograph"
            )
        chosen, places = [fit] * count, list(range(count))
        notes = [f"contrast transfer from {fit.path}: {count} rows, taken in the order of the micrographs"]
    else:
        chosen, notes = _by_name(fits, names, folder)
        places = [0] * count
    values = np.stack([fit.values[place] for fit, place in zip(chosen, places, strict=True)])
    microscope = [_microscope(name, chosen, given or {}, known or {}) for name in MICROSCOPE]
    pixels = {fit.pixel_size for fit in chosen} - {None}
    others = sorted(size for size in pixels if size is not None and abs(size - pixel_size) > 5e-3 * pixel_size)
    if others:
        notes.append(
            f"CTFFIND fitted images of {', '.join(f'{size:g}' for size in others[:3])} A per pixel, these have "
            f"{pixel_size:g} A: right for micrographs binned since; wrong if that pixel size was"
        )
    phase = [math.degrees(value) for value in values[:, 3].tolist()]
    columns = [*values[:, :3].T, *microscope, np.array(phase), np.zeros(count), np.ones(count)]
    used = tuple(dict.fromkeys(fit.path for fit in chosen))
    where = str(used[0]) if len(used) == 1 else f"{used[0]} to {used[-1]}"
    return grouped(np.stack(columns, -1), where), notes, used


def _row(path: Path, line: int, words: Sequence[str]) -> list[float]:
    """The first five numbers of a line; the others may be infinite."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    if len(values) < COLUMNS:
        raise ValueError(
            f"{path}, line {line}: expected {COLUMNS} numbers (micrograph, defocus 1, defocus 2, azimuth, phase shift, "
            f"score, spacing), as CTFFIND4 writes; got {' '.join(words)[:60]!r}"
        )
    for name, value in zip(("number", "defocus 1", "defocus 2", "azimuth", "phase shift"), values, strict=False):
        if not math.isfinite(value):
            raise ValueError(f"{path}, line {line}: {name} must be a finite number; got {value}")
    if values[1] == values[2] == values[4] == 0:
        raise ValueError(f"{path}, line {line}: the defocus is 0: CTFFIND found none; leave this micrograph out")
    return values[:5]


def _stem(name: str) -> str:
    base = name.replace("\\", "/").rpartition("/")[2]
    return re.sub(r"\.(mrcs?|map|tiff?|mrc\.(gz|bz2))$", "", base, flags=re.IGNORECASE)


def _by_name(fits: Sequence[Fits], names: Sequence[str], folder: bool) -> tuple[list[Fits], list[str]]:
    """One file of one row for every micrograph."""
    stems = [_stem(name) for name in names]
    place = {stem: row for row, stem in enumerate(stems)} if len(set(stems)) == len(stems) else {}
    found: dict[int, Fits] = {}
    left: list[Fits] = []
    for fit in fits:
        row = _longest(fit.path.name[: -len(fit.path.suffix)] if fit.path.suffix else fit.path.name, place)
        if row is None:
            left.append(fit)
        elif row in found:
            raise ValueError(
                f"{found[row].path} and {fit.path} both belong to micrograph {names[row]}; give one of them"
            )
        else:
            found[row] = fit
    count = len(names)
    if not found and not folder and len(fits) == count:
        found, left = dict(enumerate(fits)), []
        notes = [f"contrast transfer from {count} files of CTFFIND, in their order: their names fit no micrograph"]
    else:
        notes = [f"contrast transfer from {count} files of CTFFIND, by the micrographs' names"]
    if missing := [name for row, name in enumerate(names) if row not in found]:
        raise ValueError(
            f"{len(missing)} of {count} micrographs have no file of CTFFIND among the {len(fits)} given, the first is "
            f"{missing[0]}; expected {_stem(missing[0])}.txt, or one file with a row per micrograph"
        )
    if left and not folder:
        raise ValueError(f"{left[0].path} belongs to none of the {count} micrographs; leave it out")
    if left:
        notes.append(f"{len(left)} text files belong to no micrograph and are not used")
    for row, fit in found.items():
        if len(fit) != 1:
            raise ValueError(f"{fit.path} holds {len(fit)} rows for the micrograph {names[row]}; expected one")
    return [found[row] for row in range(count)], notes


def _longest(stem: str, place: Mapping[str, int]) -> int | None:
    """The micrograph whose name is the longest beginning of a file's, up to a sign that parts words."""
    ends = [len(stem), *(match.start() for match in reversed(list(re.finditer(r"[_.\- ]", stem))))]
    return next((place[stem[:end]] for end in ends if stem[:end] in place), None)


def _microscope(
    name: str, fits: Sequence[Fits], given: Mapping[str, float], known: Mapping[str, NDArray[np.float64]]
) -> NDArray[np.float64]:
    """A property of the microscope for every micrograph."""
    if name in given:
        return np.full(len(fits), float(given[name]))
    out = []
    for row, fit in enumerate(fits):
        if name in fit.microscope:
            out.append(fit.microscope[name])
        elif name in known:
            out.append(float(known[name][row]))
        else:
            raise ValueError(f"{fit.path} has no head that says {name}; give {GIVEN[name]} ({OPTION[name]})")
    return np.array(out)
