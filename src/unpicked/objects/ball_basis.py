"""The spherical Bessel basis of a ball: its functions on voxels, planes and at points, made once per size.

Constants are made in float64 on the CPU, then cast once per dtype and device. ``reach`` is a radius in voxels.
"""

from __future__ import annotations

import math

from unpicked._lazy import torch
from unpicked.ops import special

CUTOFF = 0.5  # cycles per voxel


def largest_reach(box: int) -> float:
    """Largest reach of a ball: 3/4 of the box, and at most 3 voxels beyond its half.

    Functions that peak farther out hardly show on the voxels: the condition number of the values, 25 at box 11,
    lmax 10 and reach 6.5, is 1,800 here (``benchmarks/basis.py``), and beyond it soon has no bound in small boxes.
    """
    return min(0.75 * box, box / 2 + 3)


@special.constants(64)
def radial_counts(box: int, lmax: int, reach: float | None = None) -> tuple[int, ...]:
    """Number S(l) of radial functions per degree: the zeros of j_l strictly below 2 pi c reach."""
    reach = float(box // 2 if reach is None else reach)
    limit = 2 * math.pi * CUTOFF * reach - 1e-9  # a zero on the limit (l = 0: always one) is left out
    counts = []
    for degree in range(lmax + 1):
        # consecutive zeros of j_l are more than pi apart for l >= 1 and exactly pi for l = 0
        zeros = special.spherical_bessel_zeros(degree, int(reach) + 2)
        counts.append(int((zeros < limit).sum()))
        if not counts[-1]:
            break
    return tuple(counts)


@special.constants(16)
def index_table(box: int, lmax: int, reach: float) -> torch.Tensor:
    """Degree, radial number and order of every coefficient, ``(n, 3)``."""
    counts = radial_counts(box, lmax, reach)
    rows = [(n, s + 1, m) for n in range(lmax + 1) for s in range(counts[n]) for m in range(-n, n + 1)]
    return torch.tensor(rows)


@special.constants(16)
def radial(box: int, lmax: int, reach: float) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], ...]:
    """Per degree: zeros u, j_{l+1}(u), and the normalisation N that makes each basis function's norm 1."""
    out = []
    for degree, count in enumerate(radial_counts(box, lmax, reach)):
        zeros = special.spherical_bessel_zeros(degree, count)
        slope = special.spherical_bessel(degree + 1, zeros)
        out.append((zeros, slope, math.sqrt(2 / CUTOFF**3) / slope.abs()))
    return tuple(out)


