"""Whether updates from part of the micrographs pay in a first stage: error against passes over the data.

Bead chains of 11 voxels in micrographs of about 250 particles, 100 views that turn, random starts, the lattice gas,
prior and solver as the command line chooses them; single particles stand out (E = 424) or not (E = 42). Relative
error after alignment, CPU seconds of all passes, and at the end the log-likelihood ratio of patches in four of the
micrographs, scaled to all, less the energy of the prior; one number per data seed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch

from common import save
from unpicked.data.maps import Map
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.snr import energy
from unpicked.estimators.acceleration import Acceleration, Fisher, Relaxed
from unpicked.estimators.base import Batch, judge
from unpicked.estimators.em import EM, signal_power
from unpicked.evaluate.compare import compare
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.placements import Anywhere, Gas
from unpicked.model.views import Projection
from unpicked.ops import rotation
from unpicked.priors import Prior
from unpicked.recipes import MicrographJob, parts
from unpicked.recipes.known import Known
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.phantom import bead_chain

BOX, VIEWS, MARKS = 11, 100, (1, 3, 12)
STAGE = EM(iterations=max(MARKS), frozen=0, relaxation=1.6, solver_tolerance=1e-6)


def course(
    data: Micrographs, model: Model, prior: Prior, estimator: EM, truth: Map, seed: int, most: int
) -> list[list[float]]:
    """Passes, seconds and error at every mark; at the last also the penalised likelihood of patches."""
    marks = MARKS if estimator.batch == 1 else tuple(mark for mark in MARKS if mark <= most)
    everything, seconds, rows = Batch(data, range(len(data))), 0.0, []
    with torch.no_grad():
        state = estimator.init(data, model, None, seed)
        updates = int(state["parts"]) if "parts" in state else 1
        for step in range(updates * max(marks)):
            began = time.process_time()
            now = estimator.current(model, state)
            state = estimator.update(now, state, estimator.accumulate(now, everything, state), prior)
            seconds += time.process_time() - began
            if (step + 1) % updates == 0 and (step + 1) // updates in marks:
                found = Map(model.object.values(state["x"]), truth.voxel_size)
                rows.append([(step + 1) // updates, seconds, compare(found, truth).relative_error])
        some = Batch(data, range(min(4, len(data))))
        told = judge(some, estimator.current(model, state), state["x"]) * len(data) / len(some)
        rows[-1].append(float(told - prior.energy(state["x"], model.object)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--energies", type=float, nargs="+", default=[424.0, 42.0])
    parser.add_argument("--particles", type=int, default=4000)
    parser.add_argument("--batches", type=float, nargs="+", default=[1.0, 0.0625])
    parser.add_argument("--decay", type=float, default=EM.decay)
    parser.add_argument("--most", type=int, default=3, help="passes in parts of the data")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    count = max(1, round(options.particles / 250))
    side = round((options.particles / count * BOX**2 / 0.12) ** 0.5)
    runs: dict[str, list[list[list[float]]]] = {}
    for seed in range(options.seeds):
        for level in options.energies:
            specimen = bead_chain(BOX, seed)
            made, truth = simulate_micrographs(
                specimen, count=count, size=(side, side), density=0.12, noise=energy(level), seed=seed
            )
            data = Micrographs(InMemory(torch.stack(list(made))), made.pixel_size, made.names)
            model, prior, solver = first_stage(data, truth.sigma)
            for batch in options.batches:
                if isinstance(solver, Fisher):  # one J in six passes at most, as from all the data
                    solver = replace(solver, every=round(6 / batch))
                updates = round(STAGE.iterations / batch)
                estimator = replace(STAGE, iterations=updates, batch=batch, decay=options.decay, acceleration=solver)
                rows = course(data, model, prior, estimator, specimen.truth(), 100 + seed, options.most)
                runs.setdefault(f"E = {level:g}, batch {batch:g}", []).append(rows)
                print(seed, level, batch, [[round(value, 3) for value in row] for row in rows], flush=True)
        save("minibatch", {"particles, micrographs, their side": [options.particles, count, side], **summary(runs)})


def first_stage(data: Micrographs, sigma: float) -> tuple[Model, Prior, Acceleration]:
    """Model, prior and solver of the first stage, as the command line has them."""
    job = MicrographJob(box=BOX)
    volume, views = parts.volume(job)[0], Projection(rotation.super_fibonacci(VIEWS))
    model = Model(volume, views, Anywhere(0.1, Gas()), noise=White(sigma))
    power = signal_power(data, model)
    known = Known(power, power / sigma**2)
    solver = parts.solver(job, volume, known, warm=4)
    return model, parts.prior(job, volume, model, known), solver if solver.turning else Relaxed()


def summary(runs: dict[str, list[list[list[float]]]]) -> dict[str, object]:
    """One entry per setting, one number per seed."""
    out: dict[str, object] = {}
    for title, found in runs.items():
        errors = {
            f"error, {row[0]:.0f} passes": [round(run[i][2], 3) for run in found] for i, row in enumerate(found[0])
        }
        seconds, objective = [round(run[-1][1], 1) for run in found], [round(run[-1][3], 1) for run in found]
        out[title] = {**errors, "mean": round(statistics.mean(run[-1][2] for run in found), 3)}
        out[title] |= {"seconds": seconds, "objective": objective}
    return out


if __name__ == "__main__":
    main()
