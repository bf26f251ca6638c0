"""Particle images with known truth: one object, seen at uniform rotations, through a microscope, in white noise.

Image i depends on (seed, i) only. Clean images are limited to |q| < box / 2, as the truth map is. The contrast transfer
acts on an image padded until what it carries away can leave and does not come back (conventions, section 7): length
P with P a >= the largest of 2 box a, box a + max_shift + d and 2 d, where d = lambda z s at the Nyquist frequency s.
Then the box is cut out, and noise is added last.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.optics import Optics
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.data.snr import NoiseLevel, levels
from unpicked.objects.gaussians import Gaussians
from unpicked.ops import fourier, rotation, seeding
from unpicked.ops.correlate import fast_size
from unpicked.simulate.micrographs import NoisyImages, Specimen
from unpicked.simulate.optics import draw_optics, drawn
from unpicked.simulate.optics import facts as settings_told
from unpicked.simulate.scatterers import Scatterers, Views, scatterers, volume
from unpicked.simulate.slices import Slices, Spectrum

PROBE = 256  # views over which the power of the images is averaged


@dataclass(frozen=True, eq=False)
class ParticleSimulation(NoisyImages):
    """A lazy simulated stack (a ``Source``) that knows its truth: image i depends on (seed, i) only.

    Attributes:
        specimen: what is seen.
        size: box and box, in pixels.
        count: number of images.
        sigma: standard deviation of the noise; 0 for clean images.
        seed: of the whole set.
        optics: contrast transfer, one group number per image, or None: images are plain projections.
        max_shift: radius of the disc that the shifts are uniform in, angstrom.
        power: mean over views of a clean image's sum of squares, with contrast transfer, in the box.
        variance: mean over views of its variance in the box.
        seen_as: the specimen as point scatterers, or as the transform of a map.
        dtype: of projections.
        held: what projects, by padded length.
    """

    specimen: Specimen
    optics: Optics | None
    max_shift: float
    power: float
    variance: float
    seen_as: Scatterers | Spectrum
    dtype: torch.dtype
    held: dict[int, Views | Slices] = field(default_factory=dict, init=False, repr=False)

    def pose(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotation ``(3, 3)`` and shift ``(2,)`` t_x, t_y in angstrom of image ``index``, float64."""
        turn = rotation.random_rotations(1, seeding.generator(self.seed, "views", index))[0]
        return turn, _in_disc(self.max_shift, seeding.generator(self.seed, "shifts", index))

    def poses(self, indices: Sequence[int] | None = None) -> Poses:
        """True poses of some images (None: all)."""
        pairs = [self.pose(index) for index in (range(self.count) if indices is None else indices)]
        return Poses(torch.stack([turn for turn, _ in pairs]), torch.stack([shift for _, shift in pairs]))

    def clean(self, index: int) -> torch.Tensor:
        """Image ``index`` without noise, ``(box, box)`` float64."""
        return self.seen(*self.pose(index), index)

    def seen(self, turn: torch.Tensor, shift: torch.Tensor, index: int) -> torch.Tensor:
        """The object at a rotation and a shift in angstrom, with the contrast transfer of image ``index``."""
        box, pixel = self.specimen.box, self.specimen.voxel_size
        length = self.padded(index)
        coefficients = self._views(length).coefficients(turn, shift / pixel)
        if self.optics is not None:
            sx, sy = _axes(length, pixel, coefficients.real.dtype)
            coefficients = coefficients * self.optics.values(sx, sy, [index])[0]
        wide = torch.fft.irfft2(coefficients, s=(length, length), norm="ortho")
        return _cut(wide, box).double()

    def padded(self, index: int) -> int:
        """Length in pixels of the padded image that image ``index`` is cut out of; the box where nothing moves."""
        box, pixel = self.specimen.box, self.specimen.voxel_size
        if self.optics is None:
            return box if self.max_shift == 0 else fast_size(math.ceil(box + self.max_shift / pixel))
        moved = self.optics.part([index]).displacement(pixel)
        return fast_size(max(2 * box, math.ceil(box + (self.max_shift + moved) / pixel), math.ceil(2 * moved / pixel)))

    def truth(self) -> Map:
        """The object at the working voxel, limited to |q| < box / 2 and to the ball of the box's diameter."""
        if isinstance(self.seen_as, Spectrum):
            return self.specimen.truth()
        values = volume(self.seen_as, self.specimen.box)
        return Map(values * (fourier.distances(values.shape) <= self.specimen.box / 2), self.specimen.voxel_size)

    def facts(self) -> dict[str, Any]:
        """The truth in figures, the keys of ``truth.json``; ratios of clean images are infinite."""
        box = self.specimen.box
        noisy = levels(self.sigma or 1.0, self.power, self.variance, box)
        if self.sigma == 0:
            noisy = {key: 0.0 if key == "sigma" else math.inf for key in noisy}
        facts: dict[str, Any] = {
            **noisy,
            "density": None,
            "occurrences": self.count,
            "count": self.count,
            "seed": self.seed,
            "voxel_size": self.specimen.voxel_size,
            "box": box,
            "noise": "white" if self.sigma else "none",
            "max_shift": self.max_shift,
            "power": self.power,
            "ctf": None,
        }
        if self.optics is not None:
            facts["ctf"] = {
                **settings_told(self.optics),
                "padded": max(self.padded(index) for index in _first_of_groups(self.optics)),
            }
        return facts

    def _views(self, length: int) -> Views | Slices:
        """What projects on one padded length, made once."""
        if length not in self.held:
            pixel = self.specimen.object.shape[-1] / self.specimen.box
            self.held[length] = self.seen_as.views(pixel, length, self.dtype)
        return self.held[length]


