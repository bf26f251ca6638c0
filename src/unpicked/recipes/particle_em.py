"""From a stack of particle images to a volume by marginalised maximum likelihood: no image is ever given one pose.

``em`` takes all images in every update (Scheres 2012), ``sgd`` a few at a time with running averages of what they say
(the gradient of Punjani et al. 2017, preconditioned by the averaged weights). Both widen the band of frequencies and
refine the views in stages, and learn between stages what power the map has in every shell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from unpicked import processes
from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.estimators import slices_to_map
from unpicked.estimators.base import log_likelihood
from unpicked.estimators.em import EM
from unpicked.estimators.posterior import best_poses, weighed
from unpicked.estimators.search import Search
from unpicked.model.centred import Centred
from unpicked.model.model import Model
from unpicked.model.noise import Coloured
from unpicked.model.views import Projection
from unpicked.objects.voxels import Voxels
from unpicked.ops import fourier, rotation, seeding
from unpicked.priors import Both, Prior, Shells, Support, globular
from unpicked.recipes.particle_job import check_field, check_settings, working
from unpicked.reconstruct import Reconstruction, Report, reconstruct

COARSE, FINE = 4608, 36864  # views: about 15 and 7.5 degrees apart
_JUDGED = 1000  # images by whose likelihood starts are compared
_OUTSIDE = 0.1  # standard deviation left to voxels outside of the particle, in that of all voxels


@dataclass(frozen=True)
class ParticleEMJob:
    """How to reconstruct a volume with all views and shifts of every image marginalised."""

    method: Literal["em", "sgd"] = "em"
    """em: all images in every update; sgd: --batch images at a time with running averages, then all of them."""
    max_shift: float = 0.0
    """Farthest that a particle's centre may lie from that of its image, in angstrom; 0 takes images as centred."""
    voxel: float | None = None
    """Working voxel size in angstrom: images are cropped to the nearest even size. The pixel size if not given."""
    diameter: float | None = None
    """Of the particle, in angstrom: the map is nearly zero outside this ball. Nearly the box if not given."""
    starts: int = 3
    """Random starts; the one most likely after the coarse views goes on."""
    updates: int = 30
    """Updates on coarse, turning views of every start: passes over the images, or with sgd parts of them."""
    polish: int = 4
    """Passes over all images on fine views at the end; 0 leaves them out."""
    batch: int = 300
    """Images of an update of sgd."""

    def __post_init__(self) -> None:
        check_settings(self.max_shift, self.voxel, self.diameter, self.starts)
        if self.updates < 3:
            raise ValueError(f"--updates must be at least 3, one for every band; got {self.updates}")
        if self.polish < 0:
            raise ValueError(f"--polish must not be negative; got {self.polish}")
        if self.batch < 1:
            raise ValueError(f"--batch must be at least 1 image; got {self.batch}")


@dataclass(frozen=True, eq=False)
class ParticleEMAnswer:
    """What came of a :class:`ParticleEMJob`.

    Attributes:
        map: the volume in the grey values of the data, matter bright.
        poses: the most likely one of every image on the last views, shifts in angstrom.
        log_likelihoods: ``(n,)`` of every image, views and shifts marginalised.
        effective: mean effective number of views and shifts of an image; above some tens poses mean nothing.
        last: the last stage's run.
        stages: all stages' runs by name.
        notes: sentences: read, converted, assumed, tried, found.
    """

    map: Map
    poses: Poses
    log_likelihoods: torch.Tensor
    effective: float
    last: Reconstruction
    stages: dict[str, Reconstruction]
    notes: tuple[str, ...]


