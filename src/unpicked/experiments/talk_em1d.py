"""A one-dimensional target from a long signal cut into patches, from random starts, as in a talk of 2022."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from unpicked._lazy import torch
from unpicked.evaluate.signals import compare_signals
from unpicked.experiments.common import random_target
from unpicked.experiments.table import Check, Column, Experiment, Line, Plot, Row, Settings, Table
from unpicked.recipes.signals import SignalJob, from_signal
from unpicked.simulate.signals import simulate_signal

COLUMNS = (
    Column("SNR", "g"),
    Column("seed"),
    Column("known positions", ".3f"),
    Column("patches", ".3f"),
    Column("from the truth", ".3f"),
    Column("gap", ".2f"),
    Column("moves"),
    Column("windows of 3 L", ".3f"),
    Column("density", ".3f"),
    Column("seconds", ".0f"),
)
SOURCE = "Bendory, talk of 2022; Kreymer, Singer & Bendory, arXiv 2303.02157"


@dataclass(frozen=True)
class TalkEM1D:
    """Approximate EM in one dimension: one random start and recentre moves for every signal.

    Attributes:
        length: L of the target, of independent Gaussian samples.
        samples: of the signal.
        density: covered fraction, copies 2 L - 1 apart; unknown to the method, as is the noise.
        levels: SNR per sample, mean square of the target over that of the noise.
        seeds: signals per level.
        stride: of the windows of three lengths, in fractions of L; 0 leaves them out.
    """

    length: int = 21
    samples: int = 100_000
    density: float = 0.3
    levels: tuple[float, ...] = (1.0, 0.5, 0.25)
    seeds: int = 4
    stride: float = 0.25

    def run(self, settings: Settings) -> Table:
        """All levels, all seeds."""
        rows: list[Row] = []
        for snr in self.levels:
            for seed in settings.runs(self.seeds):
                rows.append(settings.done(self.recover(snr, seed), COLUMNS))
        return Table(
            name="talk-em1d",
            title=f"L = {self.length} from {self.samples:g} samples in patches, one random start each",
            source=SOURCE,
            columns=COLUMNS,
            rows=tuple(rows),
            checks=tuple(self.check(rows, snr) for snr in self.levels),
            notes=(
                "columns of errors: relative, no shift allowed; patches: side L, stride L, as published",
                "gap: log-likelihood of the random start less that of the run that started at the truth",
                "known positions: mean of what is there, the least that any method can do",
            ),
            plot=self.plot(rows),
            settings=asdict(self),
        )

    def recover(self, snr: float, seed: int) -> Row:
        """One signal."""
        target = random_target(self.length, seed, "patch example")
        data, truth = simulate_signal(
            target, density=self.density, sigma=1 / math.sqrt(snr), samples=self.samples, seed=seed
        )
        job = SignalJob(self.length, method="em", starts=1, moves=5)
        answer = from_signal(data, job, seed=seed)
        ideal = from_signal(data, SignalJob(self.length, method="em", moves=0), seed=seed, start=target)
        longer = math.nan
        if self.stride:
            wide = SignalJob(
                self.length, method="em", moves=0, window=3 * self.length, stride=round(self.stride * self.length)
            )
            longer = self.error(from_signal(data, wide, seed=seed, start=answer.target).target, target)
        there = data[0].double().unfold(0, self.length, 1)[truth.positions(0)].mean(0)
        return {
            "SNR": snr,
            "seed": seed,
            "known positions": self.error(there, target),
            "patches": self.error(answer.target, target),
            "from the truth": self.error(ideal.target, target),
            "gap": answer.run.objective - ideal.run.objective,
            "moves": sum("move taken" in note for note in answer.notes),
            "windows of 3 L": longer,
            "density": answer.run.model.placement.density,
            "seconds": answer.run.seconds,
        }

    def error(self, found: torch.Tensor, target: torch.Tensor) -> float:
        """Relative error, no shift allowed."""
        return compare_signals(found, target).relative_error

    def check(self, rows: list[Row], snr: float) -> Check:
        """Nineteen starts of twenty as likely as the truth's."""
        some = [row for row in rows if row["SNR"] == snr]
        good = sum(row["gap"] >= -1 for row in some)
        return Check(
            what=f"SNR {snr:g}: random starts as likely as the truth's",
            published="shown without figures",
            target="within 1 log unit, or above, in 19 of 20",
            ours=f"{good} of {len(some)}",
            passed=good >= 0.95 * len(some),
        )

    def plot(self, rows: list[Row]) -> Plot:
        """Errors against the level."""
        names = ("known positions", "patches", "windows of 3 L")
        lines = [Line(name, [row["SNR"] for row in rows], [row[name] for row in rows], "o") for name in names]
        return Plot(tuple(lines), "SNR per sample", "relative error", "xy")


EXPERIMENT = Experiment(
    name="talk-em1d",
    summary="a target of 21 samples from a signal cut into patches, random starts",
    source=SOURCE,
    minutes=(10, 60),
    quick=TalkEM1D(),
    full=TalkEM1D(seeds=20),
)
