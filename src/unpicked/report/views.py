"""The pictures of a particle stack's page: directions of view on a sphere, spreads of poses, the course in stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpicked.evaluate.directional import Directional, half_sphere
from unpicked.report.figures import FIRST, GRID, INK, MUTED, svg

Values = NDArray[np.float64]

CELLS = 12  # images per cell, on average, before cells are made smaller
ROWS = 18  # of cells at most
DOTS = 500  # images that are drawn one by one at most
MOST = 20_000  # directions that are looked at for the coverage


def cells(rows: int) -> Values:
    """Edges ``(m, 4)`` of cells of about equal area: rot from and to, z from and to (z the cosine of tilt)."""
    edges = []
    for low, high in pairwise(np.linspace(0, math.pi, rows + 1)):
        around = max(3, round(2 * rows * math.sin((low + high) / 2)))
        for k in range(around):
            sides = (2 * math.pi * (k + part) / around - math.pi for part in (0, 1))
            edges.append((*sides, math.cos(high), math.cos(low)))
    return np.array(edges)


def centres(edges: Values) -> Values:
    """Directions ``(m, 3)`` of the middles of cells."""
    rot, tilt = edges[:, :2].mean(1), np.arccos(edges[:, 2:]).mean(1)
    return np.stack([np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)], 1)


def sphere(directions: Values) -> tuple[Values, Values]:
    """Cells of equal area (:func:`cells`), and how many directions lie in each over the mean, ``(m,)``."""
    rows = min(ROWS, max(4, round(math.sqrt(len(directions) / CELLS * math.pi / 4))))  # 4 rows^2 / pi cells
    edges, density = cells(rows), []
    rot = np.arctan2(directions[:, 1], directions[:, 0])
    tilt = np.arccos(directions[:, 2].clip(-1, 1))
    for low, high in pairwise(np.linspace(0, math.pi, rows + 1)):
        around = max(3, round(2 * rows * math.sin((low + high) / 2)))
        inside = (tilt >= low) & ((tilt < high) | (high == math.pi))
        count, _ = np.histogram(rot[inside], around, (-math.pi, math.pi))
        share = (math.cos(low) - math.cos(high)) / 2 / around
        density += list(count / (share * len(directions)))
    return edges, np.array(density)


def hammer(rot: Values, z: Values) -> tuple[Values, Values]:
    """Place on Hammer's map of the whole sphere, which keeps areas: x from -2 to 2, y from -1 to 1."""
    cosine, half = np.sqrt((1 - z * z).clip(0)), rot / 2
    scale = 1 / np.sqrt(1 + cosine * np.cos(half))
    return 2 * cosine * np.sin(half) * scale, z * scale


def sphere_plot(directions: Values) -> str:
    """Directions of view on a map of equal areas; the darker a cell, the more images look along it."""
    return density_plot(*sphere(directions), directions if len(directions) <= DOTS else None)


def density_plot(edges: Values, density: Values, dots: Values | None = None, full: float = 3) -> str:
    """Cells (:func:`cells`) on a map of equal areas, in full colour from ``full``; directions ``(n, 3)`` as dots."""
    from matplotlib.collections import PolyCollection

    part = np.linspace(0, 1, 9 if len(edges) < 600 else 3)  # the smaller the cells, the straighter their sides

    def outline(cell: Values) -> Values:
        left, right, low, high = cell
        heights = np.cos(np.arccos(high) + part * (np.arccos(low) - np.arccos(high)))
        round_ = left + part * (right - left)
        rot = np.concatenate([np.full_like(part, left), round_, np.full_like(part, right), round_[::-1]])
        z = np.concatenate([heights, np.full_like(part, low), heights[::-1], np.full_like(part, high)])
        return np.stack(hammer(rot, z), 1)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        axes.set_axis_off()
        axes.set_aspect("equal")
        strength = 0.85 * (density / full).clip(0, 1)
        for level in np.unique(strength.round(2)[strength >= 0.005]):  # few opacities make a small file
            chosen = [outline(cell) for cell in edges[strength.round(2) == level]]
            axes.add_collection(PolyCollection(chosen, facecolors=FIRST, alpha=float(level), linewidths=0))
        _grid(axes)
        if dots is not None:
            rot = np.arctan2(dots[:, 1], dots[:, 0])
            axes.plot(*hammer(rot, dots[:, 2].clip(-1, 1)), ".", color=INK, markersize=2.2, markeredgewidth=0)

    return svg("views", draw, size=(4.6, 2.65))


def resolution_plot(found: Directional) -> str:
    """Resolution by direction of Fourier space on a map of equal areas: the darker a dot, the finer; a ring, none."""
    half = np.asarray(found.directions)
    points = np.concatenate([half, -half])
    reach = np.array([0.0 if size is None else found.nyquist / size for size in found.resolution] * 2)
    x, y = hammer(np.arctan2(points[:, 1], points[:, 0]), points[:, 2].clip(-1, 1))

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        axes.set_axis_off()
        axes.set_aspect("equal")
        _grid(axes)
        strength = (0.1 + 0.9 * reach.clip(0, 1) ** 2).round(1)
        for level in np.unique(strength[reach > 0]):
            chosen = (strength == level) & (reach > 0)
            axes.plot(x[chosen], y[chosen], "o", color=FIRST, alpha=float(level), markersize=5, markeredgewidth=0)
        none = reach == 0
        axes.plot(x[none], y[none], "o", color="none", markeredgecolor=MUTED, markersize=5, markeredgewidth=0.8)

    return svg("ways", draw, size=(4.6, 2.65))


