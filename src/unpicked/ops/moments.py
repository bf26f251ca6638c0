"""Moments of order 1 to 3 of long signals: lag sums in one pass, their conversion, their noise.

With base points i whose window i .. i + L - 1 is inside, ``S1 = sum y_i``, ``S2[l] = sum y_i y_{i+l}`` for
0 <= l < L and ``S3[a, b] = sum y_i y_{i+a} y_{i+b}`` for 0 <= b <= a < L, a fundamental domain of all lag pairs. A
moment vector stacks S1, S2 and S3 in this order, (a, b) = (0, 0), (1, 0), (1, 1), (2, 0), ...; in rows of sums the
number of base points stands before it. Such rows add: over blocks, signals and processes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Literal

from jaxtyping import Float, Int

from unpicked._lazy import torch

BLOCK = 8192  # base points per row of sums: many windows of L, and few enough for a covariance of the rows


def count(length: int) -> int:
    """Number of moments of windows of ``length`` samples, 1 + L + L (L + 1) / 2."""
    return 1 + length + length * (length + 1) // 2


@lru_cache(maxsize=16)
def lag_pairs(length: int) -> Int[torch.Tensor, "p 2"]:
    """Third-order lags (a, b), 0 <= b <= a < L, in the order of the moment vector."""
    return torch.tril_indices(length, length).T


def lag_sums(
    y: Float[torch.Tensor, " n"],
    length: int,
    *,
    edges: Literal["valid", "padded"] = "valid",
    block: int = BLOCK,
    method: Literal["auto", "compiled", "gemm"] = "auto",
) -> Float[torch.Tensor, "rows s"]:
    """Sums of one stretch of a signal, a row per ``block`` base points: count, S1, S2, S3; float64.

    Stretches that overlap by L - 1 samples give the sums of the whole: no product is lost at their joins. Products
    have the precision of ``y`` and are summed in it over 2,048 base points at most, beyond in float64.

    Args:
        y: a signal, ``(n,)``, float32 or float64.
        length: L, samples of a window.
        edges: ``valid`` takes the base points whose window is inside; ``padded`` all, with zeros after the end, which
            is exact where no object is cut at the end.
        block: base points per row, a multiple of 2,048.
        method: ``compiled`` loops (CPU; as many threads as torch has), ``gemm`` by matrix products of blocks (any
            device), or ``auto``: what suits the device.

    Returns:
        ``(rows, 2 + L + L (L + 1) / 2)`` on the device of y; at least one row, of zeros where nothing fits.

    Raises:
        ValueError: for y that is not one-dimensional floating point, for length < 1 or another block.
    """
    if y.dim() != 1 or y.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"y must be (n,) of float32 or float64; got {tuple(y.shape)} of {y.dtype}")
    if length < 1:
        raise ValueError(f"length must be at least 1 sample; got {length}")
    if block < 2048 or block % 2048:
        raise ValueError(f"block must be a positive multiple of 2048; got {block}")
    points = y.shape[0] if edges == "padded" else max(0, y.shape[0] - length + 1)
    rows = max(1, -(-points // block))
    gemm = method == "gemm" or (method == "auto" and y.device.type != "cpu")
    return (_gemm if gemm else _compiled)(y, length, points, block, rows)


def cumulants(moments: Float[torch.Tensor, "*b s"], length: int) -> Float[torch.Tensor, "*b s"]:
    """Raw moments to cumulants: mean, autocovariance and third central moments at every lag.

    c2[l] = a2[l] - a1^2 and c3[a, b] = a3[a, b] - a1 (a2[a] + a2[b] + a2[a - b]) + 2 a1^3.

    Args:
        moments: ``(..., s)`` moment vectors.
        length: L.
    """
    first, second, third = split(moments, length)
    a, b = lag_pairs(length).to(moments.device).unbind(1)
    around = second[..., a] + second[..., b] + second[..., a - b]
    return torch.cat([first, second - first.square(), third - first * around + 2 * first**3], -1)


def cumulant_slope(moments: Float[torch.Tensor, "*b s"], length: int) -> Float[torch.Tensor, "*b s s"]:
    """The derivative of :func:`cumulants`, ``[..., i, j] = d c_i / d a_j``."""
    first, second, _ = split(moments, length)
    a, b = lag_pairs(length).to(moments.device).unbind(1)
    size = moments.shape[-1]
    slope = torch.eye(size, dtype=moments.dtype, device=moments.device).expand(*moments.shape[:-1], size, size).clone()
    slope[..., 1 : 1 + length, 0] = -2 * first
    slope[..., 1 + length :, 0] = 6 * first.square() - second[..., a] - second[..., b] - second[..., a - b]
    rows = torch.arange(1 + length, size, device=moments.device)
    for lags in (a, b, a - b):
        slope[..., rows, 1 + lags] -= first
    return slope


def split(
    moments: Float[torch.Tensor, "*b s"], length: int
) -> tuple[Float[torch.Tensor, "*b 1"], Float[torch.Tensor, "*b l"], Float[torch.Tensor, "*b p"]]:
    """Orders 1, 2 and 3 of moment vectors.

    Raises:
        ValueError: if the last axis is not that of windows of this length.
    """
    if moments.shape[-1] != count(length):
        raise ValueError(f"moments of windows of {length} must end in ({count(length)},); got {tuple(moments.shape)}")
    return moments[..., :1], moments[..., 1 : 1 + length], moments[..., 1 + length :]


def coincidences(length: int) -> Float[torch.Tensor, " p"]:
    """How many of a = 0, b = 0 and a = b hold at each third-order lag: 0, 1 or 3."""
    a, b = lag_pairs(length).unbind(1)
    return (a == 0).double() + (b == 0).double() + (a == b).double()


def noise_moments(length: int, sigma: float | torch.Tensor, mean: float | torch.Tensor = 0.0) -> torch.Tensor:
    """What white noise adds to the raw moments of a signal of this mean: the bias, ``(s,)``.

    sigma^2 at lag 0 of the second order, sigma^2 mean ([a=0] + [b=0] + [a=b]) in the third.
    """
    bias = torch.zeros(count(length), dtype=torch.float64)
    bias[1] = sigma**2
    bias[1 + length :] = sigma**2 * mean * coincidences(length)
    return bias


def noise_covariance(length: int, sigma: float, form: Literal["raw", "cumulant"] = "raw") -> Float[torch.Tensor, "s s"]:
    """Covariance of the moments of white noise times the number of base points, ``(s, s)``, float64.

    In the cumulant form it is diagonal: Wick-ordered products are orthogonal. In the raw form products with
    coinciding lags also share the mean of the noise.

    Args:
        length: L.
        sigma: standard deviation of the noise.
        form: of raw moments or of cumulants.
    """
    variance, third = sigma**2, coincidences(length)
    diagonal = torch.full((count(length),), variance, dtype=torch.float64)
    diagonal[1 : 1 + length] = variance**2
    diagonal[1] *= 2
    # 6 orders of (0, 0, 0), 2 where two lags coincide, else 1
    diagonal[1 + length :] = variance**3 * torch.where(third == 3, 6.0, torch.where(third == 1, 2.0, 1.0))
    covariance = diagonal.diag()
    if form == "raw":
        covariance[1 + length :, 1 + length :] += variance**3 * torch.outer(third, third)
        covariance[0, 1 + length :] = covariance[1 + length :, 0] = variance**2 * third
    return covariance


def published_weights(length: int) -> Float[torch.Tensor, " s"]:
    """Weights of squared residuals in arXiv 1810.00226: 1 / entries of each order, biased entries left out."""
    weights = torch.zeros(count(length), dtype=torch.float64)
    kept = coincidences(length) == 0
    weights[0] = 1.0
    weights[2 : 1 + length] = 1 / max(1, length - 1)
    weights[1 + length :] = kept / kept.sum().clamp(min=1)
    return weights


def _compiled(y: torch.Tensor, length: int, points: int, block: int, rows: int) -> torch.Tensor:
    from unpicked.ops._moments import WIDE, triangle  # compiled, so imported late

    sums = torch.zeros(rows, 1 + count(length), dtype=torch.float64)
    values = y.detach().cpu().contiguous()
    # the last tile reads lags that it does not keep: all but the last rows come from the signal as it is
    whole = max(0, min(rows - 1, (len(values) - length - WIDE) // block))
    rest = torch.nn.functional.pad(values[whole * block :], (0, length + WIDE))
    threads = max(1, min(whole, torch.get_num_threads()))
    cuts = [whole * part // threads for part in range(threads + 1)]

    def work(part: int) -> None:
        first, last = cuts[part], cuts[part + 1]
        triangle(values.numpy(), length, block, first * block, last * block, sums[first:last].numpy())

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    triangle(rest.numpy(), length, block, 0, points - whole * block, sums[whole:].numpy())
    return sums


def _gemm(y: torch.Tensor, length: int, points: int, block: int, rows: int) -> torch.Tensor:
    """The same by batches of matrix products: (y_i y_{i+a}) (y_{i+b})^T over blocks of 2,048 base points."""
    part = 2048
    batch = max(1, (1 << (17 if y.device.type == "cpu" else 26)) // (part * length))  # of the cache, or to fill a GPU
    a, b = lag_pairs(length).to(y.device).unbind(1)
    y = torch.nn.functional.pad(y, (0, length))
    parts = torch.zeros(rows * (block // part), 1 + length + length**2, dtype=torch.float64, device=y.device)
    whole = points // part
    pieces = [(first, min(batch, whole - first), part) for first in range(0, whole, batch)]
    if points % part:
        pieces.append((whole, 1, points % part))
    for first, number, size in pieces:
        hankel = y[first * part :].as_strided((number, length, size), (part, 1, 1), first * part).contiguous()
        products = hankel * hankel[:, :1]
        parts[first : first + number, 0] = hankel[:, 0].sum(-1)
        parts[first : first + number, 1 : 1 + length] = products.sum(-1)
        parts[first : first + number, 1 + length :] = (products @ hankel.mT).flatten(1)
    summed = parts.reshape(rows, block // part, -1).sum(1)
    sizes = (points - block * torch.arange(rows, device=y.device, dtype=torch.float64)).clamp(0, block)
    third = summed[:, 1 + length :].unflatten(1, (length, length))[:, a, b]
    return torch.cat([sizes[:, None], summed[:, : 1 + length], third], 1)
