"""Picking, and our own particle pipeline on what was picked: what stands beside answers straight from micrographs.

The pickers by blobs and by templates are told what a user hardly knows: the best of several widths, the true map, how
many particles there are. The posterior picker is told nothing but the map that our pipeline has made of the same files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.micrographs import Micrographs
from unpicked.data.particles import Particles
from unpicked.evaluate.compare import compare
from unpicked.evaluate.picks import PickComparison, Positions, compare_picks
from unpicked.experiments.table import Row
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation, seeding
from unpicked.picking import fit_scale, pick
from unpicked.picking.extract import extract
from unpicked.picking.peaks import Peaks, blobs, correlated, peaks, seen
from unpicked.preprocess import Prepared
from unpicked.recipes import MicrographAnswer, MicrographJob, from_micrographs
from unpicked.recipes.micrographs import fixed
from unpicked.recipes.particles import ParticleJob, from_particles
from unpicked.recipes.stack_trials import ParticleTrial
from unpicked.simulate.micrographs import Simulation
from unpicked.verify import Trial, verify

Picker = Literal["blobs", "templates", "posterior"]
WAYS: dict[Picker, str] = {"blobs": "LoG picks", "templates": "template picks", "posterior": "posterior picks"}
OFF: dict[Picker, float] = {"blobs": 2.0, "templates": 1.0, "posterior": 1.0}  # working voxels that picks may be off
WIDTHS = (0.09, 0.13, 0.165, 0.21, 0.27)  # of the box: Gaussians whose best one is taken
NEAR = 0.4  # of the box: a pick so near to a particle is one of it
LEAST = 16  # pixels of an image that the particle pipeline takes


@dataclass(frozen=True)
class Beside:
    """Pickers, and how particle images are made and reconstructed.

    Attributes:
        pickers: what picks.
        views: orientations of templates, and of the posterior.
        margin: angstrom around the particle's box in an image, for what contrast transfer carries out of it.
        most: images that are reconstructed at most, those of the best scores.
        starts: random starts of the particle pipeline.
    """

    pickers: tuple[Picker, ...] = ("blobs", "templates", "posterior")
    views: int = 800
    margin: float = 24.0
    most: int = 3000
    starts: int = 2

    def image(self, job: MicrographJob, voxel: float) -> int:
        """Edge in working pixels of a particle image, even."""
        return max(LEAST, 2 * math.ceil(job.box / 2 + self.margin / voxel))

    def of(self, picker: Picker, job: MicrographJob, data: Particles) -> ParticleJob:
        """How images are reconstructed that were picked for a job on micrographs."""
        pixel = data.pixel_size
        return ParticleJob(max_shift=OFF[picker] * pixel, diameter=job.box * pixel, starts=self.starts)


@dataclass(frozen=True, eq=False)
class Field:
    """One set of exposures, and what is known of it.

    Attributes:
        prepared: micrographs at the working voxel.
        job: how they are reconstructed without picking.
        truth: where the particles are.
        wanted: the true map.
        seed: of everything random.
        device: torch device.
    """

    prepared: Prepared
    job: MicrographJob
    truth: Simulation
    wanted: Map
    seed: int
    device: str

    @cached_property
    def answer(self) -> MicrographAnswer:
        """What our pipeline makes of them without picking."""
        return from_micrographs(
            self.prepared, self.job, seed=seeding.derive(self.seed, "reconstruct"), device=self.device
        )

    @property
    def own(self) -> int:
        """Seed of the particle pipeline."""
        return seeding.derive(self.seed, "particles")

    @property
    def working(self) -> Micrographs:
        """The micrographs, noise as it is."""
        return self.prepared.micrographs

    @property
    def true(self) -> dict[str, Positions]:
        """True centres per micrograph, in pixels of the files."""
        half = self.truth.specimen.box // 2
        corners = (self.truth.occurrences(index).corners for index in range(len(self.working)))
        return {
            name: (one.flip(1).double() + half).numpy() for name, one in zip(self.working.names, corners, strict=True)
        }

    def judged(self, picks: Sequence[Peaks]) -> PickComparison:
        """Picks beside the truth."""
        names = self.working.names
        places = {n: self.prepared.to_file_pixels(one.centres).numpy() for n, one in zip(names, picks, strict=True)}
        scores = {n: one.scores.numpy() for n, one in zip(names, picks, strict=True)}
        return compare_picks(places, self.true, NEAR * self.truth.specimen.box, scores)


def row_of(field: Field, picker: Picker, beside: Beside, base: Row) -> Row:
    """What a picker and the particle pipeline make of a set; where one of them fails, why it does."""
    picks: list[Peaks] = []
    data: list[Particles] = []

    def picked() -> Row:
        every = PICKERS[picker](field, beside)
        kept = every if picker == "posterior" else [one.best(field.truth.per_micrograph) for one in every]
        picks.extend(kept)
        told = field.judged(kept)
        return {
            "picks": told.count[0],
            "precision": told.precision,
            "recall": told.recall,
            "best F1": None if picker == "posterior" else best_f1(field.judged(every)),
        }

    def mapped() -> Row:
        data.append(stack(field, picks, beside))
        answer = from_particles(data[0], beside.of(picker, field.job, data[0]), seed=field.own, device=field.device)
        return {**likeness(answer.map, field.wanted), "E found": answer.figures()["energy"]}

    def judged() -> Row:
        return verdict(ParticleTrial(data[0], beside.of(picker, field.job, data[0]), device=field.device), field.own)

    return in_steps({**base, "way": WAYS[picker]}, (picked, mapped, judged))


def in_steps(row: Row, steps: Sequence[Callable[[], Row]]) -> Row:
    """A row filled step by step. The first error becomes its verdict, so that the rows after it are still run."""
    out: dict[str, Any] = {"FSC": [], **row}
    began = time.perf_counter()
    for step in steps:
        try:
            out |= step()
        except Exception as error:
            words = str(error).splitlines()
            out["verdict"] = f"fails: {words[0] if words else type(error).__name__}"
            break
    return out | {"seconds": time.perf_counter() - began}


def likeness(map: Map, wanted: Map) -> Row:
    """A map beside the true one."""
    found = compare(map, wanted)
    return {"correlation": found.correlation, "FSC": found.fsc[1:], "resolution": found.resolution_05}


def verdict(trial: Trial[Any], seed: int) -> Row:
    """What cross-fitting says."""
    found = verify(trial, seed=seed)
    return {"verdict": found.verdict, "z": found.z}


def best_f1(told: PickComparison) -> float:
    """F1 at the threshold of the curve that the truth would choose; 0 without picks."""
    return max((2 * p * r / (p + r) for _, p, r in told.curve if p + r > 0), default=0.0)


def of_blobs(field: Field, beside: Beside) -> list[Peaks]:
    """Peaks of the Laplacian of Gaussian, of the width whose best F1 is highest."""
    found = [
        [peaks(blobs(image, width * field.job.box), 2 * field.job.box - 1) for image in field.working]
        for width in WIDTHS
    ]
    return max(found, key=lambda picks: best_f1(field.judged(picks)))


def of_templates(field: Field, beside: Beside) -> list[Peaks]:
    """Peaks of the correlation with views of the true map, of whitened micrographs and as these show them."""
    data = fixed(field.prepared, field.job).micrographs
    object = Voxels(field.wanted.box)
    turns = rotation.super_fibonacci(beside.views)
    views = object.projector(turns.float()).project(object.fit(field.wanted.values.float())).to(field.device)
    margin, found = round(beside.margin / data.pixel_size / 2), list[Peaks]()
    for index, image in enumerate(data):
        shown = seen(views, _factors(data, index), margin)
        found.append(peaks(correlated(image, shown), 2 * field.job.box - 1))
    return found


def of_posterior(field: Field, beside: Beside) -> list[Peaks]:
    """What is more likely than not to be a particle of the map that was found without picking."""
    data = fixed(field.prepared, field.job).micrographs
    run = fit_scale(data, field.answer.map, seed=seeding.derive(field.seed, "pick"), device=field.device)
    return [Peaks(one.centres, one.posterior) for one in pick(data, run, views=beside.views, seed=field.seed)]


PICKERS: dict[Picker, Callable[[Field, Beside], list[Peaks]]] = {
    "blobs": of_blobs,
    "templates": of_templates,
    "posterior": of_posterior,
}


def stack(field: Field, picks: Sequence[Peaks], beside: Beside) -> Particles:
    """Images of the best picks, in the order of the micrographs."""
    scores = np.sort(np.concatenate([one.scores.numpy() for one in picks]))[::-1]
    least = scores[min(beside.most, len(scores)) - 1] if len(scores) else 0.0
    data, box = field.working, beside.image(field.job, field.working.pixel_size)
    return extract(data, [one.above(least).centres for one in picks], box, background=min(field.job.box, box - 3) / 2)


def _factors(data: Micrographs, index: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Contrast transfer and whitening of a micrograph."""

    def factors(fx: torch.Tensor, fy: torch.Tensor) -> torch.Tensor:
        pixel, out = data.pixel_size, torch.ones_like(fx)
        if data.optics is not None:
            out = out * data.optics.values(fx / pixel, fy / pixel, [index])[0]
        return out if data.gains is None else out * data.gains.at(index, fx, fy)

    return factors
