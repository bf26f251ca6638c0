"""Generalised method of moments: what the fits of signals and of images share.

Minimised is n (m - f)^T C^-1 (m - f) / 2 + energy of the prior over the unknowns: coefficients, the logarithm of the
density of each kind, sigma^2, and whatever else a model has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

from unpicked._lazy import torch
from unpicked.data.moments import Moments
from unpicked.model.model import Model
from unpicked.ops import hamiltonian, least_squares, seeding
from unpicked.priors import Flat, Prior, precision

Form = Literal["raw", "cumulant"]
Weights = Literal["auto", "analytic", "long-run", "published"]
FULL = 1024  # moments of which the whole covariance of the blocks is summed
VAGUE = 3.0  # standard deviation of what is believed of a log-density: it keeps fits from running away


@dataclass(frozen=True)
class Settings:
    """How to fit; see :class:`unpicked.estimators.autocorrelation.Autocorrelation`."""

    starts: int = 10
    form: Form = "raw"
    weights: Weights = "auto"
    estimate_sigma: bool = True
    estimate_density: bool = True
    marching: bool = False
    average: bool = True
    steps: int = 300
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        if self.starts < 1:
            raise ValueError(f"starts must be at least 1; got {self.starts}")
        if self.form not in ("raw", "cumulant"):
            raise ValueError(f"form must be raw or cumulant; got {self.form!r}")
        if self.weights not in ("auto", "analytic", "long-run", "published"):
            raise ValueError(f"weights must be auto, analytic, long-run or published; got {self.weights!r}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1; got {self.steps}")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1; got {self.tolerance}")

    @property
    def coarse(self) -> Settings:
        """For what is only on the way: fewer steps, and no last digits."""
        return replace(self, steps=min(self.steps, 80), tolerance=max(self.tolerance, 1e-4))


class Fit(NamedTuple):
    """What a fit found.

    Attributes:
        x: ``(size,)`` coefficients.
        density: ``(kinds,)`` covered fraction of each kind.
        sigma: noise level.
        near: ``(L - 1,)`` chances of the distances L .. 2 L - 2; of images the pair density over rate x rate at the
            knots of :mod:`unpicked.model.near_images`; or empty.
        covariance: predicted covariance of x, density and sigma, in this order.
        cost: half of chi^2, and the prior's energy.
        chi2: per degree of freedom.
        converged: whether the optimiser came to rest, on a fit that agrees with the data within their errors.
        costs: of all starts.
    """

    x: torch.Tensor
    density: torch.Tensor
    sigma: torch.Tensor
    near: torch.Tensor
    covariance: torch.Tensor
    cost: float
    chi2: float
    converged: bool
    costs: torch.Tensor


class Unknowns(Protocol):
    """The parameters of a fit, in one vector theta."""

    @property
    def size(self) -> int:
        """Number of coefficients; they come first."""

    @property
    def count(self) -> int:
        """Number of unknowns."""

    @property
    def kinds_count(self) -> int:
        """Number of kinds."""

    @property
    def density(self) -> torch.Tensor | None:
        """Known log-densities, or None; then they stand behind the coefficients."""

    @property
    def sigma(self) -> float | None:
        """Known noise level, or None; then sigma^2 stands behind the densities."""

    @property
    def near(self) -> bool:
        """Whether logits of the distances stand at the end."""

    @property
    def guess(self) -> torch.Tensor:
        """``(kinds,)`` log-densities that are vaguely believed."""

    def slope(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Moments ``(s, m)`` of unknowns ``(s, count)``, and their exact Jacobian ``(s, m, count)``."""

    def pull(self, theta: torch.Tensor) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """Moments, and the product of weights ``(s, m)`` with the Jacobian, ``(s, count)``."""


