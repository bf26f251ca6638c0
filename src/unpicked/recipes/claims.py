"""Do micrographs contain a given map? What :func:`unpicked.verify.claims.judge_claim` needs of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.micrographs import Micrographs
from unpicked.estimators.em import signal_power
from unpicked.model.gas import Gas
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.placements import Anywhere
from unpicked.model.views import Projection
from unpicked.objects.ball import Ball
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation, seeding
from unpicked.ops.radial import radial
from unpicked.ops.shift import shift_volume
from unpicked.preprocess import Prepared, prepare
from unpicked.recipes import parts
from unpicked.recipes.job import Noise, coloured
from unpicked.recipes.micrographs import notes_of_noise, notes_of_transfer, whitened_once
from unpicked.recipes.tiles import by_patches, share_of
from unpicked.recipes.trials import VIEWS, Planar, radial_fit
from unpicked.simulate.decoys import chain, shuffled
from unpicked.verify.verdict import Score

GUESSED = 0.1  # covered fraction, before it is known
LARGEST = 64  # working voxels
PADDED = 16  # voxels by which a map may be padded so that its field of view fits the working grid
CLOSE = 0.015  # relative difference of voxel sizes that is none


@dataclass(frozen=True, eq=False)
class Plain:
    """Particles without structure, fitted.

    Attributes:
        model: object, views, noise and density.
        x: coefficients.
        share: of patches that are not empty.
        scale: of the map, by which its radial part is these particles.
    """

    model: Model
    x: torch.Tensor
    share: torch.Tensor
    scale: float


@dataclass(frozen=True, eq=False)
class MicrographClaim(Planar):
    """Micrographs, and a map that they may hold.

    Attributes:
        data: prepared.
        map: matter bright, at the working voxel.
        density: covered fraction; estimated if not given.
        seed: of the decoys.
        views: by which the map is seen.
        device: torch device of the computation.
        ignored: contrast transfer is left out of the model.
    """

    piece: ClassVar[str] = "micrograph"
    data: Prepared
    map: Map
    density: float | None = None
    seed: int = 0
    views: int = VIEWS
    device: str = "cpu"
    ignored: bool = False

    @property
    def pieces(self) -> Micrographs:
        """The prepared micrographs."""
        return self.data.micrographs

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences: read, converted, assumed."""
        return (
            *self.data.notes,
            *notes_of_transfer(self.pieces, ignored=self.ignored),
            *notes_of_noise(self.pieces.gains),
            f"map: {self.map.box} working voxels of {self.map.voxel_size:.4g} A, seen from {self.views} sides",
        )

    @property
    def length(self) -> int:
        """Edge of the map."""
        return self.map.box

    def plain(self, data: Micrographs, seed: int) -> Plain:
        """The ball that explains the data best, from the map's radial part."""
        ball = Ball(self.length, 0, parts.ball_reach(self.length))
        one = Projection(rotation.super_fibonacci(1).to(self.device))
        model = Model(ball, one, Anywhere(self.density or GUESSED, Gas(), "separated", 1), noise=White(1.0))
        round_part = radial(self.map.values)
        start = parts.fitted(ball, round_part).to(self.device)
        model = model.measured(data)
        seen = float(model.placement.powers(model.templates(start)).mean())
        start = start * math.sqrt(signal_power(data, model) / seen)
        run = radial_fit(data, model, start, seed, None, self.density)
        found = run.model.object.values(run.x).double().cpu()
        scale = max(float((found * round_part).sum() / round_part.square().sum()), 0.0)
        return Plain(run.model, run.x, share_of(run.model, run.x, self.tiles(data)), scale)

    def score(self, plain: Plain, map: Map | None) -> Score:
        """Independent patches of twice the box's side."""
        model, x = plain.model, plain.x
        if map is not None:
            object = Voxels(self.length)
            model = Model(object, self._views, model.placement, noise=model.noise)
            x = object.fit(map.values.double() * plain.scale).to(x)
        return by_patches(model, x, iter(()), plain.share, once=True)

    def decoy(self, number: int) -> Map:
        """Chains and shuffled phases in turns."""
        return (chain if number % 2 else shuffled)(self.map, seeding.derive(self.seed, "decoy", number))

    @property
    def _views(self) -> Projection:
        """Half of them spread evenly, the others those in which a mirrored map looks the same: no hand is preferred."""
        half = rotation.super_fibonacci(self.views // 2)
        flip = torch.diag(half.new_tensor([1.0, 1.0, -1.0]))
        return Projection(torch.cat([half, flip @ half @ flip]).to(self.device))


def claimed(
    data: Micrographs,
    map: Map,
    *,
    voxel: float | None = None,
    density: float | None = None,
    ignore_ctf: bool = False,
    noise: Noise = "auto",
    seed: int = 0,
    device: str = "cpu",
) -> MicrographClaim:
    """A claim: micrographs and map brought to one working grid.

    Args:
        data: as read, matter bright.
        map: matter bright, at most 64 working voxels.
        voxel: working voxel size in angstrom; the coarser one of map and micrographs if not given.
        density: covered fraction; estimated if not given.
        ignore_ctf: leave the contrast transfer that the data state out of the model.
        noise: spectrum of the noise, as in a :class:`MicrographJob`.
        seed: of the decoys.
        device: torch device of the computation.

    Raises:
        ValueError: for voxel sizes or fields of view that do not fit one another, or a map without structure.
    """
    if ignore_ctf:
        data = replace(data, optics=None)
    prepared = prepare(data, voxel_size=voxel or max(map.voxel_size, data.pixel_size))
    if coloured(noise, optics=data.optics is not None):
        prepared = whitened_once(prepared)
    fitting = _centred(_on_grid(map, prepared.micrographs.pixel_size))
    if fitting.box > LARGEST:
        raise ValueError(
            f"the map has {fitting.box} working voxels, more than {LARGEST}; try a larger --voxel, about "
            f"{map.box * map.voxel_size / 16:.3g} A"
        )
    if min(prepared.micrographs.shape) < 2 * fitting.box:
        raise ValueError(
            f"the map of {fitting.box} working voxels needs micrographs of at least twice that; got "
            f"{' x '.join(str(n) for n in prepared.micrographs.shape)} working pixels"
        )
    rest = fitting.values.double() - radial(fitting.values)
    if not float(rest.norm()) > 1e-6 * float(fitting.values.double().norm()):
        raise ValueError("the map is a ball, or empty: it has no structure that could be looked for")
    return MicrographClaim(prepared, fitting, density, seed, device=device, ignored=ignore_ctf)


def _centred(map: Map) -> Map:
    """The map with its mass at the centre of the box, where its decoys are, and its radial part.

    Raises:
        ValueError: where matter is dark.
    """
    values = map.values.double()
    if not bool((values != 0).any()):
        raise ValueError("the map is empty: it has no structure that could be looked for")
    if not float(values.max()) > -float(values.min()):
        raise ValueError(
            f"the map must have matter bright; got densities from {float(values.min()):.3g} to "
            f"{float(values.max()):.3g}; try it times -1"
        )
    mass = torch.where(values > 0.1 * values.max(), values, 0.0)
    axis = torch.arange(map.box, dtype=torch.float64) - map.box // 2
    centre = [(mass.sum([other for other in range(3) if other != dim]) * axis).sum() for dim in (2, 1, 0)]
    return Map(shift_volume(values, -torch.stack(centre) / mass.sum()), map.voxel_size)


def _on_grid(map: Map, voxel: float) -> Map:
    """The map on voxels of about this size, padded so that a whole number of them fits.

    Raises:
        ValueError: where the map's own voxels are coarser.
    """
    if map.voxel_size > voxel * (1 + CLOSE):
        raise ValueError(
            f"the map's voxels of {map.voxel_size:.4g} A are coarser than the working {voxel:.4g} A; try --voxel "
            f"{1.05 * map.voxel_size:.3g}"
        )

    def miss(padded: int) -> float:
        return abs(padded * map.voxel_size / (round(padded * map.voxel_size / voxel) * voxel) - 1)

    padded = min(range(map.box, map.box + PADDED + 1), key=miss)
    if miss(map.box) <= CLOSE:
        padded = map.box
    box = round(padded * map.voxel_size / voxel)
    if miss(padded) > CLOSE or box < 4:
        raise ValueError(
            f"a map of {map.box} voxels of {map.voxel_size:.4g} A does not fit working voxels of {voxel:.4g} A; "
            "try another --voxel"
        )
    return map.crop(padded).rescale(box)
