"""What an object is: a linear map from coefficients to values, and to what is seen of it from a set of views.

An object is a frozen record without the unknowns; the unknowns x are one real vector of length ``size``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from unpicked._lazy import torch


@dataclass(frozen=True, eq=False)
class Projector:
    """What is seen of one object from a fixed set of views, as a linear operator with its adjoint.

    Attributes:
        project: ``(..., size)`` coefficients to ``(..., k, L, L)`` images, or ``(..., k, L)`` signals.
        backproject: the exact adjoint, to ``(..., size)``.
    """

    project: Callable[[torch.Tensor], torch.Tensor]
    backproject: Callable[[torch.Tensor], torch.Tensor]


@runtime_checkable
class Object(Protocol):
    """A class of signals, images or volumes, linear in its coefficients."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values on the grid."""

    @property
    def size(self) -> int:
        """Number of coefficients."""

    def values(self, x: torch.Tensor) -> torch.Tensor:
        """Coefficients ``(..., size)`` to grid values ``(..., *shape)``."""

    def fit(self, values: torch.Tensor) -> torch.Tensor:
        """Grid values to the coefficients that represent them best; ``fit(values(x)) = x``."""


class Volume(Object, Protocol):
    """An object in three dimensions: it can be projected."""

    def projector(self, rotations: torch.Tensor) -> Projector:
        """Projections along ``(k, 3, 3)`` active rotations, in their dtype and on their device."""


class Image(Object, Protocol):
    """An object in two dimensions: it can be turned in its plane."""

    def rotator(self, angles: torch.Tensor) -> Projector:
        """The image turned by ``(k,)`` angles in radians, from +x towards +y."""
