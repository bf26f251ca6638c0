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
from dataclasses import dataclass
from typing import Any, Protocol

from unpicked._lazy import torch
from unpicked.data.micrographs import Micrographs
from unpicked.model.model import Model
from unpicked.model.placements import Stats
from unpicked.priors import Prior

State = dict[str, Any]  # of tensors; Any because torch is imported late


@dataclass(frozen=True)
class Batch:
    """Some micrographs of a set, read when iterated over."""

    data: Micrographs
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

    def init(self, data: Micrographs, model: Model, start: torch.Tensor | None, seed: int) -> State:
        """First state: from the coefficients ``start``, or at random from ``seed``."""

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


def add(first: Stats | None, second: Stats) -> Stats:
    """Sum of two statistics."""
    if first is None:
        return second
    return {name: first[name] + second[name] for name in first}


def log_likelihood(data: Micrographs, model: Model, x: torch.Tensor) -> torch.Tensor:
    """Marginal log-likelihood of every micrograph, ``(n,)`` float64, for the object with coefficients x.

    It is built on the placement alone, so that the result of any estimator is judged by the same likelihood.
    """
    templates = model.templates(x)
    rows = [model.placement.log_likelihood(templates, model.view.log_weights, model.noise, image) for image in data]
    return torch.stack(rows)
