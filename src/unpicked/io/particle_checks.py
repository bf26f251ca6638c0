"""Are the particles bright, and is their background normalised? Told in sentences, never changed."""

from __future__ import annotations

import math

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.ops import fourier

LOW_PASS = 20.0  # angstrom
FEWEST = 5  # images below which no contrast is told


def skewness(
    images: Float[torch.Tensor, "n h w"], pixel_size: float, radius: float | None = None
) -> Float[torch.Tensor, " n"]:
    """Third moment, about the background, of every low-passed image inside a disc, in units of its second moment^1.5.

    Bright matter gives positive values. The background is the mean outside the disc; the low-pass is a Gaussian that
    falls to one half at 20 angstrom (conventions, section 8).

    Args:
        images: ``(n, box, box)``.
        pixel_size: angstrom.
        radius: of the disc, angstrom; None takes 0.4 of the box.
    """
    inside, outside = _discs(images.shape[-1], images.device, None if radius is None else radius / pixel_size, 0.4)
    values = images.double()
    values = values - _plane(values, outside)
    square = (fourier.radius(values.shape[-2:], device=images.device) / (images.shape[-1] * pixel_size)).square()
    smooth = torch.fft.ifft2(torch.fft.fft2(values) * torch.exp(-math.log(2) * LOW_PASS**2 * square)).real
    smooth = smooth - smooth[:, outside].mean(-1)[:, None, None]
    second, third = smooth[:, inside].square().mean(-1), smooth[:, inside].pow(3).mean(-1)
    return third / second.clamp_min(torch.finfo(second.dtype).tiny).pow(1.5)


def contrast_notes(
    images: Float[torch.Tensor, "n h w"], pixel_size: float, contrast: str = "bright", radius: float | None = None
) -> list[str]:
    """Sentences on the sign of the contrast, from the skewness of all images together.

    Args:
        images: ``(n, box, box)`` as they are used, matter supposed bright.
        pixel_size: angstrom.
        contrast: how they were read, "bright" or "dark".
        radius: of the disc that holds the particle, angstrom; None takes 0.4 of the box.
    """
    if len(images) < FEWEST:
        return [f"the sign of the contrast was not checked: it takes at least {FEWEST} images"]
    found = skewness(images, pixel_size, radius)
    mean, error = float(found.mean()), float(found.std()) / math.sqrt(len(found))
    told = f"skewness of the low-passed particles {mean:+.2f} +- {error:.2f} over {len(found)} images"
    if mean > 4 * error:
        return [f"matter is bright: {told}"]
    if mean < -4 * error:
        other = "dark" if contrast == "bright" else "bright"
        return [
            f"the contrast looks inverted: {told}, expected positive; read with contrast={other!r} (--contrast {other})"
        ]
    return [f"the sign of the contrast cannot be told: {told}"]


def background(
    images: Float[torch.Tensor, "n h w"], radius: float | None = None
) -> tuple[Float[torch.Tensor, " n"], Float[torch.Tensor, " n"]]:
    """Mean and standard deviation of every image outside a radius in pixels; None takes half the box."""
    _, outside = _discs(images.shape[-1], images.device, radius, 0.5)
    ring = images[:, outside].double()
    return ring.mean(-1), ring.std(-1)


def background_notes(images: Float[torch.Tensor, "n h w"], radius: float | None = None) -> list[str]:
    """A sentence on the background: mean 0 and standard deviation 1 outside the particle, or what it is instead."""
    mean, deviation = background(images, radius)
    typical = float(deviation.median())
    numbers = (
        f"outside the particle the mean is {float(mean.median()):.3g} ({float(mean.min()):.3g} to "
        f"{float(mean.max()):.3g}), the standard deviation {typical:.3g} ({float(deviation.min()):.3g} to "
        f"{float(deviation.max()):.3g})"
    )
    if bool((mean.abs() < 0.2).all()) and bool(((deviation - 1).abs() < 0.2).all()):
        return [f"images are normalised: {numbers}"]
    return [f"images are not normalised to mean 0 and standard deviation 1, and are left so: {numbers}"]


def _discs(box: int, device: torch.device, radius: float | None, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Inside and outside of a disc of ``radius`` pixels, ``share`` of the box where it is None."""
    distance = fourier.distances((box, box), device=device)
    limit = min(share * box if radius is None else radius, 0.6 * box)  # the corners stay outside
    return distance < limit, distance >= limit


def _plane(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """The plane that fits every image best at some pixels, by least squares."""
    axis = torch.linspace(-1, 1, values.shape[-1], dtype=values.dtype, device=values.device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    basis = torch.stack([torch.ones_like(x), x, y], -1)
    solution = torch.linalg.lstsq(basis[where], values[:, where].mT).solution
    return torch.einsum("hwk,kn->nhw", basis, solution)
