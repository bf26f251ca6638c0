"""A denoiser as a prior: any function that takes noise out of a map says which maps are believed.

Regularisation by denoising (Romano, Elad & Milanfar 2017): the gradient of the energy of a map v is
strength (v - f(v)). Where f is the posterior mean under white noise of variance s^2 and the strength is 1 / s^2, this
is exactly the gradient of -log p_s(v), p_s the density of clean maps blurred by that noise (Tweedie's formula; Reehorst
& Schniter 2019).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from unpicked._lazy import torch
from unpicked.objects.base import Object
from unpicked.priors.base import Prior

# points and weights of Gauss and Legendre on (0, 1), by which the gradient is integrated
_HALF = (0.3399810435848563, 0.8611363115940526), (0.6521451548625461, 0.3478548451374538)
_NODES = tuple((0.5 + 0.5 * s * p, 0.5 * w) for p, w in zip(*_HALF, strict=True) for s in (-1, 1))
_STEP = 1e-3  # of the map's r.m.s.: largest change of a value in the differences that stand for the derivative


@dataclass(frozen=True)
class Denoiser:
    """A function that takes noise out of maps, as a prior: energy E(v) with gradient strength (v - f(v)).

    E(v) = strength times the integral from 0 to 1 of v . (t v - f(t v)) over t, four points of Gauss and Legendre: up
    to a constant the one energy with that gradient where there is one, that is where the Jacobian of f is symmetric
    (means of a posterior; linear filters with a symmetric kernel; thresholds in an orthonormal basis). Of another f
    the gradient is what counts: fits seek the map at which it balances the data's. They converge where f brings no two
    maps further apart. The function is called as it is, never differentiated: derivatives are differences.

    Attributes:
        function: f, takes the values of a map on the object's grid, a tensor of the fit's dtype (float64) and device
            that it must not change, and gives as many, a tensor or an array. It sees grey values over ``scale``.
        strength: in 1 / (square of grey values); 1 / s^2 of a denoiser made for noise of standard deviation s.
        scale: grey value that the function sees as 1.
        name: what it is called in reports; a checkpoint tells denoisers apart by it. Default: that of the function.

    Raises:
        ValueError: for a strength or scale that is not positive and finite; when used, where the function gives another
            shape, complex numbers, or what is not finite.
        TypeError: if the function cannot be called.
    """

    function: Callable[[Any], Any] = field(repr=False)
    strength: float
    scale: float = 1.0
    name: str = ""
    quadratic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function must take a map and give a map; got {self.function!r}")
        for name in ("strength", "scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite; got {getattr(self, name)}")
        if not self.name:
            kind = self.function if hasattr(self.function, "__qualname__") else type(self.function)
            object.__setattr__(self, "name", f"{kind.__module__}.{kind.__qualname__}")

    @property
    def majorant(self) -> Prior:
        """Strength |v|^2 / 2: curved at least as much where the Jacobian of f has no negative eigenvalue."""
        return _Everywhere(self.strength)

    def energy(self, x: torch.Tensor, object: Object) -> torch.Tensor:
        """Strength (|v|^2 / 2 - the integral of v . f(t v)), v the values of coefficients ``(size,)``."""
        values = object.values(x)
        return self.strength * (values.square().sum() / 2 - _apply(_potential(), values, self))

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """f(v), checked, in the dtype and on the device of the values."""
        with torch.no_grad():
            given = values.detach() / self.scale
            found = torch.as_tensor(self.function(given))
        if found.is_complex() or tuple(found.shape) != tuple(values.shape):
            kind = "complex values" if found.is_complex() else "values"
            raise ValueError(
                f"denoiser {self.name} must give real values of shape {tuple(values.shape)}; "
                f"got {kind} of shape {tuple(found.shape)}"
            )
        if not bool(torch.isfinite(found).all()):
            raise ValueError(f"denoiser {self.name} must give finite values; got NaN or infinity")
        return found.detach().to(values) * self.scale

    def response(self, values: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """What a small change of the map does to the denoised one: (f(v + h d) - f(v - h d)) / (2 h)."""
        largest = float(direction.abs().max())
        if largest == 0:
            return torch.zeros_like(values)
        h = _STEP * (float(values.square().mean().sqrt()) or self.strength**-0.5) / largest
        return (self(values + h * direction) - self(values - h * direction)) / (2 * h)


@dataclass(frozen=True)
class _Everywhere:
    """strength |v|^2 / 2 of the values v."""

    strength: float
    quadratic: ClassVar[bool] = True

    def energy(self, x: torch.Tensor, object: Object) -> torch.Tensor:
        return self.strength * object.values(x).square().sum() / 2


@functools.cache
def _potential() -> Any:
    """The integral of v . f(t v), whose derivative is f, whose derivative along a direction is its response.

    The three are made at the first use: the base class is torch's. Transforms of torch (grad, vmap) hand on wrapped
    tensors, which the user's function would not understand; here it meets plain ones.
    """

    class Response(torch.autograd.Function):
        @staticmethod
        def forward(values: torch.Tensor, direction: torch.Tensor, denoiser: Denoiser) -> torch.Tensor:
            return denoiser.response(values, direction)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            raise RuntimeError("a denoiser's response is made of differences and has no derivative of its own")

        @staticmethod
        def vmap(info: Any, dims: Any, values: torch.Tensor, direction: torch.Tensor, denoiser: Denoiser) -> Any:
            return _one_by_one(info, dims, (values, direction), lambda v, d: _apply(Response, v, d, denoiser))

    class Apply(torch.autograd.Function):
        @staticmethod
        def forward(values: torch.Tensor, denoiser: Denoiser) -> torch.Tensor:
            return denoiser(values)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(inputs[0])
            ctx.denoiser = inputs[1]

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> Any:
            return _apply(Response, *ctx.saved_tensors, gradient, ctx.denoiser), None

        @staticmethod
        def vmap(info: Any, dims: Any, values: torch.Tensor, denoiser: Denoiser) -> Any:
            return _one_by_one(info, dims, (values,), lambda v: _apply(Apply, v, denoiser))

    class Potential(torch.autograd.Function):
        @staticmethod
        def forward(values: torch.Tensor, denoiser: Denoiser) -> torch.Tensor:
            parts = [weight * (values * denoiser(place * values)).sum() for place, weight in _NODES]
            return torch.stack(parts).sum()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(inputs[0])
            ctx.denoiser = inputs[1]

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> Any:
            return gradient * _apply(Apply, *ctx.saved_tensors, ctx.denoiser), None

        @staticmethod
        def vmap(info: Any, dims: Any, values: torch.Tensor, denoiser: Denoiser) -> Any:
            return _one_by_one(info, dims, (values,), lambda v: _apply(Potential, v, denoiser))

    return Potential


def _apply(function: Any, *arguments: Any) -> torch.Tensor:
    found: torch.Tensor = function.apply(*arguments)
    return found


def _one_by_one(
    info: Any, dims: Any, tensors: tuple[torch.Tensor, ...], call: Callable[..., torch.Tensor]
) -> tuple[torch.Tensor, int]:
    """A batch, member by member."""
    batched = [
        tensor.movedim(dim, 0) if dim is not None else tensor.expand(info.batch_size, *tensor.shape)
        for tensor, dim in zip(tensors, dims, strict=False)
    ]
    return torch.stack([call(*members) for members in zip(*batched, strict=True)]), 0
