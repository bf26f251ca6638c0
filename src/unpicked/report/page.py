"""The page of a run: what stands on it, in which order; ``sections`` prepares its parts, the template lays out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from unpicked.data.maps import Map
from unpicked.report import micrographs, sections, tiles, verdict, words
from unpicked.report.reading import Halves, History, Run, Truth, kept_starts
from unpicked.report.words import as_number, sentence

TITLES = {"files": "micrographs", "truth": "truth, for comparison only"}
UNITS = {"pixel_size": " Å", "voxel_size": " Å"}


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


def render(run: Run, **parts: Any) -> str:
    """The page of a run as text; ``parts`` take the place of those of micrographs."""
    if "convergence" not in parts:
        parts |= {"convergence": sections.convergence(run.history), "passes": passes(run.history)}
    return template("page.html.j2").render({**_parts(run), **parts})


def _parts(run: Run) -> dict[str, Any]:
    result, volume = run.result, run.volume
    return dict(
        style=own("page.css"),
        script=own("surface.js"),
        name=run.name,
        version=result.get("version", "unknown"),
        verdict=verdict.verdict(result),
        verdict_sentence=verdict.heading(result),
        result=sentence(str(result.get("result", "how the run ended is not recorded"))),
        key=key_figures(result, volume, run.truth, run.halves),
        statements=statements(run, hand(run.truth, tilt(run.result))),
        volume=volume,
        field=volume.box * volume.voxel_size,
        surface=sections.surface(run),
        views=_views(run),
        shells=sections.shells(run),
        directions=sections.directions(run),
        micrographs=micrographs.micrographs(run),
        patches=sections.patches(run),
        posed=None,
        source="particle images" if dict(result.get("data") or {}).get("kind") == "images" else "micrographs",
        found="map",
        file="volume.mrc",
        data=data_rows(result),
        notes=[sentence(text) for text in notes_of(result) + list(run.notes)],
        settings=[(key, words.plain(value)) for key, value in dict(result.get("settings") or {}).items()],
        command=words.command(result.get("command")),
        seed=words.plain(result.get("seed")),
        effort=effort(result),
    )


def key_figures(
    result: Mapping[str, Any], volume: Map, truth: Truth | None, halves: Halves | None = None
) -> tuple[Figure, ...]:
    """The numbers that head the page: energy first, the resolution only where a truth or two halves are known."""
    found = dict(result.get("figures") or {})
    names = ("energy", "particles", "density", "sigma")
    energy, particles, density, sigma = (as_number(found.get(name)) for name in names)
    out = []
    if energy is not None:
        per_pixel = energy / volume.box**2
        ratio = math.sqrt(max(energy, 0))
        note = f"matched-filter ratio {words.number(ratio)} (√E); SNR per box pixel {words.number(per_pixel)}"
        out.append(Figure("energy per particle, E", words.number(energy), note))
    if particles is not None:
        note = "expected number of copies, summed over all windows"
        out.append(Figure("particles seen", f"{particles:,.0f}", note))
    if density is not None:
        note = "share of the area that copies of the box cover"
        out.append(Figure("density", f"{100 * density:#.3g} %", note))
    if sigma is not None:
        note = "per working pixel, in the grey values of the files"
        out.append(Figure("noise, σ", words.number(sigma, 4), note))
    return (*out, resolution(truth, halves))


def resolution(truth: Truth | None, halves: Halves | None) -> Figure:
    """The resolution, of whichever kind it is, or that it was not measured."""
    if truth is not None:
        c = truth.comparison
        limit = "the Nyquist limit; " if c.at_nyquist else ""
        note = f"{limit}FSC 0.5 against the truth; 0.143 at {words.angstrom(c.resolution_0143, c.nyquist)}"
        return Figure("resolution", words.angstrom(c.resolution_05), note)
    if halves is None:
        note = "needs a known truth or two independent halves; neither was given"
        return Figure("resolution", "not measured", note)
    if halves.folds and halves.resolution is None:
        return Figure("resolution", "not determined", "the two folds of the verification do not show one")
    limit = "the Nyquist limit; " if halves.at_nyquist else ""
    note = f"{limit}FSC 0.143 between {'the folds of the verification' if halves.folds else 'two half maps'}"
    if halves.shared_start:
        note += " that started from one map: consistency, not validation"
    return Figure(
        "agreement of halves" if halves.shared_start else "resolution", words.angstrom(halves.resolution), note
    )


def template(name: str) -> Any:
    """One of the page's templates."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("unpicked", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)


