"""Noise laws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from unpicked._lazy import torch


@dataclass(frozen=True)
class White:
    """Independent Gaussian noise of one standard deviation on a constant background.

    Attributes:
        sigma: standard deviation per pixel, in the grey values of the (prepared) data.
        mean: grey value of the empty background.
    """

    sigma: float = 1.0
    mean: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(f"sigma must be a positive finite number; got {self.sigma}")
        if not math.isfinite(self.mean):
            raise ValueError(f"mean must be finite; got {self.mean}")

    def estimates(self) -> dict[str, torch.Tensor]:
        """Its parameters, float64."""
        return {name: torch.tensor(getattr(self, name), dtype=torch.float64) for name in ("sigma", "mean")}

    def present(self, estimates: Mapping[str, torch.Tensor]) -> White:
        """The noise with these parameters; other names are ignored."""
        return White(float(estimates["sigma"]), float(estimates["mean"]))


@dataclass(frozen=True)
class Coloured:
    """Stationary Gaussian noise on a constant background, of a power that depends on the length of the frequency.

    Attributes:
        power: expected square of an orthonormal Fourier coefficient in shell 0, 1, ... of the image, in squares of grey
            values; frequencies beyond the last shell take the last value. White noise has sigma^2 in all shells.
        mean: grey value of the empty background.
    """

    power: tuple[float, ...]
    mean: float = 0.0

    def __post_init__(self) -> None:
        if not self.power or not all(math.isfinite(value) and value > 0 for value in self.power):
            raise ValueError(f"power must hold a positive finite number per shell; got {self.power}")
        if not math.isfinite(self.mean):
            raise ValueError(f"mean must be finite; got {self.mean}")

    @property
    def sigma(self) -> float:
        """Standard deviation per pixel of white noise of the mean power of the shells' coefficients."""
        rings = [max(1, 2 * shell) for shell in range(len(self.power))]  # coefficients of a ring, up to a factor
        return math.sqrt(sum(ring * value for ring, value in zip(rings, self.power, strict=True)) / sum(rings))

    def estimates(self) -> dict[str, torch.Tensor]:
        """Its parameters, float64; sigma is told for the record."""
        return {
            "sigma": torch.tensor(self.sigma, dtype=torch.float64),
            "mean": torch.tensor(self.mean, dtype=torch.float64),
            "power": torch.tensor(self.power, dtype=torch.float64),
        }

    def present(self, estimates: Mapping[str, torch.Tensor]) -> Coloured:
        """The noise with these parameters; other names are ignored."""
        return Coloured(tuple(estimates["power"].tolist()), float(estimates["mean"]))


Noise = White | Coloured


def variance_of(noise: Noise) -> float:
    """Variance per pixel.

    Raises:
        ValueError: for noise that is not white.
    """
    if not isinstance(noise, White):
        raise ValueError(
            f"noise must be White() for this placement; got {type(noise).__name__}; try to whiten the data first"
        )
    return noise.sigma**2
