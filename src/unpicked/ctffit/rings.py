"""How well a fit follows the rings: the mean along lines of equal phase beside the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unpicked._lazy import torch
from unpicked.ctffit.fit import Fitted, Flat, Lens, model
from unpicked.ops.ctf import electron_wavelength

AGREE = 0.5  # local correlation down to which the rings fit, as in CTFFIND 4
REACH = 0.75  # rings to either side that a local correlation takes in
LEAST = 4  # samples to either side at least

Curve = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Profile:
    """The spectrum averaged along lines of equal phase, so that astigmatism does not blur it; over a smooth level.

    Attributes:
        s: spatial frequency at which the mean defocus gives that phase, 1/angstrom, ``(n,)``.
        number: samples averaged.
        level: smooth power that the others are divided by, in the image's grey values squared.
        measured: mean power.
        background: smooth part of the model without rings.
        envelope: height of the rings in the model.
        square: mean CTF^2 of the model.
        rings: phase of the model over pi.
        agreement: local correlation of measured and modelled rings; NaN where nothing varies.
    """

    s: Curve
    number: Curve
    level: Curve
    measured: Curve
    background: Curve
    envelope: Curve
    square: Curve
    rings: Curve
    agreement: Curve

    @property
    def modelled(self) -> Curve:
        """The model of ``measured``."""
        return self.background + self.envelope * self.square

    @property
    def correlation(self) -> float:
        """Correlation of measured and modelled oscillation over the whole band, in [-1, 1]."""
        ours = self.measured - self.background - self.envelope / 2
        theirs = self.envelope * (self.square - 0.5)
        size = math.sqrt(float((self.number * ours**2).sum()) * float((self.number * theirs**2).sum()))
        return float((self.number * ours * theirs).sum()) / size if size > 0 else 0.0

    @property
    def resolution(self) -> float | None:
        """Angstrom up to which the rings fit, without a gap wider than a window; None if they fit nowhere."""
        ends = self._ends
        return None if ends is None else float(1 / self.s[ends[1]])

    @property
    def followed(self) -> float:
        """Number of rings from the first frequency that fits to the last."""
        ends = self._ends
        return 0.0 if ends is None else float(np.ptp(self.rings[ends[0] : ends[1] + 1]))

    @property
    def _ends(self) -> tuple[int, int] | None:
        good = np.nan_to_num(self.agreement, nan=-1.0) >= AGREE
        if not good.any():
            return None
        last = first = int(good.argmax())
        for index in range(first, len(good)):
            if good[index]:
                last = index
            elif index - last > 2 * LEAST:
                break
        return first, last


def profile(flat: Flat, lens: Lens, fitted: Fitted) -> Profile:
    """Average along lines of equal phase."""
    spectrum = flat.spectrum
    background, envelope, square = model(flat, lens, fitted)
    place = _equivalent(spectrum.sx, spectrum.sy, lens, fitted.numbers)
    index = (place / spectrum.step).round().long()
    index = index - index.min()
    count = int(index.max()) + 1
    number = torch.bincount(index, minlength=count).double()

    def mean(values: torch.Tensor) -> Curve:
        return (torch.bincount(index, values, count) / number.clamp(min=1)).numpy()

    columns = [mean(values) for values in (place, flat.level, flat.values, background, envelope, square)]
    enough = number.numpy() >= max(4.0, 0.25 * float(number.max()) * 30 / count)
    s, level, measured, background_, envelope_, square_ = (column[enough] for column in columns)
    rings = _rings(s, lens, fitted.numbers)
    agreement = _agreement(measured - background_ - envelope_ / 2, square_, rings)
    return Profile(s, number.numpy()[enough], level, measured, background_, envelope_, square_, rings, agreement)


def _equivalent(sx: torch.Tensor, sy: torch.Tensor, lens: Lens, numbers: torch.Tensor) -> torch.Tensor:
    """Frequency at which the mean defocus gives the phase that (sx, sy) has; where there is none, the turning point."""
    z, c, d, _ = numbers.tolist()
    square = sx.square() + sy.square()
    there = (z * square + c * (sx.square() - sy.square()) + 2 * d * sx * sy) / z  # without spherical aberration
    bend = lens.cs_mm * 1e7 * float(electron_wavelength(lens.voltage_kv)) ** 2 / (2 * z)
    if bend < 1e-12:
        return there.clamp(min=0).sqrt()
    value = there - bend * square.square()
    return ((1 - (1 - 4 * bend * value).clamp(min=0).sqrt()) / (2 * bend)).clamp(min=0).sqrt()


def _rings(s: Curve, lens: Lens, numbers: torch.Tensor) -> Curve:
    """Phase of the transfer over pi."""
    wavelength = float(electron_wavelength(lens.voltage_kv))
    z, phase = float(numbers[0]), float(numbers[3])
    turn = math.asin(lens.amplitude_contrast) / math.pi + phase / 180
    out: Curve = wavelength * z * s**2 - 0.5e7 * lens.cs_mm * wavelength**3 * s**4 + turn
    return out


def _agreement(measured: Curve, modelled: Curve, rings: Curve) -> Curve:
    out = np.full(len(measured), np.nan)
    for index in range(len(measured)):
        near = np.abs(rings - rings[index]) <= REACH
        near[max(0, index - LEAST) : index + LEAST + 1] = True
        ours, theirs = (values[near] - values[near].mean() for values in (measured, modelled))
        size = math.sqrt(float((ours**2).sum()) * float((theirs**2).sum()))
        if size > 0:
            out[index] = float((ours * theirs).sum()) / size
    return out
