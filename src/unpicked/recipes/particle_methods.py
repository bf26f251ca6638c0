"""First stages of a reconstruction from particles: each gives a map and poses from nothing, at a coarse pixel.

A search over all views, or a network that learns to read poses; what follows them is the same. A table of poses and
known poses stand for themselves: nothing follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from unpicked import processes
from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.estimators import search as searching
from unpicked.estimators.gradient import Gradient, Learned
from unpicked.estimators.poses import Encoder, Table
from unpicked.estimators.refine import Refine, poses_of, spreads
from unpicked.estimators.search import Search
from unpicked.model.centred import Centred
from unpicked.model.model import Model
from unpicked.model.views import Projection
from unpicked.objects.voxels import Voxels
from unpicked.ops import fourier, gridding, orientations, rotation, seeding
from unpicked.ops.band import Band
from unpicked.ops.gridding import Cube
from unpicked.recipes.particle_em import ParticleEMJob, from_particles_em
from unpicked.recipes.particle_job import ParticleJob
from unpicked.reconstruct import Reconstruction, Report, reconstruct

BRIGHT = 1000.0  # energy per particle above which posteriors must be flattened at first
FAINT = 250.0  # below which they need not be
JUDGED = 100  # images by which starts are compared, about, where none are kept apart
CROP = 16  # pixels that an encoder is shown
FIRST = 0.2  # part of an encoder's updates in the first run


@dataclass(frozen=True, eq=False)
class Found:
    """What one stage found.

    Attributes:
        run: its run.
        poses: of every image, shifts in angstrom.
        runs: all runs that it took, by name.
        notes: sentences on what was found.
        noise: power per coefficient of the shells, where it was learned; empty otherwise.
        spread: ``(n,)`` predicted standard deviation of every rotation in degrees, NaN where none is predicted.
    """

    run: Reconstruction
    poses: Poses
    runs: dict[str, Reconstruction]
    notes: tuple[str, ...] = ()
    noise: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    spread: torch.Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True, eq=False)
class Setting:
    """What all stages of one job share.

    Attributes:
        job: the settings.
        box: edge of the images in working pixels.
        seed: of everything random.
        start: map in place of random starts.
        folder: for checkpoints.
        resume: go on from that folder.
        report: called after every pass.
        device: "cpu" or "cuda".
        prefix: of the names of the runs.
    """

    job: ParticleJob
    box: int
    seed: int
    start: Map | None
    folder: Path | None
    resume: bool
    report: Report | None
    device: str
    prefix: str = ""

    def model(self, edge: int) -> Model:
        """Voxels at the centre of images of this edge."""
        views = Projection(rotation.super_fibonacci(8).to(self.device))
        return Model(Voxels(edge), views, Centred(self.job.max_shift))

    def first(self, edge: int) -> torch.Tensor | None:
        """The start map in the grey values of images of this edge."""
        if self.start is None:
            return None
        return (self.start.rescale(edge).values * (self.start.box / edge) ** 2).float().flatten()

    def solve(
        self,
        data: Particles,
        method: Search | Refine | Gradient,
        name: str,
        x: torch.Tensor | None,
        seed: int | None = None,
    ) -> Reconstruction:
        """One run on images of one size, from the map ``x``, with its own seed where one is given."""
        name = f"{self.prefix}{name}"
        report = self.report
        named = None
        if report is not None:
            named = partial(_named, report, name, method.iterations, getattr(method, "every", 1))
        return reconstruct(
            data,
            self.model(data.box),
            method,
            seed=self.seed if seed is None else seed,
            start=x,
            moves=0,
            checkpoint=None if self.folder is None else self.folder / name,
            resume=self.resume,
            batch_size=max(64, (1 << 25) // data.box**2 // 8),
            report=named,
        )

    def mask(self, edge: int, data: Particles) -> float | None:
        """Radius of the map's ball in pixels of images cropped to ``edge``."""
        pixel = data.pixel_size * data.box / edge
        return None if self.job.diameter is None else min(self.job.diameter / 2 / pixel, edge / 2 - 1)


