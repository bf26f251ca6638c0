"""Stage after stage, for one start or several, and the mean of what ends equally likely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unpicked import processes, whitening
from unpicked._lazy import torch
from unpicked.data.gains import Gains
from unpicked.data.maps import Map
from unpicked.data.micrographs import Micrographs
from unpicked.estimators.acceleration import Relaxed
from unpicked.estimators.autocorrelation import Autocorrelation
from unpicked.estimators.em import EM, SIGNAL_FLOOR, random_start, signal_power
from unpicked.evaluate.compare import aligned
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.placements import Anywhere, through_of
from unpicked.objects.base import Volume
from unpicked.priors import Prior, Subspace
from unpicked.recipes import parts
from unpicked.recipes.job import MicrographJob
from unpicked.recipes.known import Known, kept
from unpicked.recipes.moment_starts import Begun, moment_starts
from unpicked.recipes.structures import Given, belief
from unpicked.reconstruct import Reconstruction, Report, Result, reconstruct

if TYPE_CHECKING:
    Start = torch.Tensor | Literal["autocorrelation"] | None

_EQUAL = 3.0  # log units by which equally good answers differ


@dataclass(frozen=True, eq=False)
class Solved:
    """The last run, whose object may be a mean, all runs by name, sentences on what was done, and what whitened.

    What came ``before`` the first stage, and gave it its starts, is told apart.
    """

    last: Reconstruction
    runs: dict[str, Reconstruction]
    notes: tuple[str, ...] = ()
    gains: Gains | None = None
    before: dict[str, Reconstruction] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Stages:
    """A job on one set of micrographs.

    Attributes:
        data: prepared micrographs.
        job: what to do.
        object: the volume, before marching.
        seed: of everything random.
        start: coefficients to start from, or "autocorrelation": what the moments of these data tell; None means random
            starts.
        checkpoint: folder for the state of every stage.
        device: torch device of the computation.
        resume: go on from that folder.
        report: called after every pass.
        name: put before the names of the runs.
        share: of the views, taken by the stages behind the first: of half the particles half the views tell as much.
        given: the volumes of --structures; None where there are none.
        emptied: voxels of which they shall say nothing.
        coloured: the noise is not white: every stage whitens the micrographs, all but the first by what they hold
            beside the particles as the stage before saw them.
    """

    data: Micrographs
    job: MicrographJob
    object: Volume
    seed: int
    start: Start = None
    checkpoint: Path | None = None
    device: str = "cpu"
    resume: bool = False
    report: Report | None = None
    name: str = ""
    share: float = 1.0
    given: Given | None = None
    emptied: torch.Tensor | None = None
    coloured: bool = False

    def solve(self) -> Solved:
        """All stages, for the best start or several; the mean of those that end equally likely.

        The fit to moments is one stage.
        """
        if self.job.method == "autocorrelation":
            run = self._moments()
            return Solved(run, {f"{self.name}stage-0": run})
        first = self._stage([], self.checkpoint, self.name)
        ended: list[Reconstruction] = []
        runs: dict[str, Reconstruction] = {}
        for index, one in enumerate((first, *first.rivals)[: self.job.refined]):
            place, name = self.checkpoint, self.name
            if index:
                place, name = None if place is None else place / f"rival-{index}", f"{name}rival-{index} "
            line = [one]
            while len(line) < self.job.stages:
                line.append(self._stage(line, place, name))
            ended.append(line[-1])
            runs |= {f"{name}stage-{stage}": run for stage, run in enumerate(line) if not (index and stage == 0)}
        last, notes = mean(ended)
        begun = self._begun
        before = {} if begun is None else {f"{self.name}moments-first": begun.run}
        notes = [*(begun.notes if begun else ()), *notes]
        return Solved(last, runs, tuple(f"{self.name}{note}" for note in notes), self._gains(last), before)

    @cached_property
    def _spectra(self) -> list[tuple[float, ...]]:
        data = self.data
        return processes.mapped(lambda index: whitening.spectrum(data[index], data.mask(index)), len(data))

    def _gains(self, last: Reconstruction | None) -> Gains | None:
        """What whitens the noise, as far as the last run tells it from particles."""
        if not self.coloured:
            return None
        return whitening.gains(self._spectra, None if last is None else parts.signal_spectra(last, self.data))

    def _fitted(self, data: Micrographs) -> Micrographs:
        """Those that are not held out."""
        return data.part(range(len(data) - self.job.held_out)) if self.job.held_out else data

    @cached_property
    def _begun(self) -> Begun | None:
        """What the moments of the data give the first stage, where it is to start from them."""
        if not isinstance(self.start, str):
            return None
        gains = self._gains(None)
        data = self._fitted(self.data if gains is None else whitening.whitened(self.data, gains))
        place = None if self.checkpoint is None else self.checkpoint / "moments"
        bare = replace(data, gains=None)
        known = kept(place, self.resume, lambda: _guessed(bare, self._model().measured(bare)))
        return moment_starts(
            data, self.job, self.object, known, seed=self.seed, place=place, resume=self.resume,
            report=self._named(f"{self.name.replace('-', ' ')}moments", Autocorrelation.iterations),
        )  # fmt: skip

    def _moments(self) -> Reconstruction:
        """One pass over the data, and the fit to its moments."""
        job, model, data = self.job, self._model(), self.data
        place = None if self.checkpoint is None else self.checkpoint / "stage-0"
        known = kept(place, self.resume, lambda: _guessed(data, model.measured(data)))
        return reconstruct(
            data,
            model,
            Autocorrelation(
                starts=job.starts,
                form="cumulant",
                estimate_sigma=job.sigma is None,
                estimate_density=job.density is None,
            ),
            prior=self._prior(self.object, model, known),
            seed=self.seed,
            start=None if isinstance(self.start, str) else self.start,
            moves=0,
            checkpoint=place,
            resume=self.resume,
            report=self._named(f"{self.name.replace('-', ' ')}moments", Autocorrelation.iterations),
        )

    def _stage(self, line: Sequence[Reconstruction], place: Path | None, name: str) -> Reconstruction:
        """The stage that follows those of ``line``."""
        job, stage, data, held = self.job, len(line), self.data, None
        gains = self._gains(line[-1] if line else None)
        if gains is not None:
            data = whitening.whitened(data, gains)
        if job.held_out:
            data, held = self._fitted(data), data.part(range(len(data) - job.held_out, len(data)))
        final, passes = stage == job.stages - 1, job.iterations[stage]
        model, start = (line[-1].model, line[-1].x) if line else (self._model(self._begun), self._first())
        place = None if place is None else place / f"stage-{stage}"
        model = model.measured(data)
        known = kept(place, self.resume, lambda: _told(line[-1]) if line else _guessed(data, model))
        volume, views = parts.marched(job, self.object, stage, known), parts.views(job, stage, known)
        views = max(1, round(self.share * views)) if stage else views
        if start is not None and volume != model.object:
            start = volume.fit(model.object.values(start))
        weights = parts.weighed(job, known, final=final)
        seen = parts.seen(line[-1]) if line and weights == "all" else None
        model = replace(model, object=volume, view=parts.view(job, views, self.device, seen))
        solver = parts.solver(job, volume, known, warm=0 if line or isinstance(self.start, torch.Tensor) else 4)
        frozen = min(passes, max(4, passes // 2)) if final or job.likelihood.startswith("patches") else 0
        turning, batch = passes - frozen, 1.0
        if stage == 0 and not final:
            turning, batch = turning * min(4, len(data), round(1 / job.batch)), job.batch
        return reconstruct(
            data,
            model,
            EM(
                iterations=turning + frozen,
                frozen=frozen,
                estimate_sigma=job.sigma is None,
                estimate_density=job.density is None,
                estimate_views=weights,
                relaxation=1.6,
                batch=batch,
                acceleration=solver if final or solver.turning else Relaxed(),
                tolerance=0.5,
                solver_tolerance=1e-6,
            ),
            prior=self._prior(volume, model, known),
            seed=self.seed,
            start=start,
            starts=job.starts + (start is not None and start.dim() == 2),
            moves=job.moves if stage == 0 else 0,
            checkpoint=place,
            resume=self.resume,
            report=self._named(f"{name.replace('-', ' ')}stage {stage + 1} of {job.stages}", turning + frozen),
            held=held,
            check=5 if held is not None else 0,
        )

    def _prior(self, object: Volume, model: Model, known: Known) -> Prior:
        return parts.prior(self.job, object, model, known, self._belief(object, known.power))

    def _belief(self, object: Volume, power: float) -> Subspace | None:
        """The belief in --structures, where there are any."""
        if self.given is None:
            return None
        return belief(self.given, object, power, self.job.structures_error, self.emptied)

    def template(self) -> torch.Tensor:
        """Coefficients of the mean of --structures at the power that the data show.

        Raises:
            ValueError: where there are none.
        """
        told = self._belief(self.object, _guessed(self.data, self._model().measured(self.data)).power)
        if told is None:
            raise ValueError("no structures are given")
        return told.mean(self.object)

    def _first(self) -> torch.Tensor | None:
        """Coefficients to start the first stage from, ``(size,)``, or ``(1, size)`` beside random starts; or None."""
        if isinstance(self.start, str):
            return None if self._begun is None else self._begun.x
        return self.start

    def _model(self, begun: Begun | None = None) -> Model:
        """The model of the first stage: what is given, else what ``begun`` tells, else a guess."""
        job = self.job
        density = job.density or (begun and begun.density) or 0.1
        return Model(
            self.object,
            parts.view(job, parts.views(job, 0, Known(1.0, 0.0)), self.device),
            Anywhere(density, parts.LIKELIHOODS[job.likelihood](job.box), job.spacing, job.subpixel),
            noise=White(job.sigma or (begun.sigma if begun else 1.0)),
        )

    def _named(self, stage: str, iterations: int) -> Report | None:
        """The report with the stage's name, the passes of the sub-run and the seconds that they will still take."""
        report = self.report
        if report is None:
            return None

        def named(name: str, row: dict[str, float]) -> None:
            left = max(0.0, iterations - 1 - row["step"]) * row["seconds"]
            report(f"{stage}, {name}", row | {"passes": float(iterations), "seconds_left": left})

        return named


