"""The omit test: what comes back of a removed part of the start map, by energy, and for starts that are wrong.

Micrographs of a chain of beads in a box of 11, and of noise; the run starts from the chain's map, or from that of
another chain, without 15 % of it. Beside it what the smooth continuation of the rest would give, without any data.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace

import torch

from common import save
from unpicked.data.maps import Map
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.snr import energy
from unpicked.recipes import MicrographJob, ready
from unpicked.recipes.trials import MicrographTrial
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.phantom import bead_chain
from unpicked.verify import folds_of
from unpicked.verify.omit import continued, judged, region

BOX, CHAIN, OTHER = 11, 4, 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--energy", type=float, nargs="+", default=[300.0, 60.0])
    parser.add_argument("--size", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    truth, other = (bead_chain(BOX, seed).truth() for seed in (CHAIN, OTHER))
    other = replace(other, values=other.values * float(truth.values.norm() / other.values.norm()))
    figures: dict[str, object] = {"size": options.size}
    for level in options.energy:
        figures[f"E = {level:g}, from the chain"] = rows(micrographs(level, options.size), truth, options.seeds)
    most = max(options.energy)
    figures[f"E = {most:g}, from another chain"] = rows(micrographs(most, options.size), other, options.seeds)
    figures["noise, from the chain"] = rows(micrographs(None, options.size), truth, options.seeds)
    smooth = []
    for seed in range(options.seeds):
        part = region(truth, seed)
        found = replace(truth, values=continued(truth.values.double(), part))
        smooth.append(told(judged(truth, part, found, seed)))
    figures["no data: the rest continued"] = smooth
    save("omit_test", figures)


def micrographs(level: float | None, size: int) -> Micrographs:
    """Two, at an energy, or of noise."""
    if level is None:
        noise = torch.randn(2, size, size, generator=torch.Generator().manual_seed(1))
        return Micrographs(InMemory(noise), bead_chain(BOX, CHAIN).truth().voxel_size, ("a", "b"))
    chain = bead_chain(BOX, CHAIN)
    return simulate_micrographs(chain, count=2, size=(size, size), density=0.12, noise=energy(level), seed=3)[0]


def rows(data: Micrographs, start: Map, seeds: int) -> list[dict[str, object]]:
    """Of every seed, on the first half of the data."""
    job = MicrographJob(box=BOX, views=(100, 400), iterations=(8, 8), moves=0)
    trial = MicrographTrial(ready(data, job, start), job, start)
    own, found = folds_of(trial)[0][0], []
    kept = trial.fit(own, 0, "whole").map
    for seed in range(seeds):
        part = region(start, seed)
        run = trial.without(start, part).fit(own, seed, "omit")
        found.append(told(judged(start, part, run.map, seed, kept=kept)))
        print(found[-1], flush=True)
    return found


def told(found: object) -> dict[str, object]:
    """Its figures, rounded."""
    figures = {name: round(value, 3) for name, value in asdict(found).items() if value is not None}
    return figures | {"p": found.p, "came back": found.came_back}


if __name__ == "__main__":
    main()
