"""The compiled loops of :mod:`unpicked.ops.evidence`: one pass over a block of scores that is still in the cache.

A column is a window, a row a template; the loops over columns are what a compiler turns into vector instructions.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

# sums in any order, but no "nnan": a NaN among the scores has to reach them; the exponential as it is written
_jit = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
_exact = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
_f4, _i4 = numba.float32, numba.int32


@_exact  # type: ignore[untyped-decorator, unused-ignore]
def exponential(x: Any) -> Any:
    """e^x for x <= 80 in float32 to a relative 2e-7; e^-80 stands for everything smaller."""
    x = _f4(-80.0) if x < _f4(-80.0) else x
    n = _i4(x * _f4(1.44269504) + _f4(128.5))  # truncated; 128 + the nearest power of two
    power = _f4(n) - _f4(128.0)
    f = x - power * _f4(0.693359375) + power * _f4(2.12194440e-4)  # |f| <= log(2) / 2
    p = f * _f4(0.00829761940985918) + _f4(0.04191562905907631)  # least relative error of degree 5
    p = p * f + _f4(0.16667576134204865)
    p = p * f + _f4(0.4999889135360718)
    p = p * f + _f4(0.9999997019767761)
    p = p * f + _f4(1.0000001192092896)
    return p * np.int32((n - 1) << 23).view(np.float32)


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def add_logs(scores: Any, bias: Any, top: Any, total: Any) -> None:
    """Add exp(scores + bias), summed over the rows, to the running sums exp(top) x total of every column.

    Args:
        scores: ``(k, n)`` float32.
        bias: ``(k,)`` float32.
        top: ``(n,)`` float32, largest score so far; begin with -1e30.
        total: ``(n,)`` float64; begin with 0.
    """
    keys = np.full(len(top), -0x7FFFFFFF, np.int32)
    _raise_keys(scores, bias, keys)
    for i in range(len(top)):
        new = np.int32(_key(keys[i])).view(np.float32)
        if new > top[i]:
            total[i] *= np.exp(np.float64(top[i]) - np.float64(new))
            top[i] = new
    parts = np.zeros(len(top), np.float32)
    _add_exponentials(scores, bias, top, parts)
    for i in range(len(top)):
        total[i] += parts[i]


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def posterior(scores: Any, bias: Any, evidence: Any, sums: Any) -> None:
    """Replace scores ``(k, n)`` by exp(score + bias - evidence) and add each row's sum to ``sums`` (float64)."""
    for row in range(len(scores)):
        constant, total = bias[row], _f4(0.0)
        for i in range(scores.shape[1]):
            value = exponential(scores[row, i] + constant - evidence[i])
            scores[row, i] = value
            total += value
        sums[row] += total


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def weighted_posterior(scores: Any, bias: Any, evidence: Any, weights: Any, sums: Any) -> None:
    """The same times the weight of each column."""
    for row in range(len(scores)):
        constant, total = bias[row], _f4(0.0)
        for i in range(scores.shape[1]):
            value = exponential(scores[row, i] + constant - evidence[i]) * weights[i]
            scores[row, i] = value
            total += value
        sums[row] += total


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def cut(image: Any, sites: Any, side: int, out: Any) -> None:
    """Windows of an image at corners that are numbered row by row, into ``(n, side^2)``."""
    width = image.shape[1] - side + 1
    for i in range(len(sites)):
        top, left = sites[i] // width, sites[i] % width
        for y in range(side):
            for x in range(side):
                out[i, y * side + x] = image[top + y, left + x]


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def _key(bits: Any) -> Any:
    """Integers that are ordered as the floats with these bits are; its own inverse."""
    return np.int32(bits ^ ((bits >> 31) & 0x7FFFFFFF))


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def _float_key(x: Any) -> Any:
    return _key(np.float32(x).view(np.int32))


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def _raise_keys(scores: Any, bias: Any, keys: Any) -> None:
    whole = len(scores) // 4 * 4
    for row in range(0, whole, 4):
        a, b, c, d = bias[row], bias[row + 1], bias[row + 2], bias[row + 3]
        for i in range(len(keys)):
            first = max(_float_key(scores[row, i] + a), _float_key(scores[row + 1, i] + b))
            second = max(_float_key(scores[row + 2, i] + c), _float_key(scores[row + 3, i] + d))
            keys[i] = max(keys[i], max(first, second))
    for row in range(whole, len(scores)):
        a = bias[row]
        for i in range(len(keys)):
            keys[i] = max(keys[i], _float_key(scores[row, i] + a))


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def _add_exponentials(scores: Any, bias: Any, top: Any, sums: Any) -> None:
    whole = len(scores) // 4 * 4
    for row in range(0, whole, 4):
        a, b, c, d = bias[row], bias[row + 1], bias[row + 2], bias[row + 3]
        for i in range(len(sums)):
            t = top[i]
            first = exponential(scores[row, i] + a - t) + exponential(scores[row + 1, i] + b - t)
            second = exponential(scores[row + 2, i] + c - t) + exponential(scores[row + 3, i] + d - t)
            sums[i] += first + second
    for row in range(whole, len(scores)):
        a = bias[row]
        for i in range(len(sums)):
            sums[i] += exponential(scores[row, i] + a - top[i])
