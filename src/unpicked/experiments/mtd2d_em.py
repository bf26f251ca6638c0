"""Images of 5 x 5 pixels, turned in their plane, by approximate EM from random starts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from unpicked.evaluate.images import compare_images
from unpicked.experiments.table import Check, Column, Experiment, Line, Plot, Row, Settings, Table
from unpicked.recipes.images import ImageJob, from_images
from unpicked.simulate.images import random_targets, simulate_images

COLUMNS = (
    Column("seed"),
    Column("copies"),
    Column("error", ".3f"),
    Column("from the truth", ".3f"),
    Column("gap", ".2f"),
    Column("density", ".4f"),
    Column("sigma", ".4f"),
    Column("seconds", ".0f"),
)
SOURCE = "Kreymer & Bendory, Two-dimensional multi-target detection: an autocorrelation analysis approach (2022)"


@dataclass(frozen=True)
class Mtd2dEM:
    """A target of ten steerable coefficients, patches of its side, one random start for every data set.

    Attributes:
        job: the reconstruction.
        size: height and width of the image.
        count: images of every data set.
        density: covered fraction, copies 2 L - 1 apart.
        snr: mean square of the target over that of the noise.
        seeds: data sets.
    """

    job: ImageJob = field(default_factory=lambda: ImageJob(5, reach=2.3, window=5, angles=32, starts=1, moves=3))
    size: int = 256
    count: int = 1
    density: float = 0.1
    snr: float = 1.0
    seeds: int = 10

    def run(self, settings: Settings) -> Table:
        """All data sets."""
        rows = [settings.row(COLUMNS, (seed,), self.recover, seed) for seed in settings.runs(self.seeds)]
        good = sum(row["gap"] >= -1 for row in rows)
        return Table(
            name="mtd2d-em",
            title=f"targets of {self.job.length}^2 in images of {self.size}^2 pixels, SNR {self.snr:g}, random starts",
            source=SOURCE,
            columns=COLUMNS,
            rows=tuple(rows),
            checks=(
                Check(
                    what="random starts as likely as the truth's",
                    published="shown without figures",
                    target="log-likelihood within 1 unit, or above, in 9 of 10",
                    ours=f"{good} of {len(rows)}",
                    passed=good >= 0.9 * len(rows),
                ),
            ),
            notes=("gap: log-likelihood of the random start less that of the run that started at the truth",),
            plot=Plot(
                (
                    Line("random start", [row["seed"] for row in rows], [row["error"] for row in rows], "o"),
                    Line("truth", [row["seed"] for row in rows], [row["from the truth"] for row in rows], "x"),
                ),
                "data set",
                "relative error after the best turn",
            ),
            settings=asdict(self),
        )

    def recover(self, seed: int) -> Row:
        """One data set."""
        targets = random_targets(self.job.length, seed, reach=self.job.reach)
        data, truth = simulate_images(
            targets,
            size=(self.size, self.size),
            count=self.count,
            density=self.density,
            sigma=1 / math.sqrt(self.snr),
            seed=seed,
        )
        answer = from_images(data, self.job, seed=seed)
        ideal = from_images(data, self.job, seed=seed, start=targets.values[0])
        return {
            "seed": seed,
            "copies": truth.per_image * self.count,
            "error": compare_images(answer.target, targets.values[0]).relative_error,
            "from the truth": compare_images(ideal.target, targets.values[0]).relative_error,
            "gap": answer.last.objective - ideal.last.objective,
            "density": answer.last.model.placement.density,
            "sigma": answer.last.model.noise.sigma,
            "seconds": sum(run.seconds for run in answer.stages.values()),
        }


EXPERIMENT = Experiment(
    name="mtd2d-em",
    summary="targets of 5 x 5 pixels at all angles, approximate EM from random starts",
    source=SOURCE,
    minutes=(15, 120),
    quick=Mtd2dEM(),
    full=Mtd2dEM(size=512, seeds=20),
)
