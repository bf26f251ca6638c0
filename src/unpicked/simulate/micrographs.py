"""Micrographs with known truth: copies of an object at unknown places, in unknown views, through optics, in noise.

The simulator has its own fine grid, at most half the working voxel, and brings each particle image to the working
pixel by Fourier crop: it never shares the working-grid projector with an estimator.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.micrographs import Micrographs
from unpicked.data.optics import Optics
from unpicked.data.poses import Occurrences
from unpicked.data.snr import NoiseLevel, levels
from unpicked.objects.base import Volume
from unpicked.objects.gaussians import Gaussians
from unpicked.ops import filters, fourier, seeding, shift
from unpicked.simulate.exposure import Exposure
from unpicked.simulate.noise import WHITE, Colour
from unpicked.simulate.optics import facts as settings_told
from unpicked.simulate.preference import UNIFORM, OnTilted, Preference
from unpicked.simulate.scatterers import Views, scatterers
from unpicked.simulate.spacing import densest

Spacing = Literal["separated", "arbitrary"]


@dataclass(frozen=True, eq=False)
class Specimen:
    """What is put into the micrographs: an object on a fine grid, to be seen at a working pixel size.

    Attributes:
        object: volume on the fine grid; its field of view is that of the working box.
        x: its coefficients.
        box: edge of a particle image in working pixels.
        voxel_size: working pixel size in angstrom.
    """

    object: Volume
    x: torch.Tensor
    box: int
    voxel_size: float

    def __post_init__(self) -> None:
        if self.object.shape[-1] < 2 * self.box:
            raise ValueError(
                f"the fine grid must have at least twice the working box, {2 * self.box} voxels; "
                f"got {self.object.shape[-1]}"
            )

    def images(self, rotations: torch.Tensor) -> torch.Tensor:
        """Noise-free particle images ``(n, box, box)`` in double precision for ``(n, 3, 3)`` rotations."""
        if not len(rotations):
            return self.x.new_zeros((0, self.box, self.box))
        if self._views is not None:
            return self._atoms(self._views, rotations)
        pieces = []
        for part in rotations.split(64):
            fine = self.object.projector(part.to(self.x)).project(self.x)
            pieces.append(fourier.resize_image(fine, (self.box, self.box)))
        return torch.cat(pieces)

    def _atoms(self, seen: Views, rotations: torch.Tensor) -> torch.Tensor:
        """Images of atoms, from exact Fourier coefficients of those frequencies that the working pixel holds."""
        centred = torch.zeros(2, dtype=torch.float64)
        spectra = torch.stack([seen.coefficients(rotation.double(), centred) for rotation in rotations])
        images = torch.fft.irfft2(spectra, s=(self.box, self.box), norm="ortho")
        return torch.fft.fftshift(images, dim=(-2, -1)).to(self.x)

    @cached_property
    def _views(self) -> Views | None:
        """Exact coefficients where the object is made of atoms."""
        if not isinstance(self.object, Gaussians):
            return None
        pixel = self.object.shape[-1] / self.box
        return scatterers(self.object, self.x).views(pixel, self.box, torch.float64, corners=True)

    def truth(self) -> Map:
        """The object at the working voxel, limited to |q| < box / 2 and to the ball of the box's diameter."""
        values = fourier.resize_volume(self.object.values(self.x), self.box)
        spectrum = fourier.fft3(values)
        values = fourier.ifft3(spectrum * (fourier.radius(spectrum.shape) < self.box / 2))
        values = values * (fourier.distances(values.shape) <= self.box / 2)
        return Map(values, self.voxel_size)


@dataclass(frozen=True, eq=False)
class NoisyImages(ABC):
    """A lazy simulated set (a ``Source``): clean image i, and white noise that depends on (seed, i) only.

    Attributes:
        size: height and width in pixels.
        count: number of images.
        sigma: standard deviation of the noise.
        seed: of everything random.
    """

    size: tuple[int, int]
    count: int
    sigma: float
    seed: int

    def __len__(self) -> int:
        return self.count

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.size

    @abstractmethod
    def clean(self, index: int) -> torch.Tensor:
        """Image ``index`` without noise, ``(H, W)`` float64."""

    def read(self, index: int) -> torch.Tensor:
        """Image ``index`` with noise, matter bright, ``(H, W)`` float32."""
        generator = seeding.generator(self.seed, "noise", index)
        noise = torch.randn(self.size, generator=generator, dtype=torch.float32)
        return self.clean(index).float() + self.sigma * noise


