"""Placements: where the object's images lie in the data, and what that makes of likelihood and statistics.

A placement owns the score, the log-likelihood and the sufficient statistics; EM, views and objects never know which
placement it is. For every view the statistics are two images (the talk's sums over patches and shifts collapse to
them, because a crop of a shifted template is a 0/1 mask): the *numerator*, the posterior-weighted sum of the windows
in the template's frame, and the *weight*, how often each template pixel was seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal, Protocol

from unpicked._lazy import torch
from unpicked.data.gains import Gains
from unpicked.data.micrographs import Source
from unpicked.data.optics import Optics
from unpicked.model.gas import Gas, Window
from unpicked.model.likelihoods import Likelihood, Plain, Scene, Score, Stats, Step, white_noise
from unpicked.model.noise import Noise
from unpicked.model.patches import Patches, reach
from unpicked.model.transfer import Transfer, transfer
from unpicked.model.views import View
from unpicked.objects.base import Object, Projector
from unpicked.objects.classes import Classes
from unpicked.ops import shift

__all__ = ["Anywhere", "Gas", "Likelihood", "Patches", "Placement", "Scene", "Stats", "Step", "Window"]


class Placement(Protocol):
    """What EM asks of a placement. Sums are float64.

    ``templates`` ``(k, *t)`` are what ``seen`` makes of the object: numbers, each of which is seen with a noise and a
    weight of its own. Anywhere they are the pixels ``(k, L, L)`` of the views' images.
    """

    @property
    def density(self) -> float:
        """Fraction of the data that copies of the object cover."""

    @property
    def positions(self) -> int:
        """Templates of every view: sub-pixel positions."""

    @property
    def single(self) -> bool:
        """Whether every piece of the data holds exactly one copy, so that its own likelihood judges all estimates."""

    @property
    def exact(self) -> bool:
        """Whether its log-likelihood is that of a model."""

    @property
    def scored(self) -> bool:
        """Whether an E-step can also sum the information of the data (``Scene.score``)."""

    def step(
        self,
        templates: torch.Tensor,
        log_weights: torch.Tensor,
        noise: Noise,
        *,
        statistics: bool = True,
        score: Score | None = None,
    ) -> Step:
        """Begin an E-step against these templates."""

    def estimates(self, stats: Stats | None, side: int, *, known: bool) -> dict[str, torch.Tensor]:
        """Present parameters, or (with statistics) new ones, for objects of side L; ``known``: density stays."""

    def present(self, estimates: Mapping[str, torch.Tensor]) -> Placement:
        """The placement with these parameters put in; other names are ignored."""

    def most(self, side: int, dims: int) -> float:
        """Covered fraction that no estimate reaches, for objects of side L in 1 or 2 dimensions."""

    def seen(self, view: View, object: Any, like: torch.Tensor) -> Projector:
        """Coefficients of an object to its templates, all views and sub-pixel positions, in the dtype of ``like``."""

    def measured(
        self, pixel_size: float, side: int, optics: Optics | None, gains: Gains | None, masks: Source | None = None
    ) -> Placement:
        """The placement of templates of side L in data of this pixel size, contrast transfer and whitening.

        Args:
            pixel_size: angstrom.
            side: L, in pixels.
            optics: one entry per piece of the data, or None.
            gains: by which the pieces were whitened, or None.
            masks: which of their pixels count, or None.
        """

    def powers(self, templates: torch.Tensor) -> torch.Tensor:
        """``(k,)``: expected sum of squares of what a copy of every template adds to the data."""

    def variance(self, noise: Noise, side: int, like: torch.Tensor) -> float | torch.Tensor:
        """Of the noise of every number of a template, to be divided by; in the dtype of ``like``."""

    def noise(
        self, stats: Stats, templates: torch.Tensor, noise: Noise, *, mean: bool, sigma: bool
    ) -> dict[str, torch.Tensor]:
        """Most likely "mean" and "variance" (or "power" per shell) of the noise, as asked for, given templates."""

    def moves(self, object: Object, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Named coefficients to try where EM may sit in an optimum of the placement's own making."""


