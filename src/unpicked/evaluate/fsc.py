"""Fourier shell correlation of two maps, its error bar, and the resolution read from it.

Hard shells round(|q|), sums in float64, no interpolated shells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.ops import fourier


@dataclass(frozen=True)
class Resolution:
    """Where a Fourier shell correlation first falls below a threshold.

    Attributes:
        angstrom: the resolution in angstrom; None ("none") where shell 1 is below the threshold already.
        at_nyquist: True where the curve never falls below the threshold; ``angstrom`` is then 2 voxels.
    """

    angstrom: float | None
    at_nyquist: bool


def fsc(first: Float[torch.Tensor, "n n n"], second: Float[torch.Tensor, "n n n"]) -> Float[torch.Tensor, " shells"]:
    """Fourier shell correlation Re sum F1 conj(F2) / sqrt(sum |F1|^2 sum |F2|^2) of two maps on one grid.

    Shell k holds the coefficients with round(|q|) = k; k = 0 .. (N - 1) // 2 (van Heel & Schatz 2005, without
    interpolation). A shell in which either map has no power has correlation 0.

    Args:
        first: ``(n, n, n)`` values, axes z, y, x, any unit.
        second: the same, on the same grid.

    Returns:
        ``((n - 1) // 2 + 1,)`` float64 on the CPU, the shell index is the position.

    Raises:
        ValueError: if the shapes differ, are not cubes of at least 4 voxels, or a value is not finite.
    """
    for name, values in (("first", first), ("second", second)):
        if values.dim() != 3 or len(set(values.shape)) != 1 or values.shape[0] < 4:
            raise ValueError(f"{name} must be a cube (n, n, n) with n >= 4; got shape {tuple(values.shape)}")
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"{name} must be finite; found NaN or infinite voxels; repair the map first")
    if first.shape != second.shape:
        raise ValueError(
            f"maps must lie on one grid; got {tuple(first.shape)} and {tuple(second.shape)}; use Map.rescale"
        )
    one = fourier.fft3(first.detach().double().cpu())
    two = fourier.fft3(second.detach().double().cpu())
    cross = fourier.shell_sum((one * two.conj()).real)
    powers = fourier.shell_sum(one.abs().square()), fourier.shell_sum(two.abs().square())
    # rounding noise of a double transform is no power: an empty shell must read 0, not +-1
    floors = [1e-26 * power.sum() for power in powers]
    empty = (powers[0] <= floors[0]) | (powers[1] <= floors[1])
    scale = torch.where(empty, torch.ones_like(cross), (powers[0] * powers[1]).sqrt())
    return torch.where(empty, torch.zeros_like(cross), cross / scale).clamp(-1, 1)


def shell_counts(box: int) -> Float[torch.Tensor, " shells"]:
    """Number n_k of Fourier coefficients in each full shell 0 .. (N - 1) // 2 of a cube, float64.

    For a real map it is also the number of independent real numbers in the shell.

    Raises:
        ValueError: if box < 4.
    """
    if box < 4:
        raise ValueError(f"box must be at least 4 voxels; got {box}")
    return fourier.shell_sum(torch.ones(box, box, box, dtype=torch.float64))


def fsc_error(
    curve: Float[torch.Tensor, " shells"], counts: Float[torch.Tensor, " shells"]
) -> Float[torch.Tensor, " shells"]:
    """Standard deviation of a Fourier shell correlation, about (1 - FSC^2) / sqrt(n_k).

    Args:
        curve: ``(shells,)`` from :func:`fsc`.
        counts: ``(shells,)`` coefficients in the full shell (:func:`shell_counts`), times the mask's volume
            fraction where the maps are masked.

    Raises:
        ValueError: if the lengths differ or a count is not positive.
    """
    if curve.shape != counts.shape:
        raise ValueError(f"counts must have one number per shell; got {tuple(counts.shape)} for {tuple(curve.shape)}")
    if not bool((counts > 0).all()):
        smallest = float(counts.min())
        raise ValueError(f"counts must be positive; the smallest is {smallest:g}; try shell_counts(box)")
    return (1 - curve.double().square()) / counts.double().sqrt()


def fsc_interval(
    curve: Float[torch.Tensor, " shells"], counts: Float[torch.Tensor, " shells"], level: float = 0.95
) -> tuple[Float[torch.Tensor, " shells"], Float[torch.Tensor, " shells"]]:
    """Confidence interval of a Fourier shell correlation, tanh(atanh F -+ z / sqrt(n_k - 3)) (Fisher 1921).

    Unlike F -+ :func:`fsc_error` it never leaves -1 .. 1, and is wider below than above. Shells of three numbers or
    fewer tell nothing: -1 to 1.

    Args:
        curve: ``(shells,)`` from :func:`fsc`.
        counts: as for :func:`fsc_error`.
        level: probability, above 0 and below 1.

    Returns:
        Lower and upper ends.

    Raises:
        ValueError: as :func:`fsc_error`, and for a level outside its range.
    """
    fsc_error(curve, counts)  # the same checks
    if not 0 < level < 1:
        raise ValueError(f"level must be a probability above 0 and below 1; got {level}")
    z = math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))
    centre = curve.double().clamp(-1 + 1e-12, 1 - 1e-12).atanh()
    known = counts.double() > 3
    spread = z / torch.where(known, counts.double() - 3, 1.0).sqrt()
    ones = torch.ones_like(centre)
    return torch.where(known, (centre - spread).tanh(), -ones), torch.where(known, (centre + spread).tanh(), ones)


def resolution(curve: Float[torch.Tensor, " shells"], voxel_size: float, box: int, threshold: float) -> Resolution:
    """Resolution N a / k at the first downward crossing of a threshold, linear between shells.

    Use 0.5 against a known truth and 0.143 between independent halves (Rosenthal & Henderson 2003).

    Args:
        curve: ``(shells,)`` from :func:`fsc`; shell 0 is not looked at.
        voxel_size: a, angstrom.
        box: N, voxels.
        threshold: between 0 and 1.

    Returns:
        2 a with ``at_nyquist`` where the curve never falls; None where shell 1 is below the threshold.

    Raises:
        ValueError: for a curve of fewer than 2 shells or with NaN, or numbers outside their range.
    """
    if curve.dim() != 1 or len(curve) < 2 or not bool(torch.isfinite(curve).all()):
        raise ValueError(f"curve must be finite, with 2 or more shells; got shape {tuple(curve.shape)}")
    if not (math.isfinite(voxel_size) and voxel_size > 0 and box >= 4 and 0 < threshold < 1):
        raise ValueError(
            "expected voxel_size > 0 in angstrom, box >= 4 and 0 < threshold < 1;"
            f" got voxel_size {voxel_size}, box {box}, threshold {threshold}"
        )
    values = [float(v) for v in curve]
    for k in range(1, len(values)):
        if values[k] < threshold:
            if k == 1:
                return Resolution(None, False)
            part = (values[k - 1] - threshold) / (values[k - 1] - values[k])
            return Resolution(box * voxel_size / (k - 1 + part), False)
    return Resolution(2 * voxel_size, True)


def fsc_area(curve: Float[torch.Tensor, " shells"]) -> float:
    """Mean of the curve over the shells 1 .. (N - 1) // 2: the area under it up to Nyquist, 1 at most.

    Raises:
        ValueError: for a curve of fewer than 2 shells.
    """
    if curve.dim() != 1 or len(curve) < 2:
        raise ValueError(f"curve must have at least the shells 0 and 1; got shape {tuple(curve.shape)}")
    return float(curve[1:].double().mean())
