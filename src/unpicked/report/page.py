"""The page of a run: what is on it, in which order; ``figures`` draws, the template lays out."""

from __future__ import annotations

import csv
import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.evaluate.align import masked_cosine
from unpicked.evaluate.compare import Comparison, compare
from unpicked.evaluate.fsc import fsc_error, shell_counts
from unpicked.evaluate.resample import match_grid, sphere, transform
from unpicked.io._files import output
from unpicked.io.mrc import read_map
from unpicked.report import figures

FILES = ("result.json", "history.csv", "volume.mrc")
VERDICTS = {
    "supported": "The data support this structure: held-out data prefer it to every null model.",
    "not supported": "The data do not support this structure: held-out data prefer a null model.",
    "undecided": "Undecided: held-out data prefer neither this structure nor the null models.",
    "not verified": "Not verified: nothing has tested yet whether this structure is in the data.",
}
TITLES = {"files": "micrographs", "truth": "truth, for comparison only"}
UNITS = {"pixel_size": " Å", "voxel_size": " Å"}

Runs = dict[str, list[dict[str, float]]]


@dataclass(frozen=True)
class Figure:
    """A number that heads the page.

    Attributes:
        label: what it is.
        value: the number with its unit.
        note: how to read it.
    """

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Truth:
    """What a known truth adds to the page: figures, and both maps in one orientation."""

    comparison: Comparison
    aligned: Map
    map: Map


def report(run: Path | str, *, truth: Map | None = None, overwrite: bool = True) -> Path:
    """Write ``report.html`` into a run folder: one page that needs no other file and no network.

    The same folder gives the same bytes: the page holds no date.

    Args:
        run: folder that holds ``result.json``, ``history.csv`` and ``volume.mrc``.
        truth: map to compare with; default the one that ``result.json`` names under ``data.truth``, where the
            file still exists.
        overwrite: replace an existing page.

    Returns:
        The path of the page.

    Raises:
        ValueError: if the folder is no run folder, one of its files cannot be understood, or the maps cannot
            be compared.
        FileExistsError: if the page exists and ``overwrite`` is False.

    Example:
        >>> report("run/")  # doctest: +SKIP
        PosixPath('run/report.html')
    """
    folder = Path(run)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is not a finished run: {', '.join(missing)} not found; "
            "try the folder that was given to reconstruct as --out"
        )
    result = _result(folder / "result.json")
    runs = _history(folder / "history.csv")
    volume = read_map(folder / "volume.mrc")
    known, notes = _truth(folder, result, volume, truth)
    page = render(folder.resolve().name, result, runs, volume, known, notes)
    path = folder / "report.html"
    with output(path, overwrite) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
    return path


