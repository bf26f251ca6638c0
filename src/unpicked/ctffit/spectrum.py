"""The power spectrum of a micrograph: the mean periodogram of tapered, overlapping tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.ops import fourier

TILE = 1000.0  # angstrom: at 1/5 A the rings of 3 um of defocus lie 4 samples of such a tile's spectrum apart
CLIP = 6.0  # robust standard deviations from the median at which pixels are cut: hot ones, borders, gold
LOUD = 3.0  # times the median power at which a tile is left out: it holds an edge
AXES = 1  # samples beside the axes that are left out: edges and columns of the camera end there


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Power of a micrograph on the half plane of frequencies within a band.

    Attributes:
        sx: spatial frequency along x of every sample, 1/angstrom, ``(n,)`` float64.
        sy: along y.
        power: mean squared modulus of the tiles' coefficients, ``(n,)``, in the image's grey values squared.
        step: distance of neighbouring samples, 1/angstrom.
        tiles: number of tiles that were averaged.
        correlated: samples per independent one, as the taper makes neighbours alike.
    """

    sx: Float[torch.Tensor, " n"]
    sy: Float[torch.Tensor, " n"]
    power: Float[torch.Tensor, " n"]
    step: float
    tiles: int
    correlated: float

    @property
    def s(self) -> Float[torch.Tensor, " n"]:
        """Modulus of the spatial frequency, 1/angstrom."""
        return (self.sx.square() + self.sy.square()).sqrt()

    @property
    def shell(self) -> torch.Tensor:
        """Number of each sample's shell, round(|q|)."""
        return (self.s / self.step).round().long()

    def below(self, limit: float) -> Spectrum:
        """The samples up to a frequency (1/angstrom)."""
        keep = self.s <= limit
        return Spectrum(self.sx[keep], self.sy[keep], self.power[keep], self.step, self.tiles, self.correlated)


def power_spectrum(
    image: Float[torch.Tensor, "h w"], pixel_size: float, band: tuple[float, float], *, tile: float = TILE
) -> Spectrum:
    """Mean periodogram of square tiles that overlap by half, with a sine taper and their own mean removed.

    Outliers are cut first, and tiles that are much louder than the others, with an edge of gold or carbon, left out.

    Args:
        image: one micrograph; neither its sign nor its level matters.
        pixel_size: angstrom.
        band: least and largest resolution in angstrom, e.g. (30, 5).
        tile: side of a tile in angstrom; smaller where the micrograph is smaller.

    Raises:
        ValueError: if the tiles are so small that the band holds fewer than 12 shells.
    """
    shortest = min(image.shape)
    side = _fast(min(shortest, max(16, round(tile / pixel_size))))
    step = 1 / (side * pixel_size)
    shells = math.floor(1 / (band[1] * step)) - math.ceil(1 / (band[0] * step))
    if shells < 12:
        raise ValueError(
            f"a micrograph of {image.shape[0]} x {image.shape[1]} pixels of {pixel_size:g} A has {max(shells, 0)} "
            f"shells from {band[0]:g} to {band[1]:g} A; expected at least 12; try a wider band, or a larger micrograph"
        )
    window = torch.sin(math.pi * (torch.arange(side, dtype=torch.float64) + 0.5) / side)
    taper = window[:, None] * window
    taper = taper / taper.square().mean().sqrt()
    qy = fourier.frequencies(side).double()[:, None].expand(side, side // 2 + 1)
    qx = torch.arange(side // 2 + 1).double()[None].expand(side, side // 2 + 1)
    q = (qx.square() + qy.square()).sqrt() * step
    keep = (q >= 1 / band[0]) & (q <= 1 / band[1]) & (qx > AXES) & (qy.abs() > AXES) & (2 * qx < side)
    keep &= qy != -(side / 2)
    clipped = _clipped(image)
    corners = [(y, x) for y in _starts(image.shape[0], side) for x in _starts(image.shape[1], side)]
    powers = torch.empty(len(corners), int(keep.sum()), dtype=torch.float64)
    for place, (y, x) in enumerate(corners):
        part = clipped[y : y + side, x : x + side].double()
        half = torch.fft.rfft2((part - part.mean()) * taper, norm="ortho")[keep]
        powers[place] = half.real.square() + half.imag.square()
    sums = powers.sum(1)
    used = sums <= LOUD * sums.median()
    power = powers[used].mean(0)
    correlated = math.prod(_correlated(window, _starts(length, side)) for length in image.shape)
    return Spectrum(qx[keep] * step, qy[keep] * step, power, step, int(used.sum()), correlated)


def _clipped(image: torch.Tensor) -> torch.Tensor:
    middle = image.median()
    spread = 1.4826 * (image - middle).abs().median()
    return image.clamp(middle - CLIP * spread, middle + CLIP * spread) if spread > 0 else image


def _starts(length: int, side: int) -> list[int]:
    count = 1 + math.ceil((length - side) / (side / 2)) if length > side else 1
    return [round(k * (length - side) / max(count - 1, 1)) for k in range(count)]


def _correlated(window: torch.Tensor, starts: list[int]) -> float:
    """Samples per independent one along an axis: tapers, and tiles that overlap, make neighbours alike."""
    side, squares, centre = len(window), 0.0, 0.0
    for here in starts:
        for there in starts:
            apart = abs(here - there)
            if apart < side:
                both = window[apart:] * window[: side - apart]
                squares += side * float(both.square().sum())
                centre += float(both.sum()) ** 2
    return squares / centre


def _fast(length: int) -> int:
    """The largest even length up to this one whose transform is fast."""
    for candidate in range(length - length % 2, 1, -2):
        rest = candidate
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return candidate
    return length
