"""From micrographs to a volume without picking: a short readable function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unpicked import processes, whitening
from unpicked._lazy import torch
from unpicked.data.gains import Gains
from unpicked.data.maps import Map
from unpicked.data.micrographs import Micrographs
from unpicked.evaluate.halves import Halves, halves
from unpicked.model.directions import Directions
from unpicked.model.gas import Gas, best_sites
from unpicked.model.placements import through_of
from unpicked.ops import filters, fourier, seeding
from unpicked.preprocess import Prepared, prepare
from unpicked.recipes import denoisers, moment_starts, parts, structures
from unpicked.recipes.job import MicrographJob
from unpicked.recipes.stages import Stages
from unpicked.reconstruct import Reconstruction, Report

if TYPE_CHECKING:
    Start = Map | Literal["autocorrelation"] | None  # a map, what moments of the same data tell, or random starts


@dataclass(frozen=True, eq=False)
class MicrographAnswer:
    """What came of a :class:`MicrographJob`.

    Attributes:
        map: the volume in the grey values of the data (a projection is a sum over voxels), matter bright, within the
            ball of the box's diameter.
        last: the last stage's run; its object is the mean where several starts were averaged.
        stages: all stages' runs, with those of rival starts and of the halves, by name.
        prepared: the data as the estimator saw them.
        sigma: noise per working pixel, in the grey values of the data.
        notes: sentences: read, converted, assumed, tried, found.
        data_share: per Fourier shell, the share of what is known that comes from the data; at most that where the
            solver took no information.
        data_share_kind: of what it is a share, see :func:`unpicked.recipes.parts.share`.
        halves: the two half maps, the second aligned to the first, and what comparing them gave.
        gallery: the likeliest particles of the first micrograph beside the projections that explain them, and where
            particles are.
        gains: by which the micrographs were whitened at the end, or None.
    """

    map: Map
    last: Reconstruction
    stages: dict[str, Reconstruction]
    prepared: Prepared
    sigma: float
    notes: tuple[str, ...]
    data_share: tuple[float, ...] = ()
    data_share_kind: str = "precision"
    halves: tuple[Map, Map, Halves] | None = None
    gallery: dict[str, torch.Tensor] | None = None
    gains: Gains | None = None

    @property
    def seen(self) -> Directions | None:
        """The density of directions of view in the frame of the map, where it was estimated."""
        return parts.seen(self.last)

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
            out["data_share_kind"] = self.data_share_kind
            out["data_share_observed"] = self.last.information is not None
        if self.seen is not None:
            out["views"] = self.seen.to_json()
        if self.halves is not None:
            out["halves"] = self.halves[2].to_json()
        return out


def ready(data: Micrographs, job: MicrographJob, start: Start = None) -> Prepared:
    """Prepare micrographs for a job, and find whatever is wrong with them before anything else is done.

    Every micrograph is read once, by one process; those that fit in memory are kept.

    Raises:
        ValueError: for damaged, constant or not finite micrographs, a box or voxel that does not fit them, a start map
            of another size or voxel, or a start that cannot be had.
    """
    if job.ignore_ctf:
        data = replace(data, optics=None)
    if start is not None and job.structures:
        raise ValueError("--structures give a start, in a frame of their own; leave them or --start out")
    coloured = job.coloured(optics=data.optics is not None)
    if job.likelihood.startswith("patches") and (coloured or data.optics is not None):
        raise ValueError(
            f"--likelihood {job.likelihood} knows neither contrast transfer nor coloured noise; "
            "try --likelihood gas, or --ignore-ctf --noise white"
        )
    if job.method == "autocorrelation" and data.optics is not None:
        raise ValueError("--method autocorrelation knows no contrast transfer; try --ignore-ctf, or --method em")
    if job.method == "autocorrelation" and data.masks is not None:
        raise ValueError("--method autocorrelation knows no masks; leave them and the masked micrographs out")
    if coloured and job.sigma is not None:
        raise ValueError("--sigma is for white noise; leave it out, or try --noise white")
    prepared = prepare(data, voxel_size=job.voxel, normalise=job.sigma is None)
    working = prepared.micrographs
    if coloured:
        whitening.tile(working.shape)
    if min(working.shape) < job.box:
        raise ValueError(
            f"--box {job.box} does not fit micrographs of {_by(working.shape)} working pixels; "
            "try a smaller box or a finer --voxel"
        )
    if isinstance(start, str):
        moment_starts.check(job, working)
    elif start is not None and (start.box != job.box or abs(start.voxel_size / working.pixel_size - 1) > 0.01):
        raise ValueError(
            f"--start must be a map of {job.box} voxels of {working.pixel_size:.4g} A; "
            f"got {start.box} of {start.voxel_size:.4g} A; rescale it first"
        )
    parts.check_solver(job, parts.volume(job)[0])
    if job.structures:
        structures.given(job.structures, job.box, working.pixel_size)
    if job.denoiser:
        denoisers.tried(job.denoiser, job.box)
    least = max(1, len(data) // 2) if job.halves else len(data)
    if job.held_out >= least:
        raise ValueError(f"--held-out must leave a micrograph to fit; got {job.held_out} of {least}")
    prepared.source.learn(processes.mapped(prepared.source.correction, len(data)))
    if not prepared.scale > 0:
        raise ValueError("the micrographs hold no noise: their robust standard deviation is 0")
    return prepared


def from_micrographs(
    data: Micrographs | Prepared,
    job: MicrographJob,
    *,
    seed: int = 0,
    start: Start = None,
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
        start: map to start from, or "autocorrelation": beside random starts the volume, density and noise level that
            the moments of the data tell; None means random starts.
        checkpoint: folder for the state of every stage.
        resume: go on from that folder.
        device: torch device of the computation.
        report: called after every pass with the sub-run's name and its figures.

    Raises:
        ValueError: for settings that do not fit the data.
    """
    prepared = data if isinstance(data, Prepared) else ready(data, job, start)
    start = begun(prepared, job, start)
    whole, grey = prepared.micrographs, grey_value(prepared)
    solve, notes = stages(prepared, job, start, device=device, resume=resume, report=report)
    found = solve(whole, seed=seed, checkpoint=checkpoint).solve()
    last, runs, before = found.last, found.runs, found.before
    halved = None
    if job.halves:
        maps = []
        for number, half in enumerate(whole.split(), 1):
            own = seeding.derive(seed, "half", number)
            place = None if checkpoint is None else checkpoint / f"half-{number}"
            own_answer = solve(half, seed=own, checkpoint=place, name=f"half-{number} ").solve()
            maps.append(_grey(own_answer.last, grey))
            runs |= own_answer.runs
            before = before | own_answer.before
        compared, second = halves(maps[0], maps[1], shared_start=isinstance(start, Map))
        halved = (maps[0], second, compared)
    share, kind = parts.share(last)
    shown = whole if found.gains is None else whitening.whitened(whole, found.gains)
    return MicrographAnswer(
        map=_inside(_grey(last, grey)),
        last=last,
        stages=before | runs,
        prepared=prepared,
        sigma=_sigma(last) * prepared.scale,
        notes=(
            *prepared.notes,
            *notes_of_transfer(whole, ignored=job.ignore_ctf),
            *notes_of_noise(found.gains),
            *_view_notes(job, parts.seen(last)),
            *notes,
            "views: " + ", ".join(str(len(run.model.view)) for run in found.runs.values()),
            *parts.belief_note(next(iter(found.runs.values())), last),
            *found.notes,
            *(f"{name}: {note}" for name, run in runs.items() for note in run.notes),
        ),
        data_share=share,
        data_share_kind=kind,
        halves=halved,
        gallery=processes.first(lambda: _gallery(last, shown, seed)),
        gains=found.gains,
    )


