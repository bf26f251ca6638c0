"""What particle images may be without any structure in them, by the Fourier coefficients of a band.

All densities are of complex coefficients: log p = -|Y|^2 / S - log(pi S) for noise of power S per coefficient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Complex, Float

from unpicked._lazy import torch
from unpicked.ops import seeding
from unpicked.ops.band import Band
from unpicked.ops.orientations import Images

ROUNDS = 300  # of EM of the spectrum
SCALES = (0.0, 0.25, 0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 2.0, 4.0)  # of a map's covariance, that the data choose from
_LEAST = 1e-9  # part of the mean power that a shell has at least
_MOST = 1000  # images to which the spectrum is fitted, about
_SOME = 100  # images by which the scale of a covariance is chosen, about
_ROOM = 1 << 24  # numbers of covariances that are held


@dataclass(frozen=True, eq=False)
class StackWhite:
    """Noise of one power for all coefficients.

    Attributes:
        power: per coefficient.
    """

    power: float = 1.0
    name: ClassVar[str] = "white noise"

    def fitted(self, tiles: Iterable[Images]) -> StackWhite:
        """The mean power."""
        total, count = 0.0, 0
        for some in tiles:
            square = power(some)
            total, count = total + float(square.sum()), count + square.numel()
        return StackWhite(max(total / count, 1e-300))

    def log_likelihood(self, tiles: Images) -> Float[torch.Tensor, " n"]:
        """Of every image."""
        return _gaussian(power(tiles), torch.tensor(self.power, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class StackSpectrum:
    """Stationary noise: N(|q|) + C(q)^2 G(|q|), what the detector and what the specimen adds.

    Attributes:
        shells: of the band's coefficients.
        noise: ``(p,)`` N of every coefficient.
        signal: ``(p,)`` G; zero where no contrast transfer tells it from N.
    """

    shells: torch.Tensor
    noise: torch.Tensor | None = None
    signal: torch.Tensor | None = None
    name: ClassVar[str] = "noise of the same spectrum"

    def fitted(self, tiles: Iterable[Images]) -> StackSpectrum:
        """Maximum likelihood by EM, shell by shell, of at most some images; without contrast transfer all is noise."""
        groups = list(tiles)
        seen = torch.cat([power(some) for some in groups])
        if groups[0].transfer is None:
            return self._with(seen.mean(0), torch.zeros_like(seen[0]))
        transfer = torch.cat([some.weight.double() for some in groups])
        step = max(1, len(seen) // _MOST)
        seen, transfer = seen[::step], transfer[::step]
        least = _LEAST * float(seen.mean()) + 1e-300
        noise = self._rings(0.5 * seen.mean(0))
        signal = noise / self._rings(transfer.mean(0)).clamp(min=1e-6)
        for _ in range(ROUNDS):
            whole = (noise + transfer * signal).clamp(min=least)
            share, part = noise / whole, transfer * signal / whole
            noise = self._rings((noise * (1 - share) + share.square() * seen).mean(0)).clamp(min=least)
            signal = self._rings((signal * (1 - part) + transfer * (signal / whole).square() * seen).mean(0))
        return self._with(noise, signal)

    def log_likelihood(self, tiles: Images) -> Float[torch.Tensor, " n"]:
        """Of every image."""
        if self.noise is None or self.signal is None:
            raise ValueError("the null must be fitted before it judges")
        return _gaussian(power(tiles), self.noise + tiles.weight.double() * self.signal)

    def _with(self, noise: torch.Tensor, signal: torch.Tensor) -> StackSpectrum:
        """The null of these powers per coefficient."""
        least = _LEAST * float(noise.mean()) + 1e-300
        return StackSpectrum(self.shells, self._rings(noise).clamp(min=least), self._rings(signal).clamp(min=0))

    def _rings(self, values: torch.Tensor) -> torch.Tensor:
        """Every coefficient's value as the mean of its shell."""
        return rings(values, self.shells.to(values.device))


