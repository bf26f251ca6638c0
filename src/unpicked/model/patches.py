"""The published likelihood: the micrograph as independent square windows (patches), or the signal as windows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from unpicked._lazy import torch
from unpicked.model.likelihoods import Scene, Stats, Step, empty
from unpicked.model.noise import variance_of
from unpicked.model.signal_patches import SignalStep, signal_density
from unpicked.ops import correlate, evidence
from unpicked.ops.window import tile


@dataclass(frozen=True)
class Patches:
    """The micrograph cut into square windows, taken as independent (Bendory 2022; arXiv 2303.02157).

    A window is empty, or holds one copy or part of one, at any of the (B + L - 1)^2 offsets. Overlapping windows are
    weighted by 1 / multiplicity. A window that holds a masked pixel is left out. A window of a signal holds all the
    copies and parts of copies that fit: :mod:`unpicked.model.signal_patches`; ``Patches(3 * L, 1)`` loses hardly any of
    its information.

    Attributes:
        side: side B of a window in pixels; None means the object's side, as published.
        stride: distance of neighbouring windows; None means B, no overlap.
        law: probabilities of the offsets: all equal, or free (estimated; for copies that may lie closer).
    """

    side: int | None = None
    stride: int | None = None
    law: Literal["uniform", "free"] = "uniform"
    exact: ClassVar[bool] = True
    scored: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("side", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 pixel, or None; got {value}")

    def window(self, length: int) -> tuple[int, int]:
        """Side and stride for objects of side ``length``."""
        side = self.side or length
        return side, self.stride or side

    def step(self, scene: Scene, *, statistics: bool = True) -> Step:
        """Begin an E-step."""
        if scene.through is not None:
            raise ValueError(
                "windows know neither contrast transfer nor whitening; try the lattice gas, Gas() or Window()"
            )
        if scene.templates.dim() == 2:
            if scene.score is not None:
                raise ValueError("windows of a signal take no scores; try the chain, which sums the information itself")
            if self.law != "uniform":
                raise ValueError("a free law of the offsets is for images; for signals try spacing='arbitrary'")
            return SignalStep(self, scene, statistics)
        return PatchStep(self, scene, statistics)

    def density(self, stats: Stats, length: int, width: int) -> torch.Tensor:
        """Covered fraction from the expected share of windows that are not empty, kept within what the model allows."""
        if stats["numerator"].dim() == 2:
            return signal_density(stats, length, width)
        share = (stats["occupied"] / stats["windows"]).clamp(1e-6, 0.99)
        return share / reach(self.window(length)[0], length)


def reach(side: int, length: int) -> float:
    """Share of windows that are not empty per unit of density."""
    return ((side + length - 1) / length) ** 2


class PatchStep:
    """The E-step of windows of one size against one set of templates.

    Scores come from FFTs, or offset by offset from matrix products of what overlaps, whichever is less work. The
    posterior needs the evidence over all views and offsets, so scores are computed twice, but for FFTs of which some
    fit in memory.
    """

    def __init__(self, likelihood: Patches, scene: Scene, statistics: bool, *, by_fft: bool | None = None) -> None:
        templates = scene.templates
        self.length, self.noise, self.statistics = scene.length, scene.noise, statistics
        self.side, self.stride = likelihood.window(self.length)
        self.offsets = self.side + self.length - 1
        self.margin = scene.margin
        box = self.length - 2 * scene.margin
        occupied = scene.density * reach(self.side, box)
        if not occupied < 1:
            raise ValueError(
                f"density must be below {1 / reach(self.side, box):.3f} for windows of {self.side} pixels and "
                f"a box of {box}; got {scene.density}; try a lower density or smaller windows"
            )
        self.dtype, self.device = templates.dtype, templates.device
        self.log_empty, self.log_occupied = math.log1p(-occupied), math.log(occupied)
        self.variance = variance_of(scene.noise)
        self.templates = templates / self.variance
        self.log_views = scene.log_weights.to(templates) + self.log_occupied
        self.bias = self._biases(templates, scene.shifts)
        self.counts = torch.zeros_like(self.bias, dtype=torch.float64)
        self.by_fft = correlate.fft_pays(self.side, self.length) if by_fft is None else by_fft
        self.score, self.masks = scene.score, scene.masks
        apart = self.by_fft or scene.margin or self.score is not None or evidence.needs_gradient(templates)
        self.spectral = _Spectral(self) if apart else None
        self.ratios: list[torch.Tensor] = []  # per window: log of occupied against empty evidence
        self.stats = empty(templates) | {"offsets": self.counts.new_zeros((self.offsets,) * 2)}
        if self.score is not None:
            none = self.score(templates[None][:0], templates[None][:0], 0).double()
            self.stats["information"] = none.mT @ none

    def _biases(self, templates: torch.Tensor, shifts: torch.Tensor | None) -> torch.Tensor:
        """-|t|^2 / (2 sigma^2) + log p(offset) + log p(view, not empty) ``(k, s, s)``."""
        norms = correlate.overlap_norms(templates.double(), self.side)
        law = -2 * math.log(self.offsets) if shifts is None else shifts.to(norms)
        if self.margin:  # what shows but its tail is not looked for
            inner, margin = self.offsets - 2 * self.margin, (self.margin,) * 4
            law = torch.nn.functional.pad(norms.new_full((inner,) * 2, -2 * math.log(inner)), margin, value=-math.inf)
        return (law - norms / (2 * self.variance) + self.log_views.double()[:, None, None]).to(templates)

    def add(self, image: torch.Tensor, seed: int, index: int = 0) -> None:
        """Add the windows of one micrograph."""
        windows = tile(image.to(self.device, self.dtype) - self.noise.mean, self.side, self.stride)
        if self.masks is not None:
            windows = windows[tile(self.masks.read(index).to(self.device), self.side, self.stride).flatten(1).all(1)]
            if not len(windows):
                return
        if evidence.needs_gradient(windows) and self.spectral is None:
            self.spectral = _Spectral(self)
        if self.spectral is not None:
            occupied = torch.cat([self.spectral.add(part) for part in windows.split(self.spectral.rows)])
        else:
            parts = evidence.share_out(
                lambda first, last: self._direct(windows[first:last]), len(windows), windows, self.templates
            )
            occupied = torch.cat([part for part, _, _ in parts])
            for _, counts, numerator in parts:
                self.counts += counts
                self.stats["numerator"] += numerator
        if not self.statistics:
            self.ratios.append((occupied.detach() - self.log_occupied).double())
        self._scalars(self.stats, windows, self.against_empty(occupied))

    def against_empty(self, occupied: torch.Tensor) -> torch.Tensor:
        """Log-evidence of windows that may be empty too."""
        return torch.logaddexp(occupied, torch.full_like(occupied, self.log_empty))

    def finish(self) -> Stats:
        """The statistics; a pixel is seen by (side / stride)^2 windows, by which all sums are divided."""
        stats = self.stats
        if self.statistics:
            if self.spectral is not None:
                stats["numerator"] += self.spectral.numerator()
            stats["weight"] += correlate.fold(self.counts, self.side, self.length)
            stats["views"] += self.counts.sum((-2, -1))
            stats["offsets"] += self.counts.sum(0)
        share = (self.stride / self.side) ** 2
        return stats if share >= 1 else {name: value * share for name, value in stats.items()}

    def _direct(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-evidence of an object ``(n,)``, counts and numerator of ``(n, B, B)`` windows, by matrix products."""
        counts = self.counts.new_zeros(self.offsets, self.offsets, len(self.bias))
        numerator = self.counts.new_zeros(self.length, self.length, len(self.bias))
        templates = self.templates.permute(1, 2, 0).contiguous()
        bias = self.bias.permute(1, 2, 0).contiguous()
        columns = evidence.block_length(len(self.bias), windows)
        memory = torch.empty_like(windows[:0, 0, 0])
        cuts = list(correlate.overlaps(self.side, self.length))
        found = []
        for some in windows.split(8 * columns):  # what is cut out of the templates serves eight blocks
            pieces = [part.permute(1, 2, 0).contiguous() for part in some.split(columns)]
            logs = [evidence.LogSum(part[0]) for part in pieces]
            for offset, of_window, of_template in cuts:
                seen = templates[of_template].flatten(0, 1).mT.contiguous()
                for part, log in zip(pieces, logs, strict=True):
                    log.add(evidence.product(seen, part[of_window].flatten(0, 1), memory), bias[offset])
            occupied = torch.cat([log.value() for log in logs])
            found.append(occupied)
            totals = self.against_empty(occupied).split(columns)
            for offset, of_window, of_template in cuts if self.statistics else []:
                seen = templates[of_template].flatten(0, 1).mT.contiguous()
                sums = torch.zeros_like(seen.mT)
                for part, total in zip(pieces, totals, strict=True):
                    overlap = part[of_window].flatten(0, 1)
                    scores = evidence.product(seen, overlap, memory)
                    sums.addmm_(overlap, evidence.posterior(scores, bias[offset], total, counts[offset]).mT)
                numerator[of_template] += sums.view_as(numerator[of_template])
        return torch.cat(found), counts.permute(2, 0, 1), numerator.permute(2, 0, 1)

    def _scalars(self, stats: Stats, windows: torch.Tensor, total: torch.Tensor) -> None:
        square, pixels = windows.double().square().sum(), windows.numel()
        constant = pixels / 2 * math.log(2 * math.pi * self.variance)
        stats["square"] += square
        stats["sum"] += windows.double().sum()
        stats["pixels"] += pixels
        stats["windows"] += len(windows)
        stats["log_likelihood"] += total.double().sum() - square / (2 * self.variance) - constant
        stats["occupied"] += -torch.expm1(self.log_empty - total.double()).sum()
        if not bool(torch.isfinite(stats["log_likelihood"])):
            raise FloatingPointError(
                "the log-likelihood is not finite: the data or the present estimate hold NaN or infinity"
            )


