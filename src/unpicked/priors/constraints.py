"""Constraints as energies: compact support, positivity, point-group symmetry."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.objects.base import Object
from unpicked.ops import fourier, special
from unpicked.ops.point_group import point_group
from unpicked.priors.base import Turnable


@dataclass(frozen=True)
class Support:
    """Nothing outside a ball: energy sum over voxels with |p| > radius of v^2 / (2 softness^2).

    Attributes:
        radius: of the ball about the centre, in voxels.
        softness: standard deviation that is left to a voxel outside, in grey values.
    """

    radius: float
    softness: float
    quadratic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_positive("radius", self.radius)
        _check_positive("softness", self.softness)

    def energy(self, x: torch.Tensor, object: Object) -> torch.Tensor:
        """Sum of squares outside / (2 softness^2)."""
        outside = fourier.distances(object.shape, device=x.device) > self.radius
        return (object.values(x) * outside).square().sum() / (2 * self.softness**2)


@dataclass(frozen=True)
class Mass:
    """A total density that is known: energy (sum of the voxels - total)^2 / (2 softness^2).

    The mean of a micrograph's grey values above its background is the covered fraction times this total over the box's
    area, so what fixes one fixes the other.

    Attributes:
        total: sum of the grey values of all voxels.
        softness: standard deviation of what is known of it.
    """

    total: float
    softness: float
    quadratic: ClassVar[bool] = False  # it is not centred at zero

    def __post_init__(self) -> None:
        if not math.isfinite(self.total):
            raise ValueError(f"total must be finite; got {self.total}")
        _check_positive("softness", self.softness)

    def energy(self, x: torch.Tensor, object: Object) -> torch.Tensor:
        """(sum - total)^2 / (2 softness^2)."""
        return (object.values(x).sum() - self.total).square() / (2 * self.softness**2)


@dataclass(frozen=True)
class Positive:
    """No density below zero: energy sum over voxels of min(v, 0)^2 / (2 softness^2).

    Attributes:
        softness: size of the negative values that are still believable, in grey values. A map of limited resolution
            has negative lobes about its peaks and needs room for them: some 5 % of the highest grey value.
    """

    softness: float
    quadratic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_positive("softness", self.softness)

    def energy(self, x: torch.Tensor, object: Object) -> torch.Tensor:
        """Sum of squares of the negative values / (2 softness^2)."""
        return object.values(x).clamp(max=0).square().sum() / (2 * self.softness**2)

    def curvature(self, x: torch.Tensor, object: Object) -> torch.Tensor | None:
        """Outer products of the basis at the negative values / softness^2, while the basis is small enough to keep."""
        values = object.values(x).flatten()
        if object.size * len(values) > _HELD:
            return None
        rows = _basis(object, x.dtype, x.device)[values < 0]
        return rows.mT @ rows / self.softness**2


_HELD = 1 << 24  # numbers of a basis that is kept


@special.constants(1)
def _basis(object: Object, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """``(voxels, size)``: ``object.values`` as a matrix."""
    eye = torch.eye(object.size, dtype=dtype, device=device)
    return object.values(eye).flatten(1).mT.contiguous()


@dataclass(frozen=True)
class Symmetric:
    """Point-group symmetry: energy |v - mean over the group of the turned v|^2 / (2 softness^2).

    Objects that have ``rotate`` (``Ball``) are turned exactly. Others are resampled by trigonometric interpolation in
    the planes across the axis, exact for C1, C2, C4 and D1, D2, D4 and to the accuracy of a band-limited, compact map
    for all others; what a rotation brings in from outside the box is zero. Resampling keeps a matrix of box^4 numbers.

    Attributes:
        group: "Cn" or "Dn", axis along z; a second axis of "Dn" is x.
        softness: standard deviation of what breaks the symmetry, in grey values per voxel.
    """

    group: str
    softness: float
    quadratic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _order(self.group)
        _check_positive("softness", self.softness)

    def energy(self, x: torch.Tensor, object: Object) -> torch.Tensor:
        """Sum of squares of what breaks the symmetry / (2 softness^2); ValueError for an object not in a cube."""
        if len(object.shape) != 3 or len(set(object.shape)) != 1:
            raise ValueError(f"object must be a volume in a cube; got values of shape {object.shape}")
        if isinstance(object, Turnable):
            turns = group(self.group).to(x)
            rest = object.values(x - object.rotate(x, turns).mean(0))
        else:
            values = object.values(x)
            rest = values - _symmetrised(self.group, values)
        return rest.square().sum() / (2 * self.softness**2)


def group(name: str) -> Float[torch.Tensor, "n 3 3"]:
    """Rotations of a point group, float64, the identity first: "Cn" (axis z) or "Dn" (axis z, a second axis x).

    Raises:
        ValueError: for another name.
    """
    _order(name)
    return point_group(name.upper())


def _order(name: str) -> tuple[bool, int]:
    found = re.fullmatch(r"([CcDd])([1-9][0-9]{0,2})", name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f'group must be "Cn" or "Dn" with n from 1 to 999, such as "C1", "C3" or "D2"; got {name!r}')
    return found[1] in "Dd", int(found[2])


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive; got {value}")


def _symmetrised(name: str, values: torch.Tensor) -> torch.Tensor:
    """Mean over the group of the turned values ``(z, y, x)``."""
    dihedral, n = _order(name)
    mean = (values.flatten(-2) @ _planar(n, values.shape[-1], values.dtype, values.device)).reshape(values.shape)
    return (mean + fourier.mirror(mean, (-3, -2))) / 2 if dihedral else mean


@special.constants(4)
def _planar(n: int, box: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Mean over the n turns of a plane ``(box^2,)``, as a matrix to be multiplied from the right."""
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    total = torch.zeros(box**2, box**2, dtype=torch.float64)
    for turn in group(f"C{n}")[:, :2, :2]:
        across, down = (turn[0, i] * x + turn[1, i] * y for i in (0, 1))  # R^T p
        inside = (torch.maximum(across.abs(), down.abs()) < box / 2 + 1e-6).flatten()
        weights = _cardinal(down.flatten() - axis[:, None], box)[:, None] * _cardinal(
            across.flatten() - axis[:, None], box
        )
        total += weights.reshape(box**2, box**2) * inside
    return (total / n).to(device, dtype)


def _cardinal(t: torch.Tensor, length: int) -> torch.Tensor:
    """Trigonometric interpolation of ``length`` samples: 1 at t = 0, 0 at the other integers, periodic."""
    t = t - length * (t / length).round()
    near = t.abs() < 1e-9
    angle = math.pi * torch.where(near, 0.5, t)
    below = length * (angle / length).tan() if length % 2 == 0 else length * (angle / length).sin()
    whole = (t - t.round()).abs() < 1e-9  # exact zeros: quarter turns are permutations
    return torch.where(near, 1.0, torch.where(whole, 0.0, angle.sin() / below))
