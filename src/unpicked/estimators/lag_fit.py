"""The fit of a volume seen on a tilted grid to the moments of micrographs at all lags: no data are needed any more.

Only the angle in the plane of the grid is averaged over, so far more of a volume is determined than by views from all
sides (Lan, Boumal & Singer, Acta Cryst. A 78, 294, 2022). The moments are about the mean of the images: each may have
a background of its own, and noise of any colour adds nothing to the third. White noise adds to the second at lag 0
alone, which is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from unpicked._lazy import torch
from unpicked.data.moments import Moments
from unpicked.estimators import gmm
from unpicked.estimators.gmm import Fit, Settings
from unpicked.model.conical import Conical
from unpicked.model.model import Model
from unpicked.ops import lags, seeding
from unpicked.priors import Prior, precision

ANGLES = 3  # angles for each degree of the volume: the average of products of three is exact beyond that
RISING = (1e-3, 1e-2, 0.1, 1.0)  # weights of the data on the way
ENOUGH = 100  # tiles, from which their own scatter weighs the moments
STEPS = 300  # of the quasi-Newton method for every weight


def kind(model: Model, settings: Settings) -> str:
    """What is summed, in words."""
    view = _view(model)
    return f"image, all lags, L = {model.side}, tilt {view.tilt:g} at {view.axis:g}, centred"


def sizes(model: Model, settings: Settings) -> tuple[int, int]:
    """Number of sums, and of those whose squares are wanted."""
    count = 1 + lags.lags(model.side - 1).size
    return count, count


def sums(model: Model, settings: Settings, y: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Sums of an image about its mean, of the squares of its tiles' sums, and the number of tiles."""
    return lags.lag_sums(y - y.mean(), lags.lags(model.side - 1))


@dataclass(frozen=True, eq=False)
class _Problem:
    """Misfit and prior as a function of the coefficients and log-density.

    Attributes:
        record: the moments.
        model: volume and views.
        settings: what is estimated.
        prior: belief about the volume.
    """

    record: Moments
    model: Model
    settings: Settings
    prior: Prior

    @cached_property
    def lags(self) -> lags.Lags:
        """Of the moments."""
        return lags.lags(self.model.side - 1)

    @cached_property
    def templates(self) -> torch.Tensor:
        """``(size, k, L, L)`` of all functions, at angles enough for an exact average; float32."""
        object = self.model.object
        count = ANGLES * getattr(object, "lmax", self.model.side) + 2
        eye = torch.eye(object.size, dtype=torch.float64)
        view = _view(self.model).spread(count)
        operator = replace(self.model, view=view).operator(eye[0])
        return torch.cat([operator.project(some) for some in eye.split(64)]).float()

    @cached_property
    def target(self) -> torch.Tensor:
        """The moments."""
        return self.record.means.float()

    @cached_property
    def variance(self) -> torch.Tensor:
        """Of the moments, ``(s,)``: of the noise, or by the scatter of the tiles where these are many."""
        record, means = self.record, self.record.means
        noise = lags.noise_variance(self.lags, max(float(means[1]), 1e-300)) / record.points
        if self.settings.weights == "analytic" or record.blocks < ENOUGH:
            return noise
        scatter = record.squares[1:] - means.square() * record.squares[0]
        return torch.maximum(scatter / record.points**2, 0.1 * noise)

    @cached_property
    def weights(self) -> torch.Tensor:
        """One over the moments' standard deviations; none of the mean, and of lag 0 of the second."""
        weights = self.variance.rsqrt()
        weights[:2] = 0
        return weights.float()

    def predicted(self, x: torch.Tensor, log_density: torch.Tensor) -> torch.Tensor:
        """Moments about the mean, without noise."""
        seen = torch.tensordot(x.float(), self.templates, 1)
        rate = log_density.exp() / self.model.side**2
        return lags.central(rate * lags.template_moments(seen, self.lags), self.lags)

    def misfit(self, x: torch.Tensor, log_density: torch.Tensor) -> torch.Tensor:
        """Half of chi^2."""
        return 0.5 * ((self.predicted(x, log_density) - self.target) * self.weights).square().sum()

    def believed(self, x: torch.Tensor, log_density: torch.Tensor) -> torch.Tensor:
        """The prior's energy, and that of the vague belief about the density."""
        guess = math.log(self.model.placement.density)
        return self.prior.energy(x, self.model.object) + 0.5 * ((log_density - guess) / gmm.VAGUE).square()

    @cached_property
    def root(self) -> torch.Tensor:
        """R, ``(size, size)``: coefficients R z with z of order one are typical of the prior."""
        size = self.model.object.size
        held = precision(self.prior, self.model.object, torch.zeros(size, dtype=torch.float64)).double()
        values, vectors = torch.linalg.eigh(held)
        if not float(values[-1]) > 0:
            return torch.eye(size, dtype=torch.float64) * self.size
        return vectors / values.clamp(min=1e-6 * values[-1]).sqrt()

    @cached_property
    def size(self) -> float:
        """Typical coefficient by the second moments."""
        total = float(self.record.means[2 : 1 + len(self.lags.values)].abs().sum())
        one = float(self.templates.square().sum((1, 2, 3)).mean()) / self.templates.shape[1]
        rate = self.model.placement.density / self.model.side**2
        return math.sqrt(total / rate / len(self.templates) / one)


