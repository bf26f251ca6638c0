"""From a stack of particle images to a volume and poses: a short readable function.

Images are cropped to a coarse pixel first, where a search over all views from random starts costs seconds; poses are
then fitted image by image, and carried to finer pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.estimators import search as searching
from unpicked.estimators import slices_to_map
from unpicked.estimators.refine import Refine, poses_of, spreads
from unpicked.estimators.search import Search
from unpicked.evaluate.halves import Halves, halves
from unpicked.model.centred import Centred
from unpicked.model.model import Model
from unpicked.model.views import Projection
from unpicked.objects.voxels import Voxels
from unpicked.ops import fourier, gridding, orientations, rotation, seeding
from unpicked.ops.band import Band
from unpicked.ops.gridding import Cube
from unpicked.reconstruct import Reconstruction, Report, reconstruct

COARSE = 32  # pixels of the first stage
BRIGHT = 1000.0  # energy per particle above which posteriors must be flattened at first
FAINT = 250.0  # below which they need not be
SOFT = 300.0  # below which a pose is too uncertain to be taken as known


@dataclass(frozen=True)
class ParticleJob:
    """How to reconstruct a volume from a stack of particles; the flags of ``unpicked reconstruct particles``."""

    method: Literal["auto", "search", "known", "em", "sgd"] = "auto"
    """auto and search: views are searched from random starts, then poses are fitted image by image, from coarse to fine
    pixels; known: the poses of the data (or of --poses) are taken as they are; em and sgd: classical marginalised
    maximum likelihood, with all images in every update or a few at a time."""
    max_shift: float = 0.0
    """Farthest that a particle's centre may lie from that of its image, in angstrom; 0 takes images as centred."""
    voxel: float | None = None
    """Working voxel size in angstrom: images are cropped to the nearest even size. The pixel size if not given."""
    diameter: float | None = None
    """Of the particle, in angstrom: the map is zero outside this ball. Nearly the box if not given."""
    starts: int = 3
    """Random starts of the search; the one most likely on images kept apart goes on."""
    rounds: int = 6
    """Rounds of fitting poses and solving the map at every pixel size."""
    halves: bool = False
    """Solve two halves of the images as well, from starts of their own, and compare them."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_shift) and self.max_shift >= 0):
            raise ValueError(f"--max-shift must not be negative, in angstrom; got {self.max_shift}")
        if self.voxel is not None and not (math.isfinite(self.voxel) and self.voxel > 0):
            raise ValueError(f"--voxel must be positive, in angstrom; got {self.voxel}")
        if self.diameter is not None and not self.diameter > 0:
            raise ValueError(f"--diameter must be positive, in angstrom; got {self.diameter}")
        if self.starts < 1:
            raise ValueError(f"--starts must be at least 1; got {self.starts}")
        if self.rounds < 1:
            raise ValueError(f"--rounds must be at least 1; got {self.rounds}")


@dataclass(frozen=True, eq=False)
class ParticleAnswer:
    """What came of a :class:`ParticleJob`.

    Attributes:
        map: the volume in the grey values of the data, matter bright.
        poses: of every image, shifts in angstrom.
        spread: ``(n,)`` predicted standard deviation of every rotation in degrees.
        last: the last stage's run.
        stages: all stages' runs, with those of the halves, by name.
        data: the images at the working pixel.
        notes: sentences: read, converted, assumed, tried, found.
        halves: the two half maps, the second aligned to the first, and what comparing them gave.
    """

    map: Map
    poses: Poses
    spread: torch.Tensor
    last: Reconstruction
    stages: dict[str, Reconstruction]
    data: Particles
    notes: tuple[str, ...]
    halves: tuple[Map, Map, Halves] | None = None

    def figures(self) -> dict[str, Any]:
        """The figures of ``result.json``."""
        row = self.last.history[-1]
        out: dict[str, Any] = {
            "sigma": row["sigma"],
            "log_likelihood": row.get("log_likelihood"),
            "energy": row["energy"],
            "particles": float(len(self.data)),
        }
        if bool(torch.isfinite(self.spread).all()):
            out["pose_spread_deg"] = float(self.spread.median())
        if self.halves is not None:
            out["halves"] = self.halves[2].to_json()
        return out


def working(data: Particles, voxel: float | None) -> int:
    """Edge in working pixels: the even size nearest to the wanted voxel.

    Raises:
        ValueError: for a voxel finer than the pixel, or so coarse that fewer than 8 pixels remain.
    """
    if voxel is None:
        return data.box
    size = 2 * round(data.box * data.pixel_size / voxel / 2)
    if voxel < data.pixel_size * (1 - 1e-6):
        raise ValueError(f"--voxel must be at least the pixel size, {data.pixel_size:g} A; got {voxel:g}")
    if size < 8:
        raise ValueError(f"--voxel {voxel:g} leaves {size} of {data.box} pixels; give a finer one")
    return min(size, data.box)


def ready(data: Particles, job: ParticleJob, start: Map | None = None) -> None:
    """Refuse what cannot work before anything is written.

    Raises:
        ValueError: for known poses that are not there, too few images, a bad voxel or a start map of another field.
    """
    if job.method == "known" and data.poses is None:
        raise ValueError("--method known needs poses in the data; give them by --poses FILE.star")
    least = 4 if job.halves else 2
    if len(data) < least:
        raise ValueError(
            f"{'two half maps need' if job.halves else 'a map needs'} at least {least} images; got {len(data)}"
        )
    box = working(data, job.voxel)
    field = data.box * data.pixel_size
    if 2 * job.max_shift >= field:
        raise ValueError(f"--max-shift must be below half the box, {field / 2:g} A; got {job.max_shift:g}")
    if start is not None and abs(start.box * start.voxel_size - field) > 0.01 * field:
        raise ValueError(
            f"the start map's field of view must be that of the images, {field:.1f} A; got "
            f"{start.box * start.voxel_size:.1f} A; crop or pad it"
        )
    if box < 16:
        raise ValueError(f"images of {box} working pixels are too coarse for a search; give a finer --voxel")


def sizes(box: int) -> tuple[int, ...]:
    """Edges of the images in the stages: 32, 64, 128 ... and the working one."""
    found = [min(COARSE, box)]
    while 2 * found[-1] < box:
        found.append(2 * found[-1])
    if found[-1] < box:
        if box < 1.5 * found[-1] and len(found) > 1:
            found.pop()
        found.append(box)
    return tuple(found)


def from_particles(
    data: Particles,
    job: ParticleJob,
    *,
    seed: int = 0,
    start: Map | None = None,
    checkpoint: Path | str | None = None,
    resume: bool = False,
    report: Report | None = None,
    device: str = "cpu",
) -> ParticleAnswer:
    """Reconstruct a volume and the poses of all images.

    Args:
        data: images, matter bright.
        job: settings.
        seed: of everything random.
        start: map in place of random starts, on any grid of the images' field of view.
        checkpoint: folder for the state of every sub-run.
        resume: go on from that folder.
        report: called after every pass with the stage and its figures.
        device: "cpu" or "cuda".

    Raises:
        ValueError: for settings that do not fit the data.
    """
    ready(data, job, start)
    folder = Path(checkpoint) if checkpoint is not None else None
    solve = _marginalised if job.method in ("em", "sgd") else _in_stages
    options = {"start": start, "resume": resume, "report": report, "device": device}
    answer = solve(data, job, seed, folder, **options)
    if not job.halves:
        return replace(answer, notes=(*data.notes, *answer.notes))
    stages, notes, found = dict(answer.stages), list(answer.notes), []
    for number, indices in enumerate(data.split(seed), 1):
        own = None if folder is None else folder / f"half-{number}"
        half = solve(data.part(indices), job, seeding.derive(seed, "half", number), own, **options)
        stages |= {f"half-{number}-{name}": run for name, run in half.stages.items()}
        notes += [f"half {number}: {sentence}" for sentence in half.notes]
        found.append(half.map)
    judged, moved = halves(found[0], found[1], shared_start=start is not None or job.method == "known")
    return replace(answer, stages=stages, notes=(*data.notes, *notes), halves=(found[0], moved, judged))


def _in_stages(data: Particles, job: ParticleJob, seed: int, folder: Path | None, **options: Any) -> ParticleAnswer:
    """Search, then refinement from coarse to fine pixels; or known poses."""
    box = working(data, job.voxel)
    pipeline = _Pipeline(job, box, seed, folder, **options)
    last, stages, notes = pipeline.run(data)
    map, poses = _result(last, data, box, pipeline.mask(box, data))
    spread = spreads(last.state).cpu()
    return ParticleAnswer(map, poses, spread, last, stages, replace(data, poses=None), tuple(notes))


def _marginalised(data: Particles, job: ParticleJob, seed: int, folder: Path | None, **options: Any) -> ParticleAnswer:
    """Classical maximum likelihood, all views and shifts marginalised."""
    from unpicked.recipes.particle_em import ParticleEMJob, from_particles_em

    method: Literal["em", "sgd"] = "sgd" if job.method == "sgd" else "em"
    own = ParticleEMJob(method, job.max_shift, job.voxel, job.diameter, job.starts)
    found = from_particles_em(replace(data, notes=()), own, seed=seed, checkpoint=folder, **options)
    unknown = torch.full((len(data),), math.nan)
    return ParticleAnswer(
        found.map, found.poses, unknown, found.last, found.stages, replace(data, poses=None), found.notes
    )


@dataclass(frozen=True, eq=False)
class _Pipeline:
    """The stages, run on all images or on some of them."""

    job: ParticleJob
    box: int
    seed: int
    folder: Path | None
    start: Map | None
    resume: bool
    report: Report | None
    device: str

    def run(self, data: Particles) -> tuple[Reconstruction, dict[str, Reconstruction], list[str]]:
        """The last run, all of them by name, and sentences on what was found."""
        if self.job.method == "known":
            fine = data if self.box == data.box else data.cropped(self.box)
            limit = (self.box - 1) // 2
            known = Refine(3, (limit, limit), rescues=0, steps=0, mask=self.mask(fine.box, fine), solver_steps=30)
            run = self._solve(fine, known, "known", None)
            return run, {"known": run}, []
        runs: dict[str, Reconstruction] = {}
        notes: list[str] = []
        edges, x, poses, noise = sizes(self.box), torch.empty(0), data.poses, torch.empty(0)
        faint = False
        for stage, edge in enumerate(edges):
            coarse = replace(data if edge == data.box else data.cropped(edge), poses=None, notes=())
            limit = (edge - 1) // 2
            if stage == 0:
                x, poses, noise, level, said = self._searched(coarse, runs)
                notes += said
                faint, first = level < SOFT, round(0.6 * limit)
                if faint:
                    x, noise = self._soft(coarse, runs, x)
                    notes.append(
                        f"particles this faint do not tell their poses one by one: views stay marginalised to the end, "
                        f"at {edge} pixels"
                    )
            else:
                values = fourier.resize_volume(x.view((edges[stage - 1],) * 3), edge)
                x, first = values.flatten(), (edges[stage - 1] - 1) // 2
            refine = Refine(
                1 if faint else self.job.rounds if stage == 0 else max(3, self.job.rounds - 2),
                (first, first) if faint else (first, limit),
                rescues=3 if stage == 0 else 0,
                rescue_radius=first,
                candidates=2,
                steps=4 if stage == 0 else 2,
                turn=8.0 if stage == 0 else 3.0,
                mask=self.mask(coarse.box, coarse),
                solve=not faint,
                noise=tuple(noise.tolist()),
            )
            run = self._solve(replace(coarse, poses=poses), refine, f"refine-{edge}", x)
            runs[f"refine-{edge}"] = run
            x, poses, noise = run.x, poses_of(run.state), run.state["noise"]
        return run, runs, notes

    def _soft(
        self, data: Particles, runs: dict[str, Reconstruction], x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map and noise with views marginalised on finer grids and in a wider band."""
        limit = (data.box - 1) // 2
        method = Search(
            12,
            5000,
            views=(4608, 18_432),
            radius=(round(0.6 * limit), limit),
            temperature=1.0,
            regularisation=0.1,
            memory=0.0,
            mask=self.mask(data.box, data),
        )
        run = self._solve(data, method, "soft", x)
        runs["soft"] = run
        return run.x, run.state["noise"]

    def _searched(
        self, data: Particles, runs: dict[str, Reconstruction]
    ) -> tuple[torch.Tensor, Poses, torch.Tensor, float, list[str]]:
        """A map, poses, noise and apparent energy from random starts, or from the start map."""
        level = apparent_energy(data, self.device)
        search = schedule(level, data.box, self.mask(data.box, data))
        keep = list(range(len(data)))
        apart = keep[::20] if len(data) >= 1000 and self.job.starts > 1 else []
        fitted = data.part(sorted(set(keep) - set(apart))) if apart else data
        found: list[tuple[float, Reconstruction]] = []
        starts = 1 if self.start is not None else self.job.starts
        for number in range(starts):
            first = None
            if self.start is not None:
                first = self.start.rescale(data.box).values * (self.start.box / data.box) ** 2
                first = first.float().flatten()
            name = f"search-{number}"
            run = self._solve(fitted, search, name, first, seeding.derive(self.seed, "search", number))
            runs[name] = run
            held = data.part(apart) if apart else data
            found.append((held_out(held, run), run))
        best = max(range(starts), key=lambda number: found[number][0])
        run = found[best][1]
        notes = [
            f"search at {data.box} pixels of {data.pixel_size:.3g} A: apparent energy {level:.0f} per particle, "
            f"{search.iterations} updates of {min(search.batch, len(fitted))} images, temperature from "
            f"{search.temperature:.2g}"
        ]
        if starts > 1:
            told = ", ".join(f"{value:.2f}" for value, _ in found)
            which = "images kept apart" if apart else "all images"
            notes.append(f"{starts} starts: log-likelihood per image of {which} {told}; start {best} was kept")
        poses = searching.likeliest(data, run.model, run.state, search)[0]
        return run.x, poses, run.state["noise"], level, notes

    def _solve(
        self, data: Particles, method: Search | Refine, name: str, x: torch.Tensor | None, seed: int | None = None
    ) -> Reconstruction:
        model = Model(
            Voxels(data.box),
            Projection(rotation.super_fibonacci(8).to(self.device)),
            Centred(self.job.max_shift),
        )
        report = self.report
        named = None
        if report is not None:
            named = partial(_named, report, name, method.iterations)
        return reconstruct(
            data,
            model,
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


def _named(report: Report, stage: str, iterations: int, name: str, row: dict[str, float]) -> None:
    left = max(0.0, iterations - 1 - row["step"]) * row["seconds"]
    report(stage, row | {"passes": float(iterations), "seconds_left": left})


def schedule(energy: float, box: int, mask: float | None) -> Search:
    """Updates that suit particles of this energy: faint ones take more, of more images, and no temperature."""
    limit = (box - 1) // 2
    radius = (max(2, round(limit * 4 / 15)), max(3, round(limit * 0.6)))
    if energy >= BRIGHT:
        return Search(25, 1000, radius=radius, mask=mask)
    temperature = 1.0 + 3.0 * max(0.0, (energy - FAINT) / (BRIGHT - FAINT))
    return Search(40, 2000, radius=radius, temperature=temperature, regularisation=0.3, mask=mask)


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
    spectrum = gridding.spectrum(state["x"].view((box,) * 3), cube)
    slices = gridding.read(cube, spectrum, grid, band.points)
    noise = state["noise"][band.shells.to(state["noise"].device)].float()
    images = searching.coefficients(data, range(len(data)), band, state["x"].device)
    ramps = band.ramp(orientations.shift_grid(float(state["reach"])).to(grid))
    sums = orientations.posterior_sums(images, slices, noise, ramps)
    square = images.coefficients.real.square() + images.coefficients.imag.square()
    empty = -(square / noise).sum(dtype=torch.float64) - len(data) * (math.pi * noise.double()).log().sum()
    return float(sums.log_likelihood + empty) / len(data)


def _result(run: Reconstruction, data: Particles, box: int, mask: float | None) -> tuple[Map, Poses]:
    """The map in the data's grey values, and the poses."""
    pixel = data.pixel_size * data.box / box
    values = _on_zero(run.x.view((box,) * 3).cpu(), mask) * (box / data.box)
    found = poses_of(run.state)
    return Map(values, pixel), Poses(found.rotations.cpu(), found.shifts.cpu())


def _on_zero(values: torch.Tensor, mask: float | None) -> torch.Tensor:
    """The map on a background of zero: the means of images are no data, so that a constant in the ball is free."""
    box = values.shape[0]
    ball = slices_to_map.soft_mask(box, mask, values)
    radius = fourier.distances(values.shape)
    edge = float(radius[ball > 0.5].max())
    rim = (radius > 0.85 * edge) & (radius <= edge)
    return values - float(values[rim].median()) * ball
