"""Copies of short signals along a line: exact sums over all configurations by forward-backward.

The distances of consecutive starts are independent (a renewal process), and at most two copies overlap, so that a
configuration's weight is a product over copies and over neighbours. Cost: O(n (L + h)) for n samples and h explicit
distances.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Float

from unpicked._lazy import torch


class Gaps(NamedTuple):
    """The law of the distance of two consecutive starts.

    Attributes:
        least: the least distance, at least half of the copies' length.
        chances: probabilities of ``least``, ``least + 1``, ...
        tail: probability of the longer ones.
        hazard: of these: chance of a start at every further site.
        slopes: derivatives of the logarithms of chances and tail with respect to the hazard; empty where they do not
            depend on it.
    """

    least: int
    chances: tuple[float, ...]
    tail: float
    hazard: float
    slopes: tuple[float, ...] = ()

    @property
    def reach(self) -> int:
        """Least distance of the tail."""
        return self.least + len(self.chances)

    @property
    def mean(self) -> float:
        """Mean distance."""
        explicit = sum((self.least + i) * chance for i, chance in enumerate(self.chances))
        return explicit + self.tail * (self.reach - 1 + 1 / self.hazard)


class Sums(NamedTuple):
    """What one signal adds to the statistics; see :func:`sums`.

    Attributes:
        log_ratio: log-likelihood ratio against pure noise.
        numerators: ``(s, k, L)`` per segment, posterior-weighted windows.
        weights: ``(s, k, L)``, how often each sample of the templates was seen.
        crosses: ``(s, L, L)`` expected pairs of samples of two copies that lie on each other (later sample first);
            ``(0, L, L)`` where copies cannot overlap.
        squares: ``(s,)`` sums of squares of the samples.
        numbers: ``(s,)`` numbers of samples.
        hazards: ``(s,)`` derivatives of the log-likelihood with respect to the hazard.
        gaps: ``(h + 1,)`` expected numbers of the explicit distances, and of the tail's.
        begins: ``(reach + 1,)`` expected ways to begin; zeros for a signal that begins free.
        starts: expected copies that began at a free site.
        free: expected free sites.
        chances: ``(T,)`` chance of a copy at every site, where asked for.
    """

    log_ratio: float
    numerators: torch.Tensor
    weights: torch.Tensor
    crosses: torch.Tensor
    squares: torch.Tensor
    numbers: torch.Tensor
    hazards: torch.Tensor
    gaps: torch.Tensor
    begins: torch.Tensor
    starts: float
    free: float
    chances: torch.Tensor


def sums(
    samples: Float[torch.Tensor, " n"],
    templates: Float[torch.Tensor, "k length"],
    log_weights: Float[torch.Tensor, " k"],
    variance: float,
    gaps: Gaps,
    *,
    cut: tuple[bool, bool] = (False, False),
    begin: tuple[tuple[float, ...], tuple[float, ...]] = ((), (0.0,)),
    segment: int | None = None,
    statistics: bool = True,
    chances: bool = False,
) -> Sums:
    """Posterior sums of one signal with copies of templates in white noise, to rounding.

    Args:
        samples: ``(n,)``, computed in float64.
        templates: ``(k, L)``, one per kind; overlapping copies need k = 1.
        log_weights: ``(k,)`` of the kinds.
        variance: of the noise.
        gaps: law of the distances.
        cut: whether the signal was cut out of a longer one at its beginning and end; copies may then lie in it in
            part. Else they lie in it whole.
        begin: chances that the first copy starts at the first sites, in order, and the derivatives of their
            logarithms (and of what they leave); empty for a signal that begins free.
        segment: sites of a segment; None means one segment.
        statistics: False: the log-likelihood only.
        chances: whether the chance of a copy at every site is wanted.

    Raises:
        ValueError: for a signal shorter than the templates, or overlaps that cannot be summed.
        FloatingPointError: if a sample, or the likelihood, is not finite.
    """
    import numpy as np

    from unpicked.ops import _chain  # compiled, so imported late

    kinds, length = templates.shape
    _check(len(samples), kinds, length, gaps)
    margins = [length - 1 if side else 0 for side in cut]
    padded = np.zeros(len(samples) + sum(margins))
    padded[margins[0] : margins[0] + len(samples)] = samples.detach().double().cpu().numpy()
    seen = (margins[0], margins[0] + len(samples))
    shapes = np.ascontiguousarray(templates.detach().double().cpu().numpy())
    scores, masses, exponents = _ratios(padded, shapes, log_weights, seen, variance)
    law, slopes = _law(gaps, begin[1])
    factors = _chain.pair_factors(shapes[0], gaps.least, _overlapping(gaps, length), variance)
    first = np.array(begin[0])
    forwards = _chain.forward(masses, exponents, law, first, shapes[0], factors, seen, variance)
    log_ratio = float(np.log(forwards[4]) + forwards[5] * np.log(2.0))
    if not np.isfinite(log_ratio):
        raise FloatingPointError("the log-likelihood is not finite: no configuration is possible")
    out = np.empty(len(masses) if chances else 0)
    segment = segment or len(masses)
    if statistics:
        found = _chain.backward(
            masses, exponents, law, first, forwards, padded, shapes, scores, factors, slopes, seen, variance, segment,
            out,
        )  # fmt: skip
    else:
        nothing = np.zeros((1, kinds, length)), np.zeros((0, length, length)), np.zeros(1), np.zeros(len(law[1]) + 1)
        found = (nothing[0], nothing[0], nothing[1], nothing[2], nothing[2], nothing[2], nothing[3], first, 0.0, 0.0)
    begins = np.zeros(gaps.reach + 1)
    if statistics and len(first):
        begins[: len(first)], begins[-1] = found[7][:-1], found[7][-1]
    tensors = [torch.from_numpy(np.ascontiguousarray(part)) for part in (*found[:7], begins, out)]
    names = ("numerators", "weights", "crosses", "squares", "numbers", "hazards", "gaps", "begins", "chances")
    named = dict(zip(names, tensors, strict=True))
    return Sums(log_ratio=log_ratio, starts=float(found[8]), free=float(found[9]), **named)


def _check(samples: int, kinds: int, length: int, gaps: Gaps) -> None:
    if samples < length:
        raise ValueError(f"a signal of {samples} samples does not hold a target of {length}")
    if 2 * gaps.least < length:
        raise ValueError(f"least distance must be at least half of {length} samples; got {gaps.least}")
    if gaps.least < length and kinds > 1:
        raise ValueError("copies of several kinds must not overlap; try another spacing, or one kind")
    if gaps.least + _overlapping(gaps, length) < length:
        raise ValueError("distances at which copies overlap must have chances of their own")


def _overlapping(gaps: Gaps, length: int) -> int:
    """Number of distances at which copies overlap."""
    return max(0, min(len(gaps.chances), length - gaps.least))


def _law(gaps: Gaps, first_slopes: tuple[float, ...]) -> tuple[Any, Any]:
    """The law of the distances for the loops, and the derivatives by the hazard of it and of the ways to begin."""
    import numpy as np

    slopes = np.concatenate([np.array(gaps.slopes or (0.0,) * (len(gaps.chances) + 1)), np.array(first_slopes)])
    return (gaps.least, np.array(gaps.chances), gaps.tail, gaps.hazard), slopes


def _ratios(padded: Any, shapes: Any, log_weights: torch.Tensor, seen: tuple[int, int], variance: float) -> Any:
    """Likelihood ratios of a copy at every site: scores or posteriors of the kinds, mantissas and exponents."""
    import numpy as np

    from unpicked.ops import _chain

    kinds, sites = len(shapes), len(padded) - shapes.shape[1] + 1
    scores = np.empty((kinds, sites))
    _chain.scores(padded, shapes, seen, variance, scores)
    logs = scores[0]
    if kinds > 1:
        logs = np.empty(sites)
        _chain.mixed(scores, log_weights.double().cpu().numpy(), logs)
    if not np.isfinite(logs).all():
        raise FloatingPointError("a score is not finite: the data or the present estimate hold NaN or infinity")
    masses, exponents = np.empty(sites), np.empty(sites, np.int32)
    _chain.split(logs, masses, exponents)
    return scores, masses, exponents


def window_scores(
    samples: Float[torch.Tensor, " n"],
    template: Float[torch.Tensor, " length"],
    sigma: float,
    gaps: Gaps,
    begin: tuple[tuple[float, ...], tuple[float, ...]],
    *,
    side: int,
    stride: int,
) -> Float[torch.Tensor, "w p"]:
    """Gradients of the log-likelihoods of windows, each cut out of the signal, by template, sigma and hazard.

    Args:
        samples: ``(n,)``.
        template: ``(L,)``.
        sigma: of the noise.
        gaps: law of the distances, none below L.
        begin: as for :func:`sums`.
        side: samples of a window.
        stride: distance of neighbouring windows.

    Returns:
        ``(w, L + 2)``, float64.

    Raises:
        ValueError: for windows that do not fit, or overlapping copies.
    """
    import numpy as np

    from unpicked.ops import _chain  # compiled, so imported late

    if not 1 <= side <= len(samples) or stride < 1:
        raise ValueError(f"windows must have 1 to {len(samples)} samples and a positive stride; got {side}, {stride}")
    if gaps.least < len(template):
        raise ValueError(f"copies must not overlap in windows; got a least distance of {gaps.least}")
    values = np.ascontiguousarray(samples.double().numpy())
    law, slopes = _law(gaps, begin[1])
    shape = np.ascontiguousarray(template.double().numpy())[None]
    found = _chain.window_scores(values, shape, law, np.array(begin[0]), slopes, np.ones(0), sigma, side, stride)
    return torch.from_numpy(found)
