"""One signal in one long noisy measurement, by autocorrelations: the one-dimensional panels of a talk of 2022."""

from __future__ import annotations

import contextlib
import math
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unpicked.data.moments import Moments
from unpicked.data.signal import Signal
from unpicked.estimators.autocorrelation import Autocorrelation
from unpicked.experiments.common import rms
from unpicked.experiments.table import Check, Column, Experiment, Line, Plot, Row, Settings, Table
from unpicked.model.model import Model
from unpicked.model.placements import Anywhere
from unpicked.model.views import Identity
from unpicked.objects.samples import Samples
from unpicked.priors import Flat
from unpicked.simulate.signals import simulate_signal, target

COLUMNS = (
    Column("copies"),
    Column("seed"),
    Column("weights"),
    Column("signal error", ".3f"),
    Column("predicted", ".3f"),
    Column("density error", ".2%"),
    Column("density predicted", ".2%"),
    Column("sigma error", ".4%"),
    Column("chi2", ".2f"),
    Column("generation", ".1f"),
    Column("pass", ".1f"),
    Column("fit", ".1f"),
    Column("memory", ".0f"),
)
SOURCE = "Bendory, talk of 2022; Bendory, Boumal, Leeb, Levin & Singer, arXiv 1810.00226"
BLOCK = 1 << 20
METHODS = {"published": Autocorrelation(weights="published"), "all entries": Autocorrelation()}
SHOWN = {10_000: "4.8 %", 316_228: "4 %", 10_000_000: "1.2 %"}  # errors of the density, one draw each


