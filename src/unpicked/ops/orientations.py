"""Which view and shift fits an image: scores of all of them as matrix products, and what posteriors sum up to.

log p(Y | R, t) = sum over the half disc of [2 Re(conj(C Y e^{2 pi i q.t/N}) S(R)) - C^2 |S(R)|^2] / s2 + const, with
Y the image's coefficients, S the slices, C the contrast transfer and s2 the noise's power per coefficient. The scores
of n images and T shifts against K views are one product of (n T, 2 P) with (2 P, K), and one of (n, P) with (P, K).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Complex, Float, Int

from unpicked._lazy import torch

_ROOM = 1 << 24  # scores that are held at once
_NEAR = 1 << 22  # the same on a CPU, where a block that stays in the cache is several times faster
_LEAST = -60.0  # logarithm of the least share, far below a rounding: smaller numbers would slow the products
_ROWS = 64  # views per group in the search of the best


@dataclass(frozen=True, eq=False)
class Images:
    """Coefficients of some images, as the likelihood takes them.

    Attributes:
        coefficients: ``(n, p)`` complex.
        transfer: ``(n, p)`` contrast transfer, or None for 1.
    """

    coefficients: Complex[torch.Tensor, "n p"]
    transfer: Float[torch.Tensor, "n p"] | None = None

    def __len__(self) -> int:
        return len(self.coefficients)

    @property
    def filtered(self) -> Complex[torch.Tensor, "n p"]:
        """C Y."""
        return self.coefficients if self.transfer is None else self.coefficients * self.transfer

    @property
    def weight(self) -> Float[torch.Tensor, "n p"]:
        """C^2; of one row where there is no transfer."""
        if self.transfer is None:
            return torch.ones_like(self.coefficients[:1].real)
        return self.transfer.square()

    def __getitem__(self, part: slice | torch.Tensor) -> Images:
        return Images(self.coefficients[part], None if self.transfer is None else self.transfer[part])

    def first(self, points: int) -> Images:
        """The same with the first points of the band only."""
        cut = None if self.transfer is None else self.transfer[:, :points]
        return Images(self.coefficients[:, :points], cut)


@dataclass(frozen=True, eq=False)
class Sums:
    """What an E-step sums over the images.

    Attributes:
        numerator: ``(k, p)`` complex: sum of posterior x C Y, shifted back.
        weight: ``(k, p)``: sum of posterior x C^2.
        views: ``(k,)``: sum of the posterior.
        log_likelihood: of the images, without the terms that depend on the noise alone; float64.
        effective: sum over the images of the effective number of views and shifts; float64.
    """

    numerator: torch.Tensor
    weight: torch.Tensor
    views: torch.Tensor
    log_likelihood: torch.Tensor
    effective: torch.Tensor


def scores(
    images: Images,
    slices: Complex[torch.Tensor, "k p"],
    noise: Float[torch.Tensor, " p"],
    ramps: Complex[torch.Tensor, "t p"],
) -> Iterator[tuple[slice, Float[torch.Tensor, "m t k"]]]:
    """Log-likelihood ratios against an empty image, for some images at a time.

    Args:
        images: coefficients.
        slices: of the views.
        noise: power per coefficient.
        ramps: exp(-2 pi i q.t / N) of the shifts.
    """
    shifts, views = len(ramps), len(slices)
    columns, power = _pairs(slices), slices.real.square() + slices.imag.square()
    joined = shifts == 1 or images.transfer is None  # |C S|^2 is then part of the same product
    if images.transfer is None:
        power = (power / noise).sum(1, keepdim=True)
    columns = (torch.cat([columns, power], 1) if joined else columns).mT.contiguous()
    room = _ROOM if slices.is_cuda else min(_ROOM, _NEAR)
    step = max(1, room // (shifts * views))
    for first in range(0, len(images), step):
        part = slice(first, first + step)
        some = images[part]
        rows = _pairs(2 / noise * some.filtered[:, None] * ramps.conj())
        own = -some.weight / noise if images.transfer is not None else -torch.ones_like(noise[:1])[None]
        if joined:
            rows = torch.cat([rows, own[:, None].expand(len(some), shifts, -1)], -1)
        found = (rows.flatten(0, 1) @ columns).unflatten(0, (len(some), shifts))
        yield part, found if joined else found.add_((own @ power.mT)[:, None])


def posterior_sums(
    images: Images,
    slices: Complex[torch.Tensor, "k p"],
    noise: Float[torch.Tensor, " p"],
    ramps: Complex[torch.Tensor, "t p"],
    *,
    temperature: float = 1.0,
) -> Sums:
    """One E-step with equal prior weights of views and shifts; above 1 a temperature flattens the posterior."""
    views, points = slices.shape
    shifts, real = len(ramps), noise.dtype
    joined = shifts == 1 and images.transfer is not None  # C^2 is then summed up in the same product
    wide = 2 * points + 1 + (points if joined else 0)
    sums = torch.zeros(views, wide, dtype=real, device=noise.device)
    weight = torch.zeros(views, points, dtype=real, device=noise.device)
    likelihood, effective = (torch.zeros((), dtype=torch.float64, device=noise.device) for _ in range(2))
    prior = -math.log(views * shifts)
    for part, found in scores(images, slices, noise, ramps):
        some = images[part]
        flat = found.flatten(1)
        top = flat.amax(1, keepdim=True)
        flat = flat.sub_(top).clamp_(min=_LEAST * temperature)
        evidence = None if temperature == 1 else flat.exp().sum(1)
        share = (flat if temperature == 1 else flat.div_(temperature)).exp_()
        whole = share.sum(1)
        evidence = whole if evidence is None else evidence
        likelihood += (top[:, 0].double() + evidence.double().log() + prior).sum()
        effective += (whole.double() / torch.linalg.vector_norm(share, dim=1).double()).square().sum()
        rows = _pairs(some.filtered[:, None] * ramps.conj())
        more = [rows, torch.ones_like(rows[..., :1])]
        if joined:
            more.append(some.weight[:, None])
        rows = torch.cat(more, -1) / whole[:, None, None]
        by_row = share.unflatten(1, (shifts, views))
        sums.addmm_(by_row.flatten(0, 1).mT, rows.flatten(0, 1))
        if images.transfer is not None and not joined:
            weight.addmm_(by_row.sum(1).mT, some.weight / whole[:, None])
    total = sums[:, 2 * points].double()
    if joined:
        weight = sums[:, 2 * points + 1 :]
    elif images.transfer is None:
        weight = sums[:, 2 * points :].expand(views, points)
    numerator = torch.complex(sums[:, :points].contiguous(), sums[:, points : 2 * points].contiguous())
    return Sums(numerator, weight, total, likelihood, effective)


def best(
    images: Images,
    slices: Complex[torch.Tensor, "k p"],
    noise: Float[torch.Tensor, " p"],
    ramps: Complex[torch.Tensor, "t p"],
    count: int = 1,
) -> tuple[Float[torch.Tensor, "n c"], Int[torch.Tensor, "n c"], Int[torch.Tensor, "n c"]]:
    """The most likely pairs of view and shift of every image.

    Returns:
        log-likelihood ratios, indices of views, and of shifts, the best first; a view is given once, at its best shift.
    """
    values, views, shifts = [], [], []
    for _, found in scores(images, slices, noise, ramps):
        over = found[:, 0] if len(ramps) == 1 else found.amax(1)
        top, index = _highest(over, min(count, over.shape[1]))
        values.append(top)
        views.append(index)
        if len(ramps) == 1:
            shifts.append(torch.zeros_like(index))
        else:
            shifts.append(found.gather(2, index[:, None].expand(-1, len(ramps), -1)).argmax(1))
    return torch.cat(values), torch.cat(views), torch.cat(shifts)


def shift_grid(reach: float, step: float = 1.0) -> Float[torch.Tensor, "t 2"]:
    """Shifts ``(t, 2)`` in pixels, no farther than ``reach`` from zero, ``step`` apart; zero alone for reach 0."""
    count = int(reach / step + 1e-9)
    axis = torch.arange(-count, count + 1, dtype=torch.float32) * step
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([x, y], -1).reshape(-1, 2)
    return grid[grid.norm(dim=1) <= reach + 1e-6]


def _highest(values: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``values.topk(count, dim=1)``: the highest lie in the groups whose highest are the highest."""
    groups = values.shape[1] // _ROWS
    if values.is_cuda or groups * _ROWS < values.shape[1] or groups <= count:
        found = values.topk(count, dim=1)
        return found.values, found.indices
    folded = values.unflatten(1, (_ROWS, groups))
    group = folded.amax(1).topk(count, dim=1).indices
    members = folded.gather(2, group[:, None].expand(-1, _ROWS, -1)).flatten(1)
    top = members.topk(count, dim=1)
    return top.values, top.indices // count * groups + group.gather(1, top.indices % count)


def _pairs(values: torch.Tensor) -> torch.Tensor:
    """Real and imaginary parts side by side, (..., 2 p)."""
    return torch.cat([values.real, values.imag], -1)
