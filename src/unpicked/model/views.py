"""Views: how an object becomes templates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from unpicked._lazy import torch
from unpicked.objects.base import Projector, Volume

_CHUNK = 512  # views whose slices are planned together


class View(Protocol):
    """A finite set of linear maps from an object's coefficients to templates, each with a weight."""

    def __len__(self) -> int: ...

    @property
    def log_weights(self) -> torch.Tensor:
        """``(k,)`` logarithms of the views' probabilities."""

    @property
    def digest(self) -> str:
        """A short text that tells this set of views from others."""

    def image_shape(self, object: Any) -> tuple[int, ...]:
        """Shape of one template; each view says which kind of object it needs."""

    def operator(self, object: Any, like: torch.Tensor) -> Projector:
        """Coefficients to all templates ``(k, *image_shape)``, with its adjoint, in the dtype of ``like``."""

    def turned(self, rotation: torch.Tensor) -> View:
        """The same views of the object turned by ``rotation``; a view that knows no turn returns itself."""


@dataclass(frozen=True, eq=False)
class Projection:
    """Projections of a volume along a set of rotations, all equally likely.

    Attributes:
        rotations: ``(k, 3, 3)`` active, object to view.
    """

    rotations: torch.Tensor

    def __post_init__(self) -> None:
        r = self.rotations
        if r.dim() != 3 or tuple(r.shape[1:]) != (3, 3) or r.shape[0] == 0:
            raise ValueError(f"rotations must be (k, 3, 3) with k >= 1; got {tuple(r.shape)}")
        error = float((r @ r.mT - torch.eye(3, dtype=r.dtype, device=r.device)).abs().max())
        if not error < 1e-4:
            raise ValueError(f"rotations must be orthogonal matrices; R R^T misses the identity by {error:.2g}")

    def __len__(self) -> int:
        return int(self.rotations.shape[0])

    @cached_property
    def log_weights(self) -> torch.Tensor:
        """``(k,)``: -log k each."""
        return torch.full((len(self),), -math.log(len(self)), dtype=torch.float64, device=self.rotations.device)

    @cached_property
    def digest(self) -> str:
        """Number of rotations and the sum of their entries' cosines."""
        return f"{len(self)} rotations {float(self.rotations.double().cos().sum()):.12g}"

    def turned(self, rotation: torch.Tensor) -> Projection:
        """The same views of the object turned by ``rotation``, ``(3, 3)``."""
        return Projection(self.rotations @ rotation.to(self.rotations))

    def image_shape(self, object: Volume) -> tuple[int, int]:
        """Height and width of a template."""
        return object.shape[-2], object.shape[-1]

    def at(self, object: Volume, x: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
        """Projections ``(n, L, L)`` along any rotations ``(n, 3, 3)``."""
        return object.projector(rotations.to(x)).project(x)

    def operator(self, object: Volume, like: torch.Tensor) -> Projector:
        """All views as one linear operator, in the dtype and on the device of ``like``."""
        parts = [
            object.projector(self.rotations[first : first + _CHUNK].to(like)) for first in range(0, len(self), _CHUNK)
        ]
        if len(parts) == 1:
            return parts[0]

        def project(x: torch.Tensor) -> torch.Tensor:
            return torch.cat([part.project(x) for part in parts], dim=-3)

        def backproject(images: torch.Tensor) -> torch.Tensor:
            pieces = images.split(_CHUNK, dim=-3)
            return torch.stack([part.backproject(piece) for part, piece in zip(parts, pieces, strict=True)]).sum(0)

        return Projector(project, backproject)
