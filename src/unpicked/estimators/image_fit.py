"""The fit of a target that is turned in its plane to the steerable moments of images: no data are needed any more."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from unpicked._lazy import torch
from unpicked.data.moments import Moments
from unpicked.estimators import gmm
from unpicked.estimators.gmm import Fit, Settings
from unpicked.model import expected_images
from unpicked.model.model import Model
from unpicked.model.views import InPlane
from unpicked.objects.disk import Disk
from unpicked.ops import seeding, steerable
from unpicked.priors import Prior

BAND = 0.8  # of the frequencies, in the disc functions
_REDUNDANT = 1e-2  # combinations of moments with less of the noise's variance differ by the edges of the images only


@dataclass(frozen=True, eq=False)
class ImageUnknowns:
    """Coefficients, log-density and sigma^2 of a fit; what :class:`signal_unknowns.SignalUnknowns` is for signals.

    Attributes:
        functions: disc functions of the moments.
        table: what the model predicts.
        side: L.
        density: ``(1,)`` known log-density, or None.
        sigma: known noise level, or None.
        size: number of coefficients.
        guess: ``(1,)`` log-density that is vaguely believed.
    """

    functions: steerable.Discs
    table: expected_images.Polynomial
    side: int
    density: torch.Tensor | None
    sigma: float | None
    size: int
    guess: torch.Tensor
    near: bool = False
    kinds_count: int = 1

    @property
    def count(self) -> int:
        """Number of unknowns."""
        return self.size + (self.density is None) + (self.sigma is None)

    def slope(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Moments ``(s, m)`` and their exact Jacobian ``(s, m, count)``."""
        x, log_density, variance, _ = gmm.unpack(self, theta)
        rate = log_density.exp() / self.side**2
        one, by_x = expected_images.expected_images_slope(x, self.table)
        clean, by_x = rate * one, rate[..., None] * by_x
        # the noise adds to the second moments, and to the third in proportion to the first
        second = steerable.steerable_noise(self.functions, 1.0, 0.0)
        third = steerable.steerable_noise(self.functions, 1.0, 1.0) - second
        parts = [by_x + variance[..., None] * third[:, None] * by_x[:, :1]]
        by_variance = second + third * clean[:, :1]
        if self.density is None:
            parts.append((clean + variance * third * clean[:, :1])[..., None])
        if self.sigma is None:
            parts.append(by_variance[..., None])
        return clean + variance * by_variance, torch.cat(parts, -1)

    def pull(self, theta: torch.Tensor) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """Moments ``(s, m)``, and the product of weights ``(s, m)`` with the Jacobian."""
        values, jacobian = self.slope(theta)
        return values, lambda weights: (weights[:, None] @ jacobian)[:, 0]


