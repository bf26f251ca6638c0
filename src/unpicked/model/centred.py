"""Copies of the object at the centre of particle images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from unpicked._lazy import torch
from unpicked.objects.base import Object


@dataclass(frozen=True)
class Centred:
    """One copy per image, within ``max_shift`` of its centre.

    Attributes:
        max_shift: angstrom.
        subpixel: positions per pixel and axis.
    """

    max_shift: float = 0.0
    subpixel: int = 1
    exact: ClassVar[bool] = True

    def moves(self, object: Object, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """None: images of particles say where their centres are."""
        yield from ()
