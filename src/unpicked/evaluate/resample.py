"""Maps on other grids and in other poses: exact sinc evaluation for small boxes, splines for large ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.ops import fourier, window

EXACT_TRANSFORM = 40  # up to this box `transform` evaluates the sinc series exactly, above by splines


def transform(
    values: Float[torch.Tensor, "n n n"],
    rotation: Float[torch.Tensor, "3 3"],
    shift: Float[torch.Tensor, " 3"],
    mirrored: bool,
) -> Float[torch.Tensor, "n n n"]:
    """Mirror in z (if asked), rotate by R and shift by t about the centre: V'(p) = V(R^T (p - t)).

    Up to 40 voxels an edge the sinc series of the zero-padded map is summed exactly; above, fifth-order
    splines on a x2 Fourier-upsampled grid. What comes from outside the box is the map's background (mean
    outside the inscribed ball).

    Args:
        values: ``(n, n, n)`` axes z, y, x.
        rotation: ``(3, 3)`` active, object to view.
        shift: ``(3,)`` x, y, z in voxels.
        mirrored: mirror about the centre along z first.

    Returns:
        ``(n, n, n)`` of the same dtype and device.

    Raises:
        ValueError: if shapes are wrong, or ``rotation`` is not orthogonal with determinant +1.
    """
    _check_pose(rotation, shift)
    _check_values("values", values, constant=True)
    source = values.detach().double().cpu()
    background = _background(source)
    source = source - background
    if mirrored:
        source = fourier.mirror(source, (0,))
    turn, move = rotation.detach().double().cpu(), shift.detach().double().cpu()
    sampler: Sampler = Sinc(source) if len(source) <= EXACT_TRANSFORM else Spline.of(source, order=5, gradient=False)
    sampled = sampler.values((voxel_grid(len(source)).reshape(-1, 3) - move) @ turn)
    return (sampled.reshape(source.shape) + background).to(values)


def match_grid(estimate: Map, truth: Map) -> Map:
    """The estimate on the truth's grid: box and voxel size (within 0.1 %); grey values are kept.

    Raises:
        ValueError: if a map is not usable, or the grids do not fit (:func:`on_grid`); both grids are stated.
        TypeError: if a map is complex.
    """
    _check_values("estimate", estimate.values)
    _check_values("truth", truth.values)
    return on_grid(estimate, truth.box, truth.voxel_size, names=("the estimate", "the grid of the truth"))


def on_grid(map: Map, box: int, voxel_size: float, *, names: tuple[str, str] = ("the map", "a grid")) -> Map:
    """A map on another grid: box and voxel size (within 0.1 %); grey values are kept.

    Equal fields of view: Fourier crop or pad (:meth:`Map.rescale`). Else the map is padded with its background until a
    Fourier crop or pad gives the voxel size within 0.1 %, then cropped or padded to the box about the centre.

    Args:
        map: real, of at least 4 voxels an edge.
        box: new edge in voxels.
        voxel_size: new voxel size in angstrom.
        names: of the map and of the grid, for messages.

    Raises:
        ValueError: if no such padding exists (both grids are stated), or nothing of the structure is left in the box.
    """
    ratio = map.voxel_size / voxel_size
    if map.box == box and abs(ratio - 1) <= 1e-3:
        return Map(map.values, voxel_size, map.origin)
    if abs(ratio * map.box / box - 1) <= 1e-3:
        rescaled = Map(map.values.double(), map.voxel_size).rescale(box)
        return Map(rescaled.values, voxel_size, map.origin)
    background = _background(map.values.double())
    values = map.values.double() - background
    padded = _padded_box(map.box, ratio)
    if padded is None:
        raise ValueError(
            f"{names[0]} ({map.box} voxels of {map.voxel_size:g} A) cannot be brought to {names[1]}"
            f" ({box} voxels of {voxel_size:g} A) within 0.1 %; try Map.rescale or Map.crop on it"
        )
    size = round(padded * ratio)
    wide = window.crop_or_pad(values, (padded,) * 3)
    if size != padded:
        wide = fourier.resize_volume(wide, size) * (size / padded) ** 2
    cut = window.crop_or_pad(wide, (box,) * 3) + background
    _check_values(f"{names[0].removeprefix('the ')}, on the new grid,", cut)
    return Map(cut, voxel_size, map.origin)


def sphere(box: int) -> Float[torch.Tensor, "n n n"]:
    """Soft spherical mask of the box's diameter: cosine edge of max(1, N / 16) voxels inside it, float64."""
    edge = max(1.0, box / 16)
    return window.soft_ball((box,) * 3, box / 2 - edge, edge)


