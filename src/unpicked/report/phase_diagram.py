"""The phase diagram of an experiment: energy per particle against mass, and what can be done where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unpicked.plan import HOPELESS, MARGINAL, REALISTIC, Plan, boundary_of, grid_energy, voxel_of
from unpicked.plan.physics import Microscope

TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000)
FIRST, SECOND, MUTED = "#0b5fa5", "#b4540a", "#6b7280"
AREAS = ("#dcefe3", "#e3ecf7", "#f6ecd9", "#f3dedb")
WORDS = ("pick", "detection-free", "marginal", "hopeless")


def draw(path: Path, plan: Plan) -> None:
    """Write the diagram with the plan's particle in it, as PNG, SVG or PDF by the name's end."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 10, "svg.hashsalt": "unpicked"}):
        figure = Figure(figsize=(7.2, 4.8), layout="constrained")
        FigureCanvasAgg(figure)
        _draw(figure.subplots(), plan)
        temporary = path.with_name(f"{path.stem}.part{path.suffix}")
        figure.savefig(temporary, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
        temporary.replace(path)


def _draw(axes: Any, plan: Plan) -> None:
    masses = np.geomspace(min(4.0, 0.6 * plan.mass_kda), max(250.0, 1.6 * plan.mass_kda), 60)
    low, high = min(1.0, 0.3 * plan.energy), max(6000.0, 3 * plan.energy)
    seen = np.array([boundary_of(plan.area / voxel_of(mass) ** 2) for mass in masses])
    levels = [np.full_like(masses, level) for level in (high, MARGINAL, HOPELESS, low)]
    bounds = [levels[0], seen, *levels[1:]]
    for top, bottom, colour, word in zip(bounds, bounds[1:], AREAS, WORDS, strict=False):
        axes.fill_between(masses, bottom, top, color=colour, linewidth=0)
        axes.text(masses[-1] * 0.94, (top[-1] * bottom[-1]) ** 0.5, word, ha="right", va="center", color=MUTED)
    scope = plan.microscope
    for microscope, colour, name in _curves(scope):
        found = np.array([grid_energy(mass, microscope) for mass in masses])
        axes.plot(masses, found, color=colour, label=name)
        axes.fill_between(masses, REALISTIC * found, found, color=colour, alpha=0.15, linewidth=0)
    axes.plot([plan.mass_kda] * 2, [REALISTIC * plan.energy, plan.energy], "-", color="black", linewidth=1)
    axes.plot([plan.mass_kda], [plan.energy], "o", color="black")
    axes.annotate(
        f"{plan.mass_kda:g} kDa: E = {plan.energy:.0f},\nabout {REALISTIC * plan.energy:.0f} to be expected",
        (plan.mass_kda, plan.energy),
        (12, -30),
        textcoords="offset points",
        ha="left" if plan.mass_kda < 60 else "right",
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(masses[0], masses[-1])
    axes.set_ylim(low, high)
    ticks = [tick for tick in TICKS if masses[0] <= tick <= masses[-1]]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(lambda tick, _: f"{tick:g}")
    axes.set_xlabel("mass of the particle, kDa")
    axes.set_ylabel("energy per particle, E")
    axes.legend(loc="upper left", frameon=False, title="ideal instrument, and down to half of it", alignment="left")
    axes.spines[["top", "right"]].set_visible(False)


def _curves(scope: Microscope) -> list[tuple[Microscope, str, str]]:
    plate = replace(scope, phase_plate=True)
    if scope.phase_plate:
        return [(plate, SECOND, "ideal phase plate")]
    return [(plate, SECOND, "ideal phase plate"), (scope, FIRST, f"{scope.defocus_um:g} µm of defocus")]
