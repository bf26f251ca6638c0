"""What a prior is, no prior at all, and several at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from unpicked._lazy import torch
from unpicked.objects.base import Object


class Prior(Protocol):
    """A belief about the object."""

    @property
    def quadratic(self) -> bool:
        """Whether the energy is a quadratic form centred at zero."""

    def energy(self, x: torch.Tensor, object: Object) -> torch.Tensor:
        """-log p(x) up to a constant, a scalar, differentiable in x."""


@dataclass(frozen=True)
class Flat:
    """No belief at all: maximum likelihood."""

    quadratic: ClassVar[bool] = True

    def energy(self, x: torch.Tensor, object: Object) -> torch.Tensor:
        """Zero."""
        return x.sum() * 0


@dataclass(frozen=True)
class Both:
    """Several priors at once: the product of their densities, the sum of their energies.

    Attributes:
        priors: at least one; the whole is quadratic where all of them are.
    """

    priors: tuple[Prior, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.priors, tuple) or not self.priors:
            raise ValueError(f"priors must be a tuple of at least one prior; got {self.priors!r}")

    @property
    def quadratic(self) -> bool:
        """Whether all are."""
        return all(prior.quadratic for prior in self.priors)

    def energy(self, x: torch.Tensor, object: Object) -> torch.Tensor:
        """Sum of the energies."""
        return torch.stack([prior.energy(x, object) for prior in self.priors]).sum()


@runtime_checkable
class Majorised(Protocol):
    """A prior whose curvature is dear or uncertain, and held by that of a quadratic one."""

    @property
    def majorant(self) -> Prior:
        """A quadratic prior that is curved at least as much everywhere; fits take their steps by it."""


@runtime_checkable
class Curved(Protocol):
    """A prior that knows the Hessian of its energy, where automatic differentiation is slow."""

    def curvature(self, x: torch.Tensor, object: Object) -> torch.Tensor | None:
        """The Hessian at x, ``(size, size)``, in the dtype of x; None leaves it to that."""


def majorant(prior: Prior) -> Prior:
    """The prior with what stands for its members' curvature in a fit's steps; itself where there is nothing such."""
    if isinstance(prior, Both):
        bounds = tuple(majorant(one) for one in prior.priors)
        return prior if all(a is b for a, b in zip(bounds, prior.priors, strict=True)) else Both(bounds)
    return prior.majorant if isinstance(prior, Majorised) else prior


@runtime_checkable
class Turnable(Protocol):
    """An object whose coefficients can be rotated exactly."""

    def rotate(self, x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
        """Coefficients of the turned volume."""