class _Spectral:
    """Scores and weighted windows by FFT.

    For some windows at a time the exponentials of all scores are held, so that the second pass only has to scale
    them; where even that is too much they are computed again.
    """

    def __init__(self, step: PatchStep) -> None:
        self.step, self.size = step, correlate.fast_size(step.offsets)
        self.spectra = correlate.template_spectra(step.templates, self.size)
        # no probability for the offsets that only fill the FFT
        self.bias = torch.nn.functional.pad(step.bias, (0, self.size - step.offsets) * 2, value=-math.inf)
        per_view, views = self.size**2, len(step.bias)
        # scores held at once: 32 MB of float32 on a CPU, computed in blocks that stay in its cache
        on_cpu = step.device.type == "cpu"
        self.rows = max(1, min(32 if on_cpu else 4096, (1 << 23 if on_cpu else 1 << 30) // (per_view * views)))
        columns = max(1, (1 << 17 if on_cpu else 1 << 27) // (per_view * self.rows))
        self.kept = self.rows >= 8
        if not self.kept:
            self.rows = 8
            columns = max(1, columns // 8)
        self.columns = [slice(first, min(first + columns, views)) for first in range(0, views, columns)]
        self.products = torch.zeros_like(self.spectra)

    def add(self, windows: torch.Tensor) -> torch.Tensor:
        """Log-evidence of an object ``(n,)``; the running sums of the statistics grow."""
        spectra = correlate.window_spectra(windows, self.size)
        blocks: list[tuple[torch.Tensor, torch.Tensor]] = []
        sums = []
        for part in self.columns:
            if evidence.needs_gradient(spectra, self.spectra):
                sums.append(self._scores(spectra, part).flatten(-2).logsumexp(-1))
                continue
            block, top = self._exponentials(spectra, part)
            sums.append(block.sum(-1).log_().add_(top))
            if self.step.statistics and self.kept:
                blocks.append((block, top))
        occupied = torch.cat(sums, 1).logsumexp(1)
        if self.step.statistics:
            total = self.step.against_empty(occupied).detach()
            seen = []
            for index, part in enumerate(self.columns):
                block, top = blocks[index] if blocks else self._exponentials(spectra.detach(), part)
                seen.append(self._gather(spectra.detach(), part, block, top - total[:, None]))
            if self.step.score is not None:  # every window is a part of the micrograph
                numerators, weights = (torch.cat([pair[index] for pair in seen], 1) for index in range(2))
                scores = self.step.score(numerators, weights, 0).double()
                self.step.stats["information"] += scores.mT @ scores
        return occupied

    def numerator(self) -> torch.Tensor:
        """Posterior-weighted windows ``(k, L, L)``."""
        return correlate.gathered_windows(self.products, self.size, self.step.length)

    def _scores(self, spectra: torch.Tensor, part: slice) -> torch.Tensor:
        """Log-likelihood ratios (y . t - |t|^2 / 2) / sigma^2 + log prior: ``(n, k, f, f)`` offsets."""
        scores = torch.fft.irfft2(spectra[:, None] * self.spectra[part], s=(self.size, self.size))
        return scores.add_(self.bias[part])

    def _exponentials(self, spectra: torch.Tensor, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """exp(scores - top) and top ``(n, k)``, the largest score of each window and view."""
        scores = self._scores(spectra.detach(), part).detach().flatten(-2)
        top = scores.amax(-1)
        return correlate.exp_(scores.sub_(top[..., None])), top

    def _gather(
        self, spectra: torch.Tensor, part: slice, block: torch.Tensor, log_scale: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Posterior of a block of windows and views, summed into counts and (as spectra) into weighted windows.

        Where scores are asked for, also the weighted windows and weights of each window, ``(n, k, L, L)``.
        """
        spectra = spectra.detach()
        posterior = block.mul_(log_scale.detach().exp()[..., None]).unflatten(-1, (self.size, self.size))
        self.step.counts[part] += posterior.sum(0)[..., : self.step.offsets, : self.step.offsets]
        weighted = torch.fft.rfft2(posterior).conj_physical_().mul_(spectra[:, None])
        self.products[part] += weighted.sum(0)
        if self.step.score is None:
            return ()
        length, offsets = self.step.length, self.step.offsets
        numerators = correlate.gathered_windows(weighted.flatten(0, 1), self.size, length)
        weights = correlate.fold(posterior[..., :offsets, :offsets].flatten(0, 1), self.step.side, length)
        return numerators.unflatten(0, weighted.shape[:2]), weights.unflatten(0, weighted.shape[:2])
