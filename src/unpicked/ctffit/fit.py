"""Defocus and astigmatism that explain the rings of a power spectrum."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from unpicked._lazy import torch
from unpicked.ctffit.spectrum import Spectrum
from unpicked.ops.ctf import ctf, electron_wavelength

KNOT = 0.045  # 1/angstrom between the knots of background and envelope: wider than the rings of 0.3 um
COARSE = 1 / 6.0  # 1/angstrom: the exhaustive search looks at no finer rings
SECTORS = 24  # of the half plane
STARTS = 3  # maxima of the radial search that are followed up
CLIP = 12.0  # power over its smooth level at which a sample is a spot, not noise
WEIGHT_FLOOR = 0.25  # of the smooth level: no sample weighs more than 16 times another


@dataclass(frozen=True)
class Lens:
    """What is known of the microscope.

    Attributes:
        voltage_kv: acceleration voltage, kV.
        cs_mm: spherical aberration, mm.
        amplitude_contrast: in [0, 1].
    """

    voltage_kv: float
    cs_mm: float
    amplitude_contrast: float

    def square(self, sx: torch.Tensor, sy: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """CTF^2 ``(*b, *s)`` for ``(*b, 4)`` numbers: mean defocus, the two parts of astigmatism, phase shift.

        The parts are half of u - v times cosine and sine of twice the angle: smooth where u = v.
        """
        z, c, d, phase = numbers.double().unbind(-1)
        half = torch.hypot(c, d)
        return ctf(
            sx,
            sy,
            defocus_u=z + half,
            defocus_v=z - half,
            astigmatism_angle=torch.rad2deg(torch.atan2(d, c)) / 2,
            phase_shift=phase,
            voltage_kv=self.voltage_kv,
            cs_mm=self.cs_mm,
            amplitude_contrast=self.amplitude_contrast,
        ).square()

    def stride(self, s: float) -> float:
        """Change of defocus in angstrom that turns the phase at this frequency by pi / 4."""
        return 1 / (4 * float(electron_wavelength(self.voltage_kv)) * s**2)


@dataclass(frozen=True)
class Box:
    """Where to look.

    Attributes:
        defocus: least and largest mean defocus, angstrom.
        astigmatism: largest u - v, angstrom.
    """

    defocus: tuple[float, float]
    astigmatism: float

    def inside(self, numbers: torch.Tensor) -> torch.Tensor:
        """The nearest numbers (see :class:`Fitted`) within."""
        out = numbers.clone()
        out[0] = numbers[0].clamp(*self.defocus)
        half, most = float(torch.hypot(out[1], out[2])), min(self.astigmatism / 2, 0.95 * float(out[0]))
        if half > most:
            out[1:3] *= most / half
        return out


@dataclass(frozen=True, eq=False)
class Fitted:
    """A model of the spectrum: level (background + envelope CTF^2), background and envelope smooth and not negative.

    Attributes:
        numbers: mean defocus, two parts of astigmatism (angstrom), phase shift (degrees), ``(4,)``.
        covariance: of the numbers that were fitted, ``(4, 4)``, zero for a fixed phase shift.
        background: coefficients on :func:`splines`.
        envelope: the same.
        gain: twice the log-likelihood gained over a background without rings, by independent samples.
        cost: weighted mean square of the residual.
    """

    numbers: torch.Tensor
    covariance: torch.Tensor
    background: torch.Tensor
    envelope: torch.Tensor
    gain: float
    cost: float


@dataclass(frozen=True, eq=False)
class Flat:
    """A spectrum over its smooth level, with the functions in which background and envelope are written.

    Attributes:
        spectrum: the samples.
        values: power over level, spots clipped, ``(n,)``.
        level: smooth radial power of each sample.
        basis: cubic B-splines at each sample, ``(n, k)``.
        edges: least and largest frequency of the splines, 1/angstrom.
    """

    spectrum: Spectrum
    values: torch.Tensor
    level: torch.Tensor
    basis: torch.Tensor
    edges: tuple[float, float]


def flatten(spectrum: Spectrum) -> Flat:
    """Divide by a smooth radial level: a polynomial through the logarithm of the radial mean."""
    s, shell = spectrum.s, spectrum.shell
    first, count = int(shell.min()), int(shell.max() - shell.min()) + 1
    number = torch.bincount(shell - first, minlength=count).double()
    mean = torch.bincount(shell - first, spectrum.power, count) / number.clamp(min=1)
    held = number > 0
    place = (torch.arange(count) + first).double() * spectrum.step
    edges = float(s.min()), float(s.max())
    powers = (2 * (place - edges[0]) / (edges[1] - edges[0]) - 1)[:, None] ** torch.arange(6)
    weight = number.sqrt()[:, None]
    fit = torch.linalg.lstsq((weight * powers)[held], (weight[:, 0] * mean.clamp(min=1e-300).log())[held, None])
    every = (2 * (s - edges[0]) / (edges[1] - edges[0]) - 1)[:, None] ** torch.arange(6)
    level = (every @ fit.solution)[:, 0].exp()
    values = (spectrum.power / level).clamp(max=CLIP)
    return Flat(spectrum, values, level, splines(s, edges), edges)


def splines(s: Float[torch.Tensor, " n"], edges: tuple[float, float]) -> Float[torch.Tensor, "n k"]:
    """Cubic B-splines on even knots over a band of frequencies; they add up to 1."""
    pieces = max(2, round((edges[1] - edges[0]) / KNOT))
    place = ((s - edges[0]) / (edges[1] - edges[0]) * pieces).clamp(0, pieces)
    centres = torch.arange(-1, pieces + 2, dtype=torch.float64)
    away = (place[:, None] - centres).abs()
    return torch.where(away < 1, 2 / 3 - away.square() + away.pow(3) / 2, (2 - away).clamp(min=0).pow(3) / 6)


def fit(spectrum: Spectrum, lens: Lens, box: Box, phase: float | None) -> tuple[Fitted, Flat]:
    """Fit the rings: radial search, a grid in defocus and astigmatism by sectors, Gauss-Newton on all samples.

    The last steps are taken on a level that may depend on direction, as drift and binning make it.

    Args:
        spectrum: the samples within the band.
        lens: the microscope.
        box: where to look.
        phase: phase shift in degrees; None looks for it.
    """
    top = float(spectrum.s.max())
    narrow = spectrum.below(COARSE) if top > 1.05 * COARSE else spectrum
    flat = flatten(narrow)
    found = [_sectors(flat, lens, start, box) for start in _radial(flat, lens, box.defocus, phase)]
    best = sorted(found, key=lambda one: one[0])[:2]
    ends = [_newton(flat, lens, numbers, phase is None, box) for _, numbers in best]
    end = min(ends, key=lambda one: one.cost)
    if narrow is not spectrum:
        flat = flatten(spectrum)
        end = _newton(flat, lens, end.numbers, phase is None, box)
    flat = _directed(flat, lens, end)
    return _newton(flat, lens, end.numbers, phase is None, box), flat


def model(flat: Flat, lens: Lens, fitted: Fitted) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Background, envelope and CTF^2 of every sample, all over the smooth level."""
    spectrum = flat.spectrum
    return (
        flat.basis @ fitted.background,
        flat.basis @ fitted.envelope,
        lens.square(spectrum.sx, spectrum.sy, fitted.numbers),
    )


