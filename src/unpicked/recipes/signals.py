"""From one long signal to the target that is hidden in it many times, three ways."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unpicked._lazy import torch
from unpicked.data.signal import Signal
from unpicked.estimators.acceleration import Anderson, Relaxed
from unpicked.estimators.autocorrelation import Autocorrelation
from unpicked.estimators.base import Estimator
from unpicked.estimators.em import EM
from unpicked.estimators.exact_em import ExactEM, standard_errors
from unpicked.model.chain import Chain
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.patches import Patches
from unpicked.model.placements import Anywhere, Placement
from unpicked.model.spacing import HardCore
from unpicked.model.views import Identity, OfClasses, View
from unpicked.objects.base import Object
from unpicked.objects.classes import Classes
from unpicked.objects.samples import Samples
from unpicked.ops import seeding
from unpicked.priors import Flat, Prior, Ridge, Smooth, precision
from unpicked.reconstruct import Reconstruction, Report, reconstruct

if TYPE_CHECKING:
    Start = torch.Tensor | Literal["autocorrelation"] | None  # a target, what that method answers, or random starts

_BLOCK = 1 << 21  # samples that are held at once
_WINDOWED = 1 << 18  # samples of a block that is cut into windows
_DENSITY = 0.4  # first guess, of the largest that the spacing allows
_CORRELATED = 0.1  # correlation of a smooth target, of its length
_NOISE = 0.9  # first guess, of the standard deviation of the data


@dataclass(frozen=True)
class SignalJob:
    """How to reconstruct a target from a long signal; the flags of ``unpicked reconstruct signal``."""

    length: int
    """Samples of the target."""
    method: Literal["exact", "em", "autocorrelation"] = "exact"
    """Exact maximum likelihood by forward-backward; EM on windows taken as independent; or the moments of the signal
    of order 1 to 3, in one pass."""
    spacing: Literal["separated", "arbitrary", "dense"] = "separated"
    """Least distance of the starts of two copies: 2 length - 1 samples, length samples, or half of it (two copies may
    overlap)."""
    window: int | None = None
    """Side of the windows of --method em, in samples; the target's length if not given, as published. Three lengths
    at stride 1 lose little."""
    stride: int | None = None
    """Distance of neighbouring windows; their side if not given."""
    solver: Literal["fisher", "em"] = "fisher"
    """Steps of the exact method: scoring by the observed information, or Baum-Welch."""
    classes: int = 1
    """Kinds of target."""
    prior: Literal["none", "ridge", "smooth"] = "none"
    """Belief about the target: none, samples of the size that the data's variance suggests (ridge), or samples that
    also follow their neighbours over a tenth of the length (smooth; moments are then fitted low frequencies first)."""
    sigma: float | None = None
    """Standard deviation of the noise; estimated if not given."""
    density: float | None = None
    """Fraction of the signal that copies cover; estimated if not given."""
    iterations: int = 300
    """Passes over the data, at most."""
    starts: int = 5
    """Random starts; the most likely one is kept."""
    moves: int = 3
    """Rounds of moves that repair shifted answers."""

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ValueError(f"--length must be at least 2 samples; got {self.length}")
        for name in ("window", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1 sample; got {value}")
            if value is not None and self.method != "em":
                raise ValueError(f"--{name} belongs to --method em; got --method {self.method}")
        for name in ("classes", "iterations", "starts"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1; got {getattr(self, name)}")
        if self.moves < 0:
            raise ValueError(f"--moves must not be negative; got {self.moves}")
        if self.sigma is not None and not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(f"--sigma must be positive; got {self.sigma}")
        if self.density is not None and not 0 < self.density < self.limit:
            raise ValueError(
                f"--density must lie between 0 and {self.limit:.3f} for {self.spacing} targets of {self.length} "
                f"samples; got {self.density}"
            )
        if self.spacing == "dense" and (self.method != "exact" or self.classes > 1):
            raise ValueError("--spacing dense needs --method exact and one kind of target")

    @property
    def limit(self) -> float:
        """Covered fraction at which copies touch at their least distance."""
        return self.length / HardCore(self.spacing).width(self.length)


@dataclass(frozen=True, eq=False)
class SignalAnswer:
    """What came of a :class:`SignalJob`.

    Attributes:
        target: ``(L,)``, or ``(kinds, L)``.
        errors: standard errors of the same shape, where the method gives them.
        run: the run.
        data: the data, in the blocks in which the method saw them.
        notes: sentences: assumed, tried, found.
    """

    target: torch.Tensor
    errors: torch.Tensor | None
    run: Reconstruction
    data: Signal
    notes: tuple[str, ...]

    def figures(self) -> dict[str, Any]:
        """The figures of ``result.json``."""
        row = self.run.history[-1] if self.run.history else {}
        names = ("log_likelihood", "objective", "judge", "energy", "density", "particles")
        out: dict[str, Any] = {name: row[name] for name in names if name in row}
        model = self.run.model
        out |= {"sigma": model.noise.sigma, "density": model.placement.density}
        if "energy" in out:
            out["snr_box"] = out["energy"] / self.target.shape[-1]
        return out


@dataclass(frozen=True)
class Plan:
    """How a method sees a job.

    Attributes:
        data: in its blocks.
        placement: with first guesses.
        estimator: the method.
        starts: random starts of the loop.
        moves: rounds of moves.
    """

    data: Signal
    placement: Placement
    estimator: Estimator
    starts: int
    moves: int


Method = Callable[[SignalJob, Signal, float], Plan]  # of job, data and a first guess of the density


def ready(data: Signal, job: SignalJob, start: Start = None) -> None:
    """Refuse what the job cannot do with these data.

    Raises:
        ValueError: for a signal shorter than two targets, or shorter than a window, or a start that cannot be had.
    """
    if isinstance(start, str):
        _first_job(job)
    if data.length < 2 * job.length:
        raise ValueError(
            f"{data.name} holds {data.length} samples; expected at least 2 x {job.length} for targets of {job.length}; "
            "try a smaller --length"
        )
    if job.window is not None and job.window > data.length:
        raise ValueError(f"--window must be at most {data.length} samples, the signal's length; got {job.window}")


def from_signal(
    data: Signal,
    job: SignalJob,
    *,
    seed: int = 0,
    start: Start = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    report: Report | None = None,
) -> SignalAnswer:
    """Reconstruct the target of a signal: choose the model, then run the loop.

    Args:
        data: the signal.
        job: how.
        seed: of everything random.
        start: target ``(L,)`` or ``(kinds, L)`` to start from, or "autocorrelation": the answer of that method, found
            first; None means random starts.
        checkpoint: folder for the state.
        resume: go on from that folder.
        report: called after every pass.

    Raises:
        ValueError: for data or settings that do not fit.
    """
    ready(data, job, start)
    before: tuple[str, ...] = ()
    if isinstance(start, str):
        place = None if checkpoint is None else checkpoint / "moments"
        told = None if report is None else partial(_moments, report)
        first = from_signal(data, _first_job(job), seed=seed, checkpoint=place, resume=resume, report=told)
        start, before = first.target, (f"started from the moments' answer: {first.run.result.value}",)
    kinds = job.classes
    object: Object = Samples(job.length) if kinds == 1 else Classes(Samples(job.length), kinds)
    view: View = Identity() if kinds == 1 else OfClasses(Identity(), kinds)
    deviation = _deviation(data)
    density = job.density or _DENSITY * job.limit
    plan = METHODS[job.method](job, data, density)
    model = Model(object, view, plan.placement, noise=White(job.sigma or _NOISE * deviation))
    prior: Prior = Flat()
    if job.prior != "none":
        excess = max(deviation**2 - model.noise.sigma**2, 0.1 * deviation**2)
        power = excess / density
        smooth = Smooth(power, max(1.0, _CORRELATED * job.length), kinds=kinds > 1)
        prior = smooth if job.prior == "smooth" else Ridge(power)
    run = reconstruct(
        plan.data,
        model,
        plan.estimator,
        prior=prior,
        seed=seeding.derive(seed, "signal"),
        start=None if start is None else object.fit(start.double()),
        starts=plan.starts,
        moves=plan.moves,
        checkpoint=checkpoint,
        resume=resume,
        report=None if report is None else _counted(report, job.iterations),
    )
    target = object.values(run.x)
    return SignalAnswer(target, _errors(run), run, plan.data, (*_notes(data, job, run), *before))


def _first_job(job: SignalJob) -> SignalJob:
    """The job whose answer another one starts from."""
    if job.method == "autocorrelation" or job.spacing == "dense":
        raise ValueError(
            "--start autocorrelation is for another method, and copies that do not overlap; "
            f"got --method {job.method} and --spacing {job.spacing}; try --start random"
        )
    return replace(job, method="autocorrelation", window=None, stride=None)


def _moments(report: Report, name: str, row: dict[str, float]) -> None:
    """The report of the run that comes first."""
    report(f"moments, {name}", row)


def exact(job: SignalJob, data: Signal, density: float) -> Plan:
    """Forward-backward; of long signals in blocks, at whose borders copies may be cut."""
    data = data.cut(_BLOCK if data.length > 1.5 * _BLOCK else None)
    estimator = ExactEM(
        iterations=job.iterations,
        solver=job.solver,
        estimate_sigma=job.sigma is None,
        estimate_density=job.density is None,
        tolerance=0.01,
    )
    return Plan(data, Chain(HardCore(job.spacing, density)), estimator, job.starts, job.moves)


def windows(job: SignalJob, data: Signal, density: float) -> Plan:
    """EM on windows taken as independent; blocks hold whole numbers of strides, so that no window is lost."""
    likelihood = Patches(job.window, job.stride)
    side, stride = likelihood.window(job.length)
    spacing: Literal["separated", "arbitrary"] = "separated" if job.spacing == "separated" else "arbitrary"
    estimator = EM(
        iterations=job.iterations,
        frozen=max(1, job.iterations - 20),
        estimate_sigma=job.sigma is None,
        estimate_mean=False,
        estimate_density=job.density is None,
        estimate_views="kinds" if job.classes > 1 else "no",
        relaxation=1.0 if job.solver == "em" else 1.6,
        acceleration=Relaxed() if job.solver == "em" else Anderson(),
        joint=job.solver != "em",
        tolerance=0.05,
        trial=6,
        polish=job.iterations,
    )
    blocks = data.cut(max(1, _WINDOWED // stride) * stride, side - 1)
    return Plan(blocks, Anywhere(density, likelihood, spacing), estimator, job.starts, job.moves)


def moments(job: SignalJob, data: Signal, density: float) -> Plan:
    """One pass for the moments; the fit has starts of its own."""
    estimator = Autocorrelation(
        starts=max(job.starts, 10),
        estimate_sigma=job.sigma is None,
        estimate_density=job.density is None,
        marching=job.prior == "smooth",
    )
    spacing: Literal["separated", "arbitrary"] = "separated" if job.spacing == "separated" else "arbitrary"
    placement = Anywhere(density, Patches(), spacing)
    return Plan(data.cut(_BLOCK, job.length - 1), placement, estimator, 1, 0)


METHODS: dict[str, Method] = {"exact": exact, "em": windows, "autocorrelation": moments}
"""How each method sees a job; a new one adds its line."""


def _deviation(data: Signal) -> float:
    """Standard deviation of the data, from at most a million samples."""
    some = data.cut(1 << 17)
    picks = range(0, len(some), -(-len(some) // 8))
    return math.sqrt(sum(float(some[i].double().square().mean()) for i in picks) / len(picks))


def _errors(run: Reconstruction) -> torch.Tensor | None:
    if "memory.joint" not in run.state or not int(run.state["memory.held"]):
        return None
    object = run.model.object
    return object.values(standard_errors(run.state, precision(run.prior, object, run.x))["x"])


def _notes(data: Signal, job: SignalJob, run: Reconstruction) -> tuple[str, ...]:
    least = HardCore(job.spacing).width(job.length)
    return (
        f"{data.rows} signals of {data.length} samples" if data.rows > 1 else f"{data.length} samples",
        f"assumed: starts of copies at least {least} samples apart, white noise on a background of zero",
        *run.notes,
    )


def _counted(report: Report, iterations: int) -> Report:
    """The report with the passes of the run and the seconds that they will still take at most."""

    def counted(name: str, row: dict[str, float]) -> None:
        left = max(0.0, iterations - 1 - row["step"]) * row["seconds"]
        report(name, row | {"passes": float(iterations), "seconds_left": left})

    return counted
