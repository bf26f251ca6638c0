"""Contaminated micrographs: with masks the answer must be that of clean micrographs of as much area.

Bead chains of 7 voxels, E = 100, random starts, two stages. Carbon and ice lie on a share of the area, bright as
matter. Four cases: contaminated and masked; clean, of the area that the masks leave; contaminated, the masks unknown;
clean. Told are the error of the map, and density and noise over their true values. (Density is that of the places where
a box fits: in micrographs of this size 1.035 times that of the area, or 1.041 in the smaller ones.)
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch

from common import save
from unpicked.data.micrographs import Micrographs
from unpicked.data.snr import energy
from unpicked.evaluate.compare import compare
from unpicked.evaluate.featureless import ball_error
from unpicked.recipes import MicrographJob, from_micrographs
from unpicked.simulate.contamination import contaminated
from unpicked.simulate.micrographs import Simulation, simulate_micrographs
from unpicked.simulate.phantom import bead_chain

DENSITY, COUNT, BOX = 0.12, 2, 7
CASES = ("masked", "clean, as much area", "masks unknown", "clean")
JOB = MicrographJob(box=BOX, views=(60, 240), iterations=(10, 6), starts=2)


def simulated(case: str, options: argparse.Namespace, seed: int) -> tuple[Micrographs, Simulation]:
    """The data of a case, and their truth."""
    area = options.particles * BOX**2 / DENSITY / COUNT
    side = round((area * (1 - options.share if case == "clean, as much area" else 1)) ** 0.5)
    data, truth = simulate_micrographs(
        bead_chain(BOX, seed), count=COUNT, size=(side, side), density=DENSITY, noise=energy(options.energy), seed=seed
    )
    if not case.startswith("clean"):
        data, masks = contaminated(data, options.share, seed)
        data = replace(data, masks=masks) if case == "masked" else data
    return data, truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--energy", type=float, default=100.0)
    parser.add_argument("--particles", type=int, default=600)
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, object] = {"E, particles, share": [options.energy, options.particles, options.share]}
    figures["ball"] = round(statistics.mean(ball_error(bead_chain(BOX, s).truth()) for s in range(options.seeds)), 3)
    for case in options.cases:
        rows: dict[str, list[float]] = {"error": [], "density": [], "sigma": [], "cpu_s": []}
        for seed in range(options.seeds):
            data, truth = simulated(case, options, seed)
            began = time.process_time()
            answer = from_micrographs(data, JOB, seed=100 + seed)
            rows["cpu_s"].append(time.process_time() - began)
            found = answer.figures()
            rows["error"].append(compare(answer.map, truth.specimen.truth()).relative_error)
            rows["density"].append(found["density"] / truth.density)
            rows["sigma"].append(found["sigma"] / truth.sigma)
            print(case, seed, {name: round(values[-1], 3) for name, values in rows.items()}, flush=True)
        means = {f"mean {name}": round(statistics.mean(values), 3) for name, values in rows.items()}
        figures[case] = {name: [round(value, 3) for value in values] for name, values in rows.items()} | means
        save("masks", figures)


if __name__ == "__main__":
    main()
