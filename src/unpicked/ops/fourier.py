"""Fourier transforms with the origin at index N // 2, frequency grids, crop, pad and mirror.

Images are transformed orthonormally, volumes are divided by N, so that the central slice of a volume's transform
*is* the transform of its projection (`docs/conventions.md`, section 3). Transforms are returned DC-first.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Complex, Float, Int

from unpicked._lazy import torch


def fft2(image: Float[torch.Tensor, "*b h w"]) -> Complex[torch.Tensor, "*b h w"]:
    """Orthonormal transform of images whose origin is at index N // 2; DC first."""
    return torch.fft.fft2(torch.fft.ifftshift(image, dim=(-2, -1)), norm="ortho")


def ifft2(coefficients: Complex[torch.Tensor, "*b h w"]) -> Float[torch.Tensor, "*b h w"]:
    """Inverse of :func:`fft2` for real images (the imaginary part is dropped)."""
    return torch.fft.fftshift(torch.fft.ifft2(coefficients, norm="ortho").real, dim=(-2, -1))


def centred_fft2(image: Float[torch.Tensor, "*b h w"]) -> Complex[torch.Tensor, "*b h w"]:
    """:func:`fft2` with zero frequency at index N // 2."""
    return torch.fft.fftshift(fft2(image), dim=(-2, -1))


def fft3(volume: Float[torch.Tensor, "*b d h w"]) -> Complex[torch.Tensor, "*b d h w"]:
    """Transform of volumes, divided by N (the last axis' length); DC first."""
    return torch.fft.fftn(torch.fft.ifftshift(volume, dim=(-3, -2, -1)), dim=(-3, -2, -1)) / volume.shape[-1]


def ifft3(coefficients: Complex[torch.Tensor, "*b d h w"]) -> Float[torch.Tensor, "*b d h w"]:
    """Inverse of :func:`fft3` for real volumes."""
    values = torch.fft.ifftn(coefficients, dim=(-3, -2, -1)).real * coefficients.shape[-1]
    return torch.fft.fftshift(values, dim=(-3, -2, -1))


def frequencies(length: int, *, device: torch.device | None = None) -> Int[torch.Tensor, " n"]:
    """Integer frequencies of an axis, DC first: 0, 1, ..., -1; the Nyquist frequency of an even axis is -N/2."""
    return torch.fft.ifftshift(torch.arange(length, device=device) - length // 2)


def radius(shape: Sequence[int], *, device: torch.device | None = None) -> Float[torch.Tensor, "*shape"]:
    """Length |q| of the integer frequency vector on a grid of this shape, DC first, float64."""
    squares = [frequencies(n, device=device).double().square() for n in shape]
    total = squares[0]
    for axis in squares[1:]:
        total = total[..., None] + axis
    return total.sqrt()


def shells(shape: Sequence[int], *, device: torch.device | None = None) -> Int[torch.Tensor, "*shape"]:
    """Shell index round(|q|) on a grid of this shape, DC first."""
    return radius(shape, device=device).round().long()


def shell_sum(values: Float[torch.Tensor, "*shape"]) -> Float[torch.Tensor, " k"]:
    """Sums of a DC-first grid over the shells 0 .. (N - 1) // 2 of its shortest axis, in float64."""
    index = shells(values.shape, device=values.device)
    count = (min(values.shape) - 1) // 2 + 1
    inside = index < count
    return torch.bincount(index[inside], weights=values.double()[inside], minlength=count)


def distances(shape: Sequence[int], *, device: torch.device | None = None) -> Float[torch.Tensor, "*shape"]:
    """Distance of every pixel or voxel from the centre (index N // 2 of each axis), in pixels, float64."""
    squares = [(torch.arange(n, device=device) - n // 2).double().square() for n in shape]
    total = squares[0]
    for axis in squares[1:]:
        total = total[..., None] + axis
    return total.sqrt()


def resize_image(image: Float[torch.Tensor, "*b h w"], size: tuple[int, int]) -> Float[torch.Tensor, "*b y x"]:
    """Fourier crop or pad of images to another size at the same field of view.

    The coefficients stay what they are, so the variance of white noise per pixel does not change and grey values
    scale by sqrt(h w / (y x)). Only frequencies below both Nyquist limits are kept (|q| < N / 2 strictly).

    Args:
        image: real images, origin at index N // 2.
        size: new height and width in pixels.

    Raises:
        ValueError: if a new length is smaller than 1.
    """
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be two positive lengths; got {tuple(size)}")
    half = torch.fft.rfft2(torch.fft.ifftshift(image, dim=(-2, -1)), norm="ortho")
    rows = _kept(image.shape[-2], size[0])
    columns = (min(image.shape[-1], size[1]) + 1) // 2
    out = half.new_zeros((*image.shape[:-2], size[0], size[1] // 2 + 1))
    out[..., rows % size[0], :columns] = half[..., rows % image.shape[-2], :columns]
    return torch.fft.fftshift(torch.fft.irfft2(out, s=size, norm="ortho"), dim=(-2, -1))


def resize_volume(volume: Float[torch.Tensor, "*b d d d"], size: int) -> Float[torch.Tensor, "*b n n n"]:
    """Fourier crop or pad of cubes, such that projections obey :func:`resize_image`.

    Coefficients of :func:`fft3` stay what they are, so voxel values scale by (d / n)^2.

    Raises:
        ValueError: if the volume is not a cube, or size < 1.
    """
    if volume.dim() < 3 or len(set(volume.shape[-3:])) != 1:
        raise ValueError(f"volume must end in a cube (d, d, d); got {tuple(volume.shape)}")
    if size < 1:
        raise ValueError(f"size must be at least 1 voxel; got {size}")
    old = volume.shape[-1]
    kept = _kept(old, size)
    source, target = kept % old, kept % size
    full = fft3(volume)
    out = full.new_zeros((*volume.shape[:-3], size, size, size))
    picked = full[..., source[:, None, None], source[None, :, None], source[None, None, :]]
    out[..., target[:, None, None], target[None, :, None], target[None, None, :]] = picked
    return ifft3(out)


def drop_nyquist(coefficients: Complex[torch.Tensor, "*b"], dims: Sequence[int]) -> Complex[torch.Tensor, "*b"]:
    """Zero the unpaired Nyquist planes of even axes (DC-first): they carry no usable phase."""
    out = coefficients.clone()
    for dim in dims:
        length = coefficients.shape[dim]
        if length % 2 == 0:
            out.select(dim, length // 2).zero_()
    return out


def mirror(values: Float[torch.Tensor, "*b"], dims: Sequence[int]) -> Float[torch.Tensor, "*b"]:
    """Mirror about the centre N // 2 along the given axes: a flip, and on even axes a roll by one.

    A bare flip moves the centre of an even axis by one pixel; this is the only place of the package that flips.
    """
    for dim in dims:
        values = values.flip(dim)
        if values.shape[dim] % 2 == 0:
            values = values.roll(1, dim)
    return values


def _kept(old: int, new: int) -> Int[torch.Tensor, " k"]:
    limit = (min(old, new) + 1) // 2
    return torch.arange(-limit + 1, limit)
