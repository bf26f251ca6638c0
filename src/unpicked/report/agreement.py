"""Pictures of how far two maps agree: shell by shell, direction by direction, place by place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unpicked.data.maps import Map
from unpicked.evaluate.directional import Directional
from unpicked.evaluate.local import LocalResolution
from unpicked.report.views import hammer

FIRST, BAND, CONES, MUTED = "#0b5fa5", "#bcd3e8", "#e8c9a8", "#6b7280"
_DASHES = (0, (4, 3))


def draw(
    path: Path,
    curve: Sequence[float],
    interval: tuple[Sequence[float], Sequence[float]],
    of: Map,
    threshold: float,
    local: LocalResolution | None = None,
    directional: Directional | None = None,
) -> None:
    """Write the curve with its confidence interval, and what was found by direction and by place, as a picture.

    Args:
        path: PNG, SVG or PDF by its end.
        curve: per shell 0, 1, ...
        interval: its lower and upper ends.
        of: the map whose grid the shells are of.
        threshold: of the correlation.
        local: by place.
        directional: by direction.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 1 + (directional is not None) + 2 * (local is not None)
    with matplotlib.rc_context({"font.size": 9, "svg.hashsalt": "unpicked"}):
        figure = Figure(figsize=(4.4 * panels, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(1, panels, squeeze=False)[0])
        _curve(axes.pop(0), curve, interval, 1 / (of.box * of.voxel_size), threshold, directional)
        if directional is not None:
            _directions(axes.pop(0), directional)
        if local is not None:
            _slice(axes.pop(0), local)
            _places(axes.pop(0), local)
        temporary = path.with_name(f"{path.stem}.part{path.suffix}")
        figure.savefig(temporary, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
        temporary.replace(path)


def _curve(
    axes: Any,
    curve: Sequence[float],
    interval: tuple[Sequence[float], Sequence[float]],
    step: float,
    threshold: float,
    directional: Directional | None,
) -> None:
    x = np.arange(1, len(curve)) * step
    low, high = (np.asarray(end[1:]) for end in interval)
    if directional is not None:
        ends = (np.asarray(end[1:]) for end in (directional.fsc_low, directional.fsc_high))
        axes.fill_between(x, *ends, color=CONES, linewidth=0, label="80 % of the directions")
    axes.fill_between(x, low, high, color=BAND, linewidth=0, alpha=0.8, label="95 % confidence")
    axes.plot(x, curve[1:], color=FIRST, marker="o" if len(x) <= 20 else None, markersize=3.5, label="FSC")
    axes.axhline(threshold, color=MUTED, linewidth=1, linestyle=_DASHES)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.annotate(f"{threshold:g}", (0, threshold), (3, 3), textcoords="offset points", color=MUTED)
    axes.set_xlim(0, step * (len(curve) - 0.5))
    axes.set_ylim(min(-0.1, float(np.min(curve)) - 0.05), 1.04)
    axes.set_xlabel("spatial frequency (1/Å)")
    axes.set_ylabel("Fourier shell correlation")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _directions(axes: Any, found: Directional) -> None:
    """Resolution on Hammer's map of the whole sphere."""
    half = np.asarray(found.directions)
    points = np.concatenate([half, -half])
    coarsest = max((one for one in found.resolution if one is not None), default=found.nyquist)
    sizes = np.array([coarsest if one is None else one for one in found.resolution] * 2)
    x, y = hammer(np.arctan2(points[:, 1], points[:, 0]), points[:, 2])
    shown = axes.scatter(x, y, c=1 / sizes, s=34, cmap="viridis", linewidths=0)
    _frequency_bar(axes, shown, "resolution along it (Å)")
    for name, px, py in (("+z", 0, 1.06), ("−z", 0, -1.15), ("+x", 0.04, 0.04), ("+y", 1.12, 0.04)):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}
        axes.text(px, py, name, color="black", ha="left" if px else "center", fontsize=8, bbox=box)
    axes.set_xlim(-2.06, 2.06)
    axes.set_ylim(-1.2, 1.2)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(f"directions; sphericity {found.sphericity:.3f}", fontsize=9)


def _slice(axes: Any, found: LocalResolution) -> None:
    values = found.map.values[found.map.box // 2].double().cpu().numpy()
    edge = found.map.box * found.map.voxel_size / 2
    shown = axes.imshow(1 / values, cmap="viridis", extent=(-edge, edge, edge, -edge), interpolation="nearest")
    _frequency_bar(axes, shown, "local resolution (Å)")
    axes.set_title("central slice across z", fontsize=9)
    axes.set_xlabel("x (Å)")
    axes.set_ylabel("y (Å)")


def _places(axes: Any, found: LocalResolution) -> None:
    values = 1 / found.map.values.double().cpu().numpy().ravel()
    counts, _, _ = axes.hist(values, bins=30, range=(1 / found.window, 1 / found.nyquist), color=FIRST, rwidth=0.9)
    axes.axvline(1 / found.median, color="black", linewidth=1, linestyle=_DASHES)
    axes.annotate(
        f"median of the structure\n{found.median:.3g} Å",
        (1 / found.median, 1),
        (-5, -2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right",
        va="top",
    )
    axes.set_ylim(0, 1.3 * float(counts.max()))
    ticks = np.linspace(1 / found.window, 1 / found.nyquist, 5)
    axes.set_xticks(ticks, [f"{1 / tick:.3g}" for tick in ticks])
    axes.set_xlabel("local resolution (Å)")
    axes.set_ylabel("voxels")
    axes.set_title("all voxels of the box", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _frequency_bar(axes: Any, shown: Any, label: str) -> None:
    """A colour bar in frequency that is labelled in angstrom."""
    low, high = shown.get_clim()
    if not high > low * (1 + 1e-6):
        low = 0.9 * high  # nothing is finer than what is there
        shown.set_clim(low, high)
    bar = axes.figure.colorbar(shown, ax=axes, shrink=0.75)
    ticks = np.linspace(low, high, 5)
    bar.set_ticks(ticks, labels=[f"{1 / tick:.3g}" for tick in ticks])
    bar.set_label(label)
