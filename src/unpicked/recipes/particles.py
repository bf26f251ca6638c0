"""From a stack of particle images to a volume and poses: a short readable function.

Images are cropped to a coarse pixel first, where a search over all views from random starts costs seconds; poses are
then fitted image by image, and carried to finer pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unpicked import processes
from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.estimators import slices_to_map
from unpicked.estimators.refine import Refine, poses_of, spreads
from unpicked.estimators.search import Search
from unpicked.evaluate.halves import Halves, halves
from unpicked.ops import fourier, rotation, seeding
from unpicked.recipes.particle_job import ParticleJob, check_field, working
from unpicked.recipes.particle_methods import STARTS, WHOLE, Found, Setting, apparent_energy, low_band
from unpicked.reconstruct import Reconstruction, Report

__all__ = ["ParticleAnswer", "ParticleJob", "from_particles", "ready", "sizes", "working"]

COARSE = 32  # pixels of the first stage
SOFT = 300.0  # energy per particle below which a pose is too uncertain to be taken as known
FAR = 10.0  # degrees
GAP = 5.0  # degrees in the median by which refinement may move the poses of a first stage


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
        before: poses of the first stage, before they were refined; None where the method has one stage only.
    """

    map: Map
    poses: Poses
    spread: torch.Tensor
    last: Reconstruction
    stages: dict[str, Reconstruction]
    data: Particles
    notes: tuple[str, ...]
    halves: tuple[Map, Map, Halves] | None = None
    before: Poses | None = None

    def figures(self) -> dict[str, Any]:
        """The figures of ``result.json``."""
        row, spread = self.last.history[-1], float(self.spread.median())
        out: dict[str, Any] = {
            "sigma": row.get("sigma"),
            "log_likelihood": row["log_likelihood"] if "sigma" in row else None,
            "energy": row.get("energy"),
            "particles": len(self.poses),
            "pose_spread_deg": spread if math.isfinite(spread) else None,
        }
        if "loss" in row:  # by gradients: a misfit in parts of the images' power, and no noise level
            out["misfit"] = row["mean_loss"]
        if self.before is not None:
            out |= _moved(self.before, self.poses, "")[0]
        if self.halves is not None:
            out["halves"] = self.halves[2].to_json()
        return out


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
    check_field(data, job.max_shift, start)
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
    box = working(data, job.voxel)
    whole = Setting(job, box, seed, start, folder, resume, report, device)
    found, before = _stages(whole, data)
    notes, stages = list(found.notes), dict(found.runs)
    poses = Poses(found.poses.rotations.cpu(), found.poses.shifts.cpu())
    if before is not None:
        before = Poses(before.rotations.cpu(), before.shifts.cpu())
        if job.method == "encoder":
            notes.append(_moved(before, poses, job.method)[1])
    pair = None
    if job.halves:
        maps = []
        for number, indices in enumerate(data.split(seed), 1):
            own = replace(whole, seed=seeding.derive(seed, "half", number), prefix=f"half-{number}-")
            half, _ = _stages(own, data.part(indices))
            stages |= half.runs
            notes += [f"half {number}: {sentence}" for sentence in half.notes]
            maps.append(_map(half.run, data, box, whole.mask(box, data)))
        judged, moved = halves(maps[0], maps[1], shared_start=start is not None or job.method == "known")
        pair = (maps[0], moved, judged)
    return ParticleAnswer(
        map=_map(found.run, data, box, whole.mask(box, data)),
        poses=poses,
        spread=found.spread.cpu(),
        last=found.run,
        stages=stages,
        data=replace(data, poses=None),
        notes=(*data.notes, *notes),
        halves=pair,
        before=before,
    )


