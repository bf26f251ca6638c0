"""How many particles does a volume take? Those for an error of 10 %, unpicked, against E and beside the bound."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import median
from typing import Literal

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.snr import energy
from unpicked.evaluate.compare import compare
from unpicked.evaluate.featureless import ball_error
from unpicked.experiments.common import rms, slope
from unpicked.experiments.recovery import Fields, Volume, observed_information
from unpicked.experiments.table import Check, Column, Experiment, Line, Plot, Row, Settings, Table
from unpicked.model.gas import Gas
from unpicked.model.model import Model
from unpicked.model.placements import Anywhere
from unpicked.model.views import Projection
from unpicked.objects.ball import Ball
from unpicked.ops import fourier, seeding
from unpicked.ops.rotation import super_fibonacci
from unpicked.priors import precision, unmoved, wilson
from unpicked.recipes import MicrographAnswer, MicrographJob, from_micrographs
from unpicked.simulate.specimens import specimen_from_map

COLUMNS = (
    Column("box"),
    Column("E", "g"),
    Column("particles"),
    Column("seed"),
    Column("error", ".3f"),
    Column("from the truth", ".3f"),
    Column("bound", ".3f"),
    Column("ball error", ".3f"),
    Column("gap", ".1f"),
    Column("seconds", ".0f"),
)
SOURCE = "Cramer-Rao (the bound); Bendory et al., arXiv 2303.02157 (the method; no such figures)"
WANTED = 0.1  # the relative error
WITHIN = 2.0  # factor of the bound's square, and of its number of particles
POWER = 0.5  # of E, by which ours may differ from the bound's
DEGREES = {5: 2, 7: 4}  # of the volumes by box: a box of 5 samples no more
EACH = 32  # particles for each coefficient, of which the information is summed
VIEWS = 1600  # of them at most: more change it by less than a tenth


@dataclass(frozen=True)
class Level:
    """One energy in one box.

    Attributes:
        box: edge in voxels, 5 or 7.
        energy: E.
        particles: about so many, rising, on both sides of what an error of 10 % takes.
    """

    box: int
    energy: float
    particles: tuple[int, ...]

    @property
    def name(self) -> str:
        """In the table of checks."""
        return f"box {self.box}, E = {self.energy:g}"


@dataclass(frozen=True)
class SampleComplexity3D:
    """Random volumes of low degree in micrographs, from random starts and from the truth, beside the bound.

    Attributes:
        levels: settings, in this order.
        seeds: runs of every number of particles.
        structure: seed of the volumes.
        density: covered fraction.
        starts: random starts of a run.
        solver: of the reconstruction; scoring, the default below E = 150, does not settle where there are but a few
            particles for each coefficient.
        iterations: of the reconstruction.
    """

    levels: tuple[Level, ...]
    seeds: int = 3
    structure: int = 0
    density: float = 0.12
    starts: int = 4
    solver: Literal["auto", "fisher", "em", "squarem", "anderson", "lbfgs"] = "anderson"
    iterations: tuple[int, ...] = (12, 8, 24)

    def run(self, settings: Settings) -> Table:
        """All settings, all numbers of particles, all seeds."""
        rows: list[Row] = []
        for level in self.levels:
            volume = molecule(level.box, DEGREES[level.box], self.structure)
            for particles in level.particles:
                for seed in settings.runs(self.seeds):
                    key = (level.name, particles, seed)
                    given = (volume, level, particles, seed, settings.device)
                    rows.append(settings.row(COLUMNS, key, self.recover, *given))
        return Table(
            name="sample-complexity-3d",
            title="particles for an error of 10 % against the energy of one, and the bound",
            source=SOURCE,
            columns=COLUMNS,
            rows=tuple(rows),
            checks=(
                *(check for level in self.levels for check in self.checks(rows, level)),
                *(self.power(rows, box) for box in dict.fromkeys(level.box for level in self.levels)),
            ),
            notes=(
                "error: relative, after the best turn, shift and hand; from random starts, and from the truth",
                "bound: relative error at best (Cramer-Rao) of an estimate with the bias of the run's prior, from such "
                "data's information at the truth; turns and shifts of the map left out, noise and density known",
                "ball error: relative error of the best map without features",
                "gap: log-likelihood less that of the run from the truth",
                "hidden are random molecules of low degree, which the estimate's expansion holds to 3 %",
            ),
            plot=self.plot(rows),
            settings=asdict(self),
        )

    def recover(self, volume: Volume, level: Level, particles: int, seed: int, device: str) -> Row:
        """One run from random starts, one from the truth, and what is possible at best."""
        job = MicrographJob(
            box=level.box,
            lmax=DEGREES[level.box],
            starts=self.starts,
            iterations=self.iterations,
            solver=self.solver,
            signed=True,
        )
        fields, noise = Fields.of(particles, level.box, self.density), energy(level.energy)
        data, simulation = fields.simulate(volume.specimen, noise, seed)
        wanted, own = volume.specimen.truth(), seeding.derive(seed, "reconstruct")
        began = time.perf_counter()
        answer = from_micrographs(data, job, seed=own, device=device)
        seconds = time.perf_counter() - began
        ideal = from_micrographs(data, job, seed=own, start=wanted, device=device)
        there = simulation.per_micrograph * simulation.count
        return {
            "box": level.box,
            "E": level.energy,
            "wanted": particles,
            "particles": there,
            "seed": seed,
            "error": compare(answer.map, wanted).relative_error,
            "from the truth": compare(ideal.map, wanted).relative_error,
            "bound": self.bound(ideal, level, there),
            "ball error": ball_error(wanted),
            "gap": answer.last.objective - ideal.last.objective,
            "seconds": seconds,
        }

    def bound(self, answer: MicrographAnswer, level: Level, particles: int) -> float:
        """Relative error at best of so many particles, with the expansion and the prior of a run."""
        run = answer.last
        ball = run.model.object
        if not isinstance(ball, Ball):
            raise TypeError(f"the volume must be a Ball; got {type(ball).__name__}")
        views = min(len(run.model.view), VIEWS)
        x, each = _information(ball, level.energy, self.structure, self.density, views, EACH)
        return least_error(ball, x, particles * each, precision(run.prior, ball, run.x).cpu())

    def checks(self, rows: Sequence[Row], level: Level) -> tuple[Check, Check]:
        """Error and number of particles beside the bound."""
        found = []
        for count in level.particles:
            there = _of(rows, level.box, level.energy, count)
            ratio = median((row["error"] / row["bound"]) ** 2 for row in there)
            found.append((abs(math.log(rms([row["bound"] for row in there]) / WANTED)), ratio))
        _, ratio = min(found)
        ratios = " ".join(f"{each:.2f}" for _, each in found)
        ours, least = (_needed(rows, level, figure) for figure in ("error", "bound"))
        return (
            Check(
                what=f"{level.name}: squared error over that of the bound",
                published="1 where there are many",
                target=f"{1 / WITHIN:g} to {WITHIN:g} where the bound is nearest to {WANTED:.0%}, median",
                ours=f"{ratio:.2f} (by number: {ratios})",
                passed=1 / WITHIN <= ratio <= WITHIN,
            ),
            Check(
                what=f"{level.name}: particles for {WANTED:.0%}",
                published=f"{_count(least)} at best",
                target=f"within a factor {WITHIN:g}",
                ours=f"{_count(ours)}; from the truth {_count(_needed(rows, level, 'from the truth'))}",
                passed=None if ours is None or least is None else 1 / WITHIN <= ours / least <= WITHIN,
            ),
        )

    def power(self, rows: Sequence[Row], box: int) -> Check:
        """The power of E in the number of particles, beside that of the bound."""
        found = {}
        for figure in ("error", "bound"):
            needed = [(level.energy, _needed(rows, level, figure)) for level in self.levels if level.box == box]
            kept = [(level, count) for level, count in needed if count is not None]
            found[figure] = slope([level for level, _ in kept], [count for _, count in kept])
        ours, least = found["error"], found["bound"]
        return Check(
            what=f"box {box}: power of E in the particles for {WANTED:.0%}",
            published="-1 where particles are clear, -3 where they are faint",
            target=f"that of the bound +- {POWER:g}",
            ours=f"{ours:.2f}, bound {least:.2f}",
            passed=None if math.isnan(ours - least) else abs(ours - least) <= POWER,
        )

    def plot(self, rows: Sequence[Row]) -> Plot:
        """Particles for the wanted error against E."""
        lines = []
        for box in dict.fromkeys(level.box for level in self.levels):
            for figure, style in (("error", "o-"), ("from the truth", "x:"), ("bound", "--")):
                needed = [(level.energy, _needed(rows, level, figure)) for level in self.levels if level.box == box]
                kept = [(level, count) for level, count in needed if count is not None]
                label = f"{box}^3, {'random starts' if figure == 'error' else figure}"
                if kept:
                    lines.append(Line(label, [level for level, _ in kept], [count for _, count in kept], style))
        axes = "xy" if lines else ""  # logarithms of nothing fail
        return Plot(tuple(lines), "energy per particle", f"particles for {WANTED:.0%} error", axes)


def molecule(box: int, lmax: int, seed: int) -> Volume:
    """A compact molecule of random density within a ball of this degree: all of it can be said by such an expansion.

    It is an envelope times 1 + g, of smooth g whose variance is 1 as in :class:`unpicked.priors.Wilson`, expanded in
    the functions that peak within half the box.

    Args:
        box: edge in voxels, of 1 angstrom.
        lmax: largest degree.
        seed: of g.
    """
    ball = Ball(box, lmax, box / 2)
    prior = wilson(ball, 1.0, blob=0.0)
    white = torch.randn(ball.size, generator=seeding.generator(seed, "structure"), dtype=torch.float64)
    envelope = (-fourier.distances(ball.shape).double().square() / (2 * prior.radius**2)).exp()
    x = prior.root(white, ball) + math.sqrt(prior.variance) * ball.fit(envelope)
    fine = Map(fourier.resize_volume(ball.values(x), 4 * box), 0.25)
    return Volume(f"molecule {box}", specimen_from_map(fine, box))


def least_error(ball: Ball, x: torch.Tensor, information: torch.Tensor, prior_precision: torch.Tensor) -> float:
    """Relative error at best of an estimate with the bias of a prior, after the best turn and shift of the map.

    It is the Cramer-Rao bound for the bias b(x) = -S P x with S = (I + P)^-1: variance S I S, and b b^T. Its mean over
    truths that the prior makes is :func:`unpicked.priors.expected_error`.

    Args:
        ball: what the coefficients mean; values within half the box count.
        x: ``(size,)`` the truth, float64.
        information: I ``(size, size)`` at x, float64.
        prior_precision: P ``(size, size)`` of a prior of mean zero, float64.
    """
    basis, left = unmoved(ball, x, ball.box / 2)
    shrunk = torch.linalg.solve(information + prior_precision, left)
    squares = ((information @ shrunk) * shrunk).sum() + (x @ prior_precision @ shrunk).square().sum()
    return float((squares / (x @ basis).square().sum()).clamp(min=0).sqrt())


@lru_cache(maxsize=4)
def _information(
    ball: Ball, level: float, structure: int, density: float, views: int, each: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A molecule's coefficients ``(n,)`` in normalised grey values, and what a particle tells of them ``(n, n)``."""
    volume = molecule(ball.box, ball.lmax, structure)
    model = Model(ball, Projection(super_fibonacci(views)), Anywhere(density, Gas()))
    fields = Fields.of(each * ball.size, ball.box, density)
    x, information = observed_information(volume.specimen, fields, energy(level), model, structure, each=each)
    return x.double(), information.double() / fields.particles(ball.box)


