"""What copies that lie near each other add to the moments of images of a target that is turned by all angles.

Copies have angles of their own, so that a neighbour is seen as its mean over all angles, a sum of the harmonics of
order 0. With g(D) the mean number of copies at the offset D from a copy, two copies add sum_D g(D) times the products
of which one factor lies in the second copy. Three copies add sum g(D1) g(D2) over offsets whose copies keep their
distance from each other, too: the density of triples is taken to follow from that of pairs (Kirkwood's superposition).
g is rate x h(|D|), h a line through knots (the pair separation function of Kreymer & Bendory 2022).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.model import expected_images
from unpicked.objects.disk import Disk
from unpicked.ops.steerable import Discs

KNOTS = 6  # distances between L and 2 L at which h is free; beyond, it stays


class Neighbours(NamedTuple):
    """Moments of neighbours: polynomials of R_s = sum_k rate_k z_ks of order 0, S_p = sum_k rate_k z_ka z_kb, and h.

    Attributes:
        harmonics: ``(c, size)`` complex: real coefficients of the object to complex ones.
        round: ``(s,)`` places of order 0 among the complex coefficients.
        pairs: ``(2, p)`` places of a and b.
        second: ``(k, q, s, s)`` weights of h R R in the second moments.
        third: ``(k, r, p, s)`` complex weights of h S R in the third ones.
        triple: ``(k, k, r, s, s, s)`` weights of h h R R R in the third ones; symmetric in k, and in s.
    """

    harmonics: torch.Tensor
    round: torch.Tensor
    pairs: torch.Tensor
    second: torch.Tensor
    third: torch.Tensor
    triple: torch.Tensor

    @property
    def knots(self) -> int:
        """Number of values of h."""
        return self.second.shape[0]


def expected_near(
    x: Float[torch.Tensor, "s k n"], rate: Float[torch.Tensor, "s k"], h: Float[torch.Tensor, "s h"], table: Neighbours
) -> tuple[
    Float[torch.Tensor, "s m"],
    Float[torch.Tensor, "s m k n"],
    Float[torch.Tensor, "s m k"],
    Float[torch.Tensor, "s m h"],
]:
    """What neighbours add to the moments per pixel, and its derivatives by coefficients, rates and h.

    Args:
        x: ``(starts, kinds, size)`` coefficients.
        rate: ``(starts, kinds)`` copies of each per pixel.
        h: ``(starts, knots)`` pair density over rate x rate at the knots.
        table: of :func:`neighbours`.
    """
    z = x.to(table.harmonics) @ table.harmonics.mT
    a, b = z[..., table.pairs[0]], z[..., table.pairs[1]]
    round = (rate[..., None] * z.real[..., table.round]).sum(1)
    square = (rate[..., None] * a * b).sum(1)
    values, by_round, by_square, by_h = _values(round, square, h, table)
    # R and S by the coefficients
    turn = table.harmonics
    first = by_round.to(turn) @ turn[table.round]
    slope_a, slope_b = (by_square[:, None] * part[:, :, None] for part in (b, a))  # (s, k, m, p)
    each = slope_a @ turn[table.pairs[0]] + slope_b @ turn[table.pairs[1]] + first[:, None]
    by_x = (rate[..., None, None] * each.real).movedim(1, 2)
    by_rate = torch.einsum("zms,zks->zmk", by_round, z.real[..., table.round])
    by_rate = by_rate + torch.einsum("zmp,zkp->zmk", by_square, a * b).real
    return values, by_x, by_rate, by_h


def _values(
    round: torch.Tensor, square: torch.Tensor, h: torch.Tensor, table: Neighbours
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Moments ``(z, m)`` of R, S and h, and their derivatives by each."""
    two = torch.einsum("kqst,zs->zkqt", table.second + table.second.mT, round)
    by_h = torch.einsum("zkqt,zt->zqk", two, round) / 2
    second, by_round2 = torch.einsum("zqk,zk->zq", by_h, h), torch.einsum("zkqt,zk->zqt", two, h)
    whole = torch.einsum("zk,krps->zrps", h.to(table.third), table.third)
    by_square = torch.einsum("zrps,zs->zrp", whole, round.to(whole))
    by_round3 = torch.einsum("zrps,zp->zrs", whole, square).real
    by_h3 = torch.einsum("krps,zp,zs->zrk", table.third, square, round.to(whole)).real
    third = torch.einsum("zrk,zk->zr", by_h3, h)
    cubic = torch.einsum("kjrstu,zs,zt->zkjru", table.triple, round, round)
    once = torch.einsum("zkjru,zj->zkru", cubic, h)
    by_round3 = by_round3 + 3 * torch.einsum("zkru,zk->zru", once, h)
    triple = torch.einsum("zkru,zu->zrk", once, round)
    third, by_h3 = third + torch.einsum("zrk,zk->zr", triple, h), by_h3 + 2 * triple
    none = torch.zeros_like(second[:, :1])
    zeros = by_square.new_zeros(len(second), 1 + second.shape[1], by_square.shape[2])

    def under(*parts: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(parts[0][:, :1]), *parts], 1)

    return (
        torch.cat([none, second, third], 1),
        under(by_round2, by_round3),
        torch.cat([zeros, by_square], 1),
        under(by_h, by_h3),
    )