def summed(rows: torch.Tensor, wanted: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Sums over blocks ``(blocks, 1 + s)``, what tells the scatter of the first ``wanted``, and the blocks that count.

    That is the sum of outer products, or where these would be many that of squares.
    """
    kept = rows[:, :wanted]
    squares = kept.mT @ kept if wanted <= FULL else kept.square().sum(0)
    return rows.sum(0), squares, int((rows[:, 0] > 0).sum())


def pack(
    unknowns: Unknowns, x: torch.Tensor, density: torch.Tensor, sigma: float, near: torch.Tensor | None = None
) -> torch.Tensor:
    """Unknowns ``(s, count)`` from their values; rows of x are the starts. The rest is zero, or ``near``."""
    parts = [x]
    if unknowns.density is None:
        parts.append(density.log().expand(len(x), -1))
    if unknowns.sigma is None:
        parts.append(x.new_full((len(x), 1), sigma**2))
    others = unknowns.count - sum(part.shape[-1] for part in parts)
    parts.append((x.new_zeros(others) if near is None or not others else logits(near)).expand(len(x), -1))
    return torch.cat(parts, -1)


def unpack(unknowns: Unknowns, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coefficients, log-densities ``(s, kinds)``, sigma^2 ``(s, 1)`` and the rest: of distances, if any."""
    x, rest = theta[..., : unknowns.size], theta[..., unknowns.size :]
    if unknowns.density is None:
        log_density, rest = rest[..., : unknowns.kinds_count], rest[..., unknowns.kinds_count :]
    else:
        log_density = unknowns.density.expand(*theta.shape[:-1], -1)
    if unknowns.sigma is None:
        variance, rest = rest[..., :1], rest[..., 1:]
    else:
        variance = torch.full_like(theta[..., :1], unknowns.sigma**2)
    return x, log_density, variance, rest


def descend(
    unknowns: Unknowns,
    target: torch.Tensor,
    white: torch.Tensor,
    settings: Settings,
    theta: torch.Tensor,
    root: torch.Tensor | None = None,
) -> least_squares.Minimum:
    """Minimise the whitened misfit from every row of theta."""
    return least_squares.levenberg_marquardt(
        residuals(unknowns, target, white, root), theta, steps=settings.steps, tolerance=settings.tolerance
    )


def residuals(
    unknowns: Unknowns, target: torch.Tensor, white: torch.Tensor, root: torch.Tensor | None
) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Whitened misfit and its Jacobian; the prior's rows below."""

    def both(theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, jacobian = unknowns.slope(theta)
        r, slope = (values - target) @ white.mT, white @ jacobian
        if root is None:
            return r, slope
        below, centre = _beliefs(unknowns, root)
        beside = (theta - centre) @ below.mT
        return torch.cat([r, beside], -1), torch.cat([slope, below.expand(len(theta), -1, -1)], -2)

    return both


def precision_root(prior: Prior, model: Model) -> torch.Tensor:
    """R with R^T R the prior's precision, ``(rank, size)``.

    Raises:
        ValueError: for a prior that is not quadratic.
    """
    if not prior.quadratic:
        raise ValueError(f"the moment fit takes priors of quadratic energy; got {prior!r}; try Ridge or Smooth")
    size = model.object.size
    if isinstance(prior, Flat):
        return torch.zeros(0, size, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(precision(prior, model.object, torch.zeros(size, dtype=torch.float64)))
    kept = values > 1e-14 * values[-1]
    return values[kept].sqrt()[:, None] * vectors[:, kept].mT


def whitener(covariance: torch.Tensor, points: float) -> torch.Tensor:
    """W with W^T W = n C^-1."""
    scale = covariance.diagonal().sqrt()
    factor = torch.linalg.cholesky(covariance / torch.outer(scale, scale))
    eye = torch.eye(len(scale), dtype=covariance.dtype)
    return torch.linalg.solve_triangular(factor, eye, upper=False) / scale * math.sqrt(points)


def reweighted(
    unknowns: Unknowns,
    found: least_squares.Minimum,
    target: torch.Tensor,
    weights: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    record: Moments,
    settings: Settings,
    root: torch.Tensor,
) -> tuple[Fit, torch.Tensor, torch.Tensor]:
    """Two more fits from the best one, with the weights and the noise that ``weights`` gives at the estimate.

    Returns:
        The answer, its unknowns, and the last weights.
    """
    theta, costs = found.theta[int(found.cost.argmin())], found.cost
    for _ in range(2):
        white, noise = weights(theta)
        found = descend(unknowns, target, white, settings, theta[None], root)
        theta = found.theta[0]
    answer = told(unknowns, found, 0, target, white, noise, record, settings, root)
    return answer._replace(costs=costs), theta, white


def told(
    unknowns: Unknowns,
    found: least_squares.Minimum,
    best: int,
    target: torch.Tensor,
    white: torch.Tensor,
    noise: torch.Tensor,
    record: Moments,
    settings: Settings,
    root: torch.Tensor | None = None,
) -> Fit:
    """The answer with its predicted errors: those of the weights that were used, under the noise as it is."""
    theta = found.theta[best]
    r, jacobian = (part[0] for part in residuals(unknowns, target, white, root)(theta[None]))
    normal = jacobian.mT @ jacobian
    inverse = torch.linalg.pinv(normal, hermitian=True)
    rows = white.shape[0]
    # pairs of weights and noise: C^-1/2 C C^-1/2 is the identity for optimal weights
    middle = white @ noise @ white.mT / record.points
    data = jacobian[:rows].mT @ middle @ jacobian[:rows] + jacobian[rows:].mT @ jacobian[rows:]
    covariance = inverse @ data @ inverse
    x, log_density, variance, logits = unpack(unknowns, theta)
    left = (inverse @ (jacobian[:rows].mT @ middle @ jacobian[:rows])).trace()
    chi2 = float(r[:rows].square().sum() / (middle.trace() - left).clamp(min=1e-300))
    moves = math.sqrt(2 / max(1, rows - unknowns.count))
    optimal = settings.weights != "published"
    return Fit(
        x=x,
        density=log_density.exp(),
        sigma=variance.clamp(min=0).sqrt()[0],
        near=chances(logits) if unknowns.near else x.new_zeros(0),
        covariance=errors(unknowns, covariance, log_density, variance),
        cost=float(found.cost[best]),
        chi2=chi2,
        converged=bool(found.converged[best]) and (not optimal or chi2 < 1 + 5 * moves),
        costs=found.cost,
    )


def averaged(
    unknowns: Unknowns,
    theta: torch.Tensor,
    told: Fit,
    target: torch.Tensor,
    white: torch.Tensor,
    root: torch.Tensor,
    seed: int,
) -> Fit:
    """Mean and covariance under the density exp(-cost) instead of its mode: Laplace-type estimation.

    Where the cost is not quadratic within the errors, the mean has the smaller expected error, and the spread is the
    error that the linearised fit understates (Chernozhukov & Hong, J. Econometrics 115, 293, 2003).
    """
    below, centre = _beliefs(unknowns, root)
    whitened = white.mT @ white

    def energy(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, pull = unknowns.pull(points)
        misfit = values - target
        pulled, prior = misfit @ whitened, (points - centre) @ below.mT
        gradient = pull(pulled) + prior @ below
        return 0.5 * (pulled * misfit).sum(-1) + 0.5 * prior.square().sum(-1), gradient

    _, jacobian = (part[0] for part in residuals(unknowns, target, white, root)(theta[None]))
    values, vectors = torch.linalg.eigh(jacobian.mT @ jacobian)
    factor = vectors / values.clamp(min=1e-9 * values[-1]).sqrt()
    drawn = hamiltonian.draws(energy, theta, factor, seeding.generator(seed, "moment average")).flatten(0, 1)
    x, log_density, variance, logits = unpack(unknowns, drawn)
    density, sigma = log_density.exp(), variance.clamp(min=0).sqrt()
    together = torch.cat([x, density, sigma], -1)
    return told._replace(
        x=x.mean(0),
        density=density.mean(0),
        sigma=sigma.mean(),
        near=chances(logits).mean(0) if unknowns.near else told.near,
        covariance=torch.cov(together.mT, correction=1),
    )


def _beliefs(unknowns: Unknowns, root: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the prior and of what is vaguely believed of the densities, and the unknowns at which they vanish."""
    kinds = len(unknowns.guess) if unknowns.density is None else 0
    rows = root.new_zeros(root.shape[0] + kinds, unknowns.count)
    rows[: root.shape[0], : unknowns.size] = root
    centre = root.new_zeros(unknowns.count)
    if kinds:
        at = slice(unknowns.size, unknowns.size + kinds)
        rows[root.shape[0] :, at] = torch.eye(kinds, dtype=root.dtype) / VAGUE
        centre[at] = unknowns.guess
    return rows, centre


def errors(
    unknowns: Unknowns, covariance: torch.Tensor, log_density: torch.Tensor, variance: torch.Tensor
) -> torch.Tensor:
    """Covariance of (x, densities, sigma) from that of the unknowns; zero where something is known."""
    kinds, size = unknowns.kinds_count, unknowns.size
    slope = covariance.new_zeros(size + kinds + 1, unknowns.count)
    slope[:size, :size] = torch.eye(size, dtype=covariance.dtype)
    at = size
    if unknowns.density is None:
        slope[size : size + kinds, at : at + kinds] = log_density.exp().diag()
        at += kinds
    if unknowns.sigma is None:
        slope[size + kinds, at] = 0.5 / variance.clamp(min=1e-300).sqrt()[0]
    return slope @ covariance @ slope.mT


def chances(logits: torch.Tensor) -> torch.Tensor:
    """Probabilities that sum to less than 1: the last category, logit 0, is a distance of 2 L - 1 or more."""
    padded = torch.nn.functional.pad(logits, (0, 1))
    return padded.softmax(-1)[..., :-1]


def logits(chances: torch.Tensor) -> torch.Tensor:
    """What :func:`chances` makes these chances of."""
    return (chances.clamp(min=1e-9) / (1 - chances.sum(-1, keepdim=True)).clamp(min=1e-9)).log()
