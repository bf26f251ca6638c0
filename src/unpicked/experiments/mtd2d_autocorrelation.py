"""Images of 9 x 9 pixels at all angles, by autocorrelations: the error falls with the root of the number of pixels."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from unpicked._lazy import torch
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.moments import Moments, merge
from unpicked.estimators.autocorrelation import Autocorrelation
from unpicked.evaluate.images import compare_images
from unpicked.experiments.common import rms, slope
from unpicked.experiments.table import Check, Column, Experiment, Line, Plot, Row, Settings, Table
from unpicked.model.model import Model
from unpicked.model.placements import Anywhere
from unpicked.model.views import InPlane
from unpicked.objects.disk import Disk
from unpicked.priors import Flat
from unpicked.recipes.images import ImageJob, from_images
from unpicked.simulate.images import DiskTargets, random_targets, simulate_images

COLUMNS = (
    Column("megapixels", "g"),
    Column("seed"),
    Column("error", ".3f"),
    Column("predicted", ".3f"),
    Column("density error", "+.2%"),
    Column("sigma error", "+.3%"),
    Column("chi2", ".2f"),
    Column("EM error", ".3f"),
    Column("pass", ".0f"),
    Column("fit", ".0f"),
)
SOURCE = "Kreymer & Bendory, Two-dimensional multi-target detection: an autocorrelation analysis approach (2022)"


@dataclass(frozen=True)
class Mtd2dAutocorrelation:
    """A random target of 34 steerable coefficients; one set of images per seed, of which more and more are used.

    Attributes:
        length: L.
        edge: height and width of an image in pixels.
        counts: images that are used.
        density: covered fraction, copies 2 L - 1 apart.
        snr: mean square of the target over that of the noise.
        seeds: sets of images.
        compared: largest number of images on which approximate EM runs, too; 0 means none.
        slope: of log error against log pixels, and its tolerance.
    """

    length: int = 9
    edge: int = 2048
    counts: tuple[int, ...] = (1, 4, 16, 64)
    density: float = 0.1
    snr: float = 0.5
    seeds: int = 5
    compared: int = 1
    slope: tuple[float, float] = (-0.5, 0.1)

    def run(self, settings: Settings) -> Table:
        """All seeds; few images first."""
        rows: list[Row] = []
        for seed in settings.runs(self.seeds):
            rows += settings.rows(COLUMNS, (seed,), self.recover, seed)
        return Table(
            name="mtd2d-autocorrelation",
            title=f"{self.length} x {self.length} targets at all angles by moments, SNR {self.snr:g}",
            source=SOURCE,
            columns=COLUMNS,
            rows=tuple(rows),
            checks=(self.check(rows),),
            notes=(
                "error: relative, after the best turn; predicted: by the fit alone",
                "EM: lattice gas from random starts, on the same images",
            ),
            plot=_plot(rows),
            settings=asdict(self),
        )

    def recover(self, seed: int) -> list[Row]:
        """All sizes of one set."""
        targets = random_targets(self.length, seed)
        data, truth = simulate_images(
            targets,
            size=(self.edge, self.edge),
            count=max(self.counts),
            density=self.density,
            sigma=1 / math.sqrt(self.snr),
            seed=seed,
        )
        model = Model(Disk(self.length), InPlane(36), Anywhere(0.09))
        method = Autocorrelation()
        rows: list[Row] = []
        record: Moments | None = None
        before, passed = 0, 0.0
        for count in sorted(self.counts):
            began = time.perf_counter()
            part = method.measure(data, model, range(before, count))
            record = part if record is None else merge([record, part])
            passed, before = passed + time.perf_counter() - began, count
            row = self.row(record, method, model, targets, truth.density, seed)
            beside = self.beside(data.part(range(count)), targets, seed) if count <= self.compared else None
            rows.append(row | {"pass": passed, "EM error": beside})
        return rows

    def row(
        self, record: Moments, method: Autocorrelation, model: Model, targets: DiskTargets, density: float, seed: int
    ) -> dict[str, Any]:
        """One fit."""
        began = time.perf_counter()
        found = method.fit(record, model, Flat(), seed)
        size = model.object.size
        return {
            "megapixels": round(record.points / 1e6, 2),
            "seed": seed,
            "error": compare_images(targets.disk.values(found.x), targets.values[0]).relative_error,
            "predicted": float(found.covariance[:size, :size].trace().sqrt() / targets.x.norm()),
            "density error": float(found.density[0]) / density - 1,
            "sigma error": float(found.sigma) * math.sqrt(self.snr) - 1,
            "chi2": found.chi2,
            "fit": time.perf_counter() - began,
        }

    def beside(self, data: Micrographs, targets: DiskTargets, seed: int) -> float:
        """Error of approximate EM on the same images."""
        held = replace(data, source=InMemory(torch.stack(list(data))))
        answer = from_images(held, ImageJob(self.length, starts=2), seed=seed)
        return compare_images(answer.target, targets.values[0]).relative_error

    def check(self, rows: Sequence[Row]) -> Check:
        """The slope of the rms error over the seeds."""
        sizes, errors = _curve(rows)
        ours = slope(sizes, errors)
        wanted, tolerance = self.slope
        enough = len(sizes) >= 3
        return Check(
            what="slope of log error against log pixels",
            published="-1/2, read from a figure",
            target=f"{wanted:g} +- {tolerance:g}",
            ours=f"{ours:.3f} from {sizes[0]:g} to {sizes[-1]:g} megapixels",
            passed=abs(ours - wanted) <= tolerance if enough else None,
        )


def _curve(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Sizes, and the rms errors over the seeds."""
    sizes = sorted({row["megapixels"] for row in rows})
    groups = [[row["error"] for row in rows if row["megapixels"] == size] for size in sizes]
    return sizes, [rms(group) for group in groups]


def _plot(rows: Sequence[Row]) -> Plot:
    sizes, errors = _curve(rows)
    scaled = [errors[0] * math.sqrt(sizes[0] / size) for size in sizes]
    lines = (Line("moments", sizes, errors), Line("slope -1/2", sizes, scaled, "--"))
    return Plot(lines, "megapixels", "relative error", "xy")


EXPERIMENT = Experiment(
    name="mtd2d-autocorrelation",
    summary="targets of 9 x 9 pixels at all angles, from the moments of up to 256 megapixels",
    source=SOURCE,
    minutes=(10, 240),
    quick=Mtd2dAutocorrelation(edge=1024, counts=(1, 4, 16), seeds=2, compared=0),
    full=Mtd2dAutocorrelation(),
)
