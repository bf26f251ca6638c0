"""What the loop takes: a lazy sequence of pieces of data, read one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from unpicked._lazy import torch


class Data(Protocol):
    """Pieces of a measurement, all of one shape at most; ``Micrographs`` and ``Signal`` are the two that exist."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Largest shape of a piece, in pixels or samples."""

    @property
    def pixel_size(self) -> float:
        """Angstrom; 1 where lengths have no unit."""

    @property
    def digest(self) -> tuple[Any, ...]:
        """What tells these data from others: names first."""

    def __getitem__(self, index: int) -> torch.Tensor:
        """Piece ``index``."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        """All pieces in order."""
