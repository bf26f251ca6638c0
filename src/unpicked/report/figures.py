"""The pictures of the report: grey values as PNG, curves as SVG that take their colours from the page."""

from __future__ import annotations

import base64
import io
import math
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpicked.data.maps import Map

Rows = Sequence[Mapping[str, float]]

# stand-ins that the page replaces by its own colours, so that one drawing serves light, dark and paper
_INK, _MUTED, _GRID, _FIRST, _SECOND, _BAND = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_COLOURS = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _GRID: "var(--rule)",
    _FIRST: "var(--first)",
    _SECOND: "var(--second)",
    _BAND: "var(--band)",
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "unpicked",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "text.color": _INK,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "axes.formatter.useoffset": False,
}
_NICE = tuple(map(float, "500 300 200 150 100 80 60 50 40 30 25 20 16 14 12 10 9 8 7 6 5 4.5 4 3.5 3 2.5 2".split()))


@dataclass(frozen=True)
class Tile:
    """One grey-value image of a map.

    Attributes:
        label: what is seen, e.g. "slice x = 0".
        uri: the image as a data address.
    """

    label: str
    uri: str


def slices(map: Map) -> tuple[Tile, ...]:
    """The three central slices, across x, y and z."""
    values, middle = _array(map), map.box // 2
    planes = (values[:, :, middle], values[:, middle, :], values[middle])
    return _tiles(planes, ("slice across x", "slice across y", "slice across z"))


def projections(map: Map) -> tuple[Tile, ...]:
    """The three sums along x, y and z."""
    values = _array(map)
    planes = tuple(values.sum(axis) for axis in (2, 1, 0))
    return _tiles(planes, ("projection along x", "projection along y", "projection along z"))


def scale_bar(field: float) -> tuple[float, float]:
    """A round length of about a third of the field of view: angstrom, and percent of the field."""
    target = field / 3
    unit = 10.0 ** math.floor(math.log10(target))
    length = max(step * unit for step in (1, 2, 5) if step * unit <= target * (1 + 1e-9))
    return length, 100 * length / field


