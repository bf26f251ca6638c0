"""A smooth signal or image: Gaussian values whose correlation falls with distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unpicked._lazy import torch
from unpicked.objects.base import Object
from unpicked.ops import special


@dataclass(frozen=True)
class Smooth:
    """Values on the grid are Gaussian with covariance variance * exp(-d^2 / (4 correlation^2)), d their distance.

    A signal made of bumps of standard deviation s has a correlation of about s. The spectrum of such a prior falls as
    exp(-(2 pi k correlation)^2): what is finer is left out unless the data show it.

    Attributes:
        variance: expected square of a value.
        correlation: in samples or pixels.
        floor: relative variance of an independent part, so that the covariance can be inverted.
        kinds: whether the first axis of the values counts kinds of object, which are independent.
    """

    variance: float
    correlation: float
    floor: float = 1e-3
    kinds: bool = False
    quadratic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("variance", "correlation", "floor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")

    def energy(self, x: torch.Tensor, object: Object) -> torch.Tensor:
        """v^T C^-1 v / 2 of the values v of coefficients ``(size,)``."""
        values = object.values(x)
        shape = tuple(values.shape[1:] if self.kinds else values.shape)
        factor = _factor(shape, self.correlation, self.floor).to(values)
        white = values.reshape(-1, factor.shape[0]) @ factor.mT
        return white.square().sum() / (2 * self.variance)


@special.constants(8)
def _factor(shape: tuple[int, ...], correlation: float, floor: float) -> torch.Tensor:
    """F with F^T F = C^-1 at variance 1."""
    axes = [torch.arange(size, dtype=torch.float64) for size in shape]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))
    distance = torch.cdist(points, points)
    covariance = torch.exp(-(distance.square()) / (4 * correlation**2))
    covariance = covariance + floor * torch.eye(len(points), dtype=torch.float64)
    lower = torch.linalg.cholesky(covariance)
    return torch.linalg.solve_triangular(lower, torch.eye(len(points), dtype=torch.float64), upper=False)
