"""A one-dimensional target from a long signal, exactly and cut into patches, from random starts: a talk of 2022."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

from unpicked._lazy import torch
from unpicked.data.signal import Signal
from unpicked.evaluate.signals import compare_signals
from unpicked.experiments.common import random_target
from unpicked.experiments.table import Check, Column, Experiment, Line, Plot, Row, Settings, Table
from unpicked.recipes.signals import SignalJob, from_signal
from unpicked.simulate.signals import simulate_signal

COLUMNS = (
    Column("SNR", "g"),
    Column("seed"),
    Column("method"),
    Column("known positions", ".3f"),
    Column("error", ".3f"),
    Column("from the truth", ".3f"),
    Column("gap", ".2f"),
    Column("moves"),
    Column("windows of 3 L", ".3f"),
    Column("density", ".3f"),
    Column("seconds", ".0f"),
)
SOURCE = "Bendory, talk of 2022; Kreymer, Singer & Bendory, arXiv 2303.02157"
METHODS = {
    "exact": SignalJob(21, method="exact", starts=1, moves=5),
    "patches": SignalJob(21, method="em", starts=1, moves=5),
}
"""One random start, and recentre moves."""


@dataclass(frozen=True)
class TalkEM1D:
    """Exact and approximate EM in one dimension: one random start and recentre moves for every signal.

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
                rows += self.rows(snr, seed, settings)
        return Table(
            name="talk-em1d",
            title=f"L = {self.length} from {self.samples:g} samples, one random start each",
            source=SOURCE,
            columns=COLUMNS,
            rows=tuple(rows),
            checks=tuple(self.check(rows, snr, method) for snr in self.levels for method in METHODS),
            notes=(
                "columns of errors: relative, no shift allowed; patches: side L, stride L, as published",
                "gap: log-likelihood of the random start less that of the same method's run that started at the truth",
                "known positions: mean of what is there, the least that any method can do",
            ),
            plot=self.plot(rows),
            settings=asdict(self),
        )

    def rows(self, snr: float, seed: int, settings: Settings) -> list[Row]:
        """One signal, all methods."""
        target = random_target(self.length, seed, "patch example")
        data, truth = simulate_signal(
            target, density=self.density, sigma=1 / math.sqrt(snr), samples=self.samples, seed=seed
        )
        there = data[0].double().unfold(0, self.length, 1)[truth.positions(0)].mean(0)
        head = {"SNR": snr, "seed": seed, "known positions": self.error(there, target)}
        return [
            settings.row(COLUMNS, (snr, seed, method), self.recover, method, data, target, seed, head)
            for method in METHODS
        ]

    def recover(self, method: str, data: Signal, target: torch.Tensor, seed: int, head: Row) -> Row:
        """One signal, one method."""
        job = replace(METHODS[method], length=self.length)
        answer = from_signal(data, job, seed=seed)
        ideal = from_signal(data, replace(job, moves=0), seed=seed, start=target)
        longer = math.nan
        if self.stride and job.method == "em":
            wide = replace(job, moves=0, window=3 * self.length, stride=round(self.stride * self.length))
            longer = self.error(from_signal(data, wide, seed=seed, start=answer.target).target, target)
        return {
            **head,
            "method": method,
            "error": self.error(answer.target, target),
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

    def check(self, rows: list[Row], snr: float, method: str) -> Check:
        """Nineteen starts of twenty as likely as the truth's."""
        some = [row for row in rows if (row["SNR"], row["method"]) == (snr, method)]
        good = sum(row["gap"] >= -1 for row in some)
        return Check(
            what=f"SNR {snr:g}, {method}: random starts as likely as the truth's",
            published="shown without figures",
            target="within 1 log unit, or above, in 19 of 20",
            ours=f"{good} of {len(some)}",
            passed=good >= 0.95 * len(some),
        )

    def plot(self, rows: list[Row]) -> Plot:
        """Errors against the level."""
        parts = [(method, [row for row in rows if row["method"] == method], "error") for method in METHODS]
        patches = parts[-1][1]
        parts += [(name, patches, name) for name in ("known positions", "windows of 3 L")]
        lines = [
            Line(label, [row["SNR"] for row in some], [row[name] for row in some], "o") for label, some, name in parts
        ]
        return Plot(tuple(lines), "SNR per sample", "relative error", "xy")


EXPERIMENT = Experiment(
    name="talk-em1d",
    summary="a target of 21 samples from a signal, exactly and cut into patches, random starts",
    source=SOURCE,
    minutes=(6, 30),
    quick=TalkEM1D(),
    full=TalkEM1D(seeds=20),
)