def mean(ended: Sequence[Reconstruction]) -> tuple[Reconstruction, list[str]]:
    """The likeliest run with the mean of all maps that are equally likely (3 log units), each laid on it, as its own.

    Where a likelihood is flat, its maximum is no better than its neighbours and their mean, like that of the
    posterior, has the smaller error.

    Args:
        ended: runs of one model and data, from different starts.
    """
    best = max(ended, key=lambda run: run.objective)
    near = [run for run in ended if run is not best and run.objective >= best.objective - _EQUAL]
    if len(ended) == 1 or best.map is None or best.result is Result.EMPTY:
        return best, []
    said = f"{len(ended)} refined starts ended at objectives " + ", ".join(f"{run.objective:.1f}" for run in ended)
    if not near:
        return best, [f"{said}; the likeliest was kept"]
    maps = [best.map] + [aligned(run.map, best.map) for run in near if run.map is not None]
    values = torch.stack([map.values.to(best.x.device) for map in maps]).mean(0)
    x = parts.fitted(best.model.object, values).to(best.x)
    averaged = replace(best, x=x, map=Map(best.model.object.values(x), best.map.voxel_size))
    return averaged, [f"{said}; the mean of {len(maps)} is given, laid one on another"]


def _guessed(data: Micrographs, model: Model) -> Known:
    """What the data tell before anything is known."""
    shown, variance = signal_power(data, model), model.noise.sigma**2
    seen = shown > 1.01 * SIGNAL_FLOOR * variance * model.side**2 / model.placement.density
    typical = model.templates(random_start(model, shown, 0).to(model.view.log_weights))
    power = shown if through_of(model.placement) is None else float(typical.square().flatten(1).sum(1).mean())
    return Known(power, shown / variance if seen else 0.0)


def _told(last: Reconstruction) -> Known:
    """What a stage tells the next; the power of an answer is well determined where noise drowns that of the data."""
    templates = last.model.templates(last.x)
    power, shown = float(templates.square().sum((-2, -1)).mean()), float(last.model.placement.powers(templates).mean())
    return parts.learned_prior(last, Known(power, shown / last.model.noise.sigma**2))
