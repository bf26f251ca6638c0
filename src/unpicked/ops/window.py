"""Crop, pad, masks, and the tiling of a micrograph into windows."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.ops import fourier


def crop_or_pad(values: Float[torch.Tensor, "*b"], size: Sequence[int]) -> Float[torch.Tensor, "*c"]:
    """Crop or zero-pad the last ``len(size)`` axes about the centre (index N // 2 stays the centre).

    Raises:
        ValueError: if size has more axes than the values, or a new length is smaller than 1.
    """
    if not 0 < len(size) <= values.dim() or min(size) < 1:
        raise ValueError(f"size must be 1 to {values.dim()} positive lengths; got {tuple(size)}")
    first = values.dim() - len(size)
    for axis, new in enumerate(size):
        dim, old = first + axis, values.shape[first + axis]
        offset = old // 2 - new // 2
        if new <= old:
            values = values.narrow(dim, offset, new)
        else:
            after = values.dim() - 1 - dim
            values = torch.nn.functional.pad(values, (0, 0) * after + (-offset, new - old + offset))
    return values


def tile(image: Float[torch.Tensor, "h w"], side: int, stride: int) -> Float[torch.Tensor, "n b b"]:
    """Square windows of a micrograph, row by row; a rest at the far edges that is shorter than a window is left out.

    Raises:
        ValueError: for anything but one image, a window larger than the image, or side or stride < 1.
    """
    if image.dim() != 2:
        raise ValueError(f"image must be (height, width); got {tuple(image.shape)}")
    if side < 1:
        raise ValueError(f"side must be at least 1 pixel; got {side}")
    if min(image.shape) < side:
        raise ValueError(
            f"a window of {side} pixels does not fit an image of {tuple(image.shape)}; try a smaller box or voxel"
        )
    if stride < 1:
        raise ValueError(f"stride must be at least 1 pixel; got {stride}")
    return image.unfold(0, side, stride).unfold(1, side, stride).reshape(-1, side, side)


def soft_ball(
    shape: Sequence[int], radius: float, edge: float, *, device: torch.device | None = None
) -> Float[torch.Tensor, "*shape"]:
    """Mask: 1 within ``radius`` pixels of the centre, falling to 0 by a cosine over ``edge`` pixels; float64."""
    distance = fourier.distances(shape, device=device)
    if edge <= 0:
        return (distance <= radius).double()
    ramp = ((distance - radius) / edge).clamp(0, 1)
    return 0.5 + 0.5 * torch.cos(torch.pi * ramp)
