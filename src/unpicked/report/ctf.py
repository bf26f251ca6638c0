"""The fit of a contrast transfer function, drawn: rings in the plane, and along lines of equal phase."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpicked.ctffit import CtfFit
from unpicked.ctffit.fit import Flat, model
from unpicked.ops.ctf import electron_wavelength

Curve = NDArray[np.float64]

MEASURED, MODEL, AGREEMENT, MUTED = "#1f2937", "#c2410c", "#0b5fa5", "#6b7280"
TICKS = (100, 60, 40, 30, 20, 15, 12, 10, 9, 8, 7, 6, 5, 4.5, 4, 3.5, 3, 2.5, 2, 1.5, 1)
SECTORS = 90  # of the half plane, in the picture
ARC = 2.0  # standard deviation of the mean over arcs, in sectors of 2 degrees
ACROSS = 0.12  # the same across, in rings


def draw(path: Path, fit: CtfFit) -> None:
    """Write the picture of one fit, as PNG, SVG or PDF by the name's end.

    Left, the plane of frequencies: the measured rings beside those of the model, minima of the model dotted on the
    lower measured quarter, dashed where the agreement ends. Right, the spectrum along lines of equal phase with
    the fitted background and model; below, the rings without background beside CTF^2, and their local correlation.

    Raises:
        ValueError: if the fit did not keep its samples.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if fit.flat is None:
        raise ValueError("the fit must have its samples; take that of fit_ctf, before it is put among others")
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "unpicked"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(11.5, 5.6), layout="constrained")
        FigureCanvasAgg(figure)
        sides: Any = figure.subfigures(1, 2, width_ratios=(1, 1.15))
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
    flat = fit.flat
    if flat is None:
        raise ValueError(f"{fit.name}: the fit holds no spectrum to draw; fit the micrograph again")
    spectrum, lens = flat.spectrum, fit.search.lens
    background, envelope, square = (part.numpy() for part in model(flat, lens, fit.fitted))
    apart = lens.stride(0.5 / fit.band[1]) / fit.defocus / fit.band[1] / spectrum.step  # of rings, in samples
    width = min(ACROSS * apart, 3.0)
    measured, samples = _along_arcs(flat, flat.values.numpy() - background - envelope / 2, width)
    noise = np.sqrt(fit.fitted.cost * spectrum.correlated / samples)
    reach = round(1 / (fit.band[1] * spectrum.step))
    rows, columns = ((part / spectrum.step).round().long().numpy() for part in (spectrum.sy, spectrum.sx))

    def plane(values: Curve) -> Curve:
        out = np.full((2 * reach + 1, 2 * reach + 1), np.nan)
        out[reach + rows, reach + columns] = values
        out[reach - rows, reach - columns] = values
        return out

    left = np.arange(-reach, reach + 1)[None] < 0
    both = np.where(left, plane(measured / (envelope / 2 + noise)), plane(2 * square - 1))
    edge = (reach + 0.5) * spectrum.step
    axes.imshow(both, cmap="gray", vmin=-1, vmax=1, extent=(-edge, edge, edge, -edge), interpolation="nearest")
    turn = np.linspace(math.pi / 2, math.pi, 91)
    for radius in minima(fit, turn):
        axes.plot(radius * np.cos(turn), radius * np.sin(turn), ":", color=MODEL, linewidth=1)
    turn = np.linspace(0, 2 * math.pi, 361)
    axes.plot(np.cos(turn) / fit.resolution, np.sin(turn) / fit.resolution, "--", color=AGREEMENT, linewidth=1)
    angle = math.radians(fit.astigmatism_angle)
    if fit.astigmatism > 3 * fit.astigmatism_error:
        ends = np.array([-1.12, 1.12]) * edge
        axes.plot(ends * math.cos(angle), ends * math.sin(angle), color=AGREEMENT, linewidth=0.8)
        axes.text(1.15 * edge * math.cos(angle), 1.15 * edge * math.sin(angle), "u", color=AGREEMENT, ha="center")
    axes.set_xlim(-1.2 * edge, 1.2 * edge)
    axes.set_ylim(1.2 * edge, -1.2 * edge)
    axes.axis("off")
    axes.set_title(
        f"left: measured, averaged along arcs; dotted: minima of the model\nright: model, to "
        f"{fit.band[1]:.3g} Å; dashed: rings fit to {fit.resolution:.1f} Å",
        y=-0.04,
        va="top",
        fontsize=9,
    )


def _along_arcs(flat: Flat, values: Curve, across: float) -> tuple[Curve, Curve]:
    """Means over short arcs of circles about every sample, ``across`` samples wide, and how many samples they hold."""
    from scipy.ndimage import gaussian_filter

    spectrum = flat.spectrum
    shell = spectrum.shell.numpy()
    angle = np.arctan2(spectrum.sy.numpy(), spectrum.sx.numpy())
    sector = np.floor((angle / math.pi + 0.5) * SECTORS).astype(int).clip(0, SECTORS - 1)
    cell = shell * SECTORS + sector
    widths = (across, ARC)
    count, total = (
        gaussian_filter(
            np.bincount(cell, weight, (shell.max() + 1) * SECTORS).reshape(-1, SECTORS),
            widths,
            mode=("nearest", "wrap"),
        )[shell, sector]
        for weight in (np.ones_like(values), values)
    )
    held = 2 * math.sqrt(math.pi) * ARC * max(2 * math.sqrt(math.pi) * across, 1.0) * count
    return total / count, held


def minima(fit: CtfFit, angle: Curve) -> list[Curve]:
    """Radii in 1/angstrom at which CTF^2 of the fit is zero, ``(angles,)`` per ring within the band."""
    lens, (z, c, d, phase) = fit.search.lens, fit.fitted.numbers.tolist()
    wavelength = float(electron_wavelength(lens.voltage_kv))
    height = wavelength * (z + c * np.cos(2 * angle) + d * np.sin(2 * angle))
    bend = 0.5e7 * lens.cs_mm * wavelength**3
    constant = math.asin(lens.amplitude_contrast) / math.pi + phase / 180
    found = []
    for ring in range(1, 1000):
        root = height**2 - 4 * bend * (ring - constant)
        if root.min() < 0:
            break
        # the smaller root of bend S^2 - height S + (ring - constant), written so that bend may be 0
        radius = np.sqrt(np.maximum(2 * (ring - constant) / (height + np.sqrt(root)), 0))
        if radius.min() > 1 / fit.band[1]:
            break
        inside = (radius >= 1 / fit.band[0]) & (radius <= 1 / fit.band[1])
        found.append(np.where(inside, radius, np.nan))
    return found


def _curves(panels: Any, fit: CtfFit) -> None:
    seen = fit.profile
    top, bottom = panels
    top.plot(seen.s, seen.level * seen.measured, color=MEASURED, linewidth=0.9, label="measured")
    top.plot(seen.s, seen.level * seen.modelled, color=MODEL, linewidth=1.2, label="model")
    top.plot(seen.s, seen.level * seen.background, "--", color=MUTED, linewidth=1, label="background")
    top.set_yscale("log")
    top.set_ylabel("power")
    top.legend(frameon=False, loc="upper right")
    share = fit.flat.spectrum.correlated if fit.flat is not None else 1.0
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
