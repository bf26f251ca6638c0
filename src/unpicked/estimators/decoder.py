"""From a map and poses to the misfit of images, on the half disc of their Fourier coefficients.

With Y and S orthonormal coefficients the sum over the half disc is half of the squared distance in real space, within
the band and without the mean (Parseval): no image is ever transformed back.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

from unpicked._lazy import torch
from unpicked.data.optics import Optics
from unpicked.data.particles import Particles
from unpicked.estimators.seen import Proposal, Seen
from unpicked.objects.voxels import Voxels
from unpicked.ops import fourier, trilinear
from unpicked.ops.band import Band
from unpicked.ops.ctf import ctf


@lru_cache(maxsize=64)
def band(box: int, radius: int) -> Band:
    """The half disc; kept, as its points are sorted when they are first asked for."""
    return Band(box, radius)


@lru_cache(maxsize=8)
def _compensation(box: int, pad: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return trilinear.compensation(box, pad, device=device).to(dtype)


@lru_cache(maxsize=8)
def mask(box: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """The soft ball within which a map moves, flat; kept, as every update needs it."""
    return trilinear.soft_mask(box, device=device).to(dtype).flatten()


@dataclass(frozen=True, eq=False)
class Measured:
    """Images as the decoder compares them.

    Attributes:
        band: frequencies q.
        values: ``(n, p)`` coefficients.
        points: ``(p, 2)`` q_x, q_y on the images' device.
        pixel_size: angstrom.
        optics: contrast transfer of the images, or None.
        transfer: ``(n, 1, p)`` its values, or None.
    """

    band: Band
    values: torch.Tensor
    points: torch.Tensor
    pixel_size: float
    optics: Optics | None
    transfer: torch.Tensor | None


def measured(seen: Seen, radius: int) -> Measured:
    """The coefficients of some images within a radius."""
    half = band(seen.images.shape[-1], radius)
    points, transfer = half.points.to(seen.images), None
    if seen.optics is not None:
        sx, sy = half.frequencies(seen.pixel_size)
        transfer = seen.optics.values(sx, sy)[:, None].to(seen.images)
    return Measured(half, half.coefficients(seen.images), points, seen.pixel_size, seen.optics, transfer)


def spectrum(object: Voxels, x: torch.Tensor, radius: int) -> torch.Tensor:
    """The map's half cube, compensated for the interpolation; once per batch."""
    shaping = _compensation(object.box, object.pad, x.device, x.dtype)
    return trilinear.half_cube(object.values(x) * shaping, radius, object.pad)


def predicted(cube: torch.Tensor, poses: Proposal, images: Measured, pad: int) -> torch.Tensor:
    """Coefficients ``(n, k, p)`` that the images should have under their proposed poses."""
    found = trilinear.slices(cube, poses.rotations, images.points, pad)
    if poses.shifts is not None:
        found = found * images.band.ramp(poses.shifts / images.pixel_size).to(found)
    if poses.defocus is not None:
        return found * _transfer(images, poses.defocus)
    return found if images.transfer is None else found * images.transfer


def misfit(cube: torch.Tensor, poses: Proposal, images: Measured, pad: int) -> torch.Tensor:
    """Mean of |Y - C S|^2 over the band, ``(n, k)``."""
    rest = images.values[:, None] - predicted(cube, poses, images, pad)
    return (rest.real.square() + rest.imag.square()).mean(-1)


def _transfer(images: Measured, change: torch.Tensor) -> torch.Tensor:
    """Contrast transfer ``(n, k, p)`` where both defoci of every image are changed by ``(n, k)`` angstrom."""
    optics, device = images.optics, change.device
    if optics is None:
        raise ValueError("a change of defocus needs images with contrast transfer parameters; got none")
    groups = torch.tensor(optics.group, device=device)
    columns = {
        entry.name: torch.tensor(getattr(optics, entry.name), dtype=torch.float64, device=device)[groups][:, None]
        for entry in fields(optics)
        if entry.name != "group"
    }
    for name in ("defocus_u", "defocus_v"):
        columns[name] = columns[name] + change.double()
    sx, sy = (s.to(device) for s in images.band.frequencies(images.pixel_size))
    return ctf(sx, sy, **columns).to(change)


def powers(data: Particles, radius: int, sigma: float, places: list[int]) -> tuple[float, float]:
    """Mean power of the coefficients of some images, and the root mean square of the map that would explain them.

    A shell of the map has the mean power of that shell of its projections, so its voxels' mean square is the sum over
    all frequencies of it, divided by N^4. Noise is taken off: sigma^2 or the power of the outermost shell, whichever is
    less; 2 % of the power is left at least.
    """
    half = band(data.box, radius)
    power = half.coefficients(data.images(places).double()).abs().square()
    mean = half.shell_mean(power.mean(0))
    signal = (mean - min(sigma**2, float(mean[-1]))).clamp(min=0)
    if data.optics is not None:
        sx, sy = half.frequencies(data.pixel_size)
        signal = signal / half.shell_mean(data.optics.values(sx, sy, places).square().mean(0)).clamp(min=0.05)
    index = fourier.shells((data.box,) * 3)
    counts = torch.bincount(index.flatten(), minlength=len(mean))[: len(mean)]
    total = float((counts * torch.maximum(signal, 0.02 * mean))[1:].sum())
    return float(power.mean()), (total / data.box**4) ** 0.5
