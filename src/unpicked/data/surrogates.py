"""Data of random phases: every frequency keeps its power, and all structure beyond is gone (Theiler et al. 1992)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from unpicked._lazy import torch
from unpicked.data.masks import cleared
from unpicked.data.micrographs import Derived, Source
from unpicked.data.signal import Rows
from unpicked.ops import fourier, seeding


def random_phases(values: torch.Tensor, seed: int, kept: float = 0.0) -> torch.Tensor:
    """Real data of any shape with the same power at every frequency and uniform random phases.

    Frequencies that are their own opposites, the mean among them, keep their values, and so do those of up to ``kept``
    cycles in the array. Moments of order one and two are
    kept, those of order three, by which a structure at random places and angles shows, vanish on average.
    """
    dims = tuple(range(values.dim()))
    transform = torch.fft.fftn(values.double(), dim=dims)
    noise = torch.randn(values.shape, generator=seeding.generator(seed, "phases"), dtype=torch.float64)
    phases = torch.fft.fftn(noise, dim=dims).to(transform.device)  # of a real field: opposite at opposite frequencies
    turned = transform.abs() * phases / phases.abs().clamp(min=1e-300)
    own = phases.imag.abs() < 1e-9 * phases.abs()  # their own opposites
    if kept:
        own |= fourier.radius(values.shape, device=values.device) <= kept
    return torch.fft.ifftn(torch.where(own, transform, turned), dim=dims).real.to(values)


@dataclass(frozen=True)
class ScrambledImages(Derived):
    """A :class:`~unpicked.data.micrographs.Source` of the images of another, with random phases.

    Attributes:
        source: the images.
        seed: of the phases, of every image its own.
        kept: frequencies up to this one keep their phases, Fourier pixels.
        masks: which pixels count, or None; others are zero before and after, and the power is that of those that count.
    """

    seed: int
    kept: float = 0.0
    masks: Source | None = None

    def read(self, index: int) -> torch.Tensor:
        """Image ``index``."""
        mask = None if self.masks is None else self.masks.read(index)
        image = cleared(self.source.read(index), mask)
        image = random_phases(image, seeding.derive(self.seed, "image", index), self.kept)
        return image if mask is None else cleared(image / mask.to(image).mean().sqrt(), mask)


@dataclass(frozen=True, eq=False)
class ScrambledRows:
    """:class:`~unpicked.data.signal.Rows` of others, each with random phases.

    Attributes:
        source: the signals.
        seed: of the phases, of every signal its own.
    """

    source: Rows
    seed: int
    _last: dict[int, torch.Tensor] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> int:
        """Number of signals."""
        return self.source.rows

    @property
    def length(self) -> int:
        """Samples of each."""
        return self.source.length

    @property
    def digest(self) -> tuple[Any, ...]:
        """That of the signals, and the seed."""
        return (*self.source.digest, "random phases", self.seed)

    def read(self, row: int, start: int, stop: int) -> torch.Tensor:
        """Samples of one signal, all of which is read for it."""
        if row not in self._last:
            whole = self.source.read(row, 0, self.length)
            self._last.clear()
            self._last[row] = random_phases(whole, seeding.derive(self.seed, "row", row))
        return self._last[row][start:stop]