def from_particles_em(
    data: Particles,
    job: ParticleEMJob,
    *,
    seed: int = 0,
    start: Map | None = None,
    checkpoint: Path | str | None = None,
    resume: bool = False,
    report: Report | None = None,
    device: str = "cpu",
) -> ParticleEMAnswer:
    """Reconstruct a volume by expectation-maximization over all views and shifts.

    Args:
        data: images, matter bright.
        job: settings.
        seed: of everything random.
        start: map in place of random starts, on any grid of the images' field of view.
        checkpoint: folder for the state of every sub-run.
        resume: go on from that folder.
        report: called after every update with the stage and its figures.
        device: "cpu" or "cuda".

    Raises:
        ValueError: for settings that do not fit the data.
    """
    box = working(data, job.voxel)
    check_field(data, job.max_shift, start)
    coarse = replace(data.cropped(box), poses=None, notes=())  # held in memory: every update reads it
    folder = Path(checkpoint) if checkpoint is not None else None
    stages = _Stages(coarse, job, seed, folder, resume, report, device)
    first = None
    if start is not None:
        first = start.rescale(box).values.flatten() * (start.box / box) ** 2
    found = [stages.searched(number, first) for number in range(1 if start is not None else job.starts)]
    judged = [stages.judged(run) for run in found]
    kept = max(range(len(found)), key=judged.__getitem__)
    notes = list(data.notes)
    if len(found) > 1:
        told = ", ".join(f"{value:.2f}" for value in judged)
        notes.append(f"{len(found)} starts: log-likelihood per image {told}; start {kept} was kept")
    last = stages.polished(found[kept]) if job.polish else found[kept]
    poses = best_poses(coarse, last.model, last.x)
    effective = weighed(coarse, last.model, last.x).effective
    notes.append(f"effective number of views and shifts per image: {effective:.1f}")
    return ParticleEMAnswer(
        map=Map(last.x.view((box,) * 3).cpu() * (box / data.box), coarse.pixel_size),
        poses=Poses(poses.rotations.cpu(), poses.shifts.cpu()),
        log_likelihoods=log_likelihood(coarse, last.model, last.x).cpu(),
        effective=effective,
        last=last,
        stages=stages.runs,
        notes=tuple(notes),
    )


