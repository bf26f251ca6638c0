"""Autocorrelation analysis: structure from averages of products of up to three samples, in one pass over data.

Bendory, Boumal, Leeb, Levin & Singer (arXiv 1810.00226). The data are read once, for sums that add over blocks,
signals and processes; the fit needs the sums alone. All entries are used with the covariance of their noise, also
those that the noise biases: generalised method of moments, which approaches maximum likelihood as the signal-to-noise
ratio falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from unpicked._lazy import torch
from unpicked.data.base import Data
from unpicked.data.moments import Moments
from unpicked.data.signal import Signal
from unpicked.estimators import gmm, image_fit, lag_fit, moment_fit
from unpicked.estimators.base import Batch, State
from unpicked.estimators.gmm import Fit, Settings
from unpicked.model.conical import Conical
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.placements import Stats
from unpicked.model.views import OfClasses
from unpicked.ops import moments
from unpicked.priors import Prior


@dataclass(frozen=True)
class Autocorrelation(Settings):
    """Reconstruction from the moments of order 1 to 3, one pass over the data.

    The loop's second step reads no data: it tells the figures of the fit.

    Attributes:
        starts: random starts of the fit; the least cost is kept.
        form: raw moments, on a background that is known (``White.mean``), or cumulants, which neither a constant
            offset nor coloured Gaussian noise beyond lag 0 of the second order biases in the third; of images each
            is taken about its own mean, so that each may have a background of its own.
        weights: ``analytic`` covariance of white noise; ``long-run`` covariance of the sums of blocks, right at any
            signal; ``auto``: long-run where blocks are many or the signal is not small; ``published``: one over the
            number of entries, biased entries left out.
        estimate_sigma: estimate the noise level; else that of the model is used.
        estimate_density: estimate the covered fraction of each kind.
        marching: fit the lowest frequencies first, for smooth targets; give a prior with it.
        average: the answer is the mean over all that agrees with the moments, weighted by exp(-cost), instead of the
            point of least cost; so are its predicted errors. Not with published weights.
        steps: trials of the optimiser per stage at most.
        tolerance: relative gain of a step below which it ends.
        block: base points whose sums are one draw for the long-run covariance, a multiple of 2,048.
    """

    block: int = moments.BLOCK
    iterations: ClassVar[int] = 2
    monotone: ClassVar[bool] = False
    trial: ClassVar[int] = 2  # a fit, and its figures; the data are not read
    polish: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block < 2048 or self.block % 2048:
            raise ValueError(f"block must be a positive multiple of 2048; got {self.block}")

    def init(self, data: Data, model: Model, start: torch.Tensor | None, seed: int) -> State:
        """First state: coefficients ``start`` ``(size,)`` to fit from, or zeros: the fit makes its own starts."""
        size = model.object.size
        if getattr(data, "masks", None) is not None:
            raise ValueError("autocorrelations know no masks; try EM(), or leave masked micrographs out")
        if start is not None and tuple(start.shape) != (size,):
            raise ValueError(f"start must hold {size} coefficients; got shape {tuple(start.shape)}")
        x = torch.zeros(size, dtype=torch.float64) if start is None else start.detach().double().cpu().clone()
        kinds = _kinds(model)
        state = {
            "step": torch.tensor(0),
            "seed": torch.tensor(seed),
            "given": torch.tensor(start is not None),
            "x": x,
            "fitted": x,
            "cost": torch.tensor(float("nan"), dtype=torch.float64),
            "sigma": torch.tensor(model.noise.sigma, dtype=torch.float64),
            "density": torch.tensor(model.placement.density, dtype=torch.float64) * kinds,
            "near": torch.zeros(0, dtype=torch.float64),
            "chi2": torch.tensor(float("nan"), dtype=torch.float64),
            "converged": torch.tensor(False),
            "covariance": torch.zeros(size + len(kinds) + 1, size + len(kinds) + 1, dtype=torch.float64),
        }
        return state | self._nothing(model)

    def moved(self, model: Model, state: State, x: torch.Tensor) -> State:
        """The state at other coefficients, from which the next fit starts."""
        return state | {"x": x}

    def current(self, model: Model, state: State) -> Model:
        """The model with the present noise level, density and shares of the kinds."""
        density = state["density"]
        total = float(density.sum())
        placed = model.placement
        if self.estimate_density and int(state["step"]):
            covered = torch.tensor(min(max(total, 1e-12), 1 - 1e-12), dtype=torch.float64)
            placed = placed.present({"density": covered, "activity": covered / model.side})
        noise = White(max(float(state["sigma"]), 1e-150), model.noise.mean)
        view = model.view
        if isinstance(view, OfClasses) and int(state["step"]):
            within = view.log_weights.unflatten(0, (view.count, -1))
            shares = (density / density.sum()).clamp(min=1e-12).log()[:, None]
            view = view.weighted((within - within.logsumexp(1, keepdim=True) + shares).flatten())
        return replace(model, placement=placed, noise=noise, view=view)

    def accumulate(self, model: Model, batch: Batch, state: State) -> Stats:
        """Sums of the products of a batch; nothing once they are known."""
        total = self._nothing(model)
        if int(state["step"]):
            return total
        for index, piece in batch:
            part = self._sums(model, batch.data, index, piece)
            total = {name: total[name] + part[name] for name in total}
        return total

    def update(self, model: Model, state: State, stats: Stats, prior: Prior) -> State:
        """The fit."""
        held = {name: state[name] + stats[name] for name in self._nothing(model)}
        if not bool(torch.isfinite(held["sums"]).all()):
            raise FloatingPointError("the moments are not finite: the data hold NaN or infinity")
        again = int(state["step"]) > 0
        if again and torch.equal(state["x"], state["fitted"]):
            return dict(state) | {"step": state["step"] + 1}
        start = state["x"] if bool(state["given"]) or again else None
        found = self.fit(self._record(model, held), model, prior, int(state["seed"]), start)
        new = {
            "step": state["step"] + 1,
            "x": found.x,
            "fitted": found.x,
            "cost": torch.tensor(found.cost, dtype=torch.float64),
            "sigma": found.sigma,
            "density": found.density,
            "near": found.near,
            "chi2": torch.tensor(found.chi2, dtype=torch.float64),
            "converged": torch.tensor(found.converged),
            "covariance": found.covariance,
        }
        if not all(bool(torch.isfinite(new[name]).all()) for name in ("x", "sigma", "density")):
            raise FloatingPointError("an estimate is not finite; the moments may be too noisy")
        return dict(state) | held | new

    def record(self, model: Model, state: State, stats: Stats, prior: Prior) -> dict[str, float]:
        """Figures of the present estimate: minus its cost, what was estimated, and the predicted errors."""
        held = {name: state[name] + stats[name] for name in self._nothing(model)}
        record = self._record(model, held)
        power = float(model.templates(state["x"]).square().flatten(1).sum(1) @ model.log_weights.exp())
        errors = state["covariance"].diagonal().clamp(min=0)
        size, side = model.object.size, model.side
        dims = len(model.view.image_shape(model.object))
        density = float(state["density"].sum())
        if int(state["step"]) and torch.equal(state["x"], state["fitted"]):
            cost = float(state["cost"])
        else:
            cost = _way(model).cost(record, model, self, prior, state["x"])
        row = {
            "objective": -cost,
            "sigma": float(state["sigma"]),
            "density": density,
            "energy": power / model.noise.sigma**2,
            "particles": density * record.points / side**dims,
        }
        if not int(state["step"]):
            return row
        return row | {
            "chi2": float(state["chi2"]),
            "agrees": float(state["converged"]),
            "error": float(errors[:size].sum().sqrt() / state["x"].norm().clamp(min=1e-300)),
            "density_error": float(errors[size:-1].sum().sqrt()),
            "sigma_error": float(errors[-1].sqrt()),
        }

    def done(self, history: Sequence[dict[str, float]], state: State) -> bool:
        """After the pass over the data and the figures: whether the fit came to rest and agrees with the data."""
        return len(history) >= 2 and bool(state["converged"])

    def fit(self, record: Moments, model: Model, prior: Prior, seed: int, start: torch.Tensor | None = None) -> Fit:
        """The fit alone, from a record of moments, e.g. one that was saved or merged; see :mod:`moment_fit`."""
        return _way(model).fit(record, model, self, prior, seed, start)

    def measure(self, data: Data, model: Model, pieces: Sequence[int] | None = None) -> Moments:
        """The record of moments of all data, or of some pieces: one pass, no fit.

        :func:`unpicked.data.moments.merge` adds records.
        """
        state = self.init(data, model, None, 0)
        batch = Batch(data, range(len(data)) if pieces is None else pieces)
        return self._record(model, self.accumulate(model, batch, state))

    def summed(self, model: Model, state: State) -> Moments:
        """The record of moments that the state of a run holds, after its pass over the data."""
        return self._record(model, state)

    def _nothing(self, model: Model) -> Stats:
        """Sums of no data."""
        size, first = _way(model).sizes(model, self)
        shape = (first, first) if first <= gmm.FULL else (first,)
        return {
            "sums": torch.zeros(size, dtype=torch.float64),
            "squares": torch.zeros(shape, dtype=torch.float64),
            "blocks": torch.zeros((), dtype=torch.float64),
        }

    def _sums(self, model: Model, data: Data, index: int, piece: torch.Tensor) -> Stats:
        """Sums of one piece of the data: base points of its own only, where pieces overlap."""
        if isinstance(data, Signal):
            extent = data.extent(index)
            piece = piece[: extent.stop - extent.start + model.side - 1]
        y = piece if piece.dtype == torch.float64 else piece.float()
        y = y - model.noise.mean if model.noise.mean else y
        sums, squares, blocks = _way(model).sums(model, self, y, self.block)
        return {"sums": sums.cpu(), "squares": squares.cpu(), "blocks": torch.tensor(blocks, dtype=torch.float64)}

    def _record(self, model: Model, held: Stats) -> Moments:
        kind = _way(model).kind(model, self)
        return Moments(kind, model.side, held["sums"], held["squares"], int(held["blocks"]))


def _way(model: Model) -> Any:
    """The module that knows the moments of such data: their names, sizes and sums, and the fit to them."""
    if len(model.view.image_shape(model.object)) == 1:
        return moment_fit
    return lag_fit if isinstance(model.view, Conical) else image_fit


def _kinds(model: Model) -> torch.Tensor:
    """Shares of the kinds of object."""
    count = model.view.count if isinstance(model.view, OfClasses) else 1
    return model.view.log_weights.double().cpu().exp().unflatten(0, (count, -1)).sum(1)
