"""A run folder as the report reads it; what an older run lacks is None, what cannot be understood becomes a note."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.evaluate.align import masked_cosine
from unpicked.evaluate.compare import Comparison, compare
from unpicked.evaluate.directional import Directional, directional
from unpicked.evaluate.resample import match_grid, sphere, transform
from unpicked.io._files import found_among, read_json
from unpicked.io.mrc import read_map
from unpicked.io.particle_files import SPREAD
from unpicked.io.particles import read_particle_table
from unpicked.model.directions import Directions
from unpicked.report import archives, verdict
from unpicked.report.words import as_number

FILES = ("result.json", "history.csv", "volume.mrc")
LARGE = 1e4  # no coefficient of a density of directions is larger
HALVES = ("half1.mrc", "half2.mrc")

History = dict[str, list[dict[str, float]]]


@dataclass(frozen=True)
class Truth:
    """What a known truth adds to the page: figures, and both maps in one orientation."""

    comparison: Comparison
    aligned: Map
    map: Map


@dataclass(frozen=True)
class Halves:
    """Two maps from two halves of the data, as in :class:`unpicked.evaluate.halves.Halves`.

    Attributes:
        fsc: curve of the shells 0, 1, ...
        resolution: angstrom where it falls below 0.143; None where it does so in the first shell.
        at_nyquist: it never falls below.
        shared_start: both halves started from one map.
        error: standard deviation per shell; None where it was not recorded.
        cutoff: angstrom of the last shell that the alignment of the halves saw.
        corrected: angstrom where the curve inside a mask, corrected for the mask, falls below 0.143.
        folds: whether they are the maps of the verification's two folds, which were not kept.
        floor: per shell the agreement that data of random phases reached; empty where it was not asked for.
        ways: resolution by direction, where the two maps are in the folder.
    """

    fsc: tuple[float, ...]
    resolution: float | None
    at_nyquist: bool
    shared_start: bool
    error: tuple[float, ...] | None = None
    cutoff: float | None = None
    corrected: float | None = None
    folds: bool = False
    floor: tuple[float, ...] = ()
    ways: Directional | None = None


@dataclass(frozen=True)
class Posed:
    """Poses of the images of a stack.

    Attributes:
        directions: ``(n, 3)`` unit vectors x, y, z of the views in the frame of the map.
        shifts: ``(n, 2)`` in angstrom.
        spread: ``(n,)`` standard deviation of the rotations that the noise implies, in degrees, or None.
    """

    directions: NDArray[np.float64]
    shifts: NDArray[np.float64]
    spread: NDArray[np.float64] | None


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        name: of the folder.
        result: ``result.json``.
        history: rows of ``history.csv`` by the name of the sub-run.
        volume: ``volume.mrc``.
        truth: comparison with a known structure.
        halves: comparison of two half maps.
        share: per shell 0, 1, ... the part of the precision that comes from the data, 0 to 1.
        patches: examples of what was found.
        pictures: of some micrographs.
        posed: poses of the images, of a run on a stack.
        seen: estimated density of directions of view, of a run on micrographs.
        notes: sentences on what could not be used.
    """

    name: str
    result: Mapping[str, Any]
    history: History
    volume: Map
    truth: Truth | None = None
    halves: Halves | None = None
    share: tuple[float, ...] | None = None
    patches: archives.Patches | None = None
    pictures: archives.Pictures | None = None
    posed: Posed | None = None
    seen: Directions | None = None
    notes: tuple[str, ...] = ()

    @property
    def stack(self) -> bool:
        """Whether the data were a stack of particle images."""
        return dict(self.result.get("data") or {}).get("kind") == "particles"

    @property
    def share_observed(self) -> bool:
        """Whether ``share`` counts in the uncertainty of places and views."""
        return dict(self.result.get("figures") or {}).get("data_share_observed") is True

    @property
    def share_of_response(self) -> bool:
        """Whether ``share`` is of a change in what the data say, and not of the precision."""
        return dict(self.result.get("figures") or {}).get("data_share_kind") == "response"


