"""The compiled loops of :func:`unpicked.ops.moments.lag_sums`.

The third-order sums of a chunk are a triangle of dot products (y_i y_{i+a}) . y_{i+b}, taken in tiles of 3 x 3 lags:
six streams of contiguous slices feed nine accumulators, which all stay in registers. Products and sums of a chunk have
the precision of the data, sums over chunks are float64.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

CHUNK = 2048  # base points whose three product rows and window of data stay near the core
TILE = 3


_JIT = {"cache": True, "nogil": True, "fastmath": True, "error_model": "numpy"}


@numba.njit(**_JIT)  # type: ignore[untyped-decorator, unused-ignore]
def _total(values: Any) -> Any:
    total = values.dtype.type(0)
    for i in range(values.size):
        total += values[i]
    return total


@numba.njit(**_JIT)  # type: ignore[untyped-decorator, unused-ignore]
def _multiply(first: Any, second: Any, out: Any) -> Any:
    """Elementwise product, and its sum."""
    total = first.dtype.type(0)
    for i in range(first.size):
        product = first[i] * second[i]
        out[i] = product
        total += product
    return total


@numba.njit(**_JIT)  # type: ignore[untyped-decorator, unused-ignore]
def _tile(z0: Any, z1: Any, z2: Any, y0: Any, y1: Any, y2: Any, out: Any) -> None:
    """Nine dot products; one loop over six slices, which the compiler turns into vectors."""
    zero = z0.dtype.type(0)
    a, b, c, d, e, f, g, h, k = zero, zero, zero, zero, zero, zero, zero, zero, zero
    for i in range(z0.size):
        p, q, r = z0[i], z1[i], z2[i]
        u, v, w = y0[i], y1[i], y2[i]
        a += p * u
        b += p * v
        c += p * w
        d += q * u
        e += q * v
        f += q * w
        g += r * u
        h += r * v
        k += r * w
    out[0], out[1], out[2], out[3], out[4] = a, b, c, d, e
    out[5], out[6], out[7], out[8] = f, g, h, k


@numba.njit(**_JIT)  # type: ignore[untyped-decorator, unused-ignore]
def triangle(y: Any, length: int, block: int, first: int, last: int, sums: Any) -> None:
    """Write the sums of the base points first..last, a row per ``block`` of them: count, orders 1, 2 and 3.

    ``y`` holds at least ``last + length + TILE - 2`` values; ``sums`` is ``(rows, 2 + L + L (L + 1) / 2)``, zeros.
    """
    rows = (length + TILE - 1) // TILE * TILE
    products = np.zeros((TILE, CHUNK), y.dtype)
    tile = products[0, : TILE * TILE].copy()
    for start in range(first, last, CHUNK):
        # a chunk never crosses a block: blocks are multiples of the chunk
        end = min(start + CHUNK, last)
        size = end - start
        row = sums[(start - first) // block]
        row[0] += size
        row[1] += _total(y[start:end])
        for a in range(0, rows, TILE):
            for j in range(TILE):
                part = _multiply(y[start:end], y[start + a + j : end + a + j], products[j, :size])
                if a + j < length:
                    row[2 + a + j] += part
            for b in range(0, a + TILE, TILE):
                _tile(
                    products[0, :size],
                    products[1, :size],
                    products[2, :size],
                    y[start + b : end + b],
                    y[start + b + 1 : end + b + 1],
                    y[start + b + 2 : end + b + 2],
                    tile,
                )
                for j in range(TILE):
                    lag = a + j
                    if lag < length:
                        place = 2 + length + lag * (lag + 1) // 2 + b
                        for k in range(min(TILE, lag - b + 1)):
                            row[place + k] += tile[TILE * j + k]