def simulate_particles(
    specimen: Specimen,
    *,
    count: int,
    noise: NoiseLevel | None,
    seed: int,
    defocus: tuple[float, float] | None = None,
    astigmatism: float = 0.0,
    voltage: float = 300.0,
    cs: float = 2.7,
    amplitude_contrast: float = 0.1,
    phase_shift: float = 0.0,
    ctf_groups: int | None = None,
    max_shift: float = 0.0,
    precise: bool = False,
) -> tuple[Particles, ParticleSimulation]:
    """Lazy particle images of a specimen; rotations are uniform and continuous, never from a grid.

    Args:
        specimen: what is seen; atoms are projected exactly, maps through their fine grid (3e-4).
        count: number of images.
        noise: level of the white noise, of the images with contrast transfer in their box; None: clean images.
        seed: of everything random.
        defocus: least and largest in angstrom, underfocus positive, uniform; None: no contrast transfer.
        astigmatism: u - v in angstrom, at random angles.
        voltage: kV.
        cs: spherical aberration, mm.
        amplitude_contrast: in [0, 1].
        phase_shift: of a phase plate, degrees.
        ctf_groups: number of different settings; None: one per image.
        max_shift: shifts are uniform in a disc of this radius, angstrom.
        precise: project in float64 instead of float32 (rounding of about 1e-6 of the image).

    Returns:
        The data as an estimator sees them (no poses), and the simulation, which knows poses, truth map and figures.

    Raises:
        ValueError: for numbers that make no sense; the message says which.
        TypeError: if the noise is a bare number.
    """
    if noise is not None and not isinstance(noise, NoiseLevel):
        raise TypeError(
            f"the noise level must say which kind it is; got {noise!r}; "
            "try energy(...), snr_box(...), snr_disc(...), snr_db(...) or sigma(...), or None for clean images"
        )
    if count < 1:
        raise ValueError(f"count must be at least 1 image; got {count}")
    if not (math.isfinite(max_shift) and 0 <= max_shift <= specimen.box * specimen.voxel_size / 2):
        raise ValueError(
            f"max_shift must lie between 0 and half the box, {specimen.box * specimen.voxel_size / 2:g} A; "
            f"got {max_shift}"
        )
    shared = {"voltage_kv": voltage, "cs_mm": cs, "amplitude_contrast": amplitude_contrast, "phase_shift": phase_shift}

    def settings(number: int, groups: int | None, draws: Callable[[int], torch.Tensor]) -> Optics | None:
        return None if defocus is None else draw_optics(number, groups, defocus, astigmatism, shared, draws)

    few = ctf_groups is not None and ctf_groups <= PROBE  # the few there are, else all that there might be
    probe = settings(PROBE, ctf_groups if few else None, drawn(seed) if few else _evenly)
    dtype = torch.float64 if precise else torch.float32
    common = (specimen, max_shift, _seen_as(specimen, dtype), dtype, seed)
    power, variance = _measured(_simulation(common, PROBE, probe, 0.0, 1.0, 1.0))
    sigma = 0.0 if noise is None else noise.sigma(power, variance, specimen.box)
    optics = settings(count, ctf_groups, drawn(seed))
    simulation = _simulation(common, count, optics, sigma, power, variance)
    names = tuple(f"{index + 1:06d}@particles.mrcs" for index in range(count))
    return Particles(simulation, specimen.voxel_size, names, optics), simulation


