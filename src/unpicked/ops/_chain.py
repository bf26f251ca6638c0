"""The compiled loops of :mod:`unpicked.ops.chain`: forward, then backward with all sums on the way.

A weight is a mantissa with a power of two, ``m 2^e``, so that log-likelihood ratios of any size neither overflow nor
vanish; adding two of them takes one look-up.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
_NONE = -(1 << 28)  # exponent of zero
_LARGE, _SMALL = 2.0**200, 2.0**-200
_POWERS = 2.0 ** np.arange(-1100.0, 901.0)  # the first ones are zero
_STEP = 1024  # sites whose scores are computed at once


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def scores(samples: Any, templates: Any, seen: Any, variance: Any, out: Any) -> None:
    """Log-likelihood ratios (y[t : t + L] . x - |x|^2 / 2) / sigma^2 of every site t, ``(k, T)``.

    Args:
        samples: ``(n,)`` padded with zeros where the signal was cut out of a longer one.
        templates: ``(k, L)``.
        seen: first and last + 1 of the samples that were measured; templates count where they overlap them.
        variance: sigma^2.
        out: ``(k, T)``, T = n - L + 1.
    """
    kinds, length = templates.shape
    sites = out.shape[1]
    for kind in range(kinds):
        norm = 0.0
        for j in range(length):
            norm += templates[kind, j] ** 2
        for first in range(0, sites, _STEP):
            some = out[kind, first : min(first + _STEP, sites)]
            some[:] = -0.5 * norm
            for j in range(length):
                value, part = templates[kind, j], samples[first + j : first + j + len(some)]
                for i in range(len(some)):
                    some[i] += value * part[i]
            for i in range(len(some)):
                some[i] /= variance
        for t in range(sites):
            if t >= seen[0] and t + length <= seen[1]:
                continue
            for j in range(length):
                if not seen[0] <= t + j < seen[1]:
                    out[kind, t] += 0.5 * templates[kind, j] ** 2 / variance


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def mixed(scores: Any, log_weights: Any, out: Any) -> None:
    """Log of the weighted sum over kinds; ``scores`` ``(k, T)`` become posteriors of the kinds."""
    kinds = len(scores)
    for t in range(scores.shape[1]):
        top = -np.inf
        for kind in range(kinds):
            scores[kind, t] += log_weights[kind]
            top = max(top, scores[kind, t])
        total = 0.0
        for kind in range(kinds):
            scores[kind, t] = np.exp(scores[kind, t] - top)
            total += scores[kind, t]
        for kind in range(kinds):
            scores[kind, t] /= total
        out[t] = top + np.log(total)


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def split(logs: Any, mantissas: Any, exponents: Any) -> None:
    """Exponentials as ``m 2^e`` with m from 1 to 2."""
    for t in range(len(logs)):
        power = np.floor(logs[t] * 1.4426950408889634)
        mantissas[t] = np.exp(logs[t] - power * 0.6931471805599453)
        exponents[t] = np.int32(power)


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def pair_factors(template: Any, least: Any, count: Any, variance: Any) -> Any:
    """exp(-<x, x moved by d> / sigma^2) for d = least, least + 1, ...: what the overlap of two copies costs."""
    out = np.ones(count)
    for i in range(count):
        out[i] = np.exp(-_overlap(template, least + i, 0, len(template), 0, 1 << 62) / variance)
    return out


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def forward(
    masses: Any, exponents: Any, gaps: Any, first: Any, template: Any, factors: Any, seen: Any, variance: Any
) -> Any:
    """Weights of all beginnings of a configuration.

    Args:
        masses: ``(T,)`` likelihood ratio of a copy at every site, mantissas.
        exponents: ``(T,)`` their powers of two.
        gaps: ``(least, chances (h,), tail, hazard)``: the distance of two starts is ``least + i`` with chance
            ``chances[i]``, else the sites from ``least + h`` on are free, and each starts a copy with chance
            ``hazard``.
        first: ``(r,)`` chances that the first copy starts at site 0, 1, ..., r - 1 at most T - 1; with what is left
            site r is free.
        template: ``(L,)`` of overlapping copies.
        factors: what :func:`pair_factors` gives of it.
        seen: as for :func:`scores`.
        variance: sigma^2.

    Returns:
        ``starts`` and ``free``: mantissas and exponents ``(T,)`` of the weights of the sites' two states, and
        mantissa and exponent of the sum over all configurations.
    """
    least, chances, tail, hazard = gaps
    sites, reach = len(masses), least + len(chances)
    sm, se = np.zeros(sites), np.full(sites, _NONE, np.int32)
    fm, fe = np.zeros(sites), np.full(sites, _NONE, np.int32)
    left = 1.0
    for i in range(len(first)):
        left -= first[i]
    m, e = 0.0, np.int32(_NONE)
    for t in range(sites):
        if t == len(first):
            m, e = _plus(m, e, max(left, 0.0), 0)
        fm[t], fe[t] = m, e
        a, b = hazard * m, e
        for i in range(min(len(chances), t - least + 1)):
            s = t - least - i
            a, b = _plus(a, b, chances[i] * sm[s] * _factor(template, factors, i, least, s, seen, variance), se[s])
        if t < len(first):
            a, b = _plus(a, b, first[t], 0)
        sm[t], se[t] = _scaled(a * masses[t], b + exponents[t])
        m *= 1 - hazard
        s = t + 1 - reach
        if s >= 0:
            m, e = _plus(m, e, tail * sm[s], se[s])
        m, e = _scaled(m, e)
    # a configuration ends free, or with a copy whose next one would start behind the end
    if len(first) == sites:
        m, e = _plus(m, e, max(left, 0.0), 0)
    for s in range(max(0, sites - reach), sites):
        behind = tail if s + reach > sites else 0.0
        for i in range(len(chances)):
            if s + least + i >= sites:
                behind += chances[i]
        m, e = _plus(m, e, behind * sm[s], se[s])
    return sm, se, fm, fe, m, e


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def backward(
    masses: Any,
    exponents: Any,
    gaps: Any,
    first: Any,
    forwards: Any,
    samples: Any,
    templates: Any,
    kinds: Any,
    factors: Any,
    slopes: Any,
    seen: Any,
    variance: Any,
    segment: Any,
    chances_out: Any,
) -> Any:
    """Posterior chances of all sites, summed in segments of ``segment`` sites.

    Args:
        masses: as for :func:`forward`.
        exponents: as for :func:`forward`.
        gaps: as for :func:`forward`.
        first: as for :func:`forward`.
        forwards: what :func:`forward` returned.
        samples: as for :func:`scores`.
        templates: as for :func:`scores`.
        kinds: ``(k, T)`` posterior of the kinds at a site; any shape for one kind.
        factors: as for :func:`forward`.
        slopes: ``(h + 1 + r + 1,)`` derivatives, with respect to the hazard, of the logarithms of chances, tail,
            ``first`` and what that leaves.
        seen: as for :func:`scores`.
        variance: sigma^2.
        segment: sites of a segment.
        chances_out: ``(T,)``, filled with the chance of a copy at every site; or ``(0,)``.

    Returns:
        Per segment: numerators and weights ``(s, k, L)``, squares and numbers of samples, and the derivative of the
        log-likelihood with respect to the hazard, ``(s,)`` each; cross weights ``(s, L, L)`` of overlapping copies
        ``(0, L, L)`` where they cannot overlap; and in all: expected numbers of gaps ``(h + 1,)`` (the last one: of
        the tail), of the ways to begin ``(r + 1,)``, of starts at free sites, and of free sites.
    """
    least, chances, tail, hazard = gaps
    sm, se, fm, fe, zm, ze = forwards
    sites, reach, length = len(masses), least + len(chances), templates.shape[1]
    count, crossing = (sites + segment - 1) // segment, max(0, min(len(chances), length - least))
    numerators = np.zeros((count, len(templates), length))
    weights = np.zeros((count, len(templates), length))
    whole = np.zeros((count, len(templates)))  # copies that were seen whole
    crosses = np.zeros((count if crossing else 0, length, length))
    pairs = np.zeros(max(crossing, 1))
    squares, numbers, hazards = np.zeros(count), np.zeros(count), np.zeros(count)
    gap_counts, starts, free = np.zeros(len(chances) + 1), 0.0, 0.0
    begins, begin_slopes, left = np.zeros(len(first) + 1), slopes[len(chances) + 1 :], 1.0
    bm, be = np.zeros(sites + 1), np.zeros(sites + 1, np.int32)  # of a free site
    cm, ce = np.zeros(sites), np.zeros(sites, np.int32)  # of a site where a copy started
    bm[sites] = 1.0
    inverse, of_start, of_none = 1 / zm, 1 / hazard, 1 / (1 - hazard)
    where = count
    numerator, weight, whole_ = numerators[0], weights[0], whole[0]
    for t in range(sites - 1, -1, -1):
        if t < where * segment:
            where -= 1
            numerator, weight, whole_ = numerators[where], weights[where], whole[where]
        base = sm[t] * inverse
        # what follows a copy here
        if t + reach <= sites:
            m, e = tail * bm[t + reach], be[t + reach]
        else:
            m, e = tail, np.int32(0)
        share = base * m * _power(se[t] + e - ze)
        gap_counts[len(chances)] += share
        slope = share * slopes[len(chances)]
        for i in range(len(chances)):
            u = t + least + i
            if u < sites:
                factor = _factor(templates[0], factors, i, least, t, seen, variance)
                a, b = chances[i] * factor * masses[u] * cm[u], exponents[u] + ce[u]
            else:
                a, b = chances[i], np.int32(0)
            m, e = _plus(m, e, a, b)
            share = base * a * _power(se[t] + b - ze)
            gap_counts[i] += share
            slope += share * slopes[i]
            if i < crossing and u < sites:
                if t >= seen[0] and t + length <= seen[1]:
                    pairs[i] += share
                else:
                    for j in range(length - least - i):
                        if seen[0] <= u + j < seen[1]:
                            crosses[where, j + least + i, j] += share
        cm[t], ce[t] = _scaled(m, e)
        m, e = hazard * masses[t] * cm[t], exponents[t] + ce[t]
        begun = fm[t] * inverse * m * _power(fe[t] + e - ze)
        starts += begun
        m, e = _plus((1 - hazard) * bm[t + 1], be[t + 1], m, e)
        bm[t], be[t] = _scaled(m, e)
        open_ = fm[t] * inverse * bm[t] * _power(fe[t] + be[t] - ze)
        free += open_
        hazards[where] += slope + begun * of_start - (open_ - begun) * of_none
        if t < len(first):
            begins[t] = first[t] * inverse * masses[t] * cm[t] * _power(exponents[t] + ce[t] - ze)
            hazards[where] += begins[t] * begin_slopes[t]
            left -= first[t]
        chance = base * cm[t] * _power(se[t] + ce[t] - ze)
        if len(chances_out):
            chances_out[t] = chance
        if chance > 1e-18:
            _gather(samples, t, chance, kinds, seen, numerator, weight, whole_)
        if crossing and t == where * segment:
            for i in range(crossing):
                for j in range(length - least - i):
                    crosses[where, j + least + i, j] += pairs[i]
                pairs[i] = 0.0
    for where in range(count):
        for kind in range(len(templates)):
            weights[where, kind] += whole[where, kind]
    begins[len(first)] = max(left, 0.0) * inverse * bm[len(first)] * _power(be[len(first)] - ze)
    hazards[0] += begins[len(first)] * begin_slopes[len(first)]
    for where in range(count):
        part = samples[max(seen[0], where * segment) : seen[1] if where == count - 1 else (where + 1) * segment]
        squares[where] = (part**2).sum()
        numbers[where] = len(part)
    return numerators, weights, crosses, squares, numbers, hazards, gap_counts, begins, starts, free


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def window_scores(
    samples: Any,
    template: Any,
    gaps: Any,
    first: Any,
    slopes: Any,
    factors: Any,
    deviation: Any,
    side: Any,
    stride: Any,
) -> Any:
    """Scores ``(w, L + 2)`` of windows as signals of their own: gradients by template, sigma and hazard."""
    length, variance = template.shape[1], deviation**2
    margin, sites = length - 1, side + length - 1
    seen = (margin, margin + side)
    padded, logs = np.zeros(side + 2 * margin), np.empty((1, sites))
    masses, exponents, nothing = np.empty(sites), np.empty(sites, np.int32), np.empty(0)
    out = np.empty(((len(samples) - side) // stride + 1, length + 2))
    for number in range(len(out)):
        padded[margin : margin + side] = samples[number * stride : number * stride + side]
        scores(padded, template, seen, variance, logs)
        split(logs[0], masses, exponents)
        forwards = forward(masses, exponents, gaps, first, template[0], factors, seen, variance)
        found = backward(
            masses,
            exponents,
            gaps,
            first,
            forwards,
            padded,
            template,
            logs,
            factors,
            slopes,
            seen,
            variance,
            sites,
            nothing,
        )
        misfit = found[3][0]
        for j in range(length):
            fitted = found[1][0, 0, j] * template[0, j]
            out[number, j] = (found[0][0, 0, j] - fitted) / variance
            misfit += (fitted - 2 * found[0][0, 0, j]) * template[0, j]
        out[number, length] = (misfit / variance - found[4][0]) / deviation
        out[number, length + 1] = found[5][0]
    return out


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def _gather(samples: Any, t: Any, chance: Any, kinds: Any, seen: Any, numerator: Any, weight: Any, whole: Any) -> None:
    """Add the window of a site, weighted by its chance and the posterior of the kinds."""
    length = numerator.shape[1]
    inside = t >= seen[0] and t + length <= seen[1]
    for kind in range(len(numerator)):
        share = chance if len(numerator) == 1 else chance * kinds[kind, t]
        if inside:
            whole[kind] += share
            for j in range(length):
                numerator[kind, j] += share * samples[t + j]
        else:
            for j in range(length):
                if seen[0] <= t + j < seen[1]:
                    numerator[kind, j] += share * samples[t + j]
                    weight[kind, j] += share


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def _factor(template: Any, factors: Any, i: Any, least: Any, s: Any, seen: Any, variance: Any) -> Any:
    """What the overlap of copies at s and s + least + i costs."""
    length = len(template)
    if least + i >= length:
        return 1.0
    if s >= seen[0] and s + length <= seen[1]:
        return factors[i]
    return np.exp(-_overlap(template, least + i, s, length, seen[0], seen[1]) / variance)


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def _overlap(template: Any, distance: Any, s: Any, length: Any, low: Any, high: Any) -> Any:
    total = 0.0
    for j in range(length - distance):
        if low <= s + distance + j < high:
            total += template[j + distance] * template[j]
    return total


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def _power(exponent: Any) -> Any:
    """2^exponent, 0 far below."""
    return _POWERS[max(min(exponent, 900), -1100) + 1100]


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def _plus(m: Any, e: Any, n: Any, f: Any) -> Any:
    """Sum of two weights, without branches: at low signal-to-noise they could not be foreseen."""
    f = np.int32(f) if n != 0 else np.int32(_NONE)
    top = max(np.int32(e), f)
    return m * _POWERS[max(e - top, -1100) + 1100] + n * _POWERS[max(f - top, -1100) + 1100], np.int32(top)


@_jit  # type: ignore[untyped-decorator, unused-ignore]
def _scaled(m: Any, e: Any) -> Any:
    """The same with a mantissa of moderate size."""
    if m == 0:
        return 0.0, np.int32(_NONE)
    while m > _LARGE:
        m *= _SMALL
        e += 200
    while m < _SMALL:
        m *= _LARGE
        e -= 200
    return m, np.int32(e)
