"""The main jobs, as short readable functions from files to an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from unpicked.data.maps import Map
from unpicked.data.micrographs import Micrographs
from unpicked.data.structure import Structure
from unpicked.estimators.em import EM, random_start, signal_power
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.placements import Anywhere
from unpicked.model.views import Projection
from unpicked.objects.ball import Ball, radial_counts
from unpicked.objects.base import Volume
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation
from unpicked.ops.window import crop_or_pad
from unpicked.preprocess import Prepared, prepare
from unpicked.priors import Flat, Prior, Ridge, globular
from unpicked.reconstruct import Reconstruction, Report, reconstruct
from unpicked.simulate.micrographs import Specimen
from unpicked.simulate.potential import atoms


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
    method: Literal["em"] = "em"
    """Estimator."""
    starts: int = 4
    """Random starts; the most likely one is refined."""
    views: tuple[int, ...] = (100, 400)
    """Number of views in each stage."""
    iterations: tuple[int, ...] = (12, 8)
    """Passes over the data in each stage, at most."""
    prior: Literal["ridge", "shells", "none"] = "ridge"
    """Belief about the volume: one variance for all coefficients, a spectrum of compact molecules, or none."""
    sigma: float | None = None
    """Standard deviation of the noise in the grey values of the data; estimated if not given."""
    density: float | None = None
    """Fraction of the micrographs' area that boxes of particles cover; estimated if not given."""
    moves: int = 1
    """Rounds of recentre moves tried on the answer of the first stage."""

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
        limit = (self.box / (2 * self.box - 1)) ** 2  # where no window of the box's size would be empty
        if self.density is not None and not 0 < self.density < limit:
            raise ValueError(
                f"--density must lie between 0 and {limit:.3f} for well separated particles in a box of {self.box}; "
                f"got {self.density}"
            )


@dataclass(frozen=True, eq=False)
class MicrographAnswer:
    """What came of a :class:`MicrographJob`.

    Attributes:
        map: the volume in the grey values of the data (a projection is a sum over voxels), matter bright.
        last: the last stage's run.
        stages: all stages' runs.
        prepared: the data as the estimator saw them.
        sigma: noise per working pixel, in the grey values of the data.
        notes: sentences: read, converted, assumed, tried, found.
    """

    map: Map
    last: Reconstruction
    stages: tuple[Reconstruction, ...]
    prepared: Prepared
    sigma: float
    notes: tuple[str, ...]

    def figures(self) -> dict[str, float]:
        """The figures of ``result.json``."""
        row = self.last.history[-1] if self.last.history else {}
        out = {
            name: row[name] for name in ("log_likelihood", "objective", "energy", "density", "particles") if name in row
        }
        return out | {"sigma": self.sigma, "snr_box": row.get("energy", math.nan) / self.map.box**2}


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
    model = Model(
        object,
        Projection(rotation.super_fibonacci(job.views[0]).to(device)),
        Anywhere(job.density or 0.1),
        noise=White(job.sigma or 1.0),
    )
    x = None if start is None else object.fit(start.values.double() / grey)
    power = signal_power(prepared.micrographs, model)
    prior = _prior(job, model, power)
    runs: list[Reconstruction] = []
    for stage, (views, iterations) in enumerate(zip(job.views, job.iterations, strict=True)):
        run = reconstruct(
            prepared.micrographs,
            replace(model, view=Projection(rotation.super_fibonacci(views).to(device))),
            EM(
                iterations=iterations,
                frozen=min(4, iterations),
                estimate_sigma=job.sigma is None,
                estimate_density=job.density is None,
            ),
            prior=prior,
            seed=seed,
            start=x,
            starts=job.starts,
            moves=job.moves if stage == 0 else 0,
            checkpoint=None if checkpoint is None else checkpoint / f"stage-{stage}",
            resume=resume,
            report=None if report is None else _named(report, f"stage {stage + 1} of {len(job.views)}", iterations),
        )
        runs.append(run)
        x, model = run.x, run.model
    values = runs[-1].map
    if values is None:
        raise ValueError(f"{object!r} has no map")
    return MicrographAnswer(
        map=Map(values.values.cpu() * grey, values.voxel_size),
        last=runs[-1],
        stages=tuple(runs),
        prepared=prepared,
        sigma=runs[-1].model.noise.sigma * prepared.scale,
        notes=(
            *prepared.notes,
            *_optics_note(prepared.micrographs),
            *notes,
            *(note for run in runs for note in run.notes),
        ),
    )


def specimen_from_structure(
    structure: Structure, box: int, voxel: float | None = None, *, b_factor: float = 60.0
) -> Specimen:
    """A structure, ready to be simulated: atoms on a fine grid of at most 1 angstrom and half the working voxel.

    Args:
        structure: heavy atoms.
        box: edge of a particle image in working pixels.
        voxel: working voxel size in angstrom; None lets the molecule fill 85 % of the box.
        b_factor: temperature factor of all atoms in square angstrom.

    Raises:
        ValueError: if the molecule is larger than the box.
    """
    probe, _ = atoms(structure, 1.0, box)
    diameter = 2 * float(probe.positions.norm(dim=1).max())
    if voxel is None:
        voxel = math.ceil(10 * diameter / (0.85 * box)) / 10
    if diameter > box * voxel:
        raise ValueError(
            f"the molecule of {diameter:.0f} A does not fit a box of {box} voxels of {voxel} A = {box * voxel:.0f} A; "
            "try a larger --box or --voxel"
        )
    oversampling = max(2, math.ceil(voxel))
    object, x = atoms(structure, voxel / oversampling, box * oversampling, b_factor=b_factor)
    return Specimen(object, x, box, voxel)


def specimen_from_map(map: Map, box: int, voxel: float | None = None) -> Specimen:
    """A map, ready to be simulated: its whole field of view, or that of ``box`` voxels of about ``voxel`` angstrom.

    The field of view is a whole number of the map's own voxels; the exact working voxel size is the specimen's.

    Raises:
        ValueError: if the map is coarser than the working voxel.
    """
    field = map.box if voxel is None else round(box * voxel / map.voxel_size)
    if field < box:
        raise ValueError(
            f"the map's voxels of {map.voxel_size} A are coarser than the working voxel of {voxel} A; "
            "try a larger --voxel"
        )
    values = crop_or_pad(map.values.double(), (field, field, field))
    fine = Map(values, map.voxel_size)
    if field < 2 * box:
        fine = fine.rescale(2 * box)
    object = Voxels(fine.box, pad=2)
    return Specimen(object, object.fit(fine.values), box, field * map.voxel_size / box)


def _object(job: MicrographJob) -> tuple[Volume, list[str]]:
    if job.object == "voxels":
        return Voxels(job.box), []
    best = max(degree for degree, count in enumerate(radial_counts(job.box, job.lmax)) if count)
    if best < job.lmax:
        note = f"lmax lowered from {job.lmax} to {best}: a box of {job.box} voxels cannot hold more"
        return Ball(job.box, best), [note]
    return Ball(job.box, job.lmax), []


def _prior(job: MicrographJob, model: Model, power: float) -> Prior:
    if job.prior == "none":
        return Flat()
    if job.prior == "shells":
        return globular(job.box, power)
    # the mean square of typical coefficients, the same in every run whatever its seed
    return Ridge(sum(float(random_start(model, power, seed).square().mean()) for seed in range(8)) / 8)


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