def in_order(data: Particles, threads: int) -> Iterator[torch.Tensor]:
    """All images in order, made by some threads at a time, each image by one thread: the bits do not depend on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    waiting: deque[Future[torch.Tensor]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for index in range(len(data)):
                waiting.append(pool.submit(data.__getitem__, index))
                if len(waiting) > 4 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)


def _seen_as(specimen: Specimen, dtype: torch.dtype) -> Scatterers | Spectrum:
    if isinstance(specimen.object, Gaussians):
        return scatterers(specimen.object, specimen.x)
    return Spectrum.of(specimen.object.values(specimen.x).to(dtype), specimen.box)


def _simulation(
    common: tuple[Specimen, float, Scatterers | Spectrum, torch.dtype, int],
    count: int,
    optics: Optics | None,
    sigma: float,
    power: float,
    variance: float,
) -> ParticleSimulation:
    specimen, max_shift, seen_as, dtype, seed = common
    return ParticleSimulation(
        size=(specimen.box, specimen.box),
        count=count,
        sigma=sigma,
        seed=seed,
        specimen=specimen,
        optics=optics,
        max_shift=max_shift,
        power=power,
        variance=variance,
        seen_as=seen_as,
        dtype=dtype,
    )


def _measured(probe: ParticleSimulation) -> tuple[float, float]:
    """Power and variance of clean images, averaged over evenly spread views and random shifts and settings."""
    power, variance = 0.0, 0.0
    for index, turn in enumerate(rotation.super_fibonacci(len(probe))):
        shift = _in_disc(probe.max_shift, seeding.generator(probe.seed, "probe shifts", index))
        image = probe.seen(turn, shift, index)
        power += float(image.square().sum()) / len(probe)
        variance += float(image.var(correction=0)) / len(probe)
    if not power > 0:
        raise ValueError("the object is empty: its projections are zero; expected a structure or map with values")
    return power, variance


def _evenly(number: int) -> torch.Tensor:
    """Point ``number`` of a sequence that fills the unit square evenly (Roberts 2018: powers of the plastic number)."""
    return (0.5 + number * torch.tensor([0.7548776662466927, 0.5698402909980532], dtype=torch.float64)) % 1


def _first_of_groups(optics: Optics) -> list[int]:
    first: dict[int, int] = {}
    for index, group in enumerate(optics.group):
        first.setdefault(group, index)
    return list(first.values())


def _in_disc(radius: float, generator: torch.Generator) -> torch.Tensor:
    """A point ``(2,)``, uniform in a disc, float64."""
    draw = torch.rand(2, generator=generator, dtype=torch.float64)
    angle = 2 * math.pi * draw[1]
    return radius * draw[0].sqrt() * torch.stack([angle.cos(), angle.sin()])


def _axes(length: int, pixel: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Spatial frequencies sx, sy of a half spectrum in 1 / angstrom."""
    rows = fourier.frequencies(length).double() / (length * pixel)
    columns = torch.arange(length // 2 + 1, dtype=torch.float64) / (length * pixel)
    sy, sx = torch.meshgrid(rows, columns, indexing="ij")
    return sx.to(dtype), sy.to(dtype)


def _cut(wide: torch.Tensor, box: int) -> torch.Tensor:
    """The box in the middle of an image whose origin is at index 0."""
    length, half = wide.shape[-1], box // 2
    if length == box:
        return torch.fft.fftshift(wide)
    rows = torch.cat([wide[length - half :], wide[: box - half]])
    return torch.cat([rows[:, length - half :], rows[:, : box - half]], 1)
