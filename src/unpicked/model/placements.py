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
        """E-step of one micrograph.

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
        if statistics:
            step.finish(stats)
        share = (stride / side) ** 2  # a pixel is seen by (side / stride)^2 windows
        return stats if stride >= side else {name: value * share for name, value in stats.items()}

    def density_from(self, stats: Stats, side: int) -> torch.Tensor:
        """Covered fraction from the expected share of windows that are not empty, kept within what the model allows."""
        share = (stats["occupied"] / stats["windows"]).clamp(1e-6, 0.99)
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
    """The E-step of windows of one size against one set of templates.

    For some windows at a time the exponentials of all scores are held, so that the second pass, which needs the
    evidence over all views, only has to scale them; where even that is too much they are computed again.
    """

    def __init__(self, placement: Anywhere, templates: torch.Tensor, log_weights: torch.Tensor, noise: White) -> None:
        self.length = int(templates.shape[-1])
        self.side = placement.likelihood.window(self.length)[0]
        self.offsets = self.side + self.length - 1
        occupied = placement.density * _reach(self.side, self.length)
        if not occupied < 1:
            raise ValueError(
                f"density must be below {1 / _reach(self.side, self.length):.3f} for windows of {self.side} pixels and "
                f"a box of {self.length}; got {placement.density}; try a lower density or smaller windows"
            )
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
        on_cpu = templates.device.type == "cpu"
        per_view = self.fft**2
        # scores held at once: 32 MB of float32 on a CPU, computed in blocks that stay in its cache
        self.rows = max(1, min(32 if on_cpu else 4096, (1 << 23 if on_cpu else 1 << 30) // (per_view * len(templates))))
        self.columns = max(1, (1 << 17 if on_cpu else 1 << 27) // (per_view * self.rows))
        self.kept = self.rows >= 8
        if not self.kept:
            self.rows = 8
            self.columns = max(1, self.columns // 8)
        self.products = torch.zeros_like(self.spectra)
        self.counts = torch.zeros_like(self.bias)

    def add(self, stats: Stats, windows: torch.Tensor, statistics: bool) -> None:
        """Add ``(n, B, B)`` windows to the scalar statistics and to the running sums."""
        spectra = correlate.window_spectra(windows, self.fft)
        blocks: list[tuple[torch.Tensor, torch.Tensor]] = []
        sums = []
        for part in self._columns():
            if spectra.requires_grad or self.spectra.requires_grad:
                sums.append(self._scores(spectra, part).flatten(-2).logsumexp(-1))
                continue
            block, top = self._exponentials(spectra, part)
            sums.append(block.sum(-1).log_().add_(top))
            if statistics and self.kept:
                blocks.append((block, top))
        per_view = torch.cat(sums, 1) + self.log_views
        empty = torch.full((), self.log_empty, dtype=windows.dtype, device=windows.device)
        evidence = torch.logaddexp(per_view.logsumexp(1), empty)
        self._scalars(stats, windows, evidence)
        if statistics:
            for index, part in enumerate(self._columns()):
                block, top = blocks[index] if self.kept else self._exponentials(spectra, part)
                self._gather(spectra, part, block, top + self.log_views[part] - evidence[:, None])

    def finish(self, stats: Stats) -> None:
        """Add the running sums to the statistics."""
        counts = self.counts[:, : self.offsets, : self.offsets].double()
        stats["numerator"] += correlate.gathered_windows(self.products, self.fft, self.length)
        stats["weight"] += correlate.fold(counts, self.side, self.length)
        stats["views"] += counts.sum((-2, -1))

    def _columns(self) -> list[slice]:
        views = len(self.bias)
        return [slice(first, min(first + self.columns, views)) for first in range(0, views, self.columns)]

    def _scores(self, spectra: torch.Tensor, part: slice) -> torch.Tensor:
        """Log-likelihood ratios (y . t - |t|^2 / 2) / sigma^2 against an empty window: ``(n, k, f, f)`` offsets."""
        scores = torch.fft.irfft2(spectra[:, None] * self.spectra[part], s=(self.fft, self.fft))
        return scores.add_(self.bias[part])

    def _exponentials(self, spectra: torch.Tensor, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """exp(scores - top) and top ``(n, k)``, the largest score of each window and view."""
        scores = self._scores(spectra, part).flatten(-2)
        top = scores.amax(-1)
        return correlate.exp_(scores.sub_(top[..., None])), top

    def _gather(self, spectra: torch.Tensor, part: slice, block: torch.Tensor, log_scale: torch.Tensor) -> None:
        """Posterior of a block of windows and views, summed into counts and (as spectra) into weighted windows."""
        posterior = block.mul_(log_scale.exp()[..., None]).unflatten(-1, (self.fft, self.fft))
        self.counts[part] += posterior.sum(0)
        weighted = torch.fft.rfft2(posterior).conj_physical_().mul_(spectra[:, None])
        self.products[part] += weighted.sum(0)

    def _scalars(self, stats: Stats, windows: torch.Tensor, evidence: torch.Tensor) -> None:
        square, pixels = windows.double().square().sum(), windows.numel()
        constant = pixels / 2 * math.log(2 * math.pi * self.variance)
        stats["square"] += square
        stats["sum"] += windows.double().sum()
        stats["pixels"] += pixels
        stats["windows"] += len(windows)
        stats["log_likelihood"] += evidence.double().sum() - square / (2 * self.variance) - constant
        stats["occupied"] += -torch.expm1(self.log_empty - evidence.double()).sum()
        if not bool(torch.isfinite(stats["log_likelihood"])):
            raise FloatingPointError(
                "the log-likelihood is not finite: the data or the present estimate hold NaN or infinity"
            )
