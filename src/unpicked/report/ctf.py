"""The fit of a contrast transfer function, drawn: rings in the plane, and along lines of equal phase."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpicked.ctffit import CtfFit
from unpicked.ctffit.fit import flatten, model

MEASURED, MODEL, AGREEMENT, MUTED = "#1f2937", "#c2410c", "#0b5fa5", "#6b7280"
TICKS = (100, 60, 40, 30, 20, 15, 12, 10, 9, 8, 7, 6, 5, 4.5, 4, 3.5, 3, 2.5, 2, 1.5, 1)
BLUR = 1.0  # samples: the picture of the plane only, never the fit


def draw(path: Path, fit: CtfFit) -> None:
    """Write the picture of one fit, as PNG, SVG or PDF by the name's end.

    Left, the plane of frequencies: the measured rings beside those of the model, zeros of the model dotted on the lower
    measured quarter, dashed where the agreement ends. Right, the spectrum along lines of equal phase with the fitted
    background and model; below, the rings without background beside CTF^2, and their local correlation.

    Raises:
        ValueError: if the fit did not keep its spectrum.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if fit.spectrum is None:
        raise ValueError("the fit must have its spectrum; take that of fit_ctf, before it is put among others")
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "unpicked"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(11.5, 5.6), layout="constrained")
        FigureCanvasAgg(figure)
        sides = figure.subfigures(1, 2, width_ratios=(1, 1.15))
        _plane(sides[0].subplots(), fit)
        _curves(sides[1].subplots(2, 1, sharex=True, height_ratios=(1, 1.25)), fit)
        figure.suptitle(_title(fit), fontsize=9.5)
        temporary = path.with_name(f"{path.stem}.part{path.suffix}")
        figure.savefig(temporary, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)
        temporary.replace(path)


def _title(fit: CtfFit) -> str:
    phase = f", phase shift {fit.phase_shift:.1f}°" if fit.phase_shift or fit.phase_error else ""
    angle = f"{fit.astigmatism_angle:.0f} ± {fit.angle_error:.0f}°"
    search = fit.search
    return (
        f"{Path(fit.name).name}\n"
        f"defocus u {fit.defocus_u:.0f} Å, v {fit.defocus_v:.0f} Å (mean ± {fit.defocus_error:.0f}), "
        f"u to x axis {angle}{phase}; rings fit to {fit.resolution:.1f} Å, correlation {fit.correlation:.2f}\n"
        f"given: {search.voltage_kv:g} kV, Cs {search.cs_mm:g} mm, amplitude contrast {search.amplitude_contrast:g}"
    )


def _plane(axes: Any, fit: CtfFit) -> None:
    spectrum = fit.spectrum
    assert spectrum is not None
    flat = flatten(spectrum)
    background, envelope, square = (part.numpy() for part in model(flat, fit.search.lens, fit.fitted))
    rings = flat.values.numpy() - background - envelope / 2
    reach = round(1 / (fit.band[1] * spectrum.step))
    rows = (spectrum.sy / spectrum.step).round().long().numpy()
    columns = (spectrum.sx / spectrum.step).round().long().numpy()

    def plane(values: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.full((2 * reach + 1, 2 * reach + 1), np.nan)
        out[reach + rows, reach + columns] = values
        out[reach - rows, reach - columns] = values
        return out

    measured, height = _blurred(plane(rings)), plane(envelope / 2)
    noise = float(np.sqrt(fit.fitted.cost / (4 * math.pi * BLUR**2)))
    shown = measured / (height + noise)
    theirs = 2 * plane(square) - 1
    both = np.where(np.arange(-reach, reach + 1)[None] < 0, shown, theirs)
    edge = 1 / fit.band[1]
    extent = (-edge, edge, edge, -edge)
    axes.imshow(both, cmap="gray", vmin=-1, vmax=1, extent=extent, interpolation="nearest")
    ticks = np.linspace(-edge, edge, len(both))
    lower = np.where((ticks[:, None] > 0) & (ticks[None] < 0), theirs, np.nan)
    axes.contour(ticks, ticks, lower, levels=[-0.9], colors=MODEL, linewidths=0.6, alpha=0.8)
    turn = np.linspace(0, 2 * math.pi, 361)
    axes.plot(np.cos(turn) / fit.resolution, np.sin(turn) / fit.resolution, "--", color=AGREEMENT, linewidth=1)
    angle = math.radians(fit.astigmatism_angle)
    if fit.astigmatism > 3 * fit.astigmatism_error:
        ends = np.array([0.9, 1.0]) * edge
        axes.plot(ends * math.cos(angle), ends * math.sin(angle), color=AGREEMENT, linewidth=2)
        axes.text(0.84 * edge * math.cos(angle), 0.84 * edge * math.sin(angle), "u", color=AGREEMENT, ha="center")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlabel(
        f"left: measured (below: minima of the model), right: model\nto {fit.band[1]:.3g} Å; dashed: rings fit to "
        f"{fit.resolution:.1f} Å"
    )


def _blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.ndimage import gaussian_filter

    held = np.isfinite(values)
    weight = gaussian_filter(held.astype(float), BLUR)
    out = gaussian_filter(np.where(held, values, 0.0), BLUR) / np.maximum(weight, 1e-3)
    result: NDArray[np.float64] = np.where(held, out, np.nan)
    return result


def _curves(panels: Any, fit: CtfFit) -> None:
    seen = fit.profile
    top, bottom = panels
    top.plot(seen.s, seen.level * seen.measured, color=MEASURED, linewidth=0.9, label="measured")
    top.plot(seen.s, seen.level * seen.modelled, color=MODEL, linewidth=1.2, label="model")
    top.plot(seen.s, seen.level * seen.background, "--", color=MUTED, linewidth=1, label="background")
    top.set_yscale("log")
    top.set_ylabel("power")
    top.legend(frameon=False, loc="upper right")
    share = fit.spectrum.correlated if fit.spectrum is not None else 1.0
    noise = np.sqrt(fit.fitted.cost * share / np.maximum(seen.number, 1))
    rings = 0.5 + (seen.measured - seen.background - seen.envelope / 2) / (seen.envelope + 2 * noise)
    bottom.plot(seen.s, seen.square, color=MODEL, linewidth=1.2, label="CTF²")
    bottom.plot(seen.s, np.clip(rings, -0.6, 1.6), color=MEASURED, linewidth=0.9, label="measured rings")
    bottom.plot(seen.s, seen.agreement, color=AGREEMENT, linewidth=1.2, label="local correlation")
    bottom.axhline(0.5, color=AGREEMENT, linewidth=0.6, linestyle=":")
    for panel in panels:
        panel.axvline(1 / fit.resolution, color=AGREEMENT, linewidth=1, linestyle="--")
    bottom.set_ylim(-0.65, 1.65)
    bottom.set_xlim(seen.s[0], seen.s[-1])
    bottom.set_xlabel("spatial frequency along lines of equal phase (1/Å)")
    bottom.legend(frameon=False, loc="upper center", ncols=3)
    scale = top.secondary_xaxis("top")
    chosen = [value for value in TICKS if seen.s[0] <= 1 / value <= seen.s[-1]]
    kept: list[float] = []
    for value in chosen:
        if not kept or 1 / value - 1 / kept[-1] > 0.05 * (seen.s[-1] - seen.s[0]):
            kept.append(value)
    scale.set_xticks([1 / value for value in kept], [f"{value:g}" for value in kept])
    scale.set_xlabel("resolution (Å)")
