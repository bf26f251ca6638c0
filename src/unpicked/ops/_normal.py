"""The compiled loops of :mod:`unpicked.ops.normal`: random bits in lanes, then the method of Box and Muller (1958).

The bits are those of xoshiro128++ (Blackman and Vigna 2021), in lanes side by side that a compiler turns into vectors.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

LANES = 32
_BLOCK = 64  # steps of all lanes that are held at once
_jit = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
_f4, _u4 = numba.float32, numba.uint32


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def fill(state: Any, out: Any, scale: Any) -> None:
    """Fill ``out`` ``(n,)`` float32 with normal numbers times ``scale``; ``state`` ``(4, LANES)`` uint32 moves on."""
    first = np.empty(_BLOCK * LANES, np.uint32)
    second = np.empty(_BLOCK * LANES, np.uint32)
    values = np.empty(2 * _BLOCK * LANES, np.float32)
    half = _BLOCK * LANES
    for start in range(0, len(out), 2 * half):
        for step in range(_BLOCK):
            here = slice(step * LANES, (step + 1) * LANES)
            _bits(state[0], state[1], state[2], state[3], first[here])
            _bits(state[0], state[1], state[2], state[3], second[here])
        count = min(2 * half, len(out) - start)
        if count == 2 * half:
            _pairs(first, second, scale, out[start : start + half], out[start + half : start + 2 * half])
        else:
            _pairs(first, second, scale, values[:half], values[half:])
            out[start:] = values[:count]


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def _bits(a: Any, b: Any, c: Any, d: Any, out: Any) -> None:
    for lane in range(LANES):
        p, q, r, s = a[lane], b[lane], c[lane], d[lane]
        total = _u4(p + s)
        out[lane] = _u4(_u4(_u4(total << _u4(7)) | _u4(total >> _u4(25))) + p)
        t = _u4(q << _u4(9))
        r = _u4(r ^ p)
        s = _u4(s ^ q)
        a[lane] = _u4(p ^ s)
        b[lane] = _u4(q ^ r)
        c[lane] = _u4(r ^ t)
        d[lane] = _u4(_u4(s << _u4(11)) | _u4(s >> _u4(21)))


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def _pairs(first: Any, second: Any, scale: Any, cosines: Any, sines: Any) -> None:
    """Radius from the first bits, angle from the second."""
    for i in range(len(first)):
        u = (_f4(np.int32(first[i] >> _u4(8))) * _f4(256.0) + _f4(np.int32(first[i] & _u4(255))) + _f4(0.5)) * _f4(
            2.3283064365386963e-10
        )
        radius = scale * np.sqrt(_f4(-2.0) * _log(u))
        bits = second[i]
        f = _f4(np.int32(bits << _u4(2))) * _f4(3.6572951981e-10)  # an eighth turn either way
        g = f * f
        p = _f4(-1.9515295891e-4) * g + _f4(8.3321608736e-3)
        sine = (p * g + _f4(-1.6666654611e-1)) * g * f + f
        q = (_f4(2.443315711809948e-5) * g + _f4(-1.388731625493765e-3)) * g + _f4(4.166664568298827e-2)
        cosine = q * g * g + _f4(1.0) - _f4(0.5) * g
        swap = (bits >> _u4(30)) & _u4(1)
        x = sine if swap else cosine
        y = cosine if swap else sine
        cosines[i] = -radius * x if (bits >> _u4(31)) else radius * x
        sines[i] = -radius * y if (bits >> _u4(31)) else radius * y


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def _log(x: Any) -> Any:
    """Natural logarithm of 2^-33 .. 1 to 1e-7 (the polynomial of Cephes' logf)."""
    bits = np.float32(x).view(np.int32)
    exponent = np.int32((bits >> np.int32(23)) - np.int32(126))
    mantissa = np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F000000)).view(np.float32)
    low = mantissa < _f4(0.70710678)
    e = _f4(exponent) - (_f4(1.0) if low else _f4(0.0))
    m = mantissa + (mantissa if low else _f4(0.0)) - _f4(1.0)
    z = m * m
    y = _f4(7.0376836292e-2) * m + _f4(-1.1514610310e-1)
    y = y * m + _f4(1.1676998740e-1)
    y = y * m + _f4(-1.2420140846e-1)
    y = y * m + _f4(1.4249322787e-1)
    y = y * m + _f4(-1.6668057665e-1)
    y = y * m + _f4(2.0000714765e-1)
    y = y * m + _f4(-2.4999993993e-1)
    y = y * m + _f4(3.3333331174e-1)
    y = y * m * z + e * _f4(-2.12194440e-4) - _f4(0.5) * z
    return m + y + e * _f4(0.693359375)
