"""EM's M-step: the object that best explains the weighted windows and the prior.

With numerators Q_r and weights D_r of all views it minimises
(sum_r <A_r x, D_r A_r x> - 2 <Q_r, A_r x>) / (2 sigma^2) + energy(x).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from unpicked._lazy import torch
from unpicked.model.gas import SCORED
from unpicked.model.likelihoods import Score
from unpicked.model.model import Model
from unpicked.model.placements import through_of, unfiltered
from unpicked.model.transfer import Transfer
from unpicked.model.views import Directed, Projection, View
from unpicked.objects.base import Object, Projector
from unpicked.ops import fourier, seeding, solve
from unpicked.priors import Prior, majorant, precision

DENSE = 1600  # coefficients up to which matrices are held
_DIRECT = 1 << 23  # numbers of all templates of all basis functions up to which M is held and factored
_BALANCING = 12  # steps of an M-step with a denoiser at most
_FILTERED = 64  # basis functions whose images are filtered at once
_VIEWS = 60  # of the preconditioner: the information of uniform views


class Problem:
    """One M-step, and what accelerations need of it.

    Attributes:
        object: what the coefficients mean.
        operator: all templates of coefficients, with adjoint.
    """

    def __init__(
        self,
        object: Object,
        operator: Projector,
        numerator: torch.Tensor,
        weight: torch.Tensor,
        variance: float | torch.Tensor,
        prior: Prior,
        tolerance: float = 1e-8,
        steps: int = 60,
        through: Transfer | None = None,
        law: View | None = None,
    ) -> None:
        self.object, self.operator, self.prior, self.through, self.law = object, operator, prior, through, law
        self.weight, self.variance = weight / variance, variance
        self.tolerance, self.steps = tolerance, steps
        self.right = operator.backproject(numerator / variance)
        self._normal = operator.normal(self.weight) if operator.normal is not None else None
        self.dense = object.size <= DENSE
        self._slope = torch.func.grad(lambda x: prior.energy(x, object))
        self._bound = majorant(prior)  # the prior itself, but for denoisers
        self._bound_slope = torch.func.grad(lambda x: self._bound.energy(x, object))

    def gradient(self, x: torch.Tensor) -> torch.Tensor:
        """Gradient of the objective at the x of the E-step (Fisher's identity), in log units."""
        return self.right - self._information(x) - self._slope(x)

    def maximise(self, start: torch.Tensor) -> torch.Tensor:
        """The answer; for a prior that is not quadratic by a few damped Newton steps."""
        self._at(start)
        if self.prior.quadratic:
            return self._cg(self.right, start)
        if self._bound is not self.prior:
            return self._balanced(start)
        x, value = start, self._value(start)
        for _ in range(12):
            self._at(x)
            step = self._cg(self.gradient(x), torch.zeros_like(x))
            length = 1.0
            while not (new := self._value(x + length * step)) >= value and length > 1e-3:
                length /= 2
            if not new > value:
                break
            gained, x, value = new - value, x + length * step, new
            if gained <= 1e-6:
                break
        return x

    def _balanced(self, x: torch.Tensor) -> torch.Tensor:
        """Where the gradients of data and prior cancel, by steps of the curvature that holds the prior's.

        For a denoiser x <- argmin of the data's misfit + strength |v - f(v_k)|^2 / 2 (the proximal gradient of Reehorst
        & Schniter 2019): no step asks for the energy, which a general denoiser does not have.
        """
        before = float("inf")
        for _ in range(_BALANCING):
            step = self._cg(self.gradient(x), torch.zeros_like(x), max(self.tolerance, 0.05))
            size = float(step.norm())
            x = x + (1.0 if size <= before else 0.5) * step
            if not size > 1e-5 * float(x.norm()):
                break
            before = size
            if not self._bound.quadratic:
                self._at(x)
        return x

    def solve(self, right: torch.Tensor) -> torch.Tensor:
        """M^-1 of a vector, M the complete-data information with the prior's."""
        return self._cg(right, torch.zeros_like(right))

    def newton(
        self, x: torch.Tensor, information: torch.Tensor, right: torch.Tensor, least: float = 0.05
    ) -> torch.Tensor:
        """(J + P)^-1 of a vector, J the observed information, held between ``least`` and all of the complete data's.

        J is a sum of outer products of not very many scores: some directions look less determined than they are. And
        where the views are too coarse for the data, their errors look like information.
        """
        self._at(x)
        complete = self._complete()
        if complete is not None:
            information = solve.between(information, complete, least)
        factor, flaw = torch.linalg.cholesky_ex(information + self.curvature)
        return self.solve(right) if bool(flaw) else torch.cholesky_solve(right[:, None], factor)[:, 0]

    def _complete(self) -> torch.Tensor | None:
        """Complete-data information as it would be for views spread by their law and whole templates."""
        if not self.dense or not isinstance(self.law, Directed):
            return None
        if self.through is None:
            copies = self.weight.mean((-2, -1)).sum()
        else:
            copies = self.weight[:, 0].sum() / self.through.mean.sum().to(self.weight)
        return copies * complete_information(self.object, self.law, self.curvature, self.through)

    def _at(self, x: torch.Tensor) -> None:
        """The prior's curvature at x."""
        if self.dense:
            self.curvature = precision(self._bound, self.object, x).to(x)
            for name in ("preconditioner", "direct"):
                self.__dict__.pop(name, None)
        self._centre = x

    def _curve(self, v: torch.Tensor) -> torch.Tensor:
        if self.dense:
            return self.curvature @ v
        if self._bound.quadratic:
            return self._bound_slope(v)
        pull = torch.func.vjp(self._bound_slope, self._centre)[1]  # the Hessian is symmetric
        return pull(v)[0]

    def _information(self, x: torch.Tensor) -> torch.Tensor:
        if self._normal is not None:
            return self._normal(x)
        return self.operator.backproject(self.weight * self.operator.project(x))

    def _value(self, x: torch.Tensor) -> torch.Tensor:
        return self.right.dot(x) - 0.5 * x.dot(self._information(x)) - self.prior.energy(x, self.object)

    @cached_property
    def preconditioner(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Inverse of M as it would be for uniform views and whole templates; of many voxels shell by shell."""
        if not self.dense and self.object.shape == (round(self.object.size ** (1 / 3)),) * 3:
            return self._by_shells()
        complete = self._complete()
        if complete is None:
            return None
        factor, flaw = torch.linalg.cholesky_ex(complete + self.curvature)
        if bool(flaw):
            return None
        return lambda v: torch.cholesky_solve(v[:, None], factor)[:, 0]

    def _by_shells(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Inverse of the mean of M's diagonal in every shell of Fourier space, as a random vector shows it."""
        shape, like = self.object.shape, self.right
        probe = torch.randn(shape, generator=seeding.generator(0, "probe"), dtype=torch.float64).to(like)
        image = self._information(self.object.fit(probe)) + self._curve(self.object.fit(probe))
        seen, given = (fourier.fft3(values) for values in (self.object.values(image), probe))
        shells = fourier.shells(shape, device=like.device)
        sums = like.new_zeros(2, int(shells.max()) + 1)
        for row, values in zip(sums, ((given.conj() * seen).real, given.abs().square()), strict=True):
            row.index_add_(0, shells.flatten(), values.flatten())
        means = sums[0] / sums[1]
        inverse = 1 / means.clamp(min=1e-6 * float(means.max()))[shells]

        def apply(v: torch.Tensor) -> torch.Tensor:
            return self.object.fit(fourier.ifft3(fourier.fft3(self.object.values(v)) * inverse))

        return apply

    @cached_property
    def direct(self) -> torch.Tensor | None:
        """Cholesky factor of M, where the object is that of a signal or a small image."""
        if hasattr(self.object, "projector") or self.weight.numel() * self.object.size > _DIRECT:
            return None
        eye = torch.eye(self.object.size, dtype=self.right.dtype, device=self.right.device)
        seen = self.operator.project(eye).flatten(1)
        factor, flaw = torch.linalg.cholesky_ex((seen * self.weight.flatten()) @ seen.mT + self.curvature)
        return None if bool(flaw) else factor

    def _cg(self, right: torch.Tensor, start: torch.Tensor, tolerance: float | None = None) -> torch.Tensor:
        if self.direct is not None:
            return torch.cholesky_solve(right[:, None], self.direct)[:, 0]
        return solve.conjugate_gradients(
            lambda v: self._information(v) + self._curve(v),
            right,
            start,
            tolerance=self.tolerance if tolerance is None else tolerance,
            steps=self.steps,
            precondition=self.preconditioner,
        )


def score(model: Model, x: torch.Tensor, *, views: bool = False) -> Score:
    """What makes scores of weighted windows and weights (``Scene.score``), at the coefficients x and in their dtype.

    With ``views`` those of the coefficients of the density of directions follow.
    """
    placement, through = model.placement, through_of(model.placement)
    operator = unfiltered(placement).seen(model.view, model.object, x)
    images, variance = operator.project(x), model.variance(x)
    dense = _basis(model, operator, x) if images.numel() * len(x) <= _BASIS else None
    as_seen: dict[int, torch.Tensor] = {}  # by the last micrograph's filter
    law = model.view.scores.to(x) if views and isinstance(model.view, Projection) else None
    size = len(x) + (0 if law is None else law.shape[1])

    def scored(numerators: torch.Tensor, weights: torch.Tensor, filter: int = 0) -> torch.Tensor:
        if not len(numerators):  # transforms of nothing fail
            return x.new_zeros(0, size)
        if filter not in as_seen:
            as_seen.clear()
            as_seen[filter] = images if through is None else through.weighted(images, through.squares[filter])
        weights, expected = weights.to(images), as_seen[filter]
        residuals = numerators.to(images) - (weights if weights.dim() > 2 else weights[..., None, None]) * expected
        found: torch.Tensor = operator.backproject(residuals) if dense is None else residuals.flatten(1) @ dense
        if law is None:
            return found / variance
        counts = weights if weights.dim() == 2 else weights.flatten(2).amax(2)
        return torch.cat([found / variance, counts.unflatten(1, (len(law), -1)).sum(2) @ law], 1)

    return scored


_BASIS = 1 << 27  # numbers of all templates of all basis functions that are held
SCORING_MEMORY = 4 * (2 * _BASIS + 5 * SCORED)  # bytes of work space for scores, about


def _basis(model: Model, operator: Projector, x: torch.Tensor) -> torch.Tensor:
    """``(k L L, size)`` templates of all basis functions; those of the last views are held for the next batch."""
    key = (model.object, model.view.digest, model.placement.positions, x.dtype, str(x.device))
    if key not in _last:
        _last.clear()
        _last[key] = operator.project(torch.eye(len(x), dtype=x.dtype, device=x.device)).flatten(1).mT
    return _last[key]


_held: dict[Any, torch.Tensor] = {}
_last: dict[Any, torch.Tensor] = {}


def complete_information(
    object: Any, law: Directed, like: torch.Tensor, through: Transfer | None = None
) -> torch.Tensor:
    """Mean over the views of a law and all filters of A^T h^2 A, ``(size, size)``, in dtype and on device of ``like``.

    A density of directions is left out.
    """
    views = law.spread(_VIEWS).rotations.to(like)
    key = (object, views.cpu().numpy().tobytes(), like.dtype, str(like.device), through)
    if key not in _held:
        eye = torch.eye(object.size, dtype=like.dtype, device=like.device)
        seen = object.projector(views).project(eye)
        _held.clear()
        if through is None:
            _held[key] = seen.flatten(1) @ seen.flatten(1).mT / _VIEWS
        else:  # their coefficients are several times as many as their pixels: some functions at a time
            parts = (through.weighted(some, through.mean).flatten(1) for some in seen.split(_FILTERED))
            _held[key] = torch.cat([seen.flatten(1) @ some.mT for some in parts], 1) / _VIEWS
    return _held[key]
