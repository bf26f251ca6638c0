"""Nonlinear least squares from several starts at once: Levenberg and Marquardt's method with exact Jacobians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Bool, Float

from unpicked._lazy import torch

Residuals = Callable[[Any], tuple[Any, Any]]  # of tensors; Any because torch is imported late


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
) -> Minimum:
    """Minimise |r(theta)|^2 / 2 from every row of ``theta``.

    A step solves (J^T J + lambda diag(J^T J)) d = -J^T r; lambda is divided by 3 where the cost falls and multiplied
    by 4 where it does not (Marquardt 1963).

    Args:
        residuals: unknowns ``(s, p)`` to residuals ``(s, m)`` and their Jacobian ``(s, m, p)``.
        theta: starts, float64.
        steps: trials at most.
        tolerance: a start ends when a step lowers the cost by less than this, relatively, or cannot lower it.
        damping: the first lambda.

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
    gradient, normal = _normal(r, jacobian)
    converged = torch.zeros_like(cost, dtype=torch.bool)
    for _ in range(steps):
        live = (~converged).nonzero()[:, 0]
        if not len(live):
            break
        scaled = normal[live] + torch.diag_embed(
            lam[live, None] * normal[live].diagonal(dim1=-2, dim2=-1).clamp(min=1e-300)
        )
        factor, failed = torch.linalg.cholesky_ex(scaled)
        step = -torch.cholesky_solve(gradient[live, :, None], factor)[..., 0]
        step = torch.where((failed == 0)[:, None] & torch.isfinite(step), step, 0.0)
        trial = theta[live] + step
        r, jacobian = residuals(trial)
        value = 0.5 * r.square().sum(-1)
        better = torch.isfinite(value) & (value < cost[live]) & (failed == 0)
        gain = cost[live] - value
        small = better & (gain <= tolerance * cost[live]) & (lam[live] <= 1)
        converged[live] = small | (lam[live] > 1e12)
        taken = live[better]
        theta[taken], cost[taken] = trial[better], value[better]
        gradient[taken], normal[taken] = _normal(r[better], jacobian[better])
        lam[live] = torch.where(better, (lam[live] / 3).clamp(min=1e-12), lam[live] * 4)
    return Minimum(theta, cost, converged)


def _normal(r: torch.Tensor, jacobian: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (jacobian.mT @ r[..., None])[..., 0], jacobian.mT @ jacobian
