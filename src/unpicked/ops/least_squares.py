"""Nonlinear least squares from several starts at once: Levenberg and Marquardt's method with exact Jacobians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Bool, Float

from unpicked._lazy import torch

Residuals = Callable[[Any], tuple[Any, Any]]  # of tensors; Any because torch is imported late
Values = Callable[[Any], Any]
BEND = 0.1  # part of a step over which the residuals' second derivative along it is taken
STRAIGHT = 0.75  # twice the correction over the step, beyond which a step is refused


class Minimum(NamedTuple):
    """Where the starts ended.

    Attributes:
        theta: ``(s, p)`` unknowns.
        cost: ``(s,)`` half the sum of squares.
        converged: ``(s,)`` whether no step promised more.
    """

    theta: Float[torch.Tensor, "s p"]
    cost: Float[torch.Tensor, " s"]
    converged: Bool[torch.Tensor, " s"]


def levenberg_marquardt(
    residuals: Residuals,
    theta: Float[torch.Tensor, "s p"],
    *,
    steps: int = 200,
    tolerance: float = 1e-9,
    damping: float = 1e-2,
    values: Values | None = None,
    enough: float = 0.0,
) -> Minimum:
    """Minimise |r(theta)|^2 / 2 from every row of ``theta``.

    A step solves (J^T J + lambda diag(J^T J)) d = -J^T r; lambda is divided by 3 where the cost falls and multiplied
    by 4 where it does not (Marquardt 1963). With ``values`` steps follow the bend of narrow valleys: half of the
    geodesic acceleration is added, and a step is refused where it is not small beside the step (Transtrum & Sethna
    2012, arXiv 1201.5885).

    Args:
        residuals: unknowns ``(s, p)`` to residuals ``(s, m)`` and their Jacobian ``(s, m, p)``.
        theta: starts, float64.
        steps: trials at most.
        tolerance: a start ends when a step lowers the cost by less than this, relatively, or cannot lower it.
        damping: the first lambda.
        values: the residuals alone, for problems whose least and largest curvature are many powers of ten apart.
        enough: a start ends at a cost of at most this.

    Raises:
        ValueError: for theta that is not ``(s, p)``, or a start whose cost is not finite.
    """
    if theta.dim() != 2:
        raise ValueError(f"theta must be (starts, unknowns); got {tuple(theta.shape)}")
    theta = theta.clone()
    r, jacobian = residuals(theta)
    cost = 0.5 * r.square().sum(-1)
    if not bool(torch.isfinite(cost).all()):
        raise ValueError(f"a start must have a finite cost; got {cost.tolist()}")
    lam = torch.full_like(cost, damping)
    down, up, least = (3, 4, 1e-12) if values is None else (5, 2, 1e-14)
    gradient, normal = _normal(r, jacobian)
    converged = cost <= enough
    for _ in range(steps):
        live = (~converged).nonzero()[:, 0]
        if not len(live):
            break
        scale = normal[live].diagonal(dim1=-2, dim2=-1).clamp(min=1e-300)
        factor, failed = torch.linalg.cholesky_ex(normal[live] + torch.diag_embed(lam[live, None] * scale))
        step = -torch.cholesky_solve(gradient[live, :, None], factor)[..., 0]
        step = torch.where((failed == 0)[:, None] & torch.isfinite(step), step, 0.0)
        straight = torch.ones_like(failed, dtype=torch.bool)
        if values is not None:
            bent = _second(values, theta[live], step, r[live], jacobian[live])
            turn = -torch.cholesky_solve((jacobian[live].mT @ bent[..., None]), factor)[..., 0]
            length, far = ((part.square() * scale).sum(-1).sqrt() for part in (step, turn))
            straight = 2 * far <= STRAIGHT * length
            step = step + torch.where(straight[:, None], turn / 2, 0.0)
        trial = theta[live] + step
        new, slope = residuals(trial)
        value = 0.5 * new.square().sum(-1)
        better = torch.isfinite(value) & (value < cost[live]) & (failed == 0) & straight
        gain = cost[live] - value
        small = better & (gain <= tolerance * cost[live]) & (lam[live] <= 1)
        taken = live[better]
        theta[taken], cost[taken], r[taken], jacobian[taken] = trial[better], value[better], new[better], slope[better]
        gradient[taken], normal[taken] = _normal(new[better], slope[better])
        converged[live] = small | (lam[live] > 1e12) | (cost[live] <= enough)
        lam[live] = torch.where(better, (lam[live] / down).clamp(min=least), lam[live] * up)
    return Minimum(theta, cost, converged)


def _second(
    values: Values, theta: torch.Tensor, step: torch.Tensor, r: torch.Tensor, jacobian: torch.Tensor
) -> torch.Tensor:
    """Second derivative of the residuals along a step, ``(s, m)``: exact of cubic ones but for their third."""
    ahead = values(theta + BEND * step)
    return 2 / BEND * ((ahead - r) / BEND - (jacobian @ step[..., None])[..., 0])


def _normal(r: torch.Tensor, jacobian: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (jacobian.mT @ r[..., None])[..., 0], jacobian.mT @ jacobian
