"""Spherical Bessel functions and their zeros, real spherical harmonics and their rotation matrices.

The real spherical harmonics of this package are orthonormal on the sphere and carry no Condon-Shortley sign.
With phi the azimuth from +x towards +y and P the positive normalised Legendre functions, ``S_l0 = P_l0(z)``,
``S_lm = sqrt(2) P_lm(z) cos(m phi)`` and ``S_l,-m = sqrt(2) P_lm(z) sin(m phi)`` for m > 0. The harmonic
(l, m) stands at position ``l^2 + l + m``. Degree 1 is sqrt(3 / (4 pi)) (y, z, x).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, wraps
from typing import TypeVar, TypeVarTuple, cast

from jaxtyping import Float

from unpicked._lazy import torch

Made = TypeVar("Made")
Keys = TypeVarTuple("Keys")


def constants(maxsize: int) -> Callable[[Callable[[*Keys], Made]], Callable[[*Keys], Made]]:
    """Decorator of functions that make constants: results are kept, and made in a thread of their own.

    A constant may first be asked for inside ``torch.func.grad``, where every tensor is wrapped and must not outlive
    the call, or in inference mode; those states belong to a thread.
    """

    def decorate(function: Callable[[*Keys], Made]) -> Callable[[*Keys], Made]:
        @lru_cache(maxsize=maxsize)
        @wraps(function)
        def make(*keys: *Keys) -> Made:
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(function, *keys).result()

        return cast("Callable[[*Keys], Made]", make)

    return decorate


@constants(64)
def gauss_legendre(count: int) -> tuple[Float[torch.Tensor, " n"], Float[torch.Tensor, " n"]]:
    """Gauss-Legendre nodes and weights on 0 .. 1, float64; do not write to them."""
    from scipy.special import roots_legendre

    nodes, weights = roots_legendre(count)
    return torch.as_tensor((nodes + 1) / 2), torch.as_tensor(weights / 2)


@constants(64)
def sphere_rule(degree: int) -> tuple[Float[torch.Tensor, "p 3"], Float[torch.Tensor, " p"]]:
    """Unit vectors and weights, of sum 4 pi, that integrate polynomials of this degree over the sphere; float64.

    Gauss-Legendre in z, equal steps in the azimuth. Do not write to them.
    """
    nodes, weights = gauss_legendre(degree // 2 + 1)
    z, steps = 2 * nodes - 1, degree + 1
    phi = torch.arange(steps, dtype=torch.float64) * (2 * math.pi / steps)
    sine = (1 - z**2).sqrt()[:, None]
    points = torch.stack([sine * phi.cos(), sine * phi.sin(), z[:, None].expand(-1, steps)], -1).reshape(-1, 3)
    return points, (4 * math.pi / steps * weights).repeat_interleave(steps)


def spherical_bessel_zeros(order: int, count: int) -> Float[torch.Tensor, " count"]:
    """First positive zeros of the spherical Bessel function j_order, ascending, float64, to 1e-13 relative.

    The zeros of j_l separate those of j_{l+1} (DLMF 10.21.i), which brackets each one: bisection, then Newton
    steps.

    Args:
        order: degree l >= 0.
        count: number of zeros, >= 1.

    Raises:
        ValueError: if order < 0 or count < 1.
    """
    if order < 0:
        raise ValueError(f"order must be at least 0; got {order}")
    if count < 1:
        raise ValueError(f"count must be at least 1; got {count}")
    return torch.tensor(_zeros(order, count), dtype=torch.float64)


def spherical_bessel(order: int, x: Float[torch.Tensor, "*b"]) -> Float[torch.Tensor, "*b"]:
    """Spherical Bessel function j_order(x) for x >= 0; computed by scipy in float64, no gradient.

    Args:
        order: degree l >= 0.
        x: non-negative arguments, any shape; the result has their dtype and device.

    Raises:
        ValueError: if order < 0 or an argument is negative.
    """
    if order < 0:
        raise ValueError(f"order must be at least 0; got {order}")
    if x.numel() and float(x.detach().min()) < 0:
        raise ValueError(f"x must not be negative; got a minimum of {float(x.detach().min()):g}")
    from scipy.special import spherical_jn

    values = spherical_jn(order, x.detach().double().cpu().numpy())
    return torch.as_tensor(values, dtype=x.dtype, device=x.device)


def spherical_harmonics(lmax: int, vectors: Float[torch.Tensor, "*b 3"]) -> Float[torch.Tensor, "*b n"]:
    """Real orthonormal spherical harmonics of degrees 0 .. lmax, n = (lmax + 1)^2; smooth at the poles.

    The azimuthal part is the polynomial Re or Im (x + i y)^m, so that no angle and no division occurs; the
    polar part is the fully normalised Legendre recurrence in degree (Holmes & Featherstone 2002, equation 11,
    with sin^m theta taken out). Basis and order: see the module's first lines.

    Args:
        lmax: largest degree, >= 0.
        vectors: ``(..., 3)`` unit vectors (x, y, z); they are not normalised here.

    Returns:
        ``(..., (lmax + 1)^2)`` values, order l = 0 .. lmax, m = -l .. l within each.

    Raises:
        ValueError: if lmax < 0 or the last axis of vectors is not 3.
    """
    if lmax < 0:
        raise ValueError(f"lmax must be at least 0; got {lmax}")
    if vectors.shape[-1:] != (3,):
        raise ValueError(f"vectors must have shape (..., 3), x y z; got {tuple(vectors.shape)}")
    x, y, z = vectors.unbind(-1)
    cosines, sines = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(lmax):
        c, s = cosines[-1], sines[-1]
        cosines.append(x * c - y * s)
        sines.append(x * s + y * c)
    cos, sin = torch.stack(cosines, -1), torch.stack(sines, -1)
    z = z[..., None]
    diagonal = math.sqrt(1 / (4 * math.pi))  # P_mm without sin^m; the m = 0 column lacks the sqrt(2) of the others
    polar = [torch.full_like(z, diagonal)]
    out = [polar[0]]
    for degree in range(1, lmax + 1):
        below = math.sqrt(2 * degree + 1) * diagonal * z  # m = degree - 1, from P_mm alone
        diagonal *= math.sqrt((2 * degree + 1) / (2 * degree)) * (math.sqrt(2) if degree == 1 else 1)
        parts = [below, torch.full_like(z, diagonal)]
        if degree > 1:
            first, second = _legendre(degree, vectors.dtype, vectors.device)
            kept = polar[-1][..., : degree - 1]
            parts.insert(0, first * z * kept - second * polar[-2])
        current = torch.cat(parts, -1)
        polar.append(current)
        negative = (current[..., 1:] * sin[..., 1 : degree + 1]).flip(-1)
        out += [negative, current * cos[..., : degree + 1]]
    return torch.cat(out, -1)


def wigner_d(lmax: int, rotations: Float[torch.Tensor, "*b 3 3"]) -> list[Float[torch.Tensor, "*b _ _"]]:
    """Matrices D_l(R) that turn the real spherical harmonics: S_l(R p) = D_l(R) S_l(p), l = 0 .. lmax.

    They are orthogonal and D_l(R Q) = D_l(R) D_l(Q). R = Rz(a) Ry(b) Rz(g), a turn about z is a 2 x 2
    rotation of each pair (m, -m), and Ry(b) = X Rz(b) X^T with the fixed X = Rx(-90) (Pinchon & Hoggan 2007).
    Exact at tilt 0 and 180; the gradient in R (first order only) goes through the generators and is finite
    everywhere.

    Args:
        lmax: largest degree, >= 0.
        rotations: ``(..., 3, 3)`` active rotation matrices.

    Returns:
        lmax + 1 tensors of shape ``(..., 2 l + 1, 2 l + 1)``, rows and columns m = -l .. l.

    Raises:
        ValueError: if lmax < 0 or rotations does not have shape ``(..., 3, 3)``.
    """
    if lmax < 0:
        raise ValueError(f"lmax must be at least 0; got {lmax}")
    angles, tangent = zyz_angles(rotations)
    dtype, device = rotations.dtype, rotations.device
    (ca, sa), (cb, sb), (cg, sg) = (turn_tables(lmax, angles[..., i], dtype) for i in range(3))
    out = []
    for degree, quarter in enumerate(_tilts(lmax)):
        k, side = slice(lmax - degree, lmax + degree + 1), 2 * degree + 1
        # columns of `quarter`: cos(m b) and sin(m b) parts of D(Ry(b)), all entries at once
        basis = torch.cat([cb[..., lmax : lmax + degree + 1], sb[..., lmax + 1 : lmax + degree + 1]], -1)
        middle = (basis @ quarter.to(device, dtype)).reshape(*basis.shape[:-1], side, side)
        middle = ca[..., k, None] * middle + sa[..., k, None] * middle.flip(-2)
        middle = cg[..., None, k] * middle - sg[..., None, k] * middle.flip(-1)
        if tangent is not None:
            basis = torch.stack(generators(lmax)[degree]).to(device, dtype)
            small = torch.einsum("...i,imn->...mn", tangent.to(dtype), basis)
            middle = middle + middle @ small
        out.append(middle)
    return out


def zyz_angles(
    rotations: Float[torch.Tensor, "*b 3 3"],
) -> tuple[Float[torch.Tensor, "*b 3"], Float[torch.Tensor, "*b 3"] | None]:
    """Angles (a, b, g) in radians, float64, of R = Rz(a) Ry(b) Rz(g), accurate for every tilt b in [0, pi].

    Near tilt 0 only a + g is well determined, near tilt pi only a - g; that one is taken from the in-plane
    entries.

    Returns:
        the angles, detached, and the rotation vector w of R0^T R about the detached R0 (all 0, but with a
        gradient), or None where rotations need no gradient: D(R) = D(R0) (1 + sum_i w_i G_i) to first order.

    Raises:
        ValueError: if rotations does not have shape ``(..., 3, 3)``.
    """
    if rotations.shape[-2:] != (3, 3):
        raise ValueError(f"rotations must have shape (..., 3, 3); got {tuple(rotations.shape)}")
    r = rotations.detach().double()
    first = torch.atan2(r[..., 1, 2], r[..., 0, 2])
    tilt = torch.atan2(torch.hypot(r[..., 0, 2], r[..., 1, 2]), r[..., 2, 2])
    total = torch.atan2(r[..., 1, 0] - r[..., 0, 1], r[..., 0, 0] + r[..., 1, 1])
    difference = torch.atan2(-r[..., 1, 0] - r[..., 0, 1], r[..., 1, 1] - r[..., 0, 0])
    last = torch.where(r[..., 2, 2] >= 0, total - first, first - difference)
    angles = torch.stack([first, tilt, last], -1)
    if not (torch.is_grad_enabled() and rotations.requires_grad):
        return angles, None
    small = rotations.detach().mT @ rotations
    skew = (small - small.mT) / 2
    return angles, torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1)


def turn_tables(
    lmax: int, angle: Float[torch.Tensor, "*b"], dtype: torch.dtype
) -> tuple[Float[torch.Tensor, "*b n"], Float[torch.Tensor, "*b n"]]:
    """cos(m t), -sin(m t), m = -lmax .. lmax, t in radians: D(Rz(t)) x = cos(m t) x_m - sin(m t) x_{-m}."""
    phase = angle[..., None] * torch.arange(lmax + 1, dtype=angle.dtype, device=angle.device)
    cos, sin = phase.cos().to(dtype), phase.sin().to(dtype)
    return torch.cat([cos[..., 1:].flip(-1), cos], -1), torch.cat([sin[..., 1:].flip(-1), -sin], -1)


@constants(32)
def quarter_turns(lmax: int) -> tuple[Float[torch.Tensor, "_ _"], ...]:
    """D_l(Rx(-90)), z axis to y axis, for l = 0 .. lmax, float64 on the CPU; do not write to them.

    By quadrature of S_l(X p) S_l(p)^T over the sphere.
    """
    points, weights = sphere_rule(2 * lmax + 1)
    x, y, z = points.unbind(-1)
    turned = spherical_harmonics(lmax, torch.stack([x, z, -y], -1))
    weighted = spherical_harmonics(lmax, points) * weights[:, None]
    blocks = [slice(n * n, (n + 1) ** 2) for n in range(lmax + 1)]
    return tuple(turned[:, b].mT @ weighted[:, b] for b in blocks)


def wigner(lmax: int, rotations: Float[torch.Tensor, "k 3 3"]) -> tuple[Float[torch.Tensor, "k _ _"], ...]:
    """D_l(R) of real harmonics, ``(k, 2 l + 1, 2 l + 1)`` for l = 0 .. lmax, float64; no gradient in the rotations.

    Rz(a) Ry(b) Rz(g) = Rz(a) X Rz(b) X^T Rz(g) with the quarter turn X = Rx(-90).
    """
    angles = zyz_angles(rotations.detach())[0]
    cos, sin = turn_tables(lmax, angles, torch.float64)
    out = []
    for degree, quarter in enumerate(quarter_turns(lmax)):
        part = slice(lmax - degree, lmax + degree + 1)
        turns = torch.diag_embed(cos[..., part]) + torch.diag_embed(sin[..., part]).flip(-1)
        x = quarter.to(turns)
        out.append(turns[:, 0] @ x @ turns[:, 1] @ x.mT @ turns[:, 2])
    return tuple(out)


@constants(32)
def generators(lmax: int) -> tuple[tuple[Float[torch.Tensor, "_ _"], ...], ...]:
    """G_x, G_y, G_z of every degree, float64 on the CPU: D_l(exp [w]x) = exp(w_x G_x + w_y G_y + w_z G_z)."""
    out = []
    for degree, quarter in enumerate(quarter_turns(lmax)):
        gz = torch.diag(-torch.arange(-degree, degree + 1, dtype=torch.float64)).flip(-1)
        gy = quarter @ gz @ quarter.mT
        out.append((gy @ gz - gz @ gy, gy, gz))
    return tuple(out)


@constants(32)
def _tilts(lmax: int) -> tuple[Float[torch.Tensor, "_ _"], ...]:
    """D_l(Ry(b)) = sum_m cos(m b) A_m - sin(m b) B_m: rows A_0 .. A_l, then B_1 .. B_l."""
    out = []
    for degree, quarter in enumerate(quarter_turns(lmax)):
        rows = []
        for order in range(degree + 1):
            up, down = quarter[:, degree + order], quarter[:, degree - order]
            term = torch.outer(up, up)
            rows.append(term if order == 0 else term + torch.outer(down, down))
        for order in range(1, degree + 1):
            up, down = quarter[:, degree + order], quarter[:, degree - order]
            rows.append(torch.outer(up, down) - torch.outer(down, up))
        out.append(torch.stack(rows).flatten(1))
    return tuple(out)


@constants(256)
def _legendre(
    degree: int, dtype: torch.dtype, device: torch.device
) -> tuple[Float[torch.Tensor, " n"], Float[torch.Tensor, " n"]]:
    m2 = torch.arange(degree - 1, dtype=torch.float64).square()
    n = float(degree)
    first = ((4 * n * n - 1) / (n * n - m2)).sqrt()
    second = ((2 * n + 1) * ((n - 1) ** 2 - m2) / ((2 * n - 3) * (n * n - m2))).sqrt()
    return first.to(device, dtype), second.to(device, dtype)


@lru_cache(maxsize=256)
def _zeros(order: int, count: int) -> tuple[float, ...]:
    import numpy as np
    from scipy.special import spherical_jn

    roots = math.pi * np.arange(1, order + count + 1)
    for degree in range(1, order + 1):
        low, high = roots[:-1].copy(), roots[1:].copy()
        sign = np.sign(spherical_jn(degree, low))
        for _ in range(40):
            middle = (low + high) / 2
            same = np.sign(spherical_jn(degree, middle)) == sign
            low, high = np.where(same, middle, low), np.where(same, high, middle)
        roots = (low + high) / 2
        for _ in range(2):
            roots = roots - spherical_jn(degree, roots) / spherical_jn(degree, roots, derivative=True)
    return tuple(float(value) for value in roots[:count])
