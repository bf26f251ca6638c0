"""Expectation-maximization with positions and views marginalised (Bendory 2022; arXiv 2303.02157).

The M-step needs one numerator image Q_r and one weight image D_r per view r, whatever the number of shifts:
(sum_r A_r^T diag(D_r) A_r + sigma^2 P) x = sum_r A_r^T Q_r, with the prior's precision P. By Fisher's identity
(sum_r A_r^T (Q_r - D_r A_r x)) / sigma^2 is the gradient of the log-likelihood at the x of the E-step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from unpicked._lazy import torch
from unpicked.data.micrographs import Micrographs
from unpicked.estimators.base import Batch, State, add
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.placements import Stats
from unpicked.objects.base import Object
from unpicked.ops import fourier, rotation, seeding, solve
from unpicked.priors import Prior


@dataclass(frozen=True)
class EM:
    """Maximum a-posteriori reconstruction by EM.

    Attributes:
        iterations: passes over the data at most.
        frozen: so many last passes use one frozen set of views; before, the set is turned at random in every pass.
        estimate_sigma: estimate the noise level (the background is always estimated).
        estimate_density: estimate the covered fraction.
        tolerance: stop when a frozen pass raises the objective by less than this, in log units.
        solver_steps: conjugate-gradient steps of one M-step at most.
        solver_tolerance: relative residual at which they end.
        precision: floating point type of the E-step; sums and the M-step are float64.
    """

    iterations: int = 30
    frozen: int = 8
    estimate_sigma: bool = True
    estimate_density: bool = True
    tolerance: float = 0.1
    solver_steps: int = 60
    solver_tolerance: float = 1e-8
    precision: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1; got {self.iterations}")
        if not 0 <= self.frozen <= self.iterations:
            raise ValueError(f"frozen must lie between 0 and iterations, {self.iterations}; got {self.frozen}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must not be negative; got {self.tolerance}")
        if self.solver_steps < 1:
            raise ValueError(f"solver_steps must be at least 1; got {self.solver_steps}")

    @property
    def monotone(self) -> bool:
        """EM never lowers the objective on frozen views."""
        return True

    def init(self, data: Micrographs, model: Model, start: torch.Tensor | None, seed: int) -> State:
        """First state: x from ``start`` ``(size,)``, or a smooth random blob of the power that the data suggest."""
        device = model.view.log_weights.device
        if start is None:
            x = random_start(model, signal_power(data, model), seed).to(device)
        else:
            if tuple(start.shape) != (model.object.size,):
                raise ValueError(f"start must hold {model.object.size} coefficients; got shape {tuple(start.shape)}")
            x = start.detach().to(device, torch.float64).clone()
        state = {
            "step": torch.tensor(0),
            "seed": torch.tensor(seed),
            "x": x,
            "sigma": torch.tensor(model.noise.sigma, dtype=torch.float64),
            "mean": torch.tensor(model.noise.mean, dtype=torch.float64),
            "density": torch.tensor(model.placement.density, dtype=torch.float64),
        }
        return state | {"turn": self._turn(0, seed)}

    def current(self, model: Model, state: State) -> Model:
        """The model with present noise, density and turn of the views."""
        return replace(
            model,
            view=model.view.turned(state["turn"]),
            placement=replace(model.placement, density=float(state["density"])),  # type: ignore[type-var]
            noise=White(float(state["sigma"]), float(state["mean"])),
        )

    def accumulate(self, model: Model, batch: Batch, state: State) -> Stats:
        """E-step over a batch of micrographs."""
        templates = model.templates(state["x"]).to(getattr(torch, self.precision))
        total = model.placement.empty(templates)
        for _, image in batch:
            image = image.to(templates.device)
            total = add(total, model.placement.accumulate(templates, model.view.log_weights, model.noise, image))
        return total

    def update(self, model: Model, state: State, stats: Stats, prior: Prior) -> State:
        """M-step: x, then background, sigma and density, each maximising with what is already new."""
        if not float(stats["pixels"]) > 0:
            raise ValueError("the data hold no window of the box's size; try a smaller box or a finer working voxel")
        operator = model.view.operator(model.object, state["x"])
        variance = model.noise.sigma**2
        x = self._solve(model.object, operator, stats, variance, prior, state["x"])
        new = state | {"step": state["step"] + 1, "x": x}
        noise = _noise(state, stats, operator.project(x))
        new |= noise if self.estimate_sigma else {"mean": noise["mean"]}
        if self.estimate_density:
            new["density"] = model.placement.density_from(stats, model.side).cpu()
        new["turn"] = self._turn(int(new["step"]), int(state["seed"]))
        if not all(bool(torch.isfinite(value).all()) for value in new.values()):
            raise FloatingPointError("an estimate is not finite: the data or the present estimate hold NaN or infinity")
        return new

    def record(self, model: Model, state: State, stats: Stats, prior: Prior) -> dict[str, float]:
        """Log-likelihood, objective and estimates in the state of the E-step."""
        likelihood = float(stats["log_likelihood"])
        templates = model.templates(state["x"])
        power = float(templates.square().sum((-2, -1)).mean())
        return {
            "log_likelihood": likelihood,
            "objective": likelihood - float(prior.energy(state["x"], model.object)),
            "sigma": model.noise.sigma,
            "mean": model.noise.mean,
            "density": model.placement.density,
            "energy": power / model.noise.sigma**2,
            "particles": model.placement.density * float(stats["pixels"]) / model.side**2,
            "frozen": float(int(state["step"]) >= self.iterations - self.frozen),
        }

    def done(self, history: Sequence[dict[str, float]], state: State) -> bool:
        """Whether the last frozen pass gained less than the tolerance."""
        if len(history) < 3 or not (history[-1]["frozen"] and history[-2]["frozen"]):
            return False
        gain = history[-1]["objective"] - history[-2]["objective"]
        return gain <= max(self.tolerance, 1e-9 * abs(history[-1]["objective"]))

    def _turn(self, step: int, seed: int) -> torch.Tensor:
        """The views' global rotation in this pass; one and the same for all starts of a run once frozen."""
        step = min(step, max(0, self.iterations - self.frozen))
        return rotation.random_rotations(1, seeding.generator(seed, "turn", step))[0]

    def _solve(
        self, object: Object, operator: Any, stats: Stats, variance: float, prior: Prior, start: torch.Tensor
    ) -> torch.Tensor:
        if not prior.quadratic:
            raise TypeError(f"EM's M-step needs a quadratic prior; got {prior!r}; try Ridge or Shells")
        gradient = torch.func.grad(lambda x: prior.energy(x, object))
        weight = stats["weight"]
        return solve.conjugate_gradients(
            lambda x: operator.backproject(weight * operator.project(x)) + variance * gradient(x),
            operator.backproject(stats["numerator"]),
            start,
            tolerance=self.solver_tolerance,
            steps=self.solver_steps,
        )


