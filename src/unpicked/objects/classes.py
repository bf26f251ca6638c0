"""Several kinds of object at once."""

from __future__ import annotations

from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.objects.base import Object


@dataclass(frozen=True)
class Classes:
    """Objects of one class of signals, images or volumes: the data hold copies of each of them.

    Coefficients and values of all kinds stand one after the other. A view of it is (kind, view), with weights:
    :class:`unpicked.model.views.OfClasses`. Answers are unique up to the order of the kinds.

    Attributes:
        object: what every kind is made of.
        count: number of kinds.

    Raises:
        ValueError: if count < 1.
    """

    object: Object
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1 kind; got {self.count}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values: kinds, then the shape of one."""
        return (self.count, *self.object.shape)

    @property
    def size(self) -> int:
        """Number of coefficients of all kinds."""
        return self.count * self.object.size

    def values(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., size)`` to ``(..., count, *shape of one)``.

        Raises:
            ValueError: if the last axis of x is not ``size``.
        """
        return self.object.values(self.apart(x))

    def fit(self, values: torch.Tensor) -> torch.Tensor:
        """``(..., count, *shape of one)`` to ``(..., size)``.

        Raises:
            ValueError: if the last axes are not ``shape``.
        """
        if tuple(values.shape[-len(self.shape) :]) != self.shape:
            raise ValueError(f"values must end in shape {self.shape}; got {tuple(values.shape)}")
        return self.object.fit(values).flatten(-2)

    def apart(self, x: torch.Tensor) -> torch.Tensor:
        """Coefficients of every kind, ``(..., count, size of one)``.

        Raises:
            ValueError: if the last axis of x is not ``size``.
        """
        if x.shape[-1:] != (self.size,):
            raise ValueError(f"x must end in shape ({self.size},); got {tuple(x.shape)}")
        return x.unflatten(-1, (self.count, self.object.size))
