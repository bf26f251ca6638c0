"""What a microscope shows of a protein: the energy E of one particle from its mass, the dose and the optics.

A weak-phase model of an ideal instrument: a globule of protein in vitreous ice with randomly placed atoms in it.
Motion, thick or crystalline ice and structural noise of the ice are not in it; about half of E is what to expect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.ops.ctf import ctf
from unpicked.ops.scattering import (
    DALTONS_PER_ATOM,
    HYDROGEN_BOUND,
    HYDROGEN_WIDTH,
    ICE,
    VOLUME_PER_KDA,
    critical_dose,
    interaction,
)

HEAVY, HEAVY_WIDTH = 2.353, 11.0  # mean electron scattering factor of C, N, O, S: f(k) = a exp(-b k^2 / 4), A, A^2
HYDROGEN = 0.53  # A, of a hydrogen that is free
APART = 0.08  # 1 / A: below, atoms that keep their distance show no structure of their own
LOWEST = 1 / 300  # 1 / A: coarser variations are taken for background
STEPS = 8001


@dataclass(frozen=True)
class Microscope:
    """How the micrographs are taken; flags of ``unpicked plan``."""

    voltage_kv: float = 300.0
    """Acceleration voltage in kV."""
    dose: float = 50.0
    """Electrons per square angstrom."""
    defocus_um: float = 1.0
    """Underfocus in micrometres; ignored with an ideal phase plate."""
    phase_plate: bool = False
    """An ideal phase plate: all contrast at every frequency."""
    cs_mm: float = 2.7
    """Spherical aberration in mm."""
    amplitude_contrast: float = 0.07
    """Fraction in [0, 1]."""
    b_factor: float = 60.0
    """Of the images, square angstrom: amplitudes fall as exp(-B k^2 / 4)."""
    dqe: float = 0.6
    """Detective quantum efficiency."""

    def __post_init__(self) -> None:
        for name, unit in (("voltage_kv", "kV"), ("dose", "electrons per square angstrom"), ("dqe", "")):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive{', in ' + unit if unit else ''}; got {getattr(self, name)}")
        if not 10 <= self.voltage_kv <= 3000:
            raise ValueError(f"voltage_kv must be 10 to 3000 kV; got {self.voltage_kv}; try 300")
        if self.dqe > 1:
            raise ValueError(f"dqe must be at most 1; got {self.dqe}")
        for name, unit in (("defocus_um", "um"), ("cs_mm", "mm"), ("b_factor", "square angstrom")):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, in {unit}; got {getattr(self, name)}")

    def transfer(self, k: torch.Tensor) -> torch.Tensor:
        """Squared contrast transfer at spatial frequencies in 1 / angstrom, without any envelope."""
        if self.phase_plate:
            return torch.ones_like(k)
        return ctf(
            k,
            torch.zeros_like(k),
            defocus_u=1e4 * self.defocus_um,
            defocus_v=1e4 * self.defocus_um,
            voltage_kv=self.voltage_kv,
            cs_mm=self.cs_mm,
            amplitude_contrast=self.amplitude_contrast,
        ).square()

    def effective_dose(self, k: torch.Tensor) -> torch.Tensor:
        """Electrons per square angstrom that count at a frequency, with every frame at its best weight.

        Source: critical doses of Grant & Grigorieff, eLife 4, e06980 (2015), measured at 300 kV; a voltage of 200 kV
        takes 0.8 of them.
        """
        critical = critical_dose(k, self.voltage_kv)
        return critical * (1 - torch.exp(-self.dose / critical))


def radius(mass_kda: float) -> float:
    """Of a globular protein, angstrom."""
    return float((3 * VOLUME_PER_KDA * mass_kda / (4 * math.pi)) ** (1 / 3))


def power(mass_kda: float, k: torch.Tensor) -> torch.Tensor:
    """Mean square of the scattering amplitude, less that of the ice, in square angstrom; k in 1 / angstrom."""
    atoms, volume = 1000 * mass_kda / DALTONS_PER_ATOM, VOLUME_PER_KDA * mass_kda
    contrast = (HEAVY + HYDROGEN_BOUND) * atoms / volume - ICE
    x = 2 * math.pi * k * radius(mass_kda)
    globule = contrast * volume * 3 * (x.sin() - x * x.cos()) / x.pow(3)
    single = HEAVY**2 * torch.exp(-HEAVY_WIDTH * k.square() / 2) + HYDROGEN**2 * torch.exp(
        -HYDROGEN_WIDTH * k.square() / 2
    )
    return globule.square() + atoms * single * (1 - torch.exp(-(k / APART).square()))


def energy_density(mass_kda: float, microscope: Microscope, k: torch.Tensor) -> torch.Tensor:
    """Slope dE / dk at spatial frequencies k in 1 / angstrom, float64."""
    seen = 4 * microscope.transfer(k) * interaction(microscope.voltage_kv) ** 2 * power(mass_kda, k)
    fall = torch.exp(-microscope.b_factor * k.square() / 2)
    return seen * fall * microscope.effective_dose(k) * microscope.dqe * 2 * math.pi * k


def particle_energy(mass_kda: float, microscope: Microscope, resolution: float) -> float:
    """E of one particle in all frequencies down to a resolution in angstrom, of an ideal instrument.

    Raises:
        ValueError: for a mass or a resolution that is not positive, or a resolution coarser than 300 A.
    """
    if not 0 < mass_kda < math.inf:
        raise ValueError(f"mass_kda must be positive; got {mass_kda}")
    if not 0 < resolution < 1 / LOWEST:
        raise ValueError(f"resolution must lie between 0 and {1 / LOWEST:g} A; got {resolution}")
    k = torch.linspace(LOWEST, 1 / resolution, STEPS, dtype=torch.float64)
    return float(torch.trapezoid(energy_density(mass_kda, microscope, k), k))


def energy_slope(mass_kda: float, microscope: Microscope, resolution: float) -> float:
    """Slope dE / dk about a resolution in angstrom, its mean over 20 % to either side: the transfer has zeros."""
    k = torch.linspace(0.8, 1.2, 401, dtype=torch.float64) / resolution
    return float(energy_density(mass_kda, microscope, k).mean())
