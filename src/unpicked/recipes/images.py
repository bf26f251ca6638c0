"""From large images to a small one, without picking: the settings, checked, and a short readable function."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unpicked._lazy import torch
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.estimators.acceleration import Anderson
from unpicked.estimators.autocorrelation import Autocorrelation
from unpicked.estimators.base import Estimator
from unpicked.estimators.em import EM, signal_power
from unpicked.model.gas import Gas, Window
from unpicked.model.likelihoods import Likelihood
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.patches import Patches
from unpicked.model.placements import Anywhere
from unpicked.model.views import Identity, InPlane, OfClasses, View
from unpicked.objects.base import Image
from unpicked.objects.classes import Classes
from unpicked.objects.disk import Disk
from unpicked.objects.pixels import Pixels
from unpicked.priors import Flat, Prior, Ridge
from unpicked.reconstruct import Reconstruction, Report, reconstruct

if TYPE_CHECKING:
    Start = torch.Tensor | Literal["autocorrelation"] | None  # a target, what that method answers, or random starts

_KEPT = 1 << 28  # pixels that are held in memory


@dataclass(frozen=True)
class ImageJob:
    """How to reconstruct small images from large ones; the flags of ``unpicked reconstruct image``."""

    length: int
    """Edge of the target in pixels."""
    method: Literal["em", "autocorrelation"] = "em"
    """Estimator."""
    rotations: Literal["uniform", "none"] = "uniform"
    """Whether the copies are turned in their plane, all angles alike."""
    spacing: Literal["separated", "arbitrary"] = "separated"
    """Least distance of two copies: 2 length - 1 pixels, or length pixels."""
    object: Literal["auto", "disk", "pixels"] = "auto"
    """How the target is described: steerable expansion in a disk, or pixels. auto: a disk where copies are turned."""
    likelihood: Literal["auto", "gas", "window", "patches"] = "auto"
    """How the sum over all places is done: lattice gas of the whole image, the same to first order, or independent
    patches. auto: patches where --window or --stride is given, else gas."""
    reach: float | None = None
    """Radius in pixels up to which the disk's expansion is complete; half the length, rounded down, if not given."""
    window: int | None = None
    """Side of the patches; the target's if not given."""
    stride: int | None = None
    """Distance of neighbouring patches; their side if not given."""
    angles: int = 36
    """Number of angles of the copies that are tried."""
    classes: int = 1
    """Kinds of target."""
    starts: int = 5
    """Random starts; the most likely one is refined."""
    moves: int = 2
    """Rounds of recentre moves tried on it."""
    iterations: tuple[int, int] = (40, 40)
    """Passes over the data at most, of the starts and of the refinement."""
    prior: Literal["none", "ridge"] = "none"
    """Belief about the target: none, or one variance for all coefficients."""
    sigma: float | None = None
    """Standard deviation of the noise; estimated if not given."""
    density: float | None = None
    """Fraction of the images' area that targets cover; estimated if not given."""

    def __post_init__(self) -> None:
        if self.length < 3:
            raise ValueError(f"--length must be at least 3 pixels; got {self.length}")
        for name in ("angles", "classes", "starts"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1; got {getattr(self, name)}")
        if self.moves < 0:
            raise ValueError(f"--moves must not be negative; got {self.moves}")
        if self.method == "autocorrelation" and (self.rotations != "uniform" or self.object == "pixels"):
            raise ValueError(
                "--method autocorrelation needs --rotations uniform and a disk; "
                f"got --rotations {self.rotations} and --object {self.object}; try --method em"
            )
        if len(self.iterations) != 2 or min(self.iterations) < 1:
            raise ValueError(f"--iterations must be two positive numbers; got {self.iterations}")
        for name in ("window", "stride"):
            value = getattr(self, name)
            if value is not None and (value < 1 or self.likelihood not in ("auto", "patches")):
                raise ValueError(f"--{name} must be at least 1 pixel, of patches; got {value} of {self.likelihood}")
        if self.sigma is not None and not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(f"--sigma must be a positive number; got {self.sigma}")
        most = 1.0 if self.spacing == "arbitrary" else (self.length / (2 * self.length - 1)) ** 2
        if self.density is not None and not 0 < self.density < most:
            raise ValueError(
                f"--density must lie between 0 and {most:.3f} for {self.spacing} copies; got {self.density}"
            )


@dataclass(frozen=True, eq=False)
class ImageAnswer:
    """What came of an :class:`ImageJob`.

    Attributes:
        target: ``(L, L)`` float64, or ``(kinds, L, L)``.
        shares: of the kinds.
        stages: runs by name, the last one's answer is the target.
        images: the data.
        notes: sentences on what was tried and found.
    """

    target: torch.Tensor
    shares: tuple[float, ...]
    stages: dict[str, Reconstruction]
    images: Micrographs
    notes: tuple[str, ...]

    @property
    def last(self) -> Reconstruction:
        """The last stage's run."""
        return list(self.stages.values())[-1]

    def figures(self) -> dict[str, Any]:
        """The figures of ``result.json``."""
        row = self.last.history[-1] if self.last.history else {}
        names = ("log_likelihood", "objective", "judge", "energy", "density", "particles", "chi2")
        out: dict[str, Any] = {name: row[name] for name in names if name in row}
        out.setdefault("log_likelihood", row.get("judge", math.nan))
        noise = self.last.model.noise
        return out | {"sigma": noise.sigma, "mean": noise.mean, "shares": list(self.shares)}


@dataclass(frozen=True)
class Stage:
    """One call of the loop.

    Attributes:
        name: of its checkpoints.
        estimator: what is run.
        starts: random starts, where no stage went before.
        moves: rounds of recentre moves.
    """

    name: str
    estimator: Estimator
    starts: int = 1
    moves: int = 0


def _em(job: ImageJob) -> tuple[Stage, ...]:
    """Starts on turning angles, then the best one on angles that stay, in bold steps."""
    first, second = job.iterations
    exact = isinstance(likelihood(job), Patches)
    bold = EM(
        iterations=second,
        frozen=second,
        estimate_sigma=job.sigma is None,
        estimate_density=job.density is None,
        estimate_views="kinds" if job.classes > 1 else "no",
        acceleration=Anderson(),
        joint=exact,
        tolerance=0.05,
        trial=6,
        polish=second,
    )
    frozen = max(1, first // 2) if job.rotations == "uniform" else first
    start = replace(bold, iterations=first, frozen=frozen, relaxation=1.6, tolerance=0.5)
    return Stage("starts", start, job.starts, job.moves), Stage("refinement", bold)


def _moments(job: ImageJob) -> tuple[Stage, ...]:
    """One pass over the data, then fits."""
    found = Autocorrelation(starts=job.starts, estimate_sigma=job.sigma is None, estimate_density=job.density is None)
    return (Stage("moments", found),)


METHODS: dict[str, Callable[[ImageJob], tuple[Stage, ...]]] = {"em": _em, "autocorrelation": _moments}
"""The stages of every method."""


def likelihood(job: ImageJob) -> Likelihood:
    """How the job sums over places."""
    patches = job.likelihood == "patches" or job.window is not None or job.stride is not None
    if patches:
        return Patches(job.window, job.stride)
    return Window() if job.likelihood == "window" else Gas()


@dataclass(frozen=True, eq=False)
class Ready:
    """Images that were looked through.

    Attributes:
        images: kept in memory where they are few.
        deviation: standard deviation of all pixels.
        mean: of all pixels.
    """

    images: Micrographs
    deviation: float = field(default=1.0)
    mean: float = field(default=0.0)


def ready(data: Micrographs, job: ImageJob, start: Start = None) -> Ready:
    """Look through the images for a job, and find whatever is wrong with them before anything else is done.

    Raises:
        ValueError: for damaged, constant or not finite images, a target that does not fit them, or a start that cannot
            be had.
    """
    if isinstance(start, str):
        _first_stages(job)
    if min(data.shape) < 2 * job.length:
        raise ValueError(
            f"images must be at least 2 x {job.length} pixels for a target of {job.length}; "
            f"got {data.shape[0]} x {data.shape[1]}; try a smaller --length"
        )
    _object(job)
    keep, kept = len(data) * math.prod(data.shape) <= _KEPT, []
    total, square = 0.0, 0.0
    for image, name in zip(data, data.names, strict=True):
        if not bool(torch.isfinite(image).all()):
            raise ValueError(f"{name} holds NaN or infinity; remove or fill such pixels")
        if bool(image.min() == image.max()):
            raise ValueError(f"{name} is constant, {float(image.min()):g} throughout; leave this image out")
        total, square = total + float(image.double().mean()), square + float(image.double().square().mean())
        if keep:
            kept.append(image)
    mean = total / len(data)
    images = replace(data, source=InMemory(torch.stack(kept))) if keep else data
    return Ready(images, math.sqrt(square / len(data) - mean**2), mean)


def model(job: ImageJob, found: Ready) -> Model:
    """What the job believes of the images, with starting values."""
    turned = job.rotations == "uniform"
    one = _object(job)
    view: View = InPlane(job.angles) if turned else Identity()
    placement = Anywhere(job.density or 0.1, likelihood(job), job.spacing)
    # moments are those of images whose background is zero: the mean holds the targets, too
    noise = White(job.sigma or found.deviation, found.mean if job.method == "em" else 0.0)
    if job.classes == 1:
        return Model(one, view, placement, noise=noise)
    return Model(Classes(one, job.classes), OfClasses(view, job.classes), placement, noise=noise)


def _object(job: ImageJob) -> Image:
    """What one kind of target is made of."""
    disk = job.object == "disk" or (job.object == "auto" and job.rotations == "uniform")
    return Disk(job.length, job.reach) if disk else Pixels(job.length)


def from_images(
    data: Micrographs | Ready,
    job: ImageJob,
    *,
    seed: int = 0,
    start: Start = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    report: Report | None = None,
) -> ImageAnswer:
    """A small image straight from large ones that hold copies of it at unknown places and angles.

    Args:
        data: images as read, or made :func:`ready`.
        job: what to do.
        seed: of everything random.
        start: target ``(L, L)`` or ``(kinds, L, L)`` to start from, or "autocorrelation": the answer of that method,
            found first; None means random starts.
        checkpoint: folder for the state of every stage.
        resume: go on from that folder.
        report: called after every pass with the sub-run's name and its figures.

    Raises:
        ValueError: for settings that do not fit the data.
    """
    found = data if isinstance(data, Ready) else ready(data, job, start)
    present = model(job, found)
    x, first = None, _first_stages(job) if isinstance(start, str) else ()
    if isinstance(start, torch.Tensor):
        if tuple(start.shape) != tuple(present.object.shape):
            raise ValueError(f"start must have shape {tuple(present.object.shape)}; got {tuple(start.shape)}")
        x = present.object.fit(start.double())
    # at low signal-to-noise the data say little of the power: a tenth of the noise in every pixel
    power = max(signal_power(found.images, present), 0.1 * job.length**2 * present.noise.sigma**2)
    belief: Prior = Flat() if job.prior == "none" else Ridge(power / present.object.size * job.classes)
    stages: dict[str, Reconstruction] = {}
    for stage in (*first, *METHODS[job.method](job)):
        run = reconstruct(
            found.images,
            present,
            stage.estimator,
            prior=belief,
            seed=seed,
            start=x,
            starts=stage.starts,
            moves=stage.moves,
            checkpoint=None if checkpoint is None else checkpoint / stage.name,
            resume=resume,
            report=None if report is None else _named(report, stage),
        )
        stages[stage.name] = run
        x, present = run.x, replace(run.model, view=_unturned(run.model.view, present.view))
    notes = tuple(f"{name}: {note}" for name, run in stages.items() for note in run.notes)
    kinds = run.model.view.log_weights.exp().double().unflatten(0, (job.classes, -1)).sum(1)
    target = run.model.object.values(run.x).detach().cpu()
    return ImageAnswer(target, tuple(kinds.tolist()), stages, found.images, notes)


def _first_stages(job: ImageJob) -> tuple[Stage, ...]:
    """The stages whose answer another method starts from."""
    if job.method == "autocorrelation":
        raise ValueError("--start autocorrelation is for another method; got --method autocorrelation; leave it out")
    return tuple(METHODS["autocorrelation"](replace(job, method="autocorrelation")))


def _unturned(view: View, first: View) -> View:
    """The first stage's views, with the weights that were found."""
    if isinstance(view, OfClasses) and isinstance(first, OfClasses):
        return first.weighted(view.log_weights)
    return first


def _named(report: Report, stage: Stage) -> Report:
    """The report with the stage's name, the passes of the sub-run and the seconds that they will still take."""

    def named(name: str, row: dict[str, float]) -> None:
        left = max(0.0, stage.estimator.iterations - 1 - row["step"]) * row["seconds"]
        report(f"{stage.name}, {name}", row | {"passes": float(stage.estimator.iterations), "seconds_left": left})

    return named
