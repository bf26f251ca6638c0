"""The steerable moments that images of a volume have when every orientation is equally likely.

Any moment of the third order is a linear function of the cubic invariants of a volume's coefficients, W . x_a x_b x_c
for three radial functions a, b, c of degrees l1 <= l2 <= l3 (:mod:`unpicked.ops.invariants`), and of the second order
of the products x_ls . x_ls'. The tables of :mod:`unpicked.ops.steerable` are taken of them once: with Psi(k) =
sum_l psi(l) e^{2 pi i k.l},

    sum_p mean P(p) conj(c_q(p)) c_q'(p) = integral over k2, k3 of B(|k2 + k3|, |k2|, |k3|) Psi_q(k2) conj(Psi_q'(-k3)).

Exact for particles at any sub-pixel positions; at whole pixels three frequencies of the corners may add up to one
cycle per pixel, which is left out.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.model import expected_images
from unpicked.objects.ball import Ball
from unpicked.objects.ball_basis import CUTOFF
from unpicked.ops import invariants, special
from unpicked.ops.steerable import Discs

NODES = 28  # of the radial quadrature up to the cutoff, at least, and as many as
PER_VOXEL = 3  # for each voxel of the box
ANGLES = 128  # between two frequencies, over a full turn


class VolumeTable(NamedTuple):
    """Moments of one copy as weights of the invariants of its coefficients.

    Attributes:
        ball: of the coefficients.
        first: ``(size,)`` weights of the coefficients in the sum over the pixels.
        second: ``(q, pairs)`` weights of x_ls . x_ls', every degree's matrix after the other.
        third: ``(r, cubes)`` weights of W . x x x, every triple of degrees after the other.
    """

    ball: Ball
    first: torch.Tensor
    second: torch.Tensor
    third: torch.Tensor

    def values(self, x: Float[torch.Tensor, "s n"]) -> Float[torch.Tensor, "s m"]:
        """Moments of one copy summed over its window, to be multiplied by copies per pixel; no noise."""
        parts = self.ball.degrees(x)
        pairs = torch.cat([(part @ part.mT).flatten(1) for part in parts], 1)
        cubes = torch.cat(
            [_cube(w, *(parts[n] for n in degrees)).flatten(1) for degrees, w in _cubic(self.ball.lmax)], 1
        )
        return torch.cat([x @ self.first[:, None], pairs @ self.second.mT, cubes @ self.third.mT], 1)

    def slope(self, x: Float[torch.Tensor, "s n"]) -> tuple[Float[torch.Tensor, "s m"], Float[torch.Tensor, "s m n"]]:
        """:meth:`values` with their derivatives by the coefficients."""
        parts, starts = self.ball.degrees(x), len(x)
        second = x.new_zeros(starts, self.second.shape[0], x.shape[1])
        third = x.new_zeros(starts, self.third.shape[0], x.shape[1])
        places = _places(parts)
        begin = 0
        for part, place in zip(parts, places, strict=True):
            radial = part.shape[1]
            weight = self.second[:, begin : begin + radial**2].unflatten(1, (radial, radial))
            second[:, :, place] += torch.einsum("qtu,sum->sqtm", weight + weight.mT, part).flatten(2)
            begin += radial**2
        begin = 0
        for degrees, w in _cubic(self.ball.lmax):
            a, b, c = (parts[n] for n in degrees)
            shape = a.shape[1], b.shape[1], c.shape[1]
            weight = self.third[:, begin : begin + math.prod(shape)].unflatten(1, shape)
            begin += math.prod(shape)
            left, right = torch.einsum("ijk,suj,svk->suvi", w, b, c), torch.einsum("ijk,sti,svk->stvj", w, a, c)
            both = torch.einsum("ijk,sti,suj->stuk", w, a, b)
            third[:, :, places[degrees[0]]] += torch.einsum("rtuv,suvi->srti", weight, left).flatten(2)
            third[:, :, places[degrees[1]]] += torch.einsum("rtuv,stvj->sruj", weight, right).flatten(2)
            third[:, :, places[degrees[2]]] += torch.einsum("rtuv,stuk->srvk", weight, both).flatten(2)
        first = self.first.expand(starts, 1, -1)
        return self.values(x), torch.cat([first, second, third], 1)


@lru_cache(maxsize=4)
def volume_table(ball: Ball, functions: Discs) -> VolumeTable:
    """The moments of a ball object through disc functions of lags up to L - 1.

    Raises:
        ValueError: if the functions reach less than L - 1.
    """
    if functions.radius < ball.box - 1:
        raise ValueError(f"lags must reach {ball.box - 1} pixels for a box of {ball.box}; got {functions.radius}")
    nodes, weights = (CUTOFF * part for part in special.gauss_legendre(max(NODES, PER_VOXEL * ball.box)))
    radial = ball.radial_functions(nodes)
    waves = _waves(functions, nodes)  # (n, radii, orders) of Psi
    scale = 1 / math.sqrt(4 * math.pi)
    first = torch.zeros(ball.size, dtype=torch.float64)
    first[: len(radial[0])] = ball.radial_functions(torch.zeros(1))[0][:, 0] * scale
    zero = waves[functions.groups[0], :, 0].real * (2 * math.pi * nodes * weights)
    second = torch.cat([scale**2 * torch.einsum("qr,ur,vr->quv", zero, f, f).flatten(1) for f in radial], 1)
    return VolumeTable(ball, first, second, _third(ball, functions, nodes, weights, radial, waves))


def _third(
    ball: Ball,
    functions: Discs,
    nodes: torch.Tensor,
    weights: torch.Tensor,
    radial: tuple[torch.Tensor, ...],
    waves: torch.Tensor,
) -> torch.Tensor:
    """Weights of the cubic invariants: of k2 on one node after the other, k3 on all nodes and at all angles to it."""
    angles = torch.arange(ANGLES, dtype=torch.float64) * (2 * math.pi / ANGLES)
    turns = torch.exp(
        1j * torch.fft.fftfreq(ANGLES, 1 / ANGLES).double()[:, None] * (-angles - math.pi)
    )  # (orders, angles)
    cubic = _cubic(ball.lmax)
    starts = _starts(cubic, radial)
    total = torch.zeros(functions.third, starts[-1], dtype=torch.float64)
    # k2 along x, k3 at the angle to it, k1 what closes the triangle
    far = torch.stack([angles.cos(), angles.sin()], -1)[None] * nodes[:, None, None]  # (r3, angles, 2)
    for place, (side, weight) in enumerate(zip(nodes, weights, strict=True)):
        last = -far.clone()
        last[..., 0] -= side
        length = last.norm(dim=-1)
        along = [
            last / length.clamp(min=1e-12)[..., None],
            torch.tensor([1.0, 0.0]).double(),
            far / nodes[:, None, None],
        ]
        ways = [special.spherical_harmonics(ball.lmax, torch.nn.functional.pad(way, (0, 1))) for way in along]
        closing = [f.unflatten(1, length.shape) for f in ball.radial_functions(length.flatten())]
        values = [closing, [f[:, place, None, None] for f in radial], [f[:, :, None] for f in radial]]
        measure = 2 * math.pi * side * weight * (nodes * weights)[:, None] * (2 * math.pi / ANGLES)
        shown = _bispectrum(ball, cubic, starts, ways, values) * measure  # (cubes, r3, angles)
        rows = []
        for order, group in enumerate(functions.groups):
            ring = torch.einsum("qn,prn,na->qpra", waves[group, place], waves[group].conj(), turns)
            rows.append(expected_images.packed(ring, order).real.flatten(1))
        total += torch.cat(rows) @ shown.flatten(1).mT
    return total


def _bispectrum(
    ball: Ball,
    cubic: list[tuple[tuple[int, int, int], torch.Tensor]],
    starts: list[int],
    ways: list[torch.Tensor],
    values: list[list[torch.Tensor]],
) -> torch.Tensor:
    """What every cubic invariant adds to B at some triangles, ``(cubes, r, a)``."""
    place = {degrees: number for number, (degrees, _) in enumerate(cubic)}
    shape = values[0][0].shape[1:]
    out = torch.zeros(starts[-1], *shape, dtype=torch.float64)
    for degrees in invariants.degrees(ball.lmax):
        w = invariants.invariant(*degrees)
        seen = [way[..., n * n : (n + 1) ** 2] for way, n in zip(ways, degrees, strict=True)]
        weight = (-1) ** (sum(degrees) // 2) * torch.einsum("...a,...b,...c,abc->...", *seen, w)
        order = sorted(range(3), key=lambda slot: degrees[slot])
        number = place[tuple(degrees[slot] for slot in order)]  # type: ignore[index]
        f, g, h = (values[slot][degrees[slot]] for slot in order)
        product = f[:, None, None] * g[None, :, None] * h[None, None] * weight
        out[starts[number] : starts[number + 1]] += product.flatten(0, 2)
    return out


def _waves(functions: Discs, radii: torch.Tensor) -> torch.Tensor:
    """Psi(k) = sum_l psi(l) e^{2 pi i k.l} as a series in the angle of k, ``(n, r, ANGLES)``, order n at place n."""
    line = torch.arange(-functions.radius, functions.radius + 1, dtype=torch.float64)
    angles = torch.arange(ANGLES, dtype=torch.float64) * (2 * math.pi / ANGLES)
    x, y = (radii[:, None] * part for part in (angles.cos(), angles.sin()))
    east, north = (torch.exp(2j * math.pi * part[..., None] * line) for part in (x, y))
    seen = torch.einsum("nyx,rax,ray->nra", functions.values, east, north)
    return torch.fft.fft(seen, dim=-1) / ANGLES


def _cubic(lmax: int) -> list[tuple[tuple[int, int, int], torch.Tensor]]:
    """Degrees in rising order, and their invariant."""
    return [
        (degrees, invariants.invariant(*degrees))
        for degrees in invariants.degrees(lmax)
        if list(degrees) == sorted(degrees)
    ]


def _starts(cubic: list[tuple[tuple[int, int, int], torch.Tensor]], radial: tuple[torch.Tensor, ...]) -> list[int]:
    """Where the invariants of each triple of degrees begin; the end of all comes last."""
    starts = [0]
    for degrees, _ in cubic:
        starts.append(starts[-1] + math.prod(len(radial[n]) for n in degrees))
    return starts


def _cube(w: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ijk,sti,suj,svk->stuv", w.to(a), a, b, c)


def _places(parts: list[torch.Tensor]) -> list[slice]:
    """The coefficients of every degree."""
    out, begin = [], 0
    for part in parts:
        size = part.shape[1] * part.shape[2]
        out.append(slice(begin, begin + size))
        begin += size
    return out
