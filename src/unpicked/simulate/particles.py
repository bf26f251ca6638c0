"""Stacks of particle images with known truth: uniform views, shifts, contrast transfer on a padded image, white noise.

Images of atoms are exact: the coefficient at frequency q is sum_e f_e(|q|) sum_a w_a exp(-2 pi i q.(R p_a)), with the
five-Gaussian scattering factors f_e of element e (International Tables C, 4.3.2.2) and one temperature factor. The
inner sums of all q are one product of matrices per element; nothing is interpolated and no box wraps around.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.micrographs import InMemory
from unpicked.data.optics import Optics
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.data.snr import NoiseLevel, levels
from unpicked.data.structure import Structure
from unpicked.ops import fourier, rotation, seeding
from unpicked.ops.ctf import electron_wavelength
from unpicked.ops.evidence import share_out
from unpicked.ops.window import crop_or_pad
from unpicked.simulate.micrographs import NoisyImages, Specimen
from unpicked.simulate.potential import VOLT, scattering

PROBES = 256  # images by which power and variance are measured


class Subject(Protocol):
    """What is seen: :class:`Molecule`, or a ``Specimen``."""

    @property
    def box(self) -> int:
        """Edge of an image in pixels."""

    @property
    def voxel_size(self) -> float:
        """Pixel size in angstrom."""

    def images(self, rotations: torch.Tensor) -> torch.Tensor:
        """Noise-free images ``(n, box, box)``."""

    def truth(self) -> Map:
        """The object at the pixel size, limited to |q| < box / 2 and to the ball of the box's diameter."""


