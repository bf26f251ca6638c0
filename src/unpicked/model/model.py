"""The model: object, view, placement, optics and noise, checked to fit together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from unpicked._lazy import torch
from unpicked.data.base import Data
from unpicked.data.optics import Optics
from unpicked.model.noise import Noise, White
from unpicked.model.placements import Placement
from unpicked.model.views import View
from unpicked.objects.base import Object, Projector


@dataclass(frozen=True, eq=False)
class Model:
    """What is believed of the measurement, with starting values for what is to be estimated.

    Attributes:
        object: class of signals, images or volumes.
        view: how the object becomes templates.
        placement: where the templates lie in the data.
        optics: contrast transfer, one entry per piece of the data; None means what the data say of it.
        noise: noise law.
    """

    object: Object
    view: View
    placement: Placement
    optics: Optics | None = None
    noise: Noise = White()

    @property
    def side(self) -> int:
        """Side L of a template in pixels."""
        return self.view.image_shape(self.object)[-1]

    @property
    def dims(self) -> int:
        """Axes of a template: 1 of signals, 2 of images."""
        return len(self.view.image_shape(self.object))

    @property
    def log_weights(self) -> torch.Tensor:
        """``(k,)`` logarithms of the templates' probabilities."""
        weights, positions = self.view.log_weights, self.placement.positions
        return weights if positions == 1 else weights.repeat_interleave(positions) - math.log(positions)

    def operator(self, like: torch.Tensor) -> Projector:
        """Coefficients to all templates, views x sub-pixel positions, in the dtype of ``like``.

        Anywhere templates are images ``(k, L, L)``, of signals ``(k, L)``; others are as the placement says.
        """
        if self.placement.positions > 1 and self.dims != 2:
            raise ValueError(f"subpixel must be 1 for signals; got {math.isqrt(self.placement.positions)}")
        return self.placement.seen(self.view, self.object, like)

    def templates(self, x: torch.Tensor) -> torch.Tensor:
        """All templates of the object with coefficients x, see :meth:`operator`."""
        return self.operator(x).project(x)

    def variance(self, like: torch.Tensor) -> float | torch.Tensor:
        """Of the noise of every number of a template."""
        return self.placement.variance(self.noise, self.side, like)

    def measured(self, data: Data) -> Model:
        """The model in the units of some data, with their masks, and their contrast transfer where it states none.

        Raises:
            ValueError: for optics of another number of pieces.
        """
        optics = getattr(data, "optics", None) if self.optics is None else self.optics
        if optics is not None and len(optics) != len(data):
            raise ValueError(f"optics must have one entry per piece of the data, {len(data)}; got {len(optics)}")
        gains, masks = getattr(data, "gains", None), getattr(data, "masks", None)
        return replace(self, placement=self.placement.measured(data.pixel_size, self.side, optics, gains, masks))
