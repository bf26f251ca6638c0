"""The parameters of a fit to the moments of a signal, and the moments that they predict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from unpicked._lazy import torch
from unpicked.estimators import gmm
from unpicked.estimators.gmm import Form, Settings
from unpicked.model import expected_moments
from unpicked.model.model import Model
from unpicked.model.views import OfClasses
from unpicked.ops import moments


@dataclass(frozen=True, eq=False)
class SignalUnknowns:
    """The parameters of a fit: coefficients in a basis, log-densities, sigma^2 and the logits of the distances.

    Attributes:
        operator: ``(k, n, p)`` from the p first unknowns to k templates.
        kinds: ``(k,)`` kind of each template.
        shares: ``(k,)`` probability of each within its kind.
        length: L of the lags.
        density: ``(kinds,)`` known log-densities, or None.
        sigma: known noise level, or None.
        near: whether distances below 2 L - 1 occur.
        form: of the moments that are compared.
        guess: ``(kinds,)`` log-densities that are vaguely believed.
    """

    operator: torch.Tensor
    kinds: torch.Tensor
    shares: torch.Tensor
    length: int
    density: torch.Tensor | None
    sigma: float | None
    near: bool
    form: Form
    guess: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return self.operator.shape[-1]

    @property
    def count(self) -> int:
        """Number of unknowns."""
        rates = 0 if self.density is not None else self.kinds_count
        return self.size + rates + (self.sigma is None) + (self.length - 1 if self.near else 0)

    @property
    def kinds_count(self) -> int:
        """Number of kinds."""
        return int(self.kinds.max()) + 1

    def predict(self, theta: torch.Tensor) -> torch.Tensor:
        """Moments ``(..., m)`` in the form that is compared; differentiable."""
        x, log_density, variance, logits = gmm.unpack(self, theta)
        templates = torch.einsum("knp,...p->...kn", self.operator, x)
        rate = log_density.exp()[..., self.kinds] * self.shares / self.length
        if self.near:
            clean = expected_moments.expected_near(templates, rate, gmm.chances(logits), self.length)
        else:
            clean = expected_moments.expected(templates, rate, self.length)
        return self._noisy(clean, variance)

    def slope(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Moments ``(s, m)`` and their exact Jacobian ``(s, m, count)``."""
        if self.near:
            jacobian = torch.func.vmap(torch.func.jacrev(self.predict))(theta)
            return self.predict(theta), jacobian
        x, log_density, variance, _ = gmm.unpack(self, theta)
        templates = torch.einsum("knp,...p->...kn", self.operator, x)
        rate = log_density.exp()[..., self.kinds] * self.shares / self.length
        clean, by_x, by_rate = expected_moments.expected_slope(templates, rate, self.length)
        parts = [torch.einsum("smkn,knp->smp", by_x, self.operator)]
        if self.density is None:
            each = by_rate * rate[:, None]
            parts.append(torch.zeros(*each.shape[:2], self.kinds_count).to(each).index_add(-1, self.kinds, each))
        jacobian = self._through(torch.cat(parts, -1), clean, variance)
        if self.sigma is None:
            jacobian = torch.cat([jacobian, self._by_variance(clean)[..., None]], -1)
        return self._noisy(clean, variance), jacobian

    def pull(self, theta: torch.Tensor) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """Moments ``(s, m)``, and the product of weights ``(s, m)`` with the Jacobian."""
        if self.near:
            values, back = torch.func.vjp(self.predict, theta)[:2]
            return values, lambda weights: back(weights)[0]
        values, jacobian = self.slope(theta)
        return values, lambda weights: (weights[:, None] @ jacobian)[:, 0]

    def _noisy(self, clean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        if self.form == "cumulant":
            return moments.cumulants(clean, self.length) + variance * self._by_variance(clean)
        return clean + variance * self._by_variance(clean)

    def _by_variance(self, clean: torch.Tensor) -> torch.Tensor:
        """Derivative of the moments by sigma^2."""
        third = moments.coincidences(self.length) * (clean[..., :1] if self.form == "raw" else 0 * clean[..., :1])
        second = torch.zeros_like(clean[..., : self.length])
        second[..., 0] = 1
        return torch.cat([torch.zeros_like(clean[..., :1]), second, third], -1)

    def _through(self, jacobian: torch.Tensor, clean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        """Derivatives of the clean moments carried to the form that is compared."""
        if self.form == "cumulant":
            return moments.cumulant_slope(clean, self.length) @ jacobian
        extra = variance[..., None] * moments.coincidences(self.length)[:, None] * jacobian[..., :1, :]
        pad = jacobian.new_zeros(*jacobian.shape[:-2], 1 + self.length, jacobian.shape[-1])
        return jacobian + torch.cat([pad, extra], -2)


def unknowns(model: Model, settings: Settings) -> SignalUnknowns:
    """What is unknown of a model, and what is known.

    Raises:
        ValueError: for a model whose data are not signals.
    """
    like = torch.zeros((), dtype=torch.float64)
    eye = torch.eye(model.object.size, dtype=torch.float64)
    templates = model.view.operator(model.object, like).project(eye)
    if templates.dim() != 3:
        raise ValueError(f"this fit is for signals; got templates of shape {tuple(templates.shape[1:])}")
    count = model.view.count if isinstance(model.view, OfClasses) else 1
    weights = model.view.log_weights.double().exp().unflatten(0, (count, -1))
    totals = weights.sum(1, keepdim=True)
    kinds = torch.arange(count).repeat_interleave(weights.shape[1])
    density = (model.placement.density * totals[:, 0]).log()
    return SignalUnknowns(
        operator=templates.permute(1, 2, 0).contiguous(),
        kinds=kinds,
        shares=(weights / totals).flatten(),
        length=model.side,
        density=None if settings.estimate_density else density,
        sigma=None if settings.estimate_sigma else model.noise.sigma,
        near=getattr(model.placement, "spacing", "separated") != "separated",
        form=settings.form,
        guess=density,
    )
