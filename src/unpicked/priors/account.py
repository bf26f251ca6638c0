"""How much of a map comes from the data and how much from the prior, shell by shell."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.objects.base import Object
from unpicked.ops import fourier, seeding, solve
from unpicked.priors.base import Both, Curved, Prior, Turnable

_TINY = 1e-12  # of the largest eigenvalue: what stands for zero, so that a flat direction has a finite variance


def precision(prior: Prior, object: Object, x: Float[torch.Tensor, " n"]) -> Float[torch.Tensor, "n n"]:
    """The Hessian of the prior's energy at x, ``(size, size)``, symmetric, float64.

    Of a quadratic prior it does not depend on x and is the inverse of the covariance; of another one it is the
    precision of the Gaussian that is closest at x. That of the last quadratic priors is kept: do not write to it.

    Raises:
        ValueError: if x is not ``(size,)``.
    """
    if tuple(x.shape) != (object.size,):
        raise ValueError(f"x must have shape ({object.size},); got {tuple(x.shape)}")
    if not prior.quadratic:
        if isinstance(prior, Both):
            return sum((precision(one, object, x) for one in prior.priors), x.new_zeros((), dtype=torch.float64))
        return _curvature(prior, object, x)
    for kept in _kept:
        if kept[0] is prior and kept[1] == object and kept[2].device == x.device:
            return kept[2]
    found = _curvature(prior, object, x)
    if object.size <= _KEPT:
        _kept.append((prior, object, found))
    return found


_KEPT = 2048  # coefficients of an object up to which it is
_kept: deque[tuple[Prior, Object, torch.Tensor]] = deque(maxlen=4)


def _curvature(prior: Prior, object: Object, x: torch.Tensor) -> torch.Tensor:
    """The prior's own, or that of automatic differentiation."""
    found = prior.curvature(x.detach().double(), object) if isinstance(prior, Curved) else None
    return _hessian(prior, object, x) if found is None else (found + found.mT) / 2


def _hessian(prior: Prior, object: Object, x: torch.Tensor) -> torch.Tensor:
    x = x.detach().double()
    prior.energy(x, object)  # makes the constants outside of any transform
    gradient = torch.func.grad(lambda y: prior.energy(y, object))
    pull = torch.func.vjp(gradient, x)[1]
    eye = torch.eye(object.size, dtype=x.dtype, device=x.device)
    hessian = torch.func.vmap(pull, chunk_size=256)(eye)[0]
    return (hessian + hessian.mT) / 2


def data_share(
    object: Object, information: Float[torch.Tensor, "n n"], prior_precision: Float[torch.Tensor, "n n"]
) -> tuple[float, ...]:
    """Per shell, d = 1 - (posterior variance) / (prior variance): 1 from the data alone, 0 from the prior alone.

    The prior's covariance is P^-1, the posterior's (I + P)^-1, and the variances are summed over the coefficients of
    :func:`unpicked.ops.fourier.fft3` of the map in the shell. Eigenvalues below 1e-12 of the largest stand for
    zero: a direction with no prior at all counts as infinitely uncertain, so its shell has d = 1 where the data see
    it.

    Args:
        object: a volume.
        information: I ``(size, size)``, the Fisher information of the data, symmetric and positive semi-definite.
        prior_precision: P ``(size, size)``, see :func:`precision`.

    Returns:
        d of the shells 0 .. (N - 1) // 2.

    Raises:
        ValueError: for matrices of another shape, not finite, or both zero; for an object that is not a volume.
    """
    _check_volume(object)
    check_square(object, information=information, prior_precision=prior_precision)
    prior = prior_precision.double()
    before, vectors_before = torch.linalg.eigh(prior)
    after, vectors_after = torch.linalg.eigh(prior + information.to(prior))
    floor = _TINY * torch.maximum(before.abs().max(), after.abs().max())
    if not float(floor) > 0:
        raise ValueError("information and prior_precision must not both be zero; got two zero matrices")
    spectrum = fourier.fft3(object.values(torch.eye(object.size, dtype=prior.dtype, device=prior.device)))
    basis = torch.view_as_real(spectrum).reshape(object.size, -1)
    total = [
        _shell_variance(basis, values.clamp(min=float(floor)), vectors, spectrum.shape[1:])
        for values, vectors in ((before, vectors_before), (after, vectors_after))
    ]
    share = 1 - total[1] / torch.where(total[0] > 0, total[0], 1.0)
    share = torch.where(total[0] > 0, share, 0.0).clamp(0, 1)
    return tuple(share.tolist())


