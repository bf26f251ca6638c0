"""Disk: band-limited images in Bessel functions and circular harmonics, which turn exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from jaxtyping import Float, Int

from unpicked._lazy import torch
from unpicked.objects.base import Projector
from unpicked.ops import special

_CUTOFF = 0.5  # cycles per pixel


@dataclass(frozen=True)
class Disk:
    """Images V(p) = sum x f_ns(|p|) e_n(arg p), band-limited to |k| <= c = 1/2 cycle per pixel.

    The Fourier transform of a basis function is N J_n(u_ns |k| / c) e_n(arg k) inside the disk of radius c, and 0
    outside: u_ns is the s-th zero of J_n, and e_n is 1, cos(n a) or sin(n a), normalised on the circle. The
    functions are orthonormal in the plane, in pixel units, and f_ns = 2 pi N c^2 u J_{n+1}(u) J_n(v) / (u^2 - v^2),
    v = 2 pi c |p| (Lommel's integral). Kept are all (n, s) with u_ns < 2 pi c reach: f_ns peaks at
    |p| = u_ns / (2 pi c). Side 9 has 34 coefficients (Zhao & Singer 2013; Kreymer & Bendory 2022).

    A rotation acts exactly: it mixes the cosine and the sine of one order. Coefficients run over n, then s, then
    cosine before sine; see :attr:`index`.

    Attributes:
        side: edge of the square in pixels, >= 3, even or odd.
        reach: radius in pixels up to which the basis is complete; None means floor(side / 2).
        orders: largest order n; None means all that the reach admits.

    Raises:
        ValueError: if side < 3, for negative orders, or a reach that the pixels cannot tell.
    """

    side: int
    reach: float | None = None
    orders: int | None = None

    def __post_init__(self) -> None:
        if self.side < 3:
            raise ValueError(f"side must be at least 3 pixels; got {self.side}")
        if self.orders is not None and self.orders < 0:
            raise ValueError(f"orders must not be negative; got {self.orders}")
        if self.reach is not None and not 1 <= self.reach <= (self.side + 1) / 2:
            raise ValueError(
                f"reach must lie between 1 and {(self.side + 1) / 2:g} pixels, beyond which {self.side} x {self.side} "
                f"pixels hardly determine the coefficients; got {self.reach}"
            )

    @property
    def _key(self) -> tuple[int, float, int]:
        reach = float(self.side // 2 if self.reach is None else self.reach)
        return self.side, reach, 10**6 if self.orders is None else self.orders

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the values, yx."""
        return (self.side, self.side)

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return len(_rows(*self._key[1:]))

    @property
    def index(self) -> Int[torch.Tensor, "n 2"]:
        """Order n (positive: cosine, negative: sine) and radial number s (from 1) of every coefficient."""
        return torch.tensor([(order, number) for order, number, _ in _rows(*self._key[1:])])

    def values(self, x: Float[torch.Tensor, "*b n"]) -> Float[torch.Tensor, "*b l l"]:
        """Image on the pixels, ``(..., side, side)`` yx, of coefficients ``(..., size)``.

        Raises:
            ValueError: if the last axis of x is not ``size``.
        """
        self._check(x)
        return (x @ _grid(*self._key, x.dtype, x.device)).unflatten(-1, self.shape)

    def fit(self, values: Float[torch.Tensor, "*b l l"]) -> Float[torch.Tensor, "*b n"]:
        """Least-squares coefficients of an image (pseudo-inverse of :meth:`values`), ``(..., size)``.

        Raises:
            ValueError: if the last two axes are not ``(side, side)``.
        """
        if tuple(values.shape[-2:]) != self.shape:
            raise ValueError(f"values must end in shape {self.shape}; got {tuple(values.shape)}")
        return values.flatten(-2) @ _inverse(*self._key, values.dtype, values.device)

    def evaluate(
        self, x: Float[torch.Tensor, "*b n"], points: Float[torch.Tensor, "p 2"]
    ) -> Float[torch.Tensor, "*b p"]:
        """Image at any points ``(p, 2)``, x y in pixels from the centre, in closed form.

        Raises:
            ValueError: if the last axis of x is not ``size`` or points is not ``(p, 2)``.
        """
        self._check(x)
        if points.dim() != 2 or points.shape[-1] != 2:
            raise ValueError(f"points must have shape (p, 2), x y in pixels; got {tuple(points.shape)}")
        return x @ _basis(_rows(*self._key[1:]), points.detach().double().cpu()).to(x)

    def rotate(self, x: Float[torch.Tensor, "*b n"], angles: Float[torch.Tensor, "*c"]) -> Float[torch.Tensor, "*d n"]:
        """Coefficients of the image turned by angles in radians, V'(p) = V(R^T p), from +x towards +y, exactly.

        Args:
            x: ``(..., size)`` coefficients.
            angles: broadcasts with the leading axes of x.

        Raises:
            ValueError: if the last axis of x is not ``size``.
        """
        self._check(x)
        cosine, sine, partner = _turns(*self._key[1:], angles.to(x))
        return x * cosine + x[..., partner] * sine

    def rotator(self, angles: Float[torch.Tensor, " k"]) -> Projector:
        """The image turned by every angle, on the pixels, with the exact adjoint.

        Raises:
            ValueError: if angles is not ``(k,)``.
        """
        if angles.dim() != 1:
            raise ValueError(f"angles must be (k,), in radians; got {tuple(angles.shape)}")
        count, turns = len(angles), _turns(*self._key[1:], angles.double())

        def project(x: torch.Tensor) -> torch.Tensor:
            self._check(x)
            cosine, sine = (part.to(x) for part in turns[:2])
            some = x[..., None, :]
            return self.values(some * cosine + some[..., turns[2]] * sine)

        def backproject(images: torch.Tensor) -> torch.Tensor:
            if tuple(images.shape[-3:]) != (count, *self.shape):
                raise ValueError(
                    f"images must end in shape ({count}, {self.side}, {self.side}); got {tuple(images.shape)}"
                )
            cosine, sine = (part.to(images) for part in turns[:2])
            seen = images.flatten(-2) @ _grid(*self._key, images.dtype, images.device).mT
            # the transpose of a turn: the sine's sign is odd between partners, which trade places
            return (seen * cosine + (seen * sine)[..., turns[2]]).sum(-2)

        return Projector(project, backproject)

    def _check(self, x: torch.Tensor) -> None:
        if x.shape[-1:] != (self.size,):
            raise ValueError(f"x must end in shape ({self.size},); got {tuple(x.shape)}")


@lru_cache(maxsize=64)
def _rows(reach: float, orders: int) -> tuple[tuple[int, int, float], ...]:
    """Signed order, radial number and zero u of every coefficient."""
    from scipy.special import jn_zeros

    limit, out = 2 * math.pi * _CUTOFF * reach, []
    for order in range(orders + 1):
        zeros = [float(zero) for zero in jn_zeros(order, 2 + int(limit / math.pi)) if zero < limit]
        if not zeros:
            break
        for number, zero in enumerate(zeros, 1):
            out += [(order, number, zero)] if order == 0 else [(order, number, zero), (-order, number, zero)]
    return tuple(out)


def _basis(rows: tuple[tuple[int, int, float], ...], points: torch.Tensor) -> torch.Tensor:
    """Basis functions (n, p) at points (p, 2)."""
    from scipy.special import jv

    radius, angle = points.norm(dim=-1), torch.atan2(points[:, 1], points[:, 0])
    v = 2 * math.pi * _CUTOFF * radius
    out = []
    for order, _, zero in rows:
        n = abs(order)
        slope = float(jv(n + 1, zero))
        gap = zero**2 - v.square()
        close = gap.abs() < 1e-6 * zero**2
        bessel = torch.as_tensor(jv(n, v.numpy()))
        # where v = u, J_n(v) / (u^2 - v^2) is J_{n+1}(u) / (2 u)
        radial = torch.where(close, slope / (2 * zero), bessel / torch.where(close, 1.0, gap))
        scale = math.sqrt(2) / (_CUTOFF * abs(slope)) * 2 * math.pi * _CUTOFF**2 * zero * slope
        around = torch.cos(n * angle) if order >= 0 else torch.sin(n * angle)
        out.append(scale * radial * around / math.sqrt(math.pi if n else 2 * math.pi))
    return torch.stack(out)


def _turns(reach: float, orders: int, angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cosine and signed sine ``(..., size)`` of every coefficient's turn, and the position of its partner."""
    order = torch.tensor([row[0] for row in _rows(reach, orders)], device=angles.device)
    partner = torch.arange(len(order), device=angles.device) + order.sign()
    phase = angles[..., None] * order.abs()
    return phase.cos(), -order.sign() * phase.sin(), partner


@special.constants(16)
def _grid64(side: int, reach: float, orders: int) -> torch.Tensor:
    line = torch.arange(side, dtype=torch.float64) - side // 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    return _basis(_rows(reach, orders), torch.stack([x, y], -1).reshape(-1, 2))


@special.constants(32)
def _grid(side: int, reach: float, orders: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return _grid64(side, reach, orders).to(device, dtype)


@special.constants(32)
def _inverse(side: int, reach: float, orders: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    inverse: torch.Tensor = torch.linalg.pinv(_grid64(side, reach, orders))
    return inverse.to(device, dtype)
