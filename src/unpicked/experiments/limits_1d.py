"""How close the methods come to the Cramer-Rao bound in one dimension."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from unpicked._lazy import torch
from unpicked.data.signal import Signal
from unpicked.estimators import moment_fit
from unpicked.estimators.autocorrelation import Autocorrelation
from unpicked.estimators.base import Batch
from unpicked.estimators.exact_em import ExactEM
from unpicked.experiments.common import random_target
from unpicked.experiments.table import Check, Column, Experiment, Line, Plot, Row, Settings, Table
from unpicked.model.chain import Chain
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.patches import Patches
from unpicked.model.placements import Anywhere
from unpicked.model.spacing import HardCore, begins
from unpicked.model.views import Identity
from unpicked.objects.samples import Samples
from unpicked.ops import seeding
from unpicked.ops.chain import window_scores
from unpicked.reconstruct import reconstruct
from unpicked.simulate.signals import simulate_signal

COLUMNS = (
    Column("method"),
    Column("occupancy", ".3f"),
    Column("SNR"),
    Column("samples"),
    Column("N x CRB", ".4g"),
    Column("replicates"),
    Column("MSE / CRB", ".3f"),
    Column("s.e.", ".3f"),
    Column("efficiency", ".3f"),
    Column("passes", ".1f"),
    Column("seconds", ".0f"),
)
SOURCE = "no published figures; the bound is computed from the exact score of a long signal"
LENGTH = 5
BLOCK = 1 << 17  # samples that are cut into windows at once
SPAN = 512  # samples whose windows' scores are one draw


@dataclass(frozen=True)
class Level:
    """One setting.

    Attributes:
        occupancy: covered fraction; starts at least 2 L - 1 samples apart.
        snr: mean square of the target's samples over the variance of the noise.
        samples: of each replicate.
        replicates: of the exact method; 0 for none.
        methods: others, whose efficiency is computed from the covariance of their estimates.
    """

    occupancy: float
    snr: float
    samples: int = 0
    replicates: int = 0
    methods: tuple[str, ...] = ()


def windows(side: int, stride: int) -> Callable[[Signal, float, Model, torch.Tensor], torch.Tensor]:
    """Covariance of the estimates from windows of so many samples, the sum over configurations exact in each."""

    def covariance(data: Signal, occupancy: float, exact: Model, x: torch.Tensor) -> torch.Tensor:
        chain = exact.placement
        if not isinstance(chain, Chain):
            raise ValueError(f"the bound is that of a chain; got {chain!r}")
        begin = begins(chain.spacing, len(x), side + len(x) - 1)
        law, sigma = chain.spacing.gaps(len(x)), exact.noise.sigma
        parts = [window_scores(block, x, sigma, law, begin, side=side, stride=stride) for block in data.cut(BLOCK)]
        return _sandwich(torch.cat(parts), max(1, SPAN // stride)) / (sum(map(len, parts)))

    return covariance


def moments(data: Signal, occupancy: float, exact: Model, x: torch.Tensor) -> torch.Tensor:
    """Covariance of the fit to all moments with the best weights, as the method predicts it at the truth."""
    model = Model(exact.object, exact.view, Anywhere(occupancy, Patches(), "separated"), noise=exact.noise)
    method = Autocorrelation(weights="long-run")
    record = method.measure(data.cut(1 << 20, LENGTH - 1), model)
    return moment_fit.expected_errors(record, model, method, x)


COVARIANCES = {
    "windows 3L, stride 1": windows(3 * LENGTH, 1),
    "patches L": windows(LENGTH, LENGTH),
    "autocorrelations": moments,
}
"""Of data, occupancy, model and truth: the covariance of a method's estimates, x first."""
TARGETS = {
    ("windows 3L, stride 1", 0.28, 1.0): 0.9,
    ("windows 3L, stride 1", 0.28, 0.25): 0.9,
    ("autocorrelations", 0.086, 0.04): 0.75,
}
"""Least efficiency of a method at an occupancy and a signal-to-noise ratio."""


