"""Particle stacks before :func:`unpicked.verify.verify`: judged at the coarse pixels of the search, views marginalised.

Poses are found one image at a time, so a map explains the very images that it was made of too well. Images of
the other fold are asked instead, in the low band and by all views alike; no pose of theirs enters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.particles import Particles
from unpicked.data.surrogates import ScrambledImages
from unpicked.estimators import search as searching
from unpicked.evaluate.nulls import Null
from unpicked.evaluate.stack_nulls import Moments, StackSpectrum, StackWhite, missing_noise, power
from unpicked.ops import gridding, nested, orientations, rotation, seeding
from unpicked.ops.band import Band
from unpicked.ops.gridding import Cube
from unpicked.ops.nested import Nested
from unpicked.ops.orientations import Images
from unpicked.recipes.particle_job import ParticleJob, working
from unpicked.recipes.particle_methods import low_band
from unpicked.recipes.particles import from_particles, sizes
from unpicked.recipes.trials import Kept, cheaper
from unpicked.reconstruct import Reconstruction
from unpicked.verify.verdict import Score

GROUPS = 64  # pieces of a stack
LEAST = 4  # images of a piece
VIEWS = 36_864  # by which held-out images are judged: about 7 degrees apart
SAMPLE = 300  # images by which moments are fitted, at most
MANY = 1000  # images by which it is seen how clear they are, at most
NOISY = 0.1  # share of the power that noise must have, for views so far apart not to be told from those between them
FAINTEST = 0.25  # least part of the map's own power that its structure is judged with
FOLD_ROUNDS = 3  # of the refinement of a fold, at most: only the low band is judged
CENTRING = 2  # Fourier pixels whose phases surrogates keep: they centre the particle


@dataclass(frozen=True, eq=False)
class ParticleTrial(Kept):
    """A stack of particle images.

    Attributes:
        data: images, matter bright.
        job: how the volume is reconstructed.
        start: what every fold starts from.
        device: torch device of the computation.
        noise: what is added to the images that are judged, ``(p,)``; None lets the images say.
    """

    piece: ClassVar[str] = "group of images"
    data: Particles
    job: ParticleJob
    start: Map | None = None
    device: str = "cpu"
    noise: torch.Tensor | None = None

    @cached_property
    def coarse(self) -> Particles:
        """The images at the pixels of the first stage."""
        edge = sizes(working(self.data, self.job.voxel))[0]
        known = self.data.poses if self.job.method == "known" else None
        return replace(self.data if edge == self.data.box else self.data.cropped(edge), poses=known, notes=())

    @property
    def count(self) -> int:
        """Groups of neighbouring images: those of a micrograph mostly stay together."""
        return min(GROUPS, len(self.data) // LEAST)

    @property
    def size(self) -> int:
        """Images of a group; what is left over is not used."""
        return len(self.data) // max(self.count, 1)

    @property
    def band(self) -> Band:
        """Coefficients that are judged."""
        return Band(self.coarse.box, low_band(self.coarse.box))

    @property
    def nulls(self) -> tuple[Null, ...]:
        """White noise, and noise of any spectrum, before and after the contrast transfer."""
        return StackWhite(), StackSpectrum(self.band.shells)

    def part(self, indices: Sequence[int]) -> Particles:
        """Some of the groups."""
        return self.coarse.part([image for i in indices for image in range(i * self.size, (i + 1) * self.size)])

    @cached_property
    def added(self) -> torch.Tensor:
        """Power of the noise that is added to images that are clearer than the views lie close, ``(p,)``.

        A model of views on a grid calls images between two of them impossible where there is next to no noise. All
        models judge the same noisier images: what is supported by these is supported.
        """
        if self.noise is not None:
            return self.noise
        return missing_noise(self._read(self.coarse, self._some(self.coarse, MANY)), self.band, NOISY)

    def tiles(self, data: Particles) -> Iterator[Images]:
        """The coefficients of one group after the other."""
        for first in range(0, len(data), self.size):
            yield self._noisier(self._read(data, range(first, first + self.size)), data.names[first])

    def fit(self, data: Particles, seed: int, name: str) -> Reconstruction:
        """The pipeline up to the end of its coarse stage."""
        job = replace(cheaper(self.job), halves=False, voxel=None, rounds=min(self.job.rounds, FOLD_ROUNDS))
        found = from_particles(
            data, job, seed=seed, start=self.start, checkpoint=self.place(name),
            resume=self.resume, report=self.told(name), device=self.device,
        )  # fmt: skip
        return found.last

    def featureless(self, run: Reconstruction, data: Particles, seed: int) -> Score:
        """Gaussian particles, at all shifts, of the same mean and covariance as the map's views."""
        return self._moments(run, data).log_likelihood

    def surrogate(self, seed: int) -> ParticleTrial:
        """Images of random phases, but for those that centre the particle."""
        coarse = self.coarse
        source = ScrambledImages(coarse.source, seed, CENTRING)
        data = replace(coarse, source=source, names=tuple(f"{name}, phases {seed}" for name in coarse.names))
        job = replace(self.job, voxel=None)
        return replace(self, data=data, job=job, checkpoint=None, resume=False, noise=self.added)

    def score(self, run: Reconstruction, data: Particles) -> Score:
        """Marginal likelihood over views and shifts, mean, covariance and noise as of the featureless images.

        So nothing but what lies beyond the second order tells the two apart: not the scale of the map, nor what
        surrounds a particle. A lower bound (:mod:`unpicked.ops.nested`): views that an image has no chance to be seen
        from are left out of the sum, and counted in its average. The nulls are exact.
        """
        moments, band = self._moments(run, data), self.band
        volume = run.x.float().view((band.box,) * 3) * math.sqrt(max(moments.scale, FAINTEST))
        slices, ramps, around = Nested.of(volume, band, VIEWS), moments.ramps, moments.around
        noise = moments.noise.float()

        def judged(tiles: Images) -> torch.Tensor:
            left = tiles.less(around)
            empty = -(power(left) / noise + (math.pi * noise.double()).log()).sum(1)
            return nested.log_evidence(left, slices, noise, ramps) + empty

        return judged

    def _moments(self, run: Reconstruction, data: Particles) -> Moments:
        slices = self._slices(run, VIEWS // 8)
        return Moments.of(slices, self._ramps(slices), self.band, self._sample(data))

    def _slices(self, run: Reconstruction, count: int) -> torch.Tensor:
        """Coefficients ``(count, p)`` of the map's views."""
        band = self.band
        cube = Cube(band.box, int(band.radius))
        volume = run.x.float().view((band.box,) * 3)
        views = rotation.super_fibonacci(count).to(volume)
        return gridding.read(cube, gridding.spectrum(volume, cube), views, band.points)

    def _ramps(self, slices: torch.Tensor) -> torch.Tensor:
        # up to the largest, so fine that half a step turns no phase by more than an eighth of a circle
        reach, most = self.job.max_shift / self.coarse.pixel_size, min(1.0, self.band.box / (4 * self.band.radius))
        shifts = orientations.shift_grid(reach, reach / max(1, math.ceil(reach / most)) or 1.0)
        return self.band.ramp(shifts.to(slices.real))

    def _sample(self, data: Particles) -> Images:
        return self._noisier(self._read(data, self._some(data, SAMPLE)), f"sample from {data.names[0]}")

    def _noisier(self, images: Images, name: str) -> Images:
        """The images with what is added, a draw of its own for every name."""
        if not bool(self.added.any()):
            return images
        generator = seeding.generator(len(images), name)
        drawn = torch.randn(2, *images.coefficients.shape, generator=generator).to(self.added.device)
        noise = torch.complex(*drawn) * (self.added / 2).sqrt().to(drawn.dtype)
        return replace(images, coefficients=images.coefficients + noise.to(images.coefficients.dtype))

    def _some(self, data: Particles, most: int) -> range:
        """At most about so many of the images, evenly spread."""
        return range(0, len(data), max(1, -(-len(data) // most)))

    def _read(self, data: Particles, which: Sequence[int]) -> Images:
        return searching.coefficients(data, which, self.band, torch.device(self.device))