def centred(values: torch.Tensor) -> torch.Tensor:
    """The map in float64 without its background."""
    values = values.detach().double().cpu()
    return values - _background(values)


def voxel_grid(size: int) -> Float[torch.Tensor, "n n n 3"]:
    """Positions (x, y, z) of the voxels [z, y, x] from the centre."""
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z], -1)


def chunks(values: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """Pieces of at most ``size`` along the first axis."""
    return (values[start : start + size] for start in range(0, len(values), size))


class Sampler(Protocol):
    """Values of a map, zero outside its box, between the voxels."""

    def values(self, points: Float[torch.Tensor, "p 3"]) -> Float[torch.Tensor, " p"]:
        """Values at points (x, y, z) in voxels from the centre."""
        ...

    def values_and_gradient(
        self, points: Float[torch.Tensor, "p 3"]
    ) -> tuple[Float[torch.Tensor, " p"], Float[torch.Tensor, "p 3"]]:
        """Values, and derivatives along x, y, z per voxel."""
        ...


@dataclass(frozen=True)
class Sinc:
    """The sinc series sum_n V(n) sinc(x - n) of a map, by contraction of one axis after the other: exact."""

    volume: torch.Tensor

    def values(self, points: torch.Tensor) -> torch.Tensor:
        """See :class:`Sampler`."""
        parts = []
        size = len(self.volume)
        for chunk in chunks(points, max(1, 4_000_000 // size**2)):
            x, y, z = (_sinc_rows(c, size)[0] for c in chunk.unbind(-1))
            plane = (z @ self.volume.reshape(size, -1)).reshape(-1, size, size)
            parts.append((torch.bmm(plane, x[..., None])[..., 0] * y).sum(-1))
        return torch.cat(parts)

    def values_and_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`Sampler`."""
        values, gradients = [], []
        size = len(self.volume)
        for chunk in chunks(points, max(1, 2_000_000 // size**2)):
            (x, dx), (y, dy), (z, dz) = (_sinc_rows(c, size) for c in chunk.unbind(-1))
            flat = self.volume.reshape(size, -1)
            plane = torch.bmm((z @ flat).reshape(-1, size, size), torch.stack([x, dx], -1))
            steep = torch.bmm((dz @ flat).reshape(-1, size, size), x[..., None])[..., 0]
            values.append((plane[..., 0] * y).sum(-1))
            slopes = [(plane[..., 1] * y).sum(-1), (plane[..., 0] * dy).sum(-1), (steep * y).sum(-1)]
            gradients.append(torch.stack(slopes, -1))
        return torch.cat(values), torch.cat(gradients)


@dataclass(frozen=True)
class Spline:
    """Splines on the map padded by 8 voxels and upsampled twice: filtered value and slopes."""

    filtered: tuple[torch.Tensor, ...]
    order: int

    @staticmethod
    def of(volume: torch.Tensor, *, order: int, gradient: bool) -> Spline:
        """Make ready for values, and for derivatives if ``gradient``; float32 inside."""
        from scipy.ndimage import spline_filter

        padded = window.crop_or_pad(volume, (len(volume) + 16,) * 3).float()
        fields = [padded, *(_derivative(padded, dim) for dim in (2, 1, 0))] if gradient else [padded]
        fine = [(fourier.resize_volume(field, 2 * len(padded)) * 4).numpy() for field in fields]
        return Spline(tuple(torch.from_numpy(spline_filter(f, order, output=f.dtype)) for f in fine), order)

    def values(self, points: torch.Tensor) -> torch.Tensor:
        """See :class:`Sampler`."""
        return self._interpolate(self.filtered[0], points)

    def values_and_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`Sampler`."""
        found = [self._interpolate(field, points) for field in self.filtered]
        return found[0], torch.stack(found[1:], -1)

    def _interpolate(self, field: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        from scipy.ndimage import map_coordinates

        places = (2 * points[:, [2, 1, 0]] + len(field) // 2).T.numpy()
        found = map_coordinates(field.numpy(), places, order=self.order, prefilter=False, output="float64")
        return torch.from_numpy(found)


def _derivative(volume: torch.Tensor, dim: int) -> torch.Tensor:
    """Derivative per voxel along an axis, by Fourier."""
    size = len(volume)
    spectrum = fourier.drop_nyquist(fourier.fft3(volume), (dim,))
    ramp = 2j * math.pi / size * fourier.frequencies(size)
    return fourier.ifft3(spectrum * ramp.reshape([-1 if d == dim else 1 for d in range(3)]).to(spectrum))


def _sinc_rows(coordinates: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """sinc(c - n) of all voxels n, and its derivative: (p, n) each; sine and cosine once per point."""
    whole = coordinates.round()
    voxels = torch.arange(size) - size // 2
    sign = 1.0 - 2.0 * ((whole.long()[:, None] - voxels) % 2)  # cos(pi (whole - n))
    angle = math.pi * (coordinates - whole)
    x = coordinates[:, None] - voxels
    near = x.abs() < 1e-4
    x_safe = torch.where(near, torch.ones_like(x), x)
    rows = sign * angle.sin()[:, None] / (math.pi * x_safe)
    slopes = (sign * angle.cos()[:, None] - rows) / x_safe
    rows = torch.where(near, 1 - (math.pi * x).square() / 6, rows)
    return rows, torch.where(near, -(math.pi**2) / 3 * x, slopes)


def _background(values: torch.Tensor) -> torch.Tensor:
    """Mean outside the inscribed ball."""
    size = len(values)
    return values[fourier.distances((size,) * 3).to(values.device) >= size / 2].mean()


def _padded_box(box: int, ratio: float) -> int | None:
    """The smallest box >= ``box`` that is a whole number of the truth's voxels wide, within 0.1 %."""
    for padded in range(box, 2 * box + 65):
        size = round(padded * ratio)
        if 4 <= size <= 1024 and abs(padded * ratio / size - 1) <= 1e-3:
            return padded
    return None


def _check_values(name: str, values: torch.Tensor, *, constant: bool = False) -> None:
    if values.is_complex():
        raise TypeError(f"{name} must be a real map; got {values.dtype}; try values.real")
    if values.dim() != 3 or len(set(values.shape)) != 1 or values.shape[0] < 4:
        raise ValueError(f"{name} must be a cube of at least 4 voxels an edge; got shape {tuple(values.shape)}")
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).sum())
        raise ValueError(f"{name} must be finite; found {bad} NaN or infinite voxels; repair the map first")
    if not constant and not bool(values.amax() > values.amin()):
        raise ValueError(f"{name} must hold a structure; found {float(values.amin()):g} in every voxel; check the file")


def _check_pose(turn: torch.Tensor, shift: torch.Tensor) -> None:
    if tuple(turn.shape) != (3, 3) or tuple(shift.shape) != (3,):
        raise ValueError(
            f"expected rotation (3, 3) and shift (3,); got {tuple(turn.shape)} and {tuple(shift.shape)};"
            " transform one map at a time"
        )
    matrix = turn.detach().double().cpu()
    eye = torch.eye(3, dtype=torch.float64)
    if not bool(((matrix @ matrix.T - eye).abs() < 1e-4).all()) or float(torch.linalg.det(matrix)) < 0:
        raise ValueError("rotation must be orthogonal with determinant +1; for a mirror image set mirrored=True")
