"""Defocus and astigmatism from micrographs' power spectra, for those who have no values of another program.

The power of a micrograph is a smooth background plus a smooth envelope times CTF^2, in rings (Thon rings). All three
are fitted at once: background and envelope as splines that are not negative, defocus and astigmatism by an exhaustive
search, first radially, then by sectors, and Gauss-Newton steps on all samples. The figures of merit are those of
CTFFIND 4 (Rohou and Grigorieff, J. Struct. Biol. 192, 216, 2015).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from unpicked._lazy import torch
from unpicked.ctffit.fit import Box, Fitted, Flat, Lens, fit
from unpicked.ctffit.rings import Profile, profile
from unpicked.ctffit.spectrum import power_spectrum
from unpicked.data.micrographs import Micrographs
from unpicked.data.optics import Optics

GAIN = 40.0  # twice the log-likelihood; 100 micrographs of noise, after all searching, reached 28
GAIN_PHASE = 50.0  # the same where the phase shift is looked for; 40 of noise reached 32
CORRELATION = 0.5  # of measured and modelled rings
EMPTY = 1e-9  # of the mean power: nothing was measured there
RINGS = 1.5  # at least so many must be followed: a slope alone is not a ring


class NoThonRings(ValueError):
    """A micrograph whose spectrum tells no defocus."""


@dataclass(frozen=True)
class CtfSearch:
    """The microscope, and where to look.

    Attributes:
        voltage_kv: acceleration voltage, kV.
        cs_mm: spherical aberration, mm.
        amplitude_contrast: in [0, 1].
        phase_shift: of a phase plate, degrees; None looks for it.
        defocus: least and largest mean defocus, angstrom.
        astigmatism: largest difference u - v, angstrom.
        band: least and largest resolution in angstrom; None ends at 5 A, or two pixels where they are larger.
    """

    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    phase_shift: float | None = 0.0
    defocus: tuple[float, float] = (3_000.0, 50_000.0)
    astigmatism: float = 4_000.0
    band: tuple[float, float | None] = (30.0, None)

    def __post_init__(self) -> None:
        if not 1 <= self.voltage_kv <= 10_000:
            raise ValueError(f"voltage_kv must lie between 1 and 10000, in kV; got {self.voltage_kv:g}")
        if not 0 <= self.cs_mm <= 100:
            raise ValueError(f"cs_mm must lie between 0 and 100, in mm; got {self.cs_mm:g}")
        if not 0 <= self.amplitude_contrast <= 1:
            raise ValueError(f"amplitude_contrast must lie between 0 and 1; got {self.amplitude_contrast:g}")
        if self.phase_shift is not None and not math.isfinite(self.phase_shift):
            raise ValueError(f"phase_shift must be a number of degrees, or None; got {self.phase_shift}")
        low, high = self.defocus
        if not 0 < low < high <= 200_000:
            raise ValueError(
                f"defocus must be two values in angstrom, 0 < least < largest <= 200000; got {low:g} and {high:g}"
            )
        if not 0 <= self.astigmatism < math.inf:
            raise ValueError(f"astigmatism must be a number of angstrom, 0 or more; got {self.astigmatism:g}")
        coarse, fine = self.band
        if not (0 < coarse < math.inf and (fine is None or 0 < fine < coarse)):
            raise ValueError(f"band must be two resolutions in angstrom, such as (30, 5); got ({coarse}, {fine})")

    @property
    def lens(self) -> Lens:
        """What of this the transfer function takes."""
        return Lens(self.voltage_kv, self.cs_mm, self.amplitude_contrast)

    def limits(self, pixel_size: float) -> tuple[float, float]:
        """The band in angstrom at this pixel size.

        Raises:
            ValueError: if it ends below two pixels, or the pixels are too large for the band.
        """
        coarse, fine = self.band
        if fine is None:
            fine = max(5.0, 2 * pixel_size)
        elif fine < 1.999 * pixel_size:
            raise ValueError(f"the band must end at two pixels, {2 * pixel_size:g} A, or before; got {fine:g} A")
        if coarse < 1.5 * fine:
            raise ValueError(
                f"pixels of {pixel_size:g} A leave a band of {coarse:g} to {fine:g} A, too narrow for rings; "
                "take finer micrographs, or a band that begins at a larger value"
            )
        return coarse, fine


@dataclass(frozen=True, eq=False)
class CtfFit:
    """What the rings of one micrograph tell.

    Attributes:
        name: of the micrograph.
        search: what was looked for.
        defocus_u: larger defocus, along ``astigmatism_angle``, angstrom, underfocus positive.
        defocus_v: smaller defocus, angstrom.
        astigmatism_angle: degrees from +x towards +y, in [0, 180).
        phase_shift: degrees.
        defocus_error: standard deviation of the mean defocus by the noise of the spectrum, angstrom.
        astigmatism_error: that of u - v, angstrom; an angle is told where u - v is several times larger.
        angle_error: that of the angle, degrees, at most 52 (any angle).
        phase_error: that of the phase shift, 0 where it was given.
        correlation: of measured and modelled rings within the band, 1 at best.
        resolution: angstrom up to which the rings agree (local correlation of at least 0.5, as in CTFFIND 4).
        rings: how many are followed up to there.
        gain: twice the log-likelihood gained over a background without rings.
        band: least and largest resolution of the fit, angstrom.
        profile: the spectrum along lines of equal phase beside the model.
        flat: the samples that were fitted; None where they were not kept.
        fitted: the whole model.
    """

    name: str
    search: CtfSearch
    defocus_u: float
    defocus_v: float
    astigmatism_angle: float
    phase_shift: float
    defocus_error: float
    astigmatism_error: float
    angle_error: float
    phase_error: float
    correlation: float
    resolution: float
    rings: float
    gain: float
    band: tuple[float, float]
    profile: Profile
    flat: Flat | None
    fitted: Fitted

    @property
    def defocus(self) -> float:
        """Mean of u and v, angstrom."""
        return (self.defocus_u + self.defocus_v) / 2

    @property
    def astigmatism(self) -> float:
        """Difference of u and v, angstrom."""
        return self.defocus_u - self.defocus_v

    @property
    def note(self) -> str:
        """One sentence."""
        phase = f", phase shift {self.phase_shift:.1f} degrees" if self.phase_shift or self.phase_error else ""
        return (
            f"{self.name}: defocus {self.defocus:.0f} +- {self.defocus_error:.0f} A, astigmatism "
            f"{self.astigmatism:.0f} +- {self.astigmatism_error:.0f} A at {self.astigmatism_angle:.0f} degrees{phase}; "
            f"correlation {self.correlation:.2f}, rings fit to {self.resolution:.1f} A"
        )

    def facts(self) -> dict[str, float | str | list[float]]:
        """The figures, as JSON holds them."""
        return {
            "name": self.name,
            "defocus_u": self.defocus_u,
            "defocus_v": self.defocus_v,
            "astigmatism_angle": self.astigmatism_angle,
            "phase_shift": self.phase_shift,
            "defocus_error": self.defocus_error,
            "astigmatism_error": self.astigmatism_error,
            "angle_error": self.angle_error,
            "phase_error": self.phase_error,
            "correlation": self.correlation,
            "resolution": self.resolution,
            "rings": self.rings,
            "gain": self.gain,
            "band": list(self.band),
        }


@dataclass(frozen=True)
class CtfEstimates:
    """Fits of a set of micrographs.

    Attributes:
        fits: of the micrographs with rings, in their order.
        kept: their numbers in the set.
        refused: name and reason of every other one.
    """

    fits: tuple[CtfFit, ...]
    kept: tuple[int, ...]
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def optics(self) -> Optics:
        """One group per fitted micrograph.

        Raises:
            ValueError: if no micrograph was fitted.
        """
        if not self.fits:
            reason = self.refused[0][1] if self.refused else "there are none"
            raise ValueError(
                reason
                if len(self.refused) == 1
                else f"none of {len(self.refused)} micrographs can be fitted; the first, {reason}"
            )
        each = self.fits
        return Optics(
            defocus_u=tuple(one.defocus_u for one in each),
            defocus_v=tuple(one.defocus_v for one in each),
            astigmatism_angle=tuple(one.astigmatism_angle for one in each),
            voltage_kv=tuple(one.search.voltage_kv for one in each),
            cs_mm=tuple(one.search.cs_mm for one in each),
            amplitude_contrast=tuple(one.search.amplitude_contrast for one in each),
            phase_shift=tuple(one.phase_shift for one in each),
            b_factor=(0.0,) * len(each),
            scale=(1.0,) * len(each),
            group=tuple(range(len(each))),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence per micrograph."""
        return (*(one.note for one in self.fits), *(reason for _, reason in self.refused))

    def apply(self, micrographs: Micrographs) -> Micrographs:
        """The micrographs with rings, with their optics and notes.

        Raises:
            ValueError: if none has, or the set is of another length.
        """
        if len(micrographs) != len(self.fits) + len(self.refused):
            raise ValueError(
                f"these are fits of {len(self.fits) + len(self.refused)} micrographs; got {len(micrographs)}"
            )
        optics = self.optics
        part = micrographs.part(self.kept) if self.refused else micrographs
        return replace(part, optics=optics, notes=(*micrographs.notes, *self.notes))


