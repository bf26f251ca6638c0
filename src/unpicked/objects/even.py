"""Signals that read the same from both ends: what a copy is when nothing of its structure is believed."""

from __future__ import annotations

from dataclasses import dataclass

from unpicked._lazy import torch


@dataclass(frozen=True)
class Even:
    """A short signal of ``length`` samples, symmetric about its middle; its coefficients are its first half.

    Attributes:
        length: L, at least 1; of an odd one the middle sample is a coefficient.
    """

    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length must be at least 1 sample; got {self.length}")

    @property
    def shape(self) -> tuple[int]:
        """Shape of the values."""
        return (self.length,)

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return (self.length + 1) // 2

    def values(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., size)`` to ``(..., length)``.

        Raises:
            ValueError: if the last axis of x is not ``size``.
        """
        if x.shape[-1:] != (self.size,):
            raise ValueError(f"x must end in shape ({self.size},); got {tuple(x.shape)}")
        return torch.cat([x, x[..., : self.length // 2].flip(-1)], -1)

    def fit(self, values: torch.Tensor) -> torch.Tensor:
        """The means of samples that lie opposite each other, ``(..., length)`` to ``(..., size)``.

        Raises:
            ValueError: if the last axis of values is not ``length``.
        """
        if values.shape[-1:] != (self.length,):
            raise ValueError(f"values must end in shape ({self.length},); got {tuple(values.shape)}")
        return ((values + values.flip(-1)) / 2)[..., : self.size]
