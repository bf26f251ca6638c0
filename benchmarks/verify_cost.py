"""What verification costs beside the reconstruction that it judges: seconds of the processor of both, in one run.

Two micrographs of BPTI as in the demo, at E = 424 and at E = 42, a signal, images and particles. Wanted is at most 1.2.
With --full the whole of ``unpicked verify`` on the first micrographs instead, four surrogates and three starts, wanted
at most 6; beside it, per shell, how far its folds agree, and what random phases reach. With --only, some kinds of data
alone; the figures of the others stay in the file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

import unpicked
from common import save
from unpicked.data import snr
from unpicked.data.micrographs import InMemory
from unpicked.io.structure import read_structure
from unpicked.recipes import ImageJob, MicrographJob, SignalJob, from_images, from_micrographs, from_signal, ready
from unpicked.recipes.images import ready as images_ready
from unpicked.recipes.particle_job import ParticleJob
from unpicked.recipes.particles import from_particles
from unpicked.recipes.stack_trials import ParticleTrial
from unpicked.recipes.trials import ImageTrial, MicrographTrial, SignalTrial
from unpicked.simulate.images import random_targets, simulate_images
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.particles import simulate_particles
from unpicked.simulate.signals import simulate_signal, target
from unpicked.simulate.specimens import specimen_from_structure
from unpicked.verify import Trial, verify, verify_with_surrogates
from unpicked.verify.verdict import Verdict

WANTED, FULL = 1.2, 6.0
PROTEIN = Path(unpicked.__file__).parent / "simulate" / "5pti.cif"
KINDS = ("micrographs", "signal", "images", "particles")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--energy", type=float, nargs="+", default=[424.0, 42.0])
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--count", type=int, default=2)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures: dict[str, object] = {}
    if "micrographs" in options.only:
        micrographs(options, figures)
        if options.full:
            return
    if "signal" in options.only:
        signal, _ = simulate_signal(target("bump", 21), samples=options.samples, density=0.3, sigma=1.0, seed=0)
        one = SignalJob(21)
        figures[f"signal of {options.samples} samples, SNR 1"] = measured(
            lambda: from_signal(signal, one, seed=0), SignalTrial(signal, one)
        )
    if "images" in options.only:
        images, _ = simulate_images(random_targets(9, 0), size=(256, 256), count=4, density=0.1, sigma=1.0, seed=0)
        planar = ImageJob(9)
        found = images_ready(images, planar)
        figures["4 images of 256^2"] = measured(lambda: from_images(found, planar, seed=0), ImageTrial(found, planar))
    if "particles" in options.only:
        stack, _ = simulate_particles(
            specimen_from_structure(read_structure(PROTEIN), 64, 0.9),
            count=options.particles,
            noise=snr.energy(3000.0),
            seed=0,
            defocus=(4000.0, 12000.0),
            max_shift=3.0,
        )
        stack = replace(stack, source=InMemory(stack.images()))
        search = ParticleJob(max_shift=3.0)
        figures[f"{options.particles} particles of 64^2, with contrast transfer and shifts"] = measured(
            lambda: from_particles(stack, search, seed=0), ParticleTrial(stack, search)
        )
    save("verify_cost", {"threads": options.threads} | kept(options.only) | figures)


def micrographs(options: argparse.Namespace, figures: dict[str, object]) -> None:
    """Of every energy; with --full all of ``unpicked verify`` at the first, which is saved."""
    job = MicrographJob(box=11)
    for level in options.energy:
        data, _ = simulate_micrographs(
            specimen_from_structure(read_structure(PROTEIN), 11, 5.0),
            count=options.count,
            size=(options.size, options.size),
            density=0.12,
            noise=snr.energy(level),
            seed=0,
        )
        prepared = ready(data, job)
        solve, trial = partial(from_micrographs, prepared, job, seed=0), MicrographTrial(prepared, job)
        if options.full:
            judge = partial(verify_with_surrogates, count=4, starts=2)
            save("verify_cost_full", {"E": level} | measured(solve, trial, FULL, judge))
            return
        figures[f"{options.count} micrographs of {options.size}^2, E = {level:g}"] = measured(solve, trial)


def kept(only: Sequence[str]) -> dict[str, object]:
    """The figures of an earlier run that this one does not make again."""
    path = Path(__file__).parent / "results" / "verify_cost.json"
    if set(only) == set(KINDS) or not path.exists():
        return {}
    held = json.loads(path.read_text())
    return {name: value for name, value in held.items() if name not in ("machine", "threads")}


def measured(
    solve: Callable[[], object], trial: Trial, wanted: float = WANTED, judge: Callable[..., Verdict] = verify
) -> dict[str, object]:
    """Seconds of both, their ratio, and the verdict."""
    began = time.process_time()
    solve()
    solved = time.process_time() - began
    verdict = judge(trial, seed=0)
    judged = time.process_time() - began - solved
    row: dict[str, object] = {
        "reconstruct_s": round(solved, 1),
        "verify_s": round(judged, 1),
        "ratio": round(judged / solved, 2),
        "wanted": wanted,
        "verdict": verdict.sentence,
    }
    if verdict.floor and verdict.agreement is not None:
        row["FSC of the folds"] = [round(value, 3) for value in verdict.agreement.fsc]
        row["FSC that random phases reach"] = [round(value, 3) for value in verdict.floor]
        row["other starts, log units"] = [round(rival.gain, 1) for rival in verdict.starts]
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