@dataclass(frozen=True, eq=False)
class Simulation(NoisyImages):
    """A lazy simulated set (a ``Source``): micrograph i depends on (seed, i) only.

    Attributes:
        specimen: what is seen.
        size: height and width in pixels.
        count: number of micrographs.
        per_micrograph: copies on each.
        spacing: least distance of the copies' corners: 2 L - 1 ("separated") or L ("arbitrary").
        sub_pixel: whether positions are continuous (else whole pixels, as published).
        sigma: standard deviation of the noise.
        power: mean sum of squares of a particle image, with its tails where there are optics, over the noise's power at
            level 1.
        variance: mean variance of a particle image in its box, as the optics show it.
        seed: of the whole set.
        optics: contrast transfer, one entry per micrograph, or None.
        colour: spectrum of the noise.
        exposure: counts of electrons instead of that noise, or None; images are then in counts.
        preference: directions from which copies are seen.
    """

    specimen: Specimen
    per_micrograph: int
    spacing: Spacing
    sub_pixel: bool
    power: float
    variance: float
    optics: Optics | None = None
    colour: Colour = WHITE
    exposure: Exposure | None = None
    preference: Preference | OnTilted = UNIFORM

    @property
    def density(self) -> float:
        """Covered fraction, realised."""
        return self.per_micrograph * self.specimen.box**2 / (self.size[0] * self.size[1])

    def occurrences(self, index: int) -> Occurrences:
        """Where the copies of micrograph ``index`` are, and how they are turned."""
        box = self.specimen.box
        least = 2 * box - 1 if self.spacing == "separated" else box
        generator = seeding.generator(self.seed, "placement", index)
        corners = place(self.size, box, least, self.per_micrograph, generator)
        views = seeding.generator(self.seed, "views", index)
        return Occurrences(corners, self.preference.rotations(self.per_micrograph, views))

    def offsets(self, index: int) -> torch.Tensor:
        """Sub-pixel displacements ``(n, 2)`` t_x, t_y in pixels, zero unless ``sub_pixel``."""
        if not self.sub_pixel:
            return torch.zeros(self.per_micrograph, 2, dtype=torch.float64)
        generator = seeding.generator(self.seed, "offsets", index)
        return torch.rand(self.per_micrograph, 2, generator=generator, dtype=torch.float64) - 0.5

    def clean(self, index: int) -> torch.Tensor:
        """Micrograph ``index`` without noise, ``(H, W)`` float64."""
        where = self.occurrences(index)
        images = self.specimen.images(where.rotations)
        if self.sub_pixel:
            images = shift.shift_image(images, self.offsets(index))
        out = torch.zeros(self.size, dtype=torch.float64)
        box = self.specimen.box
        for (row, column), image in zip(where.corners.tolist(), images, strict=True):
            out[row : row + box, column : column + box] += image
        return self._through(out, index)

    def _through(self, scattered: torch.Tensor, index: int) -> torch.Tensor:
        """What the optics, and radiation damage, make of scattering."""
        if self.optics is None:
            return scattered
        return _through(scattered, self.optics, index, self.specimen.voxel_size, self.exposure)

    def read(self, index: int) -> torch.Tensor:
        """Micrograph ``index`` with noise, matter bright, ``(H, W)`` float32."""
        pixel, exposure = self.specimen.voxel_size, self.exposure
        if exposure is not None:
            ice = exposure.ice_phase(self.size, pixel, self.seed, index).double() * exposure.shown(pixel)
            return exposure.counted(self.clean(index) + self._through(ice, index), pixel, self.seed, index)
        return self.clean(index).float() + self.sigma * self.colour.draw(self.size, self.seed, index)

    def facts(self) -> dict[str, object]:
        """The truth in figures, the keys of ``truth.json``."""
        box = self.specimen.box
        found: dict[str, object] = {
            **levels(self.sigma, self.power, self.variance / self.colour.mean, box),
            "sigma": self.sigma * math.sqrt(self.colour.mean),
            "density": self.density,
            "occurrences": self.per_micrograph * self.count,
            "seed": self.seed,
            "voxel_size": self.specimen.voxel_size,
            "box": box,
            "noise": self.colour.name if self.exposure is None else "electrons and ice",
        }
        if self.preference != UNIFORM:
            found |= self.preference.told
        return found if self.optics is None else found | {"ctf": settings_told(self.optics)}


