"""The parts of the page that have pictures: surface, shells, patches, convergence; None where there is nothing."""

from __future__ import annotations

import math
from typing import Any

from unpicked._lazy import torch
from unpicked.evaluate.directional import Directional
from unpicked.evaluate.fsc import fsc_error, shell_counts
from unpicked.evaluate.resample import sphere
from unpicked.report import figures, views, words
from unpicked.report.figures import Curve
from unpicked.report.reading import Halves, History, Run, Truth, kept_starts, moved, stage
from unpicked.report.surface import LARGEST, SHARE, embedded, stills
from unpicked.report.tiles import images, scale_bar

PATCHES = 12  # shown at most
EVEN = 0.95  # sampling compensation factor of views that are as good as uniform ones
COLUMNS = (
    ("objective", "Objective", "log units below the best pass; the top is best"),
    ("gain", "Gain that is left", "predicted, log units; 0 is the end"),
    ("change", "Change of the map", "relative, per pass"),
    ("judge", "Judged log-likelihood", "log units below the best start; the top is best"),
    ("energy", "Energy per particle, E", "of the present map, mean over views"),
    ("sigma", "Noise, σ", "per pixel of the prepared micrographs"),
    ("density", "Density", "covered share of the area"),
)


def surface(run: Run) -> dict[str, Any] | None:
    """What the script draws, and the still pictures that stand in for it."""
    maps = [("reconstruction", run.volume)]
    if run.truth is not None:
        maps = [("reconstruction", run.truth.aligned), ("truth", run.truth.map)]
    found = [(label, map, embedded(map)) for label, map in maps]
    drawn = [(label, map, held) for label, map, held in found if held is not None]
    if found[0][2] is None:
        return None
    field = maps[0][1].box * maps[0][1].voxel_size
    bar, percent = scale_bar(field)
    return {
        "maps": [{"label": label, **held.to_json()} for label, _, held in drawn],
        "rows": [(label, stills(map, held.level)) for label, map, held in drawn],
        "both": len(drawn) > 1,
        "bar": f"{bar:g} Å",
        "percent": f"{percent:.2f}",
        "share": f"{100 * SHARE:.0f} %",
        "cropped": LARGEST if maps[0][1].box > LARGEST else 0,
    }


def shells(run: Run) -> dict[str, Any] | None:
    """Resolution shell by shell: against the truth, between half maps, and what came from the prior."""
    from markupsafe import Markup

    if run.truth is None and run.halves is None and run.share is None:
        return None
    step = 1 / (run.volume.box * run.volume.voxel_size)
    curves, legend = [], []
    if run.truth is not None:
        curves.append(_truth_curve(run.truth))
        legend.append("against the truth")
    if run.halves is not None:
        curves.append(_halves_curve(run.halves, run.volume.box, step))
        legend.append("between the verification's folds" if run.halves.folds else "between half maps")
    grids = [run.truth.map] if run.truth else []
    grids += [run.volume] if run.halves or run.share else []
    nyquist = max(1 / (2 * map.voxel_size) for map in grids)
    said = [f"Fourier shell correlation {text}" for text in legend]
    if run.share is not None:
        said.append("share of the data per shell")
    floor = run.halves.floor if run.halves else ()
    if floor:
        said.append("agreement that data of random phases reach")
    return {
        "svg": Markup(figures.shell_plot(curves, nyquist, run.share, step, floor)),  # drawn from numbers alone
        "said": "; ".join(said),
        "legend": legend if len(legend) > 1 else [],
        "truth": _truth_figures(run.truth) if run.truth else (),
        "truth_notes": [words.sentence(text) for text in run.truth.comparison.notes] if run.truth else (),
        "halves": _halves_words(run.halves) if run.halves else "",
        "ways": _ways(run.halves.ways) if run.halves and run.halves.ways else None,
        "folds": run.halves is not None and run.halves.folds,
        "floor": bool(floor),
        "shared": run.halves is not None and run.halves.shared_start,
        "share": share_words(run),
        "response": run.share_of_response,
        "hatched": any(part < 0.5 for part in run.share or ()),
    }


def share_words(run: Run) -> str:
    """The shells that the prior decides, in words."""
    if run.share is None:
        return ""
    field = run.volume.box * run.volume.voxel_size
    low = [k for k, part in enumerate(run.share) if part < 0.5]
    whole = "a change in what the data say" if run.share_of_response else "the precision"
    if not low:
        counted = (
            "the uncertainty of the particles' places and views is counted in."
            if run.share_observed
            else "places and views of the particles are taken as known, so this is the most that the data can say."
        )
        return f"Every shell comes from the data, by {100 * min(run.share):.0f} % of {whole} at the least; {counted}"
    parts = []
    for first, last in words.ranges(low):
        at = "the mean" if first == 0 else f"{field / first:.3g} Å"
        to = f" to {field / last:.3g} Å" if last > first else ""
        parts.append(f"{first} to {last} ({at}{to})" if last > first else f"{first} ({at})")
    many = "shell" if len(low) == 1 else "shells"
    held = (
        f"less than half of {whole} comes through"
        if run.share_of_response
        else f"the data hold less than half of {whole}"
    )
    return f"From the prior: {many} {', '.join(parts)}. There {held}, and detail may be the prior's."


