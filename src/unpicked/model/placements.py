"""Placements: where the object's images lie in the data, and what that makes of likelihood and statistics.

A placement owns the score, the log-likelihood and the sufficient statistics; EM, views and objects never know which
placement it is. For every view the statistics are two images (the talk's sums over patches and shifts collapse to
them, because a crop of a shifted template is a 0/1 mask): the *numerator*, the posterior-weighted sum of the windows
in the template's frame, and the *weight*, how often each template pixel was seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from unpicked._lazy import torch
from unpicked.model.noise import White
from unpicked.objects.base import Object
from unpicked.ops import correlate, shift
from unpicked.ops.window import tile

Stats = dict[str, Any]  # of tensors; Any because torch is imported late


class Placement(Protocol):
    """What EM asks of a placement. ``templates`` are ``(k, L, L)``, one per view; sums are float64."""

    @property
    def density(self) -> float:
        """Fraction of the data that copies of the object cover."""

    def log_likelihood(
        self, templates: torch.Tensor, log_weights: torch.Tensor, noise: White, image: torch.Tensor
    ) -> torch.Tensor:
        """Marginal log-likelihood of one micrograph, a float64 scalar."""

    def accumulate(
        self, templates: torch.Tensor, log_weights: torch.Tensor, noise: White, image: torch.Tensor
    ) -> Stats:
        """Sufficient statistics of one micrograph, additive over micrographs."""

    def empty(self, templates: torch.Tensor) -> Stats:
        """The statistics of no data: zeros."""

    def density_from(self, stats: Stats, side: int) -> torch.Tensor:
        """The density that maximises the expected log-likelihood, for objects of side L."""

    def moves(self, object: Object, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Named coefficients to try where EM may sit in an optimum of the placement's own making."""