def own(name: str) -> str:
    """A file of this folder, put into the page as it is."""
    from markupsafe import Markup

    return Markup(resources.files("unpicked.report").joinpath(name).read_text(encoding="utf-8"))


def _views(run: Run) -> dict[str, Any]:
    """Two groups, slices and projections; in each a row per map."""
    rows = [("reconstruction", run.volume)]
    if run.truth is not None:
        rows = [("reconstruction, laid on the truth", run.truth.aligned), ("truth", run.truth.map)]
    bar, percent = tiles.scale_bar(rows[0][1].box * rows[0][1].voxel_size)
    return {
        "bar": f"{bar:g} Å",
        "percent": f"{percent:.2f}",
        "groups": [
            {"title": "Central slices", "rows": [(label, tiles.slices(map)) for label, map in rows]},
            {"title": "Projections", "rows": [(label, tiles.projections(map)) for label, map in rows]},
        ],
    }


# ---------------------------------------------------------------------------------------------------- words


def statements(run: Run, hand: str, more: Sequence[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """Hand, contrast, prior and what was not done: what a reader must know before believing the map."""
    said = [*verdict.statements(run.result), ("Hand", hand), ("Contrast", _contrast(run.result)), *more]
    if run.share is not None:
        said.append(("Prior", sections.share_words(run)))
    return [*said, ("Not done", _not_done(run))]


def tilt(result: Mapping[str, Any]) -> float | None:
    """By which the grid was tilted, in degrees, where the run was told."""
    found = dict(result.get("settings") or {}).get("tilt")
    return float(found) if isinstance(found, int | float) else None


def hand(truth: Truth | None, tilt: float | None = None) -> str:
    """What is known of the hand of a map from images, untilted or of a tilted grid."""
    text = "Undetermined: untilted projections fit a map and its mirror image equally well."
    if tilt is not None:
        text = f"As right as the sign of the tilt, {tilt:g} degrees: the other sign gives the mirror image."
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


def _not_done(run: Run) -> str:
    parts = []
    if verdict.verdict(run.result) == "not verified":
        parts.append("No test on held-out data, so a map of noise or of the starting point is not excluded.")
    if run.halves is not None and run.halves.shared_start:
        parts.append("No independent halves: both started from one map, and may agree on what they started from.")
    if run.truth is None:
        parts.append("No comparison with a known structure.")
    return " ".join(parts) or "Nothing that this version offers."


def passes(history: History) -> str:
    """How often the data were read, in words."""
    kept, _ = kept_starts(history)
    counts = [len(history[name]) for name in kept]
    text = f"{' + '.join(map(str, counts)) or 'no'} passes over the data"
    if len(counts) > 1:
        text += f" in {len(counts)} stages"
    starts = sections.starts(history)
    return f"{starts} starts; {text}" if starts > 1 else text[0].upper() + text[1:]


def data_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of the data, for a table."""
    data = dict(result.get("data") or {})
    rows = []
    for key, value in data.items():
        if key in ("notes", "kind") or value is None:
            continue
        shape = key in ("size", "shape") and isinstance(value, list)
        said = " × ".join(map(str, value)) if shape else words.plain(value)
        rows.append((TITLES.get(key, key.replace("_", " ")), said + UNITS.get(key, "")))
    return rows


def notes_of(result: Mapping[str, Any]) -> list[str]:
    """Sentences that were recorded."""
    held = [dict(result.get("data") or {}).get("notes"), result.get("notes")]
    return [str(text) for notes in held for text in ([notes] if isinstance(notes, str) else notes or ())]


def effort(result: Mapping[str, Any]) -> str:
    """Time and memory."""
    parts = []
    if (seconds := as_number(result.get("seconds"))) is not None:
        parts.append(f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min")
    if (memory := as_number(result.get("peak_memory_mb"))) is not None:
        parts.append(f"{memory:,.0f} MB of memory at most")
    return ", ".join(parts)