def _of(rows: Sequence[Row], box: int, level: float, count: int) -> list[Row]:
    return [row for row in rows if (row["box"], row["E"], row["wanted"]) == (box, level, count)]


def _needed(rows: Sequence[Row], level: Level, figure: str) -> float | None:
    """Particles at which a figure's rms over seeds is the wanted error, by a power law; None where it never crosses."""
    there = [_of(rows, level.box, level.energy, count) for count in level.particles]
    counts = [sum(row["particles"] for row in some) / len(some) for some in there]
    errors = [rms([row[figure] for row in some]) for some in there]
    power = slope(counts, errors)
    if not min(errors) <= WANTED <= max(errors) or not power < 0:
        return None
    centre = sum(math.log(count) for count in counts) / len(counts)
    height = sum(math.log(error) for error in errors) / len(errors)
    return math.exp(centre + (math.log(WANTED) - height) / power)


def _count(particles: float | None) -> str:
    return "not crossed" if particles is None else f"{particles:.3g}"


QUICK = (
    Level(5, 200.0, (8, 17, 34)),
    Level(5, 100.0, (19, 38, 76)),
    Level(5, 50.0, (52, 104, 208)),
    Level(7, 200.0, (54, 108, 216)),
    Level(7, 100.0, (250, 500, 1000)),
)
"""About 0.7, 1.4 and 2.8 times what the bound says."""
FULL = (
    *QUICK[:3],
    Level(5, 25.0, (180, 360, 720)),
    Level(7, 400.0, (15, 30, 60)),
    *QUICK[3:],
    Level(7, 50.0, (2000, 4000, 8000)),
)
EXPERIMENT = Experiment(
    name="sample-complexity-3d",
    summary="particles for 10 % error against E at 5^3 and 7^3, beside the bound",
    source=SOURCE,
    minutes=(20, 300),
    quick=SampleComplexity3D(QUICK),
    full=SampleComplexity3D(FULL, seeds=5),
    cases=("levels",),
)
