"""The compiled loops of :func:`unpicked.ops.moments.lag_sums`.

The third-order sums of a chunk are a triangle of dot products (y_i y_{i+a}) . y_{i+b}, taken in tiles of three lags a
by six lags b, and by three where the triangle ends: slices of the data feed accumulators that all stay in registers.
The first tile of three rows makes their products on the way. Products and sums of a chunk have the precision of the
data, sums over chunks are float64.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

CHUNK = 4096  # base points whose three product rows and window of data stay near the core
TILE, WIDE = 3, 6  # rows of a tile, and columns of a wide one


_JIT = {"cache": True, "nogil": True, "fastmath": True, "error_model": "numpy"}


@numba.njit(**_JIT)  # type: ignore[untyped-decorator, unused-ignore]
def _total(values: Any) -> Any:
    total = values.dtype.type(0)
    for i in range(values.size):
        total += values[i]
    return total


@numba.njit(**_JIT)  # type: ignore[untyped-decorator, unused-ignore]
def _add(sums: Any, p: Any, q: Any) -> Any:
    """Six sums with the products of p and six values added: all of them stay in registers."""
    a, b, c, d, e, f = sums
    return a + p * q[0], b + p * q[1], c + p * q[2], d + p * q[3], e + p * q[4], f + p * q[5]


@numba.njit(**_JIT)  # type: ignore[untyped-decorator, unused-ignore]
def _shifted(y: Any, size: int) -> Any:
    """The data and their five next lags, ``size`` values each."""
    return y[:size], y[1:][:size], y[2:][:size], y[3:][:size], y[4:][:size], y[5:][:size]


@numba.njit(**_JIT)  # type: ignore[untyped-decorator, unused-ignore]
def _opening(y: Any, size: int, lag: int, z0: Any, z1: Any, z2: Any, sums: Any, out: Any) -> None:
    """Three rows of products from ``lag`` on, their sums, and their dot products with the first six lags."""
    y0, y1, y2, y3, y4, y5 = _shifted(y, size)
    s0, s1, s2 = y[lag:][:size], y[lag + 1 :][:size], y[lag + 2 :][:size]
    zero = z0.dtype.type(0)
    none = (zero, zero, zero, zero, zero, zero)
    a, b, c = none, none, none
    total0, total1, total2 = zero, zero, zero
    for i in range(size):
        q = (y0[i], y1[i], y2[i], y3[i], y4[i], y5[i])
        p0, p1, p2 = q[0] * s0[i], q[0] * s1[i], q[0] * s2[i]
        z0[i], z1[i], z2[i] = p0, p1, p2
        total0 += p0
        total1 += p1
        total2 += p2
        a, b, c = _add(a, p0, q), _add(b, p1, q), _add(c, p2, q)
    sums[0], sums[1], sums[2] = total0, total1, total2
    _keep(a, b, c, out)


@numba.njit(**_JIT)  # type: ignore[untyped-decorator, unused-ignore]
def _wide(z0: Any, z1: Any, z2: Any, y: Any, out: Any) -> None:
    """Eighteen dot products, of three rows of products with y and its five next lags."""
    y0, y1, y2, y3, y4, y5 = _shifted(y, z0.size)
    zero = z0.dtype.type(0)
    none = (zero, zero, zero, zero, zero, zero)
    a, b, c = none, none, none
    for i in range(z0.size):
        q = (y0[i], y1[i], y2[i], y3[i], y4[i], y5[i])
        a, b, c = _add(a, z0[i], q), _add(b, z1[i], q), _add(c, z2[i], q)
    _keep(a, b, c, out)


@numba.njit(**_JIT)  # type: ignore[untyped-decorator, unused-ignore]
def _keep(a: Any, b: Any, c: Any, out: Any) -> None:
    for k in range(WIDE):
        out[0, k], out[1, k], out[2, k] = a[k], b[k], c[k]


@numba.njit(**_JIT)  # type: ignore[untyped-decorator, unused-ignore]
def _narrow(z0: Any, z1: Any, z2: Any, y: Any, out: Any) -> None:
    """Nine dot products, of three rows of products with y and its two next lags: where the triangle ends."""
    size = z0.size
    y0, y1, y2 = y[:size], y[1:][:size], y[2:][:size]
    zero = z0.dtype.type(0)
    a0, a1, a2, b0, b1, b2, c0, c1, c2 = zero, zero, zero, zero, zero, zero, zero, zero, zero
    for i in range(size):
        p0, p1, p2 = z0[i], z1[i], z2[i]
        q0, q1, q2 = y0[i], y1[i], y2[i]
        a0 += p0 * q0
        a1 += p0 * q1
        a2 += p0 * q2
        b0 += p1 * q0
        b1 += p1 * q1
        b2 += p1 * q2
        c0 += p2 * q0
        c1 += p2 * q1
        c2 += p2 * q2
    out[0, 0], out[0, 1], out[0, 2] = a0, a1, a2
    out[1, 0], out[1, 1], out[1, 2] = b0, b1, b2
    out[2, 0], out[2, 1], out[2, 2] = c0, c1, c2


@numba.njit(**_JIT)  # type: ignore[untyped-decorator, unused-ignore]
def triangle(y: Any, length: int, block: int, first: int, last: int, sums: Any) -> None:
    """Write the sums of the base points first..last, a row per ``block`` of them: count, orders 1, 2 and 3.

    ``y`` holds at least ``last + length + WIDE`` values; ``sums`` is ``(rows, 2 + L + L (L + 1) / 2)``, zeros.
    """
    products = np.zeros((TILE, CHUNK), y.dtype)
    totals = np.zeros(TILE, y.dtype)
    tile = np.zeros((TILE, WIDE), y.dtype)
    start = first
    while start < last:
        place = (start - first) // block
        end = min(start + CHUNK, last, first + (place + 1) * block)  # a chunk never crosses a block
        size = end - start
        row, window = sums[place], y[start : end + length + WIDE]
        z0, z1, z2 = products[0, :size], products[1, :size], products[2, :size]
        row[0] += size
        row[1] += _total(y[start:end])
        for lag in range(0, length, TILE):
            other = 0
            while other < lag + TILE:
                width = WIDE
                if other == 0:
                    _opening(window, size, lag, z0, z1, z2, totals, tile)
                    for j in range(min(TILE, length - lag)):
                        row[2 + lag + j] += totals[j]
                elif other + WIDE <= lag + TILE:
                    _wide(z0, z1, z2, window[other:], tile)
                else:
                    width = TILE
                    _narrow(z0, z1, z2, window[other:], tile)
                for j in range(min(TILE, length - lag)):
                    base = 2 + length + (lag + j) * (lag + j + 1) // 2 + other
                    for k in range(min(width, lag + j - other + 1)):
                        row[base + k] += tile[j, k]
                other += width
        start = end
