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

# scores that are held at once: on a CPU those that stay in its cache
_ROOM = {"cpu": 1 << 20}
_MOST = 1 << 26


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

    def less(self, values: Float[torch.Tensor, " p"]) -> Images:
        """The same without an image that all of them hold, given before its contrast transfer."""
        shown = values if self.transfer is None else self.transfer * values
        return Images(self.coefficients - shown.to(self.coefficients.real), self.transfer)

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
    columns = _pairs(slices).mT.contiguous()
    power = (slices.real.square() + slices.imag.square()).mT.contiguous()
    room = _ROOM.get(slices.device.type, _MOST)
    step = max(1, room // (len(ramps) * len(slices)))
    for first in range(0, len(images), step):
        part = slice(first, first + step)
        some = images[part]
        rows = 2 / noise * some.filtered[:, None] * ramps.conj()
        found = _pairs(rows).flatten(0, 1) @ columns
        found = found.unflatten(0, (len(some), len(ramps)))
        yield part, found.sub_((some.weight / noise @ power)[:, None])


def posterior_sums(
    images: Images,
    slices: Complex[torch.Tensor, "k p"],
    noise: Float[torch.Tensor, " p"],
    ramps: Complex[torch.Tensor, "t p"],
    *,
    temperature: float = 1.0,
    log_prior: Float[torch.Tensor, "t k"] | None = None,
) -> Sums:
    """One E-step; above 1 a temperature flattens the posterior.

    Args:
        images: coefficients.
        slices: of the views.
        noise: power per coefficient.
        ramps: exp(-2 pi i q.t / N) of the shifts.
        temperature: by which log-likelihoods are divided.
        log_prior: logarithms of the probabilities of shifts and views; None means that all are equally likely.
    """
    views, points = slices.shape
    real = noise.dtype
    numerator = torch.zeros(views, 2 * points, dtype=real, device=noise.device)
    weight = torch.zeros(views, points if images.transfer is not None else 1, dtype=real, device=noise.device)
    total = torch.zeros(views, dtype=torch.float64, device=noise.device)
    likelihood, effective = (torch.zeros((), dtype=torch.float64, device=noise.device) for _ in range(2))
    equal = math.log(views * len(ramps)) if log_prior is None else 0.0
    least = torch.finfo(real).eps ** 1.5  # share of an image below which a view is left out
    lowest = 0.49 * math.log(torch.finfo(real).tiny)  # squares stay normal numbers: others cost thirty times the time
    for part, found in scores(images, slices, noise, ramps):
        if log_prior is not None:
            found += log_prior
        flat = found.flatten(1)
        top = flat.amax(1, keepdim=True)
        flat -= top
        mass = None if temperature == 1 else flat.exp().sum(1, dtype=torch.float64)
        if mass is not None:
            flat /= temperature
        by_row = flat.clamp_(min=lowest).exp_().unflatten(1, (len(ramps), views))
        seen = by_row.sum(1)
        whole = seen.sum(1, dtype=torch.float64)
        likelihood += (top[:, 0].double() + (whole if mass is None else mass).log() - equal).sum()
        effective += (whole / torch.linalg.vector_norm(flat, dim=1)).square().sum()
        scale = (1 / whole).to(real)[:, None]
        seen *= scale
        total += seen.sum(0, dtype=torch.float64)
        some = images[part]
        rows = _pairs((scale * some.filtered)[:, None] * ramps.conj()).flatten(0, 1)
        kept = (seen.amax(0) > least).nonzero()[:, 0]
        if 2 * len(kept) > views:
            numerator.addmm_(by_row.flatten(0, 1).mT, rows)
        else:
            numerator.index_add_(0, kept, by_row[:, :, kept].flatten(0, 1).mT @ rows)
        if images.transfer is not None:
            weight.addmm_(seen.mT, some.weight)
    if images.transfer is None:
        weight = total.to(real)[:, None]
    sums = torch.view_as_complex(numerator.unflatten(1, (2, points)).movedim(1, -1).contiguous())
    return Sums(sums, weight.expand(views, points), total, likelihood, effective)


def best(
    images: Images,
    slices: Complex[torch.Tensor, "k p"],
    noise: Float[torch.Tensor, " p"],
    ramps: Complex[torch.Tensor, "t p"],
    count: int = 1,
    *,
    log_prior: Float[torch.Tensor, "t k"] | None = None,
) -> tuple[Float[torch.Tensor, "n c"], Int[torch.Tensor, "n c"], Int[torch.Tensor, "n c"]]:
    """The most likely pairs of view and shift of every image.

    Returns:
        log-likelihood ratios, indices of views, and of shifts, the best first; a view is given once, at its best shift.
    """
    values, views, shifts = [], [], []
    for _, found in scores(images, slices, noise, ramps):
        if log_prior is not None:
            found += log_prior
        over, shift = found.max(1)
        top = over.topk(min(count, over.shape[1]), dim=1)
        values.append(top.values)
        views.append(top.indices)
        shifts.append(shift.gather(1, top.indices))
    return torch.cat(values), torch.cat(views), torch.cat(shifts)


def shift_grid(reach: float, step: float = 1.0) -> Float[torch.Tensor, "t 2"]:
    """Shifts ``(t, 2)`` in pixels, no farther than ``reach`` from zero, ``step`` apart; zero alone for reach 0."""
    count = int(reach / step + 1e-9)
    axis = torch.arange(-count, count + 1, dtype=torch.float32) * step
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([x, y], -1).reshape(-1, 2)
    return grid[grid.norm(dim=1) <= reach + 1e-6]


def _pairs(values: torch.Tensor) -> torch.Tensor:
    """Real and imaginary parts side by side, (..., 2 p)."""
    return torch.cat([values.real, values.imag], -1)