def simulate_micrographs(
    specimen: Specimen,
    *,
    count: int,
    size: tuple[int, int],
    density: float,
    noise: NoiseLevel | None,
    seed: int,
    spacing: Spacing = "separated",
    sub_pixel: bool = False,
    optics: Optics | None = None,
    colour: Colour = WHITE,
    exposure: Exposure | None = None,
    preference: Preference | OnTilted = UNIFORM,
) -> tuple[Micrographs, Simulation]:
    """Lazy micrographs of a specimen; views are continuous, never from a grid, and uniform if not preferred.

    Args:
        specimen: what is seen.
        count: number of micrographs.
        size: height and width in pixels.
        density: covered fraction, copies x box^2 / pixels.
        noise: its level, e.g. ``energy(424)`` or ``snr_box(3.5)``: of images as the optics show them, with their tails;
            of noise that is not white E is the sum of |image|^2 over the noise's power; ``sigma`` and ``snr_db`` are
            of pixels.
        seed: of everything random.
        spacing: "separated" (corners at least 2 box - 1 apart) or "arbitrary" (at least box).
        sub_pixel: continuous instead of whole-pixel positions.
        optics: contrast transfer, one entry per micrograph; None: none.
        colour: spectrum of the noise.
        exposure: counts of electrons instead of ``noise``; the specimen's images must then be
            in counts (:func:`unpicked.simulate.exposure.in_ice`), and there must be optics.
        preference: directions from which copies are seen.

    Returns:
        The data as an estimator sees them, and the simulation, which knows the truth.

    Raises:
        ValueError: for an impossible density or a box larger than the micrograph.
    """
    _refuse(noise, exposure, optics, colour, count)
    per_micrograph = _copies(specimen.box, size, density, spacing)
    probe = specimen.images(preference.rotations(256, seeding.generator(seed, "probe")))
    pixel = specimen.voxel_size
    power = _power(probe, optics, colour, pixel, exposure)
    variance = _variance(probe, optics, pixel)
    if exposure is not None:
        sigma = math.sqrt(exposure.counts(pixel))
    elif noise is not None:
        sigma = noise.sigma(power, variance, specimen.box)
        if noise.kind in ("sigma", "snr_db"):  # these are told of a pixel
            sigma /= math.sqrt(colour.mean)
    simulation = Simulation(
        specimen=specimen,
        size=size,
        count=count,
        per_micrograph=per_micrograph,
        spacing=spacing,
        sub_pixel=sub_pixel,
        sigma=sigma,
        power=power,
        variance=variance,
        seed=seed,
        optics=optics,
        colour=colour,
        exposure=exposure,
        preference=preference,
    )
    names = tuple(f"micrograph_{index + 1:04d}.mrc" for index in range(count))
    return Micrographs(simulation, specimen.voxel_size, names, optics), simulation


def _refuse(
    noise: NoiseLevel | None, exposure: Exposure | None, optics: Optics | None, colour: Colour, count: int
) -> None:
    """Raise for what does not go together."""
    if exposure is None and not isinstance(noise, NoiseLevel):
        raise TypeError(
            f"the noise level must say which kind it is; got {noise!r}; "
            "try energy(...), snr_box(...), snr_disc(...), snr_db(...) or sigma(...)"
        )
    if count < 1:
        raise ValueError(f"count must be at least 1 micrograph; got {count}")
    if exposure is not None and (optics is None or colour is not WHITE or noise is not None):
        raise ValueError("an exposure needs optics, and brings its own noise; give a defocus, no level and no colour")
    if optics is not None and len(optics) != count:
        raise ValueError(f"optics must have one entry per micrograph, {count}; got {len(optics)}")


def _copies(box: int, size: tuple[int, int], density: float, spacing: Spacing) -> int:
    """Copies on a micrograph of this size at a covered fraction; ValueError where they do not fit."""
    if min(size) < box:
        raise ValueError(f"a box of {box} pixels does not fit a micrograph of {size[0]} x {size[1]}")
    limit = densest(size, box, 2 * box - 1 if spacing == "separated" else box)
    if not 0 < density <= limit:
        raise ValueError(
            f"density must lie between 0 and {limit:.3f} for {spacing} copies in a box of {box}; got {density}"
        )
    copies = round(density * size[0] * size[1] / box**2)
    if copies < 1:
        raise ValueError(
            f"density {density} puts less than one copy on a micrograph of {size[0]} x {size[1]}; try a larger one"
        )
    return copies