def begun(prepared: Prepared, job: MicrographJob, start: Start) -> Start:
    """The start map, or where there are --structures their mean; None means random starts."""
    if start is not None or not job.structures:
        return start

    def mean() -> Map:
        solve, _ = stages(prepared, job, None, device="cpu", resume=False, report=None)
        first = solve(prepared.micrographs, seed=0)
        return Map(first.object.values(first.template()) * grey_value(prepared), prepared.micrographs.pixel_size)

    return processes.agreed(mean)


def stages(
    prepared: Prepared,
    job: MicrographJob,
    start: Start,
    *,
    device: str,
    resume: bool,
    report: Report | None,
    emptied: torch.Tensor | None = None,
) -> tuple[Callable[..., Stages], list[str]]:
    """What makes of micrographs, a seed and a folder (``checkpoint``) the stages of a job, and sentences on them.

    ``emptied`` are voxels of which --structures shall say nothing.

    Raises:
        ValueError: for a start that cannot be had.
    """
    if isinstance(start, str):
        moment_starts.check(job, prepared.micrographs)
    object, notes = parts.volume(job)
    pixel = prepared.micrographs.pixel_size
    given = structures.given(job.structures, job.box, pixel) if job.structures else None
    x = object.fit(start.values.double() / grey_value(prepared)) if isinstance(start, Map) else start
    optics = prepared.micrographs.optics is not None
    coloured = job.coloured(optics=optics)
    views, more = job.views, list[str]()
    if job.method == "em":
        views, more = parts.affordable(job, object, filtered=optics or coloured)
    solve = partial(
        Stages, job=replace(job, views=views), object=object, start=x, device=device, resume=resume, report=report,
        given=given, emptied=emptied, coloured=prepared.micrographs.gains is None and coloured,
    )  # fmt: skip
    return solve, notes + more