@dataclass(frozen=True)
class Limits1D:
    """Random targets of five samples, x, density and sigma unknown, from the truth.

    Attributes:
        levels: settings.
        stream: samples from which the bound is computed.
        short: samples from which the covariances of windows are computed.
        seeds: targets, one after the other.
    """

    levels: tuple[Level, ...]
    stream: int = 4_000_000
    short: int = 1_000_000
    seeds: int = 1

    def run(self, settings: Settings) -> Table:
        """All settings."""
        rows: list[Row] = []
        for seed in settings.runs(self.seeds):
            for level in self.levels:
                rows += settings.rows(COLUMNS, (level, seed), self.rows, level, seed)
        return Table(
            name="limits-1d",
            title="error against the Cramer-Rao bound, L = 5, all parameters unknown",
            source=SOURCE,
            columns=COLUMNS,
            rows=tuple(rows),
            checks=tuple(check for row in rows if (check := _check(row)) is not None),
            notes=(
                "MSE / CRB: mean squared error of x over replicates, over the trace of the bound; s.e. its standard "
                "error; runs start at the truth, so that no wrong optimum counts",
                "efficiency: trace of the bound over the trace of the covariance of the estimates: of windows by "
                "Godambe's sandwich, of autocorrelations with the best weights as predicted at the truth; of the "
                "exact method CRB / MSE",
            ),
            plot=_plot(rows),
            settings=asdict(self),
        )

    def rows(self, level: Level, seed: int) -> list[Row]:
        """One setting."""
        x, model = _truth(level, seed)
        stream = _signal(level, x, self.stream, seeding.derive(seed, "stream"))
        rate, began = bound(stream, model, x), time.perf_counter()
        head = {"occupancy": level.occupancy, "SNR": level.snr, "N x CRB": rate, "seed": seed}
        out: list[Row] = []
        if level.replicates:
            found = [self.replicate(level, model, x, seed, number) for number in range(level.replicates)]
            ratios = torch.tensor([error * level.samples / rate for error, _ in found], dtype=torch.float64)
            out.append(
                {
                    **head,
                    "method": "exact",
                    "samples": level.samples,
                    "replicates": level.replicates,
                    "MSE / CRB": float(ratios.mean()),
                    "s.e.": float(ratios.std() / math.sqrt(len(ratios))) if len(ratios) > 1 else math.nan,
                    "efficiency": float(1 / ratios.mean()),
                    "passes": sum(passes for _, passes in found) / len(found),
                    "seconds": time.perf_counter() - began,
                }
            )
        for name in level.methods:
            began = time.perf_counter()
            samples = self.stream if name == "autocorrelations" else self.short
            data = _signal(level, x, samples, seeding.derive(seed, "stream"))
            covariance = COVARIANCES[name](data, level.occupancy, model, x)[:LENGTH, :LENGTH]
            out.append(
                {
                    **head,
                    "method": name,
                    "samples": samples,
                    "efficiency": rate / samples / float(covariance.trace()),
                    "seconds": time.perf_counter() - began,
                }
            )
        return out

    def replicate(self, level: Level, model: Model, x: torch.Tensor, seed: int, number: int) -> tuple[float, int]:
        """Squared error of the exact method on one signal, and passes."""
        data = _signal(level, x, level.samples, seeding.derive(seed, "replicate", number))
        run = reconstruct(data, model, ExactEM(tolerance=3e-3), start=x, moves=0)
        return float((run.x - x).square().sum()), len(run.history)


def bound(data: Signal, model: Model, x: torch.Tensor) -> float:
    """Samples times the trace of the Cramer-Rao bound of x, density and sigma unknown, by the scores of segments."""
    estimator = ExactEM()
    state = estimator.init(data, model, x, 0)
    stats = estimator.accumulate(model, Batch(data, range(len(data))), state)
    rate = stats["products"] / stats["pixels"]
    return float(torch.linalg.inv(rate)[: len(x), : len(x)].trace())