def _directed(flat: Flat, lens: Lens, fitted: Fitted) -> Flat:
    """The spectrum over a level that depends smoothly on direction: two and four periods around the circle."""
    spectrum = flat.spectrum
    background, envelope, square = model(flat, lens, fitted)
    expected = (background + envelope * square).clamp(min=WEIGHT_FLOOR)
    angle = torch.atan2(spectrum.sy, spectrum.sx)
    waves = torch.stack([wave(turns * angle) for turns in (2, 4) for wave in (torch.cos, torch.sin)], 1)
    columns = (flat.basis[:, :, None] * waves[:, None, :]).flatten(1)
    normal = columns.T @ columns
    normal += 1e-6 * normal.diagonal().mean() * torch.eye(len(normal), dtype=torch.float64)
    ripple = columns @ torch.linalg.solve(normal, columns.T @ (flat.values / expected - 1))
    factor = (1 + ripple).clamp(0.5, 2.0)
    return replace(flat, values=(flat.values / factor), level=flat.level * factor)


def _radial(flat: Flat, lens: Lens, defocus: tuple[float, float], phase: float | None) -> list[torch.Tensor]:
    """Starts from the radial mean: the best maxima of an exhaustive search in defocus (and phase shift)."""
    spectrum = flat.spectrum
    shell = spectrum.shell - spectrum.shell.min()
    number = torch.bincount(shell).double()
    y = torch.bincount(shell, flat.values) / number.clamp(min=1)
    s = torch.bincount(shell, spectrum.s) / number.clamp(min=1)
    basis = splines(s, flat.edges)
    stride = lens.stride(float(spectrum.s.max())) / 2
    z = torch.arange(defocus[0], defocus[1] + stride, stride, dtype=torch.float64).clamp(max=defocus[1])
    phases = torch.arange(0, 180, 10, dtype=torch.float64) if phase is None else torch.tensor([phase]).double()
    grid = torch.cartesian_prod(z, phases)
    numbers = torch.stack([grid[:, 0], 0 * grid[:, 0], 0 * grid[:, 0], grid[:, 1]], 1)
    costs = torch.empty(len(numbers), dtype=torch.float64)
    for first in range(0, len(numbers), 512):
        part = numbers[first : first + 512]
        square = lens.square(s, torch.zeros_like(s), part)
        costs[first : first + 512] = _costs(basis, number, y, square, square.square(), y * square)
    table = costs.reshape(len(z), len(phases))
    best, place = table.min(1)  # of all phases
    picks: list[int] = []
    apart = max(1, round(0.04 * len(z) / STARTS))
    for index in best.argsort().tolist():
        here = slice(max(0, index - 1), index + 2)
        if best[index] <= best[here].min() and all(abs(index - old) > apart for old in picks):
            picks.append(index)
        if len(picks) == STARTS:
            break
    return [numbers.reshape(len(z), len(phases), 4)[index, place[index]] for index in picks]


