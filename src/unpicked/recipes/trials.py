"""What :func:`unpicked.verify.verify` needs of each kind of data: pieces, pipeline, nulls and a likelihood."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from unpicked._lazy import torch
from unpicked.data.base import Data
from unpicked.data.maps import Map
from unpicked.data.micrographs import Micrographs
from unpicked.data.signal import Signal
from unpicked.data.surrogates import ScrambledImages, ScrambledRows
from unpicked.estimators.acceleration import Anderson
from unpicked.estimators.base import (
    log_likelihood,
)
from unpicked.estimators.em import EM
from unpicked.estimators.exact_em import ExactEM
from unpicked.evaluate.nulls import Autoregressive, Null, Spectrum, White
from unpicked.model.chain import Chain
from unpicked.model.model import Model
from unpicked.model.spacing import HardCore
from unpicked.model.views import Directed, Identity, Projection, View
from unpicked.objects.ball import Ball
from unpicked.objects.base import Object
from unpicked.objects.classes import Classes
from unpicked.objects.disk import Disk
from unpicked.objects.even import Even
from unpicked.ops import rotation
from unpicked.ops.radial import radial
from unpicked.preprocess import Prepared
from unpicked.recipes import parts
from unpicked.recipes.images import ImageJob, Ready, from_images
from unpicked.recipes.job import MicrographJob
from unpicked.recipes.micrographs import grey_value, stages
from unpicked.recipes.particle_job import ParticleJob
from unpicked.recipes.signals import SignalJob, from_signal
from unpicked.recipes.tiles import OfTiles, Tiles, by_patches, patches_across, squares
from unpicked.reconstruct import Reconstruction, Report, reconstruct
from unpicked.verify import Unjudged, omit
from unpicked.verify.verdict import Score

if TYPE_CHECKING:
    from unpicked.recipes.images import Start as ImageStart
    from unpicked.recipes.micrographs import Start as MicrographStart
    from unpicked.recipes.signals import Start as SignalStart

Job = TypeVar("Job", SignalJob, ImageJob, MicrographJob, ParticleJob)

BLOCKS = 32  # pieces of a signal
SHORTEST = 20  # targets that a piece of a signal is long at least
TILE = 64  # edge of a tile of a micrograph in pixels, about
VIEWS = 128  # by which held-out micrographs are judged


@dataclass(frozen=True, eq=False, kw_only=True)
class Kept:
    """Where the folds of a trial keep their states, and whom they tell.

    Attributes:
        checkpoint: folder for the folds' states.
        resume: go on from that folder.
        report: called after every pass.
    """

    checkpoint: Path | None = None
    resume: bool = False
    report: Report | None = None

    def place(self, name: str) -> Path | None:
        """Where the states of a fold are kept."""
        return None if self.checkpoint is None else self.checkpoint / name.replace(" ", "-")

    def told(self, fold: str) -> Report | None:
        """The report with the name of a fold."""
        report = self.report
        if report is None:
            return None

        def named(name: str, row: dict[str, float]) -> None:
            report(f"verification, {fold}, {name}", row)

        return named


@dataclass(frozen=True, eq=False)
class SignalTrial(Kept):
    """A long signal, cut into blocks.

    Attributes:
        data: the signal.
        job: how it is reconstructed.
        start: what every fold starts from.
    """

    piece: ClassVar[str] = "block"
    data: Signal
    job: SignalJob
    start: SignalStart = None

    @property
    def blocks(self) -> Signal:
        """Blocks of equal length; those of a short signal are fewer, and signals enough stay whole."""
        wanted = min(-(-BLOCKS // self.data.rows), self.data.length // (SHORTEST * self.job.length))
        return self.data.cut(max(self.data.length // max(wanted, 1), 1))

    @property
    def count(self) -> int:
        """Whole blocks of full length."""
        blocks = self.blocks
        return blocks.rows * (blocks.length // blocks.shape[0])

    @property
    def nulls(self) -> tuple[Null, ...]:
        """White, and autoregressive."""
        return White(), Autoregressive()

    def part(self, indices: Sequence[int]) -> Signal:
        """Some of the blocks."""
        blocks = self.blocks
        whole = blocks.length // blocks.shape[0]
        return blocks.part([index // whole * len(blocks.starts) + index % whole for index in indices])

    def tiles(self, data: Signal) -> Iterator[torch.Tensor]:
        """One block after the other."""
        return (piece[None] for piece in data)

    def fit(self, data: Signal, seed: int, name: str) -> Reconstruction:
        """The signal's pipeline."""
        found = from_signal(
            data, cheaper(self.job), seed=seed, start=self.start, checkpoint=self.place(name),
            resume=self.resume, report=self.told(name),
        )  # fmt: skip
        return found.run

    def featureless(self, run: Reconstruction, data: Signal, seed: int) -> Score:
        """The best target that reads the same from both ends."""
        plain = Even(self.job.length)
        model = replace(run.model, object=plain, view=Identity(), placement=self._chain(run))
        start = plain.fit(_mean_of_kinds(run).double())
        estimator = ExactEM(
            iterations=100,
            estimate_sigma=self.job.sigma is None,
            estimate_density=self.job.density is None,
            tolerance=0.01,
        )
        return self.score(reconstruct(data, model, estimator, seed=seed, start=start, moves=0), data)

    def surrogate(self, seed: int) -> SignalTrial:
        """Blocks of random phases."""
        whole = self.part(range(self.count))
        return replace(
            self,
            data=Signal(ScrambledRows(whole.source, seed), name=f"{self.data.name}, random phases"),
            checkpoint=None,
            resume=False,
        )

    def score(self, run: Reconstruction, data: Signal) -> Score:
        """The exact likelihood, of blocks at whose ends copies may be cut."""
        model = replace(run.model, placement=self._chain(run))

        def judged(tiles: torch.Tensor) -> torch.Tensor:
            return log_likelihood(Signal.of(tiles), model, run.x.double())

        return judged

    def _chain(self, run: Reconstruction) -> Chain:
        placement = run.model.placement
        if isinstance(placement, Chain):
            return replace(placement, cut=True)
        most = self.job.limit
        return Chain(HardCore(self.job.spacing, min(max(placement.density, 1e-6), 0.999 * most)), cut=True)


