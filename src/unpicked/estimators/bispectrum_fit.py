"""From the moments of a volume's projections, free of noise, back to the volume: low degrees only.

The equations are polynomials whose Jacobian spans ten powers of ten (section "conditioning" of ``unpicked reproduce``).
What makes random starts succeed is the weighting, each residual by the power at its sides, as in a bicoherence, and
steps that follow the bends of narrow valleys (``benchmarks/inversion.py``). A rotation and a mirror stay undetermined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.model import expected_volumes
from unpicked.model.expected_volumes import Triangles, VolumeMoments
from unpicked.objects.ball import Ball
from unpicked.ops import least_squares, seeding

Weighting = Literal["bicoherence", "uniform"]
EXACT = 1e-24  # cost that is rounding: residuals are shares of the power


class Inverted(NamedTuple):
    """Where the starts ended, the least cost first.

    Attributes:
        x: ``(s, size)`` coefficients.
        density: ``(s,)`` copies per unit of what the moments count.
        cost: ``(s,)`` half the sum of the squared, weighted residuals.
        converged: ``(s,)`` whether the optimiser came to rest.
    """

    x: Float[torch.Tensor, "s n"]
    density: Float[torch.Tensor, " s"]
    cost: Float[torch.Tensor, " s"]
    converged: torch.Tensor


@dataclass(frozen=True)
class Inversion:
    """How to invert.

    Attributes:
        starts: random ones, drawn with the spectrum of the data.
        marches: longest sides of the triangles of first stages, in steps of the radii; all come last. None by default:
            where steps bend, low frequencies first help no more starts than they mislead.
        steps: trials of the optimiser in each of these stages, and ``last`` in the last.
        weights: ``bicoherence``; or ``uniform``, as published, with which random starts mostly fail.
        bends: steps follow the bends of narrow valleys (geodesic acceleration).
        density: where the density starts.
        belief: weight of the spectrum as a prior in all stages but the last.
    """

    starts: int = 10
    marches: tuple[int, ...] = ()
    steps: int = 60
    last: int = 1000
    weights: Weighting = "bicoherence"
    bends: bool = True
    density: float = 0.3
    belief: float = 1e-6

    def __post_init__(self) -> None:
        if self.weights not in ("bicoherence", "uniform"):
            raise ValueError(f"weights must be bicoherence or uniform; got {self.weights!r}")
        if min(self.starts, self.steps, self.last) < 1:
            raise ValueError(f"starts and steps must be at least 1; got {self.starts}, {self.steps}, {self.last}")
        if not self.density > 0:
            raise ValueError(f"density must be positive; got {self.density}")


def invert(target: VolumeMoments, ball: Ball, places: Triangles, how: Inversion, seed: int) -> Inverted:
    """Coefficients and density from moments ``density * E(x)`` of :func:`expected_volumes`, ``(1, ...)`` each.

    Raises:
        ValueError: for moments of other sizes, or a power that is not positive.
    """
    sizes = (1, len(places.radii), len(places.sides))
    if tuple(part.shape[-1] for part in target) != sizes:
        raise ValueError(f"moments must have sizes {sizes}; got {tuple(part.shape[-1] for part in target)}")
    if not bool((target.power > 0).all()):
        raise ValueError("the power must be positive at every radius; take fewer radii")
    tau = spectrum(target.power[0] / how.density, ball, places)
    generator = seeding.generator(seed, "inversion starts")
    x = torch.randn(how.starts, ball.size, generator=generator, dtype=torch.float64) * tau
    sign = expected_volumes.expected_volumes(x, ball, places).first.sign() * target.first.sign()
    theta = torch.cat([x * sign, x.new_full((how.starts, 1), math.log(how.density))], 1)
    longest = len(places.radii) - 1
    for side in (*(side for side in how.marches if side < longest), longest):
        last = side == longest
        stage = _Stage.of(target, ball, places, side, how, None if last else tau / how.belief)
        found = least_squares.levenberg_marquardt(
            stage.residuals,
            theta,
            steps=how.last if last else how.steps,
            tolerance=1e-10,
            values=stage.values if how.bends else None,
            enough=EXACT,
        )
        theta = found.theta
    order = found.cost.argsort()
    return Inverted(theta[order, :-1], theta[order, -1].exp(), found.cost[order], found.converged[order])


def spectrum(power: Float[torch.Tensor, " r"], ball: Ball, places: Triangles) -> Float[torch.Tensor, " n"]:
    """Standard deviation of every coefficient of volumes with this power, ``(size,)``, alike in all degrees."""
    radial = ball.radial_functions(places.radii)
    total = sum((2 * degree + 1) * f.square().sum(0) for degree, f in enumerate(radial))
    share = 4 * math.pi * power / total
    out = []
    for degree, f in enumerate(radial):
        weight = f.square() * places.radii.square()
        out.append(((weight * share).sum(1) / weight.sum(1)).repeat_interleave(2 * degree + 1))
    return torch.cat(out).clamp(min=0).sqrt()


def weights(power: Float[torch.Tensor, " r"], places: Triangles, kind: Weighting) -> tuple[torch.Tensor, ...]:
    """Of the residuals of the first moment, the power and the bispectrum: ``(1,)``, ``(r,)`` and ``(t,)``."""
    two, three = ((count / count.mean()).sqrt() for count in places.counts)
    if kind == "uniform":
        return tuple(torch.ones_like(part) for part in (power[:1], power, three))
    return 1 / power[:1].sqrt(), two / power, three / power[places.sides].prod(1).sqrt()


@dataclass(frozen=True, eq=False)
class _Stage:
    """Weighted residuals of the triangles up to a longest side; unknowns are coefficients and the log-density."""

    ball: Ball
    places: Triangles
    target: torch.Tensor  # (m,)
    weight: torch.Tensor  # (m,)
    kept: int  # radii of the power
    spread: torch.Tensor | None  # (size,) standard deviations of the prior

    @staticmethod
    def of(
        target: VolumeMoments, ball: Ball, places: Triangles, side: int, how: Inversion, spread: torch.Tensor | None
    ) -> _Stage:
        inside = places.sides[:, 0] <= side
        one, two, three = weights(target.power[0], places, how.weights)
        kept = side + 1
        return _Stage(
            ball,
            places._replace(sides=places.sides[inside]),
            torch.cat([target.first[0], target.power[0, :kept], target.bispectrum[0, inside]]),
            torch.cat([one, two[:kept], three[inside]]),
            kept,
            spread,
        )

    def values(self, theta: torch.Tensor) -> torch.Tensor:
        x = theta[:, :-1]
        clean = self._together(expected_volumes.expected_volumes(x, self.ball, self.places))
        misfit = (clean * theta[:, -1:].exp() - self.target) * self.weight
        return misfit if self.spread is None else torch.cat([misfit, x / self.spread], 1)

    def residuals(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, density = theta[:, :-1], theta[:, -1:].exp()
        clean, slope = (
            self._together(part) for part in expected_volumes.expected_volumes_slope(x, self.ball, self.places)
        )
        scaled = clean * density * self.weight
        misfit = scaled - self.target * self.weight
        jacobian = torch.cat([slope * (density * self.weight)[..., None], scaled[..., None]], -1)
        if self.spread is None:
            return misfit, jacobian
        rows = torch.nn.functional.pad((1 / self.spread).diag(), (0, 1)).expand(len(x), -1, -1)
        return torch.cat([misfit, x / self.spread], 1), torch.cat([jacobian, rows], 1)

    def _together(self, moments: VolumeMoments) -> torch.Tensor:
        return torch.cat([moments.first, moments.power[:, : self.kept], moments.bispectrum], 1)
