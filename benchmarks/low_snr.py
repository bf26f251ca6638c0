"""Below the detection boundary: which likelihood, prior and solver give the smallest error at E = 12, 24 and 42.

Bead chains of 7 voxels, several data seeds, random starts, never started near the truth; everything else as the
command line has it. Relative error after alignment, beside that of the featureless ball; one row per choice.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch

from common import save
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.snr import energy
from unpicked.evaluate.compare import compare
from unpicked.evaluate.featureless import ball_error
from unpicked.recipes import MicrographJob, from_micrographs
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.phantom import bead_chain

DEFAULT = MicrographJob(box=7, views=(100, 400), iterations=(12, 12), moves=0)
CHOICES = {
    "default: gas, wilson and positive, fisher": DEFAULT,
    "window": replace(DEFAULT, likelihood="window"),
    "patches of side 2 L": replace(DEFAULT, likelihood="patches-2l"),
    "patches of side L (published)": replace(DEFAULT, likelihood="patches"),
    "wilson alone": replace(DEFAULT, signed=True),
    "ridge and positive": replace(DEFAULT, prior="ridge"),
    "shells and positive": replace(DEFAULT, prior="shells"),
    "positive alone": replace(DEFAULT, prior="none"),
    "no prior": replace(DEFAULT, prior="none", signed=True),
    "solver em": replace(DEFAULT, solver="em"),
    "solver squarem": replace(DEFAULT, solver="squarem"),
    "solver anderson": replace(DEFAULT, solver="anderson"),
    "solver lbfgs": replace(DEFAULT, solver="lbfgs"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--energies", type=float, nargs="+", default=[42.0, 24.0, 12.0])
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--only", nargs="*", default=None, help="choices whose name holds one of these words")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures: dict[str, object] = {"particles, seeds": [options.particles, options.seeds]}
    for level in options.energies:
        errors: dict[str, list[float]] = {"featureless ball": []}
        seconds: dict[str, float] = {}
        for seed in range(options.seeds):
            specimen = bead_chain(7, seed)
            side = round((options.particles * 49 / 0.12 / 2) ** 0.5)
            made, _ = simulate_micrographs(
                specimen, count=2, size=(side, side), density=0.12, noise=energy(level), seed=seed
            )
            data = Micrographs(InMemory(torch.stack(list(made))), made.pixel_size, made.names)
            errors["featureless ball"].append(ball_error(specimen.truth()))
            for name, job in CHOICES.items():
                if options.only is not None and not any(word in name for word in options.only):
                    continue
                began = time.perf_counter()
                answer = from_micrographs(data, job, seed=100 + seed)
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began
                errors.setdefault(name, []).append(compare(answer.map, specimen.truth()).relative_error)
        for name, values in errors.items():
            spread = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
            figures[f"E = {level:g}, {name}"] = {
                "error": [round(value, 3) for value in values],
                "mean": round(statistics.mean(values), 3),
                "standard error": round(spread, 3),
                "seconds each": round(seconds.get(name, 0.0) / len(values), 1),
            }
    save("low_snr", figures)


if __name__ == "__main__":
    main()