def _grid(axes: Any) -> None:
    """Lines of rot and tilt, the rim, and the names of the axes on Hammer's map."""
    around, up = np.linspace(-math.pi, math.pi, 73), np.cos(np.linspace(0, math.pi, 73))
    for rot in np.deg2rad((-120, -60, 0, 60, 120)):
        axes.plot(*hammer(np.full(73, rot), up), color=GRID, linewidth=0.8)
    for tilt in (30, 60, 90, 120, 150):
        axes.plot(*hammer(around, np.full(73, math.cos(math.radians(tilt)))), color=GRID, linewidth=0.8)
    for rot in (-math.pi, math.pi):
        axes.plot(*hammer(np.full(73, rot), up), color=MUTED, linewidth=1)
    for name, x, y in (("+z", 0, 1.05), ("−z", 0, -1.14), ("+x", 0.03, 0.03), ("+y", 1.11, 0.03)):
        axes.text(x, y, name, color=MUTED, ha="left" if x else "center", fontsize=8)
    axes.set_xlim(-2.06, 2.06)
    axes.set_ylim(-1.17, 1.17)


def coverage(directions: Values, width: float = 10.0) -> tuple[float, float]:
    """Least and greatest coverage of a direction of Fourier space; 1 is that of views spread evenly.

    A view fills the plane of Fourier space across it, so a direction is covered by the views that lie within ``width``
    degrees of the circle across it.
    """
    places = half_sphere(400).numpy()  # opposite directions are covered alike
    seen = directions[:: max(1, len(directions) // MOST)]
    reach = math.sin(math.radians(width))
    near = np.zeros(len(places))
    for first in range(0, len(seen), 2048):
        near += (np.abs(seen[first : first + 2048] @ places.T) < reach).sum(0)
    shares = near / len(seen) / reach
    return float(shares.min()), float(shares.max())


def by_chance(count: int) -> tuple[float, float]:
    """The coverage of so many directions drawn evenly at random."""
    drawn = np.random.default_rng(1).normal(size=(min(count, MOST), 3))
    return coverage(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def spread_plot(spread: Values) -> str:
    """How many images have which spread of their pose."""
    end = max(float(np.percentile(spread, 99)) * 1.05, 1e-3)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        bins = int(min(40, max(8, math.sqrt(len(spread)))))
        axes.hist(spread.clip(max=end), bins=bins, range=(0, end), color=FIRST, linewidth=0, rwidth=0.9)
        middle = float(np.median(spread))
        axes.axvline(middle, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        late = middle > 0.6 * end
        place = (-5 if late else 5, -2)
        axes.annotate(
            f"median {middle:.2g}°", (middle, 1), place, xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="right" if late else "left", va="top",
        )  # fmt: skip
        axes.set_xlim(0, end)
        axes.grid(visible=False, axis="x")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("spread of the pose (degrees)")
        axes.set_ylabel("images")

    return svg("spread", draw, size=(4.1, 2.5))


@dataclass(frozen=True)
class Panel:
    """One stage of a figure of the history.

    Attributes:
        title: of the stage.
        runs: by the number of the start, the passes and the values.
        kept: number of the start that went on.
    """

    title: str
    runs: Mapping[int, Sequence[tuple[float, float]]]
    kept: int


def unit(title: str) -> str:
    """What the passes of a stage are called."""
    return "rounds" if title.endswith((" pixels", " poses")) else "updates"


def course(name: str, panels: Sequence[Panel], log: bool = False) -> str:
    """One figure of the history, a panel per stage; they share the axis of values, which may be logarithmic."""
    passes = [max(step for drawn in panel.runs.values() for step, _ in drawn) for panel in panels]
    counts = [max(len(drawn) for drawn in panel.runs.values()) for panel in panels]
    widths = [max(count, 0.4 * max(counts)) for count in counts]

    def draw(figure: Any) -> None:
        places = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=widths)[0]
        for number, (axes, panel) in enumerate(zip(places, panels, strict=True)):
            axes.patch.set_visible(False)
            for start in sorted(panel.runs, key=lambda start: start == panel.kept):
                x, y = zip(*panel.runs[start], strict=True)
                colour, width = (FIRST, 2.0) if start == panel.kept else (MUTED, 1.0)
                mark = "o" if len(x) <= 12 else None
                axes.plot(x, y, color=colour, linewidth=width, marker=mark, markersize=3.5)
            axes.margins(x=0.08)
            axes.set_xlim(right=max(passes[number] * 1.04, 1.5))
            axes.xaxis.get_major_locator().set_params(integer=True, nbins=5 if counts[number] > 12 else 3)
            axes.set_title(panel.title, fontsize=9, color=MUTED)
            axes.set_xlabel(unit(panel.title)[:-1])
            axes.tick_params(axis="y", left=not number)
        if log:
            _logarithmic(places[0])
        else:
            places[0].set_ylim(bottom=0)

    return svg(f"history-{name}", draw, size=(4.1, 2.5))


def _logarithmic(axes: Any) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter(lambda tick, _: f"{tick:g}")
    if high / low > 30:
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_minor_formatter(lambda tick, _: f"{tick:g}" if f"{tick:e}"[0] in "25" else "")
