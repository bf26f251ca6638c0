"""Standard errors of EM on windows of a signal, which overlap or ignore each other (Godambe's sandwich).

The windows' log-likelihood is a sum of dependent terms, so its curvature H alone says too little of the errors: the
covariance is H^-1 J H^-1 with the covariance J of the score, taken from the scores of long blocks of the signal.
"""

from __future__ import annotations

from dataclasses import replace

from unpicked._lazy import torch
from unpicked.data.signal import Signal
from unpicked.model.likelihoods import Stats
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.placements import Anywhere

_STEP = 1e-3  # of the central differences, in units of the parameters


def sandwich(data: Signal, model: Model, x: torch.Tensor) -> torch.Tensor:
    """Covariance ``(size + 2, size + 2)`` of the estimates of x, density and sigma by EM on windows.

    Args:
        data: the signal in blocks much longer than the windows, and many more of them than coefficients.
        model: with the estimates put in; its background is taken as known.
        x: ``(size,)`` coefficients.

    Raises:
        ValueError: for data that are no signal, a placement that is not ``Anywhere``, or fewer blocks than twice the
            parameters.
    """
    if model.dims != 1 or not isinstance(model.placement, Anywhere):
        raise ValueError(f"the sandwich is for signals in windows; got {model.placement!r}")
    size = model.object.size + 2
    if len(data) < 2 * size:
        raise ValueError(f"at least {2 * size} blocks are needed for {size} parameters; got {len(data)}")
    scores = torch.stack([score(model, x, [block]) for block in data])
    centred = scores - scores.mean(0)
    spread = centred.mT @ centred
    columns = []
    units = torch.cat([torch.full_like(x, float(x.square().mean().sqrt())), x.new_tensor(_values(model))])
    for index in range(size):
        pair = []
        for sign in (1.0, -1.0):
            moved = units.new_zeros(size)
            moved[index] = sign * _STEP * units[index]
            pair.append(score(_moved(model, moved), x + moved[:-2], data))
        columns.append((pair[0] - pair[1]) / (2 * _STEP * units[index]))
    curvature = -torch.stack(columns)
    inverse = torch.linalg.inv((curvature + curvature.mT) / 2)
    return inverse @ spread @ inverse


def score(model: Model, x: torch.Tensor, blocks: Signal | list[torch.Tensor]) -> torch.Tensor:
    """Gradient ``(size + 2,)`` of the windows' log-likelihood of some blocks by x, density and sigma."""
    templates = model.templates(x)
    step = model.placement.step(templates, model.log_weights, model.noise)
    for block in blocks:
        step.add(block, 0)
    stats, variance = step.finish(), model.noise.sigma**2
    residual = stats["numerator"] - stats["weight"] * templates
    square = stats["square"] - 2 * (stats["numerator"] * templates).sum() + (stats["weight"] * templates.square()).sum()
    by_sigma = (square / variance - stats["pixels"]) / model.noise.sigma
    by_x = model.operator(x).backproject(residual) / variance
    return torch.cat([by_x, torch.stack([_by_density(model, stats), by_sigma])])


def _by_density(model: Model, stats: Stats) -> torch.Tensor:
    width, rate = model.placement.width(model.side), model.placement.density / model.side  # type: ignore[attr-defined]
    chance = rate / (1 - rate * (width - 1))
    stretch = 1 + chance * (width - 1)
    slope = (
        stats["occupied"] / chance - stats["free"] / (1 - chance) - stats["windows"] * (width - 1) / stretch
    ) * stretch**2
    return slope / model.side


def _values(model: Model) -> list[float]:
    return [model.placement.density, model.noise.sigma]


def _moved(model: Model, by: torch.Tensor) -> Model:
    noise = White(model.noise.sigma + float(by[-1]), model.noise.mean)
    placement = replace(model.placement, density=model.placement.density + float(by[-2]))  # type: ignore[type-var]
    return replace(model, noise=noise, placement=placement)