def render(
    name: str,
    result: Mapping[str, Any],
    runs: Runs,
    volume: Map,
    truth: Truth | None,
    notes: tuple[str, ...] = (),
) -> str:
    """The page as text (arguments as read by :func:`report`; ``notes`` are sentences on the truth)."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("unpicked", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = truth.aligned if truth else volume
    bar, percent = figures.scale_bar(shown.box * shown.voxel_size)
    verdict = str(result.get("verdict", "not verified"))
    kept = _kept(runs)
    return environment.get_template("page.html.j2").render(
        name=name,
        version=result.get("version", "unknown"),
        verdict=verdict,
        verdict_sentence=VERDICTS.get(verdict, verdict),
        result=_sentence(str(result.get("result", "how the run ended is not recorded"))),
        key=key_figures(result, volume, truth),
        statements=_statements(result, truth),
        volume=volume,
        field=volume.box * volume.voxel_size,
        views=_views(volume, truth),
        bar=f"{bar:g} Å",
        percent=f"{percent:.2f}",
        fsc=_fsc(truth) if truth else None,
        truth_notes=[_sentence(text) for text in truth.comparison.notes] if truth else (),
        truth_figures=_truth_figures(truth) if truth else (),
        curves=_curves(runs, kept),
        kept=kept[0].split()[-1] if kept else "",
        starts=_starts(runs),
        moved=any(figures.moved(run) for run in runs),
        passes=_passes(runs, kept),
        data=_data(result),
        notes=[_sentence(text) for text in _notes(result) + list(notes)],
        settings=[(key, _plain(value)) for key, value in dict(result.get("settings") or {}).items()],
        command=_command(result.get("command")),
        seed=_plain(result.get("seed")),
        effort=_effort(result),
    )


def key_figures(result: Mapping[str, Any], volume: Map, truth: Truth | None) -> tuple[Figure, ...]:
    """The numbers that head the page: energy first, the resolution only where a truth is known."""
    found = dict(result.get("figures") or {})
    names = ("energy", "particles", "density", "sigma")
    energy, particles, density, sigma = (_float(found.get(name)) for name in names)
    out = []
    if energy is not None:
        per_pixel = energy / volume.box**2
        ratio = math.sqrt(max(energy, 0))
        note = f"matched-filter ratio {_number(ratio)} (√E); SNR per box pixel {_number(per_pixel)}"
        out.append(Figure("energy per particle, E", _number(energy), note))
    if particles is not None:
        note = "expected number of copies, summed over all windows"
        out.append(Figure("particles seen", f"{particles:,.0f}", note))
    if density is not None:
        note = "share of the area that copies of the box cover"
        out.append(Figure("density", f"{100 * density:#.3g} %", note))
    if sigma is not None:
        note = "per working pixel, in the grey values of the files"
        out.append(Figure("noise, σ", _number(sigma, 4), note))
    if truth is not None:
        c = truth.comparison
        limit = "the Nyquist limit; " if c.at_nyquist else ""
        note = f"{limit}FSC 0.5 against the truth; 0.143 at {_angstrom(c.resolution_0143, c.nyquist)}"
        out.append(Figure("resolution", _angstrom(c.resolution_05), note))
    else:
        note = "needs a known truth or two independent halves; neither was given"
        out.append(Figure("resolution", "not measured", note))
    return tuple(out)


# ------------------------------------------------------------------------------------------------- reading


def _result(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {' '.join(str(error).split())}") from None
    if not isinstance(result, dict):
        raise ValueError(f"{path} must hold one JSON object; got {type(result).__name__}")
    for name in ("data", "settings", "figures"):
        if not isinstance(result.get(name) or {}, dict):
            raise ValueError(f'{path}: "{name}" must be an object; got {type(result[name]).__name__}')
    return result


def _history(path: Path) -> Runs:
    """Rows of numbers by run, in the order of the file; an empty or foreign cell becomes NaN.

    A run may be called "stage-1 start-0": its passes are then counted on from the last one of the stage before.
    """
    runs: Runs = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        absent = {"run", "step"} - set(reader.fieldnames or ())
        if absent:
            raise ValueError(f"{path} has no column {' and '.join(sorted(absent))}; found {reader.fieldnames}")
        for row in reader:
            name = row.pop("run") or "start-0"
            values = {key: _cell(text) for key, text in row.items() if key is not None}
            if math.isfinite(values["step"]):
                runs.setdefault(name, []).append(values)
    passed = 0.0
    for stage in sorted({figures.stage(name) for name in runs}):
        rows = [row for name, group in runs.items() if figures.stage(name) == stage for row in group]
        for figure in rows:
            figure["step"] += passed
        passed = max(figure["step"] for figure in rows) + 1
    return runs


def _cell(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return math.nan


def _truth(
    folder: Path, result: Mapping[str, Any], volume: Map, given: Map | None
) -> tuple[Truth | None, tuple[str, ...]]:
    """The comparison with the truth; one that the run names but that cannot be used becomes a note."""
    recorded = dict(result.get("figures") or {}).get("compare")
    if given is not None:
        return _compared(volume, given, recorded), ()
    named = dict(result.get("data") or {}).get("truth")
    if not named:
        return None, ()
    found = next((path for path in (Path(str(named)), folder / str(named)) if path.is_file()), None)
    if found is None:
        return None, (f"The run names a truth, {named}, which no longer exists; the map was not compared",)
    try:
        return _compared(volume, read_map(found), recorded), ()
    except ValueError as error:
        return None, (f"The run names a truth, {named}, which cannot be used: {error}",)


def _compared(volume: Map, truth: Map, recorded: object) -> Truth:
    """Align and compare; a recorded comparison is taken over where its pose still gives its correlation."""
    if isinstance(recorded, dict) and set(recorded) == {item.name for item in fields(Comparison)}:
        old = Comparison(**recorded)
        moved = _moved(volume, truth, old)
        if abs(_correlation(moved, truth) - old.correlation) < 1e-4:
            return Truth(old, moved, truth)
    new = compare(volume, truth)
    return Truth(new, _moved(volume, truth, new), truth)


def _moved(volume: Map, truth: Map, comparison: Comparison) -> Map:
    matched = match_grid(volume, truth)
    rotation = torch.tensor(comparison.rotation, dtype=torch.float64)
    shift = torch.tensor(comparison.shift, dtype=torch.float64) / truth.voxel_size
    values = transform(matched.values, rotation, shift, comparison.hand == "mirrored")
    return Map(values, truth.voxel_size, truth.origin)


def _correlation(first: Map, second: Map) -> float:
    one, two = (map.values.detach().double().cpu().flatten() for map in (first, second))
    return float(masked_cosine(one, two, sphere(second.box).flatten()))


# ------------------------------------------------------------------------------------------------- pictures


def _views(volume: Map, truth: Truth | None) -> list[dict[str, Any]]:
    """Two groups, slices and projections; in each a row per map."""
    rows = [("reconstruction", volume)]
    if truth is not None:
        rows = [("reconstruction, laid on the truth", truth.aligned), ("truth", truth.map)]
    return [
        {"title": "Central slices", "rows": [(label, figures.slices(map)) for label, map in rows]},
        {"title": "Projections", "rows": [(label, figures.projections(map)) for label, map in rows]},
    ]


def _fsc(truth: Truth) -> str:
    from markupsafe import Markup

    c, box = truth.comparison, truth.map.box
    counts = shell_counts(box) * float(sphere(box).mean())
    errors = fsc_error(torch.tensor(c.fsc, dtype=torch.float64), counts)
    crossings = [
        (level, None if value == c.nyquist else value)
        for level, value in ((0.5, c.resolution_05), (0.143, c.resolution_0143))
    ]
    svg = figures.fsc_curve(c.fsc, [float(e) for e in errors], box, truth.map.voxel_size, crossings)
    return Markup(svg)  # drawn here from numbers alone


def _curves(runs: Runs, kept: tuple[str, ...]) -> list[dict[str, Any]]:
    from markupsafe import Markup

    wanted = (
        ("objective", "Objective", "log units below the best pass; the top is best"),
        ("energy", "Energy per particle, E", "of the present map, mean over views"),
        ("sigma", "Noise, σ", "per pixel of the prepared micrographs"),
        ("density", "Density", "covered share of the area"),
    )
    out = []
    for name, title, note in wanted:
        rows = [row for run in kept for row in runs[run]]
        values = [row[name] for row in rows if math.isfinite(row.get(name, math.nan))]
        if values:
            said = f"{title} over {len(values)} passes, from {_number(values[0])} to {_number(values[-1])}"
            picture = Markup(figures.convergence(name, runs, kept))  # drawn here from numbers alone
            out.append({"title": title, "note": note, "said": said, "svg": picture})
    return out


def _kept(runs: Runs) -> tuple[str, ...]:
    """Per stage, the start whose last objective is highest: the one that the run went on with."""

    def last(name: str) -> float:
        value = runs[name][-1].get("objective", math.nan)
        return value if math.isfinite(value) else -math.inf

    stages = sorted({figures.stage(name) for name in runs})
    groups = [[name for name in runs if figures.stage(name) == k and not figures.moved(name)] for k in stages]
    return tuple(max(group, key=last) for group in groups if group)


# ---------------------------------------------------------------------------------------------------- words


def _statements(result: Mapping[str, Any], truth: Truth | None) -> list[tuple[str, str]]:
    """Hand, contrast and what was not done: what a reader must know before believing the map."""
    return [
        ("Hand", _hand(truth)),
        ("Contrast", _contrast(result)),
        ("Not done", _not_done(result, truth)),
    ]


def _hand(truth: Truth | None) -> str:
    text = "Undetermined: untilted projections fit a map and its mirror image equally well."
    if truth is None:
        return text
    c = truth.comparison
    if not c.hand_decidable:
        return f"{text} Here both hands fit the truth alike, too."
    which = "mirrored before it was compared with" if c.hand == "mirrored" else "compared as it is with"
    return f"{text} The map was {which} the truth (margin {c.hand_margin:.3f} in correlation)."


def _contrast(result: Mapping[str, Any]) -> str:
    settings, data = (dict(result.get(name) or {}) for name in ("settings", "data"))
    contrast = data.get("contrast", settings.get("contrast"))
    if contrast == "dark":
        return "Files read as matter dark and inverted; on this page matter is bright."
    if contrast == "bright":
        return "Files read as matter bright and left as they are; on this page matter is bright."
    return "Not recorded for the files; on this page matter is bright."


def _not_done(result: Mapping[str, Any], truth: Truth | None) -> str:
    parts = []
    if result.get("verdict", "not verified") == "not verified":
        parts.append("No test on held-out data, so a map of noise or of the starting point is not excluded.")
    if truth is None:
        parts.append("No comparison with a known structure.")
    return " ".join(parts) or "Nothing that this version offers."


def _truth_figures(truth: Truth) -> tuple[tuple[str, str], ...]:
    c = truth.comparison
    return (
        ("resolution at FSC 0.5", _angstrom(c.resolution_05, c.nyquist)),
        ("resolution at FSC 0.143", _angstrom(c.resolution_0143, c.nyquist)),
        ("Nyquist limit", f"{c.nyquist:.3g} Å"),
        ("correlation", f"{c.correlation:.3f}"),
        ("relative error", f"{c.relative_error:.3f}"),
        ("mean FSC to Nyquist", f"{c.fsc_area:.3f}"),
        ("grey-value scale to the truth", f"{c.scale:.3g}"),
    )


def _starts(runs: Runs) -> int:
    """Number of starts in the first stage."""
    first = min((figures.stage(name) for name in runs), default=0)
    return sum(figures.stage(name) == first and not figures.moved(name) for name in runs)


def _passes(runs: Runs, kept: tuple[str, ...]) -> str:
    counts = [len(runs[name]) for name in kept]
    text = f"{' + '.join(map(str, counts)) or 'no'} passes over the data"
    if len(counts) > 1:
        text += f" in {len(counts)} stages"
    starts = _starts(runs)
    return f"{starts} starts; {text}" if starts > 1 else text[0].upper() + text[1:]


def _data(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    data = dict(result.get("data") or {})
    rows = []
    for key, value in data.items():
        if key == "notes" or value is None:
            continue
        said = " × ".join(map(str, value)) if key in ("size", "shape") and isinstance(value, list) else _plain(value)
        rows.append((TITLES.get(key, key.replace("_", " ")), said + UNITS.get(key, "")))
    return rows


def _notes(result: Mapping[str, Any]) -> list[str]:
    held = [dict(result.get("data") or {}).get("notes"), result.get("notes")]
    return [str(text) for notes in held for text in ([notes] if isinstance(notes, str) else notes or ())]


def _effort(result: Mapping[str, Any]) -> str:
    parts = []
    if (seconds := _float(result.get("seconds"))) is not None:
        parts.append(f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min")
    if (memory := _float(result.get("peak_memory_mb"))) is not None:
        parts.append(f"{memory:,.0f} MB of memory at most")
    return ", ".join(parts)


def _command(command: object) -> str:
    if isinstance(command, list):
        return shlex.join(str(part) for part in command)
    return str(command or "")


def _plain(value: object) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case list() | tuple():
            shown = value if len(value) <= 8 else value[:3]
            rest = f", … ({len(value)} in all)" if len(value) > len(shown) else ""
            return (", ".join(_plain(item) for item in shown) or "–") + rest
        case dict():
            return ", ".join(f"{key} {_plain(item)}" for key, item in value.items()) or "–"
    return str(value)


def _float(value: object) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None  # type: ignore[arg-type]


def _number(value: float, digits: int = 3) -> str:
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits}g}"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:#.{digits}g}".rstrip(".")


def _angstrom(value: float | None, nyquist: float = 0) -> str:
    if value is None:
        return "none"
    return f"{value:.3g} Å" + (" (Nyquist)" if value == nyquist else "")


def _sentence(text: str) -> str:
    text = text.strip()
    first = text.split(maxsplit=1)[0] if text else ""
    if first.rstrip(",:;").isalpha():  # not the name of a file, an option or a field
        text = text[0].upper() + text[1:]
    return text if not text or text[-1] in ".!?" else text + "."