def _sectors(flat: Flat, lens: Lens, start: torch.Tensor, box: Box) -> tuple[float, torch.Tensor]:
    """The best point of a grid in mean defocus and astigmatism about a start, on means over sectors."""
    spectrum = flat.spectrum
    shell = spectrum.shell - spectrum.shell.min()
    shells = int(shell.max()) + 1
    angle = torch.atan2(spectrum.sy, spectrum.sx)
    sector = ((angle / math.pi + 0.5) * SECTORS).long().clamp(0, SECTORS - 1)
    cell = shell * SECTORS + sector
    count = torch.bincount(cell, minlength=shells * SECTORS).double()
    share = count.clamp(min=1)
    y = torch.bincount(cell, flat.values, shells * SECTORS) / share
    s = torch.bincount(cell, spectrum.s, shells * SECTORS) / share
    turn = torch.bincount(cell, angle, shells * SECTORS) / share
    basis = torch.zeros(shells, flat.basis.shape[1], dtype=torch.float64).index_add_(0, shell, flat.basis)
    number = torch.bincount(shell, minlength=shells).double()
    basis = basis / number.clamp(min=1)[:, None]

    stride = lens.stride(float(spectrum.s.max()))
    astigmatism = box.astigmatism
    steps = math.ceil(astigmatism / 2 / stride)
    axis = torch.arange(-steps, steps + 1).double() * (astigmatism / 2 / max(steps, 1))
    moves = torch.arange(-4, 5).double() * stride
    offsets = torch.cartesian_prod(moves, axis, axis)
    offsets = offsets[torch.hypot(offsets[:, 1], offsets[:, 2]) <= 1.001 * astigmatism / 2]
    numbers = start + torch.nn.functional.pad(offsets, (0, 1))
    numbers[:, 0].clamp_(*box.defocus)
    sx, sy = s * turn.cos(), s * turn.sin()
    mean = torch.bincount(shell, flat.values, shells) / number.clamp(min=1)
    least, answer = math.inf, start
    for part in numbers.split(128):
        square = lens.square(sx, sy, part)

        def summed(values: torch.Tensor) -> torch.Tensor:
            return (values * count).reshape(len(values), shells, SECTORS).sum(-1) / number.clamp(min=1)

        costs = _costs(basis, number, mean, summed(square), summed(square.square()), summed(square * y))
        if float(costs.min()) < least:
            least, answer = float(costs.min()), part[int(costs.argmin())]
    return least, answer


