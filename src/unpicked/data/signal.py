"""One-dimensional data: long signals, read block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol

from unpicked._lazy import torch

_SCANNED = 1 << 22  # samples that are checked at once
_ENDS = 4096  # samples at both ends that tell signals apart


class Rows(Protocol):
    """Equally long signals that can be read piece by piece; :meth:`Signal.of` and ``unpicked.simulate`` make them."""

    @property
    def rows(self) -> int:
        """Number of signals."""

    @property
    def length(self) -> int:
        """Samples of each."""

    @property
    def digest(self) -> tuple[Any, ...]:
        """What tells these signals from others."""

    def read(self, row: int, start: int, stop: int) -> torch.Tensor:
        """Samples ``start`` .. ``stop - 1`` of one signal, a float tensor."""


class Extent(NamedTuple):
    """Where a block lies.

    Attributes:
        row: its signal.
        start: its first sample.
        stop: end of its base points; the next block begins here.
        end: end of its samples: ``stop + halo``, or the end of the signal.
    """

    row: int
    start: int
    stop: int
    end: int


@dataclass(frozen=True, eq=False)
class Signal:
    """One or several equally long signals, in blocks that are read when asked for.

    Block i of a signal holds the samples [i B, (i + 1) B + halo), cut at the signal's end: base points are shared
    out exactly, and a window that begins in a block lies whole in it where it is no longer than ``halo + 1``.

    Attributes:
        source: where the samples come from.
        block: base points per block, B; None means whole signals.
        halo: samples behind a block that come with it.
        name: where the samples come from, in words, e.g. a path.
    """

    source: Rows
    block: int | None = None
    halo: int = 0
    name: str = "signal"
    pixel_size: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        if self.block is not None and self.block < 1:
            raise ValueError(f"block must be at least 1 sample, or None for whole signals; got {self.block}")
        if self.halo < 0:
            raise ValueError(f"halo must not be negative; got {self.halo}")

    @staticmethod
    def of(samples: Any, *, block: int | None = None, halo: int = 0, name: str = "signal") -> Signal:
        """Signals that lie in an array, in memory or mapped from a file.

        The samples are looked through once, in pieces.

        Args:
            samples: ``(n,)`` or ``(rows, n)``, float32 or float64: a tensor, an array or a memory map.
            block: base points per block; None means whole signals.
            halo: samples behind a block that come with it.
            name: where they come from, in words.

        Raises:
            TypeError: for samples that are not floating-point numbers.
            ValueError: for another number of axes, less than two samples, NaN, infinity, or a constant signal.
        """
        source = _Array(_as_rows(samples, name), name)
        check(source, name)
        return Signal(source, block, halo, name)

    @property
    def rows(self) -> int:
        """Number of signals."""
        return self.source.rows

    @property
    def length(self) -> int:
        """Samples of each signal."""
        return self.source.length

    @property
    def samples(self) -> int:
        """Samples of all signals."""
        return self.rows * self.length

    @property
    def shape(self) -> tuple[int]:
        """Samples of a block at most."""
        return (min(self._block + self.halo, self.length),)

    @property
    def starts(self) -> range:
        """First samples of the blocks of a signal."""
        return range(0, self.length, self._block)

    @property
    def digest(self) -> tuple[Any, ...]:
        """What tells these data from others."""
        return ((self.name,), *self.source.digest, self.rows, self.length, self.block, self.halo)

    def extent(self, index: int) -> Extent:
        """Where block ``index`` lies."""
        if not 0 <= index < len(self):
            raise IndexError(f"block must lie in 0 .. {len(self) - 1}; got {index}")
        row, number = divmod(index, len(self.starts))
        start = self.starts[number]
        stop = min(start + self._block, self.length)
        return Extent(row, start, stop, min(stop + self.halo, self.length))

    def cut(self, block: int | None, halo: int = 0) -> Signal:
        """The same signals in other blocks."""
        return replace(self, block=block, halo=halo)

    def part(self, indices: Sequence[int]) -> Signal:
        """Some whole blocks, each a signal of its own; all must be of one length.

        Raises:
            ValueError: for no block, or blocks of several lengths, as the last one of a signal may be.
        """
        if not indices:
            raise ValueError("a part of a signal needs at least one block; got none")
        extents = tuple(self.extent(index) for index in indices)
        lengths = {extent.end - extent.start for extent in extents}
        if len(lengths) > 1:
            raise ValueError(f"blocks must be of one length; got {sorted(lengths)}; leave the last one out")
        return Signal(_Blocks(self.source, extents), name=f"{len(indices)} blocks of {self.name}")

    def __len__(self) -> int:
        return self.rows * len(self.starts)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Block ``index``, ``(n,)``, n at most ``shape[0]``."""
        row, start, _, end = self.extent(index)
        return self.source.read(row, start, end)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[index] for index in range(len(self)))

    @property
    def _block(self) -> int:
        return self.block or self.length


