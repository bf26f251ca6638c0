"""The marginal likelihood of images over many views at the cost of few: coarse views first, fine ones where it matters.

Every fine view belongs to the cell of the coarse view that is nearest. An image is scored against all coarse views, and
against the fine views of its likeliest cells alone. The sum over those is divided by the number of *all* fine views, so
that it never exceeds the likelihood on the whole fine grid: what is left out can only lower it. Images whose coarse
posterior is too wide for so few cells meet more of them, or all fine views.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from jaxtyping import Complex, Float, Int

from unpicked._lazy import torch
from unpicked.ops import gridding, orientations, rotation
from unpicked.ops.band import Band
from unpicked.ops.gridding import Cube
from unpicked.ops.orientations import Images

CELLS = (64, 512)  # of an image, at first and where they hold too little
MISSED = 1e-3  # share of an image's coarse posterior that may lie in other cells
COARSE = 4608  # views, about 15 degrees apart; farther apart they may miss where a clear image is seen from
_ROOM = 1 << 22  # numbers of gathered slices that are held at once
_TRACES = 1 << 24


@dataclass(frozen=True, eq=False)
class Nested:
    """Slices of one map at two grids of views.

    Attributes:
        coarse: ``(c, p)`` complex.
        fine: ``(k, p)`` complex.
        members: ``(c, w)``: fine views of every cell, then -1.
    """

    coarse: Complex[torch.Tensor, "c p"]
    fine: Complex[torch.Tensor, "k p"]
    members: Int[torch.Tensor, "c w"]

    @staticmethod
    def of(volume: Float[torch.Tensor, "d d d"], band: Band, views: int) -> Nested:
        """The coefficients of a band in a map's projections at so many fine views."""
        cube = Cube(band.box, int(band.radius))
        spectrum = gridding.spectrum(volume, cube)
        grids = (rotation.super_fibonacci(count).to(volume) for count in (min(COARSE, views), views))
        coarse, fine = (gridding.read(cube, spectrum, grid, band.points) for grid in grids)
        return Nested(coarse, fine, cells(views).to(volume.device))


@dataclass(frozen=True, eq=False)
class _Group:
    """Some images and the fine views that they meet; all of them where ``views`` is None."""

    rows: torch.Tensor  # (m,)
    views: torch.Tensor | None  # (m, v), -1 for none


@lru_cache(maxsize=4)
def cells(views: int) -> Int[torch.Tensor, "c w"]:
    """Members of the cells of the coarse grid among ``super_fibonacci(views)``; -1 fills the rows."""
    coarse, fine = (rotation.super_fibonacci(count).flatten(1).float() for count in (min(COARSE, views), views))
    step = max(1, _TRACES // len(coarse))
    near = torch.cat([(part @ coarse.mT).argmax(1) for part in fine.split(step)])  # the largest trace, the least angle
    order = near.argsort(stable=True)
    counts = torch.bincount(near, minlength=len(coarse))
    place = torch.arange(views) - (counts.cumsum(0) - counts)[near[order]]
    out = torch.full((len(coarse), int(counts.max())), -1)
    out[near[order], place] = order
    return out


def log_evidence(
    images: Images, nested: Nested, noise: Float[torch.Tensor, " p"], ramps: Complex[torch.Tensor, "t p"]
) -> Float[torch.Tensor, " n"]:
    """Log-likelihood ratios of images against empty ones, views and shifts marginalised: float64, a lower bound.

    Args:
        images: coefficients.
        nested: slices.
        noise: power per coefficient.
        ramps: exp(-2 pi i q.t / N) of the shifts.
    """
    out = torch.empty(len(images), dtype=torch.float64, device=noise.device)
    for group in _groups(images, nested, noise, ramps):
        some = images[group.rows]
        if group.views is None:
            whole = [found.flatten(1).logsumexp(1) for _, found in orientations.scores(some, nested.fine, noise, ramps)]
            out[group.rows] = torch.cat(whole).double()
        else:
            out[group.rows] = _scores(some, nested, group.views, noise, ramps).flatten(1).logsumexp(1).double()
    return out - math.log(len(nested.fine) * len(ramps))


def _groups(images: Images, nested: Nested, noise: torch.Tensor, ramps: torch.Tensor) -> Iterator[_Group]:
    """All images, in groups that meet as many cells."""
    if not len(images):
        return
    if 2 * len(nested.coarse) > len(nested.fine):  # cells of a view or two save nothing
        yield _Group(torch.arange(len(images), device=noise.device), None)
        return
    held: dict[int, list[_Group]] = {count: [] for count in CELLS}
    rest: list[torch.Tensor] = []
    for part, found in orientations.scores(images, nested.coarse, noise, ramps):
        over = found.logsumexp(1)
        rows = torch.arange(part.start, part.start + len(over), device=over.device)
        top = over.topk(CELLS[-1], dim=1)
        inside = (top.values - over.logsumexp(1, keepdim=True)).exp().cumsum(1)
        left = torch.ones(len(rows), dtype=torch.bool, device=over.device)
        for count in CELLS:
            here = left & (inside[:, count - 1] >= 1 - MISSED)
            left &= ~here
            held[count].append(_Group(rows[here], top.indices[here, :count]))
        rest.append(rows[left])
    for count, groups in held.items():
        rows, chosen = (torch.cat([getattr(group, name) for group in groups]) for name in ("rows", "views"))
        step = max(1, _ROOM // (3 * count * nested.members.shape[1] * nested.fine.shape[1]))
        for some, which in zip(rows.split(step), chosen.split(step), strict=True):
            if len(some):
                yield _Group(some, nested.members[which].flatten(1))
    last = torch.cat(rest)
    if len(last):
        yield _Group(last, None)


def _scores(
    images: Images, nested: Nested, views: torch.Tensor, noise: torch.Tensor, ramps: torch.Tensor
) -> torch.Tensor:
    """Log-likelihood ratios ``(m, t, v)`` of every image at views of its own."""
    slices = nested.fine[views.clamp(min=0)]
    rows = 2 / noise * images.filtered[:, None] * ramps.conj()
    found = rows.real @ slices.real.mT
    found += rows.imag @ slices.imag.mT
    found -= (images.weight / noise).expand(len(images), -1)[:, None] @ _square(slices).mT
    return found.masked_fill_((views < 0)[:, None], -torch.inf)


def _square(values: torch.Tensor) -> torch.Tensor:
    return values.real.square() + values.imag.square()