def fit(
    record: Moments, model: Model, settings: Settings, prior: Prior, seed: int, start: torch.Tensor | None = None
) -> Fit:
    """Fit a model to steerable moments, from random starts; the answer's rotation is arbitrary.

    Args:
        record: moments of images.
        model: a ``Disk`` turned by uniform angles, well separated; starting values, or known ones.
        settings: see :class:`gmm.Settings`; published weights are 1, 1 / L^2 and 1 / L^4.
        prior: belief about the object; its energy must be quadratic.
        seed: of the random starts.
        start: ``(size,)`` coefficients to begin from instead.

    Raises:
        ValueError: for another kind of object or view, empty moments, or a prior that is not quadratic.
    """
    unknowns = _unknowns(record, model, settings)
    if not record.points > 0:
        raise ValueError("the moments hold no base point; the images must be larger than twice the target")
    below = gmm.precision_root(prior, model)
    sigma = _pilot(record, unknowns) if unknowns.sigma is None else unknowns.sigma
    density = torch.tensor([model.placement.density], dtype=torch.float64)
    if start is None:
        generator = seeding.generator(seed, "moment starts")
        x = torch.randn(settings.starts, unknowns.size, generator=generator, dtype=torch.float64)
        x = x * _scale(record, unknowns, x, density, sigma)
    else:
        x = start.detach().double().cpu()[None]
    theta = gmm.pack(unknowns, x, density, 0.95 * sigma)
    white = _white(_covariance(record, unknowns, settings, sigma), record, unknowns, settings)
    found = gmm.descend(unknowns, record.means, white, settings, theta, below)

    def weights(theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        level = math.sqrt(max(float(gmm.unpack(unknowns, theta)[2]), 1e-6 * sigma**2))
        noise = _covariance(record, unknowns, settings, level)
        return _white(noise, record, unknowns, settings), noise

    return gmm.reweighted(unknowns, found, record.means, weights, record, settings, below)[0]


def cost(record: Moments, model: Model, settings: Settings, prior: Prior, x: torch.Tensor) -> float:
    """What :func:`fit` minimises, for coefficients ``(size,)`` and the density and noise of the model."""
    unknowns = _unknowns(record, model, replace(settings, estimate_density=False, estimate_sigma=False))
    white = _white(_covariance(record, unknowns, settings, model.noise.sigma), record, unknowns, settings)
    below = gmm.precision_root(prior, model)
    r, _ = gmm.residuals(unknowns, record.means, white, below)(x.double().cpu()[None])
    return 0.5 * float(r.square().sum())


def _unknowns(record: Moments, model: Model, settings: Settings) -> ImageUnknowns:
    if not isinstance(model.object, Disk) or not isinstance(model.view, InPlane):
        raise ValueError(
            f"moments of images are fitted by a Disk turned by uniform angles; got {model.object!r} seen by "
            f"{type(model.view).__name__}; try EM()"
        )
    if getattr(model.placement, "spacing", "separated") != "separated":
        raise ValueError("moments of images are fitted to well separated copies only; try EM() for nearer ones")
    if record.length != model.side:
        raise ValueError(f"moments are of lags below {record.length} pixels, the model of {model.side}")
    functions = steerable.discs(model.side - 1, BAND)
    density = torch.tensor([model.placement.density], dtype=torch.float64).log()
    return ImageUnknowns(
        functions=functions,
        table=expected_images.polynomial(model.object, functions),
        side=model.side,
        density=None if settings.estimate_density else density,
        sigma=None if settings.estimate_sigma else model.noise.sigma,
        size=model.object.size,
        guess=density,
    )


def _pilot(record: Moments, unknowns: ImageUnknowns) -> float:
    """Noise level as if the second moments were all noise: an upper bound where the signal is positively correlated."""
    bias = steerable.steerable_noise(unknowns.functions, 1.0, 0.0)
    return math.sqrt(max(float(record.means @ bias / bias.square().sum()), 1e-300))


def _scale(
    record: Moments, unknowns: ImageUnknowns, x: torch.Tensor, density: torch.Tensor, sigma: float
) -> torch.Tensor:
    """Factors ``(s, 1)`` that make the starts' third moments as large as the measured ones beyond their noise."""
    first = 1 + unknowns.functions.groups[0].stop
    rate = density / unknowns.side**2
    expected = rate * expected_images.expected_images(x, unknowns.table)[:, first:].norm(dim=-1, keepdim=True)
    noise = steerable.steerable_noise(unknowns.functions, sigma, record.means[0])[first:]
    variance = steerable.steerable_covariance(unknowns.functions).diagonal()[first:].sum() * sigma**6 / record.points
    measured = ((record.means[first:] - noise).square().sum() - variance).clamp(min=0.1 * variance).sqrt()
    return (measured / expected) ** (1 / 3)


def _covariance(record: Moments, unknowns: ImageUnknowns, settings: Settings, sigma: float) -> torch.Tensor:
    """Covariance of the moments: that of white noise; or of the blocks, with the noise's correlations where few."""
    functions = unknowns.functions
    zero = functions.groups[0].stop
    power = torch.full((functions.size,), sigma**3, dtype=torch.float64)
    power[0], power[1 : 1 + zero] = sigma, sigma**2
    analytic = steerable.steerable_covariance(functions) * torch.outer(power, power)
    if settings.weights == "analytic" or record.blocks < 20:
        return analytic
    measured = record.covariance()
    ratio = (measured.diagonal() / analytic.diagonal()).clamp(min=1).sqrt()
    keep = min(1.0, record.blocks / len(power) / 10)
    return keep * measured + (1 - keep) * analytic * torch.outer(ratio, ratio)


def _white(covariance: torch.Tensor, record: Moments, unknowns: ImageUnknowns, settings: Settings) -> torch.Tensor:
    """W with W^T W = n C^-1 on the combinations of moments that are not redundant, ``(rank, m)``."""
    if settings.weights == "published":
        weights = torch.full((len(covariance),), 1 / unknowns.side**2, dtype=torch.float64)
        weights[0], weights[1 : 1 + unknowns.functions.groups[0].stop] = 1, 1 / unknowns.side
        return (weights * math.sqrt(record.points / float(covariance[0, 0]))).diag()
    scale = covariance.diagonal().sqrt()
    values, vectors = torch.linalg.eigh(covariance / torch.outer(scale, scale))
    kept = values > _REDUNDANT
    return (vectors[:, kept] / values[kept].sqrt()).mT / scale * math.sqrt(record.points)
