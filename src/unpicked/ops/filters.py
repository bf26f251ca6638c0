"""Real, even filters of images, as factors in Fourier space: applied without wrap-around, and seen at few lags."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from jaxtyping import Complex, Float

from unpicked._lazy import torch
from unpicked.ops.correlate import fast_size

GRID = 256  # frequencies per axis from which the lags of a filter are found

Factors = Callable[[Any, Any], Any]  # of frequencies x and y, tensors in cycles per pixel


def half_plane(
    shape: tuple[int, int], *, device: torch.device | None = None
) -> tuple[Float[torch.Tensor, "h g"], Float[torch.Tensor, "h g"]]:
    """Frequencies x and y, cycles per pixel, of the half spectrum (``rfft2``) of images of this shape; float64."""
    y = torch.fft.fftfreq(shape[0], dtype=torch.float64, device=device)
    x = torch.fft.rfftfreq(shape[1], dtype=torch.float64, device=device)
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return grid_x, grid_y


def filtered(image: Float[torch.Tensor, "h w"], factors: Factors, reach: int) -> Float[torch.Tensor, "h w"]:
    """An image whose Fourier coefficients are multiplied by ``factors``; beyond its border it is its own mirror image.

    Args:
        image: ``(h, w)``.
        factors: of frequencies x and y in cycles per pixel, even in the pair.
        reach: pixels beyond the border that count; at most the image's shorter side less one.
    """
    height, width = image.shape
    reach = min(reach, height - 1, width - 1)
    size = (fast_size(height + 2 * reach), fast_size(width + 2 * reach))
    padded = torch.nn.functional.pad(image[None, None], (reach,) * 4, mode="reflect")[0, 0]
    spectrum = torch.fft.rfft2(padded, s=size)
    spectrum *= factors(*half_plane(size, device=image.device)).to(image.dtype)
    return torch.fft.irfft2(spectrum, s=size)[reach : reach + height, reach : reach + width]


def lags(factors: Factors, span: int, reach: int = 0) -> Float[torch.Tensor, "n n"]:
    """The filter's kernel at lags -span .. span of both axes, ``(2 span + 1, 2 span + 1)`` float64.

    It is sampled so finely in Fourier space that a kernel of this ``reach`` in pixels comes back at none of them.
    """
    size = max(GRID, fast_size(4 * span), fast_size(span + reach))
    kernel = torch.fft.irfft2(factors(*half_plane((size, size))).to(torch.complex128), s=(size, size))
    return kernel.roll((span, span), (0, 1))[: 2 * span + 1, : 2 * span + 1]


def toeplitz(kernel: Float[torch.Tensor, "*b n n"], size: int) -> Float[torch.Tensor, "*b m g"]:
    """Factors on the half spectrum of ``size`` points per axis that filter by a kernel of odd side.

    Images of side L, padded to ``size``, are filtered without wrap-around where the result is read at no more than
    ``size - L`` pixels and the kernel's reach together; the kernel is even, so the factors are real.
    """
    span = kernel.shape[-1] // 2
    padded = torch.nn.functional.pad(kernel, (0, size - kernel.shape[-1]) * 2)
    return torch.fft.rfft2(padded.roll((-span, -span), (-2, -1))).real.contiguous()


def coefficients(images: Float[torch.Tensor, "*b l l"], size: int) -> Float[torch.Tensor, "*b 2 p"]:
    """Padded images as real numbers whose sum of squares is theirs: half-spectrum real and imaginary parts, weighted.

    Args:
        images: of side at most ``size``.
        size: even length of the transform, p = size (size / 2 + 1).
    """
    found = torch.fft.rfft2(images, s=(size, size), norm="ortho") * _weights(size, images)
    return torch.stack([found.real, found.imag], -3).flatten(-2)


def images(numbers: Float[torch.Tensor, "*b 2 p"], size: int, side: int) -> Float[torch.Tensor, "*b l l"]:
    """The first ``side`` pixels per axis of what :func:`coefficients` came from; also its adjoint."""
    plane = numbers.unflatten(-1, (size, size // 2 + 1)) / _weights(size, numbers)
    # what is no half spectrum of a real image has no part in the adjoint either
    return torch.fft.irfft2(_complex(plane), s=(size, size), norm="ortho")[..., :side, :side]


def _complex(plane: torch.Tensor) -> Complex[torch.Tensor, "*b m g"]:
    return torch.complex(plane[..., 0, :, :].contiguous(), plane[..., 1, :, :].contiguous())


def _weights(size: int, like: torch.Tensor) -> Float[torch.Tensor, " g"]:
    """Square roots of how often a coefficient of the half spectrum occurs in the whole one, per column."""
    weights = torch.full((size // 2 + 1,), math.sqrt(2), dtype=like.dtype, device=like.device)
    weights[0] = weights[-1] = 1.0
    return weights
