"""The main jobs, as short readable functions from files to an answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.micrographs import Micrographs
from unpicked.estimators.acceleration import LBFGS, Acceleration, Anderson, Fisher, Relaxed, Squarem
from unpicked.estimators.em import EM, random_start, signal_power
from unpicked.estimators.maximisation import DENSE, uniform_information
from unpicked.evaluate.halves import Halves, halves
from unpicked.model.gas import Gas, Window, best_sites
from unpicked.model.likelihoods import Likelihood
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.patches import Patches
from unpicked.model.placements import Anywhere
from unpicked.model.views import Projection
from unpicked.objects.ball import Ball, largest_reach, radial_counts
from unpicked.objects.base import Volume
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation, seeding
from unpicked.preprocess import Prepared, prepare
from unpicked.priors import (
    Both,
    Flat,
    Positive,
    Prior,
    Ridge,
    Support,
    Symmetric,
    Wilson,
    data_share,
    globular,
    group,
    learned,
    precision,
    wilson,
)
from unpicked.reconstruct import Reconstruction, Report, reconstruct

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


@dataclass(frozen=True)
class MicrographJob:
    """How to reconstruct a volume from micrographs; the flags of ``unpicked reconstruct micrographs``.

    The views are refined in stages: few of them for the random starts, more for the best one.
    """

    box: int
    """Edge of the particle's box in working voxels: about 1.2 diameters of the particle."""
    voxel: float | None = None
    """Working voxel size in angstrom; the pixel size of the data if not given."""
    object: Literal["ball", "voxels"] = "ball"
    """How the volume is described: spherical-Bessel expansion, or voxels."""
    lmax: int = 10
    """Largest angular degree of the ball; lowered to what the box can hold."""
    march: tuple[int, ...] = ()
    """Largest degree in each stage, rising to --lmax: coarse structure first. All stages take --lmax if not given."""
    method: Literal["em"] = "em"
    """Estimator."""
    likelihood: Literal["gas", "window", "patches", "patches-2l"] = "gas"
    """How the sum over all places is done: lattice gas of the whole micrograph, the same to first order, or
    independent patches of the box's side (as published) or of twice that."""
    spacing: Literal["separated", "arbitrary"] = "separated"
    """Least distance of two particles: 2 box - 1 pixels, or box pixels."""
    subpixel: Literal[1, 2] = 1
    """Positions per pixel and axis."""
    starts: int = 4
    """Random starts; the most likely one is refined."""
    views: tuple[int, ...] = (100, 400, 1600)
    """Number of views in each stage."""
    iterations: tuple[int, ...] = (12, 8, 12)
    """Passes over the data in each stage, at most."""
    solver: Literal["auto", "fisher", "em", "squarem", "anderson", "lbfgs"] = "auto"
    """Steps, all from EM's statistics: scoring by the observed information (fisher), or EM until the last stage's
    frozen views and there one of the others. auto: fisher where single particles hardly stand out of the noise,
    anderson elsewhere."""
    prior: Literal["wilson", "shells", "ridge", "none"] = "wilson"
    """Belief about the volume: a compact molecule of random density (Wilson statistics), whose size, smoothness and
    strength are learned from the data after every stage; a spectrum of compact molecules; one variance for all
    coefficients; or none."""
    signed: bool = False
    """Density may have either sign; believed to be hardly negative if not given."""
    support: float | None = None
    """Believe also that there is no density beyond this radius, in working voxels."""
    symmetry: str = "C1"
    """Believe also in a point group, Cn or Dn, about the z axis."""
    sigma: float | None = None
    """Standard deviation of the noise in the grey values of the data; estimated if not given."""
    density: float | None = None
    """Fraction of the micrographs' area that boxes of particles cover; estimated if not given."""
    moves: int = 1
    """Rounds of recentre moves tried on the answer of the first stage."""
    held_out: int = 0
    """So many micrographs are kept apart to choose between starts and to stop before over-fitting."""
    halves: bool = False
    """Solve two halves of the data as well, from starts of their own, and compare them."""

    def __post_init__(self) -> None:
        if self.box < 4:
            raise ValueError(f"--box must be at least 4 voxels; got {self.box}")
        if self.voxel is not None and not (math.isfinite(self.voxel) and self.voxel > 0):
            raise ValueError(f"--voxel must be positive, in angstrom; got {self.voxel}")
        if len(self.views) != len(self.iterations) or not self.views:
            raise ValueError(
                "--views and --iterations must have one number per stage; "
                f"got {len(self.views)} and {len(self.iterations)}"
            )
        if min(self.views) < 1 or min(self.iterations) < 1:
            raise ValueError(f"--views and --iterations must be positive; got {self.views} and {self.iterations}")
        if self.moves < 0:
            raise ValueError(f"--moves must not be negative; got {self.moves}")
        if self.starts < 1:
            raise ValueError(f"--starts must be at least 1; got {self.starts}")
        if self.lmax < 0:
            raise ValueError(f"--lmax must not be negative; got {self.lmax}")
        if self.sigma is not None and not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(f"--sigma must be positive; got {self.sigma}")
        if self.march and (len(self.march) != len(self.views) or min(self.march) < 0):
            raise ValueError(f"--march must have one degree per stage, {len(self.views)}; got {self.march}")
        if self.held_out < 0:
            raise ValueError(f"--held-out must not be negative; got {self.held_out}")
        if self.support is not None and not self.support > 0:
            raise ValueError(f"--support must be positive, in working voxels; got {self.support}")
        try:
            group(self.symmetry)
        except ValueError as error:
            raise ValueError(f"--symmetry: {error}") from error
        apart = 2 * self.box - 1 if self.spacing == "separated" else self.box
        patch = {"patches": 2 * self.box - 1, "patches-2l": 3 * self.box - 1}.get(self.likelihood, 0)
        limit = (self.box / max(apart, patch)) ** 2  # where particles would touch, or no patch would be empty
        if self.density is not None and not 0 < self.density < limit:
            raise ValueError(
                f"--density must lie between 0 and {limit:.3f} for {self.spacing} particles in a box of {self.box} "
                f"(likelihood {self.likelihood}); got {self.density}"
            )


