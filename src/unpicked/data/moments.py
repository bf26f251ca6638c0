"""The record of one pass over data: sums of products, which add, and from which a reconstruction can be fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unpicked._lazy import torch
from unpicked.data.arrays import members

_ALWAYS = ("kind", "length", "sums", "squares", "blocks")


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums of moments up to the third order, with what is needed for their error bars.

    Attributes:
        kind: what was summed and how, with all settings, e.g. "signal, L = 21"; only equal kinds can be added.
        length: L, side of the windows.
        sums: ``(1 + s,)`` float64: number of base points, then the sums.
        squares: ``(1 + c, 1 + c)`` sum over blocks of the outer products of their first sums, c <= s, or
            ``(1 + s,)`` of their squares.
        blocks: number of blocks.
        pieces: ``(p, 1 + s)`` the sums of every piece apart, e.g. micrographs, or None where they were not kept.
        names: of the pieces.
    """

    kind: str
    length: int
    sums: torch.Tensor
    squares: torch.Tensor
    blocks: int
    pieces: torch.Tensor | None = None
    names: tuple[str, ...] = ()

    @property
    def points(self) -> float:
        """Number of base points."""
        return float(self.sums[0])

    @property
    def means(self) -> torch.Tensor:
        """``(s,)`` moments."""
        return self.sums[1:] / self.sums[0]

    def covariance(self) -> torch.Tensor:
        """Long-run covariance of the first c moments times the number of base points, ``(c, c)``.

        It is that of block sums about their expectation, (1 / n) sum_b (S_b - n_b m) (S_b - n_b m)^T.

        Raises:
            ValueError: for less than two blocks.
        """
        if self.blocks < 2:
            raise ValueError(f"a covariance needs at least 2 blocks; got {self.blocks}")
        squares = self.squares
        if squares.dim() == 1:
            raise ValueError("these moments keep the squares of their blocks only; sum fewer moments")
        means = self.means[: len(squares) - 1]
        cross = torch.outer(squares[0, 1:], means)
        centred = squares[1:, 1:] - cross - cross.mT + squares[0, 0] * torch.outer(means, means)
        return centred / self.points * (self.blocks / (self.blocks - 1))

    def save(self, path: Path | str) -> None:
        """Write an ``.npz`` file; numpy reads it, :meth:`load` brings it back."""
        import numpy as np

        held: dict[str, Any] = {
            "kind": np.array(self.kind),
            "length": np.array(self.length),
            "sums": self.sums.numpy(),
            "squares": self.squares.numpy(),
            "blocks": np.array(self.blocks),
        }
        if self.pieces is not None:
            held |= {"pieces": self.pieces.numpy(), "names": np.array(self.names)}
        with open(path, "wb") as file:
            np.savez(file, **held)

    @staticmethod
    def load(path: Path | str) -> Moments:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: for a file that holds no moments.
        """
        try:
            held = members(Path(path), (*_ALWAYS, "pieces", "names"))
        except ValueError as error:
            raise ValueError(f"{path} holds no moments ({error}); expected an .npz of this package") from None
        if missing := [name for name in _ALWAYS if name not in held]:
            raise ValueError(f"{path} holds no moments (no {', '.join(missing)}); expected an .npz of this package")
        apart = (held["pieces"], held["names"]) if {"pieces", "names"} <= set(held) else None
        _check(held, apart, path)
        return Moments(
            str(held["kind"]),
            int(held["length"]),
            torch.from_numpy(held["sums"]),
            torch.from_numpy(held["squares"]),
            int(held["blocks"]),
            None if apart is None else torch.from_numpy(apart[0]),
            () if apart is None else tuple(str(name) for name in apart[1]),
        )


def _check(held: dict[str, Any], apart: tuple[Any, Any] | None, path: Path | str) -> None:
    """Sizes and values of what a file holds.

    Raises:
        ValueError: where they do not fit together.
    """
    import numpy as np

    sums, squares = held["sums"], held["squares"]
    numbers = [sums, squares] if apart is None else [sums, squares, apart[0]]
    good = all(part.dtype == np.float64 and bool(np.isfinite(part).all()) for part in numbers)
    good = good and sums.ndim == 1 and len(sums) > 1 and squares.ndim in (1, 2) and len(set(squares.shape)) == 1
    good = good and squares.shape[0] <= len(sums) and held["kind"].dtype.kind == "U" and held["kind"].ndim == 0
    good = good and all(held[name].dtype.kind in "iu" and held[name].ndim == 0 for name in ("length", "blocks"))
    if apart is not None:
        good = good and apart[0].shape == (apart[1].size, len(sums)) and apart[1].ndim == 1
    if not good:
        raise ValueError(f"{path} holds moments that do not fit together, or are not finite; sum them again")


def merge(records: Sequence[Moments]) -> Moments:
    """The moments of all data together.

    Raises:
        ValueError: for no records, or records of different kinds.
    """
    if not records:
        raise ValueError("give at least one record of moments; got none")
    first = records[0]
    for record in records[1:]:
        sizes = [(one.kind, one.sums.shape, one.squares.shape) for one in (record, first)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"moments of one kind only can be merged; got {first.kind!r} and {record.kind!r}")
    apart = all(record.pieces is not None for record in records)
    return Moments(
        first.kind,
        first.length,
        torch.stack([record.sums for record in records]).sum(0),
        torch.stack([record.squares for record in records]).sum(0),
        sum(record.blocks for record in records),
        torch.cat([record.pieces for record in records if record.pieces is not None]) if apart else None,
        tuple(name for record in records for name in record.names) if apart else (),
    )
