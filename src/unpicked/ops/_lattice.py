"""The compiled loop of :func:`unpicked.ops.lattice.gibbs`."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def sweeps(activity: Any, width: int, offsets: Any, chances: Any, burn: int, marginals: Any) -> Any:
    """Add conditional chances to ``marginals``; returns the summed expected number of free sites."""
    height, length = activity.shape
    rows_max, columns_max = chances.shape[1] + 2, chances.shape[2] + 2  # one empty cell all around
    state_y = np.full((rows_max, columns_max), -1, np.int64)
    state_x = np.full((rows_max, columns_max), -1, np.int64)
    next_y, next_x = state_y.copy(), state_x.copy()
    low, high = np.empty(width, np.int64), np.empty(width, np.int64)
    free = 0.0
    for sweep in range(len(offsets)):
        off_y, off_x = offsets[sweep, 0], offsets[sweep, 1]
        _move(state_y, state_x, next_y, next_x, off_y, off_x, width)
        state_y, next_y = next_y, state_y
        state_x, next_x = next_x, state_x
        for cy in range(1, (height + off_y - 1) // width + 2):
            top, bottom = max(0, (cy - 1) * width - off_y), min(height, cy * width - off_y)
            for cx in range(1, (length + off_x - 1) // width + 2):
                left, right = max(0, (cx - 1) * width - off_x), min(length, cx * width - off_x)
                # allowed sites of row y: low .. high - 1; neighbours above and below forbid whole rows
                for y in range(top, bottom):
                    low[y - top], high[y - top] = left, right
                for dy in range(-1, 2):
                    for dx in range(-1, 2):
                        ny, nx = state_y[cy + dy, cx + dx], state_x[cy + dy, cx + dx]
                        if ny < 0 or (dy == 0 and dx == 0):
                            continue
                        for y in range(max(top, ny - width + 1), min(bottom, ny + width)):
                            if dx <= 0:
                                low[y - top] = max(low[y - top], nx + width)
                            if dx >= 0:
                                high[y - top] = min(high[y - top], nx - width + 1)
                total, sites = 1.0, 0
                for y in range(top, bottom):
                    for x in range(low[y - top], high[y - top]):
                        total += activity[y, x]
                    sites += max(0, high[y - top] - low[y - top])
                if sweep >= burn:
                    share = 1 / total
                    free += sites * share
                    for y in range(top, bottom):
                        for x in range(low[y - top], high[y - top]):
                            marginals[y, x] += activity[y, x] * share
                # draw: empty first, then the sites in order
                target = chances[sweep, cy - 1, cx - 1] * total - 1.0
                state_y[cy, cx] = -1
                if target < 0:
                    continue
                last_y, last_x = -1, -1
                for y in range(top, bottom):
                    for x in range(low[y - top], high[y - top]):
                        if activity[y, x] > 0:
                            last_y, last_x = y, x
                            target -= activity[y, x]
                            if target < 0:
                                break
                    if target < 0:
                        break
                state_y[cy, cx], state_x[cy, cx] = last_y, last_x
    return free


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def _move(state_y: Any, state_x: Any, next_y: Any, next_x: Any, off_y: int, off_x: int, width: int) -> None:
    """Copies from the cells of one grid to those of a grid with other offsets."""
    next_y[:] = -1
    for cy in range(state_y.shape[0]):
        for cx in range(state_y.shape[1]):
            y, x = state_y[cy, cx], state_x[cy, cx]
            if y >= 0:
                next_y[(y + off_y) // width + 1, (x + off_x) // width + 1] = y
                next_x[(y + off_y) // width + 1, (x + off_x) // width + 1] = x
