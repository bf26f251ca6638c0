"""What the settings of a job mean: likelihood, solver, object, prior, and what memory allows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from unpicked import processes, whitening
from unpicked._lazy import torch
from unpicked.data.micrographs import Micrographs
from unpicked.estimators.acceleration import LBFGS, Acceleration, Anderson, Fisher, Relaxed, Squarem
from unpicked.estimators.em import random_start
from unpicked.estimators.maximisation import DENSE, SCORING_MEMORY, complete_information
from unpicked.model.conical import Conical
from unpicked.model.directions import Directions
from unpicked.model.gas import Gas, Window
from unpicked.model.likelihoods import Likelihood
from unpicked.model.model import Model
from unpicked.model.patches import Patches
from unpicked.model.placements import through_of, unfiltered
from unpicked.model.views import Directed, Projection
from unpicked.objects.ball import Ball
from unpicked.objects.ball_basis import largest_reach, radial_counts
from unpicked.objects.base import Object, Volume
from unpicked.objects.voxels import Voxels
from unpicked.ops import filters, rotation
from unpicked.priors import (
    Both,
    Denoiser,
    Flat,
    Positive,
    Prior,
    Ridge,
    Subspace,
    Support,
    Symmetric,
    Wilson,
    data_share,
    globular,
    learned,
    majorant,
    precision,
    response_share,
    wilson,
)
from unpicked.recipes.denoisers import denoiser
from unpicked.recipes.job import MicrographJob
from unpicked.recipes.known import Known
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


FIRST_VIEWS = 100  # of the first stage, if not given
FIRST_ANGLES = 36  # the same on a tilted grid
_VIEWS = 60  # that stand for all views
FAINT = 150.0  # energy per particle below which nearly all information is missing, and EM crawls


def check_solver(job: MicrographJob, object: Volume) -> None:
    """Refuse scoring where it cannot be had.

    Raises:
        ValueError: for an object with too many coefficients.
    """
    if job.solver == "fisher" and not _scores(job, object):
        raise ValueError(
            f"--solver fisher needs at most {DENSE} coefficients; got {object.size}; try --solver anderson"
        )


def solver(job: MicrographJob, object: Volume, known: Known, *, warm: int) -> Acceleration:
    """The solver asked for, or what suits particles of this energy; scoring after so many ``warm`` passes."""
    auto = "fisher" if _scores(job, object) and known.energy < FAINT else "anderson"
    found = SOLVERS[auto if job.solver == "auto" else job.solver]
    if isinstance(found, LBFGS):  # where the likelihood is exact, its steps tell what the observed curvature has wrong
        return replace(found, scored=LIKELIHOODS[job.likelihood](job.box).exact and _scores(job, object))
    return replace(found, warm=warm) if isinstance(found, Fisher) else found


def _scores(job: MicrographJob, object: Volume) -> bool:
    """Whether the observed information can be summed, and held."""
    return LIKELIHOODS[job.likelihood](job.box).scored and object.size <= DENSE


def weighed(job: MicrographJob, known: Known, *, final: bool) -> Literal["no", "all"]:
    """Whether a stage estimates how often directions are seen.

    Where single particles hardly tell their views, the last one only: before, a preference that is not there would be
    believed with the first wrong map, and would hold it (``benchmarks/view_distribution.py``).
    """
    return "all" if job.view_distribution == "estimated" and (final or known.energy >= FAINT) else "no"


def information(run: Reconstruction) -> torch.Tensor | None:
    """What the data say about the coefficients: as observed, else what they would with places and views known.

    ``(size, size)``; None for an object with too many coefficients.
    """
    if run.information is not None:
        return run.information
    object, view = run.model.object, run.model.view
    if object.size > DENSE or not run.history or not isinstance(view, Directed):
        return None
    copies = run.history[-1]["particles"] / run.model.noise.sigma**2
    return copies * complete_information(object, view, run.x, through_of(run.model.placement))


def share(run: Reconstruction) -> tuple[tuple[float, ...], Literal["precision", "response"]]:
    """Per Fourier shell what of a volume comes from the data, and of what it is a share; nothing without a prior.

    Of the precision, see :func:`unpicked.priors.data_share`, which needs an object of few coefficients; where there is
    a denoiser, of a change in what the data say, see :func:`unpicked.priors.response_share`.
    """
    object, x = run.model.object, run.x
    told = information(run)
    if isinstance(run.prior, Flat) or not run.history or len(object.shape) != 3:
        return (), "precision"
    if majorant(run.prior) is not run.prior:
        if told is None:
            return response_share(object, x, _with_places_known(run), run.prior, probes=8), "response"
        return response_share(object, x, told, run.prior), "response"
    if told is None:  # responses of so many coefficients take minutes
        return (), "precision"
    return data_share(object, told.cpu(), precision(run.prior, object, x).cpu()), "precision"


def _with_places_known(run: Reconstruction) -> Callable[[torch.Tensor], torch.Tensor]:
    """What multiplies coefficients by the information of data whose places and views are known, of any object."""
    through, like = through_of(run.model.placement), run.x.double()
    view = run.model.view
    operator = (view.spread(_VIEWS) if isinstance(view, Directed) else view).operator(run.model.object, like)
    copies = run.history[-1]["particles"] / run.model.noise.sigma**2 / _VIEWS

    def told(v: torch.Tensor) -> torch.Tensor:
        seen = operator.project(v)
        found: torch.Tensor = operator.backproject(seen if through is None else through.weighted(seen, through.mean))
        return copies * found

    return told


def learned_prior(run: Reconstruction, known: Known) -> Known:
    """``known`` with the Wilson prior that the data of a run suggest; without one where the run does not tell.

    What complete data would hold stands for what was observed where particles stand out of the noise.
    """
    x, object = run.x, run.model.object
    first, *others = run.prior.priors if isinstance(run.prior, Both) else (run.prior,)
    if not isinstance(first, Wilson):
        return known
    told = information(run) if run.information is not None or known.energy >= FAINT else None
    if told is None:
        return known
    # what else is believed counts as data; at the answer the gradients of all the data and of the prior cancel
    told = told + sum(precision(other, object, x).to(x) for other in others)
    pull = told @ x + torch.func.grad(lambda y: first.energy(y, object))(x)
    return replace(known, wilson=learned(first, object, told, pull))


def belief_note(begun: Reconstruction, ended: Reconstruction) -> tuple[str, ...]:
    """The last stage's prior in words, beside that of the first."""
    (first, *_), (prior, *others) = _members(begun.prior), _members(ended.prior)
    said = []
    if isinstance(prior, Wilson) and isinstance(first, Wilson):
        told = (prior.radius, prior.correlation) != (first.radius, first.correlation)
        said.append(
            f"prior: a molecule with an envelope of {prior.radius:.2f} voxels (standard deviation) and density "
            f"correlated over {prior.correlation:.2f} voxels, {'as the data suggest' if told else 'assumed'}"
        )
    said += [
        f"prior: a conformation of {len(one.volumes)} given structures, at any height, but for an error "
        "(--structures-error); what they have in common can show in the map without being in the data"
        for one in (prior, *others)
        if isinstance(one, Subspace)
    ]
    said += [
        f"prior: the denoiser {one.name}, for noise of {1 / one.scale / one.strength**0.5:.3g} of the molecule's "
        "typical grey value; what it was made from can show in the map"
        for one in (prior, *others)
        if isinstance(one, Denoiser)
    ]
    return tuple(said)