def _sandwich(scores: torch.Tensor, together: int) -> torch.Tensor:
    """Windows times the covariance of the estimates, H^-1 J H^-1 (Godambe).

    A window's likelihood is right by itself, so that H is the mean of the outer products of the scores; J is that of
    the sums over neighbouring windows.
    """
    information = scores.mT @ scores / len(scores)
    whole = (scores - scores.mean(0))[: len(scores) // together * together].unflatten(0, (-1, together)).sum(1)
    spread = whole.mT @ whole / (len(whole) * together)
    inverse = torch.linalg.inv(information)
    return inverse @ spread @ inverse


def _truth(level: Level, seed: int) -> tuple[torch.Tensor, Model]:
    """A random target of mean square 1, and the model that made the data."""
    x = random_target(LENGTH, seed, "target")
    law = HardCore("separated", level.occupancy)
    return x, Model(Samples(LENGTH), Identity(), Chain(law), noise=White(level.snr**-0.5))


def _signal(level: Level, x: torch.Tensor, samples: int, seed: int) -> Signal:
    """A signal whose number of copies is that of the renewal law, so that it is as uncertain as the bound assumes."""
    import numpy as np

    gaps = HardCore("separated", level.occupancy).gaps(LENGTH)
    generator = np.random.Generator(np.random.Philox(seeding.derive(seed, "count")))
    most = int(1.2 * samples / gaps.mean) + 50
    starts = np.cumsum(generator.geometric(gaps.hazard, most) + gaps.least - 1) - gaps.least
    count = max(1, int((starts <= samples - LENGTH).sum()))
    density = count * LENGTH / samples
    block = 1 << 20 if samples > 1 << 21 else None
    return simulate_signal(x, density=density, samples=samples, sigma=level.snr**-0.5, seed=seed, block=block)[0]


def _check(row: Row) -> Check | None:
    what = f"{row['method']}, occupancy {row['occupancy']:g}, SNR {row['SNR']:g}"
    if row["method"] == "exact":
        low, high = (0.9, 1.12) if row["SNR"] > 0.5 else (0.85, 1.3)
        ratio, error = row["MSE / CRB"], row["s.e."]
        clear = not error > (high - low) / 4  # with few replicates nothing is told
        within = low <= ratio <= high
        return Check(
            f"MSE / CRB, {what}", "none", f"{low} to {high}", f"{ratio:.3f} +- {error:.3f}", within if clear else None
        )
    least = TARGETS.get((row["method"], row["occupancy"], row["SNR"]))
    if least is None:
        return None
    return Check(
        f"efficiency, {what}", "none", f"at least {least}", f"{row['efficiency']:.3f}", row["efficiency"] >= least
    )


def _plot(rows: Sequence[Row]) -> Plot:
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        for occupancy in dict.fromkeys(row["occupancy"] for row in rows):
            there = sorted(
                (r for r in rows if (r["method"], r["occupancy"]) == (method, occupancy)), key=lambda row: row["SNR"]
            )
            if there:
                x, y = [row["SNR"] for row in there], [row["efficiency"] for row in there]
                lines.append(Line(f"{method}, occupancy {occupancy:g}", x, y))
    return Plot(tuple(lines), "signal-to-noise ratio per sample", "efficiency", "x")


BOTH = ("windows 3L, stride 1", "patches L")
QUICK = (
    Level(0.28, 1.56, 4000, 100),
    Level(0.28, 0.69, 20_000, 50),
    Level(0.28, 1.0, methods=BOTH),
    Level(0.28, 0.25, methods=BOTH),
    Level(0.086, 0.04, methods=("autocorrelations",)),
)
FULL = (
    *(Level(occupancy, 1.56, 4000, 400) for occupancy in (0.28, 0.086)),
    Level(0.28, 0.69, 20_000, 400),
    Level(0.086, 0.69, 100_000, 400),  # 20,000 hold too few copies for the bound to be reached
    Level(0.28, 0.25, 200_000, 200, BOTH),
    Level(0.086, 0.25, 400_000, 200),
    Level(0.28, 1.0, methods=BOTH),
    *(Level(0.086, snr, methods=("autocorrelations",)) for snr in (0.25, 0.11, 0.04)),
)
EXPERIMENT = Experiment(
    name="limits-1d",
    summary="exact likelihood, windows, patches and autocorrelations against the Cramer-Rao bound",
    source=SOURCE,
    minutes=(4, 60),
    quick=Limits1D(QUICK),
    full=Limits1D(FULL, stream=16_000_000, short=4_000_000),
)
