"""How many passes EM needs as the signal falls."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from unpicked._lazy import torch
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.snr import energy
from unpicked.estimators.em import EM
from unpicked.experiments.recovery import Fields
from unpicked.experiments.table import Check, Column, Experiment, Line, Plot, Row, Settings, Table
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.placements import Anywhere, Patches
from unpicked.model.views import Projection
from unpicked.objects.ball import Ball
from unpicked.ops import rotation, seeding
from unpicked.reconstruct import reconstruct
from unpicked.simulate.micrographs import Specimen
from unpicked.simulate.phantom import bead_chain

COLUMNS = (
    Column("E"),
    Column("seed"),
    Column("particles"),
    Column("passes"),
    Column("to 90 %"),
    Column("passes run"),
    Column("gain", ".1f"),
    Column("ended"),
    Column("seconds", ".0f"),
)
SOURCE = "Balanov, Huleihel & Bendory, arXiv 2505.21435 (for multi-reference alignment)"
EXPONENT = 2.0  # published: as SNR goes to 0, at least about SNR^-2 iterations to a fixed accuracy


@dataclass(frozen=True)
class EMIterations:
    """Plain EM on independent patches (the published approximation), a bead chain, random starts.

    The views are frozen and noise and density known, so that every pass raises one and the same objective. A run
    counts as arrived in the first pass whose objective lies within ``within`` log units of the last one's.

    Attributes:
        energies: E of the settings.
        particles: of each setting; at a fixed number less is to be found at low E, and the law is hidden.
        box: of the chain.
        lmax: largest degree of the ball.
        chain: seed of the chain.
        views: number of views, turned at random once per seed.
        density: covered fraction.
        limit: passes at most.
        within: log units.
        tolerance: a run ends when a pass gains less, log units.
        seeds: runs per setting.
    """

    energies: tuple[float, ...] = (100.0, 50.0, 25.0, 12.0)
    particles: tuple[int, ...] = (100, 150, 250, 400)
    box: int = 7
    lmax: int = 5
    chain: int = 0
    views: int = 60
    density: float = 0.12
    limit: int = 300
    within: float = 1.0
    tolerance: float = 0.01
    seeds: int = 2

    def run(self, settings: Settings) -> Table:
        """All levels, all seeds, and the slope in double logarithms."""
        specimen = bead_chain(self.box, self.chain)
        rows = [
            settings.row(
                COLUMNS, (level, particles, seed), self.count, specimen, level, particles, seed, settings.device
            )
            for seed in settings.runs(self.seeds)
            for level, particles in zip(self.energies, self.particles, strict=True)
        ]
        arrived = [row for row in rows if row["ended"] == "converged"]
        found = slope([row["E"] for row in arrived], [row["passes"] for row in arrived])
        stopped = len(rows) - len(arrived)
        return Table(
            name="em-iterations",
            title=f"passes of EM to within {self.within:g} log unit of its end, box {self.box}",
            source=SOURCE,
            columns=COLUMNS,
            rows=tuple(rows),
            checks=(_check(found),),
            notes=(
                f"passes: first one within {self.within:g} log unit of the last; gain: log units, first to last",
                "the law is one of SNR to 0; the number of particles grows as E falls, else nothing is left to gain",
                *([f"{stopped} runs met the limit of {self.limit} passes and are left out of the fit"] * bool(stopped)),
            ),
            plot=_plot(rows, found),
            settings=asdict(self),
        )

    def count(self, specimen: Specimen, level: float, particles: int, seed: int, device: str) -> Row:
        """One run: its passes."""
        fields = Fields.of(particles, self.box, self.density)
        lazy, truth = fields.simulate(specimen, energy(level), seed)
        data = Micrographs(InMemory(torch.stack(list(lazy))), lazy.pixel_size, lazy.names)
        model = Model(
            Ball(self.box, self.lmax),
            Projection(rotation.super_fibonacci(self.views).to(device)),
            Anywhere(truth.density, Patches()),
            noise=White(truth.sigma),
        )
        method = EM(
            iterations=self.limit,
            frozen=self.limit,
            estimate_sigma=False,
            estimate_density=False,
            tolerance=self.tolerance,
        )
        began = time.perf_counter()
        run = reconstruct(data, model, method, seed=seeding.derive(seed, "reconstruct"), moves=0)
        objective = [row["objective"] for row in run.history]
        gain = objective[-1] - objective[0]
        return {
            "E": level,
            "seed": seed,
            "particles": truth.per_micrograph * truth.count,
            "passes": _first(objective, objective[-1] - self.within),
            "to 90 %": _first(objective, objective[-1] - 0.1 * gain),
            "passes run": len(objective),
            "gain": gain,
            "ended": run.result.name.lower(),
            "seconds": time.perf_counter() - began,
        }


@dataclass(frozen=True)
class Slope:
    """passes = exp(offset) E^-exponent, with the exponent's standard error."""

    exponent: float
    error: float
    offset: float


def slope(energies: Sequence[float], passes: Sequence[float]) -> Slope | None:
    """Least squares in double logarithms; None for fewer than three runs or one level only."""
    if len(energies) < 3 or len(set(energies)) < 2:
        return None
    x, y = ([math.log(value) for value in values] for values in (energies, passes))
    middle, height = sum(x) / len(x), sum(y) / len(y)
    spread = sum((value - middle) ** 2 for value in x)
    rise = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True)) / spread
    rest = sum((b - height - rise * (a - middle)) ** 2 for a, b in zip(x, y, strict=True))
    return Slope(-rise, math.sqrt(rest / (len(x) - 2) / spread), height - rise * middle)


def _first(objective: Sequence[float], level: float) -> int:
    """Number of passes until the objective reaches a level."""
    return 1 + next(index for index, value in enumerate(objective) if value >= level)


def _check(found: Slope | None) -> Check:
    ours = "-" if found is None else f"{found.exponent:.2f} +- {found.error:.2f}"
    return Check(
        what="a in passes ~ SNR^-a",
        published="2 or more, near the truth as SNR goes to 0",
        target="2 within two standard errors",
        ours=ours,
        passed=None if found is None else abs(found.exponent - EXPONENT) <= 2 * found.error,
    )


def _plot(rows: Sequence[Row], found: Slope | None) -> Plot:
    lines = [Line("runs", [row["E"] for row in rows], [row["passes"] for row in rows], "o")]
    ends = [min(row["E"] for row in rows), max(row["E"] for row in rows)]
    if found is not None:
        heights = [math.exp(found.offset) * end**-found.exponent for end in ends]
        lines.append(Line(f"fit, E^-{found.exponent:.2f}", ends, heights, "-"))
        published = [heights[1] * (end / ends[1]) ** -EXPONENT for end in ends]
        lines.append(Line("published, E^-2", ends, published, "--"))
    return Plot(tuple(lines), "energy per particle E", "passes", "xy")


EXPERIMENT = Experiment(
    name="em-iterations",
    summary="passes that EM needs against signal-to-noise",
    source=SOURCE,
    minutes=(10, 300),
    quick=EMIterations(),
    full=EMIterations(particles=(200, 800, 3200, 12800), limit=2000, tolerance=0.003, seeds=3),
)
