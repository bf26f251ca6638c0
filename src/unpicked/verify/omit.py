"""Omit test of a start map: a part of it is taken away, and the data must bring it back.

What a template brings along agrees with the template. So a ball of it is emptied, the pipeline is run from what is
left, and the density that comes back there is compared with what was there: with copies of the map that are turned
about its centre as the null, as these have the same density at the same depths, and another structure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.evaluate.resample import transform
from unpicked.ops import fourier, rotation, seeding

SHARE = 0.15  # of the map's mass that is removed
TURNED = 99  # copies of the map that the answer is ranked among
STEPS, HALVED, RELAXED = 10, 5, 300  # of the alignment, of one of its steps, of the continuation
LEAST_TURN = 30.0  # degrees from the map itself
FARTHEST = (20.0, 1.5)  # degrees and voxels that an answer may have moved away from its start
ENOUGH, LEVEL = 0.5, 0.05  # part that must come back, and p at most
BETTER = 0.8  # error at most, in parts of that of the smooth continuation


@dataclass(frozen=True)
class Omitted:
    """What came back of a removed part.

    Attributes:
        share: of the map's mass that was removed.
        radius: of the emptied ball in angstrom.
        recovered: density found in it, in the pattern of what was there, over that found elsewhere: 1 where the part
            came back as the rest is, 0 where nothing did.
        correlation: of what was found in it with what was there, their means removed.
        error: of what was found in it, at the scale of the rest, relative to what was there.
        continued: the same of the smooth continuation of the rest.
        above: turned copies of the map that agree as well with what was found.
        turned: how many were asked.
        kept: ``recovered`` of the run from the whole map: where that is little, the data tell little there.
        blank: ``recovered`` of a run on data of random phases, under a prior that may know the part; None: not asked.
    """

    share: float
    radius: float
    recovered: float
    correlation: float
    error: float
    continued: float
    above: int
    turned: int = TURNED
    kept: float | None = None
    blank: float | None = None

    @property
    def p(self) -> float:
        """(1 + copies above) / (1 + copies)."""
        return (1 + self.above) / (1 + self.turned)

    @property
    def came_back(self) -> bool:
        """Whether at least half of it did, in a pattern that turned copies do not have, nor the rest continued.

        What comes without data, too, does not count: the prior has brought it back, not they.
        """
        told = self.recovered - max(self.blank or 0.0, 0.0)
        return told >= ENOUGH and self.p <= LEVEL and self.error <= BETTER * self.continued

    @property
    def sentence(self) -> str:
        """What was found, in one sentence."""
        word = (
            "came back from the data"
            if self.came_back
            else "did not come back, so the answer may repeat what it was told"
        )
        kept = "" if self.kept is None else f" ({_percent(self.kept)} in the run from the whole map)"
        blank = "" if self.blank is None else f", {_percent(self.blank)} by a run on data of random phases"
        return (
            f"{100 * self.share:.0f} % of the map, removed from a ball of {self.radius:.3g} Å, {word}: "
            f"{_percent(self.recovered)} of the density is found there{kept}{blank}, its correlation with what was "
            f"there is {self.correlation:.2f}, higher than with {self.turned - self.above} of {self.turned} "
            f"turned copies of the map, its error {self.error:.2f}, that of the rest continued {self.continued:.2f}."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"p": self.p, "came_back": self.came_back, "sentence": self.sentence}

    @classmethod
    def of_json(cls, held: Mapping[str, Any]) -> Omitted:
        """The record of :meth:`to_json`."""
        floats = {name: float(held[name]) for name in ("share", "radius", "recovered", "correlation")}
        floats |= {name: float(held[name]) for name in ("error", "continued")}
        kept, blank = (None if held.get(name) is None else float(held[name]) for name in ("kept", "blank"))
        return cls(**floats, above=int(held["above"]), turned=int(held["turned"]), kept=kept, blank=blank)


def region(start: Map, seed: int) -> torch.Tensor:
    """Voxels ``(d, d, d)`` of a ball about a random place in the map, weighted by density, that holds 15 % of its mass.

    Args:
        start: matter bright; what is below zero has no mass.
        seed: of the place.

    Raises:
        ValueError: for a map without any mass.
    """
    mass = start.values.detach().double().cpu().clamp(min=0)
    inside = fourier.distances(mass.shape) <= start.box / 2
    mass = torch.where(inside, mass, torch.zeros_like(mass))
    if not float(mass.sum()) > 0:
        raise ValueError("the start map holds no density above zero; an omit test needs some")
    place = int(torch.multinomial(mass.flatten(), 1, generator=seeding.generator(seed, "omit")))
    axis = torch.arange(start.box)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).double()
    away = (grid - grid.reshape(-1, 3)[place]).norm(dim=-1)
    order = away.flatten().argsort(stable=True)
    held = mass.flatten()[order].cumsum(0) / mass.sum()
    part = torch.zeros(mass.numel(), dtype=torch.bool)
    part[order[: int((held < SHARE).sum()) + 1]] = True
    return part.view(mass.shape)


def without(start: Map, part: torch.Tensor) -> Map:
    """The map with nothing in a part of it."""
    return Map(start.values * (~part).to(start.values), start.voxel_size, start.origin)


def judged(
    start: Map, part: torch.Tensor, found: Map, seed: int, *, kept: Map | None = None, blank: Map | None = None
) -> Omitted:
    """What a run that began :func:`without` a part found there.

    The answer is laid on the start by small moves that see nothing of the part.

    Args:
        start: the whole map.
        part: voxels that were removed.
        found: the run's answer on the same grid, in any grey values.
        seed: of the turns.
        kept: the answer of the run from the whole map, on the same grid.
        blank: that of a run on data of random phases, where the prior may know the part.
    """
    whole = start.values.detach().double().cpu()
    ball = fourier.distances(whole.shape) <= start.box / 2
    part, rest = part & ball, ~part & ball
    share = float(whole.clamp(min=0)[part].sum() / whole.clamp(min=0)[ball].sum())
    radius = (3 * float(part.sum()) / (4 * math.pi)) ** (1 / 3) * start.voxel_size
    there, size = whole[part], float(whole[part].norm())
    smooth = float((continued(whole, part)[part] - there).norm()) / size
    back, *others = (None if map is None else _found(map, whole, part, rest) for map in (found, kept, blank))
    stayed, drawn = (None if values is None else float((values * there).sum()) / size**2 for values in others)
    if back is None:
        return Omitted(share, radius, 0.0, 0.0, 1.0, smooth, TURNED, kept=stayed, blank=drawn)
    correlation = _correlation(back, there)
    nulls = [_correlation(back, turned[part]) for turned in _turned(whole, seed)]
    return Omitted(
        share=share,
        radius=radius,
        recovered=float((back * there).sum()) / size**2,
        correlation=correlation,
        error=float((back - there).norm()) / size,
        continued=smooth,
        above=sum(null >= correlation for null in nulls),
        turned=len(nulls),
        kept=stayed,
        blank=drawn,
    )


def continued(whole: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """The map with a part replaced by the harmonic continuation of the rest."""
    kernel = torch.zeros(1, 1, 3, 3, 3, dtype=torch.float64)
    for axis in range(3):
        for side in (0, 2):
            kernel[(0, 0, *(side if other == axis else 1 for other in range(3)))] = 1 / 6
    out = torch.where(part, torch.zeros_like(whole), whole)
    for _ in range(RELAXED):
        mean = torch.nn.functional.conv3d(out[None, None], kernel, padding=1)[0, 0]
        out = torch.where(part, mean, whole)
    return out


def _found(map: Map, whole: torch.Tensor, part: torch.Tensor, rest: torch.Tensor) -> torch.Tensor | None:
    """What a map holds in a part, laid on another by the rest and at its scale; None for an empty map."""
    values = map.values.detach().double().cpu()
    if not bool(torch.isfinite(values).all()) or not float(values[rest].std()) > 0:
        return None
    laid = _laid(values, whole, rest)
    return laid[part] * _scale(laid[rest], whole[rest])


def _scale(values: torch.Tensor, wanted: torch.Tensor) -> float:
    """By which values fit best; 0 where they have the wrong sign."""
    return max(0.0, float((values * wanted).sum() / values.square().sum().clamp(min=1e-300)))


def _laid(values: torch.Tensor, whole: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """A map moved a little so that it fits another in some voxels, whatever its scale, by Gauss-Newton."""

    def moved(pose: torch.Tensor) -> torch.Tensor:
        return transform(values, rotation.exp_map(pose[:3]), pose[3:], False)

    def cost(map: torch.Tensor) -> float:
        return float((_scale(map[rest], whole[rest]) * map[rest] - whole[rest]).norm())

    limit = torch.tensor([math.radians(FARTHEST[0])] * 3 + [FARTHEST[1]] * 3, dtype=torch.float64)
    pose, small = torch.zeros(6, dtype=torch.float64), 1e-3
    best = moved(pose)
    for _ in range(STEPS):
        scale = _scale(best[rest], whole[rest])
        slopes = torch.stack([(moved(pose + small * axis) - best)[rest] / small for axis in torch.eye(6).double()], 1)
        if scale == 0:
            break
        left = (whole - scale * best)[rest]
        step = torch.linalg.lstsq(scale * slopes, left[:, None]).solution[:, 0]
        for _ in range(HALVED):
            tried = (pose + step).clamp(min=-limit, max=limit)
            new = moved(tried)
            if cost(new) < cost(best):
                pose, best = tried, new
                break
            step = step / 2
        else:
            break
    return best


def _turned(whole: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """The map at random turns about its centre, none of them small."""
    generator = seeding.generator(seed, "omit turns")
    none = torch.eye(3, dtype=torch.float64)
    out: list[torch.Tensor] = []
    while len(out) < TURNED:
        turn = rotation.random_rotations(1, generator)[0].double()
        if float(rotation.geodesic_distance(turn[None], none[None])) >= LEAST_TURN:
            out.append(transform(whole, turn, torch.zeros(3, dtype=torch.float64), False))
    return out


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 9.99):.0f} %"


def _correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    one, other = first - first.mean(), second - second.mean()
    scale = float(one.norm() * other.norm())
    return float((one * other).sum()) / scale if scale > 0 else 0.0