def _stages(setting: Setting, data: Particles) -> tuple[Found, Poses | None]:
    """What the last stage found, with the runs and notes of all, and the poses that the first stage handed on."""
    method = setting.job.method
    if method in WHOLE:
        return WHOLE[method](setting, data if setting.box == data.box else data.cropped(setting.box)), None
    edges = sizes(setting.box)
    coarse = _at(data, edges[0])
    began = STARTS[method](setting, coarse)
    runs, notes, x, noise = dict(began.runs), list(began.notes), began.run.x, began.noise
    first = low_band(edges[0])
    faint = processes.agreed(lambda: apparent_energy(coarse, setting.device) < SOFT)
    if faint:
        soft = runs[f"{setting.prefix}soft"] = _soft(setting, coarse, x)
        x, noise = soft.x, soft.state["noise"]
        notes.append(
            f"particles this faint do not tell their poses one by one: views stay marginalised to the end, at "
            f"{edges[0]} pixels"
        )
    poses = began.poses
    for stage, edge in enumerate(edges):
        limit = (edge - 1) // 2
        if stage:
            before = edges[stage - 1]
            coarse = _at(data, edge)
            x, first = fourier.resize_volume(x.view((before,) * 3), edge).flatten(), (before - 1) // 2
        refine = Refine(
            1 if faint else setting.job.rounds if stage == 0 else max(3, setting.job.rounds - 2),
            (first, first) if faint else (first, limit),
            rescues=setting.job.rounds if stage == 0 else 1,
            rescue_radius=low_band(edges[0]),
            candidates=2,
            steps=4 if stage == 0 else 2,
            turn=8.0 if stage == 0 else 3.0,
            mask=setting.mask(coarse.box, coarse),
            solve=not faint,
            noise=tuple(noise.tolist()),
        )
        name = f"refine-{edge}"
        run = runs[f"{setting.prefix}{name}"] = setting.solve(replace(coarse, poses=poses), refine, name, x)
        x, poses, noise = run.x, poses_of(run.state), run.state["noise"]
    return Found(run, poses, runs, tuple(notes), spread=spreads(run.state)), began.poses


def _at(data: Particles, edge: int) -> Particles:
    """The images at ``edge`` pixels, without what is known of their poses."""
    return replace(data if edge == data.box else data.cropped(edge), poses=None, notes=())


def _soft(setting: Setting, data: Particles, x: torch.Tensor) -> Reconstruction:
    """Map and noise with views marginalised on finer grids and in a wider band."""
    limit = (data.box - 1) // 2
    method = Search(
        12,
        5000,
        views=(4608, 18_432),
        radius=(low_band(data.box), limit),
        temperature=1.0,
        memory=0.0,
        mask=setting.mask(data.box, data),
    )
    return setting.solve(data, method, "soft", x)


def _moved(before: Poses, after: Poses, method: str) -> tuple[dict[str, float], str]:
    """How far refinement has moved the poses of the first stage, in figures and in words."""
    turned = rotation.geodesic_distance(before.rotations.to(after.rotations), after.rotations)
    far = float((turned > FAR).double().mean())
    figures = {"before_moved_deg": float(turned.median()), "before_far": far}
    words = f"{method}: refinement turned its poses by {figures['before_moved_deg']:.2g} degrees in the median, "
    words += f"{100 * far:.1f} % of them by more than {FAR:g}"
    if figures["before_moved_deg"] > GAP:
        words += "; they were far from what the images say: try more steps, or --method search"
    return figures, words


def _map(run: Reconstruction, data: Particles, box: int, mask: float | None) -> Map:
    """The map in the data's grey values."""
    values = _on_zero(run.x.view((box,) * 3).cpu(), mask) * (box / data.box)
    return Map(values, data.pixel_size * data.box / box)


def _on_zero(values: torch.Tensor, mask: float | None) -> torch.Tensor:
    """The map on a background of zero: the means of images are no data, so that a constant in the ball is free."""
    box = values.shape[0]
    ball = slices_to_map.soft_mask(box, mask, values)
    radius = fourier.distances(values.shape)
    edge = float(radius[ball > 0.5].max())
    rim = (radius > 0.85 * edge) & (radius <= edge)
    return values - float(values[rim].median()) * ball
