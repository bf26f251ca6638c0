"""Everything one asks about an estimated map when the truth is known."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.evaluate.align import Alignment, Hand, align, apply, masked_cosine
from unpicked.evaluate.fsc import fsc, fsc_area, fsc_interval, resolution, shell_counts
from unpicked.evaluate.halves import share
from unpicked.evaluate.resample import match_grid, sphere
from unpicked.ops import fourier


@dataclass(frozen=True)
class Comparison:
    """Figures of an estimate against a truth, after the best mirror, rotation and shift of the estimate.

    Attributes:
        correlation: cosine after removal of the mean, in a soft spherical mask of the box's diameter.
        relative_error: ||x - x*|| / ||x*|| over all voxels of the aligned estimate x and the truth x*; no
            scale is fitted.
        resolution_05: angstrom where the FSC falls below 0.5 (the figure to quote against a truth); None
            where it does so in shell 1 already; ``nyquist`` where it never does.
        resolution_0143: the same at 0.143, a lenient figure against a truth.
        at_nyquist: whether the FSC never falls below 0.5.
        nyquist: two voxels of the truth's grid, angstrom.
        fsc: curve of the shells 0 .. (N - 1) // 2, both maps without background and inside the soft sphere.
        fsc_low: lower end of the curve's 95 % confidence interval (:func:`unpicked.evaluate.fsc.fsc_interval`).
        fsc_high: upper end.
        fsc_area: mean of the curve over the shells from 1.
        hand: "same" or "mirrored": the better hand of the estimate.
        hand_margin: score of that hand minus score of the other.
        rotation: 3 x 3 rows of the active rotation of the (mirrored) estimate.
        shift: x, y, z in angstrom, after the rotation.
        scale: the number s that makes ||s x - x*|| smallest.
        hand_decidable: False where the margin is below 0.001 or 3 standard deviations.
        symmetry: the group that was named.
        notes: sentences for the reader.
    """

    correlation: float
    relative_error: float
    resolution_05: float | None
    resolution_0143: float | None
    at_nyquist: bool
    nyquist: float
    fsc: list[float]
    fsc_low: list[float]
    fsc_high: list[float]
    fsc_area: float
    hand: Hand
    hand_margin: float
    rotation: list[list[float]]
    shift: list[float]
    scale: float
    hand_decidable: bool
    symmetry: str
    notes: tuple[str, ...]

    @property
    def cosine(self) -> float:
        """Cosine of the aligned estimate and the truth over all voxels, no mean taken off.

        At the best scale an error e is a cosine of sqrt(1 - e^2). ``correlation`` takes the mean off: that is stricter
        for what fills its box evenly.
        """
        over = 2 * self.scale - 1  # (2 <x, x*> - ||x||^2) / ||x||^2, and the same over ||x*||^2 is 1 - error^2
        share = (1 - self.relative_error**2) / over if abs(over) > 1e-9 else self.scale**-2
        return self.scale * math.sqrt(max(share, 0.0))

    def to_json(self) -> dict[str, object]:
        """Plain numbers, strings and lists for ``json.dumps``; a missing resolution is None (null)."""
        return {**self.__dict__, "notes": list(self.notes)}


def compare(estimate: Map, truth: Map, *, symmetry: str = "C1") -> Comparison:
    """Align an estimate to a truth over rotations, shifts and both hands, and measure the difference.

    See :func:`compared`, which also returns the estimate laid on the truth.
    """
    return compared(estimate, truth, symmetry=symmetry)[0]


def compared(estimate: Map, truth: Map, *, symmetry: str = "C1") -> tuple[Comparison, Map]:
    """The figures of an estimate against a truth, and the estimate laid on the truth.

    The alignment maximises the cosine of the estimate
    and the truth moved onto it; every figure is then taken on the truth's grid with the estimate moved.

    Args:
        estimate: the map to judge; brought to the truth's grid by ``evaluate.align.match_grid``.
        truth: the map to judge by.
        symmetry: "C1", "Cn" or "Dn" of the truth. Copies under the group are the same map, so it changes no
            figure; the rotation is then one of the equivalent ones, and a note says so.

    Raises:
        ValueError: for a map that is not finite, constant or empty, for grids that cannot be matched, or for
            an unknown symmetry.
        TypeError: if a map is complex or symmetry is no string.
    """
    _check_symmetry(symmetry)
    matched = match_grid(estimate, truth)
    alignment = align(matched, truth)
    laid = apply(alignment, matched, truth)
    first = laid.values.detach().double().cpu()
    second = truth.values.detach().double().cpu()
    mask = sphere(truth.box)
    curve = fsc(mask * _without_background(first), mask * _without_background(second))
    at_half, at_low = (resolution(curve, truth.voxel_size, truth.box, level) for level in (0.5, 0.143))
    low, high = fsc_interval(curve, shell_counts(truth.box) * share(mask))
    comparison = Comparison(
        correlation=float(masked_cosine(first.flatten(), second.flatten(), mask.flatten())),
        relative_error=float((first - second).norm() / second.norm()),
        resolution_05=at_half.angstrom,
        resolution_0143=at_low.angstrom,
        at_nyquist=at_half.at_nyquist,
        nyquist=2 * truth.voxel_size,
        fsc=[float(value) for value in curve],
        fsc_low=low.tolist(),
        fsc_high=high.tolist(),
        fsc_area=fsc_area(curve),
        hand=alignment.hand,
        hand_margin=alignment.hand_margin,
        rotation=[[float(value) for value in row] for row in alignment.rotation],
        shift=[float(value) for value in alignment.shift],
        scale=float((first * second).sum() / first.square().sum().clamp_min(1e-300)),
        hand_decidable=alignment.hand_decidable,
        symmetry=symmetry,
        notes=_notes(alignment, estimate, truth, symmetry),
    )
    return comparison, laid


def aligned(estimate: Map, truth: Map) -> Map:
    """The estimate on the truth's grid, laid on the truth by the best mirror, rotation and shift.

    Raises:
        ValueError: as :func:`compare`.
        TypeError: if a map is complex.
    """
    matched = match_grid(estimate, truth)
    return apply(align(matched, truth), matched, truth)


def _notes(alignment: Alignment, estimate: Map, truth: Map, symmetry: str) -> tuple[str, ...]:
    notes = []
    if not alignment.hand_decidable:
        notes.append(
            f"hand undecidable: both hands fit alike (margin {alignment.hand_margin:.4f},"
            f" {alignment.hand_z:.1f} standard deviations)."
        )
    if symmetry != "C1":
        notes.append(f"The rotation is one of the equivalent ones under {symmetry}.")
    if estimate.box != truth.box or abs(estimate.voxel_size / truth.voxel_size - 1) > 1e-3:
        notes.append(
            f"The estimate was brought from {estimate.box} voxels of {estimate.voxel_size:g} A"
            f" to {truth.box} voxels of {truth.voxel_size:g} A."
        )
    return tuple(notes)


def _without_background(values: torch.Tensor) -> torch.Tensor:
    size = len(values)
    return values - values[fourier.distances((size,) * 3) >= size / 2].mean()


def _check_symmetry(symmetry: str) -> None:
    if not isinstance(symmetry, str):
        raise TypeError(f'symmetry must be a string such as "C1", "C4" or "D2"; got {type(symmetry).__name__}')
    if not re.fullmatch(r"[CD][1-9][0-9]*", symmetry):
        raise ValueError(f'symmetry must be "Cn" or "Dn" with n >= 1; got {symmetry!r}; try "C1", "C4" or "D2"')