@dataclass(frozen=True)
class Anywhere(Plain):
    """Copies of the object anywhere in a micrograph or a signal.

    Attributes:
        density: covered fraction: copies x L^2 / pixels, of signals copies x L / samples.
        likelihood: how the sum over all configurations is done: Gas(), Window() or Patches(side, stride); Patches for
            signals.
        spacing: least distance of two copies: 2 L - 1 pixels ("separated") or L ("arbitrary").
        subpixel: positions per pixel and axis; 2 halves the position error at four times the templates.
        activity: odds of a copy at a free site (lattice gas); None means those that the density implies.
        shifts: log-probabilities of the offsets in a window (patches with a free law); None means equal.
        through: filters of the micrographs (contrast transfer, whitening), or None; see :meth:`measured`. Templates are
            then Fourier coefficients ``(k, 2, p)``, on which such filters are factors.
        masks: which pixels of the micrographs count, or None where all do; see :meth:`measured`.
    """

    density: float = 0.1
    likelihood: Likelihood = field(default_factory=Patches)
    spacing: Literal["separated", "arbitrary"] = "separated"
    subpixel: int = 1
    activity: float | None = None
    shifts: torch.Tensor | None = field(default=None, repr=False, compare=False)
    through: Transfer | None = field(default=None, repr=False, compare=False)
    masks: Source | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.density < 1:
            raise ValueError(f"density must be a covered fraction between 0 and 1; got {self.density}")
        if self.subpixel < 1:
            raise ValueError(f"subpixel must be at least 1; got {self.subpixel}")
        if self.shifts is not None and getattr(self.likelihood, "law", "uniform") != "free":
            raise ValueError("shifts need a likelihood whose offsets follow a free law; try Patches(law='free')")

    @property
    def exact(self) -> bool:
        """Whether the likelihood is that of a model."""
        return self.likelihood.exact

    @property
    def scored(self) -> bool:
        """Whether the likelihood takes scores of parts of a micrograph."""
        return self.likelihood.scored

    def width(self, side: int) -> int:
        """Least distance of two copies of side L, in pixels."""
        return 2 * side - 1 if self.spacing == "separated" else side

    def most(self, side: int, dims: int) -> float:
        """Covered fraction that no estimate reaches, for objects of side L in 1 or 2 dimensions."""
        if isinstance(self.likelihood, Patches) and dims == 2:
            return 1 / reach(self.likelihood.window(side)[0], side)
        return (side / self.width(side)) ** dims

    def _activity(self, side: int) -> float:
        if isinstance(self.likelihood, Patches):
            return self.activity or 1.0  # not used
        return self.activity or gas_activity(self.density, side, self.width(side))

    def step(
        self,
        templates: torch.Tensor,
        log_weights: torch.Tensor,
        noise: Noise,
        *,
        statistics: bool = True,
        score: Score | None = None,
    ) -> Step:
        """Begin an E-step.

        Args:
            templates: of :meth:`seen`, in the dtype in which scores are computed.
            log_weights: ``(k,)``.
            noise: present estimate; its mean is subtracted from the images.
            statistics: False: the log-likelihood only.
            score: what makes scores of parts of a micrograph, to sum the information; see ``Scene``.
        """
        if self.through is not None:
            templates = self.through.images(templates)
        side = templates.shape[-1]
        scene = Scene(
            templates,
            log_weights,
            noise,
            self.density,
            self._activity(side),
            self.width(side),
            self.shifts,
            score,
            self.through,
            masks=self.masks,
        )
        return self.likelihood.step(scene, statistics=statistics)

    def estimates(self, stats: Stats | None, side: int, *, known: bool) -> dict[str, torch.Tensor]:
        """Density, activity and offsets' law; from the statistics where given.

        The activity follows from expected copies = activity x expected free sites, exact for the gas.
        """
        density = torch.tensor(self.density, dtype=torch.float64)
        activity = torch.tensor(self._activity(side), dtype=torch.float64)
        out = {"density": density, "activity": activity}
        if isinstance(self.likelihood, Patches) and self.likelihood.law == "free":
            span = self.likelihood.window(side)[0] + side - 1
            uniform = torch.full((span, span), -2 * math.log(span), dtype=torch.float64)
            out["shifts"] = uniform if self.shifts is None else self.shifts
        if stats is None:
            return out
        if not known:
            out["density"] = self.likelihood.density(stats, side, self.width(side)).cpu()
        if bool(stats["free"] > 0):
            dims = stats["numerator"].dim() - 1
            copies = stats["occupied"] if not known else self.density / side**dims * stats["windows"]
            out["activity"] = (copies / stats["free"]).clamp(1e-12, 1.0).cpu()
        if "shifts" in out:
            smooth = stats["offsets"] + stats["offsets"].sum() * 1e-3 / stats["offsets"].numel() + 1e-9
            out["shifts"] = (smooth / smooth.sum()).log().cpu()
        return out

    def present(self, estimates: Mapping[str, torch.Tensor]) -> Anywhere:
        """The placement with these parameters put in."""
        return replace(
            self,
            density=float(estimates["density"]),
            activity=float(estimates["activity"]),
            shifts=estimates.get("shifts"),
        )

    @property
    def positions(self) -> int:
        """Sub-pixel positions of a template."""
        return self.subpixel**2

    @property
    def single(self) -> bool:
        """No: there may be any number of copies."""
        return False

    def seen(self, view: View, object: Any, like: torch.Tensor) -> Projector:
        """Images of the views at every sub-pixel position; where there are filters, their Fourier coefficients."""
        operator, through = self.shifted(view.operator(object, like)), self.through
        if through is None:
            return operator
        return Projector(
            lambda x: through.coefficients(operator.project(x)),
            lambda numbers: operator.backproject(through.images(numbers)),
        )

    def measured(
        self, pixel_size: float, side: int, optics: Optics | None, gains: Gains | None, masks: Source | None = None
    ) -> Anywhere:
        """The placement in micrographs of this contrast transfer and whitening, of which some pixels may not count."""
        plain = optics is None and gains is None
        return replace(self, through=None if plain else transfer(pixel_size, side, optics, gains), masks=masks)

    def powers(self, templates: torch.Tensor) -> torch.Tensor:
        """Sums of squares through the filters, mean of the micrographs."""
        squares = templates.square()
        if self.through is not None:
            squares = squares * self.through.mean.to(squares)
        return squares.flatten(1).sum(1)

    def noise(
        self, stats: Stats, templates: torch.Tensor, noise: Noise, *, mean: bool, sigma: bool
    ) -> dict[str, torch.Tensor]:
        """Background and variance from the residual of the templates; filters leave no background to estimate."""
        return white_noise(stats, templates, noise, mean=mean and self.through is None, sigma=sigma)

    def shifted(self, operator: Projector) -> Projector:
        """Templates at every sub-pixel position, the positions of one view next to each other."""
        count = self.subpixel
        if count == 1:
            return operator
        grid = (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) / count
        vectors = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1).reshape(-1, 2)

        def project(x: torch.Tensor) -> torch.Tensor:
            images = operator.project(x)
            moved = shift.shift_image(images[..., None, :, :], vectors.to(images))
            return moved.flatten(-4, -3)

        def backproject(images: torch.Tensor) -> torch.Tensor:
            apart = images.unflatten(-3, (-1, count**2))
            return operator.backproject(shift.shift_image(apart, -vectors.to(images)).sum(-3))

        return Projector(project, backproject)

    def moves(self, object: Object, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """The object moved: signals by up to half their length, images by a few pixels, volumes by one voxel.

        Offsets are marginalised uniformly, so a shifted, truncated copy of the object is a local optimum. Volumes are
        also moved so that their centre of mass is central; of several kinds of object one is moved at a time.
        """
        if isinstance(object, Classes):
            parts = object.apart(x)
            for kind in range(object.count):
                for name, moved in self.moves(object.object, parts[kind]):
                    others = (*parts[:kind], moved, *parts[kind + 1 :])
                    yield f"kind {kind + 1} {name}", torch.cat(others)
            return
        values = object.values(x)
        if values.dim() < 3:
            yield from _moved(object, values)
            return
        mass = values.clamp(min=0)
        centre = torch.stack(
            [
                (mass.movedim(dim, 0).flatten(1).sum(1) * (torch.arange(n, device=x.device) - n // 2)).sum()
                for dim, n in zip((-1, -2, -3), values.shape[::-1], strict=True)
            ]
        ) / mass.sum().clamp(min=1e-300)
        if float(centre.norm()) > 0.25:
            yield "centre of mass to the centre", object.fit(shift.shift_volume(values, -centre))
        for axis in range(3):
            for sign in (1.0, -1.0):
                vector = torch.zeros(3, dtype=x.dtype, device=x.device)
                vector[axis] = sign
                name = f"one voxel along {'-' if sign < 0 else '+'}{'xyz'[axis]}"
                yield name, object.fit(shift.shift_volume(values, vector))


def through_of(placement: Placement) -> Transfer | None:
    """The filters through which a placement's templates are seen, if there are any."""
    return placement.through if isinstance(placement, Anywhere) else None


def unfiltered(placement: Placement) -> Placement:
    """The placement without filters: templates are images."""
    return replace(placement, through=None) if isinstance(placement, Anywhere) else placement


def _moved(object: Object, values: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """A signal or an image moved by whole pixels; what comes in is zero."""
    side, dims = values.shape[-1], values.dim()
    farthest = side // 2 if dims == 1 else side // 4 + 1
    for distance in range(1, farthest + 1):
        for direction in product((-1, 0, 1), repeat=dims):
            if any(direction):
                shifts = [distance * step for step in direction]
                yield f"by {', '.join(f'{n:+d}' for n in shifts[::-1])}", object.fit(_pushed(values, shifts))


def _pushed(values: torch.Tensor, shifts: Sequence[int]) -> torch.Tensor:
    out = torch.zeros_like(values)
    ranges = [(max(0, s), min(n, n + s)) for s, n in zip(shifts, values.shape, strict=True)]
    target = tuple(slice(first, last) for first, last in ranges)
    source = tuple(slice(first - s, last - s) for (first, last), s in zip(ranges, shifts, strict=True))
    out[target] = values[source]
    return out


def gas_activity(density: float, side: int, width: int) -> float:
    """Activity of hard squares at a covered fraction, by scaled-particle theory (exact to second order).

    Args:
        density: copies x side^2 / pixels.
        side: L, in pixels.
        width: least distance of two copies, in pixels; they pack at most at (side / width)^2.

    Raises:
        ValueError: for a density that the spacing makes impossible.
    """
    packed = density * (width / side) ** 2
    if not packed < 1:
        raise ValueError(
            f"density must be below {(side / width) ** 2:.3f} where copies of {side} pixels keep {width} pixels apart; "
            f"got {density}; try a lower density or spacing='arbitrary'"
        )
    fill = packed / (1 - packed)
    return density / side**2 / (1 - packed) * math.exp(min(3 * fill + fill**2, 600))
