"""What a posterior over views and shifts says of single particle images: the most likely pose, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.estimators import slices_to_map
from unpicked.estimators.base import Batch
from unpicked.model.centred import Centred, log_prior, observed
from unpicked.model.model import Model
from unpicked.model.views import Projection
from unpicked.ops import orientations

_IMAGES = 2048  # read at a time


def best_poses(data: Particles, model: Model, x: torch.Tensor) -> Poses:
    """The view and the shift of the highest posterior probability of every image; shifts in angstrom.

    Rotations are those of the model's grid: half its spacing is the error that a perfect map leaves.

    Args:
        data: images.
        model: with the present noise and views, such as ``Reconstruction.model``.
        x: ``(size,)`` coefficients.

    Raises:
        ValueError: for a model that is not one of centred projections.
    """
    model = model.measured(data)
    placement, view = model.placement, model.view
    if not isinstance(placement, Centred) or not isinstance(view, Projection):
        raise ValueError(
            f"poses need Projection() views and the placement Centred(); got {type(view).__name__} and "
            f"{type(placement).__name__}"
        )
    templates = model.templates(x.float())
    slices = torch.complex(templates[:, 0], templates[:, 1]) / 2**0.5
    noise = torch.as_tensor(model.variance(templates), dtype=templates.dtype, device=x.device).expand(slices.shape[1])
    shifts = placement.shifts(templates)
    chances = log_prior(placement, model.log_weights.to(templates))
    rotations, moves = [], []
    for first in range(0, len(data), _IMAGES):
        indices = tuple(range(first, min(first + _IMAGES, len(data))))
        images, band = observed(placement, data.images(indices).to(templates), indices)
        _, views, places = orientations.best(images, slices, noise, band.ramp(shifts), log_prior=chances)
        rotations.append(view.rotations[views[:, 0]])
        moves.append(shifts[places[:, 0]].double() * placement.pixel_size)
    return Poses(torch.cat(rotations).double(), torch.cat(moves))


@dataclass(frozen=True, eq=False)
class Weighed:
    """How well the images determine a map, shell by shell.

    Attributes:
        density: ``(k,)`` weight per voxel of Fourier space over the noise: an unregularised map has the error 1 /
            density there.
        effective: mean effective number of views and shifts of an image.
    """

    density: torch.Tensor
    effective: float


def weighed(data: Particles, model: Model, x: torch.Tensor) -> Weighed:
    """One E-step over all images, for what it says of the map's error.

    Raises:
        ValueError: for a placement other than ``Centred``.
    """
    model = model.measured(data)
    placement = model.placement
    if not isinstance(placement, Centred):
        raise ValueError(f"the placement must be Centred(); got {type(placement).__name__}")
    templates = model.templates(x.float())
    step = placement.step(templates, model.log_weights, model.noise)
    for index, image in Batch(data, range(len(data))):
        step.add(image, 0, index)
    stats = step.finish()
    band = placement.band(data.box)
    weight = (stats["weight"][:, 0] / model.variance(stats["weight"])).sum(0)
    shells = band.shells.to(weight.device)
    sums = weight.new_zeros(int(shells.max()) + 1).index_add_(0, shells, 2 * weight)
    return Weighed(slices_to_map.density(sums, data.box), float(stats["effective"] / stats["windows"]))
