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
        normal: makes of weights, as many as numbers are seen, x -> backproject(weights * project(x)) of one object
            ``(size,)``, where there is a way that costs the same for any number of views; it may be less exact.
    """

    project: Callable[[torch.Tensor], torch.Tensor]
    backproject: Callable[[torch.Tensor], torch.Tensor]
    normal: Callable[[torch.Tensor], Callable[[torch.Tensor], torch.Tensor]] | None = None


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


@runtime_checkable
class Sliced(Protocol):
    """A volume whose projections are also known as Fourier coefficients, without the images."""

    def slicer(
        self, rotations: torch.Tensor, points: torch.Tensor, radius: float, *, like: torch.Tensor, precise: bool
    ) -> Projector:
        """Orthonormal coefficients ``(..., k, p)`` of the projections at frequencies ``(p, 2)``, complex.

        ``backproject`` is the adjoint over the whole plane, where every coefficient counts twice, as itself and as its
        conjugate; so does ``normal``, which takes weights ``(k, p)``.
        """


class Image(Object, Protocol):
    """An object in two dimensions: it can be turned in its plane."""

    def rotator(self, angles: torch.Tensor) -> Projector:
        """The image turned by ``(k,)`` angles in radians, from +x towards +y."""
