"""Local resolution: how far two maps agree around every voxel.

The correlation of two maps in a band of frequencies, inside a soft ball about every voxel: the local Fourier shell
correlation of Cardone, Heymann & Steven (2013) but for the order of window and band, so that one pass over the shells
gives all voxels at once. A band is no narrower than the window allows, N / W shells for a window W wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.evaluate.fsc import fsc, resolution
from unpicked.evaluate.halves import check_map, check_mask, random_phases
from unpicked.evaluate.resample import centred
from unpicked.ops import fourier, window

WIDTHS = 5.0  # of the resolution of the whole map: default diameter of the window
LEAST = 7  # voxels: its least default
FLOOR = 0.95  # of the voxels of maps with random phases agree less than the floor
STRUCTURE = 0.1  # of the highest local power: where the figures are taken without a mask
_DRAWS = 2  # pairs of maps with random phases


@dataclass(frozen=True, eq=False)
class LocalResolution:
    """Resolution around every voxel.

    Attributes:
        map: angstrom per voxel, from ``nyquist`` to ``window``; the window's diameter stands for "no finer than that".
        window: diameter of the soft ball, angstrom.
        threshold: of the local correlation.
        floor: per band of the shells 0 .. (N - 1) // 2 what 95 % of the voxels of maps with the same amplitudes and
            random phases stay below; a voxel's curve must stay above it as well. Shells that the window cannot tell
            from the mean read 1.
        nyquist: two voxels, angstrom.
        median: over the voxels of the structure, angstrom; a tenth of them are better than ``best``, a tenth worse than
            ``worst``.
        best: see there.
        worst: see there.
        at_nyquist: share of these voxels that agree up to Nyquist.
        unresolved: share that does not agree in any band.
        voxels: how many they are.
    """

    map: Map
    window: float
    threshold: float
    floor: list[float]
    nyquist: float
    median: float
    best: float
    worst: float
    at_nyquist: float
    unresolved: float
    voxels: int

    def to_json(self) -> dict[str, object]:
        """Plain numbers and lists for ``json.dumps``, without the map."""
        return {name: value for name, value in self.__dict__.items() if name != "map"}


def local_resolution(
    a: Map,
    b: Map,
    *,
    mask: Map | None = None,
    diameter: float | None = None,
    threshold: float = 0.143,
) -> LocalResolution:
    """Local resolution of two maps in one orientation: half maps (0.143), or a map and a truth (0.5).

    At voxel p and shell k, c_k(p) = sum_x w(x - p) a_k(x) b_k(x) / sqrt(sum w a_k^2 sum w b_k^2): a_k and b_k are the
    maps in a raised-cosine band about shell k, w a raised-cosine ball. The resolution is where c_k(p) first falls below
    the threshold, or below the floor of random phases, linear between shells. What lies outside the box is left out of
    the sums.

    Args:
        a: first map.
        b: the other, on the same grid, laid on the first (:func:`unpicked.evaluate.halves.halves` returns it).
        mask: values 0 to 1; the figures are taken where it is at least 0.5. None means where the local power is at
            least a tenth of its maximum. The map itself has a value everywhere.
        diameter: of the window in angstrom; None means five times the resolution of the whole maps, at least seven
            voxels.
        threshold: between 0 and 1.

    Raises:
        ValueError: for maps on different grids or not finite, a window of less than three voxels or larger than the
            map, a threshold outside its range, an unusable mask, or maps that hold nothing.
        TypeError: if a map is complex.
    """
    for name, map in (("the first map", a), ("the second map", b)):
        check_map(name, map, a)
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie between 0 and 1; got {threshold}")
    curve = fsc(a.values, b.values)
    width = window_width(a, diameter, resolution(curve, a.voxel_size, a.box, threshold).angstrom)
    first, second = centred(a.values), centred(b.values)
    view = _View(a.box, width)
    curves = [view.local(first, second, shell) for shell in view.shells]
    floor = [view.floor(first, second, shell) for shell in view.shells]
    sizes = _crossings(curves, [max(threshold, level) for level in floor], view)
    inside = _structure(view, first + second, None if mask is None else check_mask(mask, a))
    found = sizes[inside].sort().values * a.voxel_size
    best, middle, worst = (float(found[min(len(found) - 1, int(part * len(found)))]) for part in (0.1, 0.5, 0.9))
    return LocalResolution(
        map=Map((sizes * a.voxel_size).float(), a.voxel_size, a.origin),
        window=width * a.voxel_size,
        threshold=threshold,
        floor=[1.0] * view.shells.start + floor,
        nyquist=2 * a.voxel_size,
        median=middle,
        best=best,
        worst=worst,
        at_nyquist=float((found <= 2 * a.voxel_size * (1 + 1e-9)).double().mean()),
        unresolved=float((found >= width * a.voxel_size * (1 - 1e-9)).double().mean()),
        voxels=len(found),
    )


@dataclass(frozen=True)
class _View:
    """Maps of ``box`` voxels seen through windows of ``width`` voxels, band by band."""

    box: int
    width: float

    @property
    def shells(self) -> range:
        """Those whose bands leave out the mean and end below Nyquist."""
        return range(min(max(1, math.ceil(self.box / self.width)), (self.box - 1) // 2), (self.box - 1) // 2 + 1)

    @cached_property
    def _radius(self) -> torch.Tensor:
        return fourier.radius((self.box,) * 3)[..., : self.box // 2 + 1]

    @cached_property
    def _ball(self) -> torch.Tensor:
        """Transform of the window on a grid on which nothing wraps around."""
        shape = (self.box + math.ceil(self.width / 2),) * 3
        return torch.fft.rfftn(torch.fft.ifftshift(window.soft_ball(shape, 0.0, self.width / 2)))

    def band(self, values: torch.Tensor, shell: int) -> Float[torch.Tensor, "n n n"]:
        """The part of a map about a shell: a raised cosine, as narrow as the window allows."""
        away = (self._radius - shell).abs() / max(1.0, self.box / self.width)
        profile = torch.where(away < 1, 0.5 + 0.5 * torch.cos(math.pi * away), 0.0)
        return torch.fft.irfftn(torch.fft.rfftn(values) * profile, s=values.shape)

    def around(self, values: torch.Tensor) -> Float[torch.Tensor, "n n n"]:
        """Sums under the window about every voxel."""
        shape = (self.box + math.ceil(self.width / 2),) * 3
        summed = torch.fft.irfftn(torch.fft.rfftn(values, s=shape) * self._ball, s=shape)
        return summed[: self.box, : self.box, : self.box]

    def local(self, first: torch.Tensor, second: torch.Tensor, shell: int) -> Float[torch.Tensor, "n n n"]:
        """Correlation in a band about every voxel; 0 where either map holds nothing."""
        one, two = self.band(first, shell), self.band(second, shell)
        cross, powers = self.around(one * two), [self.around(part.square()) for part in (one, two)]
        empty = [1e-20 * float(values.square().mean()) * self.width**3 for values in (first, second)]
        held = (powers[0] > empty[0]) & (powers[1] > empty[1])
        found = cross / torch.where(held, powers[0] * powers[1], 1.0).sqrt()
        return torch.where(held, found, 0.0).clamp(-1, 1)

    def floor(self, first: torch.Tensor, second: torch.Tensor, shell: int) -> float:
        """What most voxels of maps with the same amplitudes and random phases stay below."""
        drawn = [
            self.local(random_phases(first, 0, 2 * draw), random_phases(second, 0, 2 * draw + 1), shell).flatten()
            for draw in range(_DRAWS)
        ]
        found = torch.cat(drawn).sort().values
        return float(found[int(FLOOR * len(found))])


def _crossings(curves: Sequence[torch.Tensor], limits: Sequence[float], view: _View) -> Float[torch.Tensor, "n n n"]:
    """Where every voxel's curve first falls below the limits, N / k in voxels."""
    sizes = torch.full_like(curves[0], view.width)
    alive = torch.ones_like(sizes, dtype=torch.bool)
    before = torch.zeros_like(sizes)
    for shell, curve, limit in zip(view.shells, curves, limits, strict=True):
        above = curve - limit
        falls = alive & (above < 0)
        if shell > view.shells.start:
            place = shell - 1 + before / (before - above).clamp(min=1e-12)
            sizes = torch.where(falls, view.box / place, sizes)
        alive, before = alive & ~falls, above
    return torch.where(alive, 2.0, sizes).clamp(2.0, view.width)


def _structure(view: _View, both: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Voxels over which the figures are taken."""
    if mask is None:
        power = view.around(both.square())
        return power >= STRUCTURE * power.max()
    inside = mask >= 0.5
    if not bool(inside.any()):
        raise ValueError(f"the mask must reach 0.5 somewhere; its highest value is {float(mask.max()):g}")
    return inside


def window_width(a: Map, diameter: float | None, whole: float | None = None) -> float:
    """Diameter of the window in voxels.

    Args:
        a: a map of the grid.
        diameter: angstrom; None means a default by ``whole``.
        whole: resolution of the whole map, angstrom.

    Raises:
        ValueError: for a window of less than three voxels or larger than the map.
    """
    if diameter is None:
        wanted = WIDTHS * (whole or a.box * a.voxel_size) / a.voxel_size
        return float(min(a.box, max(LEAST, wanted)))
    width = diameter / a.voxel_size
    if not 3 <= width <= a.box * (1 + 1e-9):
        raise ValueError(
            f"the window must be between {3 * a.voxel_size:g} A (3 voxels) and the map's {a.box * a.voxel_size:g} A "
            f"wide; got {diameter:g} A"
        )
    return width
