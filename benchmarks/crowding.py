"""Crowded particles: the error at twice the density of well separated ones, at the same number of particles.

Bead chains of 7 voxels, E = 100, random starts. Well separated copies keep 2 L - 1 pixels apart and cover 12 % of the
micrographs, crowded ones keep L pixels apart and cover 24 %. Beside them a model that takes crowded copies for well
separated ones.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from common import save
from unpicked.data.snr import energy
from unpicked.evaluate.compare import compare
from unpicked.evaluate.featureless import ball_error
from unpicked.recipes import MicrographJob, from_micrographs
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.phantom import bead_chain

CASES = {
    "well separated": (0.12, "separated", "separated"),
    "crowded": (0.24, "arbitrary", "arbitrary"),
    "crowded, taken for well separated": (0.24, "arbitrary", "separated"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--energy", type=float, default=100.0)
    parser.add_argument("--particles", type=int, default=600)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, object] = {"E, particles": [options.energy, options.particles]}
    means = {}
    for name, (density, spacing, believed) in CASES.items():
        errors, balls, seconds = [], [], 0.0
        for seed in range(options.seeds):
            specimen = bead_chain(7, seed)
            side = round((options.particles * 49 / density / 2) ** 0.5)
            data, _ = simulate_micrographs(
                specimen, count=2, size=(side, side), density=density, noise=energy(options.energy), seed=seed,
                spacing=spacing,
            )  # fmt: skip
            began = time.process_time()
            answer = from_micrographs(data, MicrographJob(box=7, spacing=believed), seed=100 + seed)
            seconds += time.process_time() - began
            errors.append(compare(answer.map, specimen.truth()).relative_error)
            balls.append(ball_error(specimen.truth()))
            print(name, seed, round(errors[-1], 3), flush=True)
        means[name] = statistics.mean(errors)
        figures[name] = {
            "error": [round(value, 3) for value in errors],
            "mean": round(means[name], 3),
            "ball": round(statistics.mean(balls), 3),
            "cpu_s": round(seconds / options.seeds, 1),
        }
    figures["crowded over well separated"] = round(means["crowded"] / means["well separated"], 2)
    save("crowding", figures)


if __name__ == "__main__":
    main()