def directions(run: Run) -> dict[str, Any] | None:
    """The estimated directions of view: a map of the sphere, and what they leave of the information."""
    from markupsafe import Markup

    if run.seen is None:
        return None
    edges = views.cells(2 * views.ROWS)
    density = run.seen.density(torch.from_numpy(views.centres(edges))).numpy()
    told, full = run.seen.to_json(), max(3, math.ceil(density.max()))
    x, y, z = (round(value, 2) + 0.0 for value in told["axis"])  # no negative zeros
    mean, least, most = told["sampling"], told["sampling_least"], told["sampling_greatest"]
    rows = [("share of the sphere, exp(entropy)", f"{100 * told['share']:.0f} %")]
    if mean < EVEN:
        rows.append(("preferred axis x, y, z", f"{x:.2f}, {y:.2f}, {z:.2f}"))
        rows.append(("concentration κ along it, either side", f"{told['concentration']:.2g}"))
    rows += [
        ("sampling of Fourier space, least to most", f"{least:.2f} to {most:.2f}"),
        ("sampling compensation factor", f"{mean:.2f}"),
    ]
    return {
        "svg": Markup(views.density_plot(edges, density, full=full)),  # drawn from numbers alone
        "said": f"estimated directions of view on a map of the sphere, {rows[0][1]} of it",
        "full": full,
        "rows": rows,
        "even": mean >= EVEN,
        "hardly": least < 0.1,
    }


def patches(run: Run) -> dict[str, Any] | None:
    """Places in the micrographs beside the map's projection for each."""
    if run.patches is None:
        return None
    held = run.patches
    stacks = [("patch", held.patches), ("projection", held.projections)]
    if held.averages is not None:
        stacks.append(("average", held.averages))
    shown = min(PATCHES, len(held.posterior))
    columns = []
    for kind, stack in stacks:
        labels = [f"{kind} {k + 1}" for k in range(shown)]
        columns.append((kind, images(list(stack[:shown]), labels, edge=120)))
    places = [
        {"chance": _percent(float(held.posterior[k])), "tiles": [(kind, made[k]) for kind, made in columns]}
        for k in range(shown)
    ]
    total = len(held.posterior)
    return {
        "places": places,
        "count": f"{shown} of {total}" if shown < total else str(total),
        "averages": held.averages is not None,
    }


def convergence(runs: History) -> dict[str, Any]:
    """Every figure of the history that was recorded, and how to read them."""
    from markupsafe import Markup

    kept, told = kept_starts(runs)
    out = []
    for name, title, note in COLUMNS:
        rows = [row for each in (*kept, *(each for each in runs if each not in kept)) for row in runs[each]]
        values = [row[name] for row in rows if math.isfinite(row.get(name, math.nan))]
        if not values:
            continue
        own = [row[name] for each in kept for row in runs[each] if math.isfinite(row.get(name, math.nan))] or values
        said = f"{title} over {len(own)} passes, from {words.number(own[0])} to {words.number(own[-1])}"
        picture = Markup(figures.convergence(name, runs, kept))  # drawn here from numbers alone
        out.append({"name": name, "title": title, "note": note, "said": said, "svg": picture})
    names = {curve["name"] for curve in out}
    best = ", the best" if told else ", the first; which start is the best is not recorded"
    return {
        "curves": out,
        "lead": _how_to_read(runs, names, kept, told),
        "kept": kept[0].split()[-1] + (best if starts(runs) > 1 else "") if kept else "",
        "starts": starts(runs),
        "moved": any(moved(each) for each in runs),
    }


def starts(runs: History) -> int:
    """Number of starts in the first stage."""
    first = min((stage(name) for name in runs), default=0)
    return sum(stage(name) == first and not moved(name) for name in runs)


def _truth_curve(truth: Truth) -> Curve:
    c, box = truth.comparison, truth.map.box
    counts = shell_counts(box) * float(sphere(box).mean())
    errors = fsc_error(torch.tensor(c.fsc, dtype=torch.float64), counts)
    crossings = [
        (level, None if value == c.nyquist else value)
        for level, value in ((0.5, c.resolution_05), (0.143, c.resolution_0143))
    ]
    return Curve(c.fsc, errors.tolist(), 1 / (box * truth.map.voxel_size), crossings)


