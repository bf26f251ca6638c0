"""Circular sub-pixel shifts by phase ramps."""

from __future__ import annotations

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.ops import fourier


def shift_image(
    image: Float[torch.Tensor, "*b h w"], shifts: Float[torch.Tensor, "*c 2"]
) -> Float[torch.Tensor, "*d h w"]:
    """Move the content of images by (t_x, t_y) pixels, circularly; the Nyquist rows of even axes are dropped.

    Whole shifts are exact rolls only for images without Nyquist component. The result has the image's dtype.

    Raises:
        ValueError: if the last axis of shifts is not 2.
    """
    return _shift(image, shifts, 2)


def shift_volume(
    volume: Float[torch.Tensor, "*b d h w"], shifts: Float[torch.Tensor, "*c 3"]
) -> Float[torch.Tensor, "*e d h w"]:
    """Move the content of volumes by (t_x, t_y, t_z) voxels, circularly; the Nyquist planes are dropped.

    Raises:
        ValueError: if the last axis of shifts is not 3.
    """
    return _shift(volume, shifts, 3)


def _shift(values: torch.Tensor, shifts: torch.Tensor, rank: int) -> torch.Tensor:
    if shifts.shape[-1:] != (rank,):
        raise ValueError(f"shifts must have shape (..., {rank}), {'x y z'[: 2 * rank - 1]}; got {tuple(shifts.shape)}")
    dims = tuple(range(-rank, 0))
    spectrum = fourier.drop_nyquist(torch.fft.fftn(values, dim=dims), dims)
    for axis, dim in enumerate(dims):
        length = values.shape[dim]
        q = fourier.frequencies(length, device=values.device).to(values.dtype)
        angle = -2 * torch.pi / length * shifts[..., rank - 1 - axis, None] * q
        ramp = torch.polar(torch.ones_like(angle), angle).to(spectrum)
        spectrum = spectrum * ramp.reshape(*ramp.shape[:-1], *((1,) * axis), length, *((1,) * (rank - 1 - axis)))
    return torch.fft.ifftn(spectrum, dim=dims).real
