"""Moments of images, averaged over rotations in the plane: steerable filters instead of all pairs of lags.

With disc functions psi_Nq(l) = R_Nq(|l|) e^{i N arg l} on the lags |l| <= L - 1, orthonormal on the pixels for each N,
and c_Nq(p) = sum_l y[p + l] conj(psi_Nq(l)), the moments are m1 = mean y, m2[q] = mean y c_0q and
m3[N][q, q'] = mean y conj(c_Nq) c_Nq', N >= 0: what remains of the third moment when the image is turned by all
angles (Bendory et al., arXiv 1810.00226; Kreymer & Bendory 2022). A moment vector stacks m1, m2 and, for each N, the
real parts of m3[N] with q >= q', then the imaginary parts with q > q'. Where the background is not known, the moments
are about the mean, and mean conj(c_Nq) c_Nq' stands behind them, in the same order: it tells what a background changes.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from jaxtyping import Float, Shaped

from unpicked._lazy import torch
from unpicked.ops import special

TILE = 256  # pixels along a tile that is filtered at once, halo included
PARTS = 4  # a tile has so many parts along each edge, whose sums are kept apart


class Discs(NamedTuple):
    """Disc functions of one radius.

    Attributes:
        values: ``(n, D, D)`` complex128, D = 2 radius + 1, lag (y, x) = (0, 0) in the middle.
        orders: N of each, rising from 0.
    """

    values: torch.Tensor
    orders: tuple[int, ...]

    @property
    def radius(self) -> int:
        """Largest lag."""
        return self.values.shape[-1] // 2

    @property
    def groups(self) -> list[slice]:
        """The functions of N = 0, 1, ..."""
        firsts = [index for index, order in enumerate(self.orders) if index == 0 or order != self.orders[index - 1]]
        return [slice(first, last) for first, last in zip(firsts, [*firsts[1:], len(self.orders)], strict=True)]

    @property
    def size(self) -> int:
        """Number of moments."""
        return 1 + self.groups[0].stop + self.third

    @property
    def third(self) -> int:
        """Number of moments of the third order."""
        sizes = [group.stop - group.start for group in self.groups]
        return sum(size**2 if order else size * (size + 1) // 2 for order, size in enumerate(sizes))


@special.constants(8)
def discs(radius: int, band: float = 0.8) -> Discs:
    """Fourier-Bessel functions on a disc of lags, orthonormal on the pixels for each order.

    Kept are J_N(u r / R), R = radius + 1/2, whose zeros u lie below ``band`` times the Nyquist frequency's, pi R.

    Args:
        radius: largest lag in pixels.
        band: share of the frequencies.

    Raises:
        ValueError: for radius < 1, or a band outside of (0, 1].
    """
    from scipy.special import jn_zeros, jv

    if radius < 1:
        raise ValueError(f"radius must be at least 1 pixel; got {radius}")
    if not 0 < band <= 1:
        raise ValueError(f"band must be a share of the frequencies between 0 and 1; got {band}")
    line = torch.arange(-radius, radius + 1, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    r, angle = (x.square() + y.square()).sqrt(), torch.atan2(y, x)
    inside, edge = r <= radius, radius + 0.5
    limit, values, orders = band * math.pi * edge, [], []
    for order in range(int(limit) + 1):
        zeros = [u for u in jn_zeros(order, 2 + int(limit / math.pi)) if u < limit]
        if not zeros and order:
            break
        radial = torch.stack([torch.as_tensor(jv(order, u * r.numpy() / edge)) for u in zeros]) * inside
        raw = (radial * torch.exp(1j * order * angle)).flatten(1)
        basis, triangle = torch.linalg.qr(raw.mT)
        kept = triangle.diagonal().abs() > 1e-3 * triangle.diagonal().abs().max()
        values.append(basis.mT[kept].unflatten(-1, r.shape))
        orders += [order] * int(kept.sum())
    return Discs(torch.cat(values), tuple(orders))


def steerable_sums(
    image: Float[torch.Tensor, "h w"], functions: Discs, *, pairs: bool = False
) -> Float[torch.Tensor, "t s"]:
    """Sums over the pixels whose disc of lags is inside: a row per part of count, m1, m2 and m3; float64.

    Images that overlap by twice the radius give the sums of the whole.

    Args:
        image: ``(h, w)`` float32 or float64; products have its precision.
        functions: of :func:`discs`.
        pairs: sum conj(c_Nq) c_Nq' as well, behind the others.

    Returns:
        ``(rows, 1 + s)``, at least one row; a row stands for a part of a tile, about (TILE / 4)^2 pixels.
    """
    radius = functions.radius
    step = TILE - 2 * radius
    if step < 1:
        raise ValueError(f"radius must be below {TILE // 2} pixels; got {radius}")
    height, width = (max(0, size - 2 * radius) for size in image.shape)
    spectra = _spectra(radius, functions, image.dtype, image.device)
    rows = []
    for top in range(0, height if width else 0, step):
        for left in range(0, width, step):
            tile = image[top : top + TILE, left : left + TILE]
            rows.append(_tile_sums(tile, functions, spectra, pairs))
    if not rows:
        size = 1 + functions.size + pairs * functions.third
        return torch.zeros(1, size, dtype=torch.float64, device=image.device)
    return torch.cat(rows)


def steerable_noise(
    functions: Discs, sigma: float | torch.Tensor, mean: float | torch.Tensor
) -> Float[torch.Tensor, " s"]:
    """What white noise adds to the moments of an image of this mean: the bias, ``(s,)``.

    sigma^2 psi_0q(0) in m2; sigma^2 mean (delta_qq' + [N = 0] (u_q s_q' + s_q u_q')) in m3, u = psi_0q(0),
    s = sum of psi_0q.
    """
    second, third = _noise_pattern(functions)
    return torch.cat([torch.zeros(1, dtype=torch.float64), sigma**2 * second, sigma**2 * mean * third])


@lru_cache(maxsize=8)
def steerable_covariance(functions: Discs) -> Float[torch.Tensor, "s s"]:
    """Covariance of the moments of white noise of variance 1 times the number of base points, ``(s, s)``.

    That of full lags is known: a product y[p] y[p + l1] y[p + l2] equals those of its six changes of base point and
    order. It is carried through the disc functions, lag by lag.
    """
    second, third = _noise_pattern(functions)
    count = functions.size
    out = torch.zeros(count, count, dtype=torch.float64)
    out[0, 0] = 1
    first = slice(1, 1 + len(second))
    # m2: lag 0 counts once with variance 2, the others have a partner at -l
    zero = functions.values[functions.groups[0]].real
    radius = functions.radius
    back = torch.arange(2 * radius, -1, -1)
    partner = zero[:, back][:, :, back]
    out[first, first] = zero.flatten(1) @ (zero + partner).flatten(1).mT
    rest = slice(1 + len(second), count)
    out[rest, rest] = _cubic(functions) + torch.outer(third, third)
    out[0, rest] = out[rest, 0] = third
    return (out + out.mT) / 2


def _tile_sums(tile: torch.Tensor, functions: Discs, spectra: torch.Tensor, pairs: bool) -> torch.Tensor:
    """Moments of the parts of one tile, whose border of the radius is halo."""
    radius = functions.radius
    rows, columns = (size - 2 * radius for size in tile.shape)
    edge = -(-(TILE - 2 * radius) // PARTS)
    down, across = -(-rows // edge), -(-columns // edge)
    spectrum = torch.fft.fft2(torch.nn.functional.pad(tile, (0, TILE - tile.shape[1], 0, TILE - tile.shape[0])))

    def parts(values: torch.Tensor) -> torch.Tensor:
        """``(n, rows, columns)`` to ``(parts, n, pixels)``, zeros where a part is cut off."""
        whole = torch.nn.functional.pad(values, (0, across * edge - columns, 0, down * edge - rows))
        cut = whole.unflatten(-1, (across, edge)).unflatten(-3, (down, edge))  # (n, down, edge, across, edge)
        return cut.movedim(-2, -4).flatten(-4, -3).flatten(-2).movedim(-2, 0)

    inner = tile[radius : radius + rows, radius : radius + columns]
    y = parts(inner[None])
    sizes = parts(torch.ones_like(inner)[None]).sum((1, 2))
    out, third = [sizes[:, None].double(), y.double().sum((1, 2))[:, None]], []
    inside, second = parts(torch.ones_like(inner)[None]), list[torch.Tensor]()
    for order, group in enumerate(functions.groups):
        filtered = torch.fft.ifft2(spectrum * spectra[group])[:, radius : radius + rows, radius : radius + columns]
        c = parts(filtered)
        if order == 0:
            out.append((c.real * y).sum(-1).double())
        third.append(_packed((c.conj() * y) @ c.mT, order).double())
        if pairs:
            second.append(_packed((c.conj() * inside) @ c.mT, order).double())
    return torch.cat([*out, *third, *second], 1)


def about(
    moments: Float[torch.Tensor, " s"], functions: Discs, background: Float[torch.Tensor, " b"]
) -> tuple[Float[torch.Tensor, "b s"], Float[torch.Tensor, "b s"]]:
    """What moments of an image of mean 0 gain when a background is added to it, and the slope by the background.

    Functions of orders 4, 8, .. do not quite sum to zero over square pixels; that is left out.

    Args:
        moments: with the pairs behind them; the mean of the image is taken to be 0.
        functions: of the moments.
        background: constants that are added.
    """
    size, zero = functions.size, functions.groups[0]
    second, pairs = moments[1 : 1 + zero.stop], moments[size:]
    total = functions.values[zero].real.sum((-2, -1))
    linear = torch.zeros_like(moments[:size])
    linear[0] = 1
    linear[1 + zero.stop :] = pairs
    first = slice(1 + zero.stop, 1 + zero.stop + zero.stop * (zero.stop + 1) // 2)
    cross = torch.outer(total, second)
    linear[first] += _packed(cross + cross.mT, 0)
    square, cube = torch.zeros_like(linear), torch.zeros_like(linear)
    square[1 : 1 + zero.stop] = total
    cube[first] = _packed(torch.outer(total, total), 0)
    b = background[:, None]
    return b * linear + b.square() * square + b**3 * cube, linear + 2 * b * square + 3 * b.square() * cube


@special.constants(8)
def _spectra(radius: int, functions: Discs, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Transfer functions of the correlations with conj(psi), ``(n, TILE, TILE)``."""
    size = 2 * radius + 1
    padded = torch.nn.functional.pad(functions.values.conj(), (0, TILE - size, 0, TILE - size))
    centred = torch.roll(padded, (-radius, -radius), (-2, -1))
    # sum_l y[p + l] f(l) has the transform Y(k) conj(F*(k)) with F* that of conj(f)
    kind = torch.complex64 if dtype == torch.float32 else torch.complex128
    return torch.fft.fft2(centred.conj()).conj().to(device, kind)


def _packed(matrix: Shaped[torch.Tensor, "*b q q"], order: int) -> Float[torch.Tensor, "*b e"]:
    """Entries of m3[N]: real parts of q >= q', imaginary ones of q > q'."""
    size = matrix.shape[-1]
    a, b = torch.tril_indices(size, size, device=matrix.device)
    real = matrix.real[..., a, b]
    if order == 0:
        return real
    a, b = torch.tril_indices(size, size, -1, device=matrix.device)
    return torch.cat([real, matrix.imag[..., a, b]], -1)


@lru_cache(maxsize=8)
def _noise_pattern(functions: Discs) -> tuple[torch.Tensor, torch.Tensor]:
    """Bias of m2 and m3 for unit variance and mean."""
    radius = functions.radius
    zero = functions.values[functions.groups[0]].real
    at, total = zero[:, radius, radius], zero.sum((-2, -1))
    third = []
    for order, group in enumerate(functions.groups):
        gram = functions.values[group].flatten(1)
        matrix = gram @ gram.conj().mT  # the identity
        if order == 0:
            matrix = matrix + torch.outer(at, total) + torch.outer(total, at)
        third.append(_packed(matrix, order))
    return at, torch.cat(third)


def _cubic(functions: Discs) -> torch.Tensor:
    """Sum over all pairs of lags of K_i times K_j at the six lag pairs of the same product; Wick-ordered part."""
    radius = functions.radius
    size = 2 * radius + 1
    flat = functions.values.flatten(1)
    inside = (flat[0].abs() > 0).nonzero()[:, 0]
    lags = torch.stack([inside // size - radius, inside % size - radius], 1)  # (n, 2)
    table = torch.zeros(flat.shape[0], (4 * radius + 1) ** 2, dtype=torch.complex128)
    wide = 4 * radius + 1

    def place(lag: torch.Tensor) -> torch.Tensor:
        return (lag[..., 0] + 2 * radius) * wide + lag[..., 1] + 2 * radius

    table[:, place(lags)] = flat[:, inside]
    total = torch.zeros(functions.third, functions.third, dtype=torch.float64)
    for some in lags.split(32):
        one = some.repeat_interleave(len(lags), 0)
        two = lags.repeat(len(some), 1)
        direct = _kernels(functions, table[:, place(one)], table[:, place(two)])
        sixfold = direct.clone()
        for first, second in ((two, one), (-one, two - one), (two - one, -one), (-two, one - two), (one - two, -two)):
            sixfold += _kernels(functions, table[:, place(first)], table[:, place(second)])
        total += direct @ sixfold.mT
    return (total + total.mT) / 2


def _kernels(functions: Discs, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """K_i(l1, l2) of y[p] y[p + l1] y[p + l2] in the third moments, ``(m, pairs)``: psi_q(l1) conj(psi_q'(l2))."""
    parts = []
    for order, group in enumerate(functions.groups):
        product = first[group][:, None] * second[group].conj()[None]  # (q, q', pairs)
        parts.append(_packed(product.movedim(-1, 0), order).mT)
    return torch.cat(parts)