def signal_power(data: Micrographs, model: Model) -> float:
    """Expected sum of squares of a template, from the variance that the noise leaves unexplained.

    Uses at most eight micrographs; at low signal-to-noise a floor of 2 % of the noise variance stands in.
    """
    picks = range(0, len(data), -(-len(data) // 8))
    variance = sum(float(data[i].double().var()) for i in picks) / len(picks)
    excess = max(variance - model.noise.sigma**2, 0.02 * model.noise.sigma**2)
    return excess * model.side**2 / model.placement.density


def random_start(model: Model, power: float, seed: int) -> torch.Tensor:
    """Coefficients of a smooth positive random field under a Gaussian envelope, scaled to a template power."""
    shape = model.object.shape
    generator = seeding.generator(seed, "start")
    field = torch.randn(shape, generator=generator, dtype=torch.float64)
    radius = fourier.radius(shape)
    smooth = torch.fft.ifftn(torch.fft.fftn(field) * torch.exp(-0.5 * (radius / (shape[-1] / 5)).square())).real
    smooth = smooth / smooth.std()
    envelope = torch.exp(-0.5 * (fourier.distances(shape) / (0.2 * shape[-1])).square())
    x = model.object.fit((1 + smooth) * envelope)
    templates = model.templates(x.to(model.view.log_weights))
    return x * math.sqrt(power / float(templates.square().sum((-2, -1)).mean()))


def _noise(state: State, stats: Stats, templates: torch.Tensor) -> State:
    """Background and sigma from the residual of the new templates."""
    pixels = stats["pixels"]
    shift = (stats["sum"] - (stats["weight"] * templates).sum()) / pixels
    cross = (stats["numerator"] * templates).sum() - shift * (stats["weight"] * templates).sum()
    own = (stats["weight"] * templates.square()).sum()
    square = stats["square"] - 2 * shift * stats["sum"] + pixels * shift**2
    variance = (square - 2 * cross + own) / pixels
    floor = 1e-3 * square / pixels
    return {"sigma": torch.maximum(variance, floor).sqrt().cpu(), "mean": state["mean"] + shift.cpu()}