@dataclass(frozen=True, eq=False)
class _Array:
    """:class:`Rows` over an array ``(rows, n)`` or a tensor."""

    samples: Any
    name: str

    @property
    def rows(self) -> int:
        return int(self.samples.shape[0])

    @property
    def length(self) -> int:
        return int(self.samples.shape[1])

    @property
    def digest(self) -> tuple[Any, ...]:
        """Sums of the first and the last samples: enough to tell signals apart."""
        first = self.read(0, 0, min(self.length, _ENDS))
        last = self.read(self.rows - 1, max(0, self.length - _ENDS), self.length)
        return float(first.double().sum()), float(last.double().sum())

    def read(self, row: int, start: int, stop: int) -> torch.Tensor:
        part = self.samples[row, start:stop]
        if isinstance(part, torch.Tensor):
            return part
        return torch.from_numpy(part.astype(part.dtype.newbyteorder("="), copy=True))


@dataclass(frozen=True, eq=False)
class _Blocks:
    """:class:`Rows` over blocks of others."""

    source: Rows
    extents: tuple[Extent, ...]

    @property
    def rows(self) -> int:
        return len(self.extents)

    @property
    def length(self) -> int:
        return self.extents[0].end - self.extents[0].start

    @property
    def digest(self) -> tuple[Any, ...]:
        """That of the whole, and where the blocks begin."""
        return (*self.source.digest, tuple((extent.row, extent.start) for extent in self.extents))

    def read(self, row: int, start: int, stop: int) -> torch.Tensor:
        extent = self.extents[row]
        return self.source.read(extent.row, extent.start + start, extent.start + stop)


def _as_rows(samples: Any, name: str) -> Any:
    """The same with two axes; what holds no real numbers is refused."""
    import numpy as np

    if isinstance(samples, torch.Tensor):
        kind, real = str(samples.dtype), samples.dtype in (torch.float32, torch.float64)
        samples = samples.detach().cpu()
    else:
        samples = np.asanyarray(samples)
        kind, real = str(samples.dtype), samples.dtype.kind == "f" and samples.dtype.itemsize in (4, 8)
    if not real:
        raise TypeError(f"{name} must hold float32 or float64 samples; got {kind}; try .astype('float32')")
    if samples.ndim not in (1, 2):
        shape = tuple(samples.shape)
        raise ValueError(f"{name} must be one signal (n,) or several (rows, n); got shape {shape}")
    samples = samples[None] if samples.ndim == 1 else samples
    if samples.shape[0] < 1 or samples.shape[1] < 2:
        raise ValueError(f"{name} must hold at least two samples; got shape {tuple(samples.shape)}")
    return samples


def check(source: Rows, name: str) -> None:
    """Refuse NaN, infinity and signals without any change."""
    for row in range(source.rows):
        low, high = float("inf"), -float("inf")
        for start in range(0, source.length, _SCANNED):
            part = source.read(row, start, min(start + _SCANNED, source.length))
            least, most = (float(value) for value in torch.aminmax(part))
            if not (abs(least) < float("inf") and abs(most) < float("inf")):
                where = start + int((~torch.isfinite(part)).nonzero()[0])
                raise ValueError(f"{name} holds NaN or infinity, first at sample {where}; remove or fill such samples")
            low, high = min(low, least), max(high, most)
        if low == high:
            raise ValueError(f"{name} is constant, {low:g} throughout; expected a signal with noise")
