"""Areas that are grossly unlike the rest of a micrograph: carbon film, thick or crystalline ice, contamination.

A micrograph is looked at in square cells. Of every cell the mean and the logarithm of the variance are compared with
those of most cells, after a background that carbon does not move, by median and median absolute deviation; so are
means over three by three cells, of which gross areas stand out and particles do not. Areas begin where such a mean is
over :data:`SEED` robust standard deviations off, and reach as far as connected cells that are over :data:`REACH`, and
half a cell further. A micrograph of which more than half is so is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from unpicked._lazy import torch
from unpicked.data.masks import cleared, grown
from unpicked.data.micrographs import Derived, Micrographs, Source
from unpicked.ops import seeding
from unpicked.preprocess.background import robust_sd

SEED, REACH = 10.0, 5.0
OWN = 2.5  # robust standard deviations by which a cell itself is off, beside its neighbours
CELLS = 128  # along the shorter side
SMALLEST = 8  # pixels of a cell's edge
FEWEST = 32  # cells that tell what is usual
KEPT, STARTS, STEPS = 0.55, 50, 4  # of the trimmed fit: share of the cells, random starts, steps from each
HALF = 0.5  # of a micrograph's cells, beyond which the rest is no measure of what is usual


@dataclass(frozen=True)
class Usual(Derived):
    """Masks without the areas that are unlike the rest (a :class:`~unpicked.data.micrographs.Source` of booleans).

    Attributes:
        source: micrographs as read.
        names: one per micrograph, for messages.
        masks: what is known not to count beside that, or None.
    """

    names: tuple[str, ...]
    masks: Source | None = None
    _cells: dict[int, torch.Tensor] = field(default_factory=dict, repr=False, compare=False)

    def read(self, index: int) -> torch.Tensor:
        """Mask ``index``.

        Raises:
            ValueError: if more than half of the micrograph is unlike the rest.
        """
        index = range(len(self))[index]
        known = None if self.masks is None else self.masks.read(index)
        if index not in self._cells:
            found = unlike(self.source.read(index), known)
            if float(found.float().mean()) > HALF:
                raise ValueError(
                    f"{self.names[index]} has more than half of its area unlike the rest; give a mask of it (--masks), "
                    "or leave this micrograph out"
                )
            self._cells[index] = found
        usual = ~_enlarged(self._cells[index], self.shape)
        return usual if known is None else usual & known


def without_outlying(data: Micrographs) -> Micrographs:
    """The set with masks that leave out what is grossly unlike the rest of a micrograph, beside those that it has."""
    found = Usual(data.source, data.names, data.masks)
    return replace(data, masks=found, notes=(*data.notes, "areas grossly unlike the rest are sought and left out"))


def unlike(image: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Cells of a micrograph that are grossly unlike the others, booleans; the last ones may be cut by its far edges.

    Args:
        image: ``(h, w)`` as read.
        mask: ``(h, w)`` booleans, which pixels count; cells with a hidden pixel are no matter. None: all do.
    """
    image, edge = cleared(image.float(), mask).double(), cell(image.shape)
    shown = _means(torch.ones_like(image) if mask is None else mask.double(), edge)
    known = shown > 1 - 1e-9
    if int(known.sum()) < FEWEST:
        return torch.zeros_like(known)
    means = _means(image, edge)
    spread = (_means(image.square(), edge) - means.square()).clamp(min=1e-30).log()
    means, usual = _flattened(means, known)
    seeds, strong = torch.zeros_like(known), torch.zeros_like(known)
    for values in (means, spread):
        own = _off(values, known, usual)
        around = _off(_around(values - values[usual].median(), known), known, usual)
        seeds |= (around > SEED) & (own > OWN)
        strong |= (torch.maximum(own, around) > REACH) & (own > OWN)
    while True:
        more = seeds | (strong & ~grown(~seeds, 1))
        if torch.equal(more, seeds):
            break
        seeds = more
    return seeds


def _flattened(values: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values less the polynomial of order 2 that fits most of the known ones best, and which those are.

    Least trimmed squares, by concentration steps from random starts (Rousseeuw & Van Driessen 2006): carbon on two
    fifths of the area does not move it.
    """
    rows, columns = (torch.linspace(-1, 1, n, dtype=values.dtype) for n in values.shape)
    y, x = rows[:, None].expand_as(values), columns.expand_as(values)
    every = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], -1)
    basis, wanted = every[known], values[known]
    most, generator = int(KEPT * len(wanted)), seeding.generator(0, "trimmed squares")
    best: tuple[float, torch.Tensor] | None = None
    for _ in range(STARTS):
        kept = torch.randperm(len(wanted), generator=generator)[: basis.shape[1]]
        for _ in range(STEPS):
            fit = _fit(basis[kept], wanted[kept])
            rest = (wanted - basis @ fit).square()
            kept = rest.topk(most, largest=False).indices
        if best is None or float(rest[kept].sum()) < best[0]:
            best = float(rest[kept].sum()), kept
    if best is None:
        raise ValueError("a background needs at least one start")
    fit = _fit(basis[best[1]], wanted[best[1]])
    usual = torch.zeros(len(wanted), dtype=torch.bool)
    usual[best[1]] = True
    return values - every @ fit, torch.zeros_like(known).masked_scatter(known, usual)


def _fit(basis: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Coefficients of least squares."""
    normal = basis.mT @ basis
    ridge = 1e-10 * torch.diagonal(normal).mean() * torch.eye(len(normal), dtype=normal.dtype)
    found: torch.Tensor = torch.linalg.solve(normal + ridge, basis.mT @ values)
    return found


def cell(shape: Sequence[int]) -> int:
    """Edge of a cell in pixels."""
    return max(SMALLEST, min(shape) // CELLS)


def _means(values: torch.Tensor, edge: int) -> torch.Tensor:
    """Of cells; the last ones take what there is."""
    return torch.nn.functional.avg_pool2d(values[None, None], edge, ceil_mode=True)[0, 0].double()


def _around(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Sums over the known ones of three by three cells over the root of their number; 0 where fewer than four are."""
    sums, counts = (
        torch.nn.functional.avg_pool2d(part[None, None], 3, 1, 1)[0, 0] * 9 for part in (values, known.double())
    )
    return torch.where(counts > 3.5, sums / counts.clamp(min=1).sqrt(), 0.0)


def _off(values: torch.Tensor, known: torch.Tensor, usual: torch.Tensor) -> torch.Tensor:
    """Distance from the usual in robust standard deviations, 0 of cells that are not known.

    What is usual is found again and again: all that is not beyond :data:`REACH` of what was usual before.
    """
    found = torch.zeros_like(values)
    for _ in range(20):
        own = values[usual]
        sd = robust_sd(own)
        if not sd > 0:
            return torch.zeros_like(values)
        found = torch.where(known, (values - own.median()).abs() / sd, 0.0)
        new = known & (found < REACH)
        if torch.equal(new, usual):
            break
        usual = new
    return found


def _enlarged(cells: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Pixels of cells, and half a cell around them."""
    edge = cell(shape)
    pixels = cells.repeat_interleave(edge, 0).repeat_interleave(edge, 1)[: shape[0], : shape[1]]
    return ~grown(~pixels, edge // 2)
