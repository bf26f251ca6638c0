"""Directional resolution: Fourier shell correlation in cones, the 3DFSC of Tan et al. (2017, Nat. Methods 14, 793)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.evaluate.fsc import Resolution, fsc, resolution
from unpicked.evaluate.halves import check_map, share
from unpicked.evaluate.resample import centred, sphere
from unpicked.ops import fourier

HALF_ANGLE = 20.0  # degrees, as published
ONE_SIDED = 1.645  # standard deviations of 95 %
FEWEST = 30  # coefficients: cones of low shells are opened until they hold so many


@dataclass(frozen=True)
class Directional:
    """Resolution by direction of Fourier space.

    Attributes:
        directions: unit vectors x, y, z of the cones' axes, of half a sphere; the opposite ones are the same.
        resolution: angstrom per direction, where the cone's correlation first falls below the threshold or ``floor``;
            None where it does in shell 1.
        best: smallest of them; ``nyquist`` where a curve never falls.
        worst: largest; None where a direction has none.
        best_direction: x, y, z.
        worst_direction: x, y, z.
        sphericity: pi^(1/3) (6 V)^(2/3) / A of the surface at distance 1 / resolution in every direction, over that of
            the same mesh for a ball: 1 where all directions are resolved alike (Wadell 1935; Tan et al. 2017).
        fsc: the curve of all directions together, shells 0 .. (N - 1) // 2.
        fsc_low: per shell what a tenth of the directions stay below.
        fsc_high: per shell what a tenth exceed.
        spread: standard deviation over directions per shell.
        floor: per shell what a cone of noise exceeds in one case of twenty, 1.645 / sqrt(n), n the coefficients of a
            cone, times the sphere's share of the box; 0 in the low shells, where cones are opened.
        threshold: of the correlation.
        half_angle: of a cone, degrees.
        nyquist: two voxels, angstrom.
    """

    directions: list[list[float]]
    resolution: list[float | None]
    best: float | None
    worst: float | None
    best_direction: list[float]
    worst_direction: list[float]
    sphericity: float
    fsc: list[float]
    fsc_low: list[float]
    fsc_high: list[float]
    spread: list[float]
    floor: list[float]
    threshold: float
    half_angle: float
    nyquist: float

    def to_json(self) -> dict[str, object]:
        """Plain numbers and lists for ``json.dumps``; a missing resolution is None (null)."""
        return dict(self.__dict__)


def directional(
    a: Map,
    b: Map,
    *,
    half_angle: float = HALF_ANGLE,
    count: int = 200,
    threshold: float = 0.143,
    masked: bool = True,
) -> Directional:
    """Fourier shell correlation in a double cone about every direction of a half sphere.

    FSC(k, d) = Re sum F_a conj(F_b) / sqrt(sum |F_a|^2 sum |F_b|^2) over the q of shell k within ``half_angle`` of d or
    -d. In low shells, where a cone would hold fewer than 30 coefficients, it is opened until it does.

    Args:
        a: first map.
        b: the other, on the same grid, laid on the first.
        half_angle: of a cone in degrees.
        count: directions, spread evenly.
        threshold: 0.143 between half maps, 0.5 against a truth.
        masked: compare inside the soft sphere of the box's diameter, outside which a turned map is not known.

    Raises:
        ValueError: for maps on different grids or not finite, fewer than 12 directions, or numbers out of their range.
        TypeError: if a map is complex.
    """
    for name, map in (("the first map", a), ("the second map", b)):
        check_map(name, map, a)
    if not 1 <= half_angle <= 90:
        raise ValueError(f"half_angle must be between 1 and 90 degrees; got {half_angle}")
    if count < 12:
        raise ValueError(f"count must be at least 12 directions; got {count}")
    ball = sphere(a.box) if masked else torch.ones(())
    first, second = ball * centred(a.values), ball * centred(b.values)
    axes = half_sphere(count)
    curves, sizes = _curves(fourier.fft3(first), fourier.fft3(second), axes, math.radians(half_angle))
    floor = ONE_SIDED / (sizes * share(ball)).clamp(min=1).sqrt()
    floor = torch.where(sizes > 1.2 * FEWEST, floor, 0.0)
    above = curves - (floor - threshold).clamp(min=0)
    found = [resolution(curve, a.voxel_size, a.box, threshold) for curve in above]
    order = sorted(range(count), key=lambda index: _reach(found[index]))
    whole = fsc(first, second)
    low, high = (curves.quantile(part, 0) for part in (0.1, 0.9))
    return Directional(
        directions=axes.tolist(),
        resolution=[one.angstrom for one in found],
        best=found[order[-1]].angstrom,
        worst=found[order[0]].angstrom,
        best_direction=axes[order[-1]].tolist(),
        worst_direction=axes[order[0]].tolist(),
        sphericity=_sphericity(axes, torch.tensor([_reach(one) for one in found], dtype=torch.float64)),
        fsc=whole.tolist(),
        fsc_low=low.tolist(),
        fsc_high=high.tolist(),
        spread=curves.std(0).tolist(),
        floor=floor.tolist(),
        threshold=threshold,
        half_angle=half_angle,
        nyquist=2 * a.voxel_size,
    )


def half_sphere(count: int) -> Float[torch.Tensor, "n 3"]:
    """Unit vectors x, y, z spread evenly over the half with z > 0 (golden spiral), float64."""
    index = torch.arange(count, dtype=torch.float64)
    z = 1 - (index + 0.5) / count
    turn = math.pi * (1 + math.sqrt(5)) * index
    flat = (1 - z.square()).sqrt()
    return torch.stack([flat * turn.cos(), flat * turn.sin(), z], 1)


def _curves(
    one: torch.Tensor, two: torch.Tensor, axes: torch.Tensor, half_angle: float
) -> tuple[Float[torch.Tensor, "n shells"], Float[torch.Tensor, " shells"]]:
    """Correlation per direction and shell, and the mean number of coefficients of a cone."""
    box = len(one)
    last = (box - 1) // 2
    shells = fourier.shells(one.shape)
    qx = fourier.frequencies(box).double()
    products = torch.stack([(one * two.conj()).real, one.abs().square(), two.abs().square()])
    totals = [1e-26 * float(values.sum()) for values in products[1:]]
    curves, sizes = torch.ones(len(axes), last + 1, dtype=torch.float64), torch.ones(last + 1, dtype=torch.float64)
    for shell in range(1, last + 1):
        z, y, x = (shells == shell).nonzero().unbind(1)
        points = torch.stack([qx[x], qx[y], qx[z]], 1)
        opened = max(1 - math.cos(half_angle), min(1.0, FEWEST / len(points)))  # share of the sphere in both cones
        edge = (1 - opened) * points.norm(dim=1) - 1e-9
        values = products[:, z, y, x]
        sums, inside = [], []
        for chunk in axes.split(max(1, (1 << 24) // len(points))):
            near = ((chunk @ points.mT).abs() >= edge).double()
            sums.append(near @ values.mT)
            inside.append(near.sum(1))
        cross, first, second = torch.cat(sums).unbind(1)
        held = (first > totals[0]) & (second > totals[1])
        curves[:, shell] = torch.where(held, cross / torch.where(held, first * second, 1.0).sqrt(), 0.0).clamp(-1, 1)
        sizes[shell] = torch.cat(inside).mean()
    return curves, sizes


def _reach(found: Resolution) -> float:
    """Spatial frequency up to which a direction is resolved, 0 for none."""
    return 0.0 if found.angstrom is None else 1 / found.angstrom


def _sphericity(axes: torch.Tensor, reach: torch.Tensor) -> float:
    """Of the mesh on both halves of the sphere, over that of the mesh of a ball; 0 where no direction is resolved."""
    from scipy.spatial import ConvexHull

    if not float(reach.max()) > 0:
        return 0.0
    points = torch.cat([axes, -axes])
    faces = torch.from_numpy(ConvexHull(points.numpy()).simplices).long()

    def of(radii: torch.Tensor) -> float:
        p, q, r = (points * torch.cat([radii, radii])[:, None])[faces].unbind(1)
        volume = (torch.linalg.det(torch.stack([p, q, r], 1)).abs() / 6).sum()
        area = torch.linalg.cross(q - p, r - p).norm(dim=1).sum() / 2
        return float(math.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area)

    return of(reach / reach.max()) / of(torch.ones_like(reach))