def _members(prior: Prior) -> tuple[Prior, ...]:
    return prior.priors if isinstance(prior, Both) else (prior,)


def signal_spectra(run: Reconstruction, data: Micrographs) -> list[tuple[float, ...]]:
    """What the particles of a run add to the power of every micrograph, ring by ring as ``whitening.spectrum``."""
    model, through = run.model, through_of(run.model.placement)
    templates = model.templates(run.x)
    images = templates if through is None else through.images(templates)
    rate = model.placement.density / model.side**2
    side = whitening.tile(data.shape)
    more = -(-model.side // side)  # a tile may be smaller than an image: every so many of its frequencies
    power = torch.fft.rfft2(images, s=(side * more,) * 2).abs().square()
    power = averaged(power, model).cpu().double() * rate
    power = power[::more, : side * more // 2 + 1 : more]
    optics = data.optics
    if optics is None:
        return [whitening.rings(power)] * len(data)
    fx, fy = filters.half_plane((side, side))
    firsts = {group: item for item, group in reversed(list(enumerate(optics.group)))}
    shown = {
        group: whitening.rings(power * optics.values(fx / data.pixel_size, fy / data.pixel_size, [item])[0].square())
        for group, item in firsts.items()
    }
    return [shown[group] for group in optics.group]


def seen(run: Reconstruction) -> Directions | None:
    """The density of directions of view, where it was estimated."""
    return run.model.view.seen if isinstance(run.model.view, Projection) else None


def averaged(values: torch.Tensor, model: Model) -> torch.Tensor:
    """Mean over templates ``(k, ...)``, weighted where views are not equally likely."""
    if isinstance(model.view, Projection) and model.view.seen is None:
        return values.mean(0)
    return torch.tensordot(model.log_weights.exp().to(values), values, 1)


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


def fitted(object: Object, values: torch.Tensor) -> torch.Tensor:
    """Coefficients of a map ``(box, box, box)`` that no coefficients made.

    The functions of the largest ball lie partly outside the box, which hardly determines what of them such a map holds:
    it is fitted in the ball of the first stages.
    """
    if isinstance(object, Ball) and (object.reach or 0) > ball_reach(object.box):
        inner = replace(object, reach=ball_reach(object.box))
        values = inner.values(inner.fit(values))
    return object.fit(values)


def marched(job: MicrographJob, object: Volume, stage: int, known: Known) -> Volume:
    """The object of a stage: no more than its largest degree, and in the last a larger ball if the data tell enough.

    A large ball holds what fills the box to its corners, but random starts in it, and faint data, go astray.
    """
    if not isinstance(object, Ball):
        return object
    if job.march:
        object = replace(object, lmax=min(object.lmax, job.march[stage]))
    last = job.stages - 1
    return replace(object, reach=largest_reach(job.box)) if 0 < stage == last and known.energy >= FAINT else object


def views(job: MicrographJob, stage: int, known: Known) -> int:
    """Number of views of a stage.

    Where single particles tell their views exactly, a coarse set blurs the map as if each were seen from the nearest
    one.
    """
    if job.views:
        return job.views[stage]
    fine = 0 < stage == job.stages - 1 and known.energy >= FAINT
    return _usual(job, stage + fine)


def _usual(job: MicrographJob, finer: int) -> int:
    """Views of the first stage, and of ``finer`` ones, at half the distance each: in three dimensions, or on a cone."""
    return FIRST_VIEWS * 4**finer if job.tilt is None else FIRST_ANGLES * 2**finer


def view(job: MicrographJob, count: int, device: str, seen: Directions | None = None) -> Directed:
    """So many views: all sides, by a density of directions where there is one, or those of a tilted grid."""
    if job.tilt is not None:
        return Conical(job.tilt, count, job.tilt_axis, device=device)
    return Projection(rotation.super_fibonacci(count).to(device), seen)


def prior(job: MicrographJob, object: Volume, model: Model, known: Known, given: Prior | None = None) -> Prior:
    """What the job believes; a Wilson prior that was learned before takes the place of the first guess.

    ``given`` is the belief in --structures, which takes the place of both.
    """
    beliefs: list[Prior] = []
    power = known.power
    if given is not None:
        beliefs.append(given)
    elif job.prior == "wilson":
        first = wilson(object, power)  # rounded: sums differ in the last digit with the number of threads
        beliefs.append(known.wilson or replace(first, variance=float(f"{first.variance:.9g}")))
    elif job.prior == "shells":
        beliefs.append(globular(job.box, power))
    elif job.prior == "ridge":
        # the mean square of typical coefficients, the same in every run whatever its seed; power is that of projections
        plain = replace(model, placement=unfiltered(model.placement))
        square = sum(float(random_start(plain, power, seed).square().mean()) for seed in range(8)) / 8
        beliefs.append(Ridge(square))
    typical = math.sqrt(power / (job.box * 0.4 * job.box) ** 2)  # grey value of a molecule 0.4 boxes thick
    if not job.signed and known.energy < FAINT:
        beliefs.append(Positive(0.1 * typical))
    if job.support is not None:
        beliefs.append(Support(job.support, 0.1 * typical))
    if job.symmetry.upper() != "C1":
        beliefs.append(Symmetric(job.symmetry, 0.02 * typical))
    if job.denoiser:
        strength = (job.denoiser_noise * typical) ** -2
        beliefs.append(Denoiser(denoiser(job.denoiser), strength, scale=typical, name=job.denoiser))
    if not beliefs:
        return Flat()
    return beliefs[0] if len(beliefs) == 1 else Both(tuple(beliefs))


def affordable(job: MicrographJob, object: Volume, *, filtered: bool = False) -> tuple[tuple[int, ...], list[str]]:
    """As many views as fit into half of the free memory: statistics, templates and their work space per view.

    Where the solver may take scores, their work space is set aside first. Where micrographs are ``filtered``, templates
    are held by their coefficients, five times as many as their pixels. Processes on one machine share its memory, and
    all take as many views as fit on each of them.
    """
    views = job.views or tuple(_usual(job, stage) for stage in range(job.stages))
    free = min(processes.gathered(free_memory() / processes.here()))
    scored = job.solver in ("auto", "fisher") and _scores(job, object)
    room = max(0.0, free / 2 - (SCORING_MEMORY if scored else 0))
    wanted = max(views) * (1 if job.views else 4)
    most = max(16, int(room / (64 * (5 if filtered else 1) * job.box**2 * job.subpixel**2))) if free else wanted
    if wanted <= most:
        return job.views, []
    cut = tuple(min(count, most) for count in views)
    return cut, [f"views lowered to {cut}: {free / 1e9:.1f} GB of memory are free"]


def free_memory() -> float:
    """Free bytes, 0 where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    return 0.0
