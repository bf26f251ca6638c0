"""Passes over a signal to within one log unit of the optimum: Baum-Welch beside Fisher scoring, and their times.

Targets of L samples, occupancy 28 %, starts at least 2 L - 1 samples apart; x, density and sigma unknown. A pass is
one forward-backward sum over all data, rejected steps included. The start is the truth with 60 % noise and twice the
hazard. The optimum of a seed is the highest likelihood that either solver reached.
"""

from __future__ import annotations

import argparse
import time

import torch

from common import save
from unpicked.data.signal import Signal
from unpicked.estimators.exact_em import ExactEM
from unpicked.model.chain import Chain
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.spacing import HardCore
from unpicked.model.views import Identity
from unpicked.objects.samples import Samples
from unpicked.ops import seeding
from unpicked.reconstruct import reconstruct
from unpicked.simulate.signals import simulate_signal

SOLVERS = {"Baum-Welch": "em", "Fisher scoring": "fisher"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--length", type=int, default=5)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--snr", type=float, nargs="+", default=[1.0, 0.44, 0.25])
    parser.add_argument("--passes", type=int, default=600)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures: dict[str, object] = {"L, samples, seeds": [options.length, options.samples, options.seeds]}
    for snr in options.snr:
        needed: dict[str, list[int | None]] = {name: [] for name in SOLVERS}
        seconds: dict[str, list[float]] = {name: [] for name in SOLVERS}
        for seed in range(options.seeds):
            curves = {name: curve(solver, snr, seed, options) for name, solver in SOLVERS.items()}
            best = max(max(values) for values, _ in curves.values())
            for name, (values, spent) in curves.items():
                reached = [index + 1 for index, value in enumerate(values) if value >= best - 1]
                needed[name].append(reached[0] if reached else None)
                seconds[name].append(round(spent / len(values) * (reached[0] if reached else len(values)), 2))
        for name in SOLVERS:
            figures[f"passes at SNR {snr:g}, {name}"] = needed[name]
            figures[f"seconds at SNR {snr:g}, {name}"] = seconds[name]
    save("passes_1d", figures)


def curve(solver: str, snr: float, seed: int, options: argparse.Namespace) -> tuple[list[float], float]:
    """Log-likelihood of every pass, and processor seconds."""
    generator = seeding.generator(seed, "target")
    x = torch.randn(options.length, generator=generator, dtype=torch.float64)
    x = x / x.square().mean().sqrt()
    noise = torch.randn(options.length, generator=generator, dtype=torch.float64)
    start = x + 0.6 * noise / noise.square().mean().sqrt()
    lazy, truth = simulate_signal(x, density=0.28, samples=options.samples, sigma=snr**-0.5, seed=seed)
    data = Signal.of(lazy[0])
    law = HardCore("separated", truth.density)
    law = law.thinned(options.length, min(0.9, 2 * law.gaps(options.length).hazard))
    model = Model(Samples(options.length), Identity(), Chain(law), noise=White(truth.sigma))
    estimator = ExactEM(options.passes, solver, tolerance=1e-3)  # type: ignore[arg-type]
    began = time.process_time()
    run = reconstruct(data, model, estimator, start=start, moves=0)
    return [row["objective"] for row in run.history], time.process_time() - began


if __name__ == "__main__":
    main()