def searched(setting: Setting, data: Particles) -> Found:
    """A map, poses and noise from random starts of a search over all views, or from the start map."""
    level = processes.agreed(lambda: apparent_energy(data, setting.device))
    search = schedule(level, data.box, setting.mask(data.box, data))
    keep = list(range(len(data)))
    apart = keep[::20] if len(data) >= 1000 and setting.job.starts > 1 else []
    fitted = data.part(sorted(set(keep) - set(apart))) if apart else data
    runs: dict[str, Reconstruction] = {}
    found: list[tuple[float, Reconstruction]] = []
    starts = 1 if setting.start is not None else setting.job.starts
    for number in range(starts):
        name = f"search-{number}"
        run = setting.solve(
            fitted, search, name, setting.first(data.box), seeding.derive(setting.seed, "search", number)
        )
        runs[f"{setting.prefix}{name}"] = run
        held = data.part(apart or keep[:: max(1, len(data) // JUDGED)])
        found.append((processes.agreed(partial(held_out, held, run)), run))
    best = max(range(starts), key=lambda number: found[number][0])
    run = found[best][1]
    notes = [
        f"search at {data.box} pixels of {data.pixel_size:.3g} A: apparent energy {level:.0f} per particle, "
        f"{search.iterations} updates of {min(search.batch, len(fitted))} images, temperature from "
        f"{search.temperature:.2g}"
    ]
    if starts > 1:
        told = ", ".join(f"{value:.2f}" for value, _ in found)
        which = "images kept apart" if apart else "all images" if len(data) < 2 * JUDGED else "some images"
        notes.append(f"{starts} starts: log-likelihood per image of {which} {told}; start {best} was kept")
    poses = searching.likeliest(data, run.model, run.state, search)[0]
    return Found(run, poses, runs, tuple(notes), run.state["noise"])


def encoded(setting: Setting, data: Particles) -> Found:
    """A map and poses from an encoder of random weights, in two runs.

    The first finds the map and which way an image is turned, in a growing band; the second begins with its map and
    weights, forgets its momentum, reads all frequencies, and ends with short steps. On clean images of 32 pixels steps
    of 1e-3 at its beginning are what brings the error below 3 degrees: with 3e-4 it ends at 5.
    """
    job, runs, name = setting.job, {}, "encoder"
    seed = seeding.derive(setting.seed, name)
    run = setting.solve(data, long_steps(data, job), f"{name}-0", setting.first(data.box), seed)
    runs[f"{setting.prefix}{name}-0"] = run
    short, seed = short_steps(data, job, Learned.of(run.state)), seeding.derive(setting.seed, name, 1)
    run = runs[f"{setting.prefix}{name}-1"] = setting.solve(data, short, f"{name}-1", run.x, seed)
    row = run.history[-1]
    count = short.poses.count
    note = (
        f"encoder at {data.box} pixels of {data.pixel_size:.3g} A, {count} poses per image ({job.branches}, "
        f"{job.rotation}): {job.steps} updates of {short.batch} images, misfit "
        f"{row['mean_loss']:.3g} of the images' power"
    )
    if short.poses.outputs > 1:
        note += f", {row['heads']:.1f} of {short.poses.outputs} heads in use"
    return Found(run, short.poses_of(run.model, run.state, data), runs, (note,))


def long_steps(data: Particles, job: ParticleJob) -> Gradient:
    """The first updates of an encoder: from random weights, in a growing band."""
    return Gradient(
        _encoder(data, job, learning_rate=1e-3, least_rate=3e-4, settled=0.4),
        max(1, round(FIRST * job.steps)),
        map_rate=0.2,
        least_map_rate=0.05,
        first_radius=max(2, round((data.box - 1) // 2 / 3)),
        growth=0.3,
        every=max(1, job.steps // 20),
    )


def short_steps(data: Particles, job: ParticleJob, begin: Learned | None = None) -> Gradient:
    """The updates that follow, with what the first have learned."""
    return Gradient(
        _encoder(data, job, learning_rate=1e-3, least_rate=1e-5, settled=0.0, spread=0.0),
        max(1, job.steps - round(FIRST * job.steps)),
        map_rate=0.1,
        least_map_rate=0.01,
        every=max(1, job.steps // 20),
        begin=begin,
    )


def _encoder(data: Particles, job: ParticleJob, **rates: Any) -> Encoder:
    return Encoder(
        rotation=job.rotation,
        branches=job.branches,
        heads=job.heads or (16 if job.branches == "heads" else 0),
        crop=min(CROP, data.box),
        flip_phases=data.optics is not None,
        shifts="estimated" if job.max_shift > 0 else "none",
        **rates,
    )


def tabled(setting: Setting, data: Particles) -> Found:
    """One pose per image by gradients, as published: the auto-decoder, with nothing after it."""
    job = setting.job
    shifts: Literal["none", "estimated"] = "estimated" if job.max_shift > 0 else "none"
    method = Gradient(Table(shifts), job.steps, every=max(1, job.steps // 20))
    run = setting.solve(replace(data, poses=None), method, "table", setting.first(data.box))
    poses = method.poses_of(run.model, run.state, data)
    note = f"table: {job.steps} updates, misfit {run.history[-1]['mean_loss']:.3g} of the images' power"
    spread = torch.full((len(data),), math.nan)
    return Found(run, poses, {f"{setting.prefix}table": run}, (note,), spread=spread)


def known(setting: Setting, data: Particles) -> Found:
    """The map of the poses that came with the data."""
    limit = (data.box - 1) // 2
    method = Refine(3, (limit, limit), rescues=0, steps=0, mask=setting.mask(data.box, data), solver_steps=30)
    run = setting.solve(data, method, "known", None)
    return Found(run, poses_of(run.state), {f"{setting.prefix}known": run}, spread=spreads(run.state))


def marginalised(setting: Setting, data: Particles) -> Found:
    """Classical maximum likelihood, all views and shifts marginalised to the end."""
    job = setting.job
    method: Literal["em", "sgd"] = "sgd" if job.method == "sgd" else "em"
    found = from_particles_em(
        replace(data, notes=()),
        ParticleEMJob(method, job.max_shift, None, job.diameter, job.starts),
        seed=setting.seed,
        start=setting.start,
        checkpoint=None if setting.folder is None else setting.folder / f"{setting.prefix}{method}",
        resume=setting.resume,
        report=setting.report,
        device=setting.device,
    )
    runs = {f"{setting.prefix}{name}": run for name, run in found.stages.items()}
    return Found(found.last, found.poses, runs, found.notes, spread=torch.full((len(data),), math.nan))


STARTS: dict[str, Callable[[Setting, Particles], Found]] = {"auto": searched, "search": searched, "encoder": encoded}
"""Methods of the first, coarse stage, from which poses are refined."""
WHOLE: dict[str, Callable[[Setting, Particles], Found]] = {
    "table": tabled,
    "known": known,
    "em": marginalised,
    "sgd": marginalised,
}
"""Methods at the working pixel that nothing follows."""


def _named(report: Report, stage: str, iterations: int, every: int, name: str, row: dict[str, float]) -> None:
    left = max(0.0, iterations - 1 - row["step"]) / every * row["seconds"]
    report(stage, row | {"passes": float(iterations), "seconds_left": left})


def schedule(energy: float, box: int, mask: float | None) -> Search:
    """Updates that suit particles of this energy: faint ones take more, of more images, and no temperature."""
    last = low_band(box)
    radius = (min(4, last - 1), last)
    if energy >= BRIGHT:
        return Search(25, 1000, radius=radius, mask=mask)
    temperature = 1.0 + 3.0 * max(0.0, (energy - FAINT) / (BRIGHT - FAINT))
    return Search(40, 2000, radius=radius, temperature=temperature, mask=mask)


def low_band(box: int) -> int:
    """Largest frequency of the search in Fourier pixels: a molecule that fills the box shows its views up to there."""
    return min(9, (box - 1) // 2)


def apparent_energy(data: Particles, device: str = "cpu") -> float:
    """Mean power of the images above that of the noise, over the latter: E where noise is white.

    The noise is taken from the outermost shells or from the corners of the images, whichever is less.
    """
    band = Band(data.box, (data.box - 1) // 2)
    images = data.images(range(0, len(data), max(1, len(data) // 1000))).to(device, torch.float32)
    found = band.coefficients(images)
    power = band.shell_mean((found.real.square() + found.imag.square()).mean(0)).double()
    corners = images[:, (fourier.distances(data.shape) > data.box / 2).to(device)]
    outside = float(corners.double().var(1, correction=0).mean())
    floor = min(float(power[-max(1, len(power) // 8) :].mean()), outside)
    counts = 2 * torch.bincount(band.shells, minlength=len(power)).to(power)
    ratio = float((counts * (power - floor).clamp(min=0)).sum()) / max(floor, 1e-12 * float(power.max()))
    return float(f"{ratio:.2g}")  # the same number on another machine


def held_out(data: Particles, run: Reconstruction) -> float:
    """Log-likelihood per image, views marginalised, of the map and the noise that a search ended with."""
    state, box = run.state, data.box
    radius = len(state["noise"]) - 1
    band = Band(box, radius)
    cube = Cube(box, radius)
    grid = rotation.super_fibonacci(9216).to(state["x"])
    slices = gridding.read(cube, gridding.spectrum(state["x"].view((box,) * 3), cube), grid, band.points)
    noise = state["noise"][band.shells.to(state["noise"].device)].float()
    images = searching.coefficients(data, range(len(data)), band, state["x"].device)
    ramps = band.ramp(orientations.shift_grid(float(state["reach"])).to(state["x"]))
    found = [rows.flatten(1).logsumexp(1).double() for _, rows in orientations.scores(images, slices, noise, ramps)]
    sums = torch.cat(found).sum() - len(data) * math.log(len(slices) * len(ramps))
    square = images.coefficients.real.square() + images.coefficients.imag.square()
    empty = -(square / noise).sum(dtype=torch.float64) - len(data) * (math.pi * noise.double()).log().sum()
    return float(sums + empty) / len(data)
