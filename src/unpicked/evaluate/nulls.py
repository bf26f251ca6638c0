"""What data may be without any structure in them: white noise, and stationary Gaussian noise of any spectrum.

A null is fitted to some tiles and judges others. Log-likelihoods are those of all numbers of a tile, so that they may
be compared with those of any other model of the same tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.ops import fourier

ORDER = 12  # samples from which the next one is predicted
_LEAST = 1e-12  # part of the mean power that a frequency has at least


class Null(Protocol):
    """A model without structure; a frozen record, fitted or not."""

    name: ClassVar[str]

    def fitted(self, tiles: Iterable[Any]) -> Null:
        """The maximum-likelihood null of some tiles ``(n, *tile)``, read once."""

    def log_likelihood(self, tiles: Any) -> Float[torch.Tensor, " n"]:
        """Of every tile ``(n, *tile)``, float64."""


@dataclass(frozen=True)
class White:
    """Independent Gaussian numbers of one mean and variance.

    Attributes:
        mean: of all.
        variance: of all.
    """

    mean: float = 0.0
    variance: float = 1.0
    name: ClassVar[str] = "white noise"

    def fitted(self, tiles: Iterable[torch.Tensor]) -> White:
        """Mean and variance."""
        count, total, square = 0, 0.0, 0.0
        for some in tiles:
            values = some.double()
            count, total, square = count + values.numel(), total + float(values.sum()), square + _square(values)
        mean = total / count
        return White(mean, max(square / count - mean**2, 1e-300))

    def log_likelihood(self, tiles: torch.Tensor) -> Float[torch.Tensor, " n"]:
        """Of every tile."""
        rest = (tiles.double() - self.mean).flatten(1)
        return -0.5 * (rest.square().sum(1) / self.variance + rest.shape[1] * math.log(2 * math.pi * self.variance))


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Stationary Gaussian noise in two dimensions, one power per shell of a tile's frequencies (Whittle 1953).

    Attributes:
        mean: of all pixels.
        power: ``(k,)`` of the shells round(|q|), float64; the mean of a tile is a shell of its own.
    """

    mean: float = 0.0
    power: tuple[float, ...] = ()
    name: ClassVar[str] = "noise of the same spectrum"

    def fitted(self, tiles: Iterable[torch.Tensor]) -> Spectrum:
        """Mean power per shell."""
        sums: torch.Tensor | None = None
        count, mean = 0, 0.0
        for some in tiles:
            values = some.double()
            transform = torch.fft.fft2(values, norm="ortho")
            own = (transform.real.square() + transform.imag.square()).sum(0)
            sums = own if sums is None else sums + own
            count, mean = count + len(values), mean + float(values.mean((1, 2)).sum())
        if sums is None:
            raise ValueError("a null needs at least one tile; got none")
        mean /= count
        power = sums / count
        power[0, 0] -= mean**2 * power.numel()
        shells = fourier.shells(power.shape).to(power.device)
        found = torch.bincount(shells.flatten(), power.flatten()) / torch.bincount(shells.flatten())
        least = _LEAST * float(found.mean()) + 1e-300
        return Spectrum(mean, tuple(found.clamp(min=least).tolist()))

    def log_likelihood(self, tiles: torch.Tensor) -> Float[torch.Tensor, " n"]:
        """Of every tile, as if it went on periodically."""
        transform = torch.fft.fft2(tiles.double() - self.mean, norm="ortho")
        power = torch.tensor(self.power, dtype=torch.float64, device=tiles.device)
        power = power[fourier.shells(tiles.shape[1:]).to(tiles.device)]
        square = transform.real.square() + transform.imag.square()
        return -0.5 * ((square / power).sum((1, 2)) + (2 * math.pi * power).log().sum())


@dataclass(frozen=True, eq=False)
class Autoregressive:
    """Stationary Gaussian noise in one dimension: every sample predicted from those before it.

    Attributes:
        weights: of the last samples, the latest first.
        constant: added to the prediction.
        variance: of the prediction's error.
        start: what the first samples of a tile are taken for.
    """

    weights: tuple[float, ...] = ()
    constant: float = 0.0
    variance: float = 1.0
    start: White = White()
    name: ClassVar[str] = "noise of the same spectrum"

    def fitted(self, tiles: Iterable[torch.Tensor]) -> Autoregressive:
        """Least squares over all samples that have :data:`ORDER` samples before them."""
        normal = torch.zeros(ORDER + 2, ORDER + 2, dtype=torch.float64)
        count, total, square, seen = 0, 0.0, 0.0, 0
        for some in tiles:
            values = some.double().cpu()
            seen, total, square = seen + values.numel(), total + float(values.sum()), square + _square(values)
            for part in values.split(max(1, (1 << 20) // values.shape[1])):
                rows = _predictors(part)
                normal += rows.mT @ rows
                count += len(rows)
        white = White(total / seen, max(square / seen - (total / seen) ** 2, 1e-300))
        if count <= 2 * (ORDER + 1):
            return Autoregressive(variance=white.variance, constant=white.mean, start=white)
        left, right = normal[1:, 1:], normal[1:, 0]
        ridge = 1e-10 * torch.diagonal(left).mean() * torch.eye(len(left), dtype=torch.float64)
        found = torch.linalg.solve(left + ridge, right)
        error = float(normal[0, 0] - 2 * found @ right + found @ left @ found) / count
        return Autoregressive(tuple(found[1:].tolist()), float(found[0]), max(error, 1e-300), white)

    def log_likelihood(self, tiles: torch.Tensor) -> Float[torch.Tensor, " n"]:
        """Of every tile ``(n, samples)``."""
        values, order = tiles.double().cpu(), len(self.weights)
        first = self.start.log_likelihood(values[:, :order]) if order else values.new_zeros(len(values))
        rest = values[:, order:] - self.constant
        for lag, weight in enumerate(self.weights, 1):
            rest = rest - weight * values[:, order - lag : values.shape[1] - lag]
        constant = rest.shape[1] * math.log(2 * math.pi * self.variance)
        return first - 0.5 * (rest.square().sum(1) / self.variance + constant)


def _predictors(values: torch.Tensor) -> torch.Tensor:
    """Rows: a sample, 1, and the :data:`ORDER` samples before it, the latest first."""
    if values.shape[1] <= ORDER:
        return values.new_zeros(0, ORDER + 2)
    windows = values.unfold(1, ORDER + 1, 1).flatten(0, 1).flip(1)
    return torch.cat([windows[:, :1], torch.ones_like(windows[:, :1]), windows[:, 1:]], 1)


def _square(values: torch.Tensor) -> float:
    return float(values.square().sum())