def read(folder: Path, truth: Map | None) -> Run:
    """Read a run folder (see :func:`unpicked.report.report`).

    Raises:
        ValueError: if the folder is no run folder, one of its files cannot be understood, or the maps cannot
            be compared.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is not a finished run: {', '.join(missing)} not found; "
            "try the folder that was given to reconstruct as --out"
        )
    result = read_result(folder / "result.json")
    volume = read_map(folder / "volume.mrc")
    notes: list[str] = []
    posed = _posed(folder / "particles.star", notes) if (result.get("data") or {}).get("kind") == "particles" else None
    return Run(
        folder.resolve().name,
        result,
        read_history(folder / "history.csv"),
        volume,
        _truth(folder, result, volume, truth, notes),
        _halves(folder, result, notes),
        _share(result, notes),
        archives.patches(folder / "patches.npz", notes),
        archives.pictures(folder / "micrographs.npz", notes),
        posed,
        _seen(result, notes),
        tuple(notes),
    )


def read_history(path: Path) -> History:
    """Rows of numbers by run, in the order of the file; an empty or foreign cell becomes NaN.

    A run may be called "stage-1 start-0": its passes are then counted on from the last one of the stage before.
    """
    runs: History = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns, cells = reader.fieldnames or (), list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a table: {' '.join(str(error).split())}") from None
    if absent := {"run", "step"} - set(columns):
        raise ValueError(f"{path} has no column {' and '.join(sorted(absent))}; found {columns}")
    for row in cells:
        name = row.pop("run") or "start-0"
        values = {key: _cell(text) for key, text in row.items() if key is not None}
        if math.isfinite(values["step"]) and not name.startswith(
            ("half-", "rival-", "moments-first ")
        ):  # told by FSC and notes
            runs.setdefault(name, []).append(values)
    passed = 0.0
    for number in sorted({stage(name) for name in runs}):
        rows = [row for name, group in runs.items() if stage(name) == number for row in group]
        for figure in rows:
            figure["step"] += passed
        passed = max(figure["step"] for figure in rows) + 1
    return runs


def stage(run: str) -> int:
    """Number of the stage in the name of a run, as in "stage-1 start-0"; 0 where there is none."""
    found = re.match(r"stage-(\d+) ", run)
    return int(found[1]) if found else 0


def moved(run: str) -> bool:
    """Whether the name of a run is that of a recentre move, as in "stage-1 move-0"."""
    return run.split()[-1].startswith("move")


def kept_starts(runs: History) -> tuple[tuple[str, ...], bool]:
    """Per stage, the start that the run went on with, and whether the history tells which one that is.

    It is the start with the highest last ``judge``; without one, with the highest last ``objective``; without
    either it cannot be told, and the first start stands for all.
    """

    def last(name: str, column: str) -> float:
        found = [row[column] for row in runs[name] if math.isfinite(row.get(column, math.nan))]
        return found[-1] if found else -math.inf

    kept, told = [], True
    for number in sorted({stage(name) for name in runs}):
        group = [name for name in runs if stage(name) == number and not moved(name)]
        if not group:
            continue
        column = next((c for c in ("judge", "objective") if any(math.isfinite(last(n, c)) for n in group)), None)
        told = told and (column is not None or len(group) == 1)
        kept.append(group[0] if column is None else max(group, key=lambda name: last(name, column)))
    return tuple(kept), told


def compared(volume: Map, truth: Map, recorded: object) -> Truth:
    """Align and compare; a recorded comparison is taken over where its pose still gives its correlation."""
    if isinstance(recorded, dict) and set(recorded) == {item.name for item in fields(Comparison)}:
        old = Comparison(**recorded)
        laid = _laid(volume, truth, old)
        if abs(_correlation(laid, truth) - old.correlation) < 1e-4:
            return Truth(old, laid, truth)
    new = compare(volume, truth)
    return Truth(new, _laid(volume, truth, new), truth)


def read_result(path: Path) -> dict[str, Any]:
    """``result.json``; a ValueError where it is something else."""
    result = read_json(path)
    if not isinstance(result, dict):
        raise ValueError(f"{path} must hold one JSON object; got {type(result).__name__}")
    for name in ("data", "settings", "figures"):
        if not isinstance(result.get(name) or {}, dict):
            raise ValueError(f'{path}: "{name}" must be an object; got {type(result[name]).__name__}')
    return result


def _cell(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return math.nan


def _truth(folder: Path, result: Mapping[str, Any], volume: Map, given: Map | None, notes: list[str]) -> Truth | None:
    recorded = dict(result.get("figures") or {}).get("compare")
    if given is not None:
        return compared(volume, given, recorded)
    named = dict(result.get("data") or {}).get("truth")
    if not named:
        return None
    found, _ = found_among((Path(str(named)), folder / str(named)), str(named))
    if found is None:
        notes.append(f"The run names a truth, {named}, which no longer exists; the map was not compared")
        return None
    try:
        return compared(volume, read_map(found), recorded)
    except ValueError as error:
        notes.append(f"The run names a truth, {named}, which cannot be used: {error}")
        return None


def _laid(volume: Map, truth: Map, comparison: Comparison) -> Map:
    matched = match_grid(volume, truth)
    rotation = torch.tensor(comparison.rotation, dtype=torch.float64)
    shift = torch.tensor(comparison.shift, dtype=torch.float64) / truth.voxel_size
    values = transform(matched.values, rotation, shift, comparison.hand == "mirrored")
    return Map(values, truth.voxel_size, truth.origin)


def _correlation(first: Map, second: Map) -> float:
    one, two = (map.values.detach().double().cpu().flatten() for map in (first, second))
    return float(masked_cosine(one, two, sphere(second.box).flatten()))


def _halves(folder: Path, result: Mapping[str, Any], notes: list[str]) -> Halves | None:
    """``figures.halves``, where the two maps it speaks of are there; else the agreement of the verification's folds."""
    figures = dict(result.get("figures") or {})
    evidence = verdict.evidence(result)
    found, folds = figures.get("halves"), False
    if found is None or not all((folder / name).is_file() for name in HALVES):
        found, folds = evidence.get("agreement"), True
    if found is None:
        return None
    curve = _numbers(found.get("fsc"), -1, 1) if isinstance(found, dict) else None
    if curve is None or len(curve) < 2:
        notes.append('"halves" in result.json cannot be understood; the half maps are not shown')
        return None
    if folds:  # above the floor, and of a structure that is there
        supported = result.get("verdict") == "supported"
        found = {**found, "resolution_0143": evidence.get("resolution") if supported else None}
        found["at_nyquist"] = supported and found.get("at_nyquist") and found["resolution_0143"] == found.get("nyquist")
    at_nyquist, shared = (found.get(name) is True for name in ("at_nyquist", "shared_start"))
    error = _numbers(found.get("error"), 0, 2)
    numbers = (as_number(found.get(name)) for name in ("resolution_0143", "cutoff_angstrom", "resolution_corrected"))
    resolution, cutoff, corrected = (value if value is not None and value > 0 else None for value in numbers)
    fits = error is not None and len(error) == len(curve)
    floor = _numbers(evidence.get("floor"), -1, 1) or ()
    ways = None if folds else _ways(folder, notes)
    held = error if fits else None
    return Halves(curve, resolution, at_nyquist, shared, held, cutoff, corrected, folds, floor[: len(curve)], ways)


