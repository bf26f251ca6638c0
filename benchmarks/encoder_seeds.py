"""Success rate of the auto-encoder: set A of Nashed et al. (2021), another set and other random weights for every seed.

Printed per seed: median pose error before any refinement, of the images that were fitted and of those held out, then
error and resolution after the refinement that follows every method. Wanted are at most 3 degrees before refinement and
Nyquist at FSC 0.5 after it, in 9 of 10 seeds.
"""

from __future__ import annotations

import argparse

import torch

from common import save
from unpicked.experiments.stacks import Stacks, solve
from unpicked.recipes.particle_job import ParticleJob

WANTED = 3.0  # degrees


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--branches", default="heads", choices=["none", "mirror", "heads", "orbit"])
    parser.add_argument("--rotation", default="s2s2", choices=["s2s2", "quaternion", "euler"])
    parser.add_argument("--box", type=int, default=32)
    parser.add_argument("--fitted", type=int, default=9000)
    parser.add_argument("--held", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=ParticleJob().steps)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    job = ParticleJob(
        method="encoder", branches=options.branches, rotation=options.rotation, steps=options.steps, max_shift=0.0
    )
    rows, good, whole = [], 0, 0
    for seed in range(options.first, options.first + options.seeds):
        stack = Stacks(options.box, options.fitted, options.held).read("A", seed)
        row, _, found = solve(stack, job, seed, options.device)
        good += row["before"] <= WANTED
        whole += row["FSC 0.5"] is not None and row["FSC 0.5"] <= stack.nyquist * (1 + 1e-9)
        rows.append([row[name] for name in ("before", "held out", "median", "FSC 0.5", "seconds")])
        print(
            f"seed {seed}: before {row['before']:.2f}, held out {row['held out']:.2f} degrees; refined "
            f"{row['median']:.2f} degrees, FSC 0.5 at {row['FSC 0.5']:.2f} A (Nyquist {stack.nyquist:.2f}), FSC there "
            f"{found.fsc[-1]:.3f}, {row['seconds']:.0f} s",
            flush=True,
        )
    save(
        f"encoder_seeds_{options.branches}_{options.rotation}_{options.box}",
        {
            "images, steps, threads, device": [options.fitted, options.steps, options.threads, options.device],
            "per seed: before, held out, refined (degrees), FSC 0.5 (A), seconds": rows,
            f"seeds at most {WANTED:g} degrees before refinement": f"{good} of {options.seeds}",
            "seeds with FSC 0.5 at Nyquist after it": f"{whole} of {options.seeds}",
        },
    )


if __name__ == "__main__":
    main()