@dataclass(frozen=True, eq=False)
class MicrographAnswer:
    """What came of a :class:`MicrographJob`.

    Attributes:
        map: the volume in the grey values of the data (a projection is a sum over voxels), matter bright.
        last: the last stage's run.
        stages: all stages' runs, with those of the halves, by name.
        prepared: the data as the estimator saw them.
        sigma: noise per working pixel, in the grey values of the data.
        notes: sentences: read, converted, assumed, tried, found.
        data_share: per Fourier shell, the share of what is known that comes from the data; at most that where the
            solver took no information.
        halves: the two half maps, the second aligned to the first, and what comparing them gave.
        gallery: the likeliest particles beside the projections that explain them.
    """

    map: Map
    last: Reconstruction
    stages: dict[str, Reconstruction]
    prepared: Prepared
    sigma: float
    notes: tuple[str, ...]
    data_share: tuple[float, ...] = ()
    halves: tuple[Map, Map, Halves] | None = None
    gallery: dict[str, torch.Tensor] | None = None

    def figures(self) -> dict[str, Any]:
        """The figures of ``result.json``."""
        row = self.last.history[-1] if self.last.history else {}
        names = ("log_likelihood", "objective", "judge", "energy", "density", "particles")
        out: dict[str, Any] = {name: row[name] for name in names if name in row}
        out.setdefault(
            "log_likelihood", row.get("judge", math.nan)
        )  # of patches, against noise, less the prior's energy
        out |= {"sigma": self.sigma, "snr_box": row.get("energy", math.nan) / self.map.box**2}
        if self.data_share:
            out["data_share"] = list(self.data_share)
            out["data_share_observed"] = self.last.information is not None
        if self.halves is not None:
            out["halves"] = self.halves[2].to_json()
        return out


