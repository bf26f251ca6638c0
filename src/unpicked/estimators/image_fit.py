"""The fit of targets that are turned in their plane to the steerable moments of images: no data are needed any more.

Copies are well separated, or at least L apart; then the pair density is fitted, too, on the vague belief that copies do
not know of each other, which stands as further measurements behind the moments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from unpicked._lazy import torch
from unpicked.data.moments import Moments
from unpicked.estimators import gmm
from unpicked.estimators.gmm import Fit, Settings
from unpicked.model import expected_images, near_images, steerable_volumes
from unpicked.model.model import Model
from unpicked.model.views import InPlane, OfClasses, Projection, View
from unpicked.objects.ball import Ball
from unpicked.objects.base import Object
from unpicked.objects.classes import Classes
from unpicked.objects.disk import Disk
from unpicked.ops import seeding, steerable
from unpicked.priors import Prior

BAND = 0.8  # of the frequencies, in the disc functions
CROWDED = 1.0  # standard deviation of what is believed of the logarithm of the pair density over rate x rate
_REDUNDANT = 1e-2  # combinations of moments with less of the noise's variance differ by the edges of the images only


def kind(model: Model, settings: Settings) -> str:
    """What is summed, in words."""
    background = "centred" if settings.form == "cumulant" else f"background {model.noise.mean:g}"
    return f"image, steerable, L = {model.side}, {background}"


def sizes(model: Model, settings: Settings) -> tuple[int, int]:
    """Number of sums, and of the first ones whose covariance is wanted."""
    functions = steerable.discs(model.side - 1, BAND)
    first = 1 + functions.size
    return first + (settings.form == "cumulant") * functions.third, first


def sums(model: Model, settings: Settings, y: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Sums of an image, what tells their scatter, and the number of parts."""
    centred = settings.form == "cumulant"
    functions = steerable.discs(model.side - 1, BAND)
    rows = steerable.steerable_sums(y - y.mean() if centred else y, functions, pairs=centred)
    return gmm.summed(rows, sizes(model, settings)[1])


