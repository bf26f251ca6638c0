"""What an estimator is, and the likelihood by which the result of any estimator is judged.

The contract, in words; `tests/contracts/test_estimators.py` holds every estimator to it:

1. where ``monotone`` is true, the objective of ``record`` never falls (full batch, frozen views);
2. the truth is a fixed point without noise;
3. a resumed run equals an uninterrupted one;
4. statistics add: one batch equals many, two processes equal one, an empty batch gives zeros;
5. same seed, same answer; inputs are never changed; NaN ends in a typed failure;
6. ``State`` and ``Stats`` hold tensors and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from unpicked._lazy import torch
from unpicked.data.base import Data
from unpicked.model.likelihoods import Scene, Separate, Stats
from unpicked.model.model import Model
from unpicked.model.patches import Patches, PatchStep
from unpicked.model.placements import through_of
from unpicked.model.views import Directed, Weighable
from unpicked.priors import Prior

State = dict[str, Any]  # of tensors; Any because torch is imported late


@dataclass(frozen=True)
class Batch:
    """Some pieces of the data (micrographs, blocks of signals), read when iterated over."""

    data: Data
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor]]:
        return ((index, self.data[index]) for index in self.indices)

    def shard(self, rank: int, world: int) -> Batch:
        """The part of process ``rank`` of ``world``."""
        return Batch(self.data, self.indices[rank::world])


class Estimator(Protocol):
    """Sum a statistic over the data, then update; repeat."""

    @property
    def iterations(self) -> int:
        """Passes over the data at most."""

    @property
    def monotone(self) -> bool:
        """Whether the objective never falls on frozen views."""

    @property
    def trial(self) -> int:
        """Passes after which a recentre move must have raised the objective."""

    @property
    def polish(self) -> int:
        """Passes at most that follow a recentre move."""

    def init(self, data: Data, model: Model, start: torch.Tensor | None, seed: int) -> State:
        """First state: from the coefficients ``start``, or at random from ``seed``."""

    def moved(self, model: Model, state: State, x: torch.Tensor) -> State:
        """The state at other coefficients, without what was remembered of the old ones."""

    def current(self, model: Model, state: State) -> Model:
        """The model with the present estimates put in."""

    def accumulate(self, model: Model, batch: Batch, state: State) -> Stats:
        """Statistics of a batch, additive over batches and processes."""

    def update(self, model: Model, state: State, stats: Stats, prior: Prior) -> State:
        """Next state; the old one is not changed."""

    def record(self, model: Model, state: State, stats: Stats, prior: Prior) -> dict[str, float]:
        """One row of the history: figures of the state in which the statistics were taken."""

    def done(self, history: Sequence[dict[str, float]], state: State) -> bool:
        """Whether nothing is left to gain."""


@runtime_checkable
class Picking(Protocol):
    """An estimator whose update may read some pieces of the data only."""

    def picks(self, count: int, state: State) -> Sequence[int]:
        """Which of ``count`` pieces the present update reads; the same on every process."""


@runtime_checkable
class Sampling(Picking, Protocol):
    """One that takes many updates, and reads the pieces of each in one batch."""

    @property
    def every(self) -> int:
        """Updates between two rows of the history, and between two checkpoints."""


def add(first: Stats | None, second: Stats) -> Stats:
    """Sum of two statistics."""
    if first is None:
        return second
    return {name: first[name] + second[name] for name in first}


def believed(model: Model, prior: Prior, x: torch.Tensor) -> float:
    """-log of what is believed of the coefficients and of the views' weights, up to a constant."""
    energy = float(prior.energy(x, model.object))
    return energy + model.view.energy if isinstance(model.view, Weighable) else energy


def log_likelihood(data: Data, model: Model, x: torch.Tensor) -> torch.Tensor:
    """Marginal log-likelihood of every micrograph, ``(n,)`` float64, for the object with coefficients x.

    It is built on the placement alone, so that the result of any estimator is judged by the same likelihood.

    Raises:
        ValueError: for a likelihood that is not that of a model (see :func:`judge`).
    """
    if not model.placement.exact:
        raise ValueError(f"{model.placement!r} has no log-likelihood; try Patches(side=2 L), or judge()")
    return _of_pieces(Batch(data, range(len(data))), model, x)