def _lommel(degree: int, zeros: torch.Tensor, slope: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Integral of j_l(u t) j_l(v t) t^2 over t = 0 .. 1, zeros u of j_l, (s, p); quadrature near u = v."""
    u, v = zeros[:, None], v[None, :]
    gap = u.square() - v.square()
    near = gap.abs() < 0.1
    out = u * slope[:, None] * special.spherical_bessel(degree, v) / torch.where(near, 1.0, gap)
    if bool(near.any()):
        nodes, weights = special.gauss_legendre(64 + int(2 * float(zeros.max())))
        row, column = near.nonzero().unbind(-1)
        first = special.spherical_bessel(degree, zeros[row, None] * nodes)
        second = special.spherical_bessel(degree, v[0, column, None] * nodes)
        out[row, column] = (first * second) @ (weights * nodes.square())
    return out


def basis_at(box: int, lmax: int, reach: float, points: torch.Tensor) -> torch.Tensor:
    """Basis functions (n, p) at points (p, 3)."""
    radius = points.norm(dim=-1)
    unique, inverse = radius.unique(return_inverse=True)
    harmonics = special.spherical_harmonics(lmax, _directions(points, radius)).mT
    out = []
    for degree, (zeros, slope, norm) in enumerate(radial(box, lmax, reach)):
        f = _lommel(degree, zeros, slope, 2 * math.pi * CUTOFF * unique) * (4 * math.pi * CUTOFF**3 * norm[:, None])
        f = f[:, inverse]
        out.append((f[:, None] * harmonics[None, degree**2 : (degree + 1) ** 2]).flatten(0, 1))
    return torch.cat(out)


@special.constants(8)
def _grid64(box: int, lmax: int, reach: float) -> torch.Tensor:
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return basis_at(box, lmax, reach, torch.stack([x, y, z], -1).reshape(-1, 3))


@special.constants(16)
def grid(box: int, lmax: int, reach: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The functions on the voxels, ``(n, box^3)``."""
    return _grid64(box, lmax, reach).to(device, dtype)


@special.constants(16)
def inverse(box: int, lmax: int, reach: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Least-squares coefficients of values on the voxels, ``(box^3, n)``."""
    q, r = torch.linalg.qr(_grid64(box, lmax, reach).mT)
    inverse: torch.Tensor = torch.linalg.solve_triangular(r, q.mT, upper=True)
    return inverse.mT.contiguous().to(device, dtype)


@special.constants(8)
def _plane64(box: int, lmax: int, reach: float) -> torch.Tensor:
    """Projections along z of the basis functions with even l + m, (n', box^2), by Hankel quadrature."""
    from scipy.special import jv

    axis = torch.arange(box, dtype=torch.float64) - box // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x, y, torch.zeros_like(x)], -1).reshape(-1, 3)
    radius = points.norm(dim=-1)
    unique, inverse = radius.unique(return_inverse=True)
    harmonics = special.spherical_harmonics(lmax, _directions(points, radius)).mT
    nodes, weights = special.gauss_legendre(48 + int(math.pi * box))
    phase = (2 * math.pi * CUTOFF * unique[:, None] * nodes).numpy()
    hankel = [torch.as_tensor(jv(m, phase)) * (weights * nodes) for m in range(lmax + 1)]
    out = []
    for degree, (zeros, _, norm) in enumerate(radial(box, lmax, reach)):
        bessel = special.spherical_bessel(degree, zeros[:, None] * nodes) * norm[:, None]
        block: list[torch.Tensor] = []
        for m in range(-degree, degree + 1, 2):
            sign = (-1) ** ((degree - abs(m)) // 2)  # (-i)^l of the basis times i^|m| of the plane wave
            f = sign * 2 * math.pi * CUTOFF**2 * (bessel @ hankel[abs(m)].mT)
            block.append(f[:, inverse] * harmonics[degree * degree + degree + m])
        out.append(torch.stack(block, 1).flatten(0, 1))
    return torch.cat(out)


@special.constants(16)
def plane(box: int, lmax: int, reach: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Projections along z of the functions that are seen, ``(n', box^2)``."""
    return _plane64(box, lmax, reach).to(device, dtype)


@special.constants(16)
def seen(box: int, lmax: int, reach: float, device: torch.device) -> torch.Tensor:
    """Positions of the coefficients with even l + m: the others vanish in projection."""
    index = index_table(box, lmax, reach)
    return ((index[:, 0] + index[:, 2]) % 2 == 0).nonzero().squeeze(-1).to(device)


@special.constants(16)
def orders(box: int, lmax: int, reach: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Position of m in turn_tables, and position of the coefficient (l, s, -m), of every coefficient."""
    order = index_table(box, lmax, reach)[:, 2]
    return (order + lmax).to(device), (torch.arange(len(order)) - 2 * order).to(device)


@special.constants(16)
def quarters(
    lmax: int, dtype: torch.dtype, device: torch.device
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """D(Rx(-90)) and D(Rx(90)) of every degree, transposed for row vectors."""
    quarters = special.quarter_turns(lmax)
    forth = tuple(part.mT.contiguous().to(device, dtype) for part in quarters)
    return forth, tuple(part.to(device, dtype) for part in quarters)


@special.constants(16)
def slight(lmax: int, dtype: torch.dtype, device: torch.device) -> tuple[tuple[torch.Tensor, ...], ...]:
    """Generators of turns about x, y and z of every degree, transposed for row vectors."""
    parts = special.generators(lmax)
    return tuple(tuple(part[i].mT.contiguous().to(device, dtype) for part in parts) for i in range(3))


def _directions(points: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Unit vectors; +x at the origin, where every function that depends on the direction vanishes."""
    east = torch.tensor([1.0, 0.0, 0.0], dtype=points.dtype)
    unit = points / torch.where(radius > 0, radius, 1.0)[:, None]
    return torch.where((radius > 0)[:, None], unit, east)