def fit(
    record: Moments, model: Model, settings: Settings, prior: Prior, seed: int, start: torch.Tensor | None = None
) -> Fit:
    """Fit a volume to the moments of a tilted grid, from random starts; its turn about the grid's normal is arbitrary.

    The data's weight rises from a thousandth to one (graduated non-convexity), by a quasi-Newton method (L-BFGS).

    Args:
        record: moments of micrographs.
        model: a volume and :class:`Conical` views; starting values, or known ones.
        settings: see :class:`gmm.Settings`; weights are those of the noise (analytic) or of the tiles' scatter.
        prior: belief about the volume, of any energy.
        seed: of the random starts.
        start: ``(size,)`` coefficients to begin from instead.

    Raises:
        ValueError: for moments of another kind, or none.
    """
    problem = _problem(record, model, settings, prior)
    if start is None:
        generator = seeding.generator(seed, "moment starts")
        drawn = torch.randn(settings.starts, model.object.size, generator=generator, dtype=torch.float64)
        begun = drawn @ problem.root.mT
    else:
        begun = start.detach().double().cpu()[None]
    guess = math.log(model.placement.density)
    ended = [_descended(problem, x, guess, RISING if start is None else RISING[-1:]) for x in begun]
    costs = torch.tensor([end[0] for end in ended], dtype=torch.float64)
    cost, x, log_density, rest = ended[int(costs.argmin())]
    covariance, chi2, degrees = _told(problem, x, log_density)
    predicted = problem.predicted(x, log_density).double()
    variance = max(float(record.means[1] - predicted[1]), 0.0) if settings.estimate_sigma else model.noise.sigma**2
    return Fit(
        x=x,
        density=log_density.exp()[None],
        sigma=torch.tensor(math.sqrt(variance), dtype=torch.float64),
        near=x.new_zeros(0),
        covariance=covariance,
        cost=cost,
        chi2=chi2,
        converged=rest and chi2 < 1 + 5 * math.sqrt(2 / degrees),
        costs=costs,
    )


def cost(record: Moments, model: Model, settings: Settings, prior: Prior, x: torch.Tensor) -> float:
    """What :func:`fit` minimises, for coefficients ``(size,)`` and the density of the model."""
    problem = _problem(record, model, settings, prior)
    log_density = torch.tensor(math.log(model.placement.density), dtype=torch.float64)
    x = x.detach().double().cpu()
    return float(problem.misfit(x, log_density) + problem.believed(x, log_density))