@dataclass(frozen=True, eq=False)
class ImageUnknowns:
    """Coefficients, log-densities, sigma^2 and log h, h the pair density: what ``SignalUnknowns`` is for signals.

    Attributes:
        functions: disc functions of the moments.
        table: what the model predicts.
        pairs: what neighbours add, or None.
        side: L.
        density: ``(kinds,)`` known log-densities, or None.
        sigma: known noise level, or None.
        size: number of coefficients.
        guess: ``(kinds,)`` log-densities that are vaguely believed.
        measured: moments about the mean of the images, pairs behind them; None where the background is known.
    """

    functions: steerable.Discs
    table: expected_images.Polynomial | steerable_volumes.VolumeTable
    pairs: near_images.Neighbours | None
    side: int
    density: torch.Tensor | None
    sigma: float | None
    size: int
    guess: torch.Tensor
    measured: torch.Tensor | None = None
    near: bool = False  # of signals

    @property
    def kinds_count(self) -> int:
        """Number of kinds."""
        return len(self.guess)

    @property
    def knots(self) -> int:
        """Number of values of h."""
        return 0 if self.pairs is None else self.pairs.knots

    @property
    def count(self) -> int:
        """Number of unknowns."""
        return self.size + (0 if self.density is not None else self.kinds_count) + (self.sigma is None) + self.knots

    def slope(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Moments, and log h behind them, ``(s, m)``, and their exact Jacobian ``(s, m, count)``."""
        x, log_density, variance, log_h = gmm.unpack(self, theta)
        rate = log_density.exp() / self.side**2
        kinds = x.unflatten(-1, (self.kinds_count, -1))
        one, by_x = (part.unflatten(0, kinds.shape[:2]) for part in self.table.slope(kinds.flatten(0, 1)))
        clean, by_x, by_rate = (rate[..., None] * one).sum(1), (rate[..., None, None] * by_x).movedim(1, 2), one.mT
        by_h = clean[..., None][..., :0]
        if self.pairs is not None:
            h = log_h.exp()
            near, *slopes = near_images.expected_near(kinds, rate, h, self.pairs)
            clean, by_x, by_rate, by_h = clean + near, by_x + slopes[0], by_rate + slopes[1], slopes[2] * h[:, None]
        # the noise adds to the second moments, and to the third in proportion to the first
        second = steerable.steerable_noise(self.functions, 1.0, 0.0)
        third = steerable.steerable_noise(self.functions, 1.0, 1.0) - second
        by_variance = (second + third * clean[:, :1])[..., None]
        parts = [by_x.flatten(2), by_rate * rate[:, None], by_h]
        by_x, by_density, by_h = (part + variance[..., None] * third[:, None] * part[:, :1] for part in parts)
        jacobian = [by_x]
        if self.density is None:
            jacobian.append(by_density)
        if self.sigma is None:
            jacobian.append(by_variance)
        slopes_of_h = torch.eye(self.count, dtype=theta.dtype)[self.count - self.knots :]
        told = clean + variance * by_variance[..., 0]
        whole = torch.cat([*jacobian, by_h], -1)
        if self.measured is not None:  # what the copies themselves add to the background was taken off the images
            gain, slope = steerable.about(self.measured, self.functions, told[:, 0])
            told, whole = told - gain, whole - slope[..., None] * whole[:, :1]
        values = torch.cat([told, log_h], -1)
        return values, torch.cat([whole, slopes_of_h.expand(len(theta), -1, -1)], 1)

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
        model: one ``Disk``, or several kinds, turned by uniform angles; starting values, or known ones.
        settings: see :class:`gmm.Settings`; published weights are 1, 1 / L^2 and 1 / L^4.
        prior: belief about the object; its energy must be quadratic.
        seed: of the random starts.
        start: ``(size,)`` coefficients to begin from instead.

    Raises:
        ValueError: for another kind of object or view, empty moments, or a prior that is not quadratic.
    """
    unknowns = unknowns_of(record, model, settings)
    if not record.points > 0:
        raise ValueError("the moments hold no base point; the images must be larger than twice the target")
    below = gmm.precision_root(prior, model)
    sigma = _pilot(record, unknowns) if unknowns.sigma is None else unknowns.sigma
    density, target = unknowns.guess.exp(), _target(record, unknowns)
    if start is None:
        generator = seeding.generator(seed, "moment starts")
        x = torch.randn(settings.starts, unknowns.size, generator=generator, dtype=torch.float64)
        x = x * _scale(record, unknowns, x, density, sigma)
    else:
        x = start.detach().double().cpu()[None]
    theta = gmm.pack(unknowns, x, density, 0.95 * sigma)
    white = whitener(record, unknowns, settings, sigma)
    found = gmm.descend(unknowns, target, white, settings, theta, below)

    def weights(theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        level = math.sqrt(max(float(gmm.unpack(unknowns, theta)[2]), 1e-6 * sigma**2))
        noise = _covariance(record, unknowns, settings, level)
        return _white(noise, record, unknowns, settings), noise

    answer, theta, _ = gmm.reweighted(unknowns, found, target, weights, record, settings, below)
    return answer._replace(near=gmm.unpack(unknowns, theta)[3].exp())


def cost(record: Moments, model: Model, settings: Settings, prior: Prior, x: torch.Tensor) -> float:
    """What :func:`fit` minimises, for coefficients ``(size,)`` and the density and noise of the model."""
    unknowns = unknowns_of(record, model, replace(settings, estimate_density=False, estimate_sigma=False))
    white = whitener(record, unknowns, settings, model.noise.sigma)
    target = _target(record, unknowns)
    theta = gmm.pack(unknowns, x.double().cpu()[None], unknowns.guess.exp(), model.noise.sigma)
    r, _ = gmm.residuals(unknowns, target, white, gmm.precision_root(prior, model))(theta)
    return 0.5 * float(r.square().sum())


def unknowns_of(record: Moments, model: Model, settings: Settings) -> ImageUnknowns:
    """The parameters of a fit to such moments.

    Raises:
        ValueError: for moments or a model of another kind.
    """
    several = isinstance(model.object, Classes) and isinstance(model.view, OfClasses)
    object, view = (model.object.object, model.view.view) if several else (model.object, model.view)  # type: ignore[attr-defined]
    if record.length != model.side:
        raise ValueError(f"moments are of lags below {record.length} pixels, the model of {model.side}")
    functions = steerable.discs(model.side - 1, BAND)
    centred = settings.form == "cumulant"
    if ("centred" in record.kind) != centred or len(record.means) != functions.size + centred * functions.third:
        raise ValueError(
            f"a fit in the form {settings.form!r} needs moments that were summed in it, {functions.size} for a box of "
            f"{model.side}; got {len(record.means)} of {record.kind}"
        )
    near = getattr(model.placement, "spacing", "separated") != "separated"
    shares = model.log_weights.double().cpu().exp().view(-1, len(view)).sum(1)
    density = (model.placement.density * shares).log()
    return ImageUnknowns(
        functions=functions,
        table=_table(object, view, functions, near),
        pairs=near_images.neighbours(object, functions) if near and isinstance(object, Disk) else None,
        side=model.side,
        density=None if settings.estimate_density else density,
        sigma=None if settings.estimate_sigma else model.noise.sigma,
        size=model.object.size,
        guess=density,
        measured=record.means if centred else None,
    )


def _table(
    object: Object, view: View, functions: steerable.Discs, near: bool
) -> expected_images.Polynomial | steerable_volumes.VolumeTable:
    """What one copy adds to the moments."""
    if isinstance(object, Disk) and isinstance(view, InPlane):
        return expected_images.polynomial(object, functions)
    if isinstance(object, Ball) and isinstance(view, Projection) and view.seen is None:
        if near:
            raise ValueError(
                "moments of volumes are known for well separated copies only; got a placement with neighbours; try EM()"
            )
        return steerable_volumes.volume_table(object, functions)
    raise ValueError(
        "moments of images are fitted by a Disk turned by uniform angles, or a Ball seen from all sides alike; got "
        f"{object!r} seen by {type(view).__name__}; try EM()"
    )


def whitener(record: Moments, unknowns: ImageUnknowns, settings: Settings, sigma: float) -> torch.Tensor:
    """W with W^T W = n C^-1, of the noise and, where they are measured, of the copies; ``(rank, m)``."""
    return _white(_covariance(record, unknowns, settings, sigma), record, unknowns, settings)


def _target(record: Moments, unknowns: ImageUnknowns) -> torch.Tensor:
    """What is fitted: the moments, and nothing of h; a mean that was taken off is 0."""
    means = record.means[: unknowns.functions.size]
    if unknowns.measured is not None:
        means = torch.cat([torch.zeros_like(means[:1]), means[1:]])
    return torch.nn.functional.pad(means, (0, unknowns.knots))


def _pilot(record: Moments, unknowns: ImageUnknowns) -> float:
    """Noise level as if the second moments were all noise: an upper bound where the signal is positively correlated."""
    bias = steerable.steerable_noise(unknowns.functions, 1.0, 0.0)
    return math.sqrt(max(float(record.means[: len(bias)] @ bias / bias.square().sum()), 1e-300))


def _scale(
    record: Moments, unknowns: ImageUnknowns, x: torch.Tensor, density: torch.Tensor, sigma: float
) -> torch.Tensor:
    """Factors ``(s, 1)`` that make the starts' third moments as large as the measured ones beyond their noise."""
    first = 1 + unknowns.functions.groups[0].stop
    kinds = x.unflatten(-1, (unknowns.kinds_count, -1))
    one = unknowns.table.values(kinds.flatten(0, 1)).unflatten(0, kinds.shape[:2])
    expected = ((density / unknowns.side**2)[:, None] * one).sum(1)[:, first:].norm(dim=-1, keepdim=True)
    size = unknowns.functions.size
    noise = steerable.steerable_noise(unknowns.functions, sigma, record.means[0])[first:]
    variance = steerable.steerable_covariance(unknowns.functions).diagonal()[first:].sum() * sigma**6 / record.points
    measured = ((record.means[first:size] - noise).square().sum() - variance).clamp(min=0.1 * variance).sqrt()
    return (measured / expected) ** (1 / 3)


def _covariance(record: Moments, unknowns: ImageUnknowns, settings: Settings, sigma: float) -> torch.Tensor:
    """Covariance of the moments: that of white noise; or of the blocks, with the noise's correlations where few."""
    functions = unknowns.functions
    zero = functions.groups[0].stop
    power = torch.full((functions.size,), sigma**3, dtype=torch.float64)
    power[0], power[1 : 1 + zero] = sigma, sigma**2
    whole = steerable.steerable_covariance(functions)
    if unknowns.measured is not None:  # without a mean the third moments of noise are Wick-ordered
        third = steerable.steerable_noise(functions, 1.0, 1.0) - steerable.steerable_noise(functions, 1.0, 0.0)
        whole = whole - torch.outer(third, third)
        whole[0] = whole[:, 0] = 0
        whole[0, 0] = 1
    whole = whole * torch.outer(power, power)
    if settings.weights != "analytic" and record.blocks >= 20 and record.squares.dim() == 2:
        measured = record.covariance()[: functions.size, : functions.size]
        ratio = (measured.diagonal() / whole.diagonal()).clamp(min=1).sqrt()
        keep = min(1.0, record.blocks / len(power) / 10)
        whole = keep * measured + (1 - keep) * whole * torch.outer(ratio, ratio)
    if unknowns.measured is not None:  # the mean was taken off: it says nothing
        whole[0] = whole[:, 0] = 0
        whole[0, 0] = 1e12 * sigma**2
    believed = torch.full((unknowns.knots,), CROWDED**2 * record.points, dtype=torch.float64)
    return torch.block_diag(whole, believed.diag())


def _white(covariance: torch.Tensor, record: Moments, unknowns: ImageUnknowns, settings: Settings) -> torch.Tensor:
    """W with W^T W = n C^-1 on the combinations of moments that are not redundant, ``(rank, m)``."""
    size = unknowns.functions.size
    moments = covariance[:size, :size]
    if settings.weights == "published":
        weights = torch.full((size,), 1 / unknowns.side**2, dtype=torch.float64)
        weights[0], weights[1 : 1 + unknowns.functions.groups[0].stop] = 1, 1 / unknowns.side
        white = (weights * math.sqrt(record.points / float(moments[0, 0]))).diag()
    else:
        scale = moments.diagonal().sqrt()
        values, vectors = torch.linalg.eigh(moments / torch.outer(scale, scale))
        kept = values > _REDUNDANT
        white = (vectors[:, kept] / values[kept].sqrt()).mT / scale * math.sqrt(record.points)
    return torch.block_diag(white, torch.eye(unknowns.knots, dtype=torch.float64) / CROWDED)
