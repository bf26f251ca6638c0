"""Gaussian priors: independent coefficients, independent frequencies, and Wilson statistics under an envelope."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from unpicked._lazy import torch
from unpicked.objects.base import Object, Volume
from unpicked.objects.voxels import Voxels
from unpicked.ops import fourier, rotation, special

_LARGEST = 4000  # coefficients of an object whose covariance is factored as a dense matrix


@dataclass(frozen=True)
class Ridge:
    """Independent Gaussian coefficients of one variance: energy |x|^2 / (2 variance).

    Attributes:
        variance: expected square of a coefficient.
    """

    variance: float
    quadratic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.variance > 0:
            raise ValueError(f"variance must be positive; got {self.variance}")

    def energy(self, x: torch.Tensor, object: Object) -> torch.Tensor:
        """|x|^2 / (2 variance)."""
        return x.square().sum() / (2 * self.variance)


@dataclass(frozen=True)
class Shells:
    """Independent Fourier coefficients whose variance depends on resolution: sum_q |F(q)|^2 / (2 tau^2(|q|)).

    F is the transform of :func:`unpicked.ops.fourier.fft3`. tau^2 must come from somewhere else than the map that is
    being estimated (half maps, a known structure, :func:`globular`): the power of the present map as its own prior
    lets the outer shells collapse.

    Attributes:
        tau2: expected |F|^2 in shell 0, 1, ...; frequencies beyond the last take the last value.
    """

    tau2: tuple[float, ...]
    quadratic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.tau2 or not all(value > 0 for value in self.tau2):
            raise ValueError(f"tau2 must hold a positive value per shell; got {self.tau2}")

    def energy(self, x: torch.Tensor, object: Object) -> torch.Tensor:
        """sum_q |F(q)|^2 / (2 tau^2(|q|))."""
        spectrum = fourier.fft3(object.values(x))
        shells = fourier.shells(spectrum.shape, device=x.device).clamp(max=len(self.tau2) - 1)
        precision = 1 / torch.tensor(self.tau2, dtype=x.dtype, device=x.device)
        return 0.5 * (precision[shells] * (spectrum.real.square() + spectrum.imag.square())).sum()


def globular(box: int, power: float) -> Shells:
    """A spectrum for compact molecules: tau^2(k) proportional to (1 + (k / 1.5)^2)^-2, k in shells of the box.

    Args:
        box: edge of the map in voxels.
        power: expected sum of squares of a projection.
    """
    shells = torch.arange((box - 1) // 2 + 1, dtype=torch.float64)
    shape = (1 + (shells / 1.5).square()).pow(-2)
    slice_shape = shape[fourier.shells((box, box)).clamp(max=len(shape) - 1)]
    return Shells(tuple((shape * power / slice_shape.sum()).tolist()))


@dataclass(frozen=True)
class Wilson:
    """A compact molecule of random density, V(p) = e(p) (m + g(p)) (Gaussian process of mean zero; arXiv 2202.09388).

    e(p) = exp(-|p|^2 / (2 radius^2)) is the envelope, g white noise smoothed by a Gaussian, of variance
    ``variance`` at every voxel, and m one common level of variance ``blob * variance``: the featureless blob, which is
    thereby left to the data. Coefficients are ``object.fit`` of V, so their covariance is S = F C F^T, and the energy
    is x^T S^-1 x / 2. So that S is invertible and well conditioned where the envelope or the spectrum of g vanishes,
    ``floor`` is added to e^2 (of g alone, not of the blob) and to the spectrum of g: voxels far outside keep a
    standard deviation of sqrt(floor) of those in the centre, 3 % at 1e-3.

    ``Voxels`` of any size are solved exactly by two transforms; other objects by a dense factor that is kept between
    calls. g is periodic in the box.

    Attributes:
        variance: of g at a voxel, square of grey values; :func:`wilson` finds it from the power of projections.
        radius: of the envelope in voxels.
        correlation: standard deviation of the smoothing in voxels. Density made of blobs of s.d. s has s.
        blob: variance of the common level over that of g; about 1 for chains of beads, larger for denser molecules.
        floor: relative, see above.

    Raises:
        ValueError: for values that are not positive (blob and correlation: negative); by ``energy`` and ``root`` for
            an object that is not a volume or, but for ``Voxels``, has more than 4,000 coefficients.
    """

    variance: float
    radius: float
    correlation: float = 0.7
    blob: float = 1.0
    floor: float = 1e-3
    quadratic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("variance", "radius", "floor"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        for name in ("correlation", "blob"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")

    def energy(self, x: torch.Tensor, object: Object) -> torch.Tensor:
        """x^T S^-1 x / 2 of coefficients ``(size,)``."""
        unit = replace(self, variance=1.0)
        if isinstance(object, Voxels):
            parts = _parts(unit, object.shape, x.dtype, x.device)
            white = _filter(object.values(x) / parts.envelope, 1 / parts.spectrum)
            white = white - parts.shrink * (parts.blob * white).sum() * parts.blob
        else:
            white = _inverse(unit, object, x.dtype, x.device) @ x
        return white.square().sum() / (2 * self.variance)

    def root(self, white: torch.Tensor, object: Object) -> torch.Tensor:
        """L u with L L^T = S, ``(..., size)``: a draw from the prior, where u is standard normal.

        In the variables u the precision of this prior is the identity: linear solves need few steps there.
        """
        unit, scale = replace(self, variance=1.0), math.sqrt(self.variance)
        if isinstance(object, Voxels):
            parts = _parts(unit, object.shape, white.dtype, white.device)
            values = object.values(white)
            level = (parts.blob * values).sum((-3, -2, -1), keepdim=True)
            values = _filter(values + parts.grow * level * parts.blob, parts.spectrum) * parts.envelope
            return scale * object.fit(values)
        return scale * (white @ _factor(unit, object, white.dtype, white.device).mT)


def wilson(
    object: Volume,
    power: float,
    radius: float | None = None,
    *,
    correlation: float = 0.7,
    blob: float = 1.0,
    floor: float = 1e-3,
) -> Wilson:
    """The :class:`Wilson` prior whose projections have a given expected sum of squares, mean over views.

    Args:
        object: the volume that is to be reconstructed.
        power: expected sum of squares of a projection.
        radius: of the envelope in voxels; None means 0.2 of the box, which suits a molecule that fills 2/3 of it.
        correlation: see :class:`Wilson`.
        blob: see :class:`Wilson`.
        floor: see :class:`Wilson`.

    Raises:
        ValueError: for power that is not positive, and as :class:`Wilson`.
    """
    if not 0 < power < math.inf:
        raise ValueError(f"power must be positive; got {power}")
    unit = Wilson(1.0, 0.2 * min(object.shape) if radius is None else radius, correlation, blob, floor)
    return replace(unit, variance=power / _projected_power(unit, object))


@dataclass(frozen=True, eq=False)
class _Parts:
    """S = E G^1/2 (1 + a a^T) G^1/2 E of voxels at variance 1; (1 + a a^T)^(1/2) is 1 + grow a a^T, its inverse is
    1 - shrink a a^T.
    """

    envelope: torch.Tensor  # sqrt(e^2 + floor), (z, y, x)
    spectrum: torch.Tensor  # square root of the eigenvalues of G, DC first
    blob: torch.Tensor  # a
    grow: float
    shrink: float


@special.constants(8)
def _parts(prior: Wilson, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> _Parts:
    if len(shape) != 3:
        raise ValueError(f"object must be a volume, with values of shape (z, y, x); got {shape}")
    bare = torch.exp(-fourier.distances(shape).square() / (2 * prior.radius**2))
    envelope = (bare.square() + prior.floor).sqrt()
    squares = torch.zeros((), dtype=torch.float64)
    for length in shape:
        squares = squares[..., None] + (fourier.frequencies(length).double() / length).square()
    spectrum = torch.exp(-squares * (2 * math.pi * prior.correlation) ** 2)
    spectrum = (spectrum / spectrum.mean() + prior.floor).sqrt()
    blob = math.sqrt(prior.blob) * _filter(bare / envelope, 1 / spectrum)
    square = float(blob.square().sum())
    root = math.sqrt(1 + square)
    return _Parts(
        envelope.to(device, dtype),
        spectrum.to(device, dtype),
        blob.to(device, dtype),
        1 / (root + 1),  # (root - 1) / |a|^2
        1 / (root * (root + 1)),  # (1 - 1 / root) / |a|^2
    )


@special.constants(4)
def _inverse(prior: Wilson, object: Object, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Inverse of the factor L, ``(size, size)``."""
    lower = _factor(prior, object, torch.float64, torch.device("cpu"))
    eye = torch.eye(object.size, dtype=torch.float64)
    return torch.linalg.solve_triangular(lower, eye, upper=False).to(device, dtype)


