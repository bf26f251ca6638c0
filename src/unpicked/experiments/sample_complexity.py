"""How many samples does it take? Error of the moments' answer against the length of the signal and the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise

from unpicked.data.moments import merge
from unpicked.estimators.autocorrelation import Autocorrelation
from unpicked.evaluate.signals import compare_signals
from unpicked.experiments.common import random_target, rms, slope
from unpicked.experiments.table import Check, Column, Experiment, Line, Plot, Row, Settings, Table
from unpicked.model.model import Model
from unpicked.model.placements import Anywhere
from unpicked.model.views import Identity
from unpicked.objects.samples import Samples
from unpicked.priors import Flat
from unpicked.simulate.signals import simulate_signal

COLUMNS = (
    Column("SNR", "g"),
    Column("samples", "g"),
    Column("seed"),
    Column("error", ".4f"),
    Column("predicted", ".4f"),
    Column("chi2", ".2f"),
)
SOURCE = "Bendory et al., arXiv 1810.00226; Lan, Bendory, Boumal & Singer, arXiv 1905.03176"
_CLEAR = 0.3  # errors above are not small, and do not follow the law


@dataclass(frozen=True)
class SampleComplexity:
    """Random targets at SNR per sample of the target from high to low; parts of one signal, longer and longer.

    Attributes:
        length: L.
        density: covered fraction, copies 2 L - 1 apart.
        ratios: mean square of the target over that of the noise, falling.
        samples: lengths of the signal, rising.
        seeds: targets and signals.
        low: number of the lowest levels from which the power of SNR is read.
    """

    length: int = 5
    density: float = 0.1
    ratios: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125, 0.0625)
    samples: tuple[int, ...] = (1 << 22, 1 << 24, 1 << 26)
    seeds: int = 4
    low: int = 3

    def run(self, settings: Settings) -> Table:
        """All levels, lengths and seeds."""
        rows: list[Row] = []
        for ratio in self.ratios:
            for seed in settings.runs(self.seeds):
                rows += settings.rows(COLUMNS, (ratio, seed), self.recover, ratio, seed)
        return Table(
            name="sample-complexity",
            title="error of the moments' answer against the number of samples and the noise",
            source=SOURCE,
            columns=COLUMNS,
            rows=tuple(rows),
            checks=(*(self.in_samples(rows, ratio) for ratio in self.ratios), self.in_noise(rows)),
            notes=(
                "errors are after the best shift: a target that ends in small samples can as well begin one later",
                f"errors are relative; slopes are those of rms errors below {_CLEAR:g}",
                "an error that grows as SNR^-3/2 needs SNR^-3 samples: sigma^6",
            ),
            plot=_plot(rows, self.ratios),
            settings=asdict(self),
        )

    def recover(self, ratio: float, seed: int) -> list[Row]:
        """One signal: every length in turn."""
        truth = random_target(self.length, seed, "target")
        data, _ = simulate_signal(
            truth,
            density=self.density,
            sigma=1 / math.sqrt(ratio),
            seed=seed,
            samples=max(self.samples),
            block=1 << 18,
            halo=self.length - 1,
        )
        model, method = Model(Samples(self.length), Identity(), Anywhere(self.density)), Autocorrelation()
        rows: list[Row] = []
        sizes = sorted(self.samples)
        ends = pairwise([0, *(samples >> 18 for samples in sizes)])
        parts = (method.measure(data, model, range(*between)) for between in ends)
        for samples, record in zip(sizes, accumulate(parts, lambda a, b: merge([a, b])), strict=True):
            found = method.fit(record, model, Flat(), seed)
            spread = found.covariance.diagonal()[: self.length].clamp(min=0).sum().sqrt()
            rows.append(
                {
                    "SNR": ratio,
                    "samples": samples,
                    "seed": seed,
                    "error": compare_signals(found.x, truth).relative_error_shifted,
                    "predicted": float(spread / truth.norm()),
                    "chi2": found.chi2,
                }
            )
        return rows

    def in_samples(self, rows: Sequence[Row], ratio: float) -> Check:
        """The power of the number of samples at one level."""
        errors = {n: _error(rows, ratio, n) for n in self.samples}
        kept = {n: error for n, error in errors.items() if error < _CLEAR}
        ours = slope(list(kept), list(kept.values()))
        return Check(
            what=f"power of the number of samples at SNR {ratio:g}",
            published="-1/2",
            target="-0.5 +- 0.1",
            ours=f"{ours:.2f} from {len(kept)} lengths" if len(kept) > 1 else "errors too large",
            passed=abs(ours + 0.5) <= 0.1 if len(kept) > 1 else None,
        )

    def in_noise(self, rows: Sequence[Row]) -> Check:
        """The power of SNR at the low end, with the most samples."""
        most = max(self.samples)
        errors = {ratio: _error(rows, ratio, most) for ratio in self.ratios[-self.low :]}
        kept = {ratio: error for ratio, error in errors.items() if error < _CLEAR}
        ours = slope(list(kept), list(kept.values()))
        return Check(
            what="power of SNR at the low end",
            published="-3/2: SNR^-3 in samples",
            target="-1.5 +- 0.3",
            ours=f"{ours:.2f} from {len(kept)} levels" if len(kept) > 1 else "errors too large",
            passed=abs(ours + 1.5) <= 0.3 if len(kept) > 1 else None,
        )


def _error(rows: Sequence[Row], ratio: float, samples: int) -> float:
    return rms([row["error"] for row in rows if row["SNR"] == ratio and row["samples"] == samples])


def _plot(rows: Sequence[Row], ratios: Sequence[float]) -> Plot:
    lines = []
    for ratio in ratios:
        sizes = sorted({row["samples"] for row in rows})
        lines.append(Line(f"SNR {ratio:g}", sizes, [_error(rows, ratio, size) for size in sizes]))
    return Plot(tuple(lines), "samples", "relative error", "xy")


EXPERIMENT = Experiment(
    name="sample-complexity",
    summary="error of the moments' answer against the number of samples and the noise",
    source=SOURCE,
    minutes=(6, 60),
    quick=SampleComplexity(),
    full=SampleComplexity(samples=(1 << 22, 1 << 24, 1 << 26, 1 << 28), seeds=16),
)
