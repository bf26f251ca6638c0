"""A one-dimensional object; its coefficients are its samples."""

from __future__ import annotations

from dataclasses import dataclass

from unpicked._lazy import torch


@dataclass(frozen=True)
class Samples:
    """A short signal of ``length`` samples.

    Attributes:
        length: L, at least 1.
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
        """Number of samples."""
        return self.length

    def values(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., size)`` as it is.

        Raises:
            ValueError: if the last axis of x is not ``size``.
        """
        if x.shape[-1:] != (self.size,):
            raise ValueError(f"x must end in shape ({self.size},); got {tuple(x.shape)}")
        return x

    def fit(self, values: torch.Tensor) -> torch.Tensor:
        """``(..., length)`` as it is.

        Raises:
            ValueError: if the last axis of values is not ``length``.
        """
        if values.shape[-1:] != (self.length,):
            raise ValueError(f"values must end in shape ({self.length},); got {tuple(values.shape)}")
        return values
