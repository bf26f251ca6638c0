"""Central slices of a volume's transform at any rotation, their slopes, and their adjoint, by Kaiser-Bessel gridding.

F_image(q) = F_V(R^T (q_x, q_y, 0)) on the points of a band. The volume is divided by the transform of the window,
zero-padded and transformed; a slice is read with four neighbours per axis (Jackson et al. 1991; window of Beatty,
Nishimura & Pauly 2005). The relative error is about 3e-4 at pad 2. On a CPU in float32 compiled loops serve, elsewhere
gathers; both take float32, the gathers float64 too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Complex, Float

from unpicked._lazy import torch
from unpicked.ops.evidence import compiled, share_out
from unpicked.ops.window import crop_or_pad

_TAPS, _DEGREE = 4, 6


@dataclass(frozen=True)
class Cube:
    """The part of a padded Fourier cube that the slices of a band touch.

    Attributes:
        box: edge N of the volume and of the images, in pixels.
        radius: largest |q| of a point, in Fourier pixels.
        pad: zero-padding.
        span: of what is transformed back, in boxes: 1 for volumes, 2 for the lags between two voxels.
    """

    box: int
    radius: float
    pad: int = 2
    span: int = 1

    def __post_init__(self) -> None:
        if self.box < 4:
            raise ValueError(f"box must be at least 4 voxels; got {self.box}")
        if not 0 < self.radius <= self.box / 2:
            raise ValueError(f"radius must lie between 0 and half the box, {self.box / 2}; got {self.radius}")
        if not self.pad > self.span >= 1:
            raise ValueError(f"pad must be larger than span, {self.span}; got {self.pad}")

    @property
    def half(self) -> int:
        """Largest |k| that is kept along an axis."""
        return math.ceil(self.pad * self.radius) + 2

    @property
    def size(self) -> int:
        """Edge of the whole padded cube."""
        return self.pad * self.box

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the kept half: k_z, k_y in -half .. half and k_x in -1 .. half + 1."""
        return 2 * self.half + 1, 2 * self.half + 1, self.half + 3

    @cached_property
    def tables(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Polynomials of the window and of its slope, one row per neighbour, highest power first."""
        return _polynomials(_beta(self.pad / self.span))

    def window(self, box: int, like: torch.Tensor) -> torch.Tensor:
        """Transform of the window along an axis of ``box`` voxels, by which values are divided."""
        beta = _beta(self.pad / self.span)
        xi = (torch.arange(box, device=like.device, dtype=torch.float64) - box // 2) / self.size
        root = (beta**2 - (math.pi * _TAPS * xi).square()).sqrt()
        return (_TAPS * root.sinh() / root / float(np.i0(beta))).to(like.dtype)


def spectrum(volume: Float[torch.Tensor, "n n n"], cube: Cube) -> Float[torch.Tensor, "z y x 2"]:
    """The kept half of the padded transform of a volume, divided by N, ready to be read.

    Raises:
        ValueError: if the volume is not a cube of the stated box.
    """
    if tuple(volume.shape) != (cube.box,) * 3:
        raise ValueError(f"volume must be {(cube.box,) * 3}; got {tuple(volume.shape)}")
    even = volume / _outer(cube.window(cube.box, volume))
    padded = crop_or_pad(even, (cube.size,) * 3)
    half = torch.fft.rfftn(torch.fft.ifftshift(padded), dim=(0, 1, 2)) / cube.box
    k = torch.arange(-cube.half, cube.half + 1, device=volume.device) % cube.size
    columns = torch.arange(cube.half + 1, device=volume.device)
    kept = half.new_zeros(cube.shape)
    inside = columns[columns <= cube.size // 2]
    kept[:, :, 1 : 1 + len(inside)] = half[k[:, None, None], k[None, :, None], inside]
    back = (-k) % cube.size  # k_x = -1 from k_x = 1
    kept[:, :, 0] = half[back[:, None], back[None, :], 1].conj()
    return torch.view_as_real(kept).contiguous()


def read(
    cube: Cube, values: Float[torch.Tensor, "z y x 2"], rotations: Float[torch.Tensor, "n 3 3"], points: torch.Tensor
) -> Complex[torch.Tensor, "n p"]:
    """Slices of a spectrum at the points ``(p, 2)`` (q_x, q_y) of a band, one per rotation.

    Raises:
        ValueError: for shapes that do not fit.
    """
    turned, places = _prepared(cube, values.shape, rotations, points, values)
    if not compiled(values):
        return _gathered(cube, values, turned, places)[0]
    from unpicked.ops import _gridding

    out = torch.empty(len(turned), len(places), 2)
    arrays = values.numpy(), turned.numpy(), places.numpy(), out.numpy()

    def work(first: int, last: int) -> None:
        _gridding.read(arrays[0], arrays[1][first:last], arrays[2], cube.tables[0], arrays[3][first:last])

    share_out(work, len(turned), values)
    return torch.view_as_complex(out)


def read_with_slopes(
    cube: Cube, values: Float[torch.Tensor, "z y x 2"], rotations: Float[torch.Tensor, "n 3 3"], points: torch.Tensor
) -> tuple[Complex[torch.Tensor, "n p"], Complex[torch.Tensor, "n 3 p"]]:
    """Slices, and their derivatives with respect to w at 0 where R is replaced by exp([w]x) R (radians)."""
    turned, places = _prepared(cube, values.shape, rotations, points, values)
    if not compiled(values):
        found, gradient = _gathered(cube, values, turned, places, slopes=True)
        a, b = places.unbind(1)
        r0, r1, r2 = turned.unbind(1)
        along = torch.einsum("nkp,nk->np", gradient, r2.to(gradient))
        r0p, r1p = (torch.einsum("nkp,nk->np", gradient, r.to(gradient)) for r in (r0, r1))
        return found, torch.stack([-b * along, a * along, b * r0p - a * r1p], 1)
    from unpicked.ops import _gridding

    out, slopes = torch.empty(len(turned), len(places), 2), torch.empty(len(turned), 3, len(places), 2)
    arrays = values.numpy(), turned.numpy(), places.numpy(), out.numpy(), slopes.numpy()

    def work(first: int, last: int) -> None:
        part = slice(first, last)
        _gridding.read_with_slopes(
            arrays[0], arrays[1][part], arrays[2], *cube.tables, arrays[3][part], arrays[4][part]
        )

    share_out(work, len(turned), values)
    return torch.view_as_complex(out), torch.view_as_complex(slopes)


def insert(
    cube: Cube, values: torch.Tensor, rotations: Float[torch.Tensor, "n 3 3"], points: torch.Tensor
) -> Float[torch.Tensor, "z y x *c"]:
    """Add values ``(n, p)`` of slices into a cube of zeros: complex ones to ``(z, y, x, 2)``, real ones to (z, y, x).

    Together with :func:`backprojected` it is the adjoint of ``read(spectrum(volume))`` over the whole plane.

    Raises:
        ValueError: for shapes that do not fit.
    """
    turned, places = _prepared(cube, None, rotations, points, values.real if values.is_complex() else values)
    if tuple(values.shape) != (len(turned), len(places)):
        raise ValueError(f"values must be {(len(turned), len(places))}; got {tuple(values.shape)}")
    pairs = torch.view_as_real(values.contiguous()) if values.is_complex() else values.contiguous()
    shape = (*cube.shape, 2) if values.is_complex() else cube.shape
    if not compiled(pairs):
        return _scattered(cube, values, turned, places)
    from unpicked.ops import _gridding

    arrays = pairs.numpy(), turned.numpy(), places.numpy()
    loop = _gridding.add if values.is_complex() else _gridding.add_real

    def work(first: int, last: int) -> torch.Tensor:
        part = torch.zeros(shape)
        loop(arrays[0][first:last], arrays[1][first:last], arrays[2], cube.tables[0], part.numpy())
        return part

    total, *others = share_out(work, len(turned), pairs)
    for other in others:
        total += other
    return total


def backprojected(cube: Cube, values: torch.Tensor) -> Float[torch.Tensor, "m m m"]:
    """A cube of inserted values as a volume of edge ``span`` x N: the adjoint of :func:`spectrum`.

    The points of the other half of the plane are counted, too: they hold the conjugates.
    """
    full = torch.view_as_complex(values) if values.shape[-1] == 2 and values.dim() == 4 else values + 0j
    size, device = cube.size, values.device
    k = torch.arange(-cube.half, cube.half + 1, device=device) % size
    half = full.new_zeros((size, size, size // 2 + 1))
    columns = min(cube.half + 1, size // 2) + 1
    wide = full.new_zeros((size, 2 * cube.half + 1, full.shape[2])).index_add_(0, k, full)
    wide = wide.new_zeros((size, size, full.shape[2])).index_add_(1, k, wide)
    half[:, :, :columns] = wide[:, :, 1 : 1 + columns]
    back = (-torch.arange(size, device=device)) % size
    half[:, :, 1] += wide[back][:, back, 0].conj()
    half[:, :, 0] += half[back][:, back, 0].conj()
    if size % 2 == 0 and columns > size // 2:
        half[:, :, size // 2] += half[back][:, back, size // 2].conj()
    whole = torch.fft.fftshift(torch.fft.irfftn(half, s=(size,) * 3, norm="forward")) / cube.box
    edge = cube.span * cube.box
    return crop_or_pad(whole, (edge,) * 3) / _outer(cube.window(edge, whole))


def normal_kernel(cube: Cube, weights: torch.Tensor) -> Float[torch.Tensor, "m m k"]:
    """Transform of the kernel of v -> B^T W B v, B the slices on the whole plane, from inserted weights (z, y, x).

    A product of B and its adjoint depends on the lag of two voxels only: applying it costs two transforms of edge 2 N,
    whatever the number of slices.

    Raises:
        ValueError: for a cube that does not span the lags.
    """
    if cube.span != 2:
        raise ValueError(f"a kernel needs a cube that spans 2 boxes; got span {cube.span}")
    lags = backprojected(cube, weights) / cube.box
    return torch.fft.rfftn(torch.fft.ifftshift(lags)).real.contiguous()


def apply_normal(kernel: torch.Tensor, volume: Float[torch.Tensor, "n n n"]) -> Float[torch.Tensor, "n n n"]:
    """B^T W B of a volume, from :func:`normal_kernel`."""
    box = volume.shape[-1]
    transform = torch.fft.rfftn(volume, s=(2 * box,) * 3)
    return torch.fft.irfftn(transform * kernel, s=(2 * box,) * 3)[:box, :box, :box]


def _prepared(
    cube: Cube, shape: torch.Size | None, rotations: torch.Tensor, points: torch.Tensor, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    if rotations.dim() != 3 or tuple(rotations.shape[1:]) != (3, 3):
        raise ValueError(f"rotations must be (n, 3, 3); got {tuple(rotations.shape)}")
    if points.dim() != 2 or points.shape[1] != 2:
        raise ValueError(f"points must be (p, 2); got {tuple(points.shape)}")
    if shape is not None and tuple(shape) != (*cube.shape, 2):
        raise ValueError(f"values must be {(*cube.shape, 2)} as the cube says; got {tuple(shape)}")
    if len(points) and float(points.double().square().sum(1).max()) > cube.radius**2 * (1 + 1e-9):
        raise ValueError(f"points must lie within |q| <= {cube.radius}; got {float(points.double().norm(dim=1).max())}")
    dtype = torch.float32 if like.dtype in (torch.float32, torch.complex64) else torch.float64
    turned = rotations.to(like.device, dtype).contiguous()
    return turned, (points.to(like.device, dtype) * cube.pad).contiguous()


def _neighbours(
    cube: Cube, rotations: torch.Tensor, points: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Whole parts and fractions ``(n, p, 3)`` (x, y, z) of the points, and which of them are read as conjugates."""
    p = points[:, :1] * rotations[:, None, 0] + points[:, 1:] * rotations[:, None, 1]
    back = p[..., 0] < 0
    p = torch.where(back[..., None], -p, p)
    low = p.floor()
    return low.long(), p - low, back


def _gathered(
    cube: Cube, values: torch.Tensor, rotations: torch.Tensor, points: torch.Tensor, *, slopes: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Slices and, if asked for, their gradients (n, 3, p) with respect to the points' places."""
    low, fraction, back = _neighbours(cube, rotations, points)
    flat = torch.view_as_complex(values.contiguous()).flatten()
    weight = [_polynomial(cube.tables[0], fraction[..., axis]) for axis in range(3)]
    slope = [_polynomial(cube.tables[1], fraction[..., axis]) for axis in range(3)] if slopes else weight
    out = flat.new_zeros(back.shape)
    gradient = flat.new_zeros((len(back), 3, back.shape[1])) if slopes else out
    for u, v, t in product(range(_TAPS), repeat=3):
        index = _flat(cube, low, u, v, t)
        found = flat[index]
        out = out + (weight[2][u] * weight[1][v] * weight[0][t]) * found
        if slopes:
            gradient[:, 0] += (weight[2][u] * weight[1][v] * slope[0][t]) * found
            gradient[:, 1] += (weight[2][u] * slope[1][v] * weight[0][t]) * found
            gradient[:, 2] += (slope[2][u] * weight[1][v] * weight[0][t]) * found
    if slopes:
        gradient = torch.where(back[:, None], -gradient.conj(), gradient)
    return torch.where(back, out.conj(), out), gradient


def _scattered(cube: Cube, values: torch.Tensor, rotations: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    low, fraction, back = _neighbours(cube, rotations, points)
    weight = [_polynomial(cube.tables[0], fraction[..., axis]) for axis in range(3)]
    turned = torch.where(back, values.conj(), values) if values.is_complex() else values
    flat = turned.new_zeros(math.prod(cube.shape))
    for u, v, t in product(range(_TAPS), repeat=3):
        index = _flat(cube, low, u, v, t)
        flat.index_add_(0, index.flatten(), (weight[2][u] * weight[1][v] * weight[0][t] * turned).flatten())
    out = flat.unflatten(0, cube.shape)
    return torch.view_as_real(out) if out.is_complex() else out


def _flat(cube: Cube, low: torch.Tensor, u: int, v: int, t: int) -> torch.Tensor:
    z, y, x = low[..., 2] - 1 + u + cube.half, low[..., 1] - 1 + v + cube.half, low[..., 0] + t
    return (z * cube.shape[1] + y) * cube.shape[2] + x


def _polynomial(table: np.ndarray[Any, Any], fraction: torch.Tensor) -> list[torch.Tensor]:
    out = []
    for row in table:
        value = torch.full_like(fraction, float(row[0]))
        for coefficient in row[1:]:
            value = value * fraction + float(coefficient)
        out.append(value)
    return out


def _outer(axis: torch.Tensor) -> torch.Tensor:
    return axis[:, None, None] * axis[None, :, None] * axis[None, None, :]


def _beta(oversampling: float) -> float:
    """Shape of the window that aliases least (Beatty, Nishimura & Pauly 2005, eq. 5)."""
    return math.pi * math.sqrt((_TAPS / oversampling * (oversampling - 0.5)) ** 2 - 0.8)


@lru_cache
def _polynomials(beta: float) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Window I_0(beta sqrt(1 - (u / 2)^2)) / I_0(beta) at the neighbours -1, 0, 1, 2 of a fraction, as polynomials."""
    nodes = 0.5 - 0.5 * np.cos(np.pi * (np.arange(64) + 0.5) / 64)
    table, slope = np.zeros((_TAPS, _DEGREE + 1)), np.zeros((_TAPS, _DEGREE))
    for tap in range(_TAPS):
        u = nodes + 1 - tap
        values = np.i0(beta * np.sqrt(np.clip(1 - (u / 2) ** 2, 0, None))) / np.i0(beta)
        series = np.polynomial.Chebyshev.fit(nodes, values, _DEGREE, domain=[0, 1])
        plain = series.convert(kind=np.polynomial.Polynomial).coef
        table[tap] = plain[::-1]
        slope[tap] = np.polynomial.polynomial.polyder(plain)[::-1]
    return table.astype(np.float32), slope.astype(np.float32)
