"""Large images with known truth: copies of small targets at unknown places, turned in their plane, in white noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from unpicked._lazy import torch
from unpicked.data.micrographs import Micrographs
from unpicked.data.snr import levels
from unpicked.objects.disk import Disk
from unpicked.ops import fourier, seeding
from unpicked.ops.window import crop_or_pad
from unpicked.simulate.micrographs import NoisyImages, place
from unpicked.simulate.spacing import Spacing, densest, least_distance, probabilities

Rotations = Literal["uniform", "none"]
_FINE = 8  # pixels of the fine grid on which arrays are turned, per pixel
_AT_ONCE = 2048  # copies that are turned together


class Targets(Protocol):
    """What is put into the images: one or several kinds of target."""

    @property
    def values(self) -> torch.Tensor:
        """``(k, L, L)`` float64, not turned."""

    def turned(self, kinds: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        """Copies ``(n, L, L)`` of kinds ``(n,)`` turned by angles ``(n,)`` in radians, from +x towards +y."""


@dataclass(frozen=True, eq=False)
class DiskTargets:
    """Band-limited targets, turned exactly.

    Attributes:
        disk: their expansion.
        x: ``(k, size)`` coefficients, float64.
    """

    disk: Disk
    x: torch.Tensor

    @property
    def values(self) -> torch.Tensor:
        """``(k, L, L)`` float64, not turned."""
        return self.disk.values(self.x)

    def turned(self, kinds: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        """Copies ``(n, L, L)`` of kinds ``(n,)`` turned by angles ``(n,)`` in radians."""
        return self.disk.values(self.disk.rotate(self.x[kinds], angles))


class PixelTargets:
    """Arrays, turned on a grid eight times as fine: the interpolation of an estimator is not that of the simulator.

    Between the pixels the target is the trigonometric interpolant of the array in a frame of zeros; what is turned out
    of the square is cut off.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values.double()
        side = values.shape[-1]
        framed = crop_or_pad(self.values, (2 * side + 1, 2 * side + 1))  # odd: no frequency is lost
        self._fine = fourier.resize_image(framed, ((2 * side + 1) * _FINE,) * 2) * _FINE

    def turned(self, kinds: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        """Copies ``(n, L, L)`` of kinds ``(n,)`` turned by angles ``(n,)`` in radians."""
        if not bool(angles.any()):
            return self.values[kinds]
        line = torch.arange(self.values.shape[-1], dtype=torch.float64) - self.values.shape[-1] // 2
        out = torch.empty(len(kinds), *self.values.shape[1:], dtype=torch.float64)
        for part in torch.arange(len(kinds)).split(_AT_ONCE):
            out[part] = _sampled(self._fine, kinds[part], angles[part], line)
        return out


def _sampled(fine: torch.Tensor, kinds: torch.Tensor, angles: torch.Tensor, line: torch.Tensor) -> torch.Tensor:
    """Fine images at the turned pixels of the coarse grid, by bilinear interpolation."""
    y, x = torch.meshgrid(line, line, indexing="ij")
    cosine, sine = angles.cos()[:, None, None], angles.sin()[:, None, None]
    centre = fine.shape[-1] // 2
    rows, columns = (cosine * y - sine * x) * _FINE + centre, (cosine * x + sine * y) * _FINE + centre
    top, left = rows.floor().long(), columns.floor().long()
    down, right = rows - top, columns - left
    kind, out = kinds[:, None, None], torch.zeros_like(rows)
    for dy, weight_y in ((0, 1 - down), (1, down)):
        for dx, weight_x in ((0, 1 - right), (1, right)):
            out += weight_y * weight_x * fine[kind, top + dy, left + dx]
    return out


@dataclass(frozen=True, eq=False)
class ImageSimulation(NoisyImages):
    """A lazy simulated set (a ``Source``): image i depends on (seed, i) only.

    Attributes:
        targets: what is seen.
        shares: probabilities of the kinds.
        size: height and width in pixels.
        count: number of images.
        per_image: copies on each.
        rotations: "uniform" (continuous angles) or "none".
        spacing: least distance of two copies: 2 L - 1 ("separated"), L ("arbitrary") or half of L, rounded up
            ("dense").
        sigma: standard deviation of the noise.
        seed: of everything random.
    """

    targets: Targets
    shares: tuple[float, ...]
    per_image: int
    rotations: Rotations
    spacing: Spacing

    @property
    def side(self) -> int:
        """Edge L of a target."""
        return int(self.targets.values.shape[-1])

    @property
    def density(self) -> float:
        """Covered fraction, realised."""
        return self.per_image * self.side**2 / math.prod(self.size)

    def corners(self, index: int) -> torch.Tensor:
        """Row and column ``(n, 2)`` of the first pixel of every copy on image ``index``."""
        generator = seeding.generator(self.seed, "placement", index)
        return _scatter(self.size, self.side, least_distance(self.spacing, self.side), self.per_image, generator)

    def kinds(self, index: int) -> torch.Tensor:
        """Kind ``(n,)`` of every copy."""
        generator = seeding.generator(self.seed, "kinds", index)
        weights = torch.tensor(self.shares, dtype=torch.float64)
        return torch.multinomial(weights, self.per_image, replacement=True, generator=generator)

    def angles(self, index: int) -> torch.Tensor:
        """Angle ``(n,)`` of every copy in radians, from +x towards +y."""
        if self.rotations == "none":
            return torch.zeros(self.per_image, dtype=torch.float64)
        generator = seeding.generator(self.seed, "angles", index)
        return 2 * math.pi * torch.rand(self.per_image, generator=generator, dtype=torch.float64)

    def clean(self, index: int) -> torch.Tensor:
        """Image ``index`` without noise, ``(H, W)`` float64."""
        copies = self.targets.turned(self.kinds(index), self.angles(index))
        first = self.corners(index) @ torch.tensor([self.size[1], 1])
        line = torch.arange(self.side)
        sites = first[:, None, None] + line[:, None] * self.size[1] + line
        out = torch.zeros(math.prod(self.size), dtype=torch.float64)
        return out.index_add_(0, sites.flatten(), copies.flatten()).view(self.size)

    def facts(self) -> dict[str, Any]:
        """The truth in figures, the keys of ``truth.json``."""
        values, weights = self.targets.values, torch.tensor(self.shares, dtype=torch.float64)
        power = float(weights @ values.square().sum((-2, -1)))
        variance = float(weights @ values.var((-2, -1), correction=0))
        return {
            **levels(self.sigma, power, variance, self.side),
            "density": self.density,
            "occurrences": self.per_image * self.count,
            "length": self.side,
            "classes": len(values),
            "rotations": self.rotations,
            "spacing": self.spacing,
            "seed": self.seed,
            "noise": "white",
        }


def simulate_images(
    targets: Targets,
    *,
    size: tuple[int, int],
    density: float,
    sigma: float,
    seed: int,
    count: int = 1,
    rotations: Rotations = "uniform",
    spacing: Spacing = "separated",
    shares: Sequence[float] | None = None,
) -> tuple[Micrographs, ImageSimulation]:
    """Lazy images: copies of targets at whole pixels, all inside, in white noise.

    Args:
        targets: what is seen; see :func:`random_targets` and :class:`PixelTargets`.
        size: height and width in pixels.
        density: covered fraction, copies x L^2 / pixels.
        sigma: standard deviation of the noise.
        seed: of everything random.
        count: number of images.
        rotations: "uniform" or "none".
        spacing: least distance of two copies in the larger of the two directions: "separated" (2 L - 1), "arbitrary"
            (L) or "dense" (half of L, rounded up).
        shares: probabilities of the kinds; None means equal.

    Returns:
        The data as an estimator sees them, with a pixel size of 1, and the simulation, which knows the truth.

    Raises:
        ValueError: for an impossible density, a target larger than the image, or figures that are not positive.
    """
    values = targets.values
    side, kinds = int(values.shape[-1]), len(values)
    if not bool(torch.isfinite(values).all()) or not bool(values.flatten(1).any(1).all()):
        raise ValueError("targets must be finite and not all zero")
    if count < 1:
        raise ValueError(f"count must be at least 1 image; got {count}")
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be a positive finite number; got {sigma}")
    if min(size) < 2 * side:
        raise ValueError(f"size must be at least 2 x {side} pixels for a target of {side}; got {size[0]} x {size[1]}")
    least = least_distance(spacing, side)
    limit = densest(size, side, least)
    if not 0 < density <= limit:
        raise ValueError(
            f"density must lie between 0 and {limit:.3f} for {spacing} copies of {side} x {side} pixels; got {density}"
        )
    per_image = round(density * math.prod(size) / side**2)
    if per_image < 1:
        raise ValueError(f"density {density} puts less than one copy on {size[0]} x {size[1]} pixels; try a larger one")
    simulation = ImageSimulation(
        targets=targets,
        shares=probabilities(shares, kinds),
        size=size,
        count=count,
        per_image=per_image,
        rotations=rotations,
        spacing=spacing,
        sigma=float(sigma),
        seed=seed,
    )
    names = tuple(f"image_{index + 1:04d}.mrc" for index in range(count))
    return Micrographs(simulation, 1.0, names), simulation


def random_targets(side: int, seed: int, *, kinds: int = 1, reach: float | None = None) -> DiskTargets:
    """Targets of independent Gaussian coefficients in a disk, of mean square 1 over their square.

    Args:
        side: edge L in pixels; 9 has 34 coefficients.
        seed: of the coefficients.
        kinds: number of targets.
        reach: of the disk; see :class:`unpicked.objects.disk.Disk`.
    """
    disk, generator = Disk(side, reach), seeding.generator(seed, "target")
    x = torch.randn(kinds, disk.size, generator=generator, dtype=torch.float64)
    return DiskTargets(disk, x / disk.values(x).square().mean((-2, -1)).sqrt()[:, None])


def _scatter(size: tuple[int, int], side: int, least: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Corners ``(count, 2)``: random sequential placement, candidate by candidate."""
    from unpicked.ops._placement import take  # compiled, so imported late

    height, width = size[0] - side + 1, size[1] - side + 1
    corners = torch.zeros(count, 2, dtype=torch.int64)
    cells = torch.full((height // least + 3, width // least + 3, 2), -1, dtype=torch.int64)
    done = 0
    for _ in range(50):
        sites = torch.randint(0, height * width, (2 * count + 1000,), generator=generator)
        candidates = torch.stack([sites // width, sites % width], 1)
        done = take(candidates.numpy(), least, cells.numpy(), corners.numpy(), done)
        if done == count:
            return corners
    return place(size, side, least, count, generator)  # near jamming: all sites in random order
