"""How micrographs show what is in them: contrast transfer, and the filters that made their noise white.

A micrograph is y = sum_i h * T_i + white noise, with the filter h of its group in Fourier space: a product of contrast
transfer and whitening, real and even. Then <y, h * T> = <h * y, T>: of a micrograph that is filtered once more, the
windows of the templates' own side are sufficient, whatever the reach of h, and tails are never cut or wrapped. The norm
|h * T|^2 = <T, k * T>, with the kernel k of h^2, needs k at lags below the side only. So templates need no margins, and
the statistics of all groups add: one numerator per view, and as weight the sum over groups of copies times h^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

from unpicked._lazy import torch
from unpicked.data.gains import Gains
from unpicked.data.optics import Optics
from unpicked.ops import filters
from unpicked.ops.correlate import fast_size

_BLUR = 8  # pixels that a whitening filter reaches


@dataclass(frozen=True, eq=False)
class Transfer:
    """Filters of micrographs, for templates of one side.

    Attributes:
        pixel_size: angstrom.
        side: edge L of a template in pixels.
        optics: contrast transfer of every micrograph, or None.
        gains: whitening of every micrograph, or None.
    """

    pixel_size: float
    side: int
    optics: Optics | None
    gains: Gains | None

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """Number of the filter of every micrograph."""
        count = len(self.optics) if self.optics is not None else len(self.gains or ())
        keys = [
            (self.optics and self.optics.group[item], self.gains and self.gains.group[item]) for item in range(count)
        ]
        place = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return tuple(place[key] for key in keys)

    @cached_property
    def firsts(self) -> tuple[int, ...]:
        """For every filter the first micrograph that has it."""
        return tuple(self.groups.index(group) for group in range(max(self.groups) + 1))

    @property
    def size(self) -> int:
        """Length of the transforms by which templates are filtered at the lags that count."""
        return fast_size(2 * self.side)

    @cached_property
    def reach(self) -> int:
        """Pixels that the filters reach, about: delocalisation at the Nyquist frequency, and the whitening's blur."""
        if self.optics is None:
            return _BLUR
        return math.ceil(self.optics.displacement(self.pixel_size) / self.pixel_size) + _BLUR

    def factors(self, group: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The filter h of a group, of frequencies x and y in cycles per pixel."""
        item = self.firsts[group]

        def of(fx: torch.Tensor, fy: torch.Tensor) -> torch.Tensor:
            found = torch.ones_like(fx)
            if self.optics is not None:
                found = self.optics.values(fx / self.pixel_size, fy / self.pixel_size, [item])[0].to(fx)
            return found if self.gains is None else found * self.gains.at(item, fx, fy)

        return of

    def seen(self, image: torch.Tensor, group: int) -> torch.Tensor:
        """The micrograph filtered once more by its own filter, ``(h, w)``: what templates are compared with."""
        return filters.filtered(image, _on_grid(self, group), self.reach)

    @cached_property
    def squares(self) -> torch.Tensor:
        """``(g, p)`` per group the factors of h^2 on the templates' coefficients; float64."""
        rows = []
        for group in range(len(self.firsts)):
            kernel = filters.lags(_squared(self.factors(group)), self.side - 1, 2 * self.reach)
            rows.append(filters.toeplitz(kernel, self.size).flatten())
        return torch.stack(rows)

    @cached_property
    def mean(self) -> torch.Tensor:
        """``(p,)``: mean of h^2 over micrographs."""
        return self.squares[torch.tensor(self.groups)].mean(0)

    def coefficients(self, images: torch.Tensor) -> torch.Tensor:
        """Templates ``(..., L, L)`` as numbers ``(..., 2, p)`` whose squares sum to theirs."""
        return filters.coefficients(images, self.size)

    def images(self, numbers: torch.Tensor) -> torch.Tensor:
        """Templates from their numbers; also the adjoint of :meth:`coefficients`."""
        return filters.images(numbers, self.size, self.side)

    def weighted(self, images: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
        """Images ``(..., L, L)`` filtered by factors ``(p,)`` such as one of ``squares``, within their own frame."""
        return self.images(self.coefficients(images) * squares.to(images))

    def margin(self) -> int:
        """Pixels by which templates with their tails are larger on every side, at most a side of theirs."""
        return min(self.reach, self.side)

    def whole(self, images: torch.Tensor, group: int) -> torch.Tensor:
        """Templates with their tails, h * T: ``(k, L + 2 m, L + 2 m)`` with the margin m."""
        margin = self.margin()
        side = self.side + 2 * margin
        size = fast_size(side + margin)
        factors = filters.toeplitz(filters.lags(self.factors(group), (size - 1) // 2, self.reach), size).to(images)
        padded = torch.nn.functional.pad(images, (margin, size - self.side - margin) * 2)
        return torch.fft.irfft2(torch.fft.rfft2(padded) * factors, s=(size, size))[..., :side, :side]


@lru_cache(maxsize=32)
def transfer(pixel_size: float, side: int, optics: Optics | None, gains: Gains | None) -> Transfer:
    """The filters of some micrographs, kept for the next time they are asked for."""
    return Transfer(pixel_size, side, optics, gains)


def _squared(factors: filters.Factors) -> filters.Factors:
    return lambda fx, fy: factors(fx, fy).square()


def _on_grid(transfer: Transfer, group: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The filter of a group; on the frequencies of a micrograph it is computed once."""

    def of(fx: torch.Tensor, fy: torch.Tensor) -> torch.Tensor:
        key = (transfer, group, tuple(fx.shape))
        if key not in _grids:
            if len(_grids) >= _GRIDS:
                _grids.clear()
            _grids[key] = transfer.factors(group)(fx, fy).float()
        return _grids[key].to(fx.device)

    return of


_GRIDS = 16  # filters of micrographs that are kept, 2 MB each for 1024 x 1024 pixels
_grids: dict[tuple[Transfer, int, tuple[int, ...]], torch.Tensor] = {}
