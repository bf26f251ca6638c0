"""The compiled loops of :mod:`unpicked.ops.gridding`: slices read from, and added into, one half of a Fourier cube.

The cube is ``(2 h + 1, 2 h + 1, h + 3)`` over k_z, k_y in -h .. h and k_x in -1 .. h + 1; a point with k_x < 0 is read
at -k and conjugated. Complex numbers are pairs of float32, so that the inner loop over the four neighbours along x is
plain arithmetic.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
_inline = numba.njit(cache=True, nogil=True, inline="always", error_model="numpy", fastmath={"contract", "nsz"})
_f4 = numba.float32


@_inline  # type: ignore[untyped-decorator, unused-ignore]
def _weights(f: Any, table: Any, out: Any) -> None:
    """Values of the four polynomials at f in [0, 1)."""
    for tap in range(4):
        value = table[tap, 0]
        for power in range(1, table.shape[1]):
            value = value * f + table[tap, power]
        out[tap] = value


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def read(cube: Any, rotations: Any, points: Any, table: Any, out: Any) -> None:
    """Slices ``out`` (n, p, 2) of the cube (.., .., .., 2) at R^T (q_x, q_y, 0), points (p, 2) in grid units."""
    h = cube.shape[0] // 2
    wx, wy, wz = np.empty(4, np.float32), np.empty(4, np.float32), np.empty(4, np.float32)
    for i in range(len(rotations)):
        r = rotations[i]
        for j in range(len(points)):
            a, b = points[j, 0], points[j, 1]
            x = a * r[0, 0] + b * r[1, 0]
            y = a * r[0, 1] + b * r[1, 1]
            z = a * r[0, 2] + b * r[1, 2]
            sign = _f4(1.0)
            if x < 0:
                x, y, z, sign = -x, -y, -z, _f4(-1.0)
            ix, iy, iz = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
            _weights(x - _f4(ix), table, wx)
            _weights(y - _f4(iy), table, wy)
            _weights(z - _f4(iz), table, wz)
            re, im = _f4(0.0), _f4(0.0)
            for u in range(4):
                for v in range(4):
                    row = cube[iz - 1 + u + h, iy - 1 + v + h]
                    w = wz[u] * wy[v]
                    pr = wx[0] * row[ix, 0] + wx[1] * row[ix + 1, 0] + wx[2] * row[ix + 2, 0] + wx[3] * row[ix + 3, 0]
                    pi = wx[0] * row[ix, 1] + wx[1] * row[ix + 1, 1] + wx[2] * row[ix + 2, 1] + wx[3] * row[ix + 3, 1]
                    re += w * pr
                    im += w * pi
            out[i, j, 0] = re
            out[i, j, 1] = sign * im


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def read_with_slopes(cube: Any, rotations: Any, points: Any, table: Any, slope: Any, out: Any, slopes: Any) -> None:
    """As :func:`read`, and ``slopes`` (n, 3, p, 2): derivatives with respect to w of exp([w]x) R."""
    h = cube.shape[0] // 2
    wx, wy, wz = np.empty(4, np.float32), np.empty(4, np.float32), np.empty(4, np.float32)
    dx, dy, dz = np.empty(4, np.float32), np.empty(4, np.float32), np.empty(4, np.float32)
    for i in range(len(rotations)):
        r = rotations[i]
        for j in range(len(points)):
            a, b = points[j, 0], points[j, 1]
            x = a * r[0, 0] + b * r[1, 0]
            y = a * r[0, 1] + b * r[1, 1]
            z = a * r[0, 2] + b * r[1, 2]
            sign = _f4(1.0)
            if x < 0:
                x, y, z, sign = -x, -y, -z, _f4(-1.0)
            ix, iy, iz = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
            _weights(x - _f4(ix), table, wx)
            _weights(y - _f4(iy), table, wy)
            _weights(z - _f4(iz), table, wz)
            _weights(x - _f4(ix), slope, dx)
            _weights(y - _f4(iy), slope, dy)
            _weights(z - _f4(iz), slope, dz)
            re, im = _f4(0.0), _f4(0.0)
            xr, xi, yr, yi, zr, zi = _f4(0.0), _f4(0.0), _f4(0.0), _f4(0.0), _f4(0.0), _f4(0.0)
            for u in range(4):
                for v in range(4):
                    row = cube[iz - 1 + u + h, iy - 1 + v + h]
                    w = wz[u] * wy[v]
                    pr = wx[0] * row[ix, 0] + wx[1] * row[ix + 1, 0] + wx[2] * row[ix + 2, 0] + wx[3] * row[ix + 3, 0]
                    pi = wx[0] * row[ix, 1] + wx[1] * row[ix + 1, 1] + wx[2] * row[ix + 2, 1] + wx[3] * row[ix + 3, 1]
                    sr = dx[0] * row[ix, 0] + dx[1] * row[ix + 1, 0] + dx[2] * row[ix + 2, 0] + dx[3] * row[ix + 3, 0]
                    si = dx[0] * row[ix, 1] + dx[1] * row[ix + 1, 1] + dx[2] * row[ix + 2, 1] + dx[3] * row[ix + 3, 1]
                    re += w * pr
                    im += w * pi
                    xr += w * sr
                    xi += w * si
                    wd = wz[u] * dy[v]
                    yr += wd * pr
                    yi += wd * pi
                    wd = dz[u] * wy[v]
                    zr += wd * pr
                    zi += wd * pi
            out[i, j, 0] = re
            out[i, j, 1] = sign * im
            # d(point)/dw: -q_y r2, q_x r2, q_y r0 - q_x r1; a conjugated point has the opposite slope
            gr = sign * (xr * r[2, 0] + yr * r[2, 1] + zr * r[2, 2])
            gi = xi * r[2, 0] + yi * r[2, 1] + zi * r[2, 2]
            tx, ty, tz = b * r[0, 0] - a * r[1, 0], b * r[0, 1] - a * r[1, 1], b * r[0, 2] - a * r[1, 2]
            slopes[i, 0, j, 0] = -b * gr
            slopes[i, 0, j, 1] = -b * gi
            slopes[i, 1, j, 0] = a * gr
            slopes[i, 1, j, 1] = a * gi
            slopes[i, 2, j, 0] = sign * (xr * tx + yr * ty + zr * tz)
            slopes[i, 2, j, 1] = xi * tx + yi * ty + zi * tz


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def add(values: Any, rotations: Any, points: Any, table: Any, cube: Any) -> None:
    """Add values (n, p, 2) to the cube (.., .., .., 2): the adjoint of :func:`read` on pairs of real numbers."""
    h = cube.shape[0] // 2
    wx, wy, wz = np.empty(4, np.float32), np.empty(4, np.float32), np.empty(4, np.float32)
    for i in range(len(rotations)):
        r = rotations[i]
        for j in range(len(points)):
            a, b = points[j, 0], points[j, 1]
            x = a * r[0, 0] + b * r[1, 0]
            y = a * r[0, 1] + b * r[1, 1]
            z = a * r[0, 2] + b * r[1, 2]
            re, im = values[i, j, 0], values[i, j, 1]
            if x < 0:
                x, y, z, im = -x, -y, -z, -im
            ix, iy, iz = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
            _weights(x - _f4(ix), table, wx)
            _weights(y - _f4(iy), table, wy)
            _weights(z - _f4(iz), table, wz)
            for u in range(4):
                for v in range(4):
                    row = cube[iz - 1 + u + h, iy - 1 + v + h]
                    w = wz[u] * wy[v]
                    wr, wi = w * re, w * im
                    for t in range(4):
                        row[ix + t, 0] += wx[t] * wr
                        row[ix + t, 1] += wx[t] * wi


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def add_real(values: Any, rotations: Any, points: Any, table: Any, cube: Any) -> None:
    """As :func:`add`, of real values (n, p) to a real cube."""
    h = cube.shape[0] // 2
    wx, wy, wz = np.empty(4, np.float32), np.empty(4, np.float32), np.empty(4, np.float32)
    for i in range(len(rotations)):
        r = rotations[i]
        for j in range(len(points)):
            a, b = points[j, 0], points[j, 1]
            x = a * r[0, 0] + b * r[1, 0]
            y = a * r[0, 1] + b * r[1, 1]
            z = a * r[0, 2] + b * r[1, 2]
            if x < 0:
                x, y, z = -x, -y, -z
            ix, iy, iz = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
            _weights(x - _f4(ix), table, wx)
            _weights(y - _f4(iy), table, wy)
            _weights(z - _f4(iz), table, wz)
            for u in range(4):
                for v in range(4):
                    row = cube[iz - 1 + u + h, iy - 1 + v + h]
                    w = wz[u] * wy[v] * values[i, j]
                    for t in range(4):
                        row[ix + t] += wx[t] * w


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def fit(
    cube: Any, rotations: Any, ramps: Any, points: Any, table: Any, slope: Any, data: Any, transfer: Any, out: Any
) -> None:
    """Normal equations of a small turn w and shift t of every image, and its misfit.

    Args:
        cube: spectrum.
        rotations: ``(n, 3, 3)``.
        ramps: ``(n, 2)`` shifts times -2 pi / (N pad): phase of a point per grid unit.
        points: ``(p, 2)`` in grid units.
        table: the window.
        slope: its slope.
        data: ``(n, p, 2)`` coefficients, whitened.
        transfer: ``(m, p)`` contrast transfer over the noise's standard deviation, m = n or 1.
        out: ``(n, 21)`` float64: the upper triangle of J^T J (15), J^T r (5) and |r|^2; shifts in units of ``ramps``.
    """
    h = cube.shape[0] // 2
    wx, wy, wz = np.empty(4, np.float32), np.empty(4, np.float32), np.empty(4, np.float32)
    dx, dy, dz = np.empty(4, np.float32), np.empty(4, np.float32), np.empty(4, np.float32)
    jr, ji = np.empty(5, np.float32), np.empty(5, np.float32)
    acc = np.empty(21, np.float64)
    for i in range(len(rotations)):
        r = rotations[i]
        factors = transfer[min(i, len(transfer) - 1)]
        acc[:] = 0
        for j in range(len(points)):
            a, b = points[j, 0], points[j, 1]
            x = a * r[0, 0] + b * r[1, 0]
            y = a * r[0, 1] + b * r[1, 1]
            z = a * r[0, 2] + b * r[1, 2]
            sign = _f4(1.0)
            if x < 0:
                x, y, z, sign = -x, -y, -z, _f4(-1.0)
            ix, iy, iz = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
            _weights(x - _f4(ix), table, wx)
            _weights(y - _f4(iy), table, wy)
            _weights(z - _f4(iz), table, wz)
            _weights(x - _f4(ix), slope, dx)
            _weights(y - _f4(iy), slope, dy)
            _weights(z - _f4(iz), slope, dz)
            re, im = _f4(0.0), _f4(0.0)
            xr, xi, yr, yi, zr, zi = _f4(0.0), _f4(0.0), _f4(0.0), _f4(0.0), _f4(0.0), _f4(0.0)
            for u in range(4):
                for v in range(4):
                    row = cube[iz - 1 + u + h, iy - 1 + v + h]
                    w = wz[u] * wy[v]
                    pr = wx[0] * row[ix, 0] + wx[1] * row[ix + 1, 0] + wx[2] * row[ix + 2, 0] + wx[3] * row[ix + 3, 0]
                    pi = wx[0] * row[ix, 1] + wx[1] * row[ix + 1, 1] + wx[2] * row[ix + 2, 1] + wx[3] * row[ix + 3, 1]
                    sr = dx[0] * row[ix, 0] + dx[1] * row[ix + 1, 0] + dx[2] * row[ix + 2, 0] + dx[3] * row[ix + 3, 0]
                    si = dx[0] * row[ix, 1] + dx[1] * row[ix + 1, 1] + dx[2] * row[ix + 2, 1] + dx[3] * row[ix + 3, 1]
                    re += w * pr
                    im += w * pi
                    xr += w * sr
                    xi += w * si
                    wd = wz[u] * dy[v]
                    yr += wd * pr
                    yi += wd * pi
                    wd = dz[u] * wy[v]
                    zr += wd * pr
                    zi += wd * pi
            im = sign * im
            xr, yr, zr = sign * xr, sign * yr, sign * zr
            phase = a * ramps[i, 0] + b * ramps[i, 1]
            c, s = factors[j] * np.cos(phase), factors[j] * np.sin(phase)
            gr = xr * r[2, 0] + yr * r[2, 1] + zr * r[2, 2]
            gi = xi * r[2, 0] + yi * r[2, 1] + zi * r[2, 2]
            tx, ty, tz = b * r[0, 0] - a * r[1, 0], b * r[0, 1] - a * r[1, 1], b * r[0, 2] - a * r[1, 2]
            hr, hi = xr * tx + yr * ty + zr * tz, xi * tx + yi * ty + zi * tz
            jr[0], ji[0] = -b * (gr * c - gi * s), -b * (gr * s + gi * c)
            jr[1], ji[1] = a * (gr * c - gi * s), a * (gr * s + gi * c)
            jr[2], ji[2] = hr * c - hi * s, hr * s + hi * c
            mr, mi = re * c - im * s, re * s + im * c
            jr[3], ji[3] = -a * mi, a * mr  # d/d(phase) = i x model
            jr[4], ji[4] = -b * mi, b * mr
            er, ei = data[i, j, 0] - mr, data[i, j, 1] - mi
            place = 0
            for u in range(5):
                for v in range(u, 5):
                    acc[place] += jr[u] * jr[v] + ji[u] * ji[v]
                    place += 1
                acc[15 + u] += jr[u] * er + ji[u] * ei
            acc[20] += er * er + ei * ei
        out[i] = acc