def _halves_curve(halves: Halves, box: int, step: float) -> Curve:
    counts = shell_counts(box)
    values = halves.fsc[: len(counts)]
    errors = fsc_error(torch.tensor(values, dtype=torch.float64), counts[: len(values)]).tolist()
    held = list(halves.error[: len(values)]) if halves.error else errors
    return Curve(values, held, step, [(0.143, None if halves.at_nyquist else halves.resolution)])


def _truth_figures(truth: Truth) -> tuple[tuple[str, str], ...]:
    c = truth.comparison
    return (
        ("resolution at FSC 0.5", words.angstrom(c.resolution_05, c.nyquist)),
        ("resolution at FSC 0.143", words.angstrom(c.resolution_0143, c.nyquist)),
        ("Nyquist limit", f"{c.nyquist:.3g} Å"),
        ("correlation", f"{c.correlation:.3f}"),
        ("relative error", f"{c.relative_error:.3f}"),
        ("mean FSC to Nyquist", f"{c.fsc_area:.3f}"),
        ("grey-value scale to the truth", f"{c.scale:.3g}"),
    )


def _halves_words(halves: Halves) -> str:
    name = "maps of the two folds" if halves.folds else "half maps"
    if halves.at_nyquist:
        limit = f", {halves.resolution:.3g} Å" if halves.resolution else ""
        said = [f"The {name} agree up to the Nyquist limit{limit}: their FSC stays above 0.143."]
    elif halves.resolution is None and halves.folds:
        why = 'the verdict is not "supported", or no shell agrees beyond what random phases reach'
        said = [f"No resolution is read from the folds: {'they started from one map' if halves.shared_start else why}."]
    elif halves.resolution is None:
        said = ["The half maps agree in no shell: their FSC is below 0.143 from the first shell on."]
    elif halves.floor:
        said = [
            f"The {name} agree up to {halves.resolution:.3g} Å: further out their FSC falls below 0.143, or is no "
            "better than what data of random phases reach."
        ]
    else:
        said = [f"The {name} agree up to {halves.resolution:.3g} Å, where their FSC falls below 0.143."]
    if halves.folds:
        said.append("Each fold has half of the data, so the map of all of them is somewhat better.")
    if halves.corrected:
        said.append(f"Inside a mask, and corrected for it: {halves.corrected:.3g} Å.")
    if halves.cutoff:
        said.append(
            f"They were laid on one another by the shells up to {halves.cutoff:.3g} Å; "
            "agreement there was sought, and says less than agreement beyond."
        )
    if halves.shared_start:
        said.append(
            "Both started from one map, so this is consistency, not validation: "
            "two halves of pure noise can agree on the map they started from."
        )
    else:
        said.append("Each half was reconstructed from its own start.")
    return " ".join(said)


def _ways(found: Directional) -> dict[str, Any]:
    """Resolution by direction of Fourier space: the picture, and how to read it."""
    from markupsafe import Markup

    def along(size: float | None, axis: list[float]) -> str:
        place = ", ".join(f"{part:+.2f}" for part in axis).replace("-", "−")
        return f"{words.angstrom(size, found.nyquist)} along ({place})"

    if found.best is None:
        said = "In no direction do the half maps agree."
    elif found.best == found.worst:
        said = f"The half maps agree up to {words.angstrom(found.best, found.nyquist)} in every direction."
    else:
        best, worst = along(found.best, found.best_direction), along(found.worst, found.worst_direction)
        said = f"Best {best}, worst {worst} (x, y, z)."
    return {
        "svg": Markup(views.resolution_plot(found)),  # drawn from numbers alone
        "said": said,
        "sphericity": f"{found.sphericity:.2f}",
        "angle": f"{found.half_angle:g}",
    }


def _how_to_read(runs: History, names: set[str], kept: tuple[str, ...], told: bool) -> str:
    said = []
    if "objective" in names:
        frozen = any(row.get("frozen") == 1 for rows in runs.values() for row in rows)
        where = "where the views are held fixed (shaded), and within a stage" if frozen else "within a stage"
        said.append(f"Objectives can be compared only {where}{' (dashed line)' if len(kept) > 1 else ''}.")
    if "gain" in names:
        said.append(
            "The gain that is left is what further passes are predicted to win: where it is small, the map is final."
        )
    if starts(runs) > 1 and told:
        said.append(
            "Starts that end at one level are likely to have found one answer; "
            "different levels mean that the search is hard."
        )
    return " ".join(said)


def _percent(chance: float) -> str:
    if chance >= 0.995:
        return "> 99 %"
    return "< 1 %" if chance < 0.01 else f"{100 * chance:.0f} %"