@dataclass(frozen=True)
class TalkMTD1D:
    """The step of 21 samples at sigma 3, starts 410 samples apart on average, density and sigma unknown.

    Attributes:
        copies: sizes of the measurement, in copies of the target.
        seeds: measurements of each size.
        giant: copies of one more measurement, of which there is one; 0 leaves it out.
        length: L.
        sigma: of the noise.
        spread: samples per copy, in least distances 2 L - 1.
        errors: rms signal error at most, by size.
    """

    copies: tuple[int, ...] = (10_000, 100_000, 316_228)
    seeds: int = 32
    giant: int = 0
    length: int = 21
    sigma: float = 3.0
    spread: int = 10
    errors: dict[int, float] = field(default_factory=lambda: {10_000: 0.62, 100_000: 0.25, 316_228: 0.165})

    def run(self, settings: Settings) -> Table:
        """All sizes and seeds; short measurements first."""
        rows: list[Row] = []
        for copies in self.copies:
            for seed in settings.runs(self.seeds):
                rows += settings.rows(COLUMNS, (copies, seed), self.rows, copies, seed)
        if self.giant:
            rows += settings.rows(COLUMNS, ("giant", settings.seed), self.rows, self.giant, settings.seed)
        return Table(
            name="talk-mtd1d",
            title=f"a step of {self.length} samples at sigma = {self.sigma:g}, from the moments of one long signal",
            source=SOURCE,
            columns=COLUMNS,
            rows=tuple(rows),
            checks=(*self.checks(rows), *self.giant_checks(rows)),
            notes=(
                "errors are relative; predicted: standard deviations from the fit alone",
                "generation: seconds to simulate the signal alone; pass: to simulate it and sum its moments",
                "memory: largest resident size while the signal was read and fitted, MB",
                "the density errors of the talk are single draws; those of the signal were not given",
            ),
            plot=_plot(rows),
            settings=asdict(self),
        )

    def rows(self, copies: int, seed: int) -> list[Row]:
        """Both weightings on one signal."""
        _forget_memory()
        truth = target("step", self.length)
        data, simulated = simulate_signal(
            truth,
            density=self.length / (self.spread * (2 * self.length - 1)),
            sigma=self.sigma,
            seed=seed,
            occurrences=copies,
            block=BLOCK,
            halo=self.length - 1,
        )
        generation = _read_through(data) if copies == self.giant else math.nan
        model = Model(Samples(self.length), Identity(), Anywhere(0.1))
        began = time.perf_counter()
        record = METHODS["all entries"].measure(data, model)
        passed = time.perf_counter() - began
        return [
            self.row(name, record, model, simulated.density, copies, seed)
            | {"generation": generation, "pass": passed, "memory": _memory()}
            for name in METHODS
        ]

    def row(self, name: str, record: Moments, model: Model, density: float, copies: int, seed: int) -> dict[str, Any]:
        """One fit."""
        truth = target("step", self.length)
        began = time.perf_counter()
        found = METHODS[name].fit(record, model, Flat(), seed)
        errors = found.covariance.diagonal().clamp(min=0)
        return {
            "copies": copies,
            "seed": seed,
            "weights": name,
            "signal error": float((found.x - truth).norm() / truth.norm()),
            "predicted": float(errors[: self.length].sum().sqrt() / truth.norm()),
            "density error": float(found.density[0]) / density - 1,
            "density predicted": float(errors[self.length].sqrt()) / density,
            "sigma error": float(found.sigma) / self.sigma - 1,
            "chi2": found.chi2,
            "fit": time.perf_counter() - began,
        }

    def checks(self, rows: Sequence[Row]) -> list[Check]:
        """Over the seeds of every size."""
        out = []
        for copies in self.copies:
            ours, theirs = (_of(rows, copies, name) for name in ("all entries", "published"))
            error, other = _rms(ours, "signal error"), _rms(theirs, "signal error")
            density = _rms(ours, "density error")
            limit = self.errors.get(copies)
            enough = len(ours) >= self.seeds
            what = f"rms over {len(ours)} seeds, {copies} copies"
            out.append(
                Check(
                    what=f"signal error, {what}",
                    published=f"{other:.3f} with the published weights on the same signals",
                    target=f"at most {limit:g}, and below the published weights" if limit else "below the other",
                    ours=f"{error:.3f}",
                    passed=error <= min(limit or math.inf, other) if enough else None,
                )
            )
            out.append(
                Check(
                    what=f"density error, {what}",
                    published=SHOWN.get(copies, "none"),
                    target="none: one draw was shown",
                    ours=f"{density:.1%}, predicted {_rms(ours, 'density predicted'):.1%}",
                    passed=None,
                )
            )
        largest = max(self.copies)
        ours = _of(rows, largest, "all entries")
        ratio = _rms(ours, "signal error") / _rms(ours, "predicted")
        out.append(
            Check(
                what=f"signal error / predicted, {largest} copies",
                published="none",
                target="0.8 to 1.6",
                ours=f"{ratio:.2f}",
                passed=0.8 <= ratio <= 1.6 if len(ours) >= self.seeds else None,
            )
        )
        return out

    def giant_checks(self, rows: Sequence[Row]) -> list[Check]:
        """Of the one long measurement."""
        if not self.giant:
            return []
        row = _of(rows, self.giant, "all entries")[0]
        far = abs(row["density error"]) / row["density predicted"]
        samples = self.giant * self.spread * (2 * self.length - 1)
        return [
            Check(
                "signal error, the longest",
                "none",
                "at most 0.032",
                f"{row['signal error']:.4f}",
                row["signal error"] <= 0.032,
            ),
            Check(
                what="density error, the longest",
                published=SHOWN.get(self.giant, "none"),
                target="within 3 predicted standard deviations",
                ours=f"{row['density error']:+.2%}, {far:.1f} standard deviations",
                passed=far <= 3,
            ),
            Check(
                what=f"{samples:.2g} samples",
                published="none",
                target="below 500 MB",
                ours=f"{row['pass']:.0f} s, generation alone {row['generation']:.0f} s; {row['memory']:.0f} MB",
                passed=row["memory"] < 500,
            ),
        ]


def _read_through(data: Signal) -> float:
    began = time.perf_counter()
    for piece in data:
        del piece
    return time.perf_counter() - began


def _forget_memory() -> None:
    """Begin to measure the largest resident size anew, where the system can: compiling before takes its own."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _memory() -> float:
    """Largest resident size of this process since then, MB; of all its life where the system cannot tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _of(rows: Sequence[Row], copies: int, name: str) -> list[Row]:
    return [row for row in rows if row["copies"] == copies and row["weights"] == name]


def _rms(rows: Sequence[Row], key: str) -> float:
    return rms([row[key] for row in rows])


def _plot(rows: Sequence[Row]) -> Plot:
    lines = []
    for name in METHODS:
        sizes = sorted({row["copies"] for row in rows})
        lines.append(Line(name, sizes, [_rms(_of(rows, size, name), "signal error") for size in sizes], "o-"))
    predicted = [_rms(_of(rows, size, "all entries"), "predicted") for size in sizes]
    lines.append(Line("predicted", sizes, predicted, "--"))
    return Plot(tuple(lines), "copies", "relative error of the signal", "xy")


EXPERIMENT = Experiment(
    name="talk-mtd1d",
    summary="a signal of 21 samples from the moments of one long measurement, at sigma = 3",
    source=SOURCE,
    minutes=(15, 20),
    quick=TalkMTD1D(),
    full=TalkMTD1D(giant=10_000_000),
)
