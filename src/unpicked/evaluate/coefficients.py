"""Volumes of one basis laid on one another exactly, by their coefficients: no grid is resampled."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.objects.ball import Ball
from unpicked.ops import rotation

ROTATIONS = 4608  # that are tried
KEPT = 8  # of them that are refined
STEPS = 30


class Laid(NamedTuple):
    """An estimate on the truth.

    Attributes:
        x: ``(size,)`` its turned, perhaps mirrored, coefficients.
        error: ||x - x*|| / ||x*||; no scale is fitted.
        mirrored: whether it was mirrored.
    """

    x: Float[torch.Tensor, " n"]
    error: float
    mirrored: bool


def lay(estimate: Float[torch.Tensor, " n"], truth: Float[torch.Tensor, " n"], ball: Ball) -> Laid:
    """The estimate turned, on the better hand, to the least distance from the truth; centres are not moved.

    Args:
        estimate: ``(size,)`` coefficients.
        truth: ``(size,)``.
        ball: of both.

    Raises:
        ValueError: for coefficients of another number, or a truth that is zero.
    """
    if estimate.shape != (ball.size,) or truth.shape != (ball.size,):
        raise ValueError(f"both must hold {ball.size} coefficients; got {tuple(estimate.shape)}, {tuple(truth.shape)}")
    x, wanted = estimate.detach().double().cpu(), truth.detach().double().cpu()
    if not float(wanted.norm()) > 0:
        raise ValueError("the truth is zero: there is nothing to be laid on")
    parity = 1 - 2 * (ball.index[:, 0] % 2).double()
    turns = rotation.super_fibonacci(ROTATIONS)
    found = []
    for sign in (torch.ones_like(parity), parity):
        one = x * sign
        scores = torch.cat([ball.rotate(one, part) @ wanted for part in turns.split(512)])
        best = turns[scores.topk(KEPT).indices]
        turned = _refined(one, wanted, ball, best)
        found.append(turned[(turned - wanted).norm(dim=1).argmin()])
    errors = [float((one - wanted).norm() / wanted.norm()) for one in found]
    mirrored = errors[1] < errors[0]
    return Laid(found[mirrored], errors[mirrored], mirrored)


def _refined(x: torch.Tensor, wanted: torch.Tensor, ball: Ball, turns: torch.Tensor) -> torch.Tensor:
    """Turned coefficients after damped Gauss-Newton steps in the rotation, from every turn."""
    damping = torch.full((len(turns),), 1e-3, dtype=torch.float64)
    now = ball.rotate(x, turns)
    cost = (now - wanted).square().sum(1)
    for _ in range(STEPS):
        slope = torch.stack([_turned(ball, now, axis) for axis in range(3)], -1)
        normal = slope.mT @ slope
        normal = normal + torch.diag_embed(damping[:, None] * normal.diagonal(dim1=-2, dim2=-1).clamp(min=1e-300))
        step = torch.linalg.solve(normal, slope.mT @ (wanted - now)[..., None])[..., 0]
        trial_turns = rotation.exp_map(step) @ turns
        trial = ball.rotate(x, trial_turns)
        value = (trial - wanted).square().sum(1)
        better = value < cost
        turns = torch.where(better[:, None, None], trial_turns, turns)
        now, cost = torch.where(better[:, None], trial, now), torch.where(better, value, cost)
        damping = torch.where(better, damping / 5, damping * 4).clamp(min=1e-12, max=1e9)
    return now


def _turned(ball: Ball, x: torch.Tensor, axis: int) -> torch.Tensor:
    """Derivative of the coefficients by a turn about an axis, x, y or z."""
    small = 1e-4
    way = torch.zeros(3, dtype=torch.float64)
    way[axis] = small
    return (ball.rotate(x, rotation.exp_map(way)) - ball.rotate(x, rotation.exp_map(-way))) / (2 * small)