def response_share(
    object: Object,
    x: Float[torch.Tensor, " n"],
    information: Float[torch.Tensor, "n n"] | Callable[[torch.Tensor], torch.Tensor],
    prior: Prior,
    *,
    probes: int = 32,
    seed: int = 0,
) -> tuple[float, ...]:
    """Per shell, the part of a small change in what the data say that comes through to the map: 1 data, 0 prior.

    To first order the answer moves by R z, R = (I + P)^-1 I, when the map that the data alone would give moves by z
    (averaging kernel: Rodgers 2000, section 2.4). The share of a shell is tr(S R) / tr(S), S the projection on it; both
    traces by random signs on the voxels (Hutchinson 1990), the same in both, so that an R that only filters by shell
    is told exactly. P is the Hessian of the energy at x, of a prior that is not quadratic its response there; that of
    a :class:`Denoiser` is made of differences, and taken as symmetric. Unlike :func:`data_share` this knows shells of
    which the prior leaves some directions free and holds others.

    Args:
        object: a volume.
        x: ``(size,)`` the estimate.
        information: I of the data, a matrix ``(size, size)``, or what multiplies a vector ``(size,)`` by it.
        prior: what was believed.
        probes: random maps; of a matrix they cost nothing beside P, else up to 100 products with I and P each.
        seed: of the random maps.

    Returns:
        Shares of the shells 0 .. (N - 1) // 2.

    Raises:
        ValueError: for an object that is not a volume, arrays of another shape or not finite, fewer than one probe, or
            where neither data nor prior determine the map.
    """
    _check_volume(object)
    if probes < 1:
        raise ValueError(f"probes must be at least 1; got {probes}")
    if tuple(x.shape) != (object.size,):
        raise ValueError(f"x must have shape ({object.size},); got {tuple(x.shape)}")
    x = x.detach().double()
    signs = torch.randint(0, 2, (probes, *object.shape), generator=seeding.generator(seed, "probes")) * 2.0 - 1
    white = object.fit(signs.to(x))
    if isinstance(information, torch.Tensor):
        check_square(object, information=information)
        told = information.to(x)
        found, flaw = torch.linalg.solve_ex(told + precision(prior, object, x), told @ white.mT)
        if bool(flaw) or not bool(torch.isfinite(found).all()):
            raise ValueError("information and prior must determine the map together; their sum is singular")
        through = found.mT
    else:
        through = torch.stack([_through(object, x, information, prior, one) for one in white])
    given, before, after = (fourier.fft3(v) for v in (signs.to(x), object.values(white), object.values(through)))
    sums = [fourier.shell_sum((given.conj() * seen).real.sum(0)) for seen in (before, after)]
    held = sums[0] > 1e-9 * float(sums[0].max())
    share = torch.where(held, sums[1] / torch.where(held, sums[0], 1.0), 0.0)
    return tuple(share.clamp(0, 1).tolist())


def _through(
    object: Object,
    x: torch.Tensor,
    information: Callable[[torch.Tensor], torch.Tensor],
    prior: Prior,
    white: torch.Tensor,
) -> Float[torch.Tensor, " n"]:
    """(I + P)^-1 I of one vector, by conjugate gradients."""
    prior.energy(x, object)  # makes the constants outside of any transform
    gradient = torch.func.grad(lambda y: prior.energy(y, object))
    pull = torch.func.vjp(gradient, x)[1]
    return solve.conjugate_gradients(
        lambda v: information(v) + pull(v)[0], information(white), torch.zeros_like(x), tolerance=1e-3, steps=100
    )


def expected_error(
    object: Object,
    x: Float[torch.Tensor, " n"],
    information: Float[torch.Tensor, "n n"],
    prior_precision: Float[torch.Tensor, "n n"],
    *,
    within: float | None = None,
) -> float:
    """Relative error that the posterior (I + P)^-1 leaves about the map x: the bound of van Trees (1968).

    A turn or a shift of the whole map is no error, see :func:`unmoved`.

    Args:
        object: what the coefficients mean.
        x: ``(size,)`` the truth, or an estimate.
        information: I ``(size, size)`` at x.
        prior_precision: P ``(size, size)``, see :func:`precision`.
        within: only values up to this distance of the centre count, in voxels; None means all.

    Raises:
        ValueError: for matrices of another shape or not finite, or where neither data nor prior determine the map.
    """
    basis, left = unmoved(object, x, within)
    spread = _posterior(object, information, prior_precision) @ left
    error = (spread * left).sum() / (x.detach().double() @ basis).square().sum()
    return float(error.clamp(min=0).sqrt())