def _through(image: torch.Tensor, optics: Optics, index: int, pixel: float, exposure: Exposure | None) -> torch.Tensor:
    """What the optics make of the scattering in a field of view; beyond it there is none, and nothing wraps around."""
    border = math.ceil(optics.part([index]).displacement(pixel) / pixel) + 8
    size = [n + border + n % 2 for n in image.shape]
    fx, fy = filters.half_plane((size[0], size[1]))
    transfer = optics.values(fx / pixel, fy / pixel, [index])[0]
    if exposure is not None:
        transfer = transfer * exposure.damage(fx, fy, pixel)
    return torch.fft.irfft2(torch.fft.rfft2(image, s=size) * transfer, s=size)[: image.shape[0], : image.shape[1]]


def _power(
    images: torch.Tensor, optics: Optics | None, colour: Colour, pixel: float, exposure: Exposure | None
) -> float:
    """Mean over images and settings of the sum of squares, tails included, over the noise's power at level 1."""
    if optics is None and colour is WHITE:
        return float(images.square().sum((-2, -1)).mean())
    far = 0 if optics is None else math.ceil(optics.displacement(pixel) / pixel)
    side = images.shape[-1] + 2 * far + 32
    side += side % 2
    fx, fy = filters.half_plane((side, side))
    weight = 1 / colour.power(fx, fy)
    if exposure is not None:
        weight = weight * exposure.damage(fx, fy, pixel).square()
    if optics is not None:
        firsts = [optics.group.index(group) for group in sorted(set(optics.group))]
        settings = optics.values(fx / pixel, fy / pixel, firsts).square()
        shares = torch.tensor([optics.group.count(group) for group in sorted(set(optics.group))]).to(settings)
        weight = weight * (settings * (shares / shares.sum())[:, None, None]).sum(0)
    twice = torch.full_like(weight, 2.0)
    twice[:, 0] = twice[:, -1] = 1.0
    spectra = torch.fft.rfft2(images, s=(side, side), norm="ortho")
    squares = spectra.real.square() + spectra.imag.square()
    return float((squares * (twice * weight)).sum((-2, -1)).mean())


def _variance(images: torch.Tensor, optics: Optics | None, pixel: float) -> float:
    """Mean over images and settings, of which some stand for many, of the variance of an image in its box."""
    if optics is None:
        return float(images.var((-2, -1), correction=0).mean())
    box = images.shape[-1]
    side = box + math.ceil(optics.displacement(pixel) / pixel) + 32
    side += side % 2
    fx, fy = filters.half_plane((side, side))
    spectra, found = torch.fft.rfft2(images, s=(side, side)), {}
    items = range(0, len(optics), -(-len(optics) // _SETTINGS))
    for item in items:
        group = optics.group[item]
        if group not in found:
            factors = optics.values(fx / pixel, fy / pixel, [item])[0]
            shown = torch.fft.irfft2(spectra * factors, s=(side, side))[..., :box, :box]
            found[group] = float(shown.var((-2, -1), correction=0).mean())
    return sum(found[optics.group[item]] for item in items) / len(items)


_SETTINGS = 32  # through which the variance of images is found at most


def place(size: tuple[int, int], box: int, least: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Corners ``(count, 2)`` of boxes inside an image, at least ``least`` apart in the larger coordinate.

    Random sequential placement: all sites are tried in random order; other orders are tried when the first jams.

    Raises:
        ValueError: if so many copies do not fit.
    """
    height, width = size[0] - box + 1, size[1] - box + 1
    best = 0
    for _ in range(20):
        order = torch.randperm(height * width, generator=generator)
        free = torch.ones(height, width, dtype=torch.bool)
        corners: list[tuple[int, int]] = []
        while len(corners) < count and len(order):
            # most candidates lie apart from each other: take as many at once as are surely decided in order
            for site in order[:256].tolist():
                row, column = divmod(site, width)
                if free[row, column]:
                    corners.append((row, column))
                    free[max(0, row - least + 1) : row + least, max(0, column - least + 1) : column + least] = False
                    if len(corners) == count:
                        break
            order = order[256:]
            order = order[free.flatten()[order]]
        if len(corners) == count:
            return torch.tensor(corners)
        best = max(best, len(corners))
    raise ValueError(
        f"{count} copies do not fit a {size[0]} x {size[1]} micrograph at a distance of {least} pixels "
        f"({best} did); try a lower density"
    )
