"""What the settings of a job mean: likelihood, solver, object, prior, and what memory allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from unpicked._lazy import torch
from unpicked.estimators.acceleration import LBFGS, Acceleration, Anderson, Fisher, Relaxed, Squarem
from unpicked.estimators.em import random_start
from unpicked.estimators.maximisation import DENSE
from unpicked.model.gas import Gas, Window
from unpicked.model.likelihoods import Likelihood
from unpicked.model.model import Model
from unpicked.model.patches import Patches
from unpicked.objects.ball import Ball, largest_reach, radial_counts
from unpicked.objects.base import Volume
from unpicked.objects.voxels import Voxels
from unpicked.priors import (
    Both,
    Flat,
    Positive,
    Prior,
    Ridge,
    Support,
    Symmetric,
    Wilson,
    globular,
    learned,
    precision,
    wilson,
)
from unpicked.recipes.job import MicrographJob
from unpicked.reconstruct import Reconstruction

LIKELIHOODS: dict[str, Callable[[int], Likelihood]] = {
    "gas": lambda box: Gas(),
    "window": lambda box: Window(),
    "patches": lambda box: Patches(),
    "patches-2l": lambda box: Patches(side=2 * box),
}
SOLVERS: dict[str, Acceleration] = {
    "em": Relaxed(),
    "squarem": Squarem(),
    "anderson": Anderson(),
    "lbfgs": LBFGS(),
    "fisher": Fisher(),
}


_FAINT = 150.0  # energy per particle below which nearly all information is missing, and EM crawls


def check_solver(job: MicrographJob, object: Volume) -> None:
    """Refuse scoring where it cannot be had.

    Raises:
        ValueError: for a likelihood without scores of parts, or an object with too many coefficients.
    """
    if job.solver == "fisher" and not _scores(job, object):
        raise ValueError(
            f"--solver fisher needs --likelihood gas or window and at most {DENSE} coefficients; "
            f"got {job.likelihood} and {object.size}; try --solver anderson"
        )


def solver(job: MicrographJob, object: Volume, energy: float) -> Acceleration:
    """The solver asked for, or what suits particles of this energy."""
    if job.solver == "auto":
        return SOLVERS["fisher" if _scores(job, object) and energy < _FAINT else "anderson"]
    return SOLVERS[job.solver]


def _scores(job: MicrographJob, object: Volume) -> bool:
    """Whether the observed information can be summed, and held."""
    return LIKELIHOODS[job.likelihood](job.box).scored and object.size <= DENSE


def learned_prior(run: Reconstruction) -> Wilson | None:
    """The Wilson prior that the data of a run suggest, None where nothing is to be learned or the run does not tell."""
    x, object = run.x, run.model.object
    first, *others = run.prior.priors if isinstance(run.prior, Both) else (run.prior,)
    if run.information is None or not isinstance(first, Wilson):
        return None
    # what else is believed counts as data; at the answer the gradients of all the data and of the prior cancel
    information = run.information + sum(precision(other, object, x).to(x) for other in others)
    pull = information @ x + torch.func.grad(lambda y: first.energy(y, object))(x)
    return learned(first, object, information, pull)


def belief_note(runs: Sequence[Reconstruction]) -> tuple[str, ...]:
    """The last stage's prior in words."""
    prior = runs[-1].prior
    prior = prior.priors[0] if isinstance(prior, Both) else prior
    if not isinstance(prior, Wilson):
        return ()
    told = any(run.information is not None for run in runs[:-1])
    return (
        f"prior: a molecule with an envelope of {prior.radius:.2f} voxels (standard deviation) and density correlated "
        f"over {prior.correlation:.2f} voxels, {'as the data suggest' if told else 'assumed'}",
    )


def ball_reach(box: int) -> float:
    """Radius in voxels up to which a job's ball is complete: the published one and 1.5 more, in a box of 4 only 1."""
    return min(box // 2 + 1.5, largest_reach(box))


def volume(job: MicrographJob) -> tuple[Volume, list[str]]:
    """The object, and a sentence where it is smaller than asked for."""
    if job.object == "voxels":
        return Voxels(job.box), []
    reach = ball_reach(job.box)
    best = max(degree for degree, count in enumerate(radial_counts(job.box, job.lmax, reach)) if count)
    if best < job.lmax:
        note = f"lmax lowered from {job.lmax} to {best}: a box of {job.box} voxels cannot hold more"
        return Ball(job.box, best, reach), [note]
    return Ball(job.box, job.lmax, reach), []


def marched(job: MicrographJob, object: Volume, stage: int) -> Volume:
    """The object of a stage: the same with no more than its largest degree."""
    if not job.march or not isinstance(object, Ball):
        return object
    return replace(object, lmax=min(object.lmax, job.march[stage]))


def prior(job: MicrographJob, object: Volume, model: Model, power: float, belief: Wilson | None = None) -> Prior:
    """What the job believes; ``belief`` is the Wilson prior that was learned before."""
    beliefs: list[Prior] = []
    if job.prior == "wilson":
        beliefs.append(belief or wilson(object, power))
    elif job.prior == "shells":
        beliefs.append(globular(job.box, power))
    elif job.prior == "ridge":
        # the mean square of typical coefficients, the same in every run whatever its seed
        square = sum(float(random_start(model, power, seed).square().mean()) for seed in range(8)) / 8
        beliefs.append(Ridge(square))
    typical = math.sqrt(power / (job.box * 0.4 * job.box) ** 2)  # grey value of a molecule 0.4 boxes thick
    if not job.signed:
        beliefs.append(Positive(0.1 * typical))
    if job.support is not None:
        beliefs.append(Support(job.support, 0.1 * typical))
    if job.symmetry.upper() != "C1":
        beliefs.append(Symmetric(job.symmetry, 0.02 * typical))
    if not beliefs:
        return Flat()
    return beliefs[0] if len(beliefs) == 1 else Both(tuple(beliefs))


def affordable(views: tuple[int, ...], pixels: int) -> tuple[tuple[int, ...], list[str]]:
    """As many views as fit into half of the free memory: statistics, templates and their work space per view."""
    free = free_memory()
    most = max(16, int(free / 2 / (64 * pixels))) if free else max(views)
    if max(views) <= most:
        return views, []
    cut = tuple(min(count, most) for count in views)
    return cut, [f"views lowered from {views} to {cut}: {free / 1e9:.1f} GB of memory are free"]


def free_memory() -> float:
    """Free bytes, 0 where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    return 0.0