class _Stages:
    """The runs, each from where an earlier one ended."""

    def __init__(
        self,
        data: Particles,
        job: ParticleEMJob,
        seed: int,
        folder: Path | None,
        resume: bool,
        report: Report | None,
        device: str,
    ) -> None:
        self.data, self.job, self.seed, self.device = data, job, seed, device
        self.folder, self.resume, self.report = folder, resume, report
        self.runs: dict[str, Reconstruction] = {}
        self.limit = (data.box - 1) // 2
        radius = data.box / 2 - 2 if job.diameter is None else job.diameter / 2 / data.pixel_size
        self.mask = min(radius, data.box / 2 - 1)

    def radii(self) -> tuple[int, ...]:
        """Bands of the search, Fourier pixels: those of a map that is found before it is sharp."""
        return tuple(sorted({max(2, round(self.limit * share)) for share in (0.3, 0.45, 0.6)}))

    def searched(self, number: int, x: torch.Tensor | None) -> Reconstruction:
        """From one random start (or x) through the bands, on coarse views that turn in every update."""
        radii, seed = self.radii(), seeding.derive(self.seed, "start", number)
        model = self._model(COARSE, radii[0], None)
        if x is None:
            x = Search(radius=(radii[0], radii[0]), mask=self.mask).init(self.data, model, None, seed)["x"]
        x = x.to(self.device, torch.float64)
        power = float(model.templates(x.float()).square().sum((1, 2)).mean())
        prior: Prior = self._prior(globular(self.data.box, max(power, 1e-12)), x)
        updates = -(-self.job.updates // len(radii))
        for stage, radius in enumerate(radii):
            if stage:
                model = replace(model, placement=replace(model.placement, radius=radius))  # type: ignore[type-var]
                model = replace(model, view=self._views(COARSE))
            batch = min(1.0, self.job.batch / len(self.data)) if self.job.method == "sgd" else 1.0
            run = self._run(f"start-{number}-band-{radius}", model, self._em(updates, batch), prior, x, seed)
            x, model, prior = run.x, run.model, self._learned(run, prior)
        if self.job.method == "sgd":  # no verdict on a part of the images
            run = self._run(
                f"start-{number}-all", replace(model, view=self._views(COARSE)), self._em(3), prior, x, seed
            )
        return run

    def polished(self, run: Reconstruction) -> Reconstruction:
        """All frequencies, on fine views."""
        model = replace(run.model, view=self._views(FINE))
        model = replace(model, placement=replace(model.placement, radius=self.limit))  # type: ignore[type-var]
        prior = self._learned(run, run.prior)
        return self._run("fine", model, self._em(self.job.polish), prior, run.x, self.seed)

    def judged(self, run: Reconstruction) -> float:
        """Log-likelihood per image on views of one and the same grid."""
        some = range(0, len(self.data), -(-len(self.data) // _JUDGED))
        model = replace(run.model, view=self._views(COARSE))
        data = self.data.part(list(some))
        return processes.agreed(lambda: float(log_likelihood(data, model, run.x).mean()))

    def _em(self, updates: int, batch: float = 1.0) -> EM:
        return EM(
            iterations=updates,
            frozen=0,
            estimate_mean=False,
            estimate_density=False,
            batch=batch,
            solver_steps=20,
            solver_tolerance=1e-4,
        )

    def _run(self, name: str, model: Model, estimator: EM, prior: Prior, x: torch.Tensor, seed: int) -> Reconstruction:
        report = None if self.report is None else partial(_named, self.report, name)
        run = reconstruct(
            self.data,
            model,
            estimator,
            prior=prior,
            seed=seed,
            start=x,
            moves=0,
            checkpoint=None if self.folder is None else self.folder / name,
            resume=self.resume,
            batch_size=len(self.data),
            report=report,
        )
        self.runs[name] = run
        return run

    def _views(self, count: int) -> Projection:
        return Projection(rotation.super_fibonacci(count).to(self.device))

    def _model(self, views: int, radius: int, noise: Coloured | None) -> Model:
        placement = Centred(self.job.max_shift, radius=radius)
        return Model(Voxels(self.data.box), self._views(views), placement, noise=noise or self._powers())

    def _powers(self) -> Coloured:
        """Power of the images per shell: more than that of the noise, which flattens the first posteriors.

        Shells outside of the band keep it until they come in.
        """
        band = Centred().band(self.data.box)
        some = self.data.images(range(0, len(self.data), max(1, len(self.data) // 2000)))
        found = band.coefficients(some.double())
        power = band.shell_mean((found.real.square() + found.imag.square()).mean(0))
        power[0] = power[1]
        return Coloured(tuple(power.clamp(min=1e-12 * float(power.max())).tolist()))

    def _learned(self, run: Reconstruction, prior: Prior) -> Prior:
        """The prior with shells whose power is that of the map and of its error (an update of EM in tau^2)."""
        shells = next(part for part in prior.priors if isinstance(part, Shells))  # type: ignore[attr-defined]
        density = weighed(self.data, run.model, run.x).density.cpu()
        box = self.data.box
        power = slices_to_map.shell_power(run.x.view((box,) * 3).cpu(), len(shells.tau2) - 1)
        old = torch.tensor(shells.tau2, dtype=torch.float64)
        known = torch.zeros_like(old)
        known[: min(len(old), len(density))] = density[: len(old)]
        new = torch.where(known > 0, power + 1 / (known + 1 / old), old)
        new = new.clamp(min=1e-6 * float(new.max()))
        return self._prior(Shells(tuple(new.tolist())), run.x)

    def _prior(self, shells: Shells, x: torch.Tensor) -> Both:
        inside = fourier.distances((self.data.box,) * 3, device=x.device) <= self.mask
        deviation = float(x.view(inside.shape)[inside].std())
        return Both((shells, Support(self.mask, max(_OUTSIDE * deviation, 1e-12))))


def _named(report: Report, stage: str, name: str, row: dict[str, float]) -> None:
    report(stage, row)