class Planar(ABC):
    """What images and micrographs have in common: pieces, tiles and nulls."""

    nulls: ClassVar[tuple[Any, ...]] = (OfTiles(White()), OfTiles(Spectrum()))

    @property
    @abstractmethod
    def pieces(self) -> Micrographs:
        """All of them."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Edge in pixels of what they hold."""

    @property
    def count(self) -> int:
        """Pieces; a single one is cut in two."""
        return max(2, len(self.pieces))

    def part(self, indices: Sequence[int]) -> Micrographs:
        """Some of the pieces, or one half of the only one."""
        whole = self.pieces
        return whole.part(list(indices)) if len(whole) > 1 else whole.split()[next(iter(indices))]

    def tiles(self, data: Micrographs) -> Iterator[Tiles]:
        """Every piece in square tiles of whole patches of twice the length; the rest is not judged.

        Tiles that hold a masked pixel are left out, for models and nulls alike.

        Raises:
            Unjudged: where masks leave none.
        """
        side, left = 2 * self.length, 0
        side *= min(max(1, min(round(TILE / side), min(data.shape) // side)), self._across)
        for index, image in enumerate(data):
            found, mask = squares(image, side), data.mask(index)
            if mask is not None:
                found = found[squares(mask, side).flatten(1).all(1)]
            left += len(found)
            if len(found):
                yield Tiles(found, data, index)
        if not left:
            raise Unjudged(f"masks leave no square of {side} working pixels whole, by which an answer is judged")

    @cached_property
    def _across(self) -> int:
        """Patches along a tile's edge at most, as far as masks allow."""
        side = 2 * self.length
        return patches_across(self.pieces, side, max(1, round(TILE / side)))


@dataclass(frozen=True, eq=False)
class ImageTrial(Kept, Planar):
    """Images that hold a small one many times.

    Attributes:
        data: looked through.
        job: how the small one is reconstructed.
        start: what every fold starts from.
    """

    piece: ClassVar[str] = "image"
    data: Ready
    job: ImageJob
    start: ImageStart = None

    @property
    def pieces(self) -> Micrographs:
        """The images."""
        return self.data.images

    @property
    def length(self) -> int:
        """Edge of the target."""
        return self.job.length

    def fit(self, data: Micrographs, seed: int, name: str) -> Reconstruction:
        """The pipeline of images."""
        found = from_images(
            replace(self.data, images=data), cheaper(self.job), seed=seed, start=self.start,
            checkpoint=self.place(name), resume=self.resume, report=self.told(name),
        )  # fmt: skip
        return found.last

    def featureless(self, run: Reconstruction, data: Micrographs, seed: int) -> Score:
        """Rings: the best radial profile."""
        plain = Disk(self.job.length, self.job.reach, 0)
        values, job = _mean_of_kinds(run), self.job
        return self.score(_radial(run, data, plain, Identity(), values, seed, job.sigma, job.density), data)

    def surrogate(self, seed: int) -> ImageTrial:
        """Images of random phases."""
        images = _scrambled(self.pieces, seed)
        return replace(self, data=replace(self.data, images=images), checkpoint=None, resume=False)

    def score(self, run: Reconstruction, data: Micrographs) -> Score:
        """Independent patches of twice the target's side."""
        return by_patches(run.model, run.x, self.tiles(data), once=True)


@dataclass(frozen=True, eq=False)
class MicrographTrial(Kept, Planar):
    """Micrographs of a molecule.

    Attributes:
        data: prepared; where the noise is not white, made white once and for all (:func:`recipes.micrographs.fixed`).
        job: how the volume is reconstructed.
        start: what every fold starts from: a map, or "autocorrelation": the moments of the fold's own data.
        emptied: voxels in which --structures hold nothing.
        device: torch device of the computation.
    """

    piece: ClassVar[str] = "micrograph"
    data: Prepared
    job: MicrographJob
    start: MicrographStart = None
    device: str = "cpu"
    emptied: torch.Tensor | None = None

    @property
    def pieces(self) -> Micrographs:
        """The prepared micrographs."""
        return self.data.micrographs

    @property
    def length(self) -> int:
        """Edge of the box."""
        return self.job.box

    def fit(self, data: Micrographs, seed: int, name: str) -> Reconstruction:
        """The pipeline of micrographs."""
        solve, _ = stages(
            self.data, replace(cheaper(self.job), halves=False, held_out=0, refined=1), self.start, device=self.device,
            resume=self.resume, report=self.told(name), emptied=self.emptied,
        )  # fmt: skip
        return solve(data, seed=seed, checkpoint=self.place(name), share=0.5).solve().last

    @property
    def knowing(self) -> bool:
        """A denoiser knows what it was made from, and given structures what stands about a part."""
        return bool(self.job.denoiser or self.job.structures)

    def template(self, run: Reconstruction) -> Map | None:
        """The start map; with a denoiser the map of a run, in the grey values of the files."""
        if not isinstance(self.start, Map) and self.job.denoiser and run.map is not None:
            return Map(run.map.values.cpu() * grey_value(self.data), run.map.voxel_size)
        return self.start if isinstance(self.start, Map) else None

    def without(self, whole: Map, part: torch.Tensor) -> MicrographTrial:
        """The same from a map that lacks a part, which --structures lack too."""
        return replace(self, start=omit.without(whole, part), emptied=part)

    def featureless(self, run: Reconstruction, data: Micrographs, seed: int) -> Score:
        """Balls: the best radial profile, seen from one side."""
        plain = Ball(self.job.box, 0, parts.ball_reach(self.job.box))
        one = Projection(rotation.super_fibonacci(1).to(run.x.device))
        values = run.model.object.values(run.x)
        return self.score(_radial(run, data, plain, one, values, seed, self.job.sigma, self.job.density), data)

    def surrogate(self, seed: int) -> MicrographTrial:
        """Micrographs of random phases."""
        micrographs = _scrambled(self.pieces, seed)
        return replace(self, data=replace(self.data, micrographs=micrographs), checkpoint=None, resume=False)

    def score(self, run: Reconstruction, data: Micrographs) -> Score:
        """Independent patches of twice the box's side; every tile by even odds of the whole structure and half of it.

        What is fitted to few faint particles holds noise: where half of the structure is right, the whole is no better
        than none, and half of it the best. Where the whole is right, the odds cost log 2 a tile.
        """
        model = run.model
        if isinstance(model.view, Directed) and len(model.view) > VIEWS:
            model = replace(model, view=model.view.spread(VIEWS))
        whole = by_patches(model, run.x, self.tiles(data))
        if isinstance(model.object, Ball) and not model.object.lmax:
            return whole
        half = by_patches(model, _halved(model.object, run.x), self.tiles(data))
        return lambda tiles: torch.logaddexp(whole(tiles), half(tiles)) - math.log(2)


def _halved(object: Object, x: torch.Tensor) -> torch.Tensor:
    """Coefficients of a volume's radial part, and of half of the rest."""
    if isinstance(object, Ball):
        return torch.cat([x[: object.counts[0]], x[object.counts[0] :] / 2])
    values = object.values(x).cpu()
    return object.fit((values + radial(values)) / 2).to(x)


def _scrambled(data: Micrographs, seed: int) -> Micrographs:
    """Read again and scrambled again in every pass, so that they need no memory of their own."""
    return replace(
        data,
        source=ScrambledImages(data.source, seed, masks=data.masks),
        names=tuple(f"{n}, phases {seed}" for n in data.names),
    )


def cheaper(job: Job) -> Job:
    """Hardly more than half as many random starts, at least three where so many were asked for, and one round of moves.

    A fold that ends worse for it makes the verdict stricter, never milder.
    """
    job = replace(job, starts=max(min(job.starts, 3), job.starts // 2))
    return job if isinstance(job, ParticleJob) else replace(job, moves=min(job.moves, 1))


def _radial(
    run: Reconstruction,
    data: Data,
    plain: Object,
    view: View,
    values: torch.Tensor,
    seed: int,
    sigma: float | None,
    density: float | None,
) -> Reconstruction:
    """EM of an object without structure, from what a run found."""
    model = replace(run.model, object=plain, view=view)
    return radial_fit(data, model, parts.fitted(plain, values.to(run.x)), seed, sigma, density)


def radial_fit(
    data: Data, model: Model, start: torch.Tensor, seed: int, sigma: float | None, density: float | None
) -> Reconstruction:
    """EM of an object that hardly has coefficients."""
    estimator = EM(
        iterations=20,
        frozen=20,
        estimate_sigma=sigma is None,
        estimate_density=density is None,
        acceleration=Anderson(),
        tolerance=0.5,
    )
    return reconstruct(data, model, estimator, seed=seed, start=start, moves=0)


def _mean_of_kinds(run: Reconstruction) -> torch.Tensor:
    values = run.model.object.values(run.x)
    return values.mean(0) if isinstance(run.model.object, Classes) else values
