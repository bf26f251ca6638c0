"""From micrographs to a volume without picking: a short readable function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.micrographs import Micrographs
from unpicked.estimators.acceleration import Fisher, Relaxed
from unpicked.estimators.em import EM, signal_power
from unpicked.estimators.maximisation import DENSE, uniform_information
from unpicked.evaluate.halves import Halves, halves
from unpicked.model.gas import Gas, best_sites
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.placements import Anywhere
from unpicked.model.views import Projection
from unpicked.objects.base import Volume
from unpicked.ops import rotation, seeding
from unpicked.preprocess import Prepared, prepare
from unpicked.priors import (
    Flat,
    data_share,
    precision,
)
from unpicked.recipes import parts
from unpicked.recipes.job import MicrographJob
from unpicked.reconstruct import Reconstruction, Report, reconstruct


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
    parts.check_solver(job, parts.volume(job)[0])
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
    object, notes = parts.volume(job)
    x = None if start is None else object.fit(start.values.double() / grey)
    whole = prepared.micrographs
    views, note = parts.affordable(job.views, job.box * job.box * job.subpixel**2)
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
            *parts.belief_note(stages),
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
        Anywhere(job.density or 0.1, parts.LIKELIHOODS[job.likelihood](job.box), job.spacing, job.subpixel),
        noise=White(job.sigma or 1.0),
    )
    held = None
    if job.held_out:
        held = data.part(range(len(data) - job.held_out, len(data)))
        data = data.part(range(len(data) - job.held_out))
    power, belief = signal_power(data, model), None
    solver = parts.solver(job, object, power / model.noise.sigma**2)
    runs: dict[str, Reconstruction] = {}
    for stage, (views, iterations) in enumerate(zip(job.views, job.iterations, strict=True)):
        coarse = parts.marched(job, object, stage)
        if start is not None and coarse != model.object:
            start = coarse.fit(model.object.values(start))
        model = replace(model, object=coarse)
        prior = parts.prior(job, coarse, model, power, belief)
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
        if not final:
            belief = parts.learned_prior(run) or belief
        if isinstance(solver, Fisher):
            solver = replace(solver, warm=0)
    return runs


def _grey(run: Reconstruction, grey: float) -> Map:
    if run.map is None:
        raise ValueError(f"{run.model.object!r} has no map")
    return Map(run.map.values.cpu() * grey, run.map.voxel_size)


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
