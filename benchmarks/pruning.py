"""The cost of a pass with pixels that see all views, and with the screen: seconds, and whether the answer is the same.

The 4AKE dimer at 1 um and 50 e/A^2 in simulated 4k exposures (`unpicked reproduce small-protein --full`), 13 working
voxels of 8 A, through contrast transfer, whitened as a run's stages after the first do: by what a micrograph holds
beside the particles. A pass is that of the last stages: 1600 views, E-step with statistics, one thread, from the true
map and from a random one; what it takes once (templates, representatives) counts once in a pass of 20 micrographs.
Every sixth pass also sums the information (scores of tiles, ``Fisher``); it is timed beside it.
Then the same dimer at known energies in white noise without contrast transfer: the fainter, the less can be left out.

Counts for 512 x 512 working pixels: 1600 inner products of 169 pixels each are 1.42e11 flops, 2.0 s at 70 GFLOP/s; the
statistics of all pixels compute them again and add as many for the weighted windows: 4.1 s more. 256 views take 0.32 s,
5 % of the pixels with all views 0.1 s, and the statistics of the hundredth that carries weight 0.04 s.

Equal: one M-step from either statistics, judged by patches of twice the box's side and 64 views; and how far
numerators, counts and copies are apart (relative norms); both beside how far two seeds of the sampler are.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from common import save
from unpicked import whitening
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.snr import energy
from unpicked.estimators.acceleration import Fisher
from unpicked.estimators.base import Batch, State, judge
from unpicked.estimators.em import EM, random_start
from unpicked.experiments.recovery import shared
from unpicked.experiments.small_protein import DIMER, SmallProtein
from unpicked.io.structure import read_structure
from unpicked.model.gas import Gas, Screen
from unpicked.model.likelihoods import Stats
from unpicked.model.model import Model
from unpicked.model.views import Projection
from unpicked.ops import rotation
from unpicked.picking import fit_scale
from unpicked.priors import Prior
from unpicked.recipes import MicrographJob, parts, ready
from unpicked.recipes.known import Known
from unpicked.recipes.micrographs import fixed
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.specimens import specimen_from_structure

EXPERIMENT = SmallProtein(pixel=1.0, size=4096, count=20)
MANY = EXPERIMENT.count
PROTEIN, OPTICS = EXPERIMENT.proteins[0], EXPERIMENT.optics[0]


@dataclass(frozen=True, eq=False)
class World:
    """Whitened micrographs, a model of them, and maps to start a pass from."""

    data: Micrographs
    model: Model
    prior: Prior
    starts: dict[str, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micrographs", type=int, default=1, help="of 4096 x 4096 pixels")
    parser.add_argument("--views", type=int, default=1600)
    parser.add_argument("--energies", type=float, nargs="*", default=[30.0, 12.0])
    parser.add_argument("--repeats", type=int, default=2, help="of which the least time is told")
    parser.add_argument("--cache", type=Path, default=None, help="file for the simulated exposures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, object] = {"box, views": [PROTEIN.box, options.views]}
    with torch.no_grad():
        for name, data in cases(options):
            here = world(data, options.views)
            for start, x in here.starts.items():
                found = compared(here, x, options.repeats, informed=here.data.optics is not None)
                figures[f"{name}, {start}"] = found
                print(name, start, found, flush=True)
    save("pruning", figures)


def cases(options: argparse.Namespace) -> list[tuple[str, Micrographs]]:
    """Exposures of the dimer, and images of it at other energies."""
    path = shared(DIMER)
    if path is None:
        raise SystemExit(f"no file {DIMER}; set UNPICKED_SHARED")
    structure, count = read_structure(path), options.micrographs
    data, _ = replace(EXPERIMENT, count=count).simulate(PROTEIN, structure, OPTICS, 0)
    if options.cache is not None and options.cache.exists():
        images = torch.load(options.cache)[:count]
    else:
        images = torch.stack([data[index] for index in range(count)])
        if options.cache is not None:
            torch.save(images, options.cache)
    found = [("4AKE dimer, exposures", replace(data, source=InMemory(images)))]
    specimen = specimen_from_structure(structure, PROTEIN.box, EXPERIMENT.voxel, b_factor=EXPERIMENT.b_factor)
    side = round(EXPERIMENT.size * EXPERIMENT.pixel / EXPERIMENT.voxel)
    for level in options.energies:
        plain, _ = simulate_micrographs(
            specimen, count=count, size=(side, side), density=EXPERIMENT.density, noise=energy(level), seed=1
        )
        found.append((f"E = {level:g}", plain))
    return found


def world(data: Micrographs, views: int) -> World:
    """Scale, noise, density and whitening at the true map, as a converged run has them."""
    structure = read_structure(shared(DIMER) or Path())
    truth = specimen_from_structure(structure, PROTEIN.box, EXPERIMENT.voxel, b_factor=EXPERIMENT.b_factor).truth()
    job = MicrographJob(box=PROTEIN.box, voxel=EXPERIMENT.voxel)
    prepared = ready(data, job)
    whole = prepared.micrographs
    working = fixed(prepared, job).micrographs
    run = fit_scale(working, truth)
    if working.gains is not None:
        spectra = [whitening.spectrum(image) for image in whole]
        working = fixed(prepared, job, whitening.gains(spectra, parts.signal_spectra(run, whole))).micrographs
        run = fit_scale(working, truth)
    object, _ = parts.volume(job)
    model = replace(run.model, object=object, view=Projection(rotation.super_fibonacci(views))).measured(working)
    true = object.fit(run.model.object.values(run.x))
    power = float(model.templates(true).square().sum((-2, -1)).mean())
    shown = float(model.placement.powers(model.templates(true)).mean())
    prior = parts.prior(job, object, model, Known(power, shown / model.noise.sigma**2))
    return World(working, model, prior, {"true map": true, "random map": random_start(model, shown, 7)})


def compared(here: World, x: torch.Tensor, repeats: int, *, informed: bool) -> dict[str, object]:
    """A pass without and with the screen."""
    screens = (Gas().screen, None)
    step(here, screens[0], x, 1)  # compiles, and fills what is kept
    (pruned, fewer), (whole, seconds) = (step(here, screen, x, repeats) for screen in screens)
    again, _ = step(here, None, x, 1, seed=1)
    judged = [judged_after(here, x, stats) for stats in (whole, pruned, again)]
    powers = here.model.placement.powers(here.model.templates(x)) / here.model.noise.sigma**2
    once = [step(here, screen, x, repeats, few=True)[1] for screen in screens]
    many = [once[0] + (fewer - once[0]) * MANY / len(here.data), once[1] + (seconds - once[1]) * MANY / len(here.data)]
    found: dict[str, object] = {
        "E": round(float(powers.mean()), 1),
        "seconds": [round(seconds, 3), round(fewer, 3)],
        "of which once": [round(once[1], 3), round(once[0], 3)],
        "ratio": round(seconds / fewer, 2),
        f"ratio of a pass of {MANY} micrographs": round(many[1] / many[0], 2),
    }
    if informed:
        step(here, screens[0], x, 1, informed=True)
        told, all = (step(here, screen, x, 1, informed=True)[1] for screen in screens)
        found["seconds with information"] = [round(all, 3), round(told, 3)]
        found["ratio of six passes, one with information"] = round((5 * seconds + all) / (5 * fewer + told), 2)
    return found | {
        "pixels that meet all views": round(share(here, screens[0], x), 4),
        "judge after an M-step": [round(value, 3) for value in judged[:2]],
        "difference": round(judged[1] - judged[0], 3),
        "difference of two seeds": round(judged[2] - judged[0], 3),
        "statistics, relative": apart(pruned, whole),
        "statistics of two seeds, relative": apart(again, whole),
    }


def step(
    here: World, screen: Screen | None, x: torch.Tensor, repeats: int, *, seed: int = 0, informed: bool = False,
    few: bool = False,
) -> tuple[Stats, float]:  # fmt: skip
    """Statistics of all micrographs (of none, if ``few``), and the least CPU seconds of some passes."""
    model, estimator = replace(here.model, placement=gas(here.model, screen)), solver(informed)
    state = estimator.init(here.data, model, x, 0) | {"seed": torch.tensor(seed)}
    times = []
    for _ in range(repeats):
        began = time.process_time()
        batch = Batch(here.data, [] if few else range(len(here.data)))
        stats = estimator.accumulate(estimator.current(model, state), batch, state)
        times.append(time.process_time() - began)
    return stats, min(times)


def solver(informed: bool = False) -> EM:
    """One pass on frozen views; with the information that scoring asks for now and then."""
    return EM(iterations=1, frozen=1, acceleration=Fisher(warm=0)) if informed else EM(iterations=1, frozen=1)


def gas(model: Model, screen: Screen | None) -> object:
    """The placement with another screen."""
    return replace(model.placement, likelihood=Gas(screen=screen))


def judged_after(here: World, x: torch.Tensor, stats: Stats) -> float:
    """Log-likelihood of the map after one M-step."""
    estimator = solver()
    state: State = estimator.init(here.data, here.model, x, 0)
    new = estimator.update(estimator.current(here.model, state).measured(here.data), state, stats, here.prior)
    model = replace(here.model, view=Projection(rotation.super_fibonacci(64)))
    return float(judge(Batch(here.data, range(len(here.data))), model, new["x"]))


def apart(one: Stats, other: Stats) -> dict[str, float]:
    """Relative differences of the sums that an M-step takes."""
    found = {}
    for name in ("numerator", "views", "occupied", "free"):
        distance = float((one[name] - other[name]).norm() / other[name].norm())
        found[name] = float(f"{distance:.2g}") if math.isfinite(distance) else math.inf
    return found


def share(here: World, screen: Screen | None, x: torch.Tensor) -> float:
    """Part of the pixels of the first micrograph that meet all views."""
    model = replace(here.model, placement=gas(here.model, screen)).measured(here.data)
    sums = model.placement.step(model.templates(x).float(), model.log_weights, model.noise)
    sums.add(here.data[0], 0, 0)
    return float(sums.met) / float(sums.stats["windows"])


if __name__ == "__main__":
    main()
