"""Passes of EM from the fit to autocorrelations, and from random starts, to within one log unit of the best objective.

Bead chains of 7 voxels, published patches (an exact likelihood), frozen views that both share, one prior, one solver. A
pass is one E-step over all data; that of the moments is counted with theirs. The best of a seed is the highest
penalised log-likelihood that any start reached within the limit. Told are the passes of every start until it was within
one and within a hundred log units of it (None: not within the limit), how many log units short of it every start
ended, and the correlation of the fit and of the first random start with the truth, before any pass. The recipe gives EM
the fit beside its random starts; here they run apart, from the noise and density that each would have alone.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from functools import partial

import torch

from common import save
from unpicked.data.maps import Map
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.snr import energy
from unpicked.estimators.em import EM, random_start, signal_power
from unpicked.evaluate.compare import compare
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.placements import Anywhere, Patches
from unpicked.model.views import Projection
from unpicked.ops import rotation
from unpicked.preprocess import prepare
from unpicked.priors import wilson
from unpicked.recipes import MicrographJob, parts
from unpicked.recipes.known import Known
from unpicked.recipes.moment_starts import moment_starts
from unpicked.reconstruct import Reconstruction, reconstruct
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.phantom import bead_chain

BOX, DENSITY, GUESS = 7, 0.12, 0.1
WAYS = ("autocorrelation", "random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--energies", type=float, nargs="+", default=[424.0, 100.0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--particles", type=int, default=500)
    parser.add_argument("--views", type=int, default=40)
    parser.add_argument("--passes", type=int, default=30)
    parser.add_argument("--starts", type=int, default=2, help="random ones")
    parser.add_argument("--lmax", type=int, default=5)
    parser.add_argument("--solver", default="anderson", help="auto: that of the recipe at this energy")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="start_autocorrelation", help="of the file of results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures: dict[str, object] = {
        "particles, views, limit of passes, starts, lmax": [
            options.particles, options.views, options.passes, options.starts, options.lmax,
        ],
        "solver": options.solver,
    }  # fmt: skip
    began = time.perf_counter()
    for level in options.energies:
        rows = []
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            rows.append(one(level, seed, options))
            print(f"E = {level:g}, seed {seed}: {rows[-1]}", flush=True)
            figures |= {f"E = {level:g}, {name}": [row[name] for row in rows] for name in rows[0]}
        figures |= {f"E = {level:g}, {name}": value for name, value in summary(rows).items()}
        figures["seconds"] = round(time.perf_counter() - began, 1)
        save(options.name, figures)


def one(level: float, seed: int, options: argparse.Namespace) -> dict[str, object]:
    """Both ways on one data set."""
    specimen, side = bead_chain(BOX, 10 + seed), round((options.particles * BOX**2 / DENSITY) ** 0.5)
    made, truth = simulate_micrographs(
        specimen, count=1, size=(side, side), density=DENSITY, noise=energy(level), seed=seed
    )
    prepared = prepare(made)
    data = prepared.micrographs
    data = Micrographs(InMemory(torch.stack(list(data))), data.pixel_size, data.names)
    job = MicrographJob(box=BOX, lmax=options.lmax, likelihood="patches", starts=options.starts, solver=options.solver)
    ball = parts.volume(job)[0]
    views = Projection(rotation.super_fibonacci(options.views))
    model = Model(ball, views, Anywhere(GUESS, Patches()), noise=White(1.0))
    power = signal_power(data, model)
    found = moment_starts(data, job, ball, Known(power, power), seed=seed)
    told = replace(model, placement=Anywhere(found.density or GUESS, Patches()), noise=White(found.sigma))
    solver = parts.solver(job, ball, Known(power, level), warm=4)
    em = EM(options.passes, options.passes, acceleration=solver, tolerance=0.1, solver_tolerance=1e-6)
    belief = wilson(ball, power)
    solve = partial(reconstruct, data, estimator=em, prior=belief, seed=seed, moves=0)
    runs = {
        "autocorrelation": solve(model=told, start=found.x[0]),
        "random": solve(model=model, starts=options.starts),
    }
    best = max(max(curve) for run in runs.values() for curve in curves(run))
    begun = {"autocorrelation": found.x[0], "random": random_start(model, power, seed)}
    row: dict[str, object] = {"density by moments, true": [found.density and round(found.density, 4), truth.density]}
    row["sigma by moments over true"] = round(found.sigma * prepared.scale / truth.sigma, 4)
    for way, run in runs.items():
        more = int(way == "autocorrelation")
        for units in (1, 100):
            reached = [within(curve, best - units) for curve in curves(run)]
            row[f"passes to {units}, {way}"] = [passes and passes + more for passes in reached]
        row[f"short of the best, {way}"] = [round(best - max(curve), 2) for curve in curves(run)]
        map = Map(ball.values(begun[way]), data.pixel_size)
        row[f"first start's correlation with the truth, {way}"] = round(compare(map, specimen.truth()).correlation, 3)
    return row


def curves(run: Reconstruction) -> list[list[float]]:
    """Objectives after every pass, of every start."""
    return [[row["objective"] for row in history] for history in run.histories.values()]


def within(curve: list[float], level: float) -> int | None:
    """Passes until the objective was at least this."""
    return next((index + 1 for index, value in enumerate(curve) if value >= level), None)


def summary(rows: list[dict[str, object]]) -> dict[str, object]:
    """Over seeds: the fit beside the quickest and the likeliest of the random starts."""
    first = {way: [quickest(row[f"passes to 1, {way}"]) for row in rows] for way in WAYS}
    short = {way: [min(row[f"short of the best, {way}"]) for row in rows] for way in WAYS}  # type: ignore[call-overload]
    pairs = list(zip(*(first[way] for way in WAYS), strict=True))
    ends = list(zip(*(short[way] for way in WAYS), strict=True))
    return {
        "seeds with fewer, as many, more passes": [sum(test(a, b) for a, b in pairs) for test in TESTS],
        "seeds where the fit ended better, alike, worse": [
            sum(test(a, b) for a, b in ends)
            for test in (lambda a, b: a < b - 1, lambda a, b: abs(a - b) <= 1, lambda a, b: a > b + 1)
        ],
        "random starts that ended as high as the best": [
            sum(value <= 1 for row in rows for value in row["short of the best, random"]),  # type: ignore[attr-defined]
            sum(len(row["short of the best, random"]) for row in rows),  # type: ignore[arg-type]
        ],
    }


TESTS = (lambda a, b: a < b, lambda a, b: a == b, lambda a, b: a > b)


def quickest(passes: object) -> float:
    """Of the starts of one way, the least passes; infinite where none came near."""
    return min((p for p in passes if p is not None), default=math.inf)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