def _of_pieces(batch: Batch, model: Model, x: torch.Tensor) -> torch.Tensor:
    model = model.measured(batch.data)
    templates, rows = model.templates(x), []
    step = model.placement.step(templates, model.log_weights, model.noise, statistics=False)
    if isinstance(step, Separate):
        for index, image in batch:
            step.add(image, 0, index)
        return step.log_likelihoods()
    for index, image in batch:
        step = model.placement.step(templates, model.log_weights, model.noise, statistics=False)
        step.add(image, 0, index)
        rows.append(step.finish()["log_likelihood"])
    return torch.stack(rows)


def judge(batch: Batch, model: Model, x: torch.Tensor, *, side: int | None = None) -> torch.Tensor:
    """Log-likelihood ratio of patches against pure noise, a float64 scalar, at the best share of empty patches.

    One likelihood by which results of all methods are compared: independent patches of side 2 L that hold one copy,
    a part of one, or none (Bendory 2022, with larger patches). Compare values of one noise level only. Where every
    piece holds exactly one copy, the log-likelihood itself.

    Args:
        batch: micrographs.
        model: object, views and noise; the placement's likelihood and density are not used.
        x: ``(size,)`` coefficients.
        side: side of the patches; None means 2 L.
    """
    if model.placement.single:
        return _of_pieces(batch, model, x).sum()
    model = _fewer(model.measured(batch.data))
    images, found, last = patch_images(model, x), [], -1
    order = sorted(batch.indices, key=lambda index: filter_of(model, index))
    for index, image in Batch(batch.data, order):  # one filter after the other: every one has templates of its own
        if filter_of(model, index) != last:
            last = filter_of(model, index)
            scene = replace(patch_scene(model, images, last), masks=getattr(batch.data, "masks", None))
            step = patch_step(scene, side or 2 * model.side)
            found.append(step.ratios)
        step.add(image.to(step.device), 0, index)
    ratios = torch.cat([images.new_zeros(0).double(), *(part for some in found for part in some)])
    return ratios.sum() if not len(ratios) else mixed(ratios, occupied_share(ratios)).sum()


_VIEWS = 256  # by which patches are judged through filters, where whole templates are large


def _fewer(model: Model) -> Model:
    """The model with no more views than patches are judged by; a set without filters stays whole."""
    view = model.view
    if through_of(model.placement) is None or not isinstance(view, Directed) or len(view) <= _VIEWS:
        return model
    return replace(model, view=view.spread(_VIEWS))


def filter_of(model: Model, index: int) -> int:
    """Number of the filter through which piece ``index`` of the data is seen, 0 where there are none."""
    through = through_of(model.placement)
    return 0 if through is None else through.groups[index]


def patch_images(model: Model, x: torch.Tensor) -> torch.Tensor:
    """Templates ``(k, L, L)`` as no filter shows them; float32."""
    templates, through = model.templates(x).float(), through_of(model.placement)
    return templates if through is None else through.images(templates)


def patch_scene(model: Model, images: torch.Tensor, filter: int = 0) -> Scene:
    """What :func:`patch_step` compares patches with: of :func:`patch_images`; through filters, with their tails."""
    templates, margin, through = images, 0, through_of(model.placement)
    if through is not None:
        templates, margin = through.whole(images, filter), through.margin()
    # the share of this density is taken out again; patches know neither activity nor least distance
    return Scene(templates, model.log_weights, model.noise, density=1e-3, activity=1.0, width=1, margin=margin)


def patch_step(scene: Scene, side: int) -> PatchStep:
    """A step that collects, per patch, the log-likelihood ratio of one copy (or a part of one) against noise."""
    return PatchStep(Patches(side), scene, statistics=False)


def occupied_share(ratios: torch.Tensor) -> torch.Tensor:
    """The likeliest share of patches that are not empty, from their ratios ``(n,)``."""
    share = ratios.new_tensor(0.5)
    for _ in range(200):  # EM in one parameter
        share = torch.sigmoid(torch.logit(share) + ratios).mean().clamp(1e-6, 1 - 1e-6)
    return share


def mixed(ratios: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Log-likelihood ratios of patches of which a share is not empty."""
    return torch.logaddexp(ratios + share.log(), (1 - share).log())