@lru_cache(maxsize=4)
def neighbours(disk: Disk, functions: Discs) -> Neighbours:
    """Neighbours at least L apart in one of the two directions, h a line through :data:`KNOTS` knots."""
    return tables(disk, functions, shells(disk.side, functions.radius))


def shells(side: int, radius: int) -> Float[torch.Tensor, "k d d"]:
    """Weights of the knots in h at the offsets below ``radius + side``, ``(KNOTS, D, D)``; 0 where copies overlap."""
    most = radius + side - 1
    line = torch.arange(-most, most + 1, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    place = ((x.square() + y.square()).sqrt() / side - 1).clamp(max=1.0) * (KNOTS - 1)
    weights = (1 - (place - torch.arange(KNOTS)[:, None, None]).abs()).clamp(min=0)
    return weights * (torch.maximum(x.abs(), y.abs()) >= side)


def tables(disk: Disk, functions: Discs, weights: Float[torch.Tensor, "k d d"]) -> Neighbours:
    """:class:`Neighbours` for weights ``(k, D, D)`` of the offsets that have the symmetry of the square."""
    side, radius = disk.side, functions.radius
    harmonics, images, orders = expected_images.complex_harmonics(disk)
    round = (orders == 0).nonzero()[:, 0]
    pairs = torch.cartesian_prod(torch.arange(len(orders)), torch.arange(len(orders))).mT
    pairs = pairs[:, orders[pairs].sum(0) == 0]
    means = images[round].real
    around = _around(means, weights, radius)
    framed = torch.nn.functional.pad(images, (2 * radius,) * 4)
    second, third, triple = torch.empty(0), [], []
    for order, group in enumerate(functions.groups):
        lags = functions.values[group]
        pulled, filtered = (expected_images.correlated(framed, f) for f in (lags, lags.conj()))  # (q, c, H, H)
        near = expected_images.correlated(around, lags)  # (q, k, s, L, L)
        if order == 0:
            second = torch.einsum("sij,qktij->kqst", means, near.real)
        whole = _pairs(images, pulled, filtered, near, around, pairs)
        third.append(expected_images.packed(whole, order))
        whole = _triples(means, pulled[:, round], weights, side)
        triple.append(expected_images.packed(whole, order).real)
    by_pair = torch.cat(third)  # (r, k, s, p)
    pairs, gathered = expected_images.gathered(pairs, by_pair.flatten(0, 2))
    by_pair = gathered.unflatten(0, by_pair.shape[:3]).permute(1, 0, 3, 2).contiguous()
    return Neighbours(harmonics, round, pairs, second, by_pair, _symmetric(torch.cat(triple)).contiguous())


def _around(means: torch.Tensor, weights: torch.Tensor, radius: int) -> torch.Tensor:
    """What neighbours put at the pixels up to ``radius`` around a copy, ``(k, s, H, H)``."""
    pad = weights.shape[-1] // 2 + radius
    framed = torch.nn.functional.pad(means, (pad,) * 4)[:, None]
    return torch.nn.functional.conv2d(framed, weights[:, None]).transpose(0, 1)


def _pairs(
    images: torch.Tensor,
    pulled: torch.Tensor,
    filtered: torch.Tensor,
    near: torch.Tensor,
    around: torch.Tensor,
    pairs: torch.Tensor,
) -> torch.Tensor:
    """Weights ``(q, q', k, s, p)`` of h S R in m3[N]."""
    a, b = pairs
    radius = (around.shape[-1] - images.shape[-1]) // 2
    inner = slice(radius, -radius)
    # the base point and one lag in a copy, the other lag in its neighbour
    base = images[a] * pulled[:, b, inner, inner]
    out = torch.einsum("qpij,rksij->qrksp", base, near.conj())
    base = images[a] * filtered[:, b, inner, inner]
    out = out + torch.einsum("qksij,rpij->qrksp", near, base)
    # both lags in a copy, the base point in its neighbour
    both = pulled[:, None, a] * filtered[None, :, b]
    return out + torch.einsum("ksij,qrpij->qrksp", around.to(both), both)


def _triples(means: torch.Tensor, pulled: torch.Tensor, weights: torch.Tensor, side: int) -> torch.Tensor:
    """Weights ``(q, q', k, k, s, s, s)`` of h h R R R in m3[N]."""
    size, count = weights.shape[-1], len(weights)
    # a neighbour at D is seen from a base point i of the copy as the copy itself from i - D
    framed = torch.nn.functional.pad(pulled, (side - 1,) * 4)
    seen = framed.unfold(2, size, 1).unfold(3, size, 1).flip(-1, -2)  # (q, s, i, i, D, D)
    spots, many = _octant(side)
    seen = seen.flatten(2, 3)[:, :, spots].permute(2, 0, 1, 3, 4).contiguous()
    functions, round = seen.shape[1:3]
    base, law = (means.flatten(1)[:, spots] * many).to(seen), weights.flatten(1)
    inside = [(one > 0).nonzero()[:, 0] for one in law]
    others = [(seen.flatten(3)[..., at].conj() * law[j, at]).flatten(1, 2).mT for j, at in enumerate(inside)]
    out = seen.new_zeros(functions, functions, count, count, round, round, round)
    for k in range(count):
        first = seen * weights[k]
        first = (first.sum((-2, -1), keepdim=True) - _boxed(first, side)).flatten(3).flatten(1, 2)
        for j, at in enumerate(inside):
            each = first[..., at] @ others[j]  # (i, q s, q' t)
            whole = (base @ each.flatten(1)).view(round, functions, round, functions, round)
            out[:, :, k, j] = whole.permute(1, 3, 0, 2, 4)
    return out if side % 2 == 0 else out.real.to(out)  # mirrored base points give the conjugate


def _octant(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of the square that stand for all by its symmetry, and for how many each; of even sides all of them."""
    half = side // 2
    if side % 2 == 0:
        return torch.arange(side**2), torch.ones(side**2, dtype=torch.float64)
    y, x = torch.tril_indices(half + 1, half + 1)
    many = torch.where((x == 0) | (x == y), 4.0, 8.0).double()
    many[0] = 1
    return (y + half) * side + x + half, many


def _boxed(values: torch.Tensor, side: int) -> torch.Tensor:
    """Sums over the places less than ``side`` away in both directions."""
    size = values.shape[-1]
    place = torch.arange(size)
    upper, lower = (place + side).clamp(max=size), (place - side + 1).clamp(min=0)
    for axis in (-2, -1):
        running = torch.nn.functional.pad(values, (1, 0) if axis == -1 else (0, 0, 1, 0)).cumsum(axis)
        values = running.index_select(axis, upper) - running.index_select(axis, lower)
    return values


def _symmetric(triple: torch.Tensor) -> torch.Tensor:
    """``(r, k, k, s, s, s)`` to ``(k, k, r, s, s, s)``, the mean over all orders of the factors."""
    whole = (triple + triple.transpose(1, 2)).movedim(0, 2) / 2
    return torch.stack([whole.permute(0, 1, 2, *(3 + i for i in order)) for order in permutations(range(3))]).mean(0)