@dataclass(frozen=True, eq=False)
class Moments:
    """Gaussian particles at all shifts: mean and covariance of a map's views, what surrounds them, and noise.

    What a structure shows beyond it lies in moments of order three and more. Centred density of any kind is of
    this form, wherever its centre is within the shifts: blobs, shells, lumps of random phases.

    Attributes:
        mean: ``(2 p,)`` of real and imaginary parts times sqrt(2), of the particle at no shift.
        covariance: ``(2 p, 2 p)``, as well.
        noise: ``(p,)`` power per coefficient.
        around: ``(p,)`` round part of the mean of the data that is not the particle's, before contrast transfer.
        ramps: ``(t, p)`` of the shifts, all alike.
        scale: of the covariance, as a part of that of the map's views.
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    noise: torch.Tensor
    around: torch.Tensor
    ramps: torch.Tensor
    scale: float = 1.0

    @staticmethod
    def of(
        slices: Complex[torch.Tensor, "k p"], ramps: Complex[torch.Tensor, "t p"], band: Band, images: Images
    ) -> Moments:
        """The moments of slices, at the scale that suits some images best.

        Args:
            slices: a map's views, evenly spread.
            ramps: exp(-2 pi i q.t / N) of the shifts.
            band: of the coefficients.
            images: to which it is fitted.
        """
        flat = _parts(slices)
        rest = flat - flat.mean(0)
        covariance = rest.mT @ rest / len(flat)
        index = band.shells.to(flat.device)
        weight, seen = images.weight.double().mean(0), power(images).mean(0)
        whole = round_mean(images.filtered.real.double().mean(0) / weight.clamp(min=1e-6), band)
        shifted = round_mean((slices.mean(0) * ramps.mean(0)).real.double(), band)
        spread = (slices.real.double().square() + slices.imag.double().square()).mean(0) - shifted.square()
        some = images[:: max(1, len(images) // _SOME)]
        tried: list[tuple[float, Moments]] = []
        for scale in SCALES:
            root = math.sqrt(scale)
            left = rings(seen - weight * (whole.square() + scale * spread), index)
            noise, around = left.clamp(min=1e-3 * float(seen.mean())), whole - root * shifted
            found = Moments(root * flat.mean(0), scale * covariance, noise, around, ramps, scale)
            tried.append((float(found.log_likelihood(some).sum()), found))
        return max(tried, key=lambda entry: entry[0])[1]

    def log_likelihood(self, tiles: Images) -> Float[torch.Tensor, " n"]:
        """Of every image."""
        points, shifts = len(self.noise), len(self.ramps)
        moved = tiles.less(self.around).coefficients[:, None] * self.ramps.conj()
        flat, double = _parts(moved), torch.cat([self.noise, self.noise])
        constant = points * math.log(2.0) - math.log(shifts)  # the first from sqrt(2) (Re, Im) to complex coefficients
        if tiles.transfer is None:
            rest = (flat - self.mean).flatten(0, 1)
            found = _normal(rest, self.covariance + torch.diag(double)).unflatten(0, (len(flat), shifts))
            return found.logsumexp(1) + constant
        out = []
        for first in range(0, len(flat), max(1, _ROOM // len(double) ** 2)):
            part = slice(first, first + max(1, _ROOM // len(double) ** 2))
            transfer = tiles.transfer[part].double().repeat(1, 2)
            whole = transfer[:, :, None] * self.covariance * transfer[:, None] + torch.diag(double)
            rest = flat[part] - (transfer * self.mean)[:, None]
            out.append(_normal(rest, whole).logsumexp(1) + constant)
        return torch.cat(out)


def round_mean(values: Float[torch.Tensor, " p"], band: Band) -> Float[torch.Tensor, " p"]:
    """Every value as the mean of those at the same radius exactly."""
    return rings(values, torch.unique(band.points.square().sum(1), return_inverse=True)[1].to(values.device))


def missing_noise(images: Images, band: Band, share: float) -> Float[torch.Tensor, " p"]:
    """Noise that must be added so that it makes at least this share of the power, ``(p,)``; zero where it does.

    Of particles that fill a part of their box neighbouring coefficients go together; what is left in the directions
    of least variance is noise. The share is of the power of every shell, and one number for all.

    Args:
        images: some hundreds; of few only the lowest frequencies are looked at.
        band: of the coefficients.
        share: of the power.
    """
    index = band.shells.to(images.coefficients.device)
    whole = rings(power(images).mean(0), index).clamp(min=1e-300)
    order = band.points.square().sum(1).argsort()[: max(2, len(images) // 8)].to(index.device)
    flat = _parts(images.coefficients[:, order] / whole[order].sqrt())
    values = torch.linalg.eigvalsh(flat.mT @ flat / len(flat))  # their mean is 1
    draw = torch.randn(flat.shape, generator=seeding.generator(0, "noise alone"), dtype=torch.float64)
    alone = torch.linalg.eigvalsh(draw.mT @ draw / len(draw))  # sampling spreads the variances of noise, too
    few = slice(max(1, len(values) // 4))
    noise = min(1.0, float((values[few].mean() / alone[few].mean()).clamp(min=0)))
    return whole * max(0.0, share - noise)


def power(images: Images) -> Float[torch.Tensor, "n p"]:
    """|Y|^2, float64."""
    found = images.coefficients
    out: torch.Tensor = found.real.double().square() + found.imag.double().square()
    return out


def _gaussian(square: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    noise = noise.to(square.device)
    return -(square / noise + (math.pi * noise).log()).sum(1)


def _parts(values: torch.Tensor) -> torch.Tensor:
    """Real and imaginary parts times sqrt(2), one after the other, float64."""
    return math.sqrt(2) * torch.cat([values.real, values.imag], -1).double()


def rings(values: Float[torch.Tensor, " p"], index: torch.Tensor) -> Float[torch.Tensor, " p"]:
    """Every value as the mean of those that share its index, ``(p,)``."""
    sums = values.new_zeros(int(index.max()) + 1).index_add_(0, index, values)
    return (sums / torch.bincount(index).clamp(min=1).to(values))[index]


def _normal(rest: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Log density of rows ``(n, d)`` under one covariance, or of ``(n, t, d)`` under one for each n."""
    factor: Any = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(factor, rest.mT, upper=False)
    spread = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    square = white.square().sum(-2)
    out: torch.Tensor = -0.5 * (square + rest.shape[-1] * math.log(2 * math.pi)) - spread[..., None]
    return out
