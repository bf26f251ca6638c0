"""Map and poses by stochastic gradients: tomography, the auto-decoder and the auto-encoder (Nashed et al. 2021).

One estimator, three sources of poses. An update reads one batch of images, takes from each source the pose that
explains the image best, and steps down the gradient of the mean misfit in the map and in what the poses come from
(Adam, Kingma and Ba 2015). All that it keeps are tensors in ``State``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from unpicked._lazy import torch
from unpicked.data.base import Data
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.estimators import decoder, minibatches
from unpicked.estimators.base import Batch, State
from unpicked.estimators.seen import PoseSource, Seen, look
from unpicked.model.model import Model
from unpicked.model.placements import Stats
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation, seeding, trilinear
from unpicked.priors import Flat, Prior


@dataclass(frozen=True, eq=False, repr=False)
class Learned:
    """What a source of poses has learned in an earlier run, for another run to begin with.

    Attributes:
        values: its parameters: weights of an encoder, rows of a table.
    """

    values: torch.Tensor

    @staticmethod
    def of(state: State) -> Learned:
        """What a run of ``Gradient`` ended with (``Reconstruction.state``)."""
        return Learned(state["poses"].detach().clone())

    def __repr__(self) -> str:  # tells checkpoints of different beginnings apart
        digest = hashlib.sha256(self.values.cpu().numpy().tobytes()).hexdigest()
        return f"Learned({digest[:16]})"


@dataclass(frozen=True)
class Gradient:
    """Adam on the voxels of a map and on what its poses come from.

    Attributes:
        poses: source of the poses: Known(), Table() or Encoder().
        iterations: updates.
        batch: images of one update.
        map_rate: length of a step of the map at first, in parts of the map's expected root mean square.
        least_map_rate: at the end of a run, along a cosine.
        start_scale: random maps begin uniform between 0 and this part of the expected root mean square.
        radius: of the band that is compared, in Fourier pixels; 0: up to the last paired frequency.
        first_radius: of the band at the beginning, from which it grows in proportion to the updates; 0: no growth.
        growth: part of the updates after which the band is whole.
        every: updates between two rows of the history (and between two checkpoints).
        precision: floating point type of everything but sums.
        begin: what the source of the poses begins with; at random if not given. With the map of the same run as
            ``start``, a run goes on with other rates and without memory of its earlier steps.
    """

    poses: PoseSource
    iterations: int = 10_000
    batch: int = 32
    map_rate: float = 0.1
    least_map_rate: float = 0.01
    start_scale: float = 0.1
    radius: int = 0
    first_radius: int = 0
    growth: float = 0.5
    every: int = 50
    precision: Literal["float32", "float64"] = "float32"
    begin: Learned | None = None

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.batch < 1 or self.every < 1:
            raise ValueError(
                f"iterations, batch and every must be at least 1; got {self.iterations}, {self.batch} and {self.every}"
            )
        if not 0 <= self.least_map_rate <= self.map_rate:
            raise ValueError(
                f"least_map_rate must lie between 0 and map_rate; got {self.least_map_rate} and {self.map_rate}"
            )
        if not self.start_scale > 0:
            raise ValueError(f"start_scale must be positive; got {self.start_scale}")
        if min(self.radius, self.first_radius) < 0 or (self.radius and self.first_radius > self.radius):
            raise ValueError(f"first_radius must lie between 0 and radius; got {self.first_radius} and {self.radius}")
        if not 0 <= self.growth <= 1:
            raise ValueError(f"growth must be a part of the updates, 0 to 1; got {self.growth}")

    @property
    def monotone(self) -> bool:
        """Steps along noisy gradients may fail."""
        return False

    @property
    def trial(self) -> int:
        """Updates by which a recentre move is judged."""
        return self.every

    @property
    def polish(self) -> int:
        """Updates after a recentre move."""
        return self.every

    def init(self, data: Data, model: Model, start: torch.Tensor | None, seed: int) -> State:
        """First state: the map from ``start`` ``(size,)`` or uniform at random, the poses at random."""
        object, stack = _fit(data, model)
        self.poses.check(stack, _max_shift(model))
        like = self._like(model)
        places = list(range(0, len(stack), -(-len(stack) // 256)))
        power, unit = decoder.powers(stack, self._radius(object, self.iterations), model.noise.sigma, places)
        if start is None:
            values = torch.rand(object.shape, generator=seeding.generator(seed, "start"), dtype=torch.float64)
            x = object.fit(values * trilinear.soft_mask(object.box)).to(like) * (self.start_scale * unit)
        else:
            if tuple(start.shape) != (object.size,):
                raise ValueError(f"start must hold {object.size} coefficients; got shape {tuple(start.shape)}")
            x = start.detach().to(like).clone()
        parameters = self.poses.start(stack, seed).to(like)
        if self.begin is not None:
            if self.begin.values.shape != parameters.shape:
                raise ValueError(
                    f"begin must hold parameters of shape {tuple(parameters.shape)}, as this source of poses has; got "
                    f"{tuple(self.begin.values.shape)}"
                )
            parameters = self.begin.values.to(like, copy=True)
        counts = self.poses.seen(parameters, torch.zeros(0, dtype=torch.long, device=like.device))
        positive = torch.tensor([power, unit], dtype=torch.float64).clamp(min=1e-300)
        return {
            "step": torch.tensor(0),
            "seed": torch.tensor(seed),
            "x": x,
            **{f"x.{name}": torch.zeros_like(x) for name in ("first", "second")},
            "x.steps": torch.tensor(0),
            "poses": parameters,
            **{f"poses.{name}": torch.zeros_like(parameters) for name in ("first", "second")},
            "poses.steps": torch.zeros_like(counts),
            "usage": torch.full((self.poses.outputs,), 1 / self.poses.outputs, dtype=torch.float64),
            "loss": torch.tensor(math.nan, dtype=torch.float64),
            "count": torch.tensor(len(stack)),
            "power": positive[0].clone(),
            "unit": positive[1].clone(),
            "scale": self.poses.scale(stack).to(like),
        }

    def moved(self, model: Model, state: State, x: torch.Tensor) -> State:
        """The state at another map, without the memory of the old one."""
        nothing = {name: torch.zeros_like(state[name]) for name in ("x.first", "x.second", "x.steps")}
        return state | nothing | {"x": x.to(state["x"])}

    def current(self, model: Model, state: State) -> Model:
        """The model as it is: nothing but map and poses is estimated."""
        return model

    def picks(self, count: int, state: State) -> Sequence[int]:
        """The images that the present update reads; each once before any is read again."""
        return minibatches.part(count, self._parts(count), int(state["step"]), int(state["seed"]))

    def accumulate(self, model: Model, batch: Batch, state: State) -> Stats:
        """Gradients of the misfit of a batch in the map and in the parameters of the poses, in units of the power."""
        object, stack = _fit(batch.data, model)
        like, step = state["x"], int(state["step"])
        seen = look(stack, batch.indices, _max_shift(model), state["scale"], like)
        counts = self.poses.seen(state["poses"], seen.places)
        sums = {
            "x": torch.zeros_like(like),
            "poses": torch.zeros_like(state["poses"]),
            "seen": counts,
            "loss": torch.zeros((), dtype=torch.float64, device=like.device),
            "count": torch.tensor(len(seen.places), device=like.device),
            "wins": torch.zeros(self.poses.outputs, dtype=torch.float64, device=like.device),
        }
        if not len(seen.places):
            return sums
        with torch.enable_grad():
            x = like.detach().requires_grad_()
            parameters = state["poses"].detach().requires_grad_()
            radius = self._radius(object, step)
            images = decoder.measured(seen, radius)
            cube = decoder.spectrum(object, x, radius)
            loss, winners = self._compete(cube, parameters, seen, images, object.pad, state)
            total = loss.sum() / float(state["power"])
            wanted = [x, parameters] if parameters.numel() else [x]
            found = torch.autograd.grad(total, wanted, allow_unused=True)
        sums["x"] = found[0]
        if len(found) > 1 and found[1] is not None:
            sums["poses"] = found[1]
        sums["loss"] = sums["loss"] + total.detach().double()
        sums["wins"] = torch.bincount(winners % self.poses.outputs, minlength=self.poses.outputs).double()
        return sums

    def update(self, model: Model, state: State, stats: Stats, prior: Prior) -> State:
        """One step of Adam of map and poses."""
        count, object = stats["count"], model.object
        if not int(count) > 0:
            raise ValueError("the data are empty; give at least one image")
        slope = stats["x"] / count
        if not isinstance(prior, Flat):
            slope = slope + self._belief(model, state, prior)
        step, device = int(state["step"]), state["x"].device
        fraction = step / self.iterations
        mask = decoder.mask(object.shape[0], device, slope.dtype)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))
        rate = self.least_map_rate + (self.map_rate - self.least_map_rate) * cosine
        new = dict(state)
        unit = float(state["unit"])
        new |= _adam(state, "x", slope * unit, torch.ones((), device=device), mask * (rate * unit))
        if state["poses"].numel():
            mean = stats["poses"] / stats["seen"].clamp(min=1)
            new |= _adam(state, "poses", mean, stats["seen"], torch.tensor(self.poses.rate(fraction), device=device))
        loss = (stats["loss"] / count).cpu()
        keep = 0.0 if bool(state["loss"].isnan()) else 1 - 1 / min(step + 1, _MEMORY)
        epoch = self._parts(int(state["count"]))
        share = (stats["wins"] / stats["wins"].sum()).cpu()
        new |= {
            "step": state["step"] + 1,
            "loss": loss if keep == 0 else keep * state["loss"] + (1 - keep) * loss,
            "usage": state["usage"].lerp(share, 1 / min(step + 1, epoch)),
        }
        if not all(bool(torch.isfinite(new[name].sum())) for name in ("x", "poses", "loss")):
            raise FloatingPointError("map or poses are not finite: the data, or the present estimate, hold NaN")
        if self.poses.outputs > 1 and fraction < 0.5 and (step + 1) % max(epoch, _PATIENCE) == 0:
            seed = seeding.derive(int(state["seed"]), "revived", step)
            new["poses"] = self.poses.revived(new["poses"], new["usage"], seed)
        return new

    def record(self, model: Model, state: State, stats: Stats, prior: Prior) -> dict[str, float]:
        """Misfit of the batch and over the last batches, in parts of the images' power, and what it amounts to."""
        object = model.object
        loss = float(stats["loss"] / stats["count"])
        mean = loss if bool(state["loss"].isnan()) else float(state["loss"])
        radius = self._radius(object, int(state["step"]))
        terms = len(decoder.band(object.shape[0], radius)) * float(state["power"]) / model.noise.sigma**2
        likelihood = -mean * terms * int(state["count"])
        usage = state["usage"].clamp(min=1e-12)
        return {
            "loss": loss,
            "mean_loss": mean,
            "log_likelihood": likelihood,
            "objective": likelihood - float(prior.energy(state["x"], model.object)),
            "radius": float(radius),
            "heads": float(torch.exp(-(usage * usage.log()).sum())),
        }

    def done(self, history: Sequence[dict[str, float]], state: State) -> bool:
        """Whether the whole run is over and its last tenth gained less than 1 %."""
        if int(state["step"]) < self.iterations or len(history) < 11:
            return False
        before, last = history[-1 - len(history) // 10]["mean_loss"], history[-1]["mean_loss"]
        return last > 0.99 * before

    def poses_of(self, model: Model, state: State, data: Particles, *, batch: int = 256) -> Poses:
        """The pose of every image, used in the fit or not, that explains it best with the present map.

        Args:
            model: that of the run.
            state: its end (``Reconstruction.state``).
            data: images of the run's box and pixel size; for a table, those of the run.
            batch: images that are looked at together.
        """
        turns, shifts = [], []
        object, _ = _fit(data, model)
        radius = self._radius(object, self.iterations)
        with torch.no_grad():
            cube = decoder.spectrum(object, state["x"], radius)
            for first in range(0, len(data), batch):
                places = range(first, min(first + batch, len(data)))
                seen = look(data, places, _max_shift(model), state["scale"], state["x"])
                every = self.poses.propose(state["poses"], seen)
                errors = decoder.misfit(cube, every, decoder.measured(seen, radius), object.pad)
                best = every.chosen(errors.argmin(1, keepdim=True))
                turns.append(best.rotations[:, 0])
                shifts.append(seen.images.new_zeros(len(places), 2) if best.shifts is None else best.shifts[:, 0])
        rows = torch.cat(turns)[:, :2].double().flatten(1)  # orthonormal to rounding in float64, too
        return Poses(rotation.s2s2_to_matrix(rows), torch.cat(shifts).double())

    def _compete(
        self,
        cube: torch.Tensor,
        parameters: torch.Tensor,
        seen: Seen,
        images: decoder.Measured,
        pad: int,
        state: State,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Misfit of the winners ``(n,)`` (with a part of a loser's), and which pose has won."""
        count = self.poses.count
        if count == 1:
            only = self.poses.propose(parameters, seen)
            return decoder.misfit(cube, only, images, pad)[:, 0], torch.zeros_like(seen.places)
        step, every = int(state["step"]), None
        rows = torch.arange(len(seen.places), device=seen.places.device)
        tried = torch.arange(count, device=seen.places.device).expand(len(seen.places), -1)
        few = self.poses.tried(step / self.iterations)
        if few < count:
            order = self._drawn("tried", state, count).argsort(1)
            tried = order.to(tried.device)[seen.places, :few]
        if self.poses.together:
            every = self.poses.propose(parameters, seen)
        with torch.no_grad():
            if few > 1:
                judged = every or self.poses.propose(parameters, seen, tried if few < count else None)
                best = decoder.misfit(cube, judged, images, pad).argmin(1)
                winners = tried[rows, best]
            else:
                winners = tried[:, 0]
        picks = winners[:, None]
        spread = self.poses.spread if 2 * step < self.iterations and self.poses.outputs > 1 else 0.0
        if spread:  # another head
            others = 1 + (self._drawn("losers", state, 1)[:, 0] * (self.poses.outputs - 1)).long()
            head = winners % self.poses.outputs
            loser = winners - head + (head + others.to(head)[seen.places]) % self.poses.outputs
            picks = torch.stack([winners, loser], 1)
        chosen = every.chosen(picks) if every else self.poses.propose(parameters, seen, picks)
        errors = decoder.misfit(cube, chosen, images, pad)
        if not spread:
            return errors[:, 0], winners
        return (1 - spread) * errors[:, 0] + spread * errors[:, 1], winners

    def _drawn(self, name: str, state: State, count: int) -> torch.Tensor:
        """Numbers between 0 and 1 ``(images, count)`` for this update, whatever process asks for them."""
        generator = seeding.generator(int(state["seed"]), name, int(state["step"]))
        return torch.rand(int(state["count"]), count, generator=generator)

    def _belief(self, model: Model, state: State, prior: Prior) -> torch.Tensor:
        """Gradient of the prior's energy, on the scale of the mean misfit."""
        with torch.enable_grad():
            x = state["x"].detach().requires_grad_()
            found = torch.autograd.grad(prior.energy(x, model.object), x)[0]
        terms = len(decoder.band(model.object.shape[0], self._radius(model.object, int(state["step"]))))
        return found * (model.noise.sigma**2 / (float(state["power"]) * terms * int(state["count"])))

    def _radius(self, object: object, step: int) -> int:
        """Radius of the band at this update."""
        box = object.shape[0]  # type: ignore[attr-defined]
        last = min(self.radius or box, (box - 1) // 2)
        if not self.first_radius or step >= self.growth * self.iterations:
            return last
        first = min(self.first_radius, last)
        return first + int((last - first + 1) * step / (self.growth * self.iterations))

    def _parts(self, count: int) -> int:
        """Updates that make a pass over the data."""
        return max(1, round(count / self.batch))

    def _like(self, model: Model) -> torch.Tensor:
        return torch.zeros((), dtype=getattr(torch, self.precision), device=model.view.log_weights.device)


_MEMORY = 100  # updates over which the misfit is averaged
_PATIENCE = 200  # updates between two looks for heads of no use, at least
_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8  # Adam's constants


def _adam(state: State, name: str, slope: torch.Tensor, seen: torch.Tensor, rate: torch.Tensor) -> State:
    """A step of the tensor ``name``, where something of it was seen; the rest stays as it is."""
    on = (seen > 0).to(slope)
    steps = state[f"{name}.steps"] + (seen > 0).to(state[f"{name}.steps"])
    age = steps.clamp(min=1).to(slope)
    first = state[f"{name}.first"].lerp(slope, (1 - _FIRST) * on)
    second = state[f"{name}.second"].lerp(slope.square(), (1 - _SECOND) * on)
    # gradients are those of a misfit of about 1
    size = second.sqrt() / (1 - _SECOND**age).sqrt() + _TINY
    new = torch.addcdiv(state[name], first * (-rate * on / (1 - _FIRST**age)), size)
    return {name: new, f"{name}.first": first, f"{name}.second": second, f"{name}.steps": steps}


def _fit(data: Data, model: Model) -> tuple[Voxels, Particles]:
    """Object and data, where they are what gradients are written for."""
    if not isinstance(model.object, Voxels):
        raise ValueError(f"Gradient needs an object on voxels; got {model.object!r}; try Voxels(box)")
    if not isinstance(data, Particles):
        raise ValueError(f"Gradient needs a stack of particles; got {type(data).__name__}; try EM()")
    if data.box != model.object.box:
        raise ValueError(f"a map of {model.object.box} voxels does not fit images of {data.box} pixels")
    return model.object, data


def _max_shift(model: Model) -> float:
    return float(getattr(model.placement, "max_shift", 0.0))
