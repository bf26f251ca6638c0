"""Linear systems that are known only by what they do to a vector."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float

from unpicked._lazy import torch


def conjugate_gradients(
    apply: Callable[[torch.Tensor], torch.Tensor],
    right: Float[torch.Tensor, " n"],
    start: Float[torch.Tensor, " n"],
    *,
    tolerance: float = 1e-8,
    steps: int = 100,
    precondition: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Float[torch.Tensor, " n"]:
    """Solve A x = b for a symmetric positive semi-definite A (Hestenes and Stiefel 1952).

    Every iterate lowers x^T A x / 2 - b^T x, so a solve that is cut short still makes an ascent step of EM.

    Args:
        apply: x -> A x.
        right: b.
        start: first guess, not changed.
        tolerance: stop when |b - A x| <= tolerance |b|.
        steps: at most so many applications of A.
        precondition: an approximate inverse of A, symmetric and positive definite.
    """
    apply_inverse = precondition or (lambda v: v)
    x = start.clone()
    residual = right - apply(x)
    direction = apply_inverse(residual)
    inner = residual.dot(direction)
    limit = tolerance**2 * right.dot(right)
    for _ in range(steps):
        if not residual.dot(residual) > limit:
            break
        image = apply(direction)
        curvature = direction.dot(image)
        if not curvature > 0:
            break
        alpha = inner / curvature
        x = x + alpha * direction
        residual = residual - alpha * image
        better = apply_inverse(residual)
        new = residual.dot(better)
        direction = better + (new / inner) * direction
        inner = new
    return x


def between(
    matrix: Float[torch.Tensor, "n n"], whole: Float[torch.Tensor, "n n"], least: float
) -> Float[torch.Tensor, "n n"]:
    """A symmetric matrix held between ``least * whole`` and ``whole``, in every direction that both share.

    Args:
        matrix: positive semi-definite.
        whole: positive definite; where it is not, ``matrix`` is returned as it is.
        least: from 0 to 1.
    """
    factor, flaw = torch.linalg.cholesky_ex(whole)
    if bool(flaw):
        return matrix
    white = torch.linalg.solve_triangular(factor, matrix, upper=False)
    white = torch.linalg.solve_triangular(factor, white.mT, upper=False)
    shares, vectors = torch.linalg.eigh((white + white.mT) / 2)
    basis = factor @ vectors
    return (basis * shares.clamp(least, 1.0)) @ basis.mT
