"""The page of a run on a particle stack: its images, their views and poses, and the stages that led there."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unpicked.report import page, views, words
from unpicked.report.page import Figure
from unpicked.report.reading import History, Posed, Run
from unpicked.report.words import as_number

COLUMNS = (
    ("energy", "Energy per image, E", "of the map, within the band in use", False),
    ("sigma", "Noise, σ", "per pixel, with what the map does not explain yet", False),
    ("mean_loss", "Misfit", "in parts of the images' power", True),
    ("spread", "Spread of the poses", "degrees, median over the images", True),
    ("rescued", "Rescued images", "share that turned by more than 15° in a round", False),
    ("change", "Change of the map", "relative, per pass", True),
    ("radius", "Band in use", "radius in Fourier pixels", False),
    ("effective", "Views that share an image", "of all that are compared with it", True),
)
TITLES = {
    "search": "search",
    "soft": "soft views",
    "known": "known poses",
    "encoder-0": "long steps",
    "encoder-1": "short steps",
    "table": "updates",
    "all": "all images",
    "fine": "fine views",
}


@dataclass(frozen=True)
class Stage:
    """Runs that one stage of a job took.

    Attributes:
        key: name of the stage, as "search" or "refine-64".
        runs: rows of the history by the number of the start.
        kept: number of the start that went on.
        told: whether the run tells which one did.
    """

    key: str
    runs: Mapping[int, list[dict[str, float]]]
    kept: int
    told: bool

    @property
    def title(self) -> str:
        """For the reader."""
        kind, _, number = self.key.rpartition("-")
        made = {"refine": f"{number} pixels", "band": f"band {number}"}.get(kind)
        return made or TITLES.get(self.key, self.key)


def render(run: Run) -> str:
    """The page of a run as text."""
    course = stages(run.history, page.notes_of(run.result))
    return page.render(
        run,
        source="a particle stack",
        key=key_figures(run),
        statements=page.statements(run, _hand(run), _more(run)),
        patches=None,
        posed=None if run.posed is None else section(run.posed, run.volume.voxel_size),
        convergence=convergence(course),
        passes=passes(course),
    )


def key_figures(run: Run) -> tuple[Figure, ...]:
    """The numbers that head the page."""
    found = dict(run.result.get("figures") or {})
    names = ("particles", "energy", "sigma", "pose_spread_deg", "misfit")
    images, energy, sigma, spread, misfit = (as_number(found.get(name)) for name in names)
    out = []
    if energy is not None:
        ratio, per_pixel = math.sqrt(max(energy, 0)), energy / run.volume.box**2
        note = f"matched-filter ratio {words.number(ratio)} (√E); SNR per box pixel {words.number(per_pixel)}"
        out.append(Figure("energy per image, E", words.number(energy), note))
    if images is not None:
        note = "all that the file lists; none is left out, all are taken to show one structure"
        out.append(Figure("images", f"{images:,.0f}", note))
    if misfit is not None:
        out.append(Figure("misfit", words.number(misfit), "in parts of the images' power"))
    if sigma is not None:
        note = "per working pixel, in the grey values of the files"
        out.append(Figure("noise, σ", words.number(sigma, 4), note))
    if spread is not None and not _known(run):
        note = "median spread of a rotation that the noise implies; its error is at least that"
        out.append(Figure("poses, at best", f"{spread:.2g}°", note))
    return (*out, page.resolution(run.truth, run.halves))


def section(posed: Posed, voxel: float) -> dict[str, Any]:
    """Directions of view and spreads of poses."""
    from markupsafe import Markup

    count = len(posed.directions)
    shifts = float(np.sqrt((posed.shifts**2).sum(1).mean()))
    said = ["Every particle's centre is that of its image."]
    if shifts > 0:
        said = [
            f"The particles' centres lie {shifts:.2g} Å ({shifts / voxel:.2g} voxels) from those of the images, r.m.s."
        ]
    drawn = {
        "sphere": Markup(views.sphere_plot(posed.directions)),  # drawn from numbers alone
        "said": f"directions of view of {count:,} images on a map of the sphere",
        "coverage": _coverage(posed),
        "dots": count <= views.DOTS,
        "spread": "",
        "spread_said": "",
        "words": said,
    }
    if posed.spread is not None:
        tenth, middle, last = (float(value) for value in np.percentile(posed.spread, (10, 50, 90)))
        said.insert(0, f"Eight of ten images: {tenth:.2g}° to {last:.2g}°; median {middle:.2g}°.")
        drawn["spread"] = Markup(views.spread_plot(posed.spread))
        drawn["spread_said"] = f"spreads of {count:,} poses, median {middle:.2g} degrees"
    return drawn


def stages(runs: History, notes: list[str]) -> list[Stage]:
    """The stages in the order of the history, whatever the method."""
    kept = next(
        (int(found[1]) for note in notes if (found := re.search(r"^\d+ starts: .*start (\d+) was kept", note))), None
    )
    groups: dict[str, dict[int, list[dict[str, float]]]] = {}
    for name, rows in runs.items():
        key, start = name.split()[0], 0
        if found := re.fullmatch(r"search-(\d+)", key):
            key, start = "search", int(found[1])
        elif found := re.fullmatch(r"start-(\d+)-(.+)", key):
            key, start = found[2], int(found[1])
        groups.setdefault(key, {})[start] = rows
    return [
        Stage(key, group, kept if kept in group else min(group), kept in group or len(group) == 1)
        for key, group in groups.items()
    ]


def convergence(course: list[Stage]) -> dict[str, Any]:
    """Every figure of the history, a panel per stage, and how to read them."""
    from markupsafe import Markup

    out = []
    for name, title, note, log in COLUMNS:
        panels = [
            views.Panel(
                stage.title,
                {start: values for start, rows in stage.runs.items() if (values := _values(rows, name))},
                stage.kept,
            )
            for stage in course
        ]
        panels = [panel for panel in panels if panel.runs]
        if not panels:
            continue
        own = [y for panel in panels for _, y in panel.runs.get(panel.kept, next(iter(panel.runs.values())))]
        picture = Markup(views.course(name, panels, log and min(own) > 0))  # drawn here from numbers alone
        said = f"{title} over {len(own)} passes, from {words.number(own[0])} to {words.number(own[-1])}"
        out.append({"name": name, "title": title, "note": note, "said": said, "svg": picture})
    first = course[0] if course else Stage("", {}, 0, True)
    which = "which went on" if first.told else "which start went on is not recorded"
    return {
        "curves": out,
        "lead": "Log-likelihoods of different bands cannot be compared, so none is drawn; history.csv has them.",
        "kept": f"start {first.kept}, {which}" if len(first.runs) > 1 else "",
        "starts": len(first.runs),
        "moved": False,
    }


def passes(course: list[Stage]) -> str:
    """The stages in words."""
    said = [
        f"{stage.title}, {len(stage.runs[stage.kept])} {views.unit(stage.title)}"
        + (f" from each of {len(stage.runs)} starts" if len(stage.runs) > 1 else "")
        for stage in course
    ]
    text = "; then ".join(said) or "no pass was recorded"
    return text[0].upper() + text[1:]


def _values(rows: list[dict[str, float]], name: str) -> list[tuple[float, float]]:
    """Number of the pass and value, where there is one."""
    return [(row["step"] + 1, row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]


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
    method, starts, start = (settings.get(name) for name in ("method", "starts", "start"))
    begun = f"the map {start}" if start else "one random start" if starts == 1 else f"{starts} random starts"
    unused = "what the file says of poses was not used"
    where = {
        "known": f"Taken as they are from {settings.get('poses') or settings.get('file')}; nothing has tested them.",
        "encoder": f"Read from the images by a network, then fitted image by image; {unused}.",
        "table": f"A pose of its own for every image, by gradients; {unused}.",
        "em": f"Summed over, from {begun}; the file holds the likeliest of every image. {unused.capitalize()}.",
    }
    where["sgd"] = where["em"]
    searched = f"Searched over all views from {begun}, then fitted image by image; {unused}."
    said = [("Poses", where.get(str(method), searched))]
    lens = dict(run.result.get("data") or {}).get("contrast_transfer")
    if lens is True:
        said.append(("CTF", "Modelled for every image, from the defocus in the file."))
    elif lens is False:
        said.append(("CTF", "Not modelled. Where images were defocused, detail is then inverted or missing."))
    return said


def _coverage(posed: Posed) -> str:
    count = len(posed.directions)
    least, most = views.coverage(posed.directions)
    low, high = views.by_chance(count)
    text = (
        f"Directions of Fourier space are covered {least:.2f} to {most:.2f} times as often as by views spread evenly; "
        f"{min(count, views.MOST):,} views drawn at random: about {low:.2f} to {high:.2f}."
    )
    if least < 0.02 and low > 0.02:
        return f"{text} Some directions were hardly seen: the map is smeared along them, whatever its resolution says."
    if least < 0.5 * low:
        return f"{text} Views are preferred, so the resolution differs from direction to direction."
    return text
