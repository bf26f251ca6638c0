"""Exact maximum likelihood in one dimension: Baum-Welch, or Fisher scoring from the same sums.

Forward-backward sums the posterior of all configurations of copies in O(n L), so that the E-step of EM is exact and
its M-step a linear solve. The scores of segments of the signal give the observed information as well, at no further
pass (outer products of scores; Berndt, Hall, Hall and Hausman 1974): scoring needs a few passes where EM, to whom
nearly all information is missing at low signal-to-noise, needs hundreds; and it gives standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from unpicked._lazy import torch
from unpicked.data.base import Data
from unpicked.data.signal import Signal
from unpicked.estimators.base import Batch, State
from unpicked.model.chain import Chain
from unpicked.model.likelihoods import Stats
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.views import Weighable
from unpicked.ops import seeding
from unpicked.priors import Prior, precision

_LEAST = 1e-4  # share of the complete data's information that every direction has at least
_LEAST_LENGTH = 0.02  # a step shorter than this share of scoring's own is given up for EM's
_PARTS = ("x", "sigma", "weights")  # of the state, with the placement's: what is estimated
_FLOOR = 1e-3  # of the data's variance, the least noise


@dataclass(frozen=True)
class ExactEM:
    """Exact marginal likelihood of signals, with places of all copies summed out (:class:`Chain`).

    Attributes:
        iterations: passes over the data at most.
        solver: "fisher" (scoring by the observed information; EM's step where that fails) or "em" (Baum-Welch).
        estimate_sigma: estimate the noise level.
        estimate_density: estimate the parameters of the spacing law.
        tolerance: stop when less than this is to be gained, in log units, as the information predicts.
    """

    iterations: int = 60
    solver: Literal["fisher", "em"] = "fisher"
    estimate_sigma: bool = True
    estimate_density: bool = True
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1; got {self.iterations}")
        if self.solver not in ("fisher", "em"):
            raise ValueError(f"solver must be 'fisher' or 'em'; got {self.solver!r}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must not be negative; got {self.tolerance}")

    @property
    def monotone(self) -> bool:
        """Baum-Welch never lowers the objective; scoring takes back the steps that did."""
        return self.solver == "em"

    @property
    def polish(self) -> int:
        """Passes after a move, at most."""
        return self.iterations

    @property
    def trial(self) -> int:
        """Passes of the trial of a move."""
        return 4

    def init(self, data: Data, model: Model, start: torch.Tensor | None, seed: int) -> State:
        """First state: x from ``start`` ``(size,)``, or white noise of the power that the data suggest."""
        _chain(model)
        if start is None:
            x = random_start(data, model, seed)
        else:
            if tuple(start.shape) != (model.object.size,):
                raise ValueError(f"start must hold {model.object.size} coefficients; got shape {tuple(start.shape)}")
            x = start.detach().to("cpu", torch.float64).clone()
        state = {
            "step": torch.tensor(0),
            "x": x,
            "sigma": torch.tensor(model.noise.sigma, dtype=torch.float64),
            "weights": model.log_weights.double().clone(),
            "gain": torch.tensor(math.inf, dtype=torch.float64),
            **_named("placement", model.placement.estimates(None, model.side, known=True)),
        }
        return state | _fresh(state)

    def moved(self, model: Model, state: State, x: torch.Tensor) -> State:
        """The state at other coefficients, to which the steps that led to the old ones say nothing."""
        new = state | {"x": x}
        return new | _fresh(new)

    def current(self, model: Model, state: State) -> Model:
        """The model with present noise, spacing law and shares of the kinds."""
        view = model.view
        if isinstance(view, Weighable) and len(state["weights"]) > 1:
            view = view.weighted(state["weights"])
        return replace(
            model,
            view=view,
            placement=model.placement.present(_within("placement", state)),
            noise=White(float(state["sigma"]), model.noise.mean),
        )

    def accumulate(self, model: Model, batch: Batch, state: State) -> Stats:
        """E-step over some blocks; where a signal goes on behind a block, copies may be cut off."""
        step = _chain(model).step(model.templates(state["x"]), model.log_weights, model.noise)
        for index, samples in batch:
            own, seed, cut = cut_out(batch.data, index, samples)
            step.add(own, seed, index, cut)
        return step.finish()

    def update(self, model: Model, state: State, stats: Stats, prior: Prior) -> State:
        """Next state: EM's, or a step by the observed information from the best state so far."""
        if not float(stats["pixels"]) > 0:
            raise ValueError("the data hold no samples")
        problem = _Problem(self, model, state, stats, prior)
        image = self._maximised(model, state, stats, problem)
        value = stats["log_likelihood"] - prior.energy(state["x"], model.object)
        direction, gain = problem.newton()
        memory, step = _within("memory", state), int(state["step"])
        kept: State = {}
        if self.solver == "em":
            new = image
        else:
            stayed = torch.equal(state["x"], memory["proposal"])  # no move came in between
            length = _length(memory, problem.score) if stayed else torch.ones_like(value)
            if stayed and bool(value < memory["value"] - 1e-9 * value.abs()):
                new, kept = self._back(model, memory, length)
            else:
                kept = _named("best", _estimates(state)) | _named("image", _estimates(image))
                kept |= {"value": value, "score": problem.score, "direction": direction}
                kept |= {"length": length.clamp(_LEAST_LENGTH, 1.0)}
                new = self._moved(model, kept, image)
                # the last answer is not tried any more: EM's cannot be worse than what it comes from
                if step + 1 in (self.iterations, self.iterations + self.polish):
                    new = image
        joint = problem.joint
        nuisance = torch.linalg.pinv(joint[-2:, -2:], hermitian=True)
        kept |= {
            "held": torch.tensor(1),
            "joint": joint,
            "information": joint[:-2, :-2] - joint[:-2, -2:] @ nuisance @ joint[-2:, :-2],
            "proposal": new["x"],
        }
        result = dict(state) | new | {"step": state["step"] + 1, "gain": gain} | _named("memory", kept)
        if not all(bool(torch.isfinite(result[name]).all()) for name in ("x", "sigma")):
            raise FloatingPointError("an estimate is not finite: the data or the present estimate hold NaN or infinity")
        return result

    def record(self, model: Model, state: State, stats: Stats, prior: Prior) -> dict[str, float]:
        """Figures of the state in which the statistics were taken."""
        likelihood = float(stats["log_likelihood"])
        power = float(model.log_weights.exp() @ model.templates(state["x"]).square().sum(-1))
        return {
            "log_likelihood": likelihood,
            "objective": likelihood - float(prior.energy(state["x"], model.object)),
            "sigma": model.noise.sigma,
            "mean": model.noise.mean,
            "density": model.placement.density,
            "energy": power / model.noise.sigma**2,
            "particles": float(stats["occupied"]),
        }

    def done(self, history: Sequence[dict[str, float]], state: State) -> bool:
        """Whether less than the tolerance is to be gained from the best state."""
        if len(history) < 2:
            return False
        gain = history[-1]["objective"] - history[-2]["objective"]
        near = float(state["gain"]) <= self.tolerance
        return near and (self.solver == "em" or gain > -1e-9 * abs(history[-1]["objective"]))

    def _maximised(self, model: Model, state: State, stats: Stats, problem: _Problem) -> State:
        """EM's answer."""
        x = problem.maximise()
        new: State = {"x": x, "sigma": state["sigma"], "weights": state["weights"]}
        if self.estimate_sigma:
            misfit = stats["square"] - 2 * problem.right @ x + x @ problem.normal @ x
            new["sigma"] = (torch.maximum(misfit, _FLOOR * stats["square"]) / stats["pixels"]).sqrt()
        if isinstance(model.view, Weighable) and len(state["weights"]) > 1:
            new["weights"] = model.view.estimated(stats["views"], turning=False)
        known = not self.estimate_density
        return new | _named("placement", model.placement.estimates(stats, model.side, known=known))

    def _moved(self, model: Model, memory: Mapping[str, Any], image: State) -> State:
        """The best state moved along the direction: all of x, and the logarithms of sigma and hazard."""
        best = _within("best", memory)
        step = memory["direction"] * memory["length"]
        x = best["x"]
        most = 0.5 * float(x.norm()) / max(float(step[:-2].norm()), 1e-300)
        step = step * min(1.0, most, 1.0 / max(float(step[-2:].abs().max()), 1e-300))
        new = dict(image) | {"x": x + step[:-2]}
        if self.estimate_sigma:
            new["sigma"] = best["sigma"] * step[-2].exp()
        law = _chain(model).spacing.present(_within("placement", best))
        if self.estimate_density and law.scalar:
            side = model.side
            hazard = law.gaps(side).hazard * float(step[-1].exp())
            new |= _named("placement", law.thinned(side, min(hazard, 0.9)).parameters)
        return new

    def _back(self, model: Model, memory: Mapping[str, Any], length: torch.Tensor) -> tuple[State, State]:
        """A shorter step from the best state; EM's answer to it where that is hopeless."""
        held, image = memory["length"], _within("image", memory)
        length = torch.minimum(torch.maximum(length, 0.1 * held), 0.5 * held)
        if float(length) < _LEAST_LENGTH:
            return image, {"value": torch.tensor(-math.inf, dtype=torch.float64)}
        kept = {"length": length}
        return self._moved(model, {**memory, **kept}, image), kept


def _length(memory: Mapping[str, Any], score: torch.Tensor) -> torch.Tensor:
    """The length at which the last step would have found no slope left along it (secant), in units of scoring's own.

    Where the model does not fit, products of scores are not the curvature, and steps are too long again and again.
    """
    direction = memory["direction"]
    slope, now = memory["score"] @ direction, score @ direction
    bent = slope - now
    return torch.where(bent > 0, memory["length"] * slope / bent.clamp(min=1e-300), torch.ones_like(slope))


class _Problem:
    """Quadratic forms of one E-step in the coefficients x, and the scores in (x, log sigma, log hazard)."""

    def __init__(self, estimator: ExactEM, model: Model, state: State, stats: Stats, prior: Prior) -> None:
        self.x, self.prior, self.object = state["x"], prior, model.object
        self.variance = model.noise.sigma**2
        eye = torch.eye(len(self.x), dtype=torch.float64)
        basis = model.operator(self.x).project(eye).flatten(1)  # (size, k L)
        weights = torch.diag(stats["weight"].flatten())
        if bool(stats["cross"].any()):
            weights = weights + stats["cross"] + stats["cross"].mT
        self.normal = basis @ weights @ basis.mT
        self.right = basis @ stats["numerator"].flatten()
        self.curvature = precision(prior, model.object, self.x)
        slope = torch.func.grad(lambda x: prior.energy(x, model.object))(self.x)
        law = _chain(model).spacing
        hazard = law.gaps(model.side).hazard
        units = torch.tensor([model.noise.sigma, hazard], dtype=torch.float64)
        chain = torch.block_diag(basis, torch.diag(units))
        count = stats["segments"].clamp(min=1)
        mean = stats["scores"] / count
        products = stats["products"] - (count + stats["neighbours"]) * torch.outer(mean, mean)
        self.joint = chain @ products @ chain.mT
        self.score = chain @ stats["scores"]
        self.score[:-2] -= slope
        free = [estimator.estimate_sigma, estimator.estimate_density and law.scalar]
        self.kept = torch.tensor([True] * len(self.x) + free)
        starts = stats["occupied"] * (1 - hazard)
        self.complete = torch.block_diag(
            self.normal / self.variance, torch.diag(torch.stack([2 * stats["pixels"], starts.clamp(min=1e-3)]))
        )

    def maximise(self) -> torch.Tensor:
        """EM's answer; for a prior that is not quadratic by damped Newton steps."""
        x, value = self.x, self._value(self.x)
        for _ in range(1 if self.prior.quadratic else 20):
            slope = torch.func.grad(lambda x: self.prior.energy(x, self.object))(x)
            gradient = (self.right - self.normal @ x) / self.variance - slope
            curvature = self.curvature if self.prior.quadratic else precision(self.prior, self.object, x)
            step = _solve(self.normal / self.variance + curvature, gradient)
            length = 1.0
            while not (new := self._value(x + length * step)) >= value and length > 1e-4:
                length /= 2
            if not new >= value:
                break
            gained, x, value = new - value, x + length * step, new
            if gained <= 1e-9 * abs(value):
                break
        return x

    def newton(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Step by the observed information with the prior's, and the log units that it is predicted to gain.

        The information is a sum of outer products of not very many scores: its shares of the complete data's
        information are held between a little and all.
        """
        some = self.kept.nonzero().squeeze(1)
        observed, complete = self.joint[some][:, some], self.complete[some][:, some]
        complete = complete + 1e-12 * complete.diagonal().max() * torch.eye(len(some), dtype=torch.float64)
        factor = torch.linalg.cholesky(complete)
        white = torch.linalg.solve_triangular(factor, observed, upper=False)
        white = torch.linalg.solve_triangular(factor, white.mT, upper=False)
        shares, vectors = torch.linalg.eigh((white + white.mT) / 2)
        turned = factor @ vectors
        information = (turned * shares.clamp(_LEAST, 1.0)) @ turned.mT
        size = len(self.x)
        information[:size, :size] += self.curvature
        step = torch.zeros_like(self.score)
        step[some] = _solve(information, self.score[some])
        return step, 0.5 * self.score @ step

    def _value(self, x: torch.Tensor) -> torch.Tensor:
        quadratic = (self.right @ x - 0.5 * x @ self.normal @ x) / self.variance
        return quadratic - self.prior.energy(x, self.object)


def standard_errors(state: State, prior_precision: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """Standard errors by the observed information: of x ``(size,)``, and relative ones of sigma and hazard.

    Args:
        state: of a finished run of :class:`ExactEM`.
        prior_precision: ``(size, size)``, counted as information; None means none.

    Raises:
        ValueError: for a state without information.
    """
    if not int(state.get("memory.held", 0)) or "memory.joint" not in state:
        raise ValueError("the state holds no information; run ExactEM for at least one pass")
    joint = state["memory.joint"].clone()
    if prior_precision is not None:
        joint[:-2, :-2] += prior_precision
    variances = torch.linalg.pinv(joint, hermitian=True).diagonal().clamp(min=0)
    errors = variances.sqrt()
    return {"x": errors[:-2], "sigma": errors[-2], "hazard": errors[-1]}


def cut_out(data: Data, index: int, samples: torch.Tensor) -> tuple[torch.Tensor, int, tuple[bool, bool]]:
    """What ``ChainStep.add`` takes of a block: its own samples, no seed, and at which ends the signal goes on."""
    if not isinstance(data, Signal):
        return samples, 0, (False, False)
    where = data.extent(index)
    return samples[: where.stop - where.start], 0, (where.start > 0, where.stop < data.length)


def random_start(data: Data, model: Model, seed: int) -> torch.Tensor:
    """White noise, scaled to the templates' power that the variance suggests beyond the noise (a tenth at least)."""
    picks = range(0, len(data), -(-len(data) // 8))
    variance = sum(float(data[i].double().var()) for i in picks) / len(picks)
    excess = max(variance - model.noise.sigma**2, 0.1 * variance)
    power = excess * model.side / model.placement.density
    generator = seeding.generator(seed, "start")
    x = torch.randn(model.object.size, generator=generator, dtype=torch.float64)
    found = model.log_weights.exp() @ model.templates(x).square().sum(-1)
    return x * math.sqrt(power / float(found))


def _chain(model: Model) -> Chain:
    if not isinstance(model.placement, Chain):
        raise ValueError(f"the exact method needs the placement Chain(spacing); got {model.placement!r}")
    return model.placement


def _solve(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Solution for a symmetric matrix that may be singular where nothing is known: nothing changes there."""
    factor, flaw = torch.linalg.cholesky_ex(matrix)
    if bool(flaw):
        return cast("torch.Tensor", torch.linalg.pinv(matrix, hermitian=True, rtol=1e-12) @ right)
    return torch.cholesky_solve(right[:, None], factor)[:, 0]


def _fresh(state: State) -> State:
    """The memory of no step yet."""
    x = state["x"]
    here = {name: value.clone() for name, value in _estimates(state).items()}
    size = len(x) + 2
    memory = {
        "held": torch.tensor(0),
        "information": torch.zeros(len(x), len(x), dtype=torch.float64),
        "joint": torch.zeros(size, size, dtype=torch.float64),
        "value": torch.tensor(-math.inf, dtype=torch.float64),
        "score": torch.zeros(size, dtype=torch.float64),
        "direction": torch.zeros(size, dtype=torch.float64),
        "length": torch.tensor(1.0, dtype=torch.float64),
        **_named("best", here),
        **_named("image", here),
        "proposal": x.clone(),
    }
    return _named("memory", memory)


def _estimates(state: Mapping[str, Any]) -> State:
    """What is estimated."""
    return {name: value for name, value in state.items() if name in _PARTS or name.startswith("placement.")}


def _named(group: str, tensors: Mapping[str, Any]) -> State:
    return {f"{group}.{name}": value for name, value in tensors.items()}


def _within(group: str, state: Mapping[str, Any]) -> State:
    return {name.partition(".")[2]: value for name, value in state.items() if name.startswith(f"{group}.")}
