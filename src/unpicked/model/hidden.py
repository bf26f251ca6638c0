"""What masks take from the likelihood of a copy: the part of its image that lies where pixels do not count.

Only visible pixels are measured, so log p(y | a copy at l) - log p(y | none) = (y . V T - |V T|^2 / 2) / sigma^2, with
V the mask in the template's frame. Hidden pixels of y are zero, which gives the first term; the second is the whole
norm less the energy of the template in hidden cells. It is linear in what is hidden, so that every score is still one
inner product: windows get the hidden share of each cell as more numbers, templates the energies of the cells. A copy
of which nothing is seen has the score 0: it is as likely as the prior says, and tells nothing.

Without filters cells are single pixels, and all is exact. Through filters a copy's image has tails: the cells of it are
as many as the template has pixels, and a copy's weight in the estimate of the map is the share of its energy that is
seen. That share summed over all places is the visible area whatever the template, so the estimate is unbiased.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from unpicked._lazy import torch
from unpicked.data import masks
from unpicked.model.likelihoods import Scene, Stats
from unpicked.model.noise import variance_of
from unpicked.model.transfer import Transfer
from unpicked.ops.evidence import Bank


@dataclass(frozen=True, eq=False)
class Energies:
    """Energies of templates as a filter shows them, cell by cell.

    Attributes:
        values: ``(k, n^2)`` sums of squares over cells.
        cell: edge of a cell in pixels.
        margin: pixels by which the first cell lies before the template's first pixel.
    """

    values: torch.Tensor
    cell: int
    margin: int

    @property
    def count(self) -> int:
        """Cells per axis."""
        return math.isqrt(self.values.shape[1])

    def lost(self, concealed: torch.Tensor) -> torch.Tensor:
        """Energy in the hidden cells over all energy, ``(..., k)``, of weighted hidden shares ``(..., k, n^2)``."""
        shares = self.values / self.values.sum(1, keepdim=True).clamp(min=1e-30)
        return torch.einsum("...kn,kn->...k", concealed, shares.to(concealed))


def energies(templates: torch.Tensor, through: Transfer | None, group: int, norms: torch.Tensor) -> Energies:
    """Of templates ``(k, L, L)``, as the filter of a group shows them.

    Args:
        templates: as no filter shows them.
        through: filters, or None.
        group: number of the filter.
        norms: ``(k,)`` sums of squares of the templates as shown, to which the cells add up.
    """
    if through is None:
        return Energies(templates.square().flatten(1), 1, 0)
    whole = through.whole(templates, group).square()
    side, margin = whole.shape[-1], through.margin()
    cell = -(-side // templates.shape[-1])
    rest = -side % cell
    padded = torch.nn.functional.pad(whole, (0, rest, 0, rest))
    cells = torch.nn.functional.avg_pool2d(padded[:, None], cell).flatten(1) * cell**2
    scale = norms.to(cells) / cells.sum(1).clamp(min=1e-30)  # tails may reach further than the margin
    return Energies(cells * scale[:, None], cell, margin)


@dataclass(frozen=True, eq=False)
class Hidden:
    """What the mask of one micrograph hides of windows.

    Attributes:
        mask: ``(h, w)`` booleans, True where pixels count.
        side: edge of a window.
        cell: edge of a cell in pixels.
        margin: pixels by which the first cell lies before the window's first pixel.
        count: cells per axis.
    """

    mask: torch.Tensor
    side: int
    cell: int
    margin: int
    count: int

    @cached_property
    def _padded(self) -> torch.Tensor:
        after = self.cell * self.count - self.side - self.margin
        return torch.nn.functional.pad((~self.mask).float(), (self.margin, after) * 2)

    @cached_property
    def gone(self) -> torch.Tensor:
        """``(y x,)`` booleans: corners whose windows, margins included, show no pixel."""
        return (masks.largest(1 - self._padded, self.cell * self.count, 0) == 0).flatten()

    @cached_property
    def near(self) -> torch.Tensor:
        """``(y x,)`` booleans: other corners whose windows, margins included, hold a hidden pixel."""
        return (masks.largest(self._padded, self.cell * self.count, 0) > 0).flatten() & ~self.gone

    @cached_property
    def _cells(self) -> torch.Tensor:
        span = self.cell * (self.count - 1) + 1
        means = torch.nn.functional.avg_pool2d(self._padded[None, None], self.cell, 1)[0, 0]
        return means.unfold(0, span, 1).unfold(1, span, 1)[..., :: self.cell, :: self.cell]

    def at(self, sites: torch.Tensor) -> torch.Tensor:
        """Hidden shares of the cells of windows, ``(n, count^2)``, at corners numbered row by row."""
        width = self.mask.shape[1] - self.side + 1
        return self._cells[sites // width, sites % width].flatten(1)

    def shown(self) -> torch.Tensor:
        """``(y, x)``: visible share of every whole window."""
        visible = self.mask.float()[None, None]
        return torch.nn.functional.avg_pool2d(visible, self.side, 1)[0, 0]


class Unseen:
    """What masks hide in an E-step of whole micrographs.

    Attributes:
        scene: what they are compared with.
        norms: of a filter, ``(k,)`` sums of squares of every template as it shows them, over twice the variance.
    """

    def __init__(self, scene: Scene, norms: Callable[[int], torch.Tensor]) -> None:
        self.scene, self.norms = scene, norms
        self._last: tuple[int, Energies] | None = None

    def of(self, index: int) -> Hidden | None:
        """What the mask of piece ``index`` of the data hides; None where all pixels count."""
        scene = self.scene
        if scene.masks is None:
            return None
        mask = scene.masks.read(index).to(scene.templates.device)
        if bool(mask.all()):
            return None
        own = self.cells(0 if scene.through is None else scene.through.groups[index])
        return Hidden(mask, scene.length, own.cell, own.margin, own.count)

    def cells(self, group: int) -> Energies:
        """Energies of the templates, cell by cell; those of the last filter are kept."""
        if self._last is None or self._last[0] != group:
            scene = self.scene
            norms = self.norms(group) * (2 * variance_of(scene.noise))
            self._last = group, energies(scene.templates, scene.through, group, norms)
        return self._last[1]

    def bank(self, plain: Bank, group: int, hidden: Hidden, chosen: torch.Tensor | None = None) -> Bank:
        """A bank of all templates, or of those chosen, with the norms that a mask leaves them."""
        own = self.cells(group).values / (2 * variance_of(self.scene.noise))
        own = (own if chosen is None else own[chosen]).to(plain.templates)
        return Bank(torch.cat([plain.templates, own], 1), plain.bias, plain.side, hidden.at)

    def parted(
        self, sums: torch.Tensor, counts: torch.Tensor, group: int, stats: Stats
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of weighted windows beside weighted hidden shares ``(..., k, L^2 + n^2)``, and copies ``(..., k)``.

        What the weights of pixels differ from the copies' is added to the statistics.

        Returns:
            The windows ``(..., k, L^2)``, the copies as far as they are seen ``(..., k)``, and their weights:
            ``(..., k, L, L)`` of pixels, or the copies where there are filters.
        """
        length, own = self.scene.length, self.cells(group)
        windows, concealed = sums.split([length**2, own.values.shape[1]], -1)
        copies = counts - own.lost(concealed).to(counts)
        if self.scene.through is not None:
            return windows, copies, copies
        weights = (counts[..., None] - concealed).unflatten(-1, (length, length))
        rest = (counts - copies).double(), concealed
        if counts.dim() > 1:
            rest = rest[0].sum(0), concealed.sum(0)
        stats["weight"] += (rest[0][:, None] - rest[1].double()).unflatten(-1, (length, length))
        return windows, copies, weights
