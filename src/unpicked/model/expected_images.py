"""The moments that a model predicts for images of a target that is turned by all angles, and their derivatives.

A target x = sum z_ns psi_ns is a sum of circular harmonics; turned by phi, z_n becomes z_n e^{-i n phi}. Averaged
over phi, products survive whose orders add up to zero, so that every moment is a short polynomial in the coefficients,
exact also for what the pixels cut off. Copies at least 2 L - 1 apart in one of the two directions do not meet in a
window of lags below L.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from jaxtyping import Complex, Float, Shaped

from unpicked._lazy import torch
from unpicked.objects.disk import Disk
from unpicked.ops.steerable import Discs


class Polynomial(NamedTuple):
    """Moments as sums over monomials of complex coefficients.

    Attributes:
        harmonics: ``(c, size)`` complex: real coefficients of the object to complex ones.
        first: ``(c,)`` weights of the first moment.
        pairs: ``(2, p)`` factors of the second-order monomials, and ``second`` ``(q, p)`` their weights.
        triples: ``(3, t)`` factors of the third-order monomials, and ``third`` ``(r, t)`` complex their weights for
            the real and the imaginary parts.
    """

    harmonics: torch.Tensor
    first: torch.Tensor
    pairs: torch.Tensor
    second: torch.Tensor
    triples: torch.Tensor
    third: torch.Tensor

    def values(self, x: Float[torch.Tensor, "s n"]) -> Float[torch.Tensor, "s m"]:
        """See :func:`expected_images`."""
        return expected_images(x, self)

    def slope(self, x: Float[torch.Tensor, "s n"]) -> tuple[Float[torch.Tensor, "s m"], Float[torch.Tensor, "s m n"]]:
        """See :func:`expected_images_slope`."""
        return expected_images_slope(x, self)


def expected_images(x: Float[torch.Tensor, "s n"], table: Polynomial) -> Float[torch.Tensor, "s m"]:
    """Moments of one copy summed over its window, to be multiplied by copies per pixel; no noise.

    Args:
        x: ``(starts, size)`` coefficients.
        table: of :func:`polynomial`.
    """
    z = x.to(table.harmonics) @ table.harmonics.mT
    one = z @ table.first
    two = (z[:, table.pairs[0]] * z[:, table.pairs[1]]) @ table.second.mT
    three = (z[:, table.triples[0]] * z[:, table.triples[1]] * z[:, table.triples[2]]) @ table.third.mT
    return torch.cat([one[:, None], two, three], 1).real


def expected_images_slope(
    x: Float[torch.Tensor, "s n"], table: Polynomial
) -> tuple[Float[torch.Tensor, "s m"], Float[torch.Tensor, "s m n"]]:
    """:func:`expected_images` with its derivatives by the coefficients."""
    z = x.to(table.harmonics) @ table.harmonics.mT
    starts, count = z.shape
    a, b = (z[:, index] for index in table.pairs)
    pair = z.new_zeros(starts, len(table.pairs[0]), count)
    rows = torch.arange(pair.shape[1])
    pair[:, rows, table.pairs[0]] += b
    pair[:, rows, table.pairs[1]] += a
    c, d, e = (z[:, index] for index in table.triples)
    triple = z.new_zeros(starts, len(table.triples[0]), count)
    rows = torch.arange(triple.shape[1])
    for place, slope in zip(table.triples, (d * e, c * e, c * d), strict=True):
        triple[:, rows, place] += slope
    jacobian = (
        torch.cat([table.first.expand(starts, 1, -1), table.second @ pair, table.third @ triple], 1) @ table.harmonics
    )
    return expected_images(x, table), jacobian.real


@lru_cache(maxsize=8)
def polynomial(disk: Disk, functions: Discs) -> Polynomial:
    """The moments of a disk object through disc functions of lags up to L - 1.

    Raises:
        ValueError: if the functions reach less than L - 1.
    """
    side, radius = disk.side, functions.radius
    if radius < side - 1:
        raise ValueError(f"lags must reach {side - 1} pixels for a target of {side}; got a radius of {radius}")
    harmonics, basis, orders = complex_harmonics(disk)
    images = basis.flatten(1)
    padded = torch.nn.functional.pad(basis, (radius,) * 4)
    # of every harmonic b at every pixel p of the target: sum_l b[p + l] conj(psi(l)), and with psi(l)
    filtered, pulled = (correlated(padded, f).flatten(2) for f in (functions.values.conj(), functions.values))
    number = torch.arange(len(orders))
    pairs = torch.stack([index.flatten() for index in torch.meshgrid(number, number, indexing="ij")])
    pairs = pairs[:, orders[pairs].sum(0) == 0]
    zero = functions.groups[0]
    second = torch.einsum("ap,fap->fa", images[pairs[0]], filtered[zero][:, pairs[1]])
    triples = torch.stack([index.flatten() for index in torch.meshgrid(number, number, number, indexing="ij")])
    triples = triples[:, orders[triples].sum(0) == 0]
    third = []
    for order, group in enumerate(functions.groups):
        third.append(_third(images, pulled[group], filtered[group], triples, order))
    triples, weights = gathered(triples, torch.cat(third))
    pairs, second = gathered(pairs, second)
    first = torch.where(orders == 0, images.sum(1), 0)
    return Polynomial(harmonics, first, pairs, second, triples, weights)


def correlated(
    images: Shaped[torch.Tensor, "*b h h"], lags: Complex[torch.Tensor, "f d d"]
) -> Complex[torch.Tensor, "f *b w w"]:
    """Sums of images times functions of lags at every base point whose disc is inside."""
    size = images.shape[-1]
    axes = (-2, -1)
    transfer = torch.fft.fft2(lags.conj(), (size, size)).conj()
    spectrum = torch.fft.fft2(images)
    shape = (len(lags), *(1,) * (images.dim() - 2), size, size)
    kept = slice(size - lags.shape[-1] + 1)
    return torch.fft.ifft2(spectrum * transfer.view(shape), dim=axes)[..., kept, kept]


def _third(
    images: torch.Tensor, pulled: torch.Tensor, filtered: torch.Tensor, triples: torch.Tensor, order: int
) -> torch.Tensor:
    """Weights of the monomials in m3[N]: rows of real parts q >= q', then imaginary ones q > q'."""
    size = len(filtered)
    out = []
    for q in range(size):
        half = images[triples[0]] * pulled[q][triples[1]]  # (t, p)
        out.append(torch.stack([(half * filtered[r][triples[2]]).sum(1) for r in range(size)]))
    whole = torch.stack(out)  # (q, q', t)
    return packed(whole, order)


def packed(whole: torch.Tensor, order: int) -> torch.Tensor:
    """Weights ``(q, q', ...)`` of monomials in m3[N] to those in its real parts q >= q', and imaginary ones q > q'."""
    size = len(whole)
    # the matrix of a real image is Hermitian: its real and imaginary parts are polynomials, too
    a, b = torch.tril_indices(size, size)
    real = (whole[a, b] + whole[b, a]) / 2
    if order == 0:
        return real
    a, b = torch.tril_indices(size, size, -1)
    return torch.cat([real, (whole[a, b] - whole[b, a]) / 2j])


def gathered(index: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Monomials that differ in the order of their factors only, put together."""
    ordered = index.sort(0).values
    kinds, place = torch.unique(ordered, dim=1, return_inverse=True)
    summed = weights.new_zeros(weights.shape[0], kinds.shape[1]).index_add(1, place, weights)
    return kinds, summed


def complex_harmonics(disk: Disk) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Complex coefficients from real ones, the images ``(c, L, L)`` of the complex ones, and their orders."""
    signed = disk.index[:, 0]
    images = disk.values(torch.eye(disk.size, dtype=torch.float64)).to(torch.complex128)
    rows, pictures, orders = [], [], []
    half = 1 / math.sqrt(2)
    for place, order in enumerate(signed.tolist()):
        if order < 0:
            continue
        cosine = torch.zeros(disk.size, dtype=torch.complex128)
        cosine[place] = 1
        if order == 0:
            rows.append(cosine)
            pictures.append(images[place])
            orders.append(0)
            continue
        sine = torch.zeros_like(cosine)
        sine[place + 1] = 1  # the partner stands behind
        for sign in (1, -1):
            rows.append(half * (cosine - sign * 1j * sine))
            pictures.append(half * (images[place] + sign * 1j * images[place + 1]))
            orders.append(sign * order)
    return torch.stack(rows), torch.stack(pictures), torch.tensor(orders)