def _costs(
    basis: torch.Tensor,
    number: torch.Tensor,
    y: torch.Tensor,
    square: torch.Tensor,
    fourth: torch.Tensor,
    cross: torch.Tensor,
) -> torch.Tensor:
    """Least squares of y by background and envelope, less that of y, for many CTFs: means over shells of each.

    Args:
        basis: ``(shells, k)``.
        number: samples per shell, ``(shells,)``.
        y: mean of the values, ``(shells,)``.
        square: mean of CTF^2, ``(n, shells)``.
        fourth: mean of CTF^4.
        cross: mean of CTF^2 times values.
    """
    pairs = (basis[:, :, None] * basis[:, None, :]).flatten(1) * number[:, None]
    n, k = len(square), basis.shape[1]
    normal = torch.empty(n, 2 * k, 2 * k, dtype=torch.float64)
    normal[:, :k, :k] = pairs.sum(0).reshape(k, k)
    normal[:, k:, :k] = normal[:, :k, k:] = (square @ pairs).reshape(n, k, k)
    normal[:, k:, k:] = (fourth @ pairs).reshape(n, k, k)
    weighted = basis * number[:, None]
    right = torch.cat([(y @ weighted).expand(n, k), cross @ weighted], 1)
    x = torch.from_numpy(_not_negative(normal.numpy(), right.numpy()))
    return ((normal @ x[:, :, None])[:, :, 0] * x).sum(1) - 2 * (right * x).sum(1)


