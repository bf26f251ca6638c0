"""Volumes like given ones: a Gaussian along their mean and what tells them apart, with an error floor."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.objects.base import Object
from unpicked.ops import special
from unpicked.priors.account import precision
from unpicked.priors.base import Prior


@dataclass(frozen=True, eq=False)
class Subspace:
    """A known fold in an unknown conformation: x = scale (u_0 m + sum_i u_i a_i) + rest, u standard normal.

    m is the mean of n given volumes, a_i their differences from it over sqrt(n - 1), so that the a_i span what tells
    them apart with the variances found among them (principal components; Penczek et al. 2006); u_0 leaves the height
    of the whole to the data. ``rest`` is what the volumes do not know: without it a truth outside their span comes out
    worse than their mean. The volumes stand in one frame, and so does the answer: fits begin at their mean.

    Attributes:
        volumes: ``(n, z, y, x)``, at least two, on the object's grid, laid on one another.
        scale: by which they are multiplied to have about the data's grey values.
        rest: a quadratic prior of the error that is left, :func:`unpicked.priors.wilson` of a small part of the power
            for one.
        free: ``(z, y, x)`` voxels of which the volumes shall say nothing: each has the molecule's own variance there,
            and mean and differences are 0; None: there are none such.
        digest: by which checkpoints tell volumes apart; that of their numbers if not given.

    Raises:
        ValueError: for volumes of another number or shape, not finite, or all alike; for a scale that is not positive;
            for a ``rest`` that is not quadratic; when used, for an object on another grid.
    """

    volumes: torch.Tensor = field(repr=False)
    scale: float
    rest: Prior
    free: torch.Tensor | None = field(default=None, repr=False)
    digest: str = ""
    quadratic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        values = self.volumes
        if values.dim() != 4 or len(values) < 2:
            raise ValueError(f"volumes must be (n, z, y, x) with n >= 2; got {tuple(values.shape)}")
        if not bool(torch.isfinite(values).all()):
            raise ValueError("volumes must be finite; got NaN or infinity")
        if not float(values.double().std(0).norm()) > 1e-6 * float(values.double().norm()):
            raise ValueError(f"volumes must differ from one another; got {len(values)} that are alike")
        if self.free is not None and tuple(self.free.shape) != tuple(values.shape[1:]):
            raise ValueError(
                f"free must have the volumes' shape {tuple(values.shape[1:])}; got {tuple(self.free.shape)}"
            )
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be positive; got {self.scale}")
        if not self.rest.quadratic:
            raise ValueError(f"rest must be a quadratic prior; got {self.rest!r}")
        told = hashlib.sha256((self.digest or _numbers(values)).encode())
        told.update(b"" if self.free is None else self.free.cpu().numpy().tobytes())
        object.__setattr__(self, "digest", told.hexdigest()[:16])

    def energy(self, x: torch.Tensor, object: Object) -> torch.Tensor:
        """x^T S^-1 x / 2, S = scale^2 (m m^T + sum_i a_i a_i^T) + that of ``rest``."""
        _, pull, factor = (part.to(x) for part in _known(self, object))
        along = torch.linalg.solve_triangular(factor, (pull @ x)[:, None], upper=False)
        return self.rest.energy(x, object) - 0.5 * along.square().sum()

    def curvature(self, x: torch.Tensor, object: Object) -> torch.Tensor:
        """S^-1, by the matrix inversion lemma."""
        _, pull, factor = (part.to(x) for part in _known(self, object))
        along = torch.linalg.solve_triangular(factor, pull, upper=False)
        return precision(self.rest, object, x).to(x) - along.mT @ along

    def mean(self, object: Object) -> Float[torch.Tensor, " n"]:
        """Coefficients of the mean volume, in the data's grey values, float64."""
        return _known(self, object)[0]


def _numbers(values: torch.Tensor) -> str:
    return hashlib.sha256(values.detach().double().cpu().contiguous().numpy().tobytes()).hexdigest()


@special.constants(2)
def _known(prior: Subspace, object: Object) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean m, rows R a_i and the Cholesky factor of 1 + a R a^T, R the precision of ``rest``; float64."""
    if tuple(object.shape) != tuple(prior.volumes.shape[1:]):
        raise ValueError(
            f"volumes of shape {tuple(prior.volumes.shape[1:])} do not fit an object of {tuple(object.shape)}"
        )
    volumes = prior.scale * prior.volumes.detach().double().cpu()
    whole, free = volumes.mean(0), prior.free
    if free is not None:
        volumes = volumes * ~free
    x = object.fit(volumes)
    mean = x.mean(0)
    rows = torch.cat([mean[None], (x - mean) / math.sqrt(len(x) - 1)])
    if free is not None and bool(free.any()):
        inside = whole[whole > 0.1 * whole.max()]
        single = torch.zeros(int(free.sum()), *free.shape, dtype=torch.float64)
        single[torch.arange(len(single)), *free.nonzero().T] = inside.square().mean().sqrt()
        rows = torch.cat([rows, object.fit(single)])
    prior.rest.energy(mean, object)  # makes the constants outside of any transform
    slope = torch.func.grad(lambda y: prior.rest.energy(y, object))
    pull = torch.stack([slope(row) for row in rows])
    inner = rows @ pull.mT
    inner = torch.eye(len(rows), dtype=torch.float64) + (inner + inner.mT) / 2
    factor, flaw = torch.linalg.cholesky_ex(inner)
    if bool(flaw):
        raise ValueError("rest is so small beside the volumes that their sum cannot be inverted; give it more power")
    return mean, pull, factor
