"""Expectation-maximization with positions and views marginalised (Bendory 2022; arXiv 2303.02157).

The M-step needs one numerator image Q_r and one weight image D_r per view r, whatever the number of shifts:
(sum_r A_r^T diag(D_r) A_r + sigma^2 P) x = sum_r A_r^T Q_r, with the prior's precision P. By Fisher's identity
(sum_r A_r^T (Q_r - D_r A_r x)) / sigma^2 is the gradient of the log-likelihood at the x of the E-step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from unpicked._lazy import torch
from unpicked.data.base import Data
from unpicked.data.masks import counted
from unpicked.estimators import maximisation, minibatches, view_steps
from unpicked.estimators.acceleration import Acceleration, Mixing, Point, Relaxed
from unpicked.estimators.base import Batch, State, believed
from unpicked.model.model import Model
from unpicked.model.placements import Stats, through_of
from unpicked.model.views import Projection, Weighable
from unpicked.objects.classes import Classes
from unpicked.ops import fourier, rotation, seeding
from unpicked.ops.rounding import rounded
from unpicked.priors import Prior


@dataclass(frozen=True)
class EM:
    """Maximum a-posteriori reconstruction by EM, or by faster steps from the same statistics.

    Attributes:
        iterations: passes over the data at most.
        frozen: so many last passes use one frozen set of views; before, the set is turned at random in every pass.
        estimate_sigma: estimate the noise level.
        estimate_mean: estimate the background. Where it is known, say so: it takes information away from a target whose
            mean is not zero.
        estimate_density: estimate the covered fraction.
        estimate_views: weights that are estimated: those of "kinds" of object, of "all" views (angles in a plane on
            frozen views only, before, kinds; directions of projections always, smoothly), or "no" weights.
        relaxation: length of the steps on turning views, in EM's own: from 1 to below 2.
        batch: part of the micrographs that one update on turning views takes (frozen views take all of them). Below
            1, iterations and frozen count updates, 1 / batch of which make a pass, and statistics are running averages.
        decay: update t = 1, 2, ... gives its own statistics the weight (t + 2)^-decay, the first one 1.
        acceleration: what proposes the steps on frozen views.
        joint: whether these steps move noise and density too, for ``Anderson`` and ``Squarem``: where copies hardly
            stand out of the noise they depend on each other.
        tolerance: stop when a frozen pass gains less than this, in log units.
        trial: passes after which a recentre move must have raised the objective.
        polish: passes at most that follow a recentre move.
        solver_steps: conjugate-gradient steps of one M-step at most.
        solver_tolerance: relative residual at which they end.
        precision: floating point type of the E-step; sums and the M-step are float64.
    """

    iterations: int = 30
    frozen: int = 8
    estimate_sigma: bool = True
    estimate_mean: bool = True
    estimate_density: bool = True
    estimate_views: Literal["no", "kinds", "all"] = "no"
    relaxation: float = 1.0
    batch: float = 1.0
    decay: float = 0.6
    acceleration: Acceleration = field(default_factory=Relaxed)
    joint: bool = False
    tolerance: float = 0.1
    trial: int = 2
    polish: int = 6
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
        if self.trial < 1 or self.polish < 1:
            raise ValueError(f"trial and polish must be at least 1 pass; got {self.trial} and {self.polish}")
        if self.solver_steps < 1:
            raise ValueError(f"solver_steps must be at least 1; got {self.solver_steps}")
        if not 1 <= self.relaxation < 2:
            raise ValueError(f"relaxation must be at least 1 and below 2; got {self.relaxation}")
        if not 0 < self.batch <= 1:
            raise ValueError(f"batch must be a part of the data, above 0 and at most 1; got {self.batch}")
        if not 0.5 < self.decay <= 1:
            raise ValueError(f"decay must be above 0.5 and at most 1, or averages do not settle; got {self.decay}")
        if self.joint and not isinstance(self.acceleration, Mixing):
            raise ValueError(f"joint steps need acceleration=Anderson() or Squarem(); got {self.acceleration}")

    @property
    def monotone(self) -> bool:
        """Plain EM never lowers the objective on frozen views, where the likelihood is exact."""
        return self.acceleration == Relaxed()

    def init(self, data: Data, model: Model, start: torch.Tensor | None, seed: int) -> State:
        """First state: x from ``start`` ``(size,)``, or a smooth random blob of the power that the data suggest."""
        device = model.view.log_weights.device
        if self.acceleration.turning and model.object.size > maximisation.DENSE:
            raise ValueError(
                f"{self.acceleration!r} needs an object of at most {maximisation.DENSE} coefficients; "
                f"got {model.object.size}; try Anderson()"
            )
        if start is None:
            x = random_start(model.measured(data), signal_power(data, model), seed).to(device)
        else:
            if tuple(start.shape) != (model.object.size,):
                raise ValueError(f"start must hold {model.object.size} coefficients; got shape {tuple(start.shape)}")
            x = start.detach().to(device, torch.float64).clone()
        state = {
            "step": torch.tensor(0),
            "seed": torch.tensor(seed),
            "x": x,
            **model.noise.estimates(),
            "gain": torch.tensor(math.inf, dtype=torch.float64),
        }
        state |= _named("placement", model.placement.estimates(None, model.side, known=True))
        if isinstance(model.view, Weighable) and self._weighs(model):
            state |= view_steps.begun(model.view, scored=self.acceleration.turning)
        if self.joint:
            if not model.placement.exact:
                raise ValueError(f"joint steps need a likelihood that is exact; got {model.placement!r}; try Patches()")
            if "power" in state:
                raise ValueError(f"joint steps need white noise; got {model.noise!r}; try White()")
            state["unit"] = x.square().mean().sqrt().clamp(min=1e-300)
        state |= self._forget(self._packed(model, state)) | {"turn": self._turn(0, seed)}
        if self.batch < 1:
            state["parts"] = torch.tensor(min(len(data), round(1 / self.batch)))
            none = self.accumulate(self.current(model, state), Batch(data, []), state)
            state |= _named("average", minibatches.averaged(none))
        return state

    def moved(self, model: Model, state: State, x: torch.Tensor) -> State:
        """The state at other coefficients, to which the steps that led to the old ones say nothing."""
        new = state | {"x": x}
        return new | view_steps.forgotten(state) | self._forget(self._packed(model, new))

    def current(self, model: Model, state: State) -> Model:
        """The model with present noise, placement, weights and turn of the views."""
        view = model.view.turned(state["turn"])
        if "views" in state and isinstance(view, Weighable):
            view = view.weighted(state["views"].to(model.view.log_weights))
        return replace(
            model,
            view=view,
            placement=model.placement.present(_within("placement", state)),
            noise=model.noise.present(state),
        )

    def picks(self, count: int, state: State) -> Sequence[int]:
        """Which of ``count`` micrographs this update takes."""
        parts = self._parts(state)
        return minibatches.part(count, parts, int(state["step"]), int(state["seed"])) if parts > 1 else range(count)

    def accumulate(self, model: Model, batch: Batch, state: State) -> Stats:
        """E-step over those micrographs of a batch that this update takes, scaled to all the data."""
        model, count = model.measured(batch.data), len(batch.data)
        chosen = frozenset(self.picks(count, state))
        templates = model.templates(state["x"]).to(getattr(torch, self.precision))
        told, law = self._informed(model, state), "views.held" in state
        score = maximisation.score(model, state["x"].to(templates), views=law) if told else None
        sums = model.placement.step(templates, model.log_weights, model.noise, score=score)
        drawn = seeding.derive(int(state["seed"]), "E-step", self._turning(int(state["step"])))
        for index, image in Batch(batch.data, [index for index in batch.indices if index in chosen]):
            sums.add(image, seeding.derive(drawn, "micrograph", index), index)
        return {name: value * (count / len(chosen)) for name, value in sums.finish().items()}

    def update(self, model: Model, state: State, stats: Stats, prior: Prior) -> State:
        """M-step: x, then background, sigma and placement, each maximising with what is already new."""
        if not float(stats["pixels"]) > 0:
            raise ValueError("the data hold no window of the box's size; try a smaller box or a finer working voxel")
        step, x, operator, rate = int(state["step"]), state["x"], model.operator(state["x"]), self._rate(state)
        own = stats
        if rate < 1:
            stats = minibatches.blended(_within("average", state), stats, operator.project(x), rate)
        problem = maximisation.Problem(
            model.object,
            operator,
            stats["numerator"],
            stats["weight"],
            model.variance(x),
            prior,
            self.solver_tolerance,
            self.solver_steps,
            through_of(model.placement),
            model.view,
        )
        gradient = problem.gradient(x)
        information, size = stats.get("information"), len(x)
        point = Point(x, gradient, problem, None if information is None else information[:size, :size])
        new = dict(state)
        if self.joint:
            target = point.image
        elif self._frozen(step) or self.acceleration.turning:
            target, state_of_steps = self._step(model, state, stats, point, problem)
            new |= state_of_steps
        else:
            target = x + self.relaxation * point.residual
        target = x.lerp(target, rate)
        if "parts" in state:
            new |= _named("average", minibatches.averaged(stats))
        settled = target if self.acceleration.turning or rate < 1 else point.image
        new |= {
            "step": state["step"] + 1,
            "x": target,
            "gain": 0.5 * gradient.dot(settled - x).cpu(),
            "turn": self._turn(step + 1, int(state["seed"])),
        }
        new |= self._noise(model, state, own, operator.project(settled), rate)
        known = not self.estimate_density
        new |= _named("placement", model.placement.estimates(stats, model.side, known=known))
        if isinstance(model.view, Projection) and self._weighs(model):
            told = None if information is None else information[size:, size:]
            frozen = self._frozen(step)
            moved, gain = view_steps.directed(
                model.view, state, own, told, rate, scored=frozen, ahead=not (self.monotone and frozen)
            )
            new |= moved | {"gain": new["gain"] + gain}
        elif isinstance(model.view, Weighable) and self._weighs(model):
            turning = self.estimate_views == "kinds" or not self._frozen(step)
            new["views"] = view_steps.counted(model.view, stats, turning=turning)
        if self.joint and isinstance(self.acceleration, Mixing) and self._frozen(step):
            new = self._jointly(self.acceleration, model, state, new, stats, prior)
        if not all(bool(torch.isfinite(new[name]).all()) for name in ("x", "sigma", "mean")):
            raise FloatingPointError("an estimate is not finite: the data or the present estimate hold NaN or infinity")
        if self.precision == "float64":
            return new
        shown = {name: value for name, value in new.items() if _shown(name) and not torch.equal(value, state[name])}
        return new | {name: rounded(value) for name, value in shown.items()}

    def record(self, model: Model, state: State, stats: Stats, prior: Prior) -> dict[str, float]:
        """Estimates in the state of the E-step; log-likelihood and objective where the likelihood is exact."""
        templates = model.templates(state["x"])
        powers = model.placement.powers(templates / torch.as_tensor(model.variance(templates)).sqrt().to(templates))
        power = float(powers @ model.log_weights.exp().to(powers)) if "views" in state else float(powers.mean())
        row = {}
        if model.placement.exact:
            likelihood = float(stats["log_likelihood"])
            row = {
                "log_likelihood": likelihood,
                "objective": likelihood - believed(model, prior, state["x"]),
            }
        return row | {
            "sigma": model.noise.sigma,
            "mean": model.noise.mean,
            "density": model.placement.density,
            "energy": power,
            "particles": float(stats["views"].sum())
            if not model.placement.exact
            else model.placement.density * float(stats["pixels"]) / model.side**model.dims,
            "frozen": float(self._frozen(int(state["step"]))),
        }

    def done(self, history: Sequence[dict[str, float]], state: State) -> bool:
        """Whether the last frozen pass gained less than the tolerance, or has less than that to gain."""
        if len(history) < 3 or not (history[-1]["frozen"] and history[-2]["frozen"]):
            return False
        if "objective" not in history[-1]:
            return float(state["gain"]) <= self.tolerance
        if self.joint:  # bold steps are quiet now and then where there is still something to gain
            last = [row["objective"] for row in history[-_QUIET:] if row["frozen"]]
            return len(last) == _QUIET and max(last) - last[0] <= self.tolerance
        gain = history[-1]["objective"] - history[-2]["objective"]
        quiet = gain <= max(self.tolerance, 1e-9 * abs(history[-1]["objective"]))
        return quiet if self.monotone else quiet and float(state["gain"]) <= self.tolerance

    def _noise(self, model: Model, state: State, stats: Stats, templates: torch.Tensor, rate: float) -> State:
        """Background and noise from the residual of the new templates, gone a part ``rate`` of the way."""
        found = model.placement.noise(stats, templates, model.noise, mean=self.estimate_mean, sigma=self.estimate_sigma)
        new: State = {name: state[name].lerp(found[name], rate) for name in ("mean", "power") if name in found}
        if "variance" in found:
            new["sigma"] = state["sigma"].square().lerp(found["variance"], rate).sqrt()
        return new

    def _weighs(self, model: Model) -> bool:
        if self.estimate_views == "kinds" and isinstance(model.view, Projection):
            return False
        return self.estimate_views != "no" and isinstance(model.view, Weighable)

    def _turning(self, step: int) -> int:
        """The pass whose random numbers and views are used: its own, or the first frozen one."""
        return min(step, max(0, self.iterations - self.frozen))

    def _parts(self, state: State) -> int:
        """Updates that make a pass over the data."""
        return int(state["parts"]) if "parts" in state and not self._frozen(int(state["step"])) else 1

    def _rate(self, state: State) -> float:
        """Weight of this update's statistics in the running averages (Robbins and Monro 1951)."""
        step = int(state["step"])
        return (step + 2.0) ** -self.decay if step and self._parts(state) > 1 else 1.0

    def _informed(self, model: Model, state: State) -> bool:
        """Whether this pass sums the observed information; objects of many coefficients go without."""
        wanted = self.acceleration.informed(int(state["step"]), _within("memory", state))
        return wanted and model.placement.scored and model.object.size <= maximisation.DENSE

    def _frozen(self, step: int) -> bool:
        return step >= self.iterations - self.frozen

    def _turn(self, step: int, seed: int) -> torch.Tensor:
        """The views' global rotation in this pass; one and the same for all starts of a run once frozen."""
        return rotation.random_rotations(1, seeding.generator(seed, "turn", self._turning(step)))[0]

    def _packed(self, model: Model, state: State) -> torch.Tensor:
        """What the acceleration sees: x, and where steps are joint the other parameters, without bounds."""
        if not self.joint:
            return state["x"]
        share = state["placement.density"] / model.placement.most(model.side, model.dims)
        others = torch.stack([state["sigma"].log(), state["mean"] / state["sigma"], torch.logit(share)])
        return torch.cat([state["x"], state["unit"] * others.to(state["x"])])

    def _jointly(self, mixing: Mixing, model: Model, state: State, new: State, stats: Stats, prior: Prior) -> State:
        """EM's step ``new`` from ``state``, accelerated in all parameters."""
        packed, image = self._packed(model, state), self._packed(model, new)
        value = stats["log_likelihood"].cpu() - believed(model, prior, state["x"])
        if bool(value < state["best.value"] - 1e-9 * value.abs()):
            target, steps = state["best.image"], self._forget(packed)
        else:
            best = {"x": packed, "image": image, "value": value}
            target, memory = mixing.mix(_within("memory", state), packed, image)
            steps = _named("best", best) | _named("memory", memory)
        size = model.object.size
        sigma, mean, share = (target[size:] / state["unit"]).cpu().clamp(-700, 700)
        out = new | steps | {"x": target[:size]}
        if self.estimate_sigma:
            out["sigma"] = sigma.exp()
        if self.estimate_mean:
            out["mean"] = mean * out["sigma"]
        if self.estimate_density:
            out["placement.density"] = model.placement.most(model.side, model.dims) * torch.sigmoid(share).clamp(
                1e-6, 0.99
            )
        return out

    def _forget(self, x: torch.Tensor) -> State:
        best = {"x": x.clone(), "image": x.clone(), "value": torch.tensor(-math.inf, dtype=torch.float64)}
        return _named("best", best) | _named("memory", self.acceleration.memory(x))

    def _step(
        self, model: Model, state: State, stats: Stats, point: Point, problem: maximisation.Problem
    ) -> tuple[torch.Tensor, State]:
        """Where to go on frozen views; back to EM's answer to the best point where a bold step went wrong."""
        if self.monotone:
            return point.image, {}
        if self.acceleration.turning:  # steps of limited length uphill, on whichever views
            target, memory = self.acceleration.propose(_within("memory", state), point)
            return target, _named("memory", memory)
        value = stats["log_likelihood"].cpu() - believed(model, problem.prior, point.x)
        if not model.placement.exact:  # the less there is to gain, the better
            value = -point.gradient.dot(point.residual).cpu()
            failed = bool(value < 4 * state["best.value"] - 4 * self.tolerance)
        else:
            failed = bool(value < state["best.value"] - 1e-9 * value.abs())
        if failed:
            return state["best.image"], self._forget(point.x)
        best = {"x": point.x, "image": point.image, "value": value}
        target, memory = self.acceleration.propose(_within("memory", state), point)
        return target, _named("best", best) | _named("memory", memory)


