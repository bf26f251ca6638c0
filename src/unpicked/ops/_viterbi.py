"""The compiled loop of :func:`unpicked.ops.viterbi.likeliest_starts`."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def starts(log_activity: Any, width: int) -> Any:
    """Starts of the configuration of the largest sum, at least ``width`` apart."""
    count = len(log_activity)
    best = np.zeros(count + 1)  # of the sites from here on
    for site in range(count - 1, -1, -1):
        taken = log_activity[site] + best[min(site + width, count)]
        best[site] = max(best[site + 1], taken)
    out = np.empty(count // width + 1, np.int64)
    found, site = 0, 0
    while site < count:
        if best[site] > best[site + 1]:
            out[found] = site
            found += 1
            site += width
        else:
            site += 1
    return out[:found]
