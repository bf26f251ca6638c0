"""What the data say about a prior: its evidence near an estimate, and the Wilson prior of the highest evidence.

Near an estimate x the log-likelihood is taken as g . (y - x) - (y - x)^T J (y - x) / 2 with its gradient g and the
observed information J, so that the integral over a Gaussian prior is a matter of linear algebra (MacKay 1992).
"""

from __future__ import annotations

import math
from dataclasses import replace

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.objects.base import Object
from unpicked.priors.account import check_square
from unpicked.priors.gaussian import Wilson

# of the logarithms of variance, radius, correlation and blob: a weak belief in the values given, in standard
# deviations, and how far the search goes
_BELIEF = (1.5, 0.3, 0.3, 1.0)
_FARTHEST = (3.0, 0.6, 0.7, 2.5)
_EVALUATIONS = 80


def log_evidence(
    prior: Wilson, object: Object, information: Float[torch.Tensor, "n n"], pull: Float[torch.Tensor, " n"]
) -> float:
    """Log of the integral of the quadratic likelihood over the prior, against no object at all.

    Args:
        prior: a Gaussian with ``root``.
        object: what the coefficients mean.
        information: J ``(size, size)``.
        pull: J x + g ``(size,)``: the gradient of the log-likelihood, carried on to no object at all.

    Raises:
        ValueError: for an information of another shape or not finite.

    Returns:
        log of E exp(pull . y - y^T J y / 2) over y from the prior.
    """
    check_square(object, information=information)
    eye = torch.eye(object.size, dtype=torch.float64, device=information.device)
    root = prior.root(eye, object)  # rows: L^T
    inner = eye + root @ information.double() @ root.mT
    factor, flaw = torch.linalg.cholesky_ex(inner)
    if bool(flaw):
        return -math.inf
    white = root @ pull.double()
    half = torch.linalg.solve_triangular(factor, white[:, None], upper=False)
    return float(0.5 * half.square().sum() - factor.diagonal().log().sum())


def learned(
    prior: Wilson, object: Object, information: Float[torch.Tensor, "n n"], pull: Float[torch.Tensor, " n"]
) -> Wilson:
    """The Wilson prior next to ``prior`` that makes the data the most likely; where they say nothing, ``prior``.

    Variance, radius, correlation and blob are searched for (Nelder and Mead 1965) with a weak log-normal belief in
    the values given.

    Args:
        prior: where the search begins.
        object: what the coefficients mean.
        information: see :func:`log_evidence`.
        pull: see :func:`log_evidence`.
    """
    from scipy.optimize import minimize

    def at(logs: list[float]) -> Wilson:
        inside = [max(-far, min(far, float(value))) for value, far in zip(logs, _FARTHEST, strict=True)]
        variance, radius, correlation, blob = (math.exp(value) for value in inside)
        return replace(
            prior,
            variance=prior.variance * variance,
            radius=prior.radius * radius,
            correlation=prior.correlation * correlation,
            blob=prior.blob * blob,
        )

    def cost(logs: list[float]) -> float:
        belief = sum((float(value) / width) ** 2 / 2 for value, width in zip(logs, _BELIEF, strict=True))
        return belief - log_evidence(at(logs), object, information, pull)

    simplex = [[0.0] * 4] + [[0.4 if i == j else 0.0 for i in range(4)] for j in range(4)]
    options = {"maxfev": _EVALUATIONS, "xatol": 0.02, "fatol": 0.05, "initial_simplex": simplex}
    found = minimize(cost, [0.0] * 4, method="Nelder-Mead", options=options)
    return at(list(found.x))
