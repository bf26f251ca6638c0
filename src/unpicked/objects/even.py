"""Signals that read the same from both ends: what a copy is when nothing of its structure is believed."""

from __future__ import annotations

from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.objects.samples import Samples


@dataclass(frozen=True)
class Even(Samples):
    """A short signal of ``length`` samples, symmetric about its middle; its coefficients are its first half.

    Attributes:
        length: L, at least 1; of an odd one the middle sample is a coefficient.
    """

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return (self.length + 1) // 2

    def values(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., size)`` to ``(..., length)``; ValueError if the last axis of x is not ``size``."""
        half = super().values(x)
        return torch.cat([half, half[..., : self.length // 2].flip(-1)], -1)

    def fit(self, values: torch.Tensor) -> torch.Tensor:
        """The means of samples that lie opposite each other, ``(..., length)`` to ``(..., size)``.

        Raises:
            ValueError: if the last axis of values is not ``length``.
        """
        whole = super().fit(values)
        return ((whole + whole.flip(-1)) / 2)[..., : self.size]
