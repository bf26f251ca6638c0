"""The model: object, view, placement, optics and noise, checked to fit together."""

from __future__ import annotations

import math
from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.data.optics import Optics
from unpicked.model.noise import White
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
        optics: contrast transfer; None means none.
        noise: noise law.
    """

    object: Object
    view: View
    placement: Placement
    optics: Optics | None = None
    noise: White = White()

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
        weights, positions = self.view.log_weights, self.placement.subpixel**2
        return weights if positions == 1 else weights.repeat_interleave(positions) - math.log(positions)

    def operator(self, like: torch.Tensor) -> Projector:
        """Coefficients to all templates ``(k, L, L)``, views x sub-pixel positions, in the dtype of ``like``.

        Those of signals are ``(k, L)``.
        """
        if self.placement.subpixel > 1 and self.dims != 2:
            raise ValueError(f"subpixel must be 1 for signals; got {self.placement.subpixel}")
        return self.placement.shifted(self.view.operator(self.object, like))

    def templates(self, x: torch.Tensor) -> torch.Tensor:
        """All templates ``(k, L, L)`` of the object with coefficients x."""
        return self.operator(x).project(x)
