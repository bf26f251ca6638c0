"""The fit of a one-dimensional model to measured moments: no data are needed any more.

Minimised is n (m - f)^T C^-1 (m - f) / 2 + energy of the prior over the coefficients, the logarithm of the density of
each kind, sigma^2, and, for copies at arbitrary distances, the law of the distance to the next copy.
"""

from __future__ import annotations

import math
from dataclasses import replace

from unpicked._lazy import torch
from unpicked.data.moments import Moments
from unpicked.estimators import gmm, signal_unknowns
from unpicked.estimators.gmm import Fit, Form, Settings
from unpicked.estimators.signal_unknowns import SignalUnknowns
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.ops import least_squares, moments, seeding
from unpicked.priors import Prior

LARGE_SHARE = 0.05  # variance of the signal over sigma^2, likewise
LARGE_ENERGY = 3.0  # energy of a copy over sigma^2, beyond which the noise alone does not make the error bars


def kind(model: Model, settings: Settings) -> str:
    """What is summed, in words."""
    return f"signal, L = {model.side}, background {model.noise.mean:g}"


def sizes(model: Model, settings: Settings) -> tuple[int, int]:
    """Number of sums, and of the first ones whose covariance is wanted."""
    return (1 + moments.count(model.side),) * 2


def sums(model: Model, settings: Settings, y: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Sums of a signal, what tells their scatter, and the number of blocks."""
    rows = moments.lag_sums(y, model.side, block=block)
    return gmm.summed(rows, rows.shape[1])


def fit(
    record: Moments,
    model: Model,
    settings: Settings,
    prior: Prior,
    seed: int,
    start: torch.Tensor | None = None,
) -> Fit:
    """Fit a model to moments.

    From random starts: targets of 2 L - 1 samples to the unbiased entries with published weights, the best window of
    L, again with L samples, then all entries with the covariance of the noise (Bendory et al., arXiv 1810.00226, and
    beyond). With marching, from the lowest frequencies to all of them.

    Args:
        record: moments of a signal.
        model: object, views, placement and noise; starting values, or known ones.
        settings: see :class:`Settings`.
        prior: belief about the object; its energy must be quadratic.
        seed: of the random starts.
        start: ``(size,)`` coefficients to begin from instead.

    Raises:
        ValueError: for moments of another length, empty moments, or a prior that is not quadratic.
    """
    if record.length != model.side:
        raise ValueError(f"moments are of windows of {record.length} samples, the model of {model.side}")
    if not record.points > 0:
        raise ValueError("the moments hold no base point; the signal must be longer than the target")
    below = gmm.precision_root(prior, model)
    if settings.weights == "published":  # its entries know nothing of the noise
        level = math.sqrt(max(float(moments.cumulants(record.means, record.length)[1]), 1e-300))
        settings = replace(settings, estimate_sigma=False, form="raw")
        model = replace(model, noise=White(level, model.noise.mean))
    unknowns = signal_unknowns.unknowns(model, settings)
    target = record.means if settings.form == "raw" else moments.cumulants(record.means, record.length)
    first = _first(record, model, unknowns, settings, seed, start)
    if settings.weights == "published":
        published = _published(record)
        found = gmm.descend(unknowns, target, published, settings, first)
        best = int(found.cost.argmin())
        noise = _noise_covariance(record, unknowns, settings, found.theta[best])
        clean = unknowns.predict(found.theta[best])[1] - level**2
        answer = gmm.told(unknowns, found, best, target, published, noise, record, settings)
        return answer._replace(sigma=(record.means[1] - clean).clamp(min=0).sqrt())
    sigma = model.noise.sigma if unknowns.sigma is not None else math.sqrt(max(float(target[1]), 1e-300))
    white = _whitener(moments.noise_covariance(record.length, sigma, settings.form), record.points, settings.form)
    if settings.marching and start is None:
        found = _march(unknowns, target, white, below, settings, first)
    else:
        found = gmm.descend(unknowns, target, white, settings, first, below)

    def weights(theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        noise = _noise_covariance(record, unknowns, settings, theta)
        return _whitener(noise, record.points, settings.form), noise

    answer, theta, white = gmm.reweighted(unknowns, found, target, weights, record, settings, below)
    if not settings.average:
        return answer
    return gmm.averaged(unknowns, theta, answer, target, white, below, seed)


def cost(record: Moments, model: Model, settings: Settings, prior: Prior, x: torch.Tensor) -> float:
    """What :func:`fit` minimises, for coefficients ``(size,)`` and the density and noise of the model."""
    unknowns = signal_unknowns.unknowns(model, replace(settings, estimate_density=False, estimate_sigma=False))
    theta = gmm.pack(unknowns, x.double().cpu()[None], unknowns.guess.exp(), model.noise.sigma)
    target = record.means if unknowns.form == "raw" else moments.cumulants(record.means, record.length)
    if settings.weights == "published":
        white = _published(record)
    else:
        white = _whitener(_noise_covariance(record, unknowns, settings, theta[0]), record.points, settings.form)
    r, _ = gmm.residuals(unknowns, target, white, gmm.precision_root(prior, model))(theta)
    return 0.5 * float(r.square().sum())


def expected_errors(record: Moments, model: Model, settings: Settings, x: torch.Tensor) -> torch.Tensor:
    """Covariance of the estimate where copies of x are: (n J^T C^-1 J)^-1 of x, densities and sigma, ``(p, p)``.

    C is that of the weights that ``settings`` ask for; ``long-run`` gives the optimal ones at any signal. Divided by
    the Cramer-Rao bound, its trace says what is lost by looking at moments only.

    Args:
        record: moments of a long signal: its length, and the covariance of its blocks.
        model: with the true density and noise.
        settings: what is unknown, and the weights.
        x: ``(size,)`` true coefficients.
    """
    unknowns = signal_unknowns.unknowns(model, settings)
    kinds = torch.zeros(unknowns.kinds_count, dtype=torch.float64)
    kinds = kinds.index_add(0, unknowns.kinds, model.log_weights.double().cpu().exp()) * model.placement.density
    theta = gmm.pack(unknowns, x.double().cpu()[None], kinds, model.noise.sigma)[0]
    white = _whitener(_noise_covariance(record, unknowns, settings, theta), record.points, settings.form)
    _, jacobian = (part[0] for part in gmm.residuals(unknowns, record.means, white, None)(theta[None]))
    _, log_density, variance, _ = gmm.unpack(unknowns, theta)
    return gmm.errors(unknowns, torch.linalg.inv(jacobian.mT @ jacobian), log_density, variance)


def _first(
    record: Moments,
    model: Model,
    unknowns: SignalUnknowns,
    settings: Settings,
    seed: int,
    start: torch.Tensor | None,
) -> torch.Tensor:
    """Starts: given, from long targets, or at random."""
    shares = unknowns.kinds_count * [model.placement.density / unknowns.kinds_count]
    density = torch.tensor(shares, dtype=torch.float64)
    sigma = math.sqrt(max(float(moments.cumulants(record.means, record.length)[1]), 1e-300))
    if start is not None:
        return gmm.pack(unknowns, start.detach().double().cpu()[None], density, sigma)
    generator = seeding.generator(seed, "moment starts")
    identity = torch.equal(unknowns.operator[0], torch.eye(unknowns.length, unknowns.size, dtype=torch.float64))
    alone = len(unknowns.kinds) == 1 and identity and not unknowns.near
    x = torch.randn(settings.starts, unknowns.size, generator=generator, dtype=torch.float64)
    if alone and settings.form == "raw" and not settings.marching and unknowns.length > 1 and unknowns.density is None:
        return _long_targets(record, unknowns, settings, generator, sigma)
    return _scaled(record, unknowns, gmm.pack(unknowns, x, density, sigma))


def _scaled(record: Moments, unknowns: SignalUnknowns, theta: torch.Tensor) -> torch.Tensor:
    """Starts whose second moments beside lag 0 are as large as the measured ones."""
    length = record.length
    second = slice(2, 1 + length) if length > 1 else slice(1, 2)
    measured = moments.cumulants(record.means, length)[second].norm()
    clean = unknowns.predict(theta)
    expected = clean[..., second].norm(dim=-1).clamp(min=1e-300)
    theta = theta.clone()
    theta[:, : unknowns.size] *= (measured / expected).sqrt()[:, None]
    return theta


def _long_targets(
    record: Moments, unknowns: SignalUnknowns, settings: Settings, generator: torch.Generator, sigma: float
) -> torch.Tensor:
    """Fit of targets of 2 L - 1 samples, then of the cyclic window of L that suits best."""
    length = record.length
    size = 2 * length - 1
    white = _published(record)
    short = replace(unknowns, sigma=sigma)
    wide = replace(short, operator=torch.eye(size, dtype=torch.float64)[None])
    x = torch.randn(settings.starts, size, generator=generator, dtype=torch.float64)
    theta = gmm.pack(wide, x, torch.tensor([0.1 * length / size], dtype=torch.float64), sigma)
    found = gmm.descend(wide, record.means, white, settings.coarse, _scaled(record, wide, theta))
    turns = (torch.arange(length) + torch.arange(size)[:, None]) % size
    windows = found.theta[:, :size][:, turns]  # (s, 2 L - 1, L)
    density = found.theta[:, None, size:].expand(-1, size, -1)
    tried = torch.cat([windows, density], -1)
    residuals = torch.stack([(short.predict(rows) - record.means) @ white.mT for rows in tried])  # bit by bit: memory
    chosen = tried[torch.arange(len(tried)), residuals.square().sum(-1).argmin(-1)]
    found = gmm.descend(short, record.means, white, settings.coarse, chosen)
    extra = [found.theta[:, : length + 1]]
    if unknowns.sigma is None:
        extra.append(torch.full((len(chosen), 1), sigma**2, dtype=torch.float64))
    return torch.cat(extra, -1)


def _march(
    unknowns: SignalUnknowns,
    target: torch.Tensor,
    white: torch.Tensor,
    root: torch.Tensor,
    settings: Settings,
    theta: torch.Tensor,
) -> least_squares.Minimum:
    """Fits of the lowest frequencies first; each begins where the last one ended."""
    basis = _waves(unknowns)
    x = theta[:, : unknowns.size] @ basis
    rest = theta[:, unknowns.size :]
    found = None
    for kept in range(3, basis.shape[1] + 1, 2):
        part = basis[:, :kept]
        limited = replace(unknowns, operator=torch.einsum("knp,pq->knq", unknowns.operator, part))
        if found is None:
            begin = torch.cat([x[:, :kept], rest], -1)
        else:
            before = found.theta
            fresh = torch.zeros(len(x), 2, dtype=x.dtype)
            begin = torch.cat([before[:, : kept - 2], fresh, before[:, kept - 2 :]], -1)
        found = gmm.descend(limited, target, white, settings.coarse, begin, root @ part)
    if found is None:
        return gmm.descend(unknowns, target, white, settings, theta, root)
    size = found.theta.shape[1] - rest.shape[1]
    whole = torch.cat([found.theta[:, :size] @ basis[:, :size].mT, found.theta[:, size:]], -1)
    return gmm.descend(unknowns, target, white, settings, whole, root)


def _waves(unknowns: SignalUnknowns) -> torch.Tensor:
    """Orthonormal waves over the samples of the object, low frequencies first, those of all kinds side by side."""
    count = unknowns.kinds_count
    length = unknowns.size // count
    place = torch.arange(length, dtype=torch.float64) * (2 * math.pi / length)
    columns = [torch.full((length,), 1 / math.sqrt(length), dtype=torch.float64)]
    for wave in range(1, length // 2 + 1):
        columns.append(torch.cos(wave * place))
        if 2 * wave < length:
            columns.append(torch.sin(wave * place))
    one = torch.stack([column / column.norm() for column in columns], 1)
    if count == 1:
        return one
    return torch.stack([torch.block_diag(*[one[:, [n]]] * count) for n in range(length)], 1).flatten(1)


def _published(record: Moments) -> torch.Tensor:
    """Published weights, on the scale of the first moment's error: the other entries are left out."""
    sigma2 = max(float(moments.cumulants(record.means, record.length)[1]), 1e-300)
    weights = moments.published_weights(record.length) * (record.points / sigma2)
    return weights.sqrt().diag()[weights > 0]


def _whitener(covariance: torch.Tensor, points: float, form: Form) -> torch.Tensor:
    """W with W^T W = n C^-1; of cumulants without the mean, which holds an unknown offset."""
    if form == "raw":
        return gmm.whitener(covariance, points)
    return torch.nn.functional.pad(gmm.whitener(covariance[1:, 1:], points), (1, 0))


def _noise_covariance(
    record: Moments, unknowns: SignalUnknowns, settings: Settings, theta: torch.Tensor
) -> torch.Tensor:
    """Covariance of the moments at the estimate: of the noise alone, or of the blocks where they say more."""
    x, log_density, variance, _ = gmm.unpack(unknowns, theta)
    total = float(moments.cumulants(record.means, record.length)[1])
    sigma2 = min(max(float(variance), 1e-3 * total), total)
    analytic = moments.noise_covariance(record.length, math.sqrt(sigma2), settings.form)
    power = float(torch.einsum("knp,p->kn", unknowns.operator, x).square().sum(-1).mean())
    enough = record.blocks / len(analytic)
    share = float(log_density.exp().sum()) * power / record.length / sigma2
    wanted = enough >= 40 or (enough >= 10 and (power > LARGE_ENERGY * sigma2 or share > LARGE_SHARE))
    if record.squares.dim() == 1 or not (settings.weights == "long-run" or (settings.weights == "auto" and wanted)):
        return analytic
    if record.blocks < 2:
        return analytic
    measured = record.covariance()
    if settings.form == "cumulant":
        slope = moments.cumulant_slope(record.means, record.length)
        measured = slope @ measured @ slope.mT
    keep = min(1.0, enough / 10)  # of the measured one
    return keep * measured + (1 - keep) * analytic