def fsc_curve(
    curve: Sequence[float],
    errors: Sequence[float],
    box: int,
    voxel_size: float,
    crossings: Sequence[tuple[float, float | None]],
) -> str:
    """Fourier shell correlation against spatial frequency, with its error band and the thresholds.

    Args:
        curve: per shell 0, 1, ...
        errors: standard deviation per shell.
        box: edge N in voxels.
        voxel_size: angstrom.
        crossings: (threshold, resolution in angstrom or None).
    """
    shells = np.arange(1, len(curve))
    x = shells / (box * voxel_size)
    y, spread = np.asarray(curve[1:]), np.asarray(errors[1:])
    nyquist = 1 / (2 * voxel_size)

    def draw(axes: Any) -> None:
        axes.fill_between(x, (y - spread).clip(-1, 1), (y + spread).clip(-1, 1), color=_BAND, linewidth=0)
        axes.axhline(0, color=_MUTED, linewidth=0.8)
        for level, angstrom in crossings:
            axes.axhline(level, color=_MUTED, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(f"{level:g}", (nyquist, level), (-2, 3), textcoords="offset points", ha="right", color=_MUTED)
            if angstrom is not None and 1 / angstrom < nyquist * (1 - 1e-6):
                axes.plot([1 / angstrom] * 2, [min(0, float(y.min())), level], color=_SECOND, linewidth=1)
                axes.plot([1 / angstrom], [level], "o", color=_SECOND, markersize=4.5)
                axes.annotate(
                    f"{angstrom:.3g} Å",
                    (1 / angstrom, level),
                    (5, 4),
                    textcoords="offset points",
                    color=_SECOND,
                )
        axes.plot(x, y, color=_FIRST, linewidth=2, marker="o" if len(x) <= 20 else None, markersize=3.5)
        axes.set(xlim=(0, nyquist), ylim=(min(-0.05, float((y - spread).clip(-1, 1).min())), 1.04))
        axes.set_xlabel("spatial frequency (1/Å)")
        axes.set_ylabel("Fourier shell correlation")
        top = axes.secondary_xaxis("top")
        chosen = _resolution_ticks(nyquist)
        top.set_xticks([1 / value for value in chosen], [f"{value:g}" for value in chosen])
        top.set_xlabel("resolution (Å)")
        top.spines["top"].set_visible(True)

    return _svg("fsc", draw, size=(4.6, 3.3))


def stage(run: str) -> int:
    """Number of the stage in the name of a run, as in "stage-1 start-0"; 0 where there is none."""
    found = re.match(r"stage-(\d+) ", run)
    return int(found[1]) if found else 0


def moved(run: str) -> bool:
    """Whether the name of a run is that of a recentre move, as in "stage-1 move-0"."""
    return run.split()[-1].startswith("move")


def convergence(name: str, runs: Mapping[str, Rows], kept: Sequence[str]) -> str:
    """One figure of the history against the pass, for every run; the kept starts and the moves stand out.

    Args:
        name: column of the history; "objective" is drawn as the distance below the best pass.
        runs: rows of the history by the name of the run.
        kept: names of the starts that were kept, one per stage.
    """
    best = best_objective(runs)

    def value(row: Mapping[str, float]) -> float:
        found = row.get(name, math.nan)
        return max(best - found, 0.0) if name == "objective" and math.isfinite(found) else found

    def draw(axes: Any) -> None:
        last = max((row["step"] for rows in runs.values() for row in rows), default=1)
        for step in sorted({row["step"] for rows in runs.values() for row in rows if row.get("frozen") == 1}):
            axes.axvspan(step + 0.5, step + 1.5, color=_BAND, alpha=0.5, linewidth=0)
        for run in kept[1:]:
            axes.axvline(runs[run][0]["step"] + 0.5, color=_MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for run, rows in sorted(runs.items(), key=lambda item: _rank(item[0], kept)):
            colour, width = (_MUTED, 1.0) if _rank(run, kept) == 0 else (_FIRST, 2.0)
            colour = _SECOND if moved(run) else colour
            mark = "o" if len(rows) == 1 or moved(run) else None
            axes.plot(
                [row["step"] + 1 for row in rows],
                [value(row) for row in rows],
                color=colour,
                linewidth=width,
                marker=mark,
                markersize=3,
            )
        axes.set_xlim(0.5, last + 1.5)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=7)
        axes.set_xlabel("pass over the data")
        if name == "objective":
            axes.set_yscale("symlog", linthresh=1)
            axes.yaxis.set_major_formatter(lambda tick, _: _power(tick))
            axes.yaxis.set_minor_locator(_no_ticks())
            found = [value(row) for rows in runs.values() for row in rows]
            axes.set_ylim(1.6 * max([1.0, *filter(math.isfinite, found)]), -0.4)

    return _svg(f"history-{name}", draw, size=(4.1, 2.5))


def best_objective(runs: Mapping[str, Rows]) -> float:
    """The highest objective on fixed views; of all passes where the views were never fixed."""
    rows = [row for group in runs.values() for row in group if math.isfinite(row.get("objective", math.nan))]
    fixed = [row for row in rows if row.get("frozen") == 1]
    return max((row["objective"] for row in fixed or rows), default=0.0)


def _array(map: Map) -> NDArray[np.float64]:
    return map.values.detach().double().cpu().numpy()


def _tiles(planes: Sequence[NDArray[np.float64]], labels: Sequence[str]) -> tuple[Tile, ...]:
    """Images of one common grey scale, from the 0.5th to the 99.8th percentile."""
    low, high = np.percentile(np.stack(planes), (0.5, 99.8))
    span = high - low if high > low else 1.0
    tiles = []
    for plane, label in zip(planes, labels, strict=True):
        grey = (255 * ((plane - low) / span).clip(0, 1)).round().astype(np.uint8)
        times = max(1, -(-240 // grey.shape[0]))
        grey = grey.repeat(times, 0).repeat(times, 1)  # nearest neighbour, whatever the viewer does
        tiles.append(Tile(label, "data:image/png;base64," + base64.b64encode(_png(grey)).decode()))
    return tuple(tiles)


def _png(grey: NDArray[np.uint8]) -> bytes:
    height, width = grey.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), grey], 1).tobytes()
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    )
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _svg(name: str, draw: Any, size: tuple[float, float]) -> str:
    """A figure as an SVG element without size, date or identifiers that another figure has."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        canvas = FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        out = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.print_svg(out, metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="patch_1">.*?</g>', "", text, count=1, flags=re.DOTALL)  # the figure's background
    text = re.sub(r'(<g id="axes_1">\s*)<g id="patch_2">.*?</g>', r"\1", text, count=1, flags=re.DOTALL)
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
    if value < 1000:
        return f"{value:g}"
    return "10" + str(round(math.log10(value))).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
