"""Positions, views and probabilities of particles on micrographs, from a map of them.

The lattice gas that reconstructs also picks: its posterior occupancy says how likely a particle is at every place,
given its neighbours, the noise and the contrast transfer. A pick is a maximum of it, with the probability that a
particle is there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.micrographs import Micrographs
from unpicked.estimators.acceleration import Fisher, Relaxed
from unpicked.estimators.em import EM, signal_power
from unpicked.model.gas import Gas, sites_of
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.placements import Anywhere
from unpicked.model.views import Projection
from unpicked.objects.scaled import Scaled
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation, seeding
from unpicked.reconstruct import Reconstruction, reconstruct

FITTING, FINER = 100, 400  # views by which scale, noise and density are found, and where views are preferred


@dataclass(frozen=True, eq=False)
class Picked:
    """Particles of one micrograph, the likeliest first.

    Attributes:
        centres: ``(n, 2)`` x (column) and y (row) in pixels, from 0.
        posterior: ``(n,)`` probability that a particle is there.
        rotations: ``(n, 3, 3)`` active, object to image.
    """

    centres: torch.Tensor
    posterior: torch.Tensor
    rotations: torch.Tensor

    def __len__(self) -> int:
        return len(self.posterior)


def fit_scale(
    data: Micrographs,
    map: Map,
    *,
    density: float | None = None,
    spacing: str = "separated",
    view_distribution: str = "uniform",
    seed: int = 0,
    device: str = "cpu",
) -> Reconstruction:
    """Grey value of a map, noise and covered fraction of micrographs that hold it; nothing of the structure is fitted.

    Args:
        data: prepared micrographs (noise of about 1), at the map's voxel.
        map: matter bright.
        density: covered fraction; estimated if not given.
        spacing: least distance of two particles: "separated" (2 box - 1 pixels) or "arbitrary" (box pixels).
        view_distribution: "uniform", or "estimated": how often each direction is seen is fitted, too.
        seed: of the sampler.
        device: torch device of the computation, and of :func:`pick` with its answer.
    """
    object, estimated = Voxels(map.box), view_distribution == "estimated"
    known = Scaled(object, object.fit(map.values.double()))
    model = Model(
        known,
        Projection(rotation.super_fibonacci(FINER if estimated else FITTING).to(device)),
        Anywhere(density or 0.1, Gas(), "separated" if spacing == "separated" else "arbitrary"),
        noise=White(1.0),
    )
    passes = 24 if estimated else 12
    estimator = EM(
        iterations=passes, frozen=passes, estimate_density=density is None, tolerance=0.05 if estimated else 0.5,
        estimate_views="all" if estimated else "no",
        acceleration=Fisher(warm=2, every=3) if estimated else Relaxed(),
    )  # fmt: skip
    # a start of its own: one at random may take a map of both signs for its negative
    shown = model.measured(data)
    one = known.x.new_ones(1).to(device)
    start = one * math.sqrt(signal_power(data, model) / float(shown.placement.powers(shown.templates(one)).mean()))
    return reconstruct(data, model, estimator, seed=seed, start=start, moves=0)


def pick(
    data: Micrographs, run: Reconstruction, *, views: int = 800, least: float = 0.5, seed: int = 0
) -> Iterator[Picked]:
    """Particles of every micrograph.

    Args:
        data: prepared micrographs.
        run: of :func:`fit_scale`, or a reconstruction from such micrographs.
        views: orientations that are tried; their spacing is the error of the rotations.
        least: probability that a pick has at least, from 0 to 1.
        seed: of the sampler.

    Raises:
        ValueError: for views or a probability out of range, or micrographs of another voxel.
    """
    if views < 1:
        raise ValueError(f"views must be at least 1; got {views}")
    if not 0 <= least <= 1:
        raise ValueError(f"least must be a probability from 0 to 1; got {least}")
    turns = rotation.super_fibonacci(views).to(run.x.device)
    seen = run.model.view.seen if isinstance(run.model.view, Projection) else None
    model = replace(run.model, view=Projection(turns, seen)).measured(data)
    placement = model.placement
    if not isinstance(placement, Anywhere):
        raise ValueError(f"picking needs particles anywhere in micrographs; got {placement!r}")
    placement = replace(placement, likelihood=Gas())
    step = placement.step(model.templates(run.x).float(), model.log_weights, model.noise, statistics=False)
    half = model.side // 2
    for index, image in enumerate(data):
        found = sites_of(step, image, seeding.derive(seed, "pick", index), index)
        kept = found.posterior >= least
        yield Picked(
            centres=(found.places[kept].flip(1).double() + half).cpu(),
            posterior=found.posterior[kept].double().cpu(),
            rotations=turns[found.views[kept] // placement.positions].double().cpu(),
        )