@special.constants(4)
def _factor(prior: Wilson, object: Object, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Cholesky factor L of S at variance 1, ``(size, size)``."""
    if object.size > _LARGEST:
        raise ValueError(
            f"object must have at most {_LARGEST} coefficients, or be Voxels, for this prior; got {object.size}; "
            "try a smaller box, a smaller lmax or Voxels"
        )
    parts = _parts(prior, object.shape, torch.float64, torch.device("cpu"))
    rows = _fit_rows(object)
    half = _filter(rows * parts.envelope, parts.spectrum)
    blob = (half * parts.blob).sum((-3, -2, -1))
    half = half.flatten(1)
    lower, failed = torch.linalg.cholesky_ex(half @ half.mT + torch.outer(blob, blob))
    if int(failed):
        raise ValueError(
            f"object must be determined by its values for this prior; got {object.size} coefficients of rank "
            f"about {int(failed) - 1}"
        )
    return lower.to(device, dtype)


def _fit_rows(object: Object) -> torch.Tensor:
    """``(size, z, y, x)``: ``object.fit`` as a matrix."""
    zero = torch.zeros(object.shape, dtype=torch.float64)
    object.fit(zero)  # makes the object's own constants, outside of the transforms below
    pull = torch.func.vjp(object.fit, zero)[1]
    rows: torch.Tensor = torch.func.vmap(pull)(torch.eye(object.size, dtype=torch.float64))[0]
    return rows


def _filter(values: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """Values ``(..., z, y, x)`` convolved with what has this real, even transform."""
    dims = (-3, -2, -1)
    half = gain[..., : gain.shape[-1] // 2 + 1]
    return torch.fft.irfftn(torch.fft.rfftn(values, dim=dims) * half, s=values.shape[-3:], dim=dims)


def _projected_power(prior: Wilson, object: Volume) -> float:
    """Expected sum of squares of a projection, in closed form from the covariance, mean over views."""
    if isinstance(object, Voxels):  # the covariance is isotropic but for the grid: the view along z stands for all
        parts = _parts(prior, object.shape, torch.float64, torch.device("cpu"))
        kernel = torch.fft.ifftn(parts.spectrum.square()).real[:, 0, 0]
        z = torch.arange(object.box)
        columns = parts.envelope.flatten(1)
        common = _filter(parts.blob, parts.spectrum) * parts.envelope
        own = (columns * (kernel[(z[:, None] - z) % object.box] @ columns)).sum()
        return float(own + common.sum(0).square().sum())
    lower = _factor(prior, object, torch.float64, torch.device("cpu"))
    views = rotation.super_fibonacci(24)
    project = object.projector(views).project
    return sum(float(project(part).square().sum()) for part in lower.mT.split(128)) / len(views)