def expected_fsc(
    object: Object,
    x: Float[torch.Tensor, " n"],
    information: Float[torch.Tensor, "n n"],
    prior_precision: Float[torch.Tensor, "n n"],
) -> tuple[float, ...]:
    """FSC with the truth x at best, shells 0 .. (N - 1) // 2: sqrt(1 - posterior variance / power of the truth).

    So it is of an estimate that is the posterior's mean: its power in a shell is the truth's less the variance, and so
    is its product with the truth. Arguments and errors as :func:`expected_error`.
    """
    covariance = _posterior(object, information, prior_precision)
    basis, left = (fourier.fft3(values.unflatten(1, object.shape)) for values in unmoved(object, x))
    flat = torch.view_as_real(left).flatten(1)
    variance = ((covariance @ flat) * flat).sum(0).reshape(*left.shape[1:], 2).sum(-1)
    power = torch.tensordot(x.detach().double().to(basis), basis, 1).abs().square()
    lost = fourier.shell_sum(variance) / fourier.shell_sum(power)
    return tuple((1 - lost).clamp(min=0).sqrt().tolist())


def unmoved(
    object: Object, x: Float[torch.Tensor, " n"], within: float | None = None
) -> tuple[Float[torch.Tensor, "n v"], Float[torch.Tensor, "n v"]]:
    """The values of all basis functions, and what is left of them once the whole map x may turn and shift at will.

    To first order, laying an estimate on x takes from its error whatever looks like a turn about, or a shift along, an
    axis. Objects that cannot be turned keep their turns.

    Args:
        object: what the coefficients mean.
        x: ``(size,)`` the map.
        within: values up to this distance of the centre, in voxels; None means all.

    Returns:
        Two matrices of a row per coefficient and a column per voxel, float64.
    """
    x = x.detach().double()
    basis = object.values(torch.eye(object.size, dtype=torch.float64, device=x.device)).flatten(1)
    values, moves, angle = object.values(x), list[torch.Tensor](), 1e-4
    if isinstance(object, Turnable):
        for first, second in ((1, 2), (2, 0), (0, 1)):
            spin = torch.zeros(3, 3, dtype=torch.float64)
            spin[first, second], spin[second, first] = -angle, angle
            turned = object.rotate(x, torch.linalg.matrix_exp(spin).to(x))
            moves.append((object.values(turned) - values).flatten() / angle)
    for axis, length in enumerate(object.shape):
        slope = torch.fft.fftfreq(length, dtype=torch.float64, device=x.device) * 2j * torch.pi
        spectrum = torch.fft.fft(values, dim=axis) * slope.reshape([-1] + [1] * (values.dim() - 1 - axis))
        moves.append(torch.fft.ifft(spectrum, dim=axis).real.flatten())
    reach = float("inf") if within is None else within
    seen = (fourier.distances(object.shape, device=x.device) <= reach).flatten()
    basis, free = basis[:, seen], torch.linalg.qr(torch.stack(moves, 1)[seen]).Q
    return basis, basis - (basis @ free) @ free.mT


def _posterior(
    object: Object, information: Float[torch.Tensor, "n n"], prior_precision: Float[torch.Tensor, "n n"]
) -> Float[torch.Tensor, "n n"]:
    """Covariance (I + P)^-1, float64."""
    check_square(object, information=information, prior_precision=prior_precision)
    covariance, flaw = torch.linalg.inv_ex(information.double() + prior_precision.double())
    if bool(flaw):
        raise ValueError("information and prior_precision must determine the map together; their sum is singular")
    return covariance


def _check_volume(object: Object) -> None:
    if len(object.shape) != 3:
        raise ValueError(f"object must be a volume, with values of shape (z, y, x); got {object.shape}")


def check_square(object: Object, **matrices: torch.Tensor) -> None:
    """Refuse matrices that are not ``(size, size)`` and finite."""
    square = (object.size, object.size)
    for name, matrix in matrices.items():
        if tuple(matrix.shape) != square:
            raise ValueError(f"{name} must have shape {square}; got {tuple(matrix.shape)}")
        if not bool(torch.isfinite(matrix).all()):
            raise ValueError(f"{name} must be finite; got NaN or infinity")


def _shell_variance(
    basis: torch.Tensor, values: torch.Tensor, vectors: torch.Tensor, shape: torch.Size
) -> Float[torch.Tensor, " k"]:
    """Sum over a shell of the variance of its coefficients, of a precision given by its eigenvalues and vectors."""
    white = (vectors.mT @ basis) / values.sqrt()[:, None]
    return fourier.shell_sum(white.square().sum(0).reshape(*shape, 2).sum(-1))
