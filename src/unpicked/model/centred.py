"""Copies of the object at the centre of particle images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Centred:
    """One copy per image, within ``max_shift`` of its centre.

    Attributes:
        max_shift: angstrom.
        subpixel: positions per pixel and axis.
    """

    max_shift: float = 0.0
    subpixel: int = 1
