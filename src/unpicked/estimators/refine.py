"""Maps and poses of particle stacks, in turn: every image's pose fitted to the map, the map solved from all images.

Poses come with the data. Where a rescue is asked for, an exhaustive search in a low band offers every image another
one; it is taken where it fits better in the whole band. Without steps and rescues the poses are left as they are, and
the answer is the map of known poses in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from unpicked._lazy import torch
from unpicked.data.base import Data
from unpicked.data.poses import Poses
from unpicked.estimators import slices_to_map
from unpicked.estimators.base import Batch, State
from unpicked.estimators.search import coefficients, noise_spectrum, placement_of, stack_of
from unpicked.estimators.slices_to_map import Inserted
from unpicked.model.likelihoods import Stats
from unpicked.model.model import Model
from unpicked.ops import alignment, gridding, orientations, rotation, seeding, shift
from unpicked.ops.alignment import Fitted
from unpicked.ops.band import Band
from unpicked.ops.gridding import Cube
from unpicked.ops.orientations import Images
from unpicked.priors import Prior

LEAST = 0.02  # 1 / tau^2 in units of the mean weight of a shell, for the solver's sake
RESTING = 0.3  # part of the noise's own spread by which poses at rest turn in a round, in the median
APART = 30.0  # degrees between candidates of a rescue
AMONG = 64  # likeliest views from which they are taken: as many of 4,608 lie within 36 degrees
FAINTEST = 0.02  # least part of a shell that is kept
_COLUMNS = 14  # rotation 9, shift 2 in angstrom, misfit, spread in degrees, whether the rescue was taken


@dataclass(frozen=True)
class Refine:
    """Poses by Levenberg-Marquardt, the map by conjugate gradients.

    Attributes:
        iterations: rounds over all images.
        radius: largest frequency in the first and in the last round, Fourier pixels; it rises round by round.
        rescues: so many first rounds search all views anew.
        views: rotations of that search.
        rescue_radius: largest frequency of that search.
        candidates: views that it hands on to be fitted.
        steps: proposals per image and round; 0 leaves the poses as they are.
        turn: largest turn of a step in degrees.
        mask: radius of the map's ball in voxels; None means up to the box's faces.
        solver_steps: conjugate-gradient steps of a round.
        tolerance: stop when the median turn of a round at the last radius is below this, in degrees.
        solve: whether the map follows the poses; False leaves it as it is.
        noise: power per coefficient of the shells 0 .. that is known at the start, e.g. from a coarser stage; that of
            the images stands for other shells.
    """

    iterations: int = 6
    radius: tuple[int, int] = (9, 15)
    rescues: int = 2
    views: int = 4608
    rescue_radius: int = 9
    candidates: int = 1
    steps: int = 4
    turn: float = 8.0
    mask: float | None = None
    solver_steps: int = 10
    tolerance: float = 0.0
    solve: bool = True
    noise: tuple[float, ...] = ()

    monotone: ClassVar[bool] = False
    trial: ClassVar[int] = 1
    polish: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1 round; got {self.iterations}")
        if not 1 <= self.radius[0] <= self.radius[1]:
            raise ValueError(f"radius must rise, from at least 1 Fourier pixel; got {self.radius}")
        if self.rescues < 0 or self.steps < 0:
            raise ValueError(f"rescues and steps must not be negative; got {self.rescues} and {self.steps}")
        if self.rescues and not 1 <= self.rescue_radius <= self.radius[0]:
            raise ValueError(f"rescue_radius must lie between 1 and the first radius; got {self.rescue_radius}")
        if self.views < 1 or self.candidates < 1:
            raise ValueError(f"views and candidates must be at least 1; got {self.views} and {self.candidates}")
        if self.solver_steps < 1:
            raise ValueError(f"solver_steps must be at least 1; got {self.solver_steps}")
        if self.noise and min(self.noise) < 0:
            raise ValueError(f"noise must not be negative; got a smallest value of {min(self.noise)}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must not be negative; got {self.tolerance}")

    def init(self, data: Data, model: Model, start: torch.Tensor | None, seed: int) -> State:
        """First state: the poses of the data, and the map ``start``; without it the map of these poses comes first."""
        placement, box, device = placement_of(model), _box(model), model.view.log_weights.device
        if self.radius[1] > (box - 1) // 2:
            raise ValueError(f"radius must be at most {(box - 1) // 2} for a box of {box}; got {self.radius[1]}")
        given = stack_of(data).poses
        if given is None and (start is None or not self.rescues):
            raise ValueError("refinement needs poses in the data, or a start map and rescues; try Search() first")
        if start is not None and tuple(start.shape) != (model.object.size,):
            raise ValueError(f"start must hold {model.object.size} voxels; got shape {tuple(start.shape)}")
        band = Band(box, self.radius[1])
        sample = range(0, len(data), max(1, len(data) // 2000))
        power = band.shell_mean(_square(coefficients(stack_of(data), sample, band, device).coefficients).mean(0))
        known = torch.tensor(self.noise[: len(power)], dtype=power.dtype, device=device)
        power[: len(known)] = torch.where(known > 0, known, power[: len(known)])
        rows = torch.zeros(len(data), _COLUMNS, dtype=torch.float64, device=device)
        if given is None:
            rows[:, :9] = torch.eye(3, dtype=torch.float64, device=device).flatten()
        else:
            rows[:, :9] = given.rotations.to(device, torch.float64).flatten(1)
            rows[:, 9:11] = given.shifts.to(device, torch.float64)
        x = torch.zeros(model.object.size, device=device) if start is None else start.to(device, torch.float32).clone()
        return {
            "step": torch.tensor(0),
            "seed": torch.tensor(seed),
            "begun": torch.tensor(int(start is not None)),
            "moving": torch.tensor(int(placement.max_shift > 0)),
            "pixel_size": torch.tensor(data.pixel_size, dtype=torch.float64),
            "turned": torch.tensor(math.inf, dtype=torch.float64),
            "x": x,
            "noise": power.double(),
            "rows": rows,
        }

    def moved(self, model: Model, state: State, x: torch.Tensor) -> State:
        """The state at another map."""
        return state | {"x": x}

    def current(self, model: Model, state: State) -> Model:
        """The model as it is: the noise's spectrum is the state's."""
        return model

    def accumulate(self, model: Model, batch: Batch, state: State) -> Stats:
        """Poses of the images of a batch fitted, and the images inserted in Fourier cubes."""
        band, device = self._band(model, state), state["x"].device
        one, lags = slices_to_map.cubes(band.box, band.radius)
        shells = len(state["noise"])
        out = {
            "numerator": torch.zeros((*one.shape, 2), device=device),
            "weight": torch.zeros(lags.shape, device=device),
            "shells": torch.zeros(int(band.shells.max()) + 1, dtype=torch.float64, device=device),
            "residual": torch.zeros(shells, dtype=torch.float64, device=device),
            "energy": torch.zeros((), dtype=torch.float64, device=device),
            "images": torch.tensor(float(len(batch)), dtype=torch.float64, device=device),
            "rows": torch.zeros_like(state["rows"]),
        }
        if not len(batch):
            return out
        pixel, places = float(state["pixel_size"]), torch.tensor(list(batch.indices), device=device)
        images = coefficients(stack_of(batch.data), batch.indices, band, device)
        noise = state["noise"][band.shells.to(device)].float()
        cube = Cube(band.box, band.radius)
        spectrum = gridding.spectrum(state["x"].view((band.box,) * 3), cube)
        rows = state["rows"][places]
        fitted, rescued = self._fitted(model, state, images, spectrum, cube, band, noise, rows)
        ramp = band.ramp(fitted.shifts)
        slices = gridding.read(cube, spectrum, fitted.rotations, band.points)
        seen = slices * ramp if images.transfer is None else slices * ramp * images.transfer
        rest = images.coefficients - seen
        out["residual"].index_add_(0, band.shells.to(device), _square(rest).sum(0, dtype=torch.float64))
        out["energy"] += 2 * (_square(seen) / noise).sum(dtype=torch.float64)
        weight = (images.weight / noise).expand(len(images), -1).contiguous()
        found = slices_to_map.inserted(band, images.filtered * ramp.conj() / noise, weight, fitted.rotations)
        out["numerator"], out["weight"], out["shells"] = found.numerator, found.weight, found.shells
        shifts = fitted.shifts.double() * pixel
        columns = [fitted.rotations.double().flatten(1), shifts]
        columns += [value.double()[:, None] for value in (fitted.misfit, fitted.spread, rescued)]
        out["rows"][places] = torch.cat(columns, 1)
        return out

    def update(self, model: Model, state: State, stats: Stats, prior: Prior) -> State:
        """The map of the new poses, and the noise's spectrum from what the old map left of the images."""
        rows, band = stats["rows"], self._band(model, state)
        if not bool(torch.isfinite(rows).all()):
            raise FloatingPointError("a pose is not finite: an image holds NaN or infinity")
        noise = state["noise"]
        if bool(state["begun"]):
            noise = noise_spectrum(noise, stats["residual"] / stats["images"], band, keep=0.0)
        volume = state["x"].view((band.box,) * 3)
        sums = Inserted(stats["numerator"], stats["weight"], stats["shells"], band.radius)
        x = self._solved(sums, band, volume) if self.solve or not bool(state["begun"]) else volume
        if bool(state["moving"]) and self.solve:
            x, rows = _recentred(x, rows, float(state["pixel_size"]))
        if not bool(torch.isfinite(x).all()):
            raise FloatingPointError("the map is not finite: an image holds NaN or infinity")
        old = state["rows"][:, :9].unflatten(1, (3, 3))
        turned = rotation.geodesic_distance(old, rows[:, :9].unflatten(1, (3, 3))).median()
        return {
            **state,
            "step": state["step"] + 1,
            "begun": torch.tensor(1),
            "turned": turned.cpu(),
            "x": x.flatten(),
            "noise": noise,
            "rows": rows,
        }

    def record(self, model: Model, state: State, stats: Stats, prior: Prior) -> dict[str, float]:
        """Figures of the round; the objective is the log-likelihood of the images at their poses."""
        band, noise = self._band(model, state), state["noise"]
        counts = torch.bincount(band.shells, minlength=len(noise)).to(noise)
        there = (counts > 0) & (noise > 0)
        constant = (counts[there] * (math.pi * noise[there]).log()).sum()
        rows, images = stats["rows"], float(stats["images"])
        likelihood = float(-rows[:, 11].sum() / images - constant)
        return {
            "log_likelihood": likelihood,
            "objective": likelihood,
            "energy": float(stats["energy"]) / images,
            "sigma": math.sqrt(float(noise[1:].mean())),
            "images": images,
            "spread": float(rows[:, 12].median()),
            "rescued": float(rows[:, 13].mean()),
            "radius": band.radius,
        }

    def done(self, history: Sequence[dict[str, float]], state: State) -> bool:
        """Whether the poses came to rest at the last radius: they turned far less than the noise leaves them free."""
        if history[-1]["radius"] != self.radius[1]:
            return False
        turned = float(state["turned"])
        if int(state["step"]) < self.iterations:
            return turned < self.tolerance
        return not self.solve or turned <= RESTING * history[-1]["spread"]

    def _band(self, model: Model, state: State) -> Band:
        first, last = self.radius
        part = 1.0 if self.iterations == 1 else min(1.0, int(state["step"]) / (self.iterations - 1))
        return Band(_box(model), round(first + (last - first) * part))

    def _fitted(
        self,
        model: Model,
        state: State,
        images: Images,
        spectrum: torch.Tensor,
        cube: Cube,
        band: Band,
        noise: torch.Tensor,
        rows: torch.Tensor,
    ) -> tuple[Fitted, torch.Tensor]:
        """Poses, and which of them are not near the old ones."""
        step, pixel = int(state["step"]), float(state["pixel_size"])
        shifted, reach = bool(state["moving"]), placement_of(model).max_shift / pixel
        begun = bool(state["begun"])
        steps = self.steps if begun else 0

        def fit(rotations: torch.Tensor, shifts: torch.Tensor) -> Fitted:
            return alignment.align(
                images, spectrum, cube, band, noise, rotations, shifts,
                steps=steps, turn=self.turn, shifted=shifted, reach=reach + 1,
            )  # fmt: skip

        old = rows[:, :9].unflatten(1, (3, 3)).float()
        best = fit(old, (rows[:, 9:11] / pixel).float())
        if step < self.rescues and begun:
            for rotations, shifts in self._offered(model, state, images, reach):
                other = fit(rotations, shifts)
                better = other.misfit < best.misfit
                best = Fitted(
                    torch.where(better[:, None, None], other.rotations, best.rotations),
                    torch.where(better[:, None], other.shifts, best.shifts),
                    torch.where(better, other.misfit, best.misfit),
                    torch.where(better, other.spread, best.spread),
                )
        return best, rotation.geodesic_distance(old.double(), best.rotations.double()) > 15

    def _offered(
        self, model: Model, state: State, images: Images, reach: float
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The likeliest views and shifts of a grid, in the low band, apart from each other: a molecule that looks
        nearly the same from elsewhere must be asked there as well.
        """
        box, step, device = _box(model), int(state["step"]), state["x"].device
        band = Band(box, self.rescue_radius)
        cube = Cube(box, self.rescue_radius)
        turn = rotation.random_rotations(1, seeding.generator(int(state["seed"]), "rescue", step))
        grid = (rotation.super_fibonacci(self.views) @ turn).to(device, torch.float32)
        slices = gridding.read(cube, gridding.spectrum(state["x"].view((box,) * 3), cube), grid, band.points)
        shifts = orientations.shift_grid(reach).to(device)
        noise = state["noise"][band.shells.to(device)].float()
        among = self.candidates if self.candidates == 1 else AMONG
        _, views, moves = orientations.best(images.first(len(band)), slices, noise, band.ramp(shifts), among)
        ranks = far_apart(grid[views], self.candidates).to(views)
        views, moves = views.gather(1, ranks), moves.gather(1, ranks)
        return [(grid[views[:, place]], shifts[moves[:, place]]) for place in range(ranks.shape[1])]

    def _solved(self, sums: Inserted, band: Band, old: torch.Tensor) -> torch.Tensor:
        """The map: nearly least squares, then every shell as far as it stands out of the noise (Wiener)."""
        mask = slices_to_map.soft_mask(band.box, self.mask, old)
        weight = slices_to_map.density(sums.shells, band.box)
        weight = weight.clamp(min=1e-6 * float(weight.max()) + 1e-30)
        x = slices_to_map.solved(sums, band, LEAST * weight, old, mask, steps=self.solver_steps)
        found = slices_to_map.shell_power(x, len(weight) - 1)
        chance = mask.double().square().mean() / weight  # a mask keeps its share of the noise
        share = (1 - chance / found.clamp(min=1e-30)).clamp(min=FAINTEST, max=1.0)
        return slices_to_map.filtered(x, share)


def poses_of(state: State) -> Poses:
    """Rotations and shifts, in angstrom, that a refinement ended with."""
    rows = state["rows"]
    return Poses(rows[:, :9].unflatten(1, (3, 3)).clone(), rows[:, 9:11].clone())


def spreads(state: State) -> torch.Tensor:
    """Predicted standard deviation ``(n,)`` of every rotation in degrees."""
    return state["rows"][:, 12].clone()


def far_apart(rotations: torch.Tensor, count: int) -> torch.Tensor:
    """Ranks ``(n, count)`` of the first of ``(n, k, 3, 3)`` rotations and of the next ones far from those chosen; where
    none is far, the next one.
    """
    chosen = torch.zeros(len(rotations), 1, dtype=torch.long, device=rotations.device)
    free = torch.ones(rotations.shape[:2], device=rotations.device)
    order = torch.arange(rotations.shape[1], 0, -1, device=rotations.device)
    for _ in range(1, min(count, rotations.shape[1])):
        latest = rotations.gather(1, chosen[:, -1:, None, None].expand(-1, 1, 3, 3))
        trace = (rotations * latest).sum((2, 3))  # 1 + 2 cos of the angle
        near = trace > 1 + 2 * math.cos(math.radians(APART))
        free = torch.where(near, free.clamp(max=0.5), free).scatter(1, chosen[:, -1:], 0.0)
        chosen = torch.cat([chosen, (free * len(order) * 4 + order).argmax(1, keepdim=True)], 1)
    return chosen


def _recentred(x: torch.Tensor, rows: torch.Tensor, pixel: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The map with its centre of mass in the middle of the box, and the shifts that keep every image."""
    box = x.shape[0]
    mass = x.clamp(min=0)
    axis = torch.arange(box, device=x.device, dtype=x.dtype) - box // 2
    total = mass.sum().clamp(min=1e-30)
    centre = torch.stack([(mass.sum(dims) * axis).sum() / total for dims in ((0, 1), (0, 2), (1, 2))])
    moved = shift.shift_volume(x, -centre)
    turned = rows[:, :9].unflatten(1, (3, 3))
    planar = (turned @ centre.double())[:, :2] * pixel
    new = rows.clone()
    new[:, 9:11] += planar
    return moved, new


def _box(model: Model) -> int:
    return int(model.object.shape[-1])


def _square(values: torch.Tensor) -> torch.Tensor:
    return values.real.square() + values.imag.square()
