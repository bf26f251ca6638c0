"""Priors: what is believed of the object before the data, as an energy.

Extending: one frozen dataclass with ``energy``; where the energy is a quadratic form centred at zero, say so by
``quadratic = True`` and the M-step stays one linear solve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from unpicked._lazy import torch
from unpicked.objects.base import Object
from unpicked.ops import fourier


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
class Ridge:
    """Independent Gaussian coefficients of one variance: energy |x|^2 / (2 variance).

    Attributes:
        variance: expected square of a coefficient.
    """

    variance: float
    quadratic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.variance > 0:
            raise ValueError(f"variance must be positive; got {self.variance}")

    def energy(self, x: torch.Tensor, object: Object) -> torch.Tensor:
        """|x|^2 / (2 variance)."""
        return x.square().sum() / (2 * self.variance)


@dataclass(frozen=True)
class Shells:
    """Independent Fourier coefficients whose variance depends on resolution: sum_q |F(q)|^2 / (2 tau^2(|q|)).

    F is the transform of :func:`unpicked.ops.fourier.fft3`. tau^2 must come from somewhere else than the map that is
    being estimated (half maps, a known structure, :func:`globular`): the power of the present map as its own prior
    lets the outer shells collapse.

    Attributes:
        tau2: expected |F|^2 in shell 0, 1, ...; frequencies beyond the last take the last value.
    """

    tau2: tuple[float, ...]
    quadratic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.tau2 or not all(value > 0 for value in self.tau2):
            raise ValueError(f"tau2 must hold a positive value per shell; got {self.tau2}")

    def energy(self, x: torch.Tensor, object: Object) -> torch.Tensor:
        """sum_q |F(q)|^2 / (2 tau^2(|q|))."""
        spectrum = fourier.fft3(object.values(x))
        shells = fourier.shells(spectrum.shape, device=x.device).clamp(max=len(self.tau2) - 1)
        precision = 1 / torch.tensor(self.tau2, dtype=x.dtype, device=x.device)
        return 0.5 * (precision[shells] * (spectrum.real.square() + spectrum.imag.square())).sum()


def globular(box: int, power: float) -> Shells:
    """A spectrum for compact molecules: tau^2(k) proportional to (1 + (k / 1.5)^2)^-2, k in shells of the box.

    Args:
        box: edge of the map in voxels.
        power: expected sum of squares of a projection.
    """
    shells = torch.arange((box - 1) // 2 + 1, dtype=torch.float64)
    shape = (1 + (shells / 1.5).square()).pow(-2)
    slice_shape = shape[fourier.shells((box, box)).clamp(max=len(shape) - 1)]
    return Shells(tuple((shape * power / slice_shape.sum()).tolist()))
