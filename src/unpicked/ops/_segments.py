"""The compiled loops of the windows of a signal (:mod:`unpicked.model.signal_patches`)."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")


@numba.njit(cache=True, nogil=True, inline="always", error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
def _add(a: float, b: float) -> float:
    """log(exp a + exp b)."""
    if a < b:
        a, b = b, a
    return a if a - b > 37.0 or b == -np.inf else a + math.log1p(math.exp(b - a))


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def prefixes(signal: Any, templates: Any, variance: float) -> Any:
    """Log-likelihood ratios of the first j samples of a copy at every place, ``(n + L - 1, k, L + 1)``.

    Place i is a start at sample i - (L - 1); what lies outside of the signal counts as zero and is never asked for.
    """
    count, length = templates.shape
    places = len(signal) + length - 1
    padded = np.zeros(places + length - 1)
    padded[length - 1 : places] = signal
    out = np.zeros((places, count, length + 1))
    for k in range(count):
        slope, bias = templates[k] / variance, 0.5 * templates[k] * templates[k] / variance
        for place in range(places):
            total = 0.0
            for j in range(length):
                total += padded[place + j] * slope[j] - bias[j]
                out[place, k, j + 1] = total
    return out


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def _visible(width: int, side: int, length: int) -> Any:
    """First and last + 1 sample of a copy that a window shows, for starts at its sites - (W - 1), ..., side - 1."""
    low, high = np.zeros(width - 1 + side, np.int64), np.zeros(width - 1 + side, np.int64)
    for index in range(width - 1 + side):
        site = index - (width - 1)
        low[index], high[index] = max(0, -site), max(max(0, -site), min(length, side - site))
    return low, high


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def windows(
    table: Any, log_weights: Any, start: float, rate: float, width: int, side: int, stride: int, totals: Any, seen: Any
) -> Any:
    """Forward and backward sums of every window: ``totals`` gets its log-evidence against noise alone.

    Args:
        table: of :func:`prefixes`.
        log_weights: ``(k,)`` of the templates.
        start: chance that a copy starts at a site where one may.
        rate: copies per site.
        width: least distance of two copies.
        side: of a window.
        stride: of the windows.
        totals: ``(windows,)``, filled.
        seen: of the table's shape, or empty: posterior chances are added at the first sample seen of a copy and
            subtracted behind the last.

    Returns:
        Expected copies that reach into a window's sites or forbid them; and expected sites left empty by choice.
    """
    length = table.shape[2] - 1
    log_stay, log_start, log_rate = math.log1p(-start), math.log(start), math.log(rate)
    log_free = math.log1p(-rate * (width - 1)) if width > 1 else 0.0
    low, high = _visible(width, side, length)
    scores = np.zeros(width - 1 + side)  # of a start at site index - (width - 1), all templates
    begun = np.empty(width - 1 + side)  # that, with the chance to get there
    ahead, behind = np.empty(side), np.empty(side + 1)
    copies, left = 0.0, 0.0
    for window in range(len(totals)):
        origin = window * stride + length - width
        _score(table, log_weights, origin, low, high, scores)
        ahead[0] = log_free
        for index in range(width - 1):
            begun[index] = log_rate + scores[index]
        begun[width - 1] = log_start + scores[width - 1] + ahead[0]
        for site in range(1, side):
            ahead[site] = _add(log_stay + ahead[site - 1], begun[site - 1])
            begun[site + width - 1] = log_start + scores[site + width - 1] + ahead[site]
        total = log_stay + ahead[side - 1]
        for index in range(side - 1, side + width - 1):
            total = _add(total, begun[index])
        totals[window] = total
        if not seen.size:
            continue
        behind[side] = 0.0
        for site in range(side - 1, -1, -1):
            beyond = behind[min(site + width, side)]
            behind[site] = _add(log_stay + behind[site + 1], log_start + scores[site + width - 1] + beyond)
            left += math.exp(ahead[site] + log_stay + behind[site + 1] - total)
        for index in range(width - 1 + side):
            begun[index] = math.exp(begun[index] + behind[min(index + 1, side)] - total)
            copies += begun[index]
        _mark(table, log_weights, origin, low, high, begun, scores, seen)
    return copies, left


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def _score(table: Any, log_weights: Any, origin: int, low: Any, high: Any, scores: Any) -> None:
    """Log-likelihood ratios of a start at every site of a window, over all templates."""
    for index in range(len(scores)):
        if low[index] >= high[index]:
            scores[index] = 0.0
            continue
        best = -np.inf
        for k in range(len(log_weights)):
            upto, before = table[origin + index, k, high[index]], table[origin + index, k, low[index]]
            best = _add(best, log_weights[k] + upto - before)
        scores[index] = best


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def _mark(table: Any, log_weights: Any, origin: int, low: Any, high: Any, chances: Any, scores: Any, seen: Any) -> None:
    """Add chances of copies, shared out over templates, at their first samples seen; subtract them behind the last."""
    for index in range(len(scores)):
        if low[index] >= high[index]:
            continue
        for k in range(len(log_weights)):
            part = chances[index]
            if len(log_weights) > 1:
                gap = table[origin + index, k, high[index]] - table[origin + index, k, low[index]]
                part *= math.exp(log_weights[k] + gap - scores[index])
            seen[origin + index, k, low[index]] += part
            seen[origin + index, k, high[index]] -= part


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def plain_windows(
    table: Any, log_weights: Any, start: float, rate: float, width: int, side: int, stride: int, totals: Any, seen: Any
) -> Any:
    """The same as :func:`windows`, several times faster, where no product of ratios leaves the range of numbers."""
    _, count, ends = table.shape
    length, span, stay = ends - 1, width - 1 + side, 1.0 - start
    low, high = _visible(width, side, length)
    first = max(0, width - length)  # the starts before it leave nothing to be seen
    ratios, shares = np.ones(span), np.ones((span, count))
    begun, ahead, behind = np.empty(span), np.empty(side), np.ones(span + width)
    copies, left = 0.0, 0.0
    for window in range(len(totals)):
        origin = window * stride + length - width
        for index in range(first, span):
            ratio = 0.0
            for k in range(count):
                gap = table[origin + index, k, high[index]] - table[origin + index, k, low[index]]
                shares[index, k] = math.exp(log_weights[k] + gap)
                ratio += shares[index, k]
            ratios[index] = ratio
        for index in range(width - 1):
            begun[index] = rate * ratios[index]
        reached = 1.0 - rate * (width - 1)
        for site in range(side):
            if site:
                reached = stay * reached + begun[site - 1]
            ahead[site] = reached
            begun[site + width - 1] = start * ratios[site + width - 1] * reached
        total = stay * reached
        for index in range(side - 1, span):
            total += begun[index]
        totals[window] = math.log(total)
        if not seen.size:
            continue
        for site in range(side - 1, -1, -1):  # behind[side and beyond] is 1
            behind[site] = stay * behind[site + 1] + start * ratios[site + width - 1] * behind[site + width]
            left += ahead[site] * stay * behind[site + 1] / total
        scale = 1.0 / total
        for index in range(span):
            chance = begun[index] * behind[index + 1] * scale
            copies += chance
            if index < first:
                continue
            for k in range(count):
                part = chance if count == 1 else chance * shares[index, k] / ratios[index]
                seen[origin + index, k, low[index]] += part
                seen[origin + index, k, high[index]] -= part
    return copies, left


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def gather(signal: Any, seen: Any, numerator: Any, weight: Any) -> None:
    """Add to the weighted signal and the weight ``(k, L)`` of every template what ``seen`` says."""
    places, count, ends = seen.shape
    length = ends - 1
    padded = np.zeros(places + length - 1)
    padded[length - 1 : places] = signal
    for k in range(count):
        for place in range(places):
            chance = 0.0
            for j in range(length):  # outside of the signal the chance is zero
                chance += seen[place, k, j]
                numerator[k, j] += chance * padded[place + j]
                weight[k, j] += chance