def ready(data: Micrographs, job: MicrographJob, start: Map | None = None) -> Prepared:
    """Prepare micrographs for a job, and find whatever is wrong with them before anything else is done.

    Every micrograph is read once; those that fit in memory are kept.

    Raises:
        ValueError: for damaged, constant or not finite micrographs, a box or voxel that does not fit them, or a start
            map of another size or voxel.
    """
    prepared = prepare(data, voxel_size=job.voxel, normalise=job.sigma is None)
    working = prepared.micrographs
    if min(working.shape) < job.box:
        raise ValueError(
            f"--box {job.box} does not fit micrographs of {_by(working.shape)} working pixels; "
            "try a smaller box or a finer --voxel"
        )
    if start is not None and (start.box != job.box or abs(start.voxel_size / working.pixel_size - 1) > 0.01):
        raise ValueError(
            f"--start must be a map of {job.box} voxels of {working.pixel_size:.4g} A; "
            f"got {start.box} of {start.voxel_size:.4g} A; rescale it first"
        )
    least = max(1, len(data) // 2) if job.halves else len(data)
    if job.held_out >= least:
        raise ValueError(f"--held-out must leave a micrograph to fit; got {job.held_out} of {least}")
    if not prepared.scale > 0:
        raise ValueError("the micrographs hold no noise: their robust standard deviation is 0")
    return prepared


def from_micrographs(
    data: Micrographs | Prepared,
    job: MicrographJob,
    *,
    seed: int = 0,
    start: Map | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    report: Report | None = None,
) -> MicrographAnswer:
    """A volume straight from micrographs, without particle picking.

    Args:
        data: micrographs as read, or made :func:`ready`.
        job: what to do.
        seed: of everything random.
        start: map to start from; None means random starts.
        checkpoint: folder for the state of every stage.
        resume: go on from that folder.
        device: torch device of the computation.
        report: called after every pass with the sub-run's name and its figures.

    Raises:
        ValueError: for settings that do not fit the data.
    """
    prepared = data if isinstance(data, Prepared) else ready(data, job, start)
    # the Fourier crop keeps coefficients: undo its factor, so that the volume has the grey values of the files
    grey = prepared.scale / prepared.source.grid.ratio**2
    object, notes = _object(job)
    x = None if start is None else object.fit(start.values.double() / grey)
    whole = prepared.micrographs
    views, note = _affordable(job.views, job.box * job.box * job.subpixel**2)
    solve = partial(_solve, job=replace(job, views=views), object=object, device=device, resume=resume, report=report)
    runs = solve(whole, seed=seed, start=x, checkpoint=checkpoint)
    stages = list(runs.values())
    last = stages[-1]
    halved = None
    if job.halves:
        maps = []
        for number, half in enumerate(whole.split(), 1):
            own = seeding.derive(seed, "half", number)
            place = None if checkpoint is None else checkpoint / f"half-{number}"
            found = solve(half, seed=own, start=x, checkpoint=place, name=f"half-{number} ")
            maps.append(_grey(list(found.values())[-1], grey))
            runs |= found
        compared, second = halves(maps[0], maps[1], shared_start=start is not None)
        halved = (maps[0], second, compared)
    return MicrographAnswer(
        map=_grey(last, grey),
        last=last,
        stages=runs,
        prepared=prepared,
        sigma=last.model.noise.sigma * prepared.scale,
        notes=(
            *prepared.notes,
            *_optics_note(whole),
            *notes,
            *note,
            *_belief_note(stages),
            *(f"{name}: {note}" for name, run in runs.items() for note in run.notes),
        ),
        data_share=_data_share(last),
        halves=halved,
        gallery=_gallery(last, whole[0], seed),
    )


def _solve(
    data: Micrographs,
    *,
    job: MicrographJob,
    object: Volume,
    seed: int,
    start: torch.Tensor | None,
    checkpoint: Path | None,
    device: str,
    resume: bool,
    report: Report | None,
    name: str = "",
) -> dict[str, Reconstruction]:
    """All stages on one set of micrographs."""
    model = Model(
        object,
        Projection(rotation.super_fibonacci(job.views[0]).to(device)),
        Anywhere(job.density or 0.1, LIKELIHOODS[job.likelihood](job.box), job.spacing, job.subpixel),
        noise=White(job.sigma or 1.0),
    )
    held = None
    if job.held_out:
        held = data.part(range(len(data) - job.held_out, len(data)))
        data = data.part(range(len(data) - job.held_out))
    power, belief = signal_power(data, model), None
    solver = _solver(job, object, power / model.noise.sigma**2)
    runs: dict[str, Reconstruction] = {}
    for stage, (views, iterations) in enumerate(zip(job.views, job.iterations, strict=True)):
        coarse = _marched(job, object, stage)
        if start is not None and coarse != model.object:
            start = coarse.fit(model.object.values(start))
        model = replace(model, object=coarse)
        prior = _prior(job, coarse, model, power, belief)
        title = f"{name.replace('-', ' ')}stage {stage + 1} of {len(job.views)}"
        final = stage == len(job.views) - 1
        run = reconstruct(
            data,
            replace(model, view=Projection(rotation.super_fibonacci(views).to(device))),
            EM(
                iterations=iterations,
                frozen=min(iterations, max(4, iterations // 2)) if final or job.likelihood.startswith("patches") else 0,
                estimate_sigma=job.sigma is None,
                estimate_density=job.density is None,
                relaxation=1.6,
                acceleration=solver if final or solver.turning else Relaxed(),
                tolerance=0.5,
                solver_tolerance=1e-6,
            ),
            prior=prior,
            seed=seed,
            start=start,
            starts=job.starts,
            moves=job.moves if stage == 0 else 0,
            checkpoint=None if checkpoint is None else checkpoint / f"stage-{stage}",
            resume=resume,
            report=None if report is None else _named(report, title, iterations),
            held=held,
            check=5 if held is not None else 0,
        )
        runs[f"{name}stage-{stage}"] = run
        start, model = run.x, run.model
        # the power of the data is a guess where noise drowns it; that of the answer is well determined
        power = float(model.templates(start).square().sum((-2, -1)).mean())
        belief = _learned(run) or belief
        if isinstance(solver, Fisher):
            solver = replace(solver, warm=0)
    return runs


_FAINT = 150.0  # energy per particle below which nearly all information is missing, and EM crawls


def _solver(job: MicrographJob, object: Volume, energy: float) -> Acceleration:
    """The solver asked for; scoring needs a likelihood of parts and a matrix that can be held."""
    scores = not job.likelihood.startswith("patches") and object.size <= DENSE
    if job.solver == "auto":
        return SOLVERS["fisher" if scores and energy < _FAINT else "anderson"]
    if job.solver == "fisher" and not scores:
        raise ValueError(
            f"--solver fisher needs --likelihood gas or window and at most {DENSE} coefficients; "
            f"got {job.likelihood} and {object.size}; try --solver anderson"
        )
    return SOLVERS[job.solver]


def _learned(run: Reconstruction) -> Wilson | None:
    """The Wilson prior that the data of a run suggest, None where nothing is to be learned or the run does not tell."""
    x, object = run.x, run.model.object
    first, *others = run.prior.priors if isinstance(run.prior, Both) else (run.prior,)
    if run.information is None or not isinstance(first, Wilson):
        return None
    # what else is believed counts as data; at the answer the gradients of all the data and of the prior cancel
    information = run.information + sum(precision(other, object, x).to(x) for other in others)
    pull = information @ x + torch.func.grad(lambda y: first.energy(y, object))(x)
    return learned(first, object, information, pull)


def _belief_note(runs: Sequence[Reconstruction]) -> tuple[str, ...]:
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


def _object(job: MicrographJob) -> tuple[Volume, list[str]]:
    if job.object == "voxels":
        return Voxels(job.box), []
    reach = ball_reach(job.box)
    best = max(degree for degree, count in enumerate(radial_counts(job.box, job.lmax, reach)) if count)
    if best < job.lmax:
        note = f"lmax lowered from {job.lmax} to {best}: a box of {job.box} voxels cannot hold more"
        return Ball(job.box, best, reach), [note]
    return Ball(job.box, job.lmax, reach), []


def _marched(job: MicrographJob, object: Volume, stage: int) -> Volume:
    """The object of a stage: the same with no more than its largest degree."""
    if not job.march or not isinstance(object, Ball):
        return object
    return replace(object, lmax=min(object.lmax, job.march[stage]))


def _prior(job: MicrographJob, object: Volume, model: Model, power: float, belief: Wilson | None = None) -> Prior:
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


def _grey(run: Reconstruction, grey: float) -> Map:
    if run.map is None:
        raise ValueError(f"{run.model.object!r} has no map")
    return Map(run.map.values.cpu() * grey, run.map.voxel_size)


def _affordable(views: tuple[int, ...], pixels: int) -> tuple[tuple[int, ...], list[str]]:
    """As many views as fit into half of the free memory: statistics, templates and their work space per view."""
    free = _free_memory()
    most = max(16, int(free / 2 / (64 * pixels))) if free else max(views)
    if max(views) <= most:
        return views, []
    cut = tuple(min(count, most) for count in views)
    return cut, [f"views lowered from {views} to {cut}: {free / 1e9:.1f} GB of memory are free"]


def _free_memory() -> float:
    """Free bytes, 0 where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    return 0.0


def _data_share(run: Reconstruction) -> tuple[float, ...]:
    """What the data say; where the solver took no information, what they would with places and views known."""
    x, object = run.x, run.model.object
    if object.size > DENSE or not run.history or isinstance(run.prior, Flat):
        return ()
    information = run.information
    if information is None:
        copies = run.history[-1]["particles"] / run.model.noise.sigma**2
        information = copies * uniform_information(object, x)
    return data_share(object, information.cpu(), precision(run.prior, object, x).cpu())


def _gallery(run: Reconstruction, image: torch.Tensor, seed: int) -> dict[str, torch.Tensor] | None:
    """The likeliest particles of a micrograph, as the lattice gas sees them."""
    gas = replace(run.model.placement, likelihood=Gas())  # type: ignore[type-var]
    step = gas.step(run.model.templates(run.x).float(), run.model.log_weights, run.model.noise)
    return best_sites(step, image, 12, seed)


def _optics_note(data: Micrographs) -> tuple[str, ...]:
    if data.optics is None:
        return ("assumed: no contrast transfer function",)
    return ("the contrast transfer functions of the files are not used: this version models none",)


def _named(report: Report, stage: str, iterations: int) -> Report:
    """The report with the stage's name, the passes of the sub-run and the seconds that they will still take."""

    def named(name: str, row: dict[str, float]) -> None:
        left = max(0.0, iterations - 1 - row["step"]) * row["seconds"]
        report(f"{stage}, {name}", row | {"passes": float(iterations), "seconds_left": left})

    return named


def _by(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)