def _ways(folder: Path, notes: list[str]) -> Directional | None:
    """By direction, of the half maps, of which the second lies on the first."""
    try:
        return directional(*(read_map(folder / name) for name in HALVES))
    except (OSError, ValueError) as error:
        notes.append(f"the half maps cannot be compared by direction: {' '.join(str(error).split())}")
        return None


def _share(result: Mapping[str, Any], notes: list[str]) -> tuple[float, ...] | None:
    found = dict(result.get("figures") or {}).get("data_share")
    if found is None:
        return None
    share = _numbers(found, 0, 1)
    if share is None or len(share) < 2:
        notes.append('"data_share" in result.json must be a list of numbers from 0 to 1; it is not shown')
        return None
    return share


def _numbers(given: object, low: float, high: float) -> tuple[float, ...] | None:
    """A list of numbers from ``low`` to ``high`` but for rounding, else None."""
    if not isinstance(given, list):
        return None
    values = [as_number(value) for value in given]
    if any(value is None or not low - 1e-6 <= value <= high + 1e-6 for value in values):
        return None
    return tuple(min(max(value, low), high) for value in values if value is not None)


def _seen(result: Mapping[str, Any], notes: list[str]) -> Directions | None:
    """``figures.views``: coefficients of the density of directions."""
    found = dict(result.get("figures") or {}).get("views")
    if found is None:
        return None
    values = _numbers(found.get("coefficients") if isinstance(found, dict) else None, -LARGE, LARGE)
    try:
        return Directions(torch.tensor(values or (), dtype=torch.float64))
    except ValueError as error:
        notes.append(f'"views" in result.json cannot be used: {error}; directions of view are not shown')
        return None


def _posed(path: Path, notes: list[str]) -> Posed | None:
    """Poses of ``particles.star``; the stacks that it names need not be there."""
    if not path.is_file():
        notes.append(f"{path.name} is gone; views and poses are not shown")
        return None
    try:
        table = read_particle_table(path, ctf=False)
        poses = table.poses()
        rows = (table.blocks or {})[table.block]
        spread = rows.floats(SPREAD) if SPREAD in rows else None
    except (OSError, ValueError, KeyError) as error:
        notes.append(f"{path.name} cannot be used: {' '.join(str(error).split())}; views and poses are not shown")
        return None
    if poses is None:
        notes.append(f"{path.name} holds no poses; views and poses are not shown")
        return None
    if spread is not None and not (np.isfinite(spread) & (spread >= 0)).all():
        notes.append(f"{SPREAD} of {path.name} must not be negative; it is not shown")
        spread = None
    return Posed(poses.rotations[:, 2].double().numpy(), poses.shifts.double().numpy(), spread)
