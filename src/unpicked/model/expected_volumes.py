"""The moments that micrographs of a volume have when every orientation is equally likely, and their derivatives.

A projection of a ball object has the Fourier transform P(k) = sum (-i)^l A_lm(r) S_lm, r = |k|, on its central slice.
Over all rotations of one copy, with A_lm(r) = sum_s x_lsm N_ls j_l(u_ls r / c):

    mean P(0) = A_00(0) / sqrt(4 pi),     mean |P(k)|^2 = sum_lm A_lm(r)^2 / (4 pi),
    mean P(k1) P(k2) P(k3) = sum over l1, l2, l3 of (-1)^((l1 + l2 + l3) / 2) (W . S(k1) S(k2) S(k3)) (W . A A A)

for triangles k1 + k2 + k3 = 0 of sides r1, r2, r3 (Bendory et al., arXiv 1810.00226; Levin et al. 2018), W the
invariant of :mod:`unpicked.ops.invariants`. Sums of degrees that are odd cancel, so neither a mirror nor a rotation of
the volume can be seen. Units are those of sums over voxels: P is not divided by the box.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.objects.ball import Ball
from unpicked.ops import invariants, special


class Triangles(NamedTuple):
    """Where the third moment is taken.

    Attributes:
        radii: ``(r,)`` lengths of frequency vectors, cycles per voxel, ascending from 0.
        sides: ``(t, 3)`` places in radii, of triangles a >= b >= c with a <= b + c.
        counts: ``(r,)`` and ``(t,)`` frequencies and pairs of them that stand for each, in proportion.
    """

    radii: torch.Tensor
    sides: torch.Tensor
    counts: tuple[torch.Tensor, torch.Tensor]


class VolumeMoments(NamedTuple):
    """Moments of one copy, or their derivatives with a last axis more.

    Attributes:
        first: ``(s, 1)`` sum over the voxels.
        power: ``(s, r)`` mean of |P|^2 at each radius.
        bispectrum: ``(s, t)`` mean of P P P at each triangle.
    """

    first: torch.Tensor
    power: torch.Tensor
    bispectrum: torch.Tensor


def triangles(count: int, cutoff: float = 0.5) -> Triangles:
    """All triangles of ``count`` equally spaced radii below the cutoff, at which the functions of a ball vanish.

    Counts are areas: 2 pi r dr of a radius; of a triangle the density of pairs of frequencies with these sides,
    4 pi a b c / area (degenerate ones as if a side were half a step shorter), times the orders of its sides.
    """
    if count < 2:
        raise ValueError(f"at least 2 radii are needed; got {count}")
    radii = torch.arange(count, dtype=torch.float64) * (cutoff / count)
    rows = [(a, b, c) for a in range(count) for b in range(a + 1) for c in range(b + 1) if a <= b + c]
    sides = torch.tensor(rows)
    a, b, c = sides.double().clamp(min=0.25).unbind(1)
    a = torch.minimum(a, b + c - 0.25)
    half = (a + b + c) / 2
    area = (half * (half - a) * (half - b) * (half - c)).clamp(min=1e-3).sqrt()
    orders = 6.0 / torch.tensor([math.factorial(row.count(row[1])) for row in rows], dtype=torch.float64)
    orders = torch.where(sides[:, 0] == sides[:, 2], 1.0, orders)
    return Triangles(radii, sides, (radii.clamp(min=radii[1] / 4), a * b * c / area * orders))


def expected_volumes(x: Float[torch.Tensor, "s n"], ball: Ball, places: Triangles) -> VolumeMoments:
    """Moments of one copy of each volume.

    Args:
        x: ``(starts, size)`` coefficients.
        ball: whose coefficients these are.
        places: radii and triangles.
    """
    return _moments(x, ball, places, slopes=False)[0]


def expected_volumes_slope(
    x: Float[torch.Tensor, "s n"], ball: Ball, places: Triangles
) -> tuple[VolumeMoments, VolumeMoments]:
    """:func:`expected_volumes` with its derivatives by the coefficients."""
    return _moments(x, ball, places, slopes=True)


def _moments(x: torch.Tensor, ball: Ball, places: Triangles, *, slopes: bool) -> tuple[VolumeMoments, VolumeMoments]:
    """Moments, and their slopes where asked for: else the moments twice."""
    radial, parts = ball.radial_functions(places.radii), ball.degrees(x)
    at = [torch.einsum("nsm,sr->nrm", part, f) for part, f in zip(parts, radial, strict=True)]  # A_lm(r)
    lmax = len(radial) - 1
    slots = [[value[:, side] for value in at] for side in places.sides.unbind(1)]
    pulled = [[torch.zeros_like(value) for value in slot] for slot in slots]
    for degrees, weight in zip(invariants.degrees(lmax), _weights(lmax, places), strict=True):
        w = invariants.invariant(*degrees).to(x)
        one, two, three = (slot[degree] for slot, degree in zip(slots, degrees, strict=True))
        pair = (w.flatten(1) @ (two[..., :, None] * three[..., None, :]).flatten(-2)[..., None])[..., 0]
        pulled[0][degrees[0]] += weight[:, None] * pair
        if slopes:
            left = (one[..., None, :] @ w.flatten(1)).unflatten(-1, w.shape[1:])[..., 0, :, :]
            pulled[1][degrees[1]] += weight[:, None] * (left @ three[..., None])[..., 0]
            pulled[2][degrees[2]] += weight[:, None] * (left.mT @ two[..., None])[..., 0]
    third = torch.stack([(a * p).sum(-1) for a, p in zip(slots[0], pulled[0], strict=True)]).sum(0)
    scale = 1 / math.sqrt(4 * math.pi)
    values = VolumeMoments(
        at[0][:, :1, 0] * scale, torch.stack([value.square().sum(-1) for value in at]).sum(0) * scale**2, third
    )
    if not slopes:
        return values, values
    first = torch.zeros_like(x)
    first[:, : len(radial[0])] = radial[0][:, 0] * scale
    power = torch.cat(
        [(value[:, :, None] * f.mT[:, :, None]).flatten(2) for value, f in zip(at, radial, strict=True)], -1
    )
    cube = torch.zeros(len(x), len(places.sides), x.shape[1], dtype=x.dtype)
    for slot, side in zip(pulled, places.sides.unbind(1), strict=True):
        parts = [(p[:, :, None] * f.mT[side][:, :, None]).flatten(2) for p, f in zip(slot, radial, strict=True)]
        cube += torch.cat(parts, -1)
    return values, VolumeMoments(first[:, None], 2 * scale**2 * power, cube)


@special.constants(8)
def _weights(lmax: int, places: Triangles) -> list[torch.Tensor]:
    """(-1)^(sum / 2) W . S(k1) S(k2) S(k3) at every triangle, for every triple of degrees."""
    one, two, three = (special.spherical_harmonics(lmax, way) for way in directions(places))
    out = []
    for degrees in invariants.degrees(lmax):
        w = invariants.invariant(*degrees)
        a, b, c = (h[:, n * n : (n + 1) ** 2] for h, n in zip((one, two, three), degrees, strict=True))
        out.append((-1) ** (sum(degrees) // 2) * torch.einsum("ta,tb,tc,abc->t", a, b, c, w))
    return out


def directions(places: Triangles) -> tuple[Float[torch.Tensor, "t 3"], ...]:
    """Unit vectors of the three sides in their plane, k1 along x; any, where a side has no length."""
    a, b, c = places.radii[places.sides].unbind(1)
    cosine = torch.where((a > 0) & (b > 0), (c**2 - a**2 - b**2) / (2 * a * b).clamp(min=1e-300), 1.0).clamp(-1, 1)
    sine = (1 - cosine**2).sqrt()
    x = torch.stack([torch.ones_like(a), torch.zeros_like(a)], -1)
    y = torch.stack([cosine, sine], -1)
    last = -(a[:, None] * x + b[:, None] * y)
    length = last.norm(dim=-1, keepdim=True)
    z = torch.where(length > 1e-12, last / length.clamp(min=1e-300), x)
    return tuple(torch.nn.functional.pad(way, (0, 1)) for way in (x, y, z))
