"""The micrograph taken whole: a hard-core lattice gas of copies, and the same to first order.

For copies that do not overlap log p(y | configuration) is a sum over the copies of their log-likelihood ratios
LLR(l, r) = (y[l : l + L] . T_r - |T_r|^2 / 2) / sigma^2, so the posterior of the positions is a lattice gas with the
activities z Z(l), Z(l) = mean_r exp LLR(l, r). One inner product per pixel and view gives them all; the combinatorics
that follow cost little. Copies lie in whole inside the micrograph. Where pixels are masked, copies may lie as anywhere,
and are seen as far as they are visible (:mod:`unpicked.model.hidden`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from unpicked._lazy import torch
from unpicked.data.masks import cleared
from unpicked.model.hidden import Hidden, Unseen
from unpicked.model.likelihoods import Scene, Score, Stats, Step, empty
from unpicked.model.noise import variance_of
from unpicked.ops import evidence, lattice, seeding

SHOWN = 0.5  # share of a particle's box that a mask leaves visible at least where one is told of
LIKELY = 0.5  # probability beyond which a place is told of
SCORED = 1 << 23  # numbers of weighted windows that are held at once where scores are taken


@dataclass(frozen=True)
class Screen:
    """How hopeless pixels are left out, so that many views cost little.

    Attributes:
        views: so many representative templates see every pixel; where there are hardly more, all do.
        floor: a pixel meets all views where its chance among the representatives, at its best, exceeds this. Those that
            do not keep what the representatives say, which misses copies whose view lies between theirs: at E = 35
            one in about 110; statistics differ less than those of two seeds of the sampler (``benchmarks/pruning.py``).
        thin: chances below it are rounded to this or to zero at random, which keeps every expectation.
    """

    views: int = 256
    floor: float = 1e-5
    thin: float = 1e-3

    def __post_init__(self) -> None:
        if self.views < 1:
            raise ValueError(f"views of the screen must be at least 1; got {self.views}")
        for name in ("floor", "thin"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1); got {getattr(self, name)}")


@dataclass(frozen=True)
class Gas:
    """Lattice gas: exact posterior of the positions, sampled (Rao-Blackwellised block Gibbs).

    It has no log-likelihood of its own; patches of side 2 L judge in its stead.

    Attributes:
        sweeps: sweeps over each micrograph that count.
        burn: sweeps before them.
        screen: what is left out; None means nothing.
    """

    sweeps: int = 15
    burn: int = 5
    screen: Screen | None = Screen()
    exact: ClassVar[bool] = False
    scored: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.sweeps < 1 or self.burn < 0:
            raise ValueError(f"sweeps must be at least 1 and burn not negative; got {self.sweeps} and {self.burn}")

    def step(self, scene: Scene, *, statistics: bool = True) -> _Whole:
        """Begin an E-step."""
        return _Whole(self, scene, self.screen, statistics)

    def density(self, stats: Stats, length: int, width: int) -> torch.Tensor:
        """Covered fraction of the expected number of copies."""
        return _density(stats, length)

    def marginals(self, log_activity: torch.Tensor, width: int, seed: int) -> tuple[torch.Tensor, float]:
        """Chance of a copy at every site, and expected free sites."""
        generator = seeding.generator(seed, "gas")
        return lattice.gibbs(log_activity, width, sweeps=self.sweeps, burn=self.burn, generator=generator)


@dataclass(frozen=True)
class Window:
    """The lattice gas to first order: every site competes with the sites within the least distance only.

    Fast and without chance, but it counts too few copies where they are crowded.

    Attributes:
        screen: what is left out; None means nothing.
    """

    screen: Screen | None = Screen()
    exact: ClassVar[bool] = False
    scored: ClassVar[bool] = True

    def step(self, scene: Scene, *, statistics: bool = True) -> _Whole:
        """Begin an E-step."""
        return _Whole(self, scene, self.screen, statistics)

    def density(self, stats: Stats, length: int, width: int) -> torch.Tensor:
        """Covered fraction of the expected number of copies."""
        return _density(stats, length)

    def marginals(self, log_activity: torch.Tensor, width: int, seed: int) -> tuple[torch.Tensor, float]:
        """Chance of a copy at every site, and expected free sites (to first order in the excluded area)."""
        chances = lattice.window_marginals(log_activity, width)
        copies = float(chances.double().sum())
        sites = log_activity.numel()
        return chances, sites * math.exp(-min(3.5, copies * (2 * width - 1) ** 2 / sites))


def _density(stats: Stats, length: int) -> torch.Tensor:
    share = stats["occupied"] / stats["windows"] * length**2
    return share.clamp(1e-6, 0.99)


@dataclass(frozen=True, eq=False)
class Sites:
    """Possible copies of one micrograph, the likeliest first.

    Attributes:
        corners: ``(n, 2)`` row and column of the first pixel of each.
        places: ``(n, 2)`` the same, as the mean over the posterior of neighbouring corners.
        posterior: ``(n,)`` probability of a copy within a quarter of the box.
        views: ``(n,)`` the likeliest view at the corner.
    """

    corners: torch.Tensor
    places: torch.Tensor
    posterior: torch.Tensor
    views: torch.Tensor


class _Marginals(Protocol):
    def marginals(self, log_activity: torch.Tensor, width: int, seed: int) -> tuple[torch.Tensor, float]: ...


class _Whole:
    """The E-step of whole micrographs."""

    def __init__(self, likelihood: _Marginals, scene: Scene, screen: Screen | None, statistics: bool) -> None:
        if scene.templates.dim() != 3:
            raise ValueError("the lattice gas is for images; of signals the sum is exact: try ExactEM(), or Patches()")
        self.likelihood, self.scene, self.screen, self.statistics = likelihood, scene, screen, statistics
        variance = variance_of(scene.noise)
        flat = scene.templates.flatten(1)
        self._norms = _norms(scene, variance)
        self._flat, self._few = flat / variance, flat[:0]
        self._banks: tuple[int, evidence.Bank, evidence.Bank | None] | None = None
        if screen is not None and len(flat) > 1.5 * screen.views:
            self._chosen, shares = evidence.representatives(
                _compared(scene), scene.log_weights.exp().to(flat), screen.views
            )
            self._few, self._shares = self._flat[self._chosen], shares.log()
        self.log_activity = math.log(scene.activity)
        self.stats: Stats = empty(scene.templates)
        self.views: dict[int, torch.Tensor] = {}  # copies per filter and view
        self.met = 0  # sites that were compared with all views
        self.unseen = Unseen(scene, self._norms)
        if scene.score is not None:
            none = scene.score(flat.new_zeros(0, *scene.templates.shape), flat.new_zeros(0, len(flat)), 0).double()
            self.stats["information"] = none.mT @ none

    def add(self, image: torch.Tensor, seed: int, index: int = 0) -> None:
        """Add one micrograph."""
        scene, stats = self.scene, self.stats
        hidden = self.unseen.of(index)
        image = self._pixels(image, hidden)
        seen, group = self._seen(image, index)
        logs = self._log_activities(seen, group, hidden)
        if not bool(torch.isfinite(logs).all()):
            raise FloatingPointError("a score is not finite: the data or the present estimate hold NaN or infinity")
        chances, free = self.likelihood.marginals(logs, scene.width, seed)
        stats["square"] += image.double().square().sum()
        stats["sum"] += image.double().sum()
        stats["pixels"] += image.numel() if hidden is None else hidden.mask.sum()
        if hidden is None:
            stats["windows"] += chances.numel()
            stats["free"] += free
            stats["occupied"] += chances.double().sum()
        else:  # places count as far as they are seen: those that are not say what the prior says
            shown, every = hidden.shown().double(), chances.double()
            seen_copies = (every * shown).sum()
            stats["windows"] += shown.sum()
            stats["free"] += free * seen_copies / every.sum().clamp(min=1e-300)
            stats["occupied"] += seen_copies
        if self.statistics:
            self._gather(seen, chances.flatten(), seed, group, hidden)

    def finish(self) -> Stats:
        """The statistics."""
        stats, through = self.stats, self.scene.through
        if self.views:
            stats["views"] = torch.stack(list(self.views.values())).sum(0)
        if through is None:
            stats["weight"] = stats["weight"] + stats["views"][:, None, None].expand_as(stats["numerator"])
            return stats
        stats["numerator"] = through.coefficients(stats["numerator"])
        weight = stats["views"].new_zeros(len(stats["views"]), through.squares.shape[1])
        if self.views:
            weight += torch.stack(list(self.views.values())).mT @ through.squares[list(self.views)].to(weight)
        stats["weight"] = weight[:, None].expand_as(stats["numerator"]).clone()
        return stats

    def _of(self, group: int) -> tuple[evidence.Bank, evidence.Bank | None]:
        """All templates, and the representatives, with the norms that a filter gives them; the last ones are kept."""
        if self._banks is None or self._banks[0] != group:
            scene, norms = self.scene, self._norms(group)
            bank = evidence.Bank(self._flat, (scene.log_weights - norms).to(self._flat), scene.length)
            coarse = None
            if len(self._few):
                bias = (self._shares - norms[self._chosen]).to(self._flat)
                coarse = evidence.Bank(self._few, bias, scene.length)
            self._banks = group, bank, coarse
        return self._banks[1:]

    def _count(self, group: int, counts: torch.Tensor) -> None:
        """Add copies of every view, seen through a filter."""
        self.views[group] = self.views[group] + counts if group in self.views else counts

    def _seen(self, image: torch.Tensor, index: int) -> tuple[torch.Tensor, int]:
        """What templates are compared with in piece ``index`` of the data, and the number of its filter."""
        if self.scene.through is None:
            return image, 0
        group = self.scene.through.groups[index]
        return self.scene.through.seen(image, group), group

    def _pixels(self, image: torch.Tensor, hidden: Hidden | None) -> torch.Tensor:
        """A micrograph without background, zero where it is hidden."""
        image = image.to(self.scene.templates) - self.scene.noise.mean
        return cleared(image, None if hidden is None else hidden.mask)

    def _bank(self, group: int, hidden: Hidden | None, *, few: bool = False) -> evidence.Bank:
        """All templates, or the representatives, with the norms that filter and mask leave them."""
        bank, coarse = self._of(group)
        if few and coarse is not None:
            return coarse if hidden is None else self.unseen.bank(coarse, group, hidden, self._chosen)
        return bank if hidden is None else self.unseen.bank(bank, group, hidden)

    def _at(self, image: torch.Tensor, sites: torch.Tensor, group: int, hidden: Hidden | None) -> torch.Tensor:
        """Log-evidence of all templates at some sites."""
        bank = self._bank(group, None)
        if hidden is None:
            return bank.at(image, sites)
        near, logs = hidden.near[sites], image.new_zeros(len(sites))
        whole = ~near & ~hidden.gone[sites]
        logs[whole] = bank.at(image, sites[whole])
        logs[near] = self._bank(group, hidden).at(image, sites[near])
        return logs

    def _everywhere(self, image: torch.Tensor, group: int, hidden: Hidden | None, *, few: bool = False) -> torch.Tensor:
        """Log-evidence of all templates, or of the representatives, at every site."""
        logs = self._bank(group, None, few=few).everywhere(image)
        if hidden is None:
            return logs
        near = hidden.near.nonzero().squeeze(1)
        found = self._bank(group, hidden, few=few).at(image, near)
        return logs.flatten().masked_fill(hidden.gone, 0.0).index_copy(0, near, found).view_as(logs)

    def _log_activities(self, image: torch.Tensor, group: int = 0, hidden: Hidden | None = None) -> torch.Tensor:
        """``(h, w)``: log of activity x evidence at every site."""
        sites = (image.shape[0] - self.scene.length + 1) * (image.shape[1] - self.scene.length + 1)
        if self._of(group)[1] is None or self.screen is None:
            self.met += sites
            return self._everywhere(image, group, hidden) + self.log_activity
        logs = self._everywhere(image, group, hidden, few=True) + self.log_activity
        rivals = lattice.windowed_maximum(logs, self.scene.width).clamp(min=0)
        floor = math.log(self.screen.floor) if self.screen.floor > 0 else -math.inf
        kept = (logs - rivals > floor).flatten().nonzero().squeeze(1)
        if len(kept) > sites // 2:  # hardly any are without hope, and all together are quicker
            self.met += sites
            return self._everywhere(image, group, hidden) + self.log_activity
        self.met += len(kept)
        fine = self._at(image, kept, group, hidden)
        return logs.flatten().index_copy(0, kept, fine + self.log_activity).view_as(logs)

    def _gather(
        self, image: torch.Tensor, chances: torch.Tensor, seed: int, group: int = 0, hidden: Hidden | None = None
    ) -> None:
        """Posterior of the views at the sites that carry weight, summed into weighted windows and counts."""
        if hidden is not None:
            chances = chances.masked_fill(hidden.gone, 0.0)  # they tell nothing
        weights, thin = chances, self.screen.thin if self.screen is not None else 0.0
        if thin > 0:
            draws = torch.rand(len(chances), generator=seeding.generator(seed, "thin"))
            kept = draws.to(chances.device) * thin < chances
            weights = torch.where(kept, chances.clamp(min=thin), 0.0)
        sites = weights.nonzero().squeeze(1)
        if self.scene.score is not None:
            self._gather_scores(self.scene.score, image, group, sites, weights[sites], hidden)
            return
        bank = self._bank(group, hidden)
        numerator = torch.zeros_like(bank.templates)
        counts = bank.gather(image, sites, weights[sites], numerator)
        if hidden is not None:
            numerator, counts, _ = self.unseen.parted(numerator, counts, group, self.stats)
        self._count(group, counts)
        self.stats["numerator"] += numerator.view_as(self.stats["numerator"])

    def _gather_scores(
        self,
        score: Score,
        image: torch.Tensor,
        group: int,
        sites: torch.Tensor,
        weights: torch.Tensor,
        hidden: Hidden | None = None,
    ) -> None:
        """The same tile by tile, with the outer product of every tile's score.

        Tiles have the side of two templates: a copy's chances lie in one tile as a rule, and tiles are many.
        """
        stats, side = self.stats, 2 * self.scene.length
        bank = self._bank(group, hidden)
        width = image.shape[1] - self.scene.length + 1
        tiles = sites // width // side * -(-width // side) + sites % width // side
        if hidden is not None:  # tiles that hold nothing hidden are as any others
            touched = tiles.new_zeros(int(tiles.max()) + 1 if len(tiles) else 0, dtype=torch.bool)
            touched[tiles[hidden.near[sites]]] = True
            near = touched[tiles]
            self._gather_scores(score, image, group, sites[~near], weights[~near])
            sites, weights, tiles = sites[near], weights[near], tiles[near]
        order = tiles.argsort(stable=True)
        ends = tiles[order].unique_consecutive(return_counts=True)[1].cumsum(0).tolist()
        sites, weights = sites[order], weights[order]
        step = max(1, SCORED // bank.templates.numel())
        for first in range(0, len(ends), step):
            some, begin = ends[first : first + step], ends[first - 1] if first else 0
            part = slice(begin, some[-1])
            numerators, counts = bank.gather_parts(image, sites[part], weights[part], [end - begin for end in some])
            shares = counts
            if hidden is not None:
                numerators, counts, shares = self.unseen.parted(numerators, counts, group, self.stats)
            numerators = numerators.unflatten(2, (self.scene.length, self.scene.length))
            scores = score(numerators, shares, group).double()
            stats["information"] += scores.mT @ scores
            self._count(group, counts.double().sum(0))
            stats["numerator"] += numerators.sum(0)

    def found(self, image: torch.Tensor, seed: int, index: int = 0) -> Sites:
        """Where copies of one micrograph, piece ``index``, may be: no two closer than the least distance."""
        length, width = self.scene.length, self.scene.width
        hidden = self.unseen.of(index)
        image = self._pixels(image, hidden)
        seen, group = self._seen(image, index)
        chances, _ = self.likelihood.marginals(self._log_activities(seen, group, hidden), width, seed)
        # a copy's chance is spread over neighbouring pixels: summed within a quarter of the box
        reach = length // 4
        near = 2 * reach + 1
        mass = _blurred(chances, near)
        peaks = torch.where(chances == lattice.windowed_maximum(chances, width), mass, 0.0).flatten()
        if hidden is not None:
            peaks = torch.where(hidden.shown().flatten() >= SHOWN, peaks, 0.0)
        sites = peaks.argsort(descending=True)[: int((peaks > 0).sum())]
        corners = torch.stack([sites // chances.shape[1], sites % chances.shape[1]], 1)
        step = torch.arange(-reach, reach + 1, dtype=chances.dtype, device=chances.device)
        around = torch.nn.functional.pad(chances, (reach,) * 4).unfold(0, near, 1).unfold(1, near, 1)
        around = around[corners[:, 0], corners[:, 1]]
        total = around.sum((1, 2)).clamp(min=1e-30)
        offsets = torch.stack([(around * step[:, None]).sum((1, 2)), (around * step).sum((1, 2))], 1) / total[:, None]
        bank = self._bank(group, hidden)
        views = torch.cat(
            [(bank.windows(seen, part) @ bank.templates.mT + bank.bias).argmax(1) for part in sites.split(4096)]
            or [corners[:0, 0]]
        )
        return Sites(corners, corners + offsets, peaks[sites].clamp(max=1), views)

    def best(self, image: torch.Tensor, count: int, seed: int, index: int = 0) -> dict[str, torch.Tensor]:
        """The likeliest copies of one micrograph, piece ``index``, beside what explains them."""
        found, length, through = self.found(image, seed, index), self.scene.length, self.scene.through
        rows, columns = found.corners[:count].unbind(1)
        hidden = self.unseen.of(index)
        image = self._pixels(image, hidden)
        projections = self.scene.templates[found.views[:count]]
        if through is not None:  # as the micrograph shows them
            inner = slice(through.margin(), through.margin() + length)
            projections = through.whole(projections, through.groups[index])[:, inner, inner]
        return {
            "patches": image.unfold(0, length, 1).unfold(1, length, 1)[rows, columns].cpu(),
            "projections": projections.cpu(),
            "posterior": found.posterior[:count].cpu(),
            "places": (found.places[found.posterior >= LIKELY] + length // 2).cpu(),
        }


def _blurred(chances: torch.Tensor, near: int) -> torch.Tensor:
    """Sums over squares of ``near`` pixels a side."""
    return torch.nn.functional.avg_pool2d(chances[None, None], near, 1, near // 2)[0, 0] * near**2


def _norms(scene: Scene, variance: float) -> Callable[[int], torch.Tensor]:
    """Of a filter: ``(k,)`` sums of squares of every template as it shows them, over twice the variance; float64."""
    templates, through = scene.templates.double(), scene.through
    if through is None:
        plain = templates.flatten(1).square().sum(1) / (2 * variance)
        return lambda group: plain
    numbers = through.coefficients(templates).square().sum(1)
    return lambda group: (numbers @ through.squares[group].to(numbers)).clamp(min=0) / (2 * variance)


def _compared(scene: Scene) -> torch.Tensor:
    """``(k, n)``: templates as micrographs show them on average, for distances between them."""
    if scene.through is None:
        return scene.templates.flatten(1)
    factors = scene.through.mean.clamp(min=0).sqrt().to(scene.templates)
    return (scene.through.coefficients(scene.templates) * factors).flatten(1)


def best_sites(step: Step, image: torch.Tensor, count: int, seed: int) -> dict[str, torch.Tensor] | None:
    """The likeliest copies of one micrograph, the first of the data.

    ``patches`` and ``projections`` ``(n, L, L)``, ``posterior`` ``(n,)``; ``places`` ``(m, 2)``, row and column of the
    centre of every copy that is more likely than not.
    """
    return step.best(image, count, seed) if isinstance(step, _Whole) else None


def sites_of(step: Step, image: torch.Tensor, seed: int, index: int) -> Sites:
    """Possible copies of piece ``index`` of the data.

    Raises:
        ValueError: for a step of another likelihood than those of the whole micrograph.
    """
    if not isinstance(step, _Whole):
        raise ValueError("positions need a likelihood of the whole micrograph; try Gas() or Window()")
    return step.found(image, seed, index)