def grey_value(prepared: Prepared) -> float:
    """By which a map of prepared images is multiplied to have the grey values of the files.

    The Fourier crop keeps coefficients: its factor is undone.
    """
    return prepared.scale / prepared.source.grid.ratio**2


def _inside(map: Map) -> Map:
    """The map within the ball of the box's diameter: views that turn show no particle beyond it."""
    return Map(map.values * (fourier.distances(map.values.shape) <= map.box / 2), map.voxel_size)


def _grey(run: Reconstruction, grey: float) -> Map:
    if run.map is None:
        raise ValueError(f"{run.model.object!r} has no map")
    return Map(run.map.values.cpu() * grey, run.map.voxel_size)


def _gallery(run: Reconstruction, data: Micrographs, seed: int) -> dict[str, torch.Tensor] | None:
    """The likeliest particles of the first micrograph, as the lattice gas sees them."""
    model = run.model.measured(data)
    gas = replace(model.placement, likelihood=Gas())  # type: ignore[type-var]
    step = gas.step(model.templates(run.x).float(), model.log_weights, model.noise)
    return best_sites(step, data[0], 12, seed)


def fixed(prepared: Prepared, job: MicrographJob, gains: Gains | None = None) -> Prepared:
    """Micrographs as they are judged: whitened once and for all, so that every model explains the same numbers.

    Args:
        prepared: data.
        job: how they are reconstructed.
        gains: by which a run whitened them at the end; None: by what they hold, particles included.
    """
    data = prepared.micrographs
    if not job.coloured(optics=data.optics is not None) or data.gains is not None:
        return prepared
    return whitened_once(prepared, gains)


def whitened_once(prepared: Prepared, gains: Gains | None = None) -> Prepared:
    """Micrographs whitened by some gains, or by what they hold."""
    data = prepared.micrographs
    if gains is None:
        spectra = processes.mapped(lambda index: whitening.spectrum(data[index], data.mask(index)), len(data))
        gains = whitening.gains(spectra)
    return replace(prepared, micrographs=whitening.whitened(data, gains))


def _sigma(run: Reconstruction) -> float:
    """Noise per working pixel before it was whitened, by what the run saw."""
    through = through_of(run.model.placement)
    gains = None if through is None else through.gains
    if gains is None:
        return run.model.noise.sigma
    variances = [float(filters.lags(_power(gains, item), 1)[1, 1]) for item in range(min(len(gains), 8))]
    return run.model.noise.sigma * math.sqrt(sum(variances) / len(variances))


def _power(gains: Gains, item: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    return lambda fx, fy: gains.at(item, fx, fy).square().reciprocal()


def notes_of_transfer(data: Micrographs, *, ignored: bool = False) -> tuple[str, ...]:
    """A sentence on what the model knows of the optics."""
    if data.optics is None:
        return ("contrast transfer left out of the model" if ignored else "assumed: no contrast transfer function",)
    used = sorted(set(data.optics.group))
    centres = [(data.optics.defocus_u[group] + data.optics.defocus_v[group]) / 2e4 for group in used]
    return (f"contrast transfer modelled: {len(used)} settings, defocus {min(centres):.2f} to {max(centres):.2f} um",)


def notes_of_noise(gains: Gains | None) -> tuple[str, ...]:
    """A sentence on noise that is not taken for white."""
    if gains is None:
        return ()
    mean = torch.tensor(gains.curves, dtype=torch.float64).square().reciprocal().mean(0)
    return (
        "noise: its spectrum is measured in every micrograph, which is whitened; "
        f"its power varies by a factor {float(mean.max() / mean.min()):.3g} over frequencies",
    )


def _view_notes(job: MicrographJob, seen: Directions | None) -> tuple[str, ...]:
    """A sentence on from where the particles are seen."""
    if job.tilt is not None:
        missing = 100 * (1 - math.sin(math.radians(abs(job.tilt))))
        return (
            f"particles lie alike on a grid tilted by {job.tilt:g} degrees: the hand is that of this sign, and "
            f"{missing:.0f} % of Fourier space, about the grid's normal, is not seen",
        )
    if seen is None:
        return ("assumed: particles are seen from all sides alike",)
    return (
        f"directions of view estimated: spread over {100 * seen.share:.0f} % of the sphere; a direction of Fourier "
        f"space is sampled {seen.sampling[1]:.2f} to {seen.sampling[2]:.2f} times as often as by uniform views",
    )


def _by(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)
