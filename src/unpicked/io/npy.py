"""Signals in ``.npy`` files, read and written piece by piece: they may be larger than memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unpicked._lazy import torch
from unpicked.data.arrays import mapped, read_head
from unpicked.data.signal import Signal, check
from unpicked.io._files import existing, output


def read_signal(path: Path | str, *, block: int | None = None, halo: int = 0) -> Signal:
    """A signal ``(n,)``, or several ``(rows, n)``, in a ``.npy`` file; samples are read when asked for.

    The file is looked through once for NaN, in pieces.

    Args:
        path: of a file of float32 or float64 numbers.
        block: base points per block; None means whole signals.
        halo: samples behind a block that come with it.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: for numbers of another type.
        ValueError: for a file of another kind or shape, NaN, infinity, or a constant signal.
    """
    source = _open(existing(path, "a .npy file"))
    check(source, str(path))
    return Signal(source, block, halo, str(path))


def read_array(path: Path | str, what: str = "a .npy file") -> torch.Tensor:
    """A small array of real numbers, float64.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: for numbers that are not real.
        ValueError: for a file of another kind, or numbers that are not finite.
    """
    import numpy as np

    path = existing(path, what)
    try:
        values = mapped(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a .npy file: {error}") from None
    if values.dtype.kind not in "fiu":
        raise TypeError(f"{path} must hold real numbers; got {values.dtype}")
    with np.errstate(all="ignore"):  # of signalling NaN
        found = torch.from_numpy(np.array(values, np.float64))
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"{path} holds NaN or infinity")
    return found


def write_signal(signal: Signal, path: Path | str, *, overwrite: bool = False) -> None:
    """Write signals as float32, block by block: ``(n,)`` for one, ``(rows, n)`` for several.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
    """
    import numpy as np

    shape = (signal.length,) if signal.rows == 1 else (signal.rows, signal.length)
    head = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with output(path, overwrite) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, head)
        for block in signal.cut(signal.block or 1 << 20):
            file.write(block.to(torch.float32).numpy().astype("<f4", copy=False).data)


def write_array(values: torch.Tensor, path: Path | str, *, overwrite: bool = False) -> None:
    """Write a small array in its own type.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
    """
    import numpy as np

    with output(path, overwrite) as temporary, open(temporary, "wb") as file:
        np.save(file, values.detach().cpu().numpy())


@dataclass(frozen=True)
class _Npy:
    """:class:`unpicked.data.signal.Rows` over a file; pages of the file are never held."""

    path: Path
    rows: int
    length: int
    dtype: Any
    offset: int

    @property
    def digest(self) -> tuple[Any, ...]:
        """Size and time of change of the file."""
        found = self.path.stat()
        return found.st_size, found.st_mtime_ns

    def read(self, row: int, start: int, stop: int) -> torch.Tensor:
        import numpy as np

        first = self.offset + (row * self.length + start) * self.dtype.itemsize
        found = np.fromfile(self.path, self.dtype, stop - start, offset=first)
        if len(found) != stop - start:
            raise ValueError(f"{self.path} ends too early: {len(found)} of {stop - start} samples from {start} on")
        return torch.from_numpy(found.astype(self.dtype.newbyteorder("="), copy=False))


def _open(path: Path) -> _Npy:
    try:
        head = read_head(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a .npy file of numbers: {error}") from None
    shape, dtype = head.shape, head.dtype
    if dtype.kind != "f" or dtype.itemsize not in (4, 8):
        raise TypeError(f"{path} must hold float32 or float64 samples; got {dtype}; try .astype('float32')")
    if len(shape) not in (1, 2) or (len(shape) == 2 and head.order == "F"):
        raise ValueError(f"{path} must be one signal (n,) or several (rows, n), in C order; got shape {shape}")
    rows, length = (1, *shape)[-2:]
    if rows < 1 or length < 2:
        raise ValueError(f"{path} must hold at least two samples; got shape {shape}")
    return _Npy(path.resolve(), rows, length, dtype, head.offset)