@dataclass(frozen=True, eq=False)
class Molecule:
    """Atoms, as they are seen on a grid: their images and their map without any interpolation.

    Attributes:
        structure: heavy atoms.
        box: edge in pixels.
        voxel_size: angstrom.
        b_factor: one B for all atoms, square angstrom.

    Raises:
        ValueError: if the molecule is larger than the box.
    """

    structure: Structure
    box: int
    voxel_size: float
    b_factor: float = 20.0

    def __post_init__(self) -> None:
        if not self.voxel_size > 0:
            raise ValueError(f"voxel_size must be positive, in angstrom; got {self.voxel_size}")
        if not self.b_factor > 0:
            raise ValueError(f"b_factor must be positive, in square angstrom; got {self.b_factor}")
        if self.box < 4:
            raise ValueError(f"box must be at least 4 pixels; got {self.box}")
        diameter = 2 * max(float(group.positions.norm(dim=1).max()) for group in self._groups)
        if diameter > self.box * self.voxel_size:
            raise ValueError(
                f"the molecule of {diameter:.0f} A does not fit a box of {self.box} pixels of {self.voxel_size:g} A = "
                f"{self.box * self.voxel_size:.0f} A; try a larger --box or --voxel"
            )

    @cached_property
    def _groups(self) -> tuple[_Element, ...]:
        table = scattering(self.structure)
        places = torch.as_tensor(self.structure.positions, dtype=torch.float64)
        share = torch.as_tensor(self.structure.occupancies, dtype=torch.float64)
        strength = torch.tensor([sum(table[e][0]) for e in self.structure.elements], dtype=torch.float64) * share
        centre = (strength[:, None] * places).sum(0) / strength.sum()
        out = []
        for element, (a, b) in table.items():
            own = torch.tensor([e == element for e in self.structure.elements])
            out.append(_Element(places[own] - centre, share[own], tuple(a), tuple(b)))
        return tuple(out)

    def images(self, rotations: torch.Tensor, edge: int | None = None) -> torch.Tensor:
        """Noise-free images ``(n, M, M)`` float32, M = ``edge`` or the box: sums over voxels of the potential in volts.

        The mean over a pixel is not taken: all frequencies below the Nyquist limit are exact.
        """
        edge, pieces = edge or self.box, []
        reach = (edge - 1) // 2
        q = torch.cat([torch.arange(reach + 1), torch.arange(-reach, 0)])
        columns = torch.arange(reach + 1)
        s = (q[:, None].square() + columns.square()).double().sqrt() / (edge * self.voxel_size)
        factors = [group.factor(s, self.b_factor).float() * VOLT / self.voxel_size**3 for group in self._groups]
        for turn in rotations.double():
            half = torch.zeros(edge, edge // 2 + 1, dtype=torch.complex64)
            total = torch.zeros(len(q), len(columns), dtype=torch.complex64)
            for group, factor in zip(self._groups, factors, strict=True):
                planar = (group.positions @ turn[:2].T) / (edge * self.voxel_size)
                x, y = _waves(planar[:, 0], reach), _waves(planar[:, 1], reach)
                y = torch.cat([y, y[:, 1:].flip(1).conj()], 1) * group.weights.float()[:, None]
                total += factor * (y.T @ x)
            half[q[:, None] % edge, columns] = total
            pieces.append(torch.fft.fftshift(torch.fft.irfft2(half, s=(edge, edge), norm="forward")) / edge**2)
        return torch.stack(pieces) if pieces else torch.zeros(0, edge, edge)

    def truth(self) -> Map:
        """The potential in volts at the voxel size, limited to |q| < box / 2 and to the ball of the box's diameter."""
        n = self.box
        reach = (n - 1) // 2
        q = torch.cat([torch.arange(reach + 1), torch.arange(-reach, 0)])
        columns = torch.arange(reach + 1)
        half = torch.zeros(n, n, n // 2 + 1, dtype=torch.complex64)
        for group in self._groups:
            x, y, z = (_waves(group.positions[:, k] / (n * self.voxel_size), reach) for k in range(3))
            y = torch.cat([y, y[:, 1:].flip(1).conj()], 1) * group.weights.float()[:, None]
            z = torch.cat([z, z[:, 1:].flip(1).conj()], 1)
            for index, row in enumerate(q.tolist()):
                square = (row**2 + q[:, None].square() + columns.square()).double()
                s = square.sqrt() / (n * self.voxel_size)
                factor = group.factor(s, self.b_factor).float() * (square < (n / 2) ** 2)
                plane = factor * ((y * z[:, index : index + 1]).T @ x)
                half[row % n, q[:, None] % n, columns] += plane
        values = torch.fft.fftshift(torch.fft.irfftn(half, s=(n, n, n), norm="forward")) / n**3
        values = values * VOLT / self.voxel_size**3
        return Map(values * (fourier.distances(values.shape) <= n / 2).float(), self.voxel_size)


@dataclass(frozen=True, eq=False)
class _Element:
    """The atoms of one element: places in angstrom, occupancies, amplitudes and widths of its Gaussians."""

    positions: torch.Tensor
    weights: torch.Tensor
    a: tuple[float, ...]
    b: tuple[float, ...]

    def factor(self, s: torch.Tensor, b_factor: float) -> torch.Tensor:
        """sum_i a_i exp(-(b_i + B) s^2 / 4) at spatial frequency s in 1/angstrom."""
        square = s.square() / 4
        return torch.stack([a * (-(b + b_factor) * square).exp() for a, b in zip(self.a, self.b, strict=True)]).sum(0)


@dataclass(frozen=True)
class Lens:
    """Contrast transfer of a simulated stack.

    Attributes:
        defocus: least and largest, angstrom, underfocus positive; drawn uniformly.
        groups: so many values of defocus; 0 gives every image its own.
        astigmatism: defocus_u - defocus_v in angstrom, at random angles.
        voltage_kv: kV.
        cs_mm: mm.
        amplitude_contrast: in [0, 1].
        phase_shift: degrees.
    """

    defocus: tuple[float, float]
    groups: int = 0
    astigmatism: float = 0.0
    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    phase_shift: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(sum(self.defocus)) and self.defocus[0] <= self.defocus[1]):
            raise ValueError(f"defocus must be a least and a largest value in angstrom; got {self.defocus}")
        if self.groups < 0:
            raise ValueError(f"ctf groups must not be negative; got {self.groups}")
        if not 0 <= self.amplitude_contrast <= 1:
            raise ValueError(f"amplitude contrast must lie between 0 and 1; got {self.amplitude_contrast}")

    def optics(self, count: int, seed: int) -> Optics:
        """Optics of ``count`` images; those of image i depend on (seed, i) only."""
        groups = min(self.groups, count) or count
        low, high = self.defocus
        drawn = [
            torch.rand(2, generator=seeding.generator(seed, "optics", g), dtype=torch.float64) for g in range(groups)
        ]
        middle = [low + (high - low) * float(pair[0]) for pair in drawn]
        half = self.astigmatism / 2
        same = (1.0,) * groups
        return Optics(
            tuple(z + half for z in middle),
            tuple(z - half for z in middle),
            tuple(180.0 * float(pair[1]) for pair in drawn),
            tuple(self.voltage_kv * one for one in same),
            tuple(self.cs_mm * one for one in same),
            tuple(self.amplitude_contrast * one for one in same),
            tuple(self.phase_shift * one for one in same),
            (0.0,) * groups,
            same,
            tuple(i % groups for i in range(count)),
        )

    def edge(self, box: int, pixel_size: float) -> int:
        """Edge of the padded image in pixels: at least two boxes, and so far that nothing wraps around into the box.

        The highest frequency is displaced by lambda z / (2 a); what starts in the box must not come back to it.
        """
        wavelength = float(electron_wavelength(self.voltage_kv))
        farthest = wavelength * (max(abs(z) for z in self.defocus) + self.astigmatism / 2) / (2 * pixel_size)
        needed = max(2 * box, box + math.ceil(farthest / pixel_size))
        return box + 2 * math.ceil((needed - box) / 2 / 8) * 8


@dataclass(frozen=True, eq=False)
class ParticleSimulation(NoisyImages):
    """A lazy simulated stack (a ``Source``): image i depends on (seed, i) only.

    Attributes:
        subject: what is seen.
        lens: contrast transfer, or None.
        max_shift: farthest that a centre lies from that of its image, angstrom; uniform in a disc.
        power: mean sum of squares of a noise-free image.
        variance: its mean variance in the box.
    """

    subject: Subject
    lens: Lens | None
    max_shift: float
    power: float
    variance: float

    @cached_property
    def optics(self) -> Optics | None:
        """Contrast transfer of every image."""
        return None if self.lens is None else self.lens.optics(self.count, self.seed)

    @cached_property
    def poses(self) -> Poses:
        """The true poses."""
        turns = [rotation.random_rotations(1, seeding.generator(self.seed, "views", i)) for i in range(self.count)]
        return Poses(torch.cat(turns), torch.stack([self._shift(i) for i in range(self.count)]))

    def clean(self, index: int) -> torch.Tensor:
        """Image ``index`` without noise, ``(box, box)``."""
        turn = rotation.random_rotations(1, seeding.generator(self.seed, "views", index))
        n, pixel = self.subject.box, self.subject.voxel_size
        if self.lens is None and not self.max_shift > 0:
            return self.subject.images(turn)[0]
        edge = 2 * n if self.lens is None else self.lens.edge(n, pixel)
        if isinstance(self.subject, Molecule):
            image = self.subject.images(turn, edge)[0]
        else:
            image = crop_or_pad(self.subject.images(turn)[0], (edge, edge))
        half = torch.fft.rfft2(torch.fft.ifftshift(image))
        sy = fourier.frequencies(edge).double()[:, None] / (edge * pixel)
        sx = torch.arange(edge // 2 + 1).double()[None] / (edge * pixel)
        sy, sx = torch.broadcast_tensors(sy, sx)
        t = self._shift(index)
        ramp = torch.polar(torch.ones_like(sx), -2 * math.pi * (sx * t[0] + sy * t[1]))
        if self.optics is not None:
            ramp = ramp * self.optics.values(sx, sy, [index])[0]
        ramp = fourier.drop_nyquist(ramp, (0,)) if edge % 2 == 0 else ramp
        whole = torch.fft.fftshift(torch.fft.irfft2(half * ramp.to(half), s=(edge, edge)))
        return crop_or_pad(whole, (n, n))

    def blocks(self, size: int = 64) -> Iterator[torch.Tensor]:
        """All images in order, ``(n, box, box)`` at a time, on all of torch's threads."""
        for first in range(0, self.count, size):
            out = torch.empty(min(size, self.count - first), *self.size)

            def work(start: int, stop: int, first: int = first, out: torch.Tensor = out) -> None:
                for place in range(start, stop):
                    out[place] = self.read(first + place)

            share_out(work, len(out), out)
            yield out

    def facts(self) -> dict[str, Any]:
        """The truth in figures, the keys of ``truth.json``."""
        box, voxel = self.subject.box, self.subject.voxel_size
        if self.sigma > 0:
            told = levels(self.sigma, self.power, self.variance, box)
        else:
            told = {"sigma": 0.0, "energy": math.inf, "snr_box": math.inf, "snr_disc": math.inf, "snr_db": math.inf}
        return {
            **told,
            "density": math.nan,
            "occurrences": self.count,
            "seed": self.seed,
            "voxel_size": voxel,
            "box": box,
            "noise": "white" if self.sigma > 0 else "none",
        }

    def _shift(self, index: int) -> torch.Tensor:
        if not self.max_shift > 0:
            return torch.zeros(2, dtype=torch.float64)
        u = torch.rand(2, generator=seeding.generator(self.seed, "shifts", index), dtype=torch.float64)
        radius, angle = self.max_shift * u[0].sqrt(), 2 * math.pi * u[1]
        return torch.stack([radius * angle.cos(), radius * angle.sin()])


def simulate_particles(
    subject: Molecule | Specimen,
    *,
    count: int,
    noise: NoiseLevel | None,
    seed: int,
    lens: Lens | None = None,
    max_shift: float = 0.0,
) -> tuple[Particles, ParticleSimulation]:
    """A lazy stack of images; views are uniform and continuous, never from a grid.

    Args:
        subject: what is seen, with box and pixel size.
        count: number of images.
        noise: level of the white noise, measured on images with contrast transfer, e.g. ``snr_db(0)``; None: no noise.
        seed: of everything random.
        lens: contrast transfer, applied to an image padded as far as it spreads; None means none.
        max_shift: of the centres, angstrom.

    Returns:
        The data as an estimator sees them (optics, no poses), and the simulation, which knows the truth.

    Raises:
        ValueError: for a count below 1 or a negative shift.
        TypeError: for a bare number as noise level.
    """
    if noise is not None and not isinstance(noise, NoiseLevel):
        raise TypeError(
            f"the noise level must say which kind it is; got {noise!r}; "
            "try energy(...), snr_box(...), snr_disc(...), snr_db(...), sigma(...), or None"
        )
    if count < 1:
        raise ValueError(f"count must be at least 1 image; got {count}")
    if not (math.isfinite(max_shift) and 0 <= max_shift < subject.box * subject.voxel_size / 2):
        raise ValueError(f"max_shift must lie between 0 and half the box, in angstrom; got {max_shift}")
    box = subject.box
    power, variance, probes = 0.0, 0.0, min(PROBES, max(count, 64))
    probe = ParticleSimulation(
        (box, box), probes, 0.0, seeding.derive(seed, "probe"), subject, lens, max_shift, 0.0, 0.0
    )
    for index in range(probes):
        image = probe.clean(index).double()
        power += float(image.square().sum()) / probes
        variance += float(image.var(correction=0)) / probes
    sigma = 0.0 if noise is None else noise.sigma(power, variance, box)
    simulation = ParticleSimulation((box, box), count, sigma, seed, subject, lens, max_shift, power, variance)
    names = tuple(f"{index + 1:06d}@particles.mrcs" for index in range(count))
    return Particles(simulation, subject.voxel_size, names, simulation.optics), simulation


def filling(structure: Structure, box: int, share: float = 0.85) -> float:
    """Pixel size in angstrom, rounded up to 0.1, at which a molecule fills this share of a box."""
    places = torch.as_tensor(structure.positions, dtype=torch.float64)
    diameter = 2 * float((places - places.mean(0)).norm(dim=1).max())
    return math.ceil(10 * diameter / (share * box)) / 10


def in_memory(data: Particles) -> Particles:
    """The same stack with all images read once."""
    return replace(data, source=InMemory(data.images()))


def _waves(turns: torch.Tensor, reach: int) -> torch.Tensor:
    """exp(-2 pi i k u) for k = 0 .. reach, ``(n, reach + 1)`` complex64, by doubling from phases in float64."""
    out = torch.ones(len(turns), reach + 1, dtype=torch.complex64)
    done = 1
    while done <= reach:
        angle = (-2 * math.pi * done) * turns
        step = torch.polar(torch.ones_like(angle), angle).to(torch.complex64)
        more = min(done, reach + 1 - done)
        torch.mul(out[:, :more], step[:, None], out=out[:, done : done + more])
        done += more
    return out