@dataclass(frozen=True)
class Patches:
    """The micrograph cut into square windows, taken as independent (Bendory 2022; arXiv 2303.02157).

    A window is empty, or holds one copy or part of one, at any of the (B + L - 1)^2 offsets with equal probability.

    Attributes:
        side: side B of a window in pixels; None means the object's side, as published.
        stride: distance of neighbouring windows; None means B, no overlap.
    """

    side: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        for name in ("side", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 pixel, or None; got {value}")

    def window(self, length: int) -> tuple[int, int]:
        """Side and stride for objects of side ``length``."""
        side = self.side or length
        return side, self.stride or side


@dataclass(frozen=True)
class Anywhere:
    """Copies of the object anywhere in a micrograph, well separated, at whole pixels.

    Attributes:
        density: covered fraction: copies x L^2 / pixels.
        likelihood: how the sum over all configurations is approximated.
    """

    density: float = 0.1
    likelihood: Patches = Patches()

    def __post_init__(self) -> None:
        if not 0 < self.density < 1:
            raise ValueError(f"density must be a covered fraction between 0 and 1; got {self.density}")

    def log_likelihood(
        self, templates: torch.Tensor, log_weights: torch.Tensor, noise: White, image: torch.Tensor
    ) -> torch.Tensor:
        """Log-likelihood of one micrograph (overlapping windows are weighted by 1 / multiplicity)."""
        return self.accumulate(templates, log_weights, noise, image, statistics=False)["log_likelihood"]

    def empty(self, templates: torch.Tensor) -> Stats:
        """Zeros, float64."""
        zeros = torch.zeros_like(templates, dtype=torch.float64)
        stats = {"numerator": zeros, "weight": zeros.clone(), "views": zeros[:, 0, 0].clone()}
        names = ("occupied", "windows", "square", "sum", "pixels", "log_likelihood")
        return stats | {name: zeros.new_zeros(()) for name in names}

    def accumulate(
        self,
        templates: torch.Tensor,
        log_weights: torch.Tensor,
        noise: White,
        image: torch.Tensor,
        *,
        statistics: bool = True,
    ) -> Stats:
        """E-step of one micrograph (methods page, sections 5.2 and 5.3).

        Args:
            templates: ``(k, L, L)`` in the dtype in which scores are computed.
            log_weights: ``(k,)``.
            noise: present estimate; its mean is subtracted from the image.
            image: ``(H, W)``.
            statistics: False leaves numerator, weight and views at zero: log-likelihood only.

        Returns:
            ``numerator`` and ``weight`` ``(k, L, L)``, ``views`` ``(k,)`` expected copies per view, and the scalars
            ``occupied`` (expected number of windows that are not empty), ``windows``, ``square`` and ``sum`` (of
            y - mean), ``pixels``, ``log_likelihood``; all float64.
        """
        step = _Patchwise(self, templates, log_weights, noise)
        side, stride = self.likelihood.window(templates.shape[-1])
        windows = tile(image.to(templates) - noise.mean, side, stride)
        stats = self.empty(templates)
        for part in windows.split(step.rows):
            step.add(stats, part, statistics)
        share = (stride / side) ** 2  # a pixel is seen by (side / stride)^2 windows
        return stats if stride >= side else {name: value * share for name, value in stats.items()}

    def density_from(self, stats: Stats, side: int) -> torch.Tensor:
        """Covered fraction from the expected share of windows that are not empty, kept within what the model allows."""
        share = (stats["occupied"] / stats["windows"]).clamp(0.01, 0.99)
        return share / _reach(self.likelihood.window(side)[0], side)

    def moves(self, object: Object, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """The object moved so that its centre of mass is central, and by one voxel along each axis.

        Offsets are marginalised uniformly, so a shifted, truncated copy of the object is a local optimum.
        """
        values = object.values(x)
        mass = values.clamp(min=0)
        centre = torch.stack(
            [
                (mass.movedim(dim, 0).flatten(1).sum(1) * (torch.arange(n, device=x.device) - n // 2)).sum()
                for dim, n in zip((-1, -2, -3), values.shape[::-1], strict=True)
            ]
        ) / mass.sum().clamp(min=1e-300)
        if float(centre.norm()) > 0.25:
            yield "centre of mass to the centre", object.fit(shift.shift_volume(values, -centre))
        for axis in range(3):
            for sign in (1.0, -1.0):
                vector = torch.zeros(3, dtype=x.dtype, device=x.device)
                vector[axis] = sign
                name = f"one voxel along {'-' if sign < 0 else '+'}{'xyz'[axis]}"
                yield name, object.fit(shift.shift_volume(values, vector))


def _reach(side: int, length: int) -> float:
    """Share of windows that are not empty per unit of density."""
    return ((side + length - 1) / length) ** 2


class _Patchwise:
    """The E-step of windows of one size against one set of templates: what is prepared once, and the two passes."""

    def __init__(self, placement: Anywhere, templates: torch.Tensor, log_weights: torch.Tensor, noise: White) -> None:
        self.length = int(templates.shape[-1])
        self.side = placement.likelihood.window(self.length)[0]
        self.offsets = self.side + self.length - 1
        occupied = min(max(placement.density * _reach(self.side, self.length), 1e-12), 1 - 1e-6)
        self.log_empty = math.log1p(-occupied)
        self.log_views = log_weights.to(templates) + math.log(occupied) - 2 * math.log(self.offsets)
        self.variance = noise.sigma**2
        self.fft = correlate.fast_size(self.offsets)
        self.spectra = correlate.template_spectra(templates / self.variance, self.fft)
        norms = correlate.overlap_norms(templates.double(), self.side).to(templates)
        # -|t|^2 / (2 sigma^2), and no probability for the offsets that exist only to fill the FFT
        self.bias = torch.nn.functional.pad(
            norms / (-2 * self.variance), (0, self.fft - self.offsets) * 2, value=-math.inf
        )
        self.views = len(templates)
        # what is left out of the sums over views and shifts, as a logarithm: below rounding
        self.negligible = -42.0 if templates.dtype == torch.float64 else -18.0
        # scores of so many (window, view) pairs are held at once: within the cache of a CPU, enough to fill a GPU
        pairs = max(1, (1 << 19 if templates.device.type == "cpu" else 1 << 27) // self.fft**2)
        self.rows = min(64 if templates.device.type == "cpu" else 4096, pairs)
        self.columns = max(1, pairs // self.rows)

    def add(self, stats: Stats, windows: torch.Tensor, statistics: bool) -> None:
        """Add the statistics of ``(n, B, B)`` windows."""
        spectra = correlate.window_spectra(windows, self.fft)
        per_view = torch.cat(
            [correlate.log_sum_exp(self._scores(spectra[:, None], part).flatten(-2)) for part in self._columns()],
            1,
        )
        per_view = per_view + self.log_views
        evidence = torch.logaddexp(
            per_view.logsumexp(1), torch.full((), self.log_empty, dtype=windows.dtype, device=windows.device)
        )
        squares = windows.double().square().sum()
        pixels = windows.numel()
        stats["square"] += squares
        stats["sum"] += windows.double().sum()
        stats["pixels"] += pixels
        stats["windows"] += len(windows)
        stats["log_likelihood"] += (
            evidence.double().sum() - squares / (2 * self.variance) - pixels / 2 * math.log(2 * math.pi * self.variance)
        )
        if not bool(torch.isfinite(stats["log_likelihood"])):
            raise FloatingPointError(
                "the log-likelihood is not finite: the data or the present estimate hold NaN or infinity"
            )
        stats["occupied"] += -torch.expm1(self.log_empty - evidence.double()).sum()
        if statistics:
            self._gather(stats, spectra, per_view - evidence[:, None], evidence)

    def _scores(self, spectra: torch.Tensor, part: slice | torch.Tensor) -> torch.Tensor:
        """Log-likelihood ratios (y . t - |t|^2 / 2) / sigma^2 against an empty window, per offset."""
        scores = torch.fft.irfft2(spectra * self.spectra[part], s=(self.fft, self.fft))
        return scores.add_(self.bias[part])

    def _columns(self) -> Iterator[slice]:
        for first in range(0, self.views, self.columns):
            yield slice(first, min(first + self.columns, self.views))

    def _gather(self, stats: Stats, spectra: torch.Tensor, share: torch.Tensor, evidence: torch.Tensor) -> None:
        """Second pass, over the pairs of window and view that share the posterior."""
        rows, views = (share > self.negligible).nonzero(as_tuple=True)
        products = spectra.new_zeros((self.views, *spectra.shape[1:]))
        counts = evidence.new_zeros((self.views, self.fft, self.fft))
        pairs = self.rows * self.columns
        for row, view in zip(rows.split(pairs), views.split(pairs), strict=True):
            scores = self._scores(spectra[row], view)
            posterior = correlate.exp_(scores.add_((self.log_views[view] - evidence[row])[:, None, None]))
            counts.index_add_(0, view, posterior)
            products.index_add_(0, view, torch.fft.rfft2(posterior).conj_physical_().mul_(spectra[row]))
        counts = counts[:, : self.offsets, : self.offsets]
        stats["numerator"] += correlate.gathered_windows(products, self.fft, self.length)
        stats["weight"] += correlate.fold(counts.double(), self.side, self.length)
        stats["views"] += counts.double().sum((-2, -1))
