"""A prior of one's own: neighbouring pixels, or voxels, differ little. A frozen dataclass with an energy is a prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

import unpicked as up
from unpicked.objects.base import Object


@dataclass(frozen=True)
class Gentle:
    """Differences of neighbours are small: energy |grad V|^2 / (2 variance).

    Attributes:
        variance: expected square of a difference, in squared grey values.
    """

    variance: float
    quadratic: ClassVar[bool] = True  # a quadratic form centred at zero: the M-step stays one linear solve

    def __post_init__(self) -> None:
        if not self.variance > 0:
            raise ValueError(f"variance must be positive; got {self.variance}")

    def energy(self, x: torch.Tensor, object: Object) -> torch.Tensor:
        """-log p(x) up to a constant; the M-step takes its slope and curvature by automatic differentiation."""
        values = object.values(x)
        slopes = [values.diff(dim=axis).square().sum() for axis in range(values.dim())]
        return torch.stack(slopes).sum() / (2 * self.variance)


def main(size: int = 128, iterations: int = 10) -> dict[str, float]:
    line = torch.arange(9, dtype=torch.float64) - 4
    bumps = ((-1.5, -1.0, 1.4), (1.2, 1.5, 1.0), (1.5, -1.5, 0.7))
    target = sum(height * torch.exp(-((line[:, None] - y) ** 2 + (line - x) ** 2) / 2.4) for y, x, height in bumps)
    data, _ = up.simulate_images(
        up.PixelTargets(target[None]), size=(size, size), density=0.12, sigma=0.7, seed=3, rotations="none"
    )
    model = up.Model(up.Pixels(9), up.Identity(), up.Anywhere(density=0.1), noise=up.White(0.7))
    found = {}
    for name, prior in (("none", up.Flat()), ("gentle", Gentle(0.04))):
        estimator = up.EM(iterations=iterations, frozen=iterations)
        run = up.reconstruct(data, model, estimator, prior=prior, starts=1, seed=4, moves=0)
        found[name] = up.compare_images(model.object.values(run.x), target).relative_error_shifted
        print(f"{name}: relative error {found[name]:.2f}")
    return found


if __name__ == "__main__":
    main()
