"""The moments that a model predicts for a one-dimensional signal, and their derivatives.

Copies of templates x_k start rho_k times per sample, at least L apart; moments are those of
:mod:`unpicked.ops.moments`. With starts at least 2 L - 1 apart no window sees two copies:
a1 = sum_k rho_k sum_i x_k[i], a2[l] = sum_k rho_k C_k[l], a3[a, b] = sum_k rho_k T_k[a, b] with
C[l] = sum_i x[i] x[i+l] and T[a, b] = sum_i x[i] x[i+a] x[i+b]. Nearer copies add the terms of pairs, which know the
law of the distance to the next copy, g[d], d = L .. 2 L - 2 (Lan, Bendory, Boumal & Singer, arXiv 1905.03176).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.ops import moments


class Lags(NamedTuple):
    """Positions in a zero-padded template at which products are gathered; templates of ``size``, lags below L."""

    pad: int
    second: torch.Tensor  # (L, size): k + l
    back: torch.Tensor  # (L, size): k - l
    plus_a: torch.Tensor  # (p, size): k + a
    plus_b: torch.Tensor
    minus_a: torch.Tensor
    minus_ab: torch.Tensor  # k - a + b
    minus_b: torch.Tensor
    minus_ba: torch.Tensor  # k - b + a


def expected(
    x: Float[torch.Tensor, "*s k n"], rate: Float[torch.Tensor, "*s k"], length: int
) -> Float[torch.Tensor, "*s m"]:
    """Raw moments of well separated copies without noise.

    Args:
        x: ``(..., k, n)`` templates, n of any size.
        rate: ``(..., k)`` starts of each per sample.
        length: L: lags from 0 to L - 1.

    Returns:
        ``(..., m)`` moment vectors.
    """
    at = _lags(length, x.shape[-1])
    padded = torch.nn.functional.pad(x, (at.pad, at.pad))
    first = x.sum(-1, keepdim=True)
    second = (x[..., None, :] * padded[..., at.second]).sum(-1)
    third = (x[..., None, :] * padded[..., at.plus_a] * padded[..., at.plus_b]).sum(-1)
    return (rate[..., None] * torch.cat([first, second, third], -1)).sum(-2)


def expected_slope(
    x: Float[torch.Tensor, "*s k n"], rate: Float[torch.Tensor, "*s k"], length: int
) -> tuple[Float[torch.Tensor, "*s m"], Float[torch.Tensor, "*s m k n"], Float[torch.Tensor, "*s m k"]]:
    """:func:`expected` with its derivatives by the templates and by the rates."""
    at = _lags(length, x.shape[-1])
    padded = torch.nn.functional.pad(x, (at.pad, at.pad))
    ahead, a, b = padded[..., at.second], padded[..., at.plus_a], padded[..., at.plus_b]
    both = a * b
    values = torch.cat(
        [x.sum(-1, keepdim=True), (x[..., None, :] * ahead).sum(-1), (x[..., None, :] * both).sum(-1)], -1
    )
    slope = torch.cat(
        [
            torch.ones_like(x)[..., None, :],
            ahead + padded[..., at.back],
            both
            + padded[..., at.minus_a] * padded[..., at.minus_ab]
            + padded[..., at.minus_b] * padded[..., at.minus_ba],
        ],
        -2,
    )
    whole = (rate[..., None] * values).sum(-2)
    return whole, (rate[..., None, None] * slope).movedim(-3, -2), values.mT


def expected_near(
    x: Float[torch.Tensor, "*s k n"],
    rate: Float[torch.Tensor, "*s k"],
    near: Float[torch.Tensor, "*s g"],
    length: int,
) -> Float[torch.Tensor, "*s m"]:
    """Raw moments of copies at least L = n apart, without noise; kinds of neighbours are independent.

    Args:
        x: ``(..., k, L)`` templates.
        rate: ``(..., k)`` starts of each per sample.
        near: ``(..., L - 1)``: g[d], chance that the next copy starts d = L .. 2 L - 2 samples after one.
        length: L.

    Raises:
        ValueError: if templates or chances have another size.
    """
    if x.shape[-1] != length or near.shape[-1] != length - 1:
        raise ValueError(
            f"templates must have {length} samples and near {length - 1} chances; "
            f"got {x.shape[-1]} and {near.shape[-1]}"
        )
    mean = (rate[..., None] * x).sum(-2) / rate.sum(-1, keepdim=True)
    at, (a, b) = _near_lags(length), moments.lag_pairs(length).unbind(1)
    # what follows a copy on average, at offsets 0 .. 2 L - 2 from its start, and what went before it, at offsets < L
    after = (near[..., None, :] * _at(mean, at[0])).sum(-1)
    before = (near[..., None, :] * _at(mean, at[1])).sum(-1)
    total = rate.sum(-1, keepdim=True)
    start = torch.arange(length)
    lags = torch.arange(length)
    second = total * (mean[..., None, :] * after[..., start + lags[:, None]]).sum(-1)
    # the first two points in one copy and the last in the next, or the first in one and the others in the next
    two_one = _at(x, start + b[:, None]) * after[..., None, :][..., start + a[:, None]]
    one_two = _at(x, start + (a - b)[:, None]) * before[..., None, :][..., start - b[:, None] + length - 1]
    third = (rate[..., None] * (x[..., None, :] * (two_one + one_two)).sum(-1)).sum(-2)
    pairs = torch.cat([torch.zeros_like(total), second, third], -1)
    return expected(x, rate, length) + pairs


def _at(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Values at any positions, zero outside."""
    size = values.shape[-1]
    inside = (index >= 0) & (index < size)
    return values[..., index.clamp(0, size - 1)] * inside


@lru_cache(maxsize=16)
def _lags(length: int, size: int) -> Lags:
    pad = length - 1
    k = torch.arange(size) + pad
    lags = torch.arange(length)[:, None]
    a, b = (part[:, None] for part in moments.lag_pairs(length).unbind(1))
    return Lags(pad, k + lags, k - lags, k + a, k + b, k - a, k - a + b, k - b, k - b + a)


@lru_cache(maxsize=16)
def _near_lags(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions in the neighbour: j - d for j = 0 .. 2 L - 2, and j + d for j = -(L - 1) .. L - 1; d = L .. 2 L - 2."""
    distances = torch.arange(length, 2 * length - 1)
    return torch.arange(2 * length - 1)[:, None] - distances, torch.arange(1 - length, length)[:, None] + distances