def _problem(record: Moments, model: Model, settings: Settings, prior: Prior) -> _Problem:
    if record.length != model.side or "all lags" not in record.kind:
        raise ValueError(f"a tilted grid in a box of {model.side} needs moments at all its lags; got {record.kind}")
    if not record.points > 0:
        raise ValueError("the moments hold no base point; the images must be larger than twice the target")
    if settings.weights == "published":
        raise ValueError("there are no published weights for a tilted grid; try weights='auto'")
    if getattr(model.placement, "spacing", "separated") != "separated":
        raise ValueError("moments of volumes are known for well separated copies only; try EM()")
    return _Problem(record, model, settings, prior)


def _view(model: Model) -> Conical:
    if not isinstance(model.view, Conical):
        raise ValueError(f"all lags are for Conical views; got {type(model.view).__name__}")
    return model.view


def _descended(
    problem: _Problem, x: torch.Tensor, guess: float, weights: tuple[float, ...]
) -> tuple[float, torch.Tensor, torch.Tensor, bool]:
    """Cost, coefficients, log-density, and whether the descent came to rest."""
    import numpy as np
    from scipy.optimize import minimize

    root, free = problem.root, problem.settings.estimate_density
    z = torch.cat([torch.linalg.solve(root, x), x.new_tensor([guess])]).numpy()

    def of(weight: float) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
        def value(z: np.ndarray) -> tuple[float, np.ndarray]:
            with torch.enable_grad():
                theta = torch.tensor(z, requires_grad=True)
                x, log_density = root @ theta[:-1], theta[-1]
                total = weight * problem.misfit(x, log_density) + problem.believed(x, log_density)
                (slope,) = torch.autograd.grad(total, theta)
            if not free:
                slope[-1] = 0
            return float(total.detach()), slope.numpy()

        return value

    options = {"maxiter": STEPS, "maxfun": 2 * STEPS, "maxcor": 30, "ftol": 1e-7}
    cost, rest = math.inf, False
    for weight in weights:
        found = minimize(of(weight), z, jac=True, method="L-BFGS-B", options=options)
        z, cost, rest = found.x, float(found.fun), bool(found.success)
    theta = torch.tensor(z)
    return cost, root @ theta[:-1], theta[-1], rest


def _told(problem: _Problem, x: torch.Tensor, log_density: torch.Tensor) -> tuple[torch.Tensor, float, int]:
    """Predicted covariance of coefficients, density and sigma; chi^2 per degree of freedom, and their number."""
    size, weights = len(x), problem.weights
    held = precision(problem.prior, problem.model.object, x).double()
    rate = float(log_density.exp()) / problem.model.side**2
    seen = torch.tensordot(x.float(), problem.templates, 1)
    moments = rate * lags.template_moments(seen, problem.lags)
    slopes = rate * torch.cat([lags.template_slope(seen, some, problem.lags) for some in problem.templates.split(32)])
    by_density = moments[None].float() * problem.settings.estimate_density
    jacobian = weights * lags.central_slope(moments.float(), torch.cat([slopes, by_density]), problem.lags)
    normal = (jacobian @ jacobian.mT).double()
    prior = torch.block_diag(held, torch.full((1, 1), gmm.VAGUE**-2, dtype=torch.float64))
    inverse = torch.linalg.pinv(normal + prior, hermitian=True)
    used = int((weights > 0).sum())
    free = max(1, round(used - float((inverse @ normal).trace())))
    chi2 = 2 * float(problem.misfit(x, log_density)) / free
    slope = torch.zeros(size + 2, size + 1, dtype=torch.float64)
    slope[:size, :size] = torch.eye(size, dtype=torch.float64)
    slope[size, size] = float(log_density.exp()) * problem.settings.estimate_density
    covariance = slope @ inverse @ slope.mT
    if problem.settings.estimate_sigma:
        noise = float(problem.record.means[1]) - float(problem.predicted(x, log_density)[1])
        covariance[-1, -1] = float(problem.variance[1]) / (4 * max(noise, 1e-300))
    return covariance, chi2, free
