"""The curves of the report, as SVG that takes its colours from the page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unpicked.report.reading import moved

Rows = Sequence[Mapping[str, float]]

# stand-ins that the page replaces by its own colours, so that one drawing serves light, dark and paper
INK, MUTED, GRID, FIRST, SECOND, BAND, BAND2, HATCH = (f"#0{k}0{k}0{k}" for k in range(1, 9))
_COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--rule)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    BAND: "var(--band)",
    BAND2: "var(--band2)",
    HATCH: "var(--hatch)",
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "unpicked",
    "font.family": "sans-serif",
    "font.size": 9,
    "figure.frameon": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "hatch.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "axes.formatter.useoffset": False,
}
_NICE = tuple(map(float, "500 300 200 150 100 80 60 50 40 30 25 20 16 14 12 10 9 8 7 6 5 4.5 4 3.5 3 2.5 2".split()))
_DASHES = (0, (4, 3))


@dataclass(frozen=True)
class Curve:
    """A Fourier shell correlation.

    Attributes:
        values: per shell 0, 1, ...
        errors: standard deviation per shell.
        step: spatial frequency from shell to shell, 1 / (box * voxel size), per angstrom.
        crossings: (threshold, resolution in angstrom, or None where it is not crossed).
    """

    values: Sequence[float]
    errors: Sequence[float]
    step: float
    crossings: Sequence[tuple[float, float | None]]


def shell_plot(
    curves: Sequence[Curve],
    nyquist: float,
    share: Sequence[float] | None = None,
    share_step: float = 0.0,
    floor: Sequence[float] = (),
) -> str:
    """Fourier shell correlations over spatial frequency, and under them what the data hold of each shell.

    Args:
        curves: at most two; each with its error band and its thresholds.
        nyquist: end of the axis, per angstrom.
        share: per shell 0, 1, ...: 1 from the data, 0 from the prior; shells below 0.5 are hatched.
        share_step: spatial frequency from shell to shell of ``share`` and ``floor``.
        floor: per shell 0, 1, ... the agreement that is reached without any structure.
    """
    heights = [3.0] * bool(curves) + [0.85] * bool(share)

    def draw(figure: Any) -> None:
        panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for panel in panels:
            panel.patch.set_visible(False)
            for shell in [k for k, part in enumerate(share or ()) if part < 0.5]:
                edges = max(0.0, (shell - 0.5) * share_step), (shell + 0.5) * share_step
                panel.axvspan(*edges, facecolor="none", edgecolor=HATCH, hatch="////", linewidth=0, zorder=0.5)
        if curves:
            if floor:
                x = np.arange(1, len(floor)) * share_step
                panels[0].fill_between(x, -1, np.asarray(floor[1:]), color=GRID, linewidth=0, alpha=0.6)
                panels[0].plot(x, floor[1:], color=MUTED, linewidth=1.2)
            _draw_curves(panels[0], curves, nyquist)
        if share:
            _draw_share(panels[-1], share, share_step)
        panels[-1].set_xlim(0, nyquist)
        panels[-1].set_xlabel("spatial frequency (1/Å)")
        top = panels[0].secondary_xaxis("top")
        chosen = _resolution_ticks(nyquist)
        top.set_xticks([1 / value for value in chosen], [f"{value:g}" for value in chosen])
        top.set_xlabel("resolution (Å)")
        top.spines["top"].set_visible(True)

    return svg("shells", draw, size=(4.6, 0.6 + 0.93 * sum(heights) + 0.15 * (len(heights) > 1)))


def convergence(name: str, runs: Mapping[str, Rows], kept: Sequence[str]) -> str:
    """One figure of the history against the pass, for every run; the kept starts and the moves stand out.

    Args:
        name: column of the history; "objective" and "judge" are drawn as the distance below the best.
        runs: rows of the history by the name of the run.
        kept: names of the starts that were kept, one per stage.
    """
    below = name in ("objective", "judge")
    best = best_of(runs, name) if below else 0.0

    def value(row: Mapping[str, float]) -> float:
        found = row.get(name, math.nan)
        return max(best - found, 0.0) if below and math.isfinite(found) else found

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        last = max((row["step"] for rows in runs.values() for row in rows), default=1)
        if name == "objective":
            for step in sorted({row["step"] for rows in runs.values() for row in rows if row.get("frozen") == 1}):
                axes.axvspan(step + 0.5, step + 1.5, color=BAND, alpha=0.5, linewidth=0)
        for run in kept[1:]:
            axes.axvline(runs[run][0]["step"] + 0.5, color=MUTED, linewidth=1, linestyle=_DASHES)
        for run, rows in sorted(runs.items(), key=lambda item: _rank(item[0], kept)):
            drawn = [(row["step"] + 1, found) for row in rows if math.isfinite(found := value(row))]
            colour, width = (MUTED, 1.0) if _rank(run, kept) == 0 else (FIRST, 2.0)
            colour = SECOND if moved(run) else colour
            mark = "o" if len(drawn) == 1 or moved(run) or name == "judge" else None
            places, heights = [x for x, _ in drawn], [y for _, y in drawn]
            axes.plot(places, heights, color=colour, linewidth=width, marker=mark, markersize=3.5)
        axes.set_xlim(0.5, last + 1.5)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=7)
        axes.set_xlabel("pass over the data")
        _scale(axes, name, [y for rows in runs.values() for row in rows if math.isfinite(y := value(row))])

    return svg(f"history-{name}", draw, size=(4.1, 2.5))


def best_of(runs: Mapping[str, Rows], name: str) -> float:
    """The highest value of a column; of an objective only on fixed views, where the views were ever fixed."""
    rows = [row for group in runs.values() for row in group if math.isfinite(row.get(name, math.nan))]
    fixed = [row for row in rows if row.get("frozen") == 1 and name == "objective"]
    return max((row[name] for row in fixed or rows), default=0.0)


def _draw_curves(axes: Any, curves: Sequence[Curve], nyquist: float) -> None:
    lowest = 0.0
    for curve, colour, band in zip(curves, (FIRST, SECOND), (BAND, BAND2), strict=False):
        x = np.arange(1, len(curve.values)) * curve.step
        y, spread = np.asarray(curve.values[1:]), np.asarray(curve.errors[1:])
        low = (y - spread).clip(-1, 1)
        lowest = min(lowest, float(low.min(initial=0)))
        axes.fill_between(x, low, (y + spread).clip(-1, 1), color=band, linewidth=0, alpha=0.75)
        axes.plot(x, y, color=colour, linewidth=2, marker="o" if len(x) <= 20 else None, markersize=3.5)
        for level, angstrom in curve.crossings:
            if angstrom is not None and 1 / angstrom < nyquist * (1 - 1e-6):
                axes.plot([1 / angstrom] * 2, [min(0, float(y.min())), level], color=colour, linewidth=1)
                axes.plot([1 / angstrom], [level], "o", color=colour, markersize=4.5)
                near_end = 1 / angstrom > 0.8 * nyquist
                style = {"textcoords": "offset points", "color": colour, "ha": "right" if near_end else "left"}
                axes.annotate(f"{angstrom:.3g} Å", (1 / angstrom, level), (-5 if near_end else 5, 4), **style)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    for level in sorted({level for curve in curves for level, _ in curve.crossings}):
        axes.axhline(level, color=MUTED, linewidth=1, linestyle=_DASHES)
        axes.annotate(f"{level:g}", (0, level), (4, 3), textcoords="offset points", color=MUTED)
    axes.set_ylim(min(-0.05, lowest), 1.04)
    axes.set_ylabel("Fourier shell correlation")


def _draw_share(axes: Any, share: Sequence[float], step: float) -> None:
    for wanted, colour in ((True, FIRST), (False, MUTED)):
        chosen = [k for k, part in enumerate(share) if (part >= 0.5) == wanted]
        axes.bar([k * step for k in chosen], [share[k] for k in chosen], 0.86 * step, color=colour, linewidth=0)
    axes.axhline(0.5, color=MUTED, linewidth=1, linestyle=_DASHES)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.5, 1])
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("from data")


def _scale(axes: Any, name: str, found: Sequence[float]) -> None:
    """The scale of the axis of values: logarithmic where a figure falls over several powers of ten."""
    from matplotlib.ticker import NullLocator

    if name == "change" and found and min(found) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda tick, _: f"{tick:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    elif name in ("objective", "judge", "gain"):
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter(lambda tick, _: _power(tick))
        axes.yaxis.set_minor_locator(NullLocator())
        far = 1.6 * max([1.0, *found])
        axes.set_ylim((min(-0.4, *(1.6 * y for y in found)), far) if name == "gain" else (far, -0.4))


def svg(name: str, draw: Callable[[Any], None], size: tuple[float, float]) -> str:
    """A figure as an SVG element without size, date or identifiers that another figure has."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        canvas = FigureCanvasSVG(figure)
        draw(figure)
        out = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.print_svg(out, metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
    for stand_in, colour in _COLOURS.items():
        text = text.replace(stand_in, colour)
    return re.sub(r"\n\s*", "\n", text)


def _resolution_ticks(nyquist: float) -> list[float]:
    chosen: list[float] = []
    for value in sorted({*_NICE, round(1 / nyquist, 3)}):
        apart = all(abs(1 / value - 1 / other) > 0.13 * nyquist for other in chosen)
        if 1 / value <= nyquist * (1 + 1e-3) and apart:
            chosen.append(value)
    return chosen


def _rank(run: str, kept: Sequence[str]) -> int:
    return 2 if moved(run) else int(run in kept)


def _power(value: float) -> str:
    if abs(value) < 1000:
        return f"{value:g}"
    power = "10" + str(round(math.log10(abs(value)))).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if value > 0 else "−" + power
