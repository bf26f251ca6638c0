"""The compiled loop of random sequential placement."""

from __future__ import annotations

from typing import Any

import numba


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def take(candidates: Any, least: int, cells: Any, corners: Any, count: int) -> int:
    """Accept candidates in order where none accepted lies within ``least`` in both directions.

    Args:
        candidates: ``(m, 2)`` rows and columns.
        least: least distance in the larger of the two directions.
        cells: ``(a, b, 2)``, the corner in every cell of side ``least``, -1 where empty, with one empty cell around.
        corners: ``(n, 2)``, filled from ``count`` on.
        count: accepted before.

    Returns:
        Accepted in all, at most n.
    """
    for index in range(len(candidates)):
        if count == len(corners):
            break
        row, column = candidates[index, 0], candidates[index, 1]
        cy, cx = row // least + 1, column // least + 1
        free = True
        for dy in range(-1, 2):
            for dx in range(-1, 2):
                y, x = cells[cy + dy, cx + dx, 0], cells[cy + dy, cx + dx, 1]
                if y >= 0 and abs(y - row) < least and abs(x - column) < least:
                    free = False
        if free:
            cells[cy, cx, 0], cells[cy, cx, 1] = row, column
            corners[count, 0], corners[count, 1] = row, column
            count += 1
    return count