def estimate_ctf(micrographs: Micrographs, search: CtfSearch | None = None) -> CtfEstimates:
    """Fit the contrast transfer of every micrograph.

    Values that the micrographs came with (``optics``) are neither used nor changed.

    Args:
        micrographs: the set, at its full pixel size; contrast does not matter.
        search: microscope and ranges; 300 kV, Cs 2.7 mm, amplitude contrast 0.1 unless given.

    Returns:
        The fits, and which micrographs show no rings.

    Raises:
        ValueError: if the pixels are too large or the images too small for the band, or an image cannot be read.

    Example:
        >>> found = up.estimate_ctf(up.read_micrographs("data/*.mrc"))
        >>> micrographs = found.apply(micrographs)
    """
    return collected(
        (name, tried(image, micrographs.pixel_size, search, name))
        for name, image in zip(micrographs.names, micrographs, strict=True)
    )


def collected(tries: Iterable[tuple[str, CtfFit | str]]) -> CtfEstimates:
    """Fits, or reasons of refusal, of all micrographs in their order."""
    fits, kept, refused = [], [], []
    for index, (name, found) in enumerate(tries):
        if isinstance(found, str):
            refused.append((name, found))
        else:
            fits.append(replace(found, flat=None))
            kept.append(index)
    return CtfEstimates(tuple(fits), tuple(kept), tuple(refused))


