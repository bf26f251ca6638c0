"""Spectra of simulated noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.ops import filters, seeding

_BORDER = 64  # pixels that are made and left out, so that opposite borders know nothing of each other


@dataclass(frozen=True, eq=False)
class Colour:
    """A shape of noise power over frequencies in cycles per pixel.

    Attributes:
        name: in words.
        power: of frequencies x and y, positive; its scale is the noise level's business.
    """

    name: str
    power: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    @property
    def mean(self) -> float:
        """Mean power: the variance of a pixel where the noise level is 1."""
        return float(filters.lags(self.power, 1)[1, 1])

    def draw(self, size: tuple[int, int], seed: int, index: int) -> torch.Tensor:
        """Image ``index`` of noise at level 1, ``(h, w)`` float32."""
        generator = seeding.generator(seed, "noise", index)
        if self is WHITE:
            return torch.randn(size, generator=generator, dtype=torch.float32)
        wide = (size[0] + _BORDER, size[1] + _BORDER)
        white = torch.randn(wide, generator=generator, dtype=torch.float32)
        factors = self.power(*filters.half_plane(wide)).sqrt().float()
        return torch.fft.irfft2(torch.fft.rfft2(white) * factors, s=wide)[: size[0], : size[1]].contiguous()


WHITE = Colour("white", lambda fx, fy: torch.ones_like(fx))


def colour(name: str) -> Colour:
    """White, coloured (1 + 3 exp(-(s / 0.15 Nyquist)^2)), ar:A (each axis autoregressive, e.g. ar:0.15) or 1/f.

    Raises:
        ValueError: for another name.
    """
    if name == "white":
        return WHITE
    if name == "coloured":
        return Colour(name, lambda fx, fy: 1 + 3 * torch.exp(-(fx.square() + fy.square()) / 0.075**2))
    if name == "1/f":
        return Colour(name, lambda fx, fy: 1 + 0.05 / ((fx.square() + fy.square()).sqrt() + 0.01))
    if name.startswith("ar:"):
        try:
            weight = float(name[3:])
        except ValueError:
            weight = math.nan
        if not abs(weight) < 1:
            raise ValueError(f"noise ar:A needs a number A between -1 and 1, e.g. ar:0.15; got {name!r}")

        def power(fx: torch.Tensor, fy: torch.Tensor) -> torch.Tensor:
            def axis(f: torch.Tensor) -> torch.Tensor:
                return 1 / (1 + weight**2 - 2 * weight * torch.cos(2 * math.pi * f))

            return axis(fx) * axis(fy)

        return Colour(name, power)
    raise ValueError(f"noise must be white, coloured, ar:A, 1/f or an MRC file whose spectrum it takes; got {name!r}")


def measured(name: str, curve: tuple[float, ...]) -> Colour:
    """The spectrum of a measured micrograph: power at lengths of the frequency evenly spaced from 0 to sqrt(1/2).

    Args:
        name: in words.
        curve: positive values, in cycles per pixel, linear between.
    """
    values = torch.tensor(curve, dtype=torch.float64)

    def power(fx: torch.Tensor, fy: torch.Tensor) -> torch.Tensor:
        place = (fx.square() + fy.square()).sqrt() * ((len(values) - 1) / math.sqrt(0.5))
        first = place.floor().long().clamp(0, len(values) - 2)
        share = (place - first).clamp(0, 1)
        return values[first] * (1 - share) + values[first + 1] * share

    return Colour(name, power)
