"""The page of a run on a particle stack: its images, their views and poses, and the stages that led there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from unpicked.report import page, views, words
from unpicked.report.page import Figure
from unpicked.report.reading import History, Posed, Run, kept_starts, stage
from unpicked.report.words import as_number

COLUMNS = (
    ("energy", "Energy per image, E", "of the map, within the band in use", False),
    ("sigma", "Noise, σ", "per pixel, with what the map does not explain yet", False),
    ("spread", "Spread of the poses", "degrees, median over the images", True),
    ("rescued", "Rescued images", "share that turned by more than 15° in a round", False),
    ("change", "Change of the map", "relative, per pass", True),
    ("radius", "Band in use", "radius in Fourier pixels", False),
    ("effective", "Views that share an image", "of all that are compared with it", True),
)


def render(run: Run) -> str:
    """The page of a run as text."""
    return page.render(
        run,
        source="a particle stack",
        key=key_figures(run),
        statements=page.statements(run, _hand(run), _more(run)),
        patches=None,
        posed=None if run.posed is None else section(run.posed, run.volume.voxel_size),
        convergence=convergence(run.history),
        passes=passes(run.history),
    )


def key_figures(run: Run) -> tuple[Figure, ...]:
    """The numbers that head the page."""
    found = dict(run.result.get("figures") or {})
    names = ("particles", "energy", "sigma", "pose_spread_deg")
    images, energy, sigma, spread = (as_number(found.get(name)) for name in names)
    out = []
    if energy is not None:
        ratio, per_pixel = math.sqrt(max(energy, 0)), energy / run.volume.box**2
        note = (
            f"of the map; matched-filter ratio {words.number(ratio)} (√E), SNR per box pixel {words.number(per_pixel)}"
        )
        out.append(Figure("energy per image, E", words.number(energy), note))
    if images is not None:
        note = f"all of {run.volume.box} × {run.volume.box} working pixels; none is left out, none classified"
        out.append(Figure("images", f"{images:,.0f}", note))
    if sigma is not None:
        note = "per working pixel, in the grey values of the files, with what the map does not explain"
        out.append(Figure("noise, σ", words.number(sigma, 4), note))
    if spread is not None and not _known(run):
        note = "median spread of a rotation that the noise implies: a lower bound of its error"
        out.append(Figure("accuracy of poses, at best", f"{spread:.2g}°", note))
    return (*out, page.resolution(run.truth, run.halves))


def section(posed: Posed, voxel: float) -> dict[str, Any]:
    """Directions of view and spreads of poses."""
    from markupsafe import Markup

    count = len(posed.directions)
    least, most = views.coverage(posed.directions)
    low, high = views.by_chance(count)
    shifts = float(np.sqrt((posed.shifts**2).sum(1).mean()))
    said = ["Centres of the particles were taken to be those of their images."]
    if shifts > 0:
        said = [f"Centres lie {shifts:.2g} Å ({shifts / voxel:.2g} voxels) from those of the images, r.m.s."]
    drawn = {
        "sphere": Markup(views.sphere_plot(posed.directions)),  # drawn from numbers alone
        "said": f"directions of view of {count:,} images on a map of the sphere",
        "coverage": _coverage(least, most, low, high, count),
        "dots": count <= 500,
        "spread": "",
        "spread_said": "",
        "words": said,
    }
    if posed.spread is not None and float(posed.spread.max()) > 0:
        tenth, middle, last = (float(value) for value in np.percentile(posed.spread, (10, 50, 90)))
        said.insert(0, f"Eight of ten images: {tenth:.2g}° to {last:.2g}°, the median {middle:.2g}°.")
        drawn["spread"] = Markup(views.spread_plot(posed.spread))
        drawn["spread_said"] = f"spreads of {count:,} poses, median {middle:.2g} degrees"
    return drawn


def convergence(runs: History) -> dict[str, Any]:
    """Every figure of the history, a panel per stage, and how to read them."""
    from markupsafe import Markup

    kept, told = kept_starts(runs)
    stages = [(_title(number, runs), _of(number, runs)) for number in sorted({stage(name) for name in runs})]
    out = []
    for name, title, note, log in COLUMNS:
        having = [
            (what, {run: rows for run, rows in group.items() if _finite(rows, name)})
            for what, group in stages
            if any(_finite(rows, name) for rows in group.values())
        ]
        if not having:
            continue
        own = [value for run in kept for value in _finite(runs[run], name)] or [
            value for _, group in having for rows in group.values() for value in _finite(rows, name)
        ]
        picture = Markup(views.course(name, having, kept, log and min(own) > 0))  # drawn here from numbers alone
        said = f"{title} over {len(own)} passes, from {words.number(own[0])} to {words.number(own[-1])}"
        out.append({"name": name, "title": title, "note": note, "said": said, "svg": picture})
    starts = len(stages[0][1]) if stages else 0
    first = kept[0].split()[0].replace("search-", "start ") if kept else ""
    best = ", which went on" if told else ", the first"
    return {
        "curves": out,
        "lead": "Log-likelihoods of different bands cannot be compared, so none is drawn; result.json and history.csv "
        "have them."
        + (" Stages at finer pixels begin with the map and the poses of the one before." * (len(stages) > 2)),
        "kept": first + best if starts > 1 else "",
        "starts": starts,
        "moved": False,
    }


def passes(runs: History) -> str:
    """The stages in words."""
    kept, _ = kept_starts(runs)
    said = []
    for run in kept:
        count, number = len(runs[run]), stage(run)
        if run.startswith("search-"):
            starts = len(_of(number, runs))
            word = "a start" if starts == 1 else f"each of {starts} random starts"
            said.append(f"{count} updates of the search from {word}")
        elif number:
            said.append(f"{count} rounds of poses and map at {number} pixels")
        else:
            said.append(f"{count} rounds of the map at known poses")
    text = ", then ".join(said) or "no pass was recorded"
    return text[0].upper() + text[1:]


def _of(number: int, runs: History) -> dict[str, list[dict[str, float]]]:
    return {name: rows for name, rows in runs.items() if stage(name) == number}


def _title(number: int, runs: History) -> str:
    if number:
        return f"{number} pixels"
    return "search" if any(name.startswith("search-") for name in _of(0, runs)) else "known poses"


def _finite(rows: list[dict[str, float]], name: str) -> list[float]:
    return [row[name] for row in rows if math.isfinite(row.get(name, math.nan))]


def _settings(run: Run) -> Mapping[str, Any]:
    return dict(run.result.get("settings") or {})


def _known(run: Run) -> bool:
    return bool(_settings(run).get("method") == "known")


def _hand(run: Run) -> str:
    if _known(run):
        return "That of the given poses; untilted images fit a map and its mirror image equally well, and cannot tell."
    return page.hand(run.truth)


def _more(run: Run) -> list[tuple[str, str]]:
    """Where the poses come from, and whether contrast transfer is in the model."""
    settings = _settings(run)
    starts = settings.get("starts")
    if _known(run):
        where = f"Taken as they are from {settings.get('poses') or settings.get('file')}; nothing has tested them."
    elif settings.get("start"):
        where = f"Searched over all views from the map {settings['start']}, then fitted image by image."
    else:
        many = "one random start" if starts == 1 else f"{starts} random starts"
        where = f"Searched over all views from {many}, then fitted image by image; poses in the file were not used."
    said = [("Poses", where)]
    lens = dict(run.result.get("data") or {}).get("contrast_transfer")
    if lens is True:
        said.append(("CTF", "Modelled for every image, from the defocus in the file."))
    elif lens is False:
        said.append(("CTF", "Not modelled. Of defocused images some detail is then inverted or missing."))
    return said


def _coverage(least: float, most: float, low: float, high: float, count: int) -> str:
    text = (
        f"Directions of Fourier space are covered {least:.2f} to {most:.2f} times as often as by views spread evenly; "
        f"{min(count, views.MOST):,} views drawn at random would give about {low:.2f} to {high:.2f}."
    )
    if least < 0.02:
        return f"{text} Some directions were hardly seen: the map is smeared along them, whatever its resolution says."
    if least < 0.5 * low:
        return f"{text} Views are preferred, and the resolution differs with the direction."
    return text
