"""Positions estimated one by one leave an error that no amount of data removes; marginalised, it falls."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import fmean

from unpicked._lazy import torch
from unpicked.estimators.exact_em import ExactEM
from unpicked.experiments.common import random_target
from unpicked.experiments.table import Check, Column, Experiment, Line, Plot, Row, Settings, Table
from unpicked.model.chain import Chain
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.spacing import HardCore
from unpicked.model.views import Identity
from unpicked.objects.samples import Samples
from unpicked.ops.viterbi import likeliest_starts
from unpicked.reconstruct import reconstruct
from unpicked.simulate.signals import simulate_signal

COLUMNS = (
    Column("SNR", "g"),
    Column("samples", ".0f"),
    Column("seed"),
    Column("likeliest positions", ".4f"),
    Column("marginalised", ".4f"),
)
SOURCE = "Bendory, talk of 2022; Bendory, Boumal, Leeb, Levin & Singer, arXiv 1810.00226"
METHODS = ("likeliest positions", "marginalised")


@dataclass(frozen=True)
class Consistency:
    """Two estimators that start at the truth, on longer and longer signals.

    Attributes:
        length: L of the target, of independent Gaussian samples.
        density: covered fraction, copies 2 L - 1 apart.
        levels: SNR per sample, mean square of the target over that of the noise.
        samples: lengths of the signals, rising.
        seeds: signals per cell.
        rounds: of positions and averages.
    """

    length: int = 11
    density: float = 0.28
    levels: tuple[float, ...] = (1.0, 0.5, 0.25)
    samples: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    seeds: int = 3
    rounds: int = 30

    def run(self, settings: Settings) -> Table:
        """All levels, lengths and seeds."""
        rows: list[Row] = []
        for snr in self.levels:
            for samples in self.samples:
                for seed in settings.runs(self.seeds):
                    rows.append(settings.row(COLUMNS, (snr, samples, seed), self.errors, snr, samples, seed))
        return Table(
            name="consistency",
            title=f"error against data, L = {self.length}: positions estimated, and marginalised",
            source=SOURCE,
            columns=COLUMNS,
            rows=tuple(rows),
            checks=tuple(self.check(rows, snr, method) for snr in self.levels for method in METHODS),
            notes=("both start at the truth; noise level and density are known to the first, estimated by the second",),
            plot=self.plot(rows),
            settings=asdict(self),
        )

    def errors(self, snr: float, samples: int, seed: int) -> Row:
        """Relative errors of both on one signal."""
        target = random_target(self.length, seed, "consistency target")
        sigma = 1 / math.sqrt(snr)
        data, truth = simulate_signal(target, density=self.density, sigma=sigma, samples=samples, seed=seed)
        hard = self.positioned(data[0].double(), target, sigma, truth.density)
        law = HardCore("separated", truth.density)
        model = Model(Samples(self.length), Identity(), Chain(law), noise=White(sigma))
        soft = reconstruct(data, model, ExactEM(iterations=100), start=target, moves=0, seed=seed).x
        found = {"likeliest positions": hard, "marginalised": soft}
        return {"SNR": snr, "samples": samples, "seed": seed} | {
            name: float((x - target).norm() / target.norm()) for name, x in found.items()
        }

    def positioned(self, signal: torch.Tensor, x: torch.Tensor, sigma: float, density: float) -> torch.Tensor:
        """The likeliest positions given the target, the mean of what is there, and again."""
        width, rate = 2 * self.length - 1, density / self.length
        chance = rate / (1 - rate * (width - 1))
        log_odds = math.log(chance) - width * math.log1p(-chance)
        windows = signal.unfold(0, self.length, 1)
        for _ in range(self.rounds):
            scores = (windows @ x - x.square().sum() / 2) / sigma**2 + log_odds
            found = likeliest_starts(scores, width)
            if not len(found):
                break
            new = windows[found].mean(0)
            done = bool(torch.allclose(new, x, rtol=0, atol=1e-12))
            x = new
            if done:
                break
        return x

    def mean(self, rows: list[Row], snr: float, samples: int, method: str) -> float:
        """Mean error over seeds."""
        return fmean(row[method] for row in rows if row["SNR"] == snr and row["samples"] == samples)

    def check(self, rows: list[Row], snr: float, method: str) -> Check:
        """What ten times the data do at the long end: nothing, or a third of the error."""
        before, after = (self.mean(rows, snr, samples, method) for samples in self.samples[-2:])
        more = self.samples[-1] / self.samples[-2]
        ideal = 1 / math.sqrt(more)
        if method == "marginalised":
            target, passed = f"falls to {1.6 * ideal:.2f} or less (ideal {ideal:.2f})", after / before <= 1.6 * ideal
        else:
            target, passed = "stays above 0.8", after / before >= 0.8
        return Check(
            what=f"SNR {snr:g}, {method}: error with {more:g} times the data over that before",
            published="estimated positions are biased, marginalised ones are not",
            target=target,
            ours=f"{after / before:.2f} ({before:.3f} to {after:.3f})",
            passed=passed,
        )

    def plot(self, rows: list[Row]) -> Plot:
        """Mean errors."""
        lines = [
            Line(
                f"SNR {snr:g}, {method}",
                self.samples,
                [self.mean(rows, snr, samples, method) for samples in self.samples],
                "o--" if method == METHODS[0] else "o-",
            )
            for snr in self.levels
            for method in METHODS
        ]
        return Plot(tuple(lines), "samples", "relative error of the target", "xy")


EXPERIMENT = Experiment(
    name="consistency",
    summary="error against data where positions are estimated, and where they are marginalised",
    source=SOURCE,
    minutes=(3, 40),
    quick=Consistency(),
    full=Consistency(samples=(10_000, 100_000, 1_000_000, 10_000_000), seeds=8),
)
