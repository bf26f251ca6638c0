"""Noise laws."""

from __future__ import annotations

import math
from dataclasses import dataclass


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