def _not_negative(normal: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares with coefficients of at least zero, from normal equations ``(*b, k, k)`` and ``(*b, k)``."""
    from scipy.optimize import nnls

    ridge = 1e-9 * np.trace(normal, axis1=-2, axis2=-1) / normal.shape[-1]
    lower = np.linalg.cholesky(normal + ridge[..., None, None] * np.eye(normal.shape[-1]))
    side = np.linalg.solve(lower, right[..., None])[..., 0]
    flat = lower.reshape(-1, *lower.shape[-2:]), side.reshape(-1, side.shape[-1])
    solved = [nnls(factor.T, value)[0] for factor, value in zip(*flat, strict=True)]
    return np.stack(solved).reshape(right.shape)


def _newton(flat: Flat, lens: Lens, start: torch.Tensor, phase_free: bool, box: Box) -> Fitted:
    """Levenberg-Marquardt steps on all samples; background and envelope are solved for at every point."""
    spectrum, basis, y = flat.spectrum, flat.basis, flat.values
    k = basis.shape[1]
    free = [0, *([1, 2] if box.astigmatism > 0 else []), *([3] if phase_free else [])]
    units = torch.tensor([100.0, 100.0, 100.0, 5.0], dtype=torch.float64)
    weights = torch.ones_like(y)

    def solved(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        design = torch.cat([basis, basis * lens.square(spectrum.sx, spectrum.sy, numbers)[:, None]], 1)
        weighted = design * weights[:, None]
        normal, right = design.T @ weighted, weighted.T @ y
        x = torch.from_numpy(_not_negative(normal.numpy(), right.numpy()))
        return design, x, (y - design @ x)

    def slopes(numbers: torch.Tensor, envelope: torch.Tensor) -> torch.Tensor:
        height = basis @ envelope
        columns = []
        for index in free:
            by = torch.zeros(4, dtype=torch.float64)
            by[index] = 0.02 * units[index]
            ends = lens.square(spectrum.sx, spectrum.sy, torch.stack([numbers + by, numbers - by]))
            columns.append((ends[0] - ends[1]) / 0.04 * height)
        return torch.stack(columns, 1)

    numbers, damping = box.inside(start.double()), 1e-3
    for _ in range(3):  # rounds of weights
        design, x, residual = solved(numbers)
        weights = (design @ x).clamp(min=WEIGHT_FLOOR).reciprocal().square()
        design, x, residual = solved(numbers)
        cost = float((weights * residual.square()).sum())
        for _ in range(20):
            joint = torch.cat([slopes(numbers, x[k:]), design[:, x > 0]], 1)
            weighted = joint * weights[:, None]
            normal, right = joint.T @ weighted, weighted.T @ residual
            moved = False
            while damping < 1e6:
                tilt = normal.diagonal().clamp(min=1e-12 * float(normal.diagonal().max()))
                step = torch.linalg.solve(normal + torch.diag(tilt * (damping + 1e-9)), right)[: len(free)]
                trial = numbers.clone()
                trial[free] += step * units[free]
                trial = box.inside(trial)
                new = solved(trial)
                value = float((weights * new[2].square()).sum())
                if value < cost:
                    moved = True
                    break
                damping *= 10
            if not moved:
                damping = 1e-3
                break
            change, numbers, (design, x, residual), cost = cost - value, trial, new, value
            damping = max(damping / 10, 1e-6)
            if change < 1e-7 * cost:
                break
    weights = (design @ x).clamp(min=WEIGHT_FLOOR).reciprocal().square()
    return _finished(flat, numbers, slopes(numbers, x[k:]), design, x, weights, free, units)


def _finished(
    flat: Flat,
    numbers: torch.Tensor,
    slopes: torch.Tensor,
    design: torch.Tensor,
    x: torch.Tensor,
    weights: torch.Tensor,
    free: list[int],
    units: torch.Tensor,
) -> Fitted:
    """The fit with its errors, and what the rings gain over a background alone."""
    basis, y = flat.basis, flat.values
    k = basis.shape[1]
    noise = float((weights * (y - design @ x).square()).sum()) / (len(y) - int((x > 0).sum()) - len(free))
    joint = torch.cat([slopes, design[:, x > 0]], 1)
    inverse = torch.linalg.pinv(joint.T @ (joint * weights[:, None]), hermitian=True)[: len(free), : len(free)]
    covariance = torch.zeros(4, 4, dtype=torch.float64)
    scale = units[free]
    rows = torch.tensor(free)
    covariance[rows[:, None], rows] = inverse * noise * flat.spectrum.correlated * scale[:, None] * scale
    # both models against the same weights, which know of no rings
    weighted = basis * weights[:, None]
    alone = torch.from_numpy(_not_negative((basis.T @ weighted).numpy(), (weighted.T @ y).numpy()))
    gain = float((weights * ((y - basis @ alone).square() - (y - design @ x).square())).sum())
    gain /= noise * flat.spectrum.correlated
    numbers = numbers.clone()
    if 3 in free:
        numbers[3] = numbers[3] % 180
    return Fitted(numbers, covariance, x[:k], x[k:], gain, noise)
