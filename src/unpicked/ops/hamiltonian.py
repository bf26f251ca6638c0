"""Hamiltonian Monte Carlo about an optimum: draws from exp(-energy) where its curvature is roughly known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from jaxtyping import Float

from unpicked._lazy import torch

Energy = Callable[[Any], tuple[Any, Any]]  # of tensors; Any because torch is imported late


def draws(
    energy: Energy,
    centre: Float[torch.Tensor, " p"],
    factor: Float[torch.Tensor, "p p"],
    generator: torch.Generator,
    *,
    chains: int = 12,
    burn: int = 15,
    keep: int = 40,
    leaps: int = 6,
) -> Float[torch.Tensor, "k c p"]:
    """Draws from the density exp(-energy(theta)), several chains side by side (Duane et al. 1987; Neal 2011).

    In the variables z, theta = centre + F z, the density should look like a standard normal one. The length of the
    leapfrog steps is set while burning in, to an acceptance of about 80 %, and varied by a fifth.

    Args:
        energy: ``(c, p)`` to energies ``(c,)`` and gradients ``(c, p)``.
        centre: ``(p,)``, about the mode.
        factor: F with F F^T about the covariance.
        generator: CPU generator, the only source of chance.
        chains: chains.
        burn: draws of each chain that are not returned.
        keep: draws of each chain that are.
        leaps: leapfrog steps between draws.
    """
    shape = (chains, len(centre))

    def normal() -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def potential(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, gradient = energy(centre + z @ factor.mT)
        return torch.where(torch.isfinite(value), value, torch.inf), gradient.nan_to_num(0.0) @ factor

    place, length, kept = 0.5 * normal(), 0.4, []
    value, gradient = potential(place)
    for number in range(burn + keep):
        momentum = normal()
        before = value + 0.5 * momentum.square().sum(-1)
        step = length * (0.8 + 0.4 * float(torch.rand((), generator=generator, dtype=torch.float64)))
        new, slope = place, gradient
        for _ in range(leaps):
            momentum = momentum - 0.5 * step * slope
            new = new + step * momentum
            there, slope = potential(new)
            momentum = momentum - 0.5 * step * slope
        odds = (before - there - 0.5 * momentum.square().sum(-1)).nan_to_num(-torch.inf)
        taken = torch.rand(chains, generator=generator, dtype=torch.float64).log() < odds
        place = torch.where(taken[:, None], new, place)
        value, gradient = torch.where(taken, there, value), torch.where(taken[:, None], slope, gradient)
        if number < burn:
            length *= math.exp(0.3 * (float(odds.clamp(max=0).exp().mean()) - 0.8))
        else:
            kept.append(centre + place @ factor.mT)
    return torch.stack(kept)
