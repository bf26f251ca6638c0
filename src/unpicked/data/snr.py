"""Signal-to-noise without ambiguity: every figure says which definition it is.

All refer to one noise-free particle image m in its L x L box, white noise of variance sigma^2 per pixel, and the
mean over views. The package's unit is the energy E = sum m^2 / sigma^2; d' = sqrt(E) is the matched filter's ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["energy", "snr_box", "snr_disc", "snr_db", "sigma"]


@dataclass(frozen=True)
class NoiseLevel:
    """A noise level in one of the field's definitions; make it with :func:`energy`, :func:`snr_box` and so on."""

    kind: Kind
    value: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or (self.kind != "snr_db" and not self.value > 0):
            sign = "" if self.kind == "snr_db" else "positive "
            raise ValueError(f"{self.kind} must be a {sign}finite number; got {self.value}")

    def sigma(self, power: float, variance: float, box: int) -> float:
        """Standard deviation of the noise per pixel that gives this level.

        Args:
            power: mean over views of the image's sum of squares.
            variance: mean over views of the image's variance in the box.
            box: edge L of the box in pixels.
        """
        match self.kind:
            case "energy":
                return math.sqrt(power / self.value)
            case "snr_box":
                return math.sqrt(power / (self.value * box**2))
            case "snr_disc":
                return math.sqrt(power / (self.value * math.pi * (box // 2) ** 2))
            case "snr_db":
                return math.sqrt(variance / 10 ** (self.value / 10))
            case "sigma":
                return self.value


def energy(value: float) -> NoiseLevel:
    """E = mean over views of sum m^2 / sigma^2."""
    return NoiseLevel("energy", value)


def snr_box(value: float) -> NoiseLevel:
    """E / L^2, the number of Bendory's talk (2022): 3.5 on an 11 x 11 box is E = 424."""
    return NoiseLevel("snr_box", value)


def snr_disc(value: float) -> NoiseLevel:
    """E / (pi floor(L/2)^2)."""
    return NoiseLevel("snr_disc", value)


def snr_db(value: float) -> NoiseLevel:
    """10 log10(variance of m in the box / sigma^2), the number of Nashed et al. (2021)."""
    return NoiseLevel("snr_db", value)


def sigma(value: float) -> NoiseLevel:
    """Standard deviation of the noise per pixel, in the grey values of the images."""
    return NoiseLevel("sigma", value)


def levels(sigma: float, power: float, variance: float, box: int) -> dict[str, float]:
    """All definitions of one noise level, by their names (arguments as in :meth:`NoiseLevel.sigma`)."""
    total = power / sigma**2
    return {
        "sigma": sigma,
        "energy": total,
        "snr_box": total / box**2,
        "snr_disc": total / (math.pi * (box // 2) ** 2),
        "snr_db": 10 * math.log10(variance / sigma**2) if variance > 0 else -math.inf,
    }