def fit_ctf(
    image: torch.Tensor, pixel_size: float, search: CtfSearch | None = None, name: str = "micrograph"
) -> CtfFit:
    """Fit the contrast transfer of one micrograph.

    Args:
        image: ``(height, width)``.
        pixel_size: angstrom.
        search: microscope and ranges.
        name: for messages.

    Raises:
        NoThonRings: if the spectrum shows none, or the best fit lies at the end of a range: then no value is told.
        ValueError: if the pixels are too large or the image too small for the band, or its values are not finite.
    """
    search = search or CtfSearch()
    if image.dim() != 2:
        raise ValueError(f"image must be (height, width); got shape {tuple(image.shape)}")
    if not (math.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"pixel_size must be positive, in angstrom; got {pixel_size}")
    if not bool(image.isfinite().all()):
        raise ValueError(f"{name} holds values that are not finite")
    band = search.limits(pixel_size)
    spectrum = power_spectrum(image, pixel_size, band)
    if not float(spectrum.power.min()) > EMPTY * float(spectrum.power.mean()):
        raise NoThonRings(
            f"{name}: the spectrum is empty in parts from {band[0]:g} to {band[1]:.3g} A; expected a micrograph that "
            "is neither flat nor low-passed"
        )
    fitted, flat = fit(spectrum, search.lens, Box(search.defocus, search.astigmatism), search.phase_shift)
    seen = profile(flat, search.lens, fitted)
    reach = _believed(name, search, band, fitted, seen)
    z, c, d, phase = fitted.numbers.tolist()
    half = math.hypot(c, d)
    errors = fitted.covariance.diagonal().clamp(min=0).sqrt().tolist()
    spread = (errors[1] + errors[2]) / 2
    return CtfFit(
        name=name,
        search=search,
        defocus_u=z + half,
        defocus_v=z - half,
        astigmatism_angle=math.degrees(math.atan2(d, c)) / 2 % 180,
        phase_shift=phase,
        defocus_error=errors[0],
        astigmatism_error=2 * spread,
        angle_error=min(math.degrees(math.atan2(spread, half)) / 2, 180 / math.sqrt(12)),
        phase_error=errors[3],
        correlation=seen.correlation,
        resolution=max(reach, band[1]),
        rings=seen.followed,
        gain=fitted.gain,
        band=band,
        profile=seen,
        flat=flat,
        fitted=fitted,
    )


def tried(image: torch.Tensor, pixel_size: float, search: CtfSearch | None, name: str) -> CtfFit | str:
    """A fit, or why there is none."""
    try:
        return fit_ctf(image, pixel_size, search, name)
    except NoThonRings as error:
        return str(error)


def _believed(name: str, search: CtfSearch, band: tuple[float, float], fitted: Fitted, seen: Profile) -> float:
    """Angstrom to which the rings are followed; NoThonRings unless the fit can be believed."""
    where = f"{name}: no Thon rings found from {band[0]:g} to {band[1]:.3g} A"
    needed = GAIN if search.phase_shift is not None else GAIN_PHASE
    if fitted.gain < needed or seen.correlation < CORRELATION:
        raise NoThonRings(
            f"{where}: log-likelihood gained {fitted.gain / 2:.0f} (needed {needed / 2:.0f}), correlation "
            f"{seen.correlation:.2f} (needed {CORRELATION:g}); expected a micrograph at full pixel size with defocus"
        )
    z, half = float(fitted.numbers[0]), float(torch.hypot(fitted.numbers[1], fitted.numbers[2]))
    low, high = search.defocus
    if min(z - low, high - z) < 1e-3 * z:
        raise NoThonRings(f"{name}: the best defocus lies at the end of the range, {z:.0f} A; try a wider range")
    if search.astigmatism > 0 and 2 * half > 0.999 * search.astigmatism:
        raise NoThonRings(
            f"{name}: the best astigmatism lies at the end of the range, {2 * half:.0f} A; try a larger one, "
            "or look whether the micrograph drifted"
        )
    if seen.resolution is None or seen.followed < RINGS:
        raise NoThonRings(f"{where}: the fit follows {seen.followed:.1f} of them (needed {RINGS:g})")
    return seen.resolution


__all__ = ["CtfEstimates", "CtfFit", "CtfSearch", "NoThonRings", "Profile", "collected", "estimate_ctf",
           "fit_ctf", "tried"]  # fmt: skip
