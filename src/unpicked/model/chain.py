"""Copies along a signal, with exact sums over all their configurations (forward-backward)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from unpicked._lazy import torch
from unpicked.model.likelihoods import Plain, Score, Stats
from unpicked.model.noise import Noise
from unpicked.model.spacing import Counts, HardCore, Spacing, begins
from unpicked.model.views import View
from unpicked.objects.base import Object, Projector
from unpicked.ops import chain


@dataclass(frozen=True)
class Chain(Plain):
    """Copies of the object anywhere along a signal, none or some of them overlapping: the exact likelihood in 1-D.

    Attributes:
        spacing: law of the distances of consecutive copies.
        cut: whether the signals were cut out of longer ones, so that copies may lie in them in part. Inner borders
            of signals that are read in blocks always count as cuts.
    """

    spacing: Spacing = field(default_factory=HardCore)
    cut: bool = False
    positions: ClassVar[int] = 1
    single: ClassVar[bool] = False
    exact: ClassVar[bool] = True
    scored: ClassVar[bool] = False

    @property
    def density(self) -> float:
        """Covered fraction, copies x L / samples."""
        return self.spacing.density

    def step(
        self,
        templates: torch.Tensor,
        log_weights: torch.Tensor,
        noise: Noise,
        *,
        statistics: bool = True,
        score: Score | None = None,
    ) -> ChainStep:
        """Begin an E-step against templates ``(k, L)``; it always sums the information of the data."""
        if templates.dim() != 2:
            raise ValueError(f"chains need templates (kinds, samples); got shape {tuple(templates.shape)}")
        if score is not None:
            raise ValueError("chains sum the information themselves; leave score out")
        return ChainStep(self, templates.double(), log_weights.double(), noise, statistics)

    def estimates(self, stats: Stats | None, side: int, *, known: bool) -> dict[str, torch.Tensor]:
        """Parameters of the spacing law; from the statistics where given and not known."""
        if stats is None or known:
            return self.spacing.parameters
        counts = Counts(stats["gaps"], stats["begins"], float(stats["starts"]), float(stats["free"]))
        return self.spacing.fitted(side, counts).parameters

    def present(self, estimates: Mapping[str, torch.Tensor]) -> Chain:
        """The placement with these parameters put in."""
        return replace(self, spacing=self.spacing.present(estimates))

    def most(self, side: int, dims: int = 1) -> float:
        """Covered fraction that no estimate reaches, for objects of ``side`` samples."""
        return side / self.spacing.gaps(side).least

    def seen(self, view: View, object: Any, like: torch.Tensor) -> Projector:
        """What the view shows: positions are whole samples."""
        return view.operator(object, like)

    def moves(self, object: Object, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """The object moved by every number of samples up to half its length; samples that come in are zero.

        Places are unknown, so that a shifted object that is cut off is a local optimum. Kinds move one by one.
        """
        values = object.values(x)
        length = values.shape[-1]
        kinds = values.reshape(-1, length)
        for kind in range(len(kinds)):
            for by in range(1, length // 2 + 1):
                for way in (by, -by):
                    moved = kinds.clone()
                    moved[kind] = _shifted(kinds[kind], way)
                    name = f"{way:+d} samples" + (f", kind {kind + 1}" if len(kinds) > 1 else "")
                    yield name, object.fit(moved.reshape(values.shape))


class ChainStep:
    """One E-step: signals are added one by one.

    Statistics beside those of :func:`unpicked.model.likelihoods.empty`, for k templates of L samples: ``cross``
    ``(L, L)`` pairs of samples that lie on each other where copies overlap; ``gaps``, ``begins`` and ``starts`` of
    :class:`unpicked.model.spacing.Counts`; and of the segments of the signals, whose scores are the gradients with
    respect to templates, sigma and hazard, ``scores`` ``(k L + 2,)`` their sum, ``products`` ``(k L + 2, k L + 2)``
    the sum of their outer products with themselves and with their neighbours, and the numbers ``segments`` and
    ``neighbours`` of such products.
    """

    def __init__(
        self, placement: Chain, templates: torch.Tensor, log_weights: torch.Tensor, noise: Noise, statistics: bool
    ) -> None:
        self.placement, self.templates, self.log_weights = placement, templates, log_weights
        self.noise, self.statistics = noise, statistics
        kinds, length = templates.shape
        self.law = placement.spacing.gaps(length)
        self.stats: Stats = _empty(kinds, length, self.law)

    def add(self, image: torch.Tensor, seed: int = 0, index: int = 0, cut: tuple[bool, bool] | None = None) -> None:
        """Add one signal ``(n,)``, or the part of one; ``cut`` tells at which ends it was cut off."""
        sums, values = self._sums(image, cut, self._segment(len(image)))
        stats, noise = self.stats, self.noise
        variance, pixels = noise.sigma**2, len(values)
        square = values.square().sum()
        stats["square"] += square
        stats["sum"] += values.sum()
        stats["pixels"] += pixels
        constant = pixels / 2 * torch.log(torch.tensor(2 * torch.pi * variance, dtype=torch.float64))
        stats["log_likelihood"] += sums.log_ratio - square / (2 * variance) - constant
        if not self.statistics:
            return
        stats["numerator"] += sums.numerators.sum(0)
        stats["weight"] += sums.weights.sum(0)
        stats["cross"] += sums.crosses.sum(0)
        for name in ("gaps", "begins", "starts", "free"):
            stats[name] += getattr(sums, name)
        copies = sums.weights.amax(-1).sum(0)
        stats["views"] += copies
        stats["occupied"] += copies.sum()
        stats["windows"] += pixels
        self._score(sums)

    def finish(self) -> Stats:
        """The statistics."""
        return self.stats

    def chances(self, image: torch.Tensor, cut: tuple[bool, bool] | None = None) -> torch.Tensor:
        """Chance that a copy starts at every sample of a signal ``(n,)``; copies that begin before it are left out."""
        sums, values = self._sums(image, cut, None, chances=True)
        before = self.templates.shape[1] - 1 if self._cut(cut)[0] else 0
        found = sums.chances[before : before + len(values)]
        return torch.nn.functional.pad(found, (0, len(values) - len(found)))

    def _cut(self, cut: tuple[bool, bool] | None) -> tuple[bool, bool]:
        outer = self.placement.cut
        return (outer, outer) if cut is None else (cut[0] or outer, cut[1] or outer)

    def _sums(
        self, image: torch.Tensor, cut: tuple[bool, bool] | None, segment: int | None, *, chances: bool = False
    ) -> tuple[chain.Sums, torch.Tensor]:
        values = image.detach().double().cpu() - self.noise.mean
        cut, length = self._cut(cut), self.templates.shape[1]
        sites = len(values) - length + 1 + sum(cut) * (length - 1)
        begin = begins(self.placement.spacing, length, sites) if cut[0] else ((), (0.0,))
        sums = chain.sums(
            values,
            self.templates,
            self.log_weights,
            self.noise.sigma**2,
            self.law,
            cut=cut,
            begin=begin,
            segment=segment,
            statistics=self.statistics or chances,
            chances=chances,
        )
        return sums, values

    def _segment(self, samples: int) -> int:
        """Sites whose scores are summed: many segments, but longer than copies are tied to each other."""
        width = max(self.law.least, self.templates.shape[1])
        return max(2 * width, min(16 * width, samples // (20 * len(self.stats["scores"]))))

    def _score(self, sums: chain.Sums) -> None:
        """Scores of the segments, and their products."""
        x, sigma = self.templates, self.noise.sigma
        fitted = sums.weights * x
        power = (fitted * x).sum((-2, -1))
        if len(sums.crosses):
            both = sums.crosses + sums.crosses.mT
            fitted = fitted + (both @ x[0])[:, None]
            power = power + torch.einsum("sij,i,j->s", both, x[0], x[0])
        misfit = sums.squares - 2 * (sums.numerators * x).sum((-2, -1)) + power
        parts = (
            ((sums.numerators - fitted) / sigma**2).flatten(1),
            (misfit / sigma**3 - sums.numbers / sigma)[:, None],
            sums.hazards[:, None],
        )
        scores, stats = torch.cat(parts, 1), self.stats
        beside = scores[:-1].mT @ scores[1:]
        stats["scores"] += scores.sum(0)
        stats["products"] += scores.mT @ scores + beside + beside.mT
        stats["segments"] += len(scores)
        stats["neighbours"] += 2 * (len(scores) - 1)


def _empty(kinds: int, length: int, law: chain.Gaps) -> Stats:
    """The statistics of no data."""

    def zeros(*shape: int) -> Any:
        return torch.zeros(shape, dtype=torch.float64)

    size = kinds * length + 2
    names = ("occupied", "windows", "free", "starts", "square", "sum", "pixels", "log_likelihood")
    return {
        "numerator": zeros(kinds, length),
        "weight": zeros(kinds, length),
        "views": zeros(kinds),
        "cross": zeros(length, length),
        "gaps": zeros(len(law.chances) + 1),
        "begins": zeros(law.reach + 1),
        "scores": zeros(size),
        "products": zeros(size, size),
        "segments": zeros(),
        "neighbours": zeros(),
        **{name: zeros() for name in names},
    }


def _shifted(values: torch.Tensor, by: int) -> torch.Tensor:
    """Values moved towards larger indices, zeros behind them."""
    out = torch.zeros_like(values)
    if by > 0:
        out[by:] = values[:-by]
    else:
        out[:by] = values[-by:]
    return out
