"""Ab initio maps of particle stacks: annealed expectation-maximization over all views, as matrix products.

Every update scores some images against slices of the present map on a grid of views that is turned at random, in a low
band of frequencies that widens, and solves for the map that the weighted images imply. At a temperature above 1
posteriors are flat at first, so that sharp data do not freeze into the first map; faint data need none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from unpicked._lazy import torch
from unpicked.data.base import Data
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.estimators import slices_to_map
from unpicked.estimators.base import Batch, State
from unpicked.estimators.slices_to_map import Inserted
from unpicked.model.centred import Centred
from unpicked.model.likelihoods import Stats
from unpicked.model.model import Model
from unpicked.ops import gridding, orientations, rotation, seeding
from unpicked.ops.band import Band
from unpicked.ops.gridding import Cube
from unpicked.ops.orientations import Images
from unpicked.priors import Prior

FLOOR = 1e-4  # of the largest shell: least noise power


@dataclass(frozen=True)
class Search:
    """A map from images of unknown views, from a random start.

    Attributes:
        iterations: updates.
        batch: images of an update; the last one takes all.
        views: rotations of the grid in the first and in the last update; 4,608 are about 15 degrees apart.
        radius: largest frequency in the first and in the last update, Fourier pixels.
        temperature: of the posterior at first; it falls to 1 after two thirds of the updates.
        regularisation: 1 / tau^2 in units of the mean weight of a shell.
        memory: part of the earlier statistics that an update keeps, at most.
        mask: radius of the map's ball in voxels; None means up to the box's faces.
        solver_steps: conjugate-gradient steps of an update.
    """

    iterations: int = 25
    batch: int = 1000
    views: tuple[int, int] = (4608, 4608)
    radius: tuple[int, int] = (4, 9)
    temperature: float = 4.0
    regularisation: float = 0.05
    memory: float = 0.7
    mask: float | None = None
    solver_steps: int = 8

    monotone: ClassVar[bool] = False
    trial: ClassVar[int] = 1
    polish: ClassVar[int] = 1
    every: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.iterations < 2:
            raise ValueError(f"iterations must be at least 2 updates; got {self.iterations}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1 image; got {self.batch}")
        if min(self.views) < 1:
            raise ValueError(f"views must be at least 1; got {self.views}")
        if not 1 <= self.radius[0] <= self.radius[1]:
            raise ValueError(f"radius must rise, from at least 1 Fourier pixel; got {self.radius}")
        if not self.temperature >= 1:
            raise ValueError(f"temperature must be at least 1; got {self.temperature}")
        if not self.regularisation > 0:
            raise ValueError(f"regularisation must be positive; got {self.regularisation}")
        if not 0 <= self.memory < 1:
            raise ValueError(f"memory must be at least 0 and below 1; got {self.memory}")

    def picks(self, count: int, state: State) -> Sequence[int]:
        """Images of the present update: another part of them each time, all of them in the last."""
        step = int(state["step"])
        if step >= self.iterations - 1 or self.batch >= count:
            return range(count)
        drawn = seeding.generator(int(state["seed"]), "images", step)
        chosen: list[int] = torch.randperm(count, generator=drawn)[: self.batch].sort().values.tolist()
        return chosen

    def init(self, data: Data, model: Model, start: torch.Tensor | None, seed: int) -> State:
        """First state: the map with voxels ``start``, or that of images at random views, with noise added."""
        box, device = _box(model), model.view.log_weights.device
        if self.radius[1] > (box - 1) // 2:
            raise ValueError(f"radius must be at most {(box - 1) // 2} for a box of {box}; got {self.radius[1]}")
        band = Band(box, self.radius[1])
        sample = range(0, len(data), max(1, len(data) // 2000))
        images = coefficients(stack_of(data), sample, band, device)
        power = band.shell_mean(_square(images.coefficients).mean(0))
        generator = seeding.generator(seed, "start")
        if start is None:
            x = self._blob(images, band, power, generator)
        elif tuple(start.shape) != (model.object.size,):
            raise ValueError(f"start must hold {model.object.size} voxels; got shape {tuple(start.shape)}")
        else:
            x = start.to(device, torch.float32).view(box, box, box)
        one, lags = slices_to_map.cubes(box, self.radius[1])
        return {
            "step": torch.tensor(0),
            "seed": torch.tensor(seed),
            "reach": torch.tensor(placement_of(model).max_shift / data.pixel_size),
            "x": x.flatten().clone(),
            "noise": power.double(),
            "numerator": torch.zeros((*one.shape, 2), device=device),
            "weight": torch.zeros(lags.shape, device=device),
            "shells": torch.zeros(len(power), dtype=torch.float64, device=device),
        }

    def moved(self, model: Model, state: State, x: torch.Tensor) -> State:
        """The state at another map, without what was remembered of the old one."""
        none = {name: torch.zeros_like(state[name]) for name in ("numerator", "weight", "shells")}
        return state | none | {"x": x}

    def current(self, model: Model, state: State) -> Model:
        """The model as it is: the grid of views and the noise's spectrum are the state's."""
        return model

    def accumulate(self, model: Model, batch: Batch, state: State) -> Stats:
        """E-step over the images of a batch; inserted in Fourier cubes."""
        now = self._present(model, state)
        band, device, box = now.band, state["x"].device, _box(model)
        one, lags = slices_to_map.cubes(box, self.radius[1])
        shells = len(state["noise"])
        out = {
            "numerator": torch.zeros((*one.shape, 2), device=device),
            "weight": torch.zeros(lags.shape, device=device),
            "shells": torch.zeros(shells, dtype=torch.float64, device=device),
            "power": torch.zeros(shells, dtype=torch.float64, device=device),
            "residual": torch.zeros(shells, dtype=torch.float64, device=device),
            "log_likelihood": torch.zeros((), dtype=torch.float64, device=device),
            "effective": torch.zeros((), dtype=torch.float64, device=device),
            "images": torch.tensor(float(len(batch)), dtype=torch.float64, device=device),
        }
        if not len(batch):
            return out
        images = coefficients(stack_of(batch.data), batch.indices, band, device)
        sums = orientations.posterior_sums(images, now.slices, now.noise, now.ramps, temperature=now.temperature)
        weight = sums.weight.contiguous()
        cross = (sums.numerator.conj() * now.slices).real.sum(0).double()
        own = (weight * _square(now.slices)).sum(0).double()
        power = _square(images.coefficients).sum(0, dtype=torch.float64)
        index = band.shells.to(device)
        out["power"].index_add_(0, index, power)
        out["residual"].index_add_(0, index, power - 2 * cross + own)
        out["log_likelihood"] += sums.log_likelihood
        out["effective"] += sums.effective
        seen = sums.views > 1e-3 * len(batch) / len(now.rotations)
        found = slices_to_map.inserted(
            band, sums.numerator[seen] / now.noise, weight[seen] / now.noise, now.rotations[seen], self.radius[1]
        )
        out["numerator"], out["weight"] = found.numerator, found.weight
        out["shells"][: len(found.shells)] += found.shells
        return out

    def update(self, model: Model, state: State, stats: Stats, prior: Prior) -> State:
        """The noise's spectrum, and the map of these statistics and of part of the earlier ones."""
        if not bool(torch.isfinite(stats["log_likelihood"])):
            raise FloatingPointError("the likelihood is not finite: an image holds NaN or infinity")
        step, box = int(state["step"]), _box(model)
        last = step >= self.iterations - 1
        keep = 0.0 if last or step < 2 else self.memory
        names = ("numerator", "weight", "shells")
        sums = {name: stats[name] + keep * state[name] for name in names}
        band = self._present(model, state).band
        weight = slices_to_map.density(sums["shells"], box)[: round(band.radius) + 1]
        precision = (self.regularisation * weight).clamp(min=1e-3 * self.regularisation * float(weight.max()))
        volume = state["x"].view(box, box, box)
        mask = slices_to_map.soft_mask(box, self.mask, volume)
        x = slices_to_map.solved(
            Inserted(sums["numerator"], sums["weight"], sums["shells"], self.radius[1]),
            band,
            precision,
            volume,
            mask,
            steps=self.solver_steps,
        )
        if not bool(torch.isfinite(x).all()):
            raise FloatingPointError("the map is not finite: an image holds NaN or infinity")
        return {
            **state,
            "step": state["step"] + 1,
            "x": x.flatten(),
            "noise": noise_spectrum(state["noise"], stats["residual"] / stats["images"], band),
            **sums,
        }

    def record(self, model: Model, state: State, stats: Stats, prior: Prior) -> dict[str, float]:
        """Figures of the map in which the statistics were taken; the objective is per image of this update."""
        now = self._present(model, state)
        noise, counts = state["noise"], torch.bincount(now.band.shells, minlength=len(state["noise"]))
        there = (counts > 0).to(noise.device) & (noise > 0)
        empty = -(stats["power"][there] / noise[there]).sum() / stats["images"]
        empty = empty - (counts.to(noise)[there] * (math.pi * noise[there]).log()).sum()
        likelihood = float(stats["log_likelihood"] / stats["images"] + empty)
        return {
            "log_likelihood": likelihood,
            "objective": likelihood,
            "energy": float((2 * _square(now.slices) / now.noise).sum(1).mean()),
            "sigma": math.sqrt(float(noise[1:].mean())),
            "images": float(stats["images"]),
            "effective": float(stats["effective"] / stats["images"]),
            "temperature": now.temperature,
            "radius": now.band.radius,
            "views": float(len(now.rotations)),
        }

    def done(self, history: Sequence[dict[str, float]], state: State) -> bool:
        """After the last update."""
        return int(state["step"]) >= self.iterations

    def _blob(self, images: Images, band: Band, power: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The images at random views, and half as much white noise again, in the lowest band."""
        low, device = Band(band.box, self.radius[0]), power.device
        some = images.first(len(low))
        turned = rotation.random_rotations(len(some), generator).to(device, torch.float32)
        noise = power[low.shells.to(device)].float()
        weight = (some.weight / noise).expand(len(some), -1).contiguous()
        sums = slices_to_map.inserted(low, some.filtered / noise, weight, turned)
        zero = torch.zeros((band.box,) * 3, device=device)
        mask = slices_to_map.soft_mask(band.box, self.mask, zero)
        own = slices_to_map.density(sums.shells, band.box)
        x = slices_to_map.solved(sums, low, (0.3 * own).clamp(min=3e-4 * float(own.max())), zero, mask)
        return x + 0.5 * x.std() * torch.randn(x.shape, generator=generator).to(device) * mask

    def _present(self, model: Model, state: State) -> _Present:
        step = min(int(state["step"]), self.iterations - 1)
        return _Present(self, model, state, step / (self.iterations - 1), step)


@dataclass(frozen=True, eq=False)
class _Present:
    """What an update looks at."""

    search: Search
    model: Model
    state: State
    fraction: float
    step: int

    @cached_property
    def band(self) -> Band:
        first, last = self.search.radius
        return Band(_box(self.model), round(first + (last - first) * self.fraction))

    @cached_property
    def temperature(self) -> float:
        if self.fraction >= 2 / 3:
            return 1.0
        return max(1.0, self.search.temperature ** (1 - 1.5 * self.fraction))

    @cached_property
    def rotations(self) -> torch.Tensor:
        first, last = self.search.views
        count = round(first * (last / first) ** self.fraction)
        turn = rotation.random_rotations(1, seeding.generator(int(self.state["seed"]), "views", self.step))
        return (rotation.super_fibonacci(count) @ turn).to(self.state["x"].device, torch.float32)

    @cached_property
    def slices(self) -> torch.Tensor:
        box = self.band.box
        cube = Cube(box, self.band.radius)
        spectrum = gridding.spectrum(self.state["x"].view(box, box, box), cube)
        return gridding.read(cube, spectrum, self.rotations, self.band.points)

    @cached_property
    def noise(self) -> torch.Tensor:
        return self.state["noise"][self.band.shells.to(self.state["noise"].device)].float()

    @cached_property
    def ramps(self) -> torch.Tensor:
        return self.band.ramp(self.shifts)

    @cached_property
    def shifts(self) -> torch.Tensor:
        return orientations.shift_grid(float(self.state["reach"])).to(self.state["x"].device)


def coefficients(data: Particles, indices: Sequence[int], band: Band, device: torch.device) -> Images:
    """Coefficients and contrast transfer of some images of a stack of the band's box."""
    found = band.coefficients(data.images(indices).to(device, torch.float32))
    if data.optics is None:
        return Images(found)
    sx, sy = band.frequencies(data.pixel_size)
    return Images(found, data.optics.values(sx, sy, indices).to(device, torch.float32))


def stack_of(data: Data) -> Particles:
    """The data, which must be a stack of particles.

    Raises:
        TypeError: for micrographs or signals.
    """
    if not isinstance(data, Particles):
        raise TypeError(f"data must be Particles, one copy per image; got {type(data).__name__}; try EM() for others")
    return data


def placement_of(model: Model) -> Centred:
    """The placement, which must be that of particle stacks.

    Raises:
        ValueError: for another one.
    """
    placement: object = model.placement
    if not isinstance(placement, Centred):
        raise ValueError(f"placement must be Centred() for particle stacks; got {placement!r}")
    return placement


def noise_spectrum(old: torch.Tensor, residual: torch.Tensor, band: Band, keep: float = 0.5) -> torch.Tensor:
    """From the old power per shell towards that of the residual ``(k,)``, summed over a shell per image.

    A part ``keep`` of the old one stays.
    """
    counts = torch.bincount(band.shells, minlength=len(old)).to(residual)[: len(old)]
    new = residual / counts.clamp(min=1)
    floor = FLOOR * float(new.max())
    there = residual > 0
    return torch.where(there, keep * old + (1 - keep) * new.clamp(min=floor), old)


def likeliest(data: Particles, model: Model, state: State, search: Search, *, count: int = 1) -> list[Poses]:
    """The most likely views of every image on one more grid, the best first; shifts in angstrom."""
    now = search._present(model, state)
    found: list[list[torch.Tensor]] = [[] for _ in range(2 * count)]
    for first in range(0, len(data), 4096):
        indices = range(first, min(first + 4096, len(data)))
        images = coefficients(data, indices, now.band, state["x"].device)
        _, views, shifts = orientations.best(images, now.slices, now.noise, now.ramps, count)
        for rank in range(count):
            found[2 * rank].append(now.rotations[views[:, rank]])
            found[2 * rank + 1].append(now.shifts[shifts[:, rank]] * data.pixel_size)
    return [Poses(torch.cat(found[2 * rank]), torch.cat(found[2 * rank + 1])) for rank in range(count)]


def _box(model: Model) -> int:
    return int(model.object.shape[-1])


def _square(values: torch.Tensor) -> torch.Tensor:
    return values.real.square() + values.imag.square()
