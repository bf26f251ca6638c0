"""Passes over the data to within one log unit of the optimum: EM beside steps that go farther from the same statistics.

Bead chains of 7 voxels at E = 24, published patches (an exact likelihood), frozen views, random starts, Wilson prior.
A pass is one E-step over all data, rejected steps included. The optimum of a seed is the highest penalised
log-likelihood that any of the methods reached from that start.
"""

from __future__ import annotations

import argparse
import time

import torch

from common import save
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.snr import energy
from unpicked.estimators.acceleration import LBFGS, Acceleration, Anderson, Fisher, Relaxed, Squarem
from unpicked.estimators.em import EM, signal_power
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.placements import Anywhere, Patches
from unpicked.model.views import Projection
from unpicked.objects.ball import Ball
from unpicked.ops import rotation
from unpicked.priors import wilson
from unpicked.reconstruct import reconstruct
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.phantom import bead_chain

METHODS: dict[str, Acceleration] = {
    "EM": Relaxed(),
    "EM, over-relaxed 1.8": Relaxed(1.8),
    "SQUAREM": Squarem(),
    "Anderson": Anderson(),
    "L-BFGS, EM's curvature": LBFGS(),
    "Fisher scoring": Fisher(warm=3, every=1),
    "L-BFGS, observed curvature": LBFGS(scored=True),
}


def objectives(
    data: Micrographs, sigma: float, method: Acceleration, seed: int, options: argparse.Namespace
) -> list[float]:
    """Penalised log-likelihood after every pass."""
    ball = Ball(7, 5, 4.5)
    views = Projection(rotation.super_fibonacci(options.views))
    model = Model(ball, views, Anywhere(0.12, Patches()), noise=White(sigma))
    prior = wilson(ball, signal_power(data, model))
    passes = options.passes
    estimator = EM(passes, passes, acceleration=method, tolerance=1e-3, solver_tolerance=1e-6)
    return [row["objective"] for row in reconstruct(data, model, estimator, prior=prior, seed=seed, moves=0).history]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--particles", type=int, default=648)
    parser.add_argument("--views", type=int, default=128)
    parser.add_argument("--passes", type=int, default=60)
    parser.add_argument("--energy", type=float, default=24.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[""], help="methods whose name holds one of these words")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    methods = {name: method for name, method in METHODS.items() if any(word in name for word in options.only)}
    needed: dict[str, list[int | None]] = {name: [] for name in methods}
    short: dict[str, list[float]] = {name: [] for name in methods}
    began = time.perf_counter()
    for seed in range(options.seeds):
        side = round((options.particles * 49 / 0.12) ** 0.5)
        made, truth = simulate_micrographs(
            bead_chain(7, seed), count=1, size=(side, side), density=0.12, noise=energy(options.energy), seed=seed
        )
        data = Micrographs(InMemory(torch.stack(list(made))), made.pixel_size, made.names)
        curves = {name: objectives(data, truth.sigma, method, seed, options) for name, method in methods.items()}
        best = max(max(curve) for curve in curves.values())
        for name, curve in curves.items():
            reached = [index + 1 for index, value in enumerate(curve) if value >= best - 1]
            needed[name].append(reached[0] if reached else None)
            short[name].append(round(best - max(curve), 2))
    save(
        "em_passes",
        {
            "E, particles, views, limit of passes": [options.energy, options.particles, options.views, options.passes],
            **{f"passes, {name}": values for name, values in needed.items()},
            **{f"log units short of the best, {name}": values for name, values in short.items()},
            "seconds": round(time.perf_counter() - began, 1),
        },
    )


if __name__ == "__main__":
    main()