_QUIET = 7  # passes of joint steps in which the objective hardly rises at the end


def _shown(name: str) -> bool:
    """Whether the E-step sees a part of the state."""
    return name in ("x", "sigma", "mean", "power", "views") or name.startswith("placement.")


def _named(group: str, tensors: Mapping[str, torch.Tensor]) -> State:
    return {f"{group}.{name}": value for name, value in tensors.items()}


def _within(group: str, state: State) -> dict[str, torch.Tensor]:
    return {name.partition(".")[2]: value for name, value in state.items() if name.startswith(f"{group}.")}


SIGNAL_FLOOR = 0.02


def signal_power(data: Data, model: Model) -> float:
    """Expected sum of squares of a template, from the variance that the noise leaves unexplained.

    Uses at most eight micrographs; at low signal-to-noise a floor of 2 % of the noise variance (``SIGNAL_FLOOR``)
    stands in.
    """
    picks = range(0, len(data), -(-len(data) // 8))
    variance = sum(float(counted(data, i).double().var()) for i in picks) / len(picks)
    excess = max(variance - model.noise.sigma**2, SIGNAL_FLOOR * model.noise.sigma**2)
    return excess * model.side**model.dims / model.placement.density


def random_start(model: Model, power: float, seed: int) -> torch.Tensor:
    """Random coefficients, scaled to a template power: volumes are smooth positive blobs, signals and images noise."""
    object, generator = model.object, seeding.generator(seed, "start")
    one = object.object if isinstance(object, Classes) else object
    fields = [_random_field(one.shape, generator) for _ in range(object.size // one.size)]
    x = object.fit(torch.stack(fields) if isinstance(object, Classes) else fields[0])
    templates = model.templates(x.to(model.view.log_weights))
    return x * math.sqrt(power / float(model.placement.powers(templates).mean()))


def _random_field(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Smooth random values; those of a volume positive under a Gaussian envelope."""
    field = torch.randn(shape, generator=generator, dtype=torch.float64)
    if len(shape) < 3:
        return field
    radius = fourier.radius(shape)
    smooth = torch.fft.ifftn(torch.fft.fftn(field) * torch.exp(-0.5 * (radius / (shape[-1] / 5)).square())).real
    smooth = smooth / smooth.std()
    envelope = torch.exp(-0.5 * (fourier.distances(shape) / (0.2 * shape[-1])).square())
    return (1 + smooth) * envelope
