"""How protein and ice scatter fast electrons: constants and laws that simulation and planning share."""

from __future__ import annotations

from unpicked._lazy import torch
from unpicked.ops.ctf import electron_wavelength

DALTONS_PER_ATOM = 14.1  # of protein, by heavy atoms; as many hydrogens
VOLUME_PER_KDA = 1210.0  # cubic angstrom
ICE = 0.0814  # scattering length density of vitreous ice, 1 / A^2
WATER = 0.0314  # molecules of it per cubic angstrom
HYDROGEN_BOUND, HYDROGEN_WIDTH = 0.318, 16.0  # forward amplitude, A, and width b of exp(-b k^2 / 4), A^2
WATER_WIDTH = 11.0
STIFF, ORDER = 0.07, 0.25  # structure factor of water towards k = 0, and where it has risen to that of a gas, 1 / A


def interaction(voltage_kv: float) -> float:
    """Phase shift per projected scattering amplitude (1 / angstrom): wavelength times the relativistic mass ratio."""
    return float(electron_wavelength(voltage_kv)) * (1 + voltage_kv / 511)


def critical_dose(k: torch.Tensor, voltage_kv: float) -> torch.Tensor:
    """Electrons per square angstrom after which amplitudes at k (1 / angstrom) have fallen to exp(-1/2).

    Source: Grant & Grigorieff, eLife 4, e06980 (2015), measured at 300 kV; a voltage of 200 kV takes 0.8 of them.
    """
    return (0.24499 * k.pow(-1.6649) + 2.8141) * (0.8 if voltage_kv < 250 else 1.0)


def ice_power(k: torch.Tensor, thickness: float) -> torch.Tensor:
    """Power of the projected scattering amplitude of vitreous ice, per square angstrom, at k in 1 / angstrom.

    Molecules at random, but that neighbours keep their distance: a structure factor that is small towards k = 0.

    Args:
        k: spatial frequencies.
        thickness: angstrom.
    """
    structure = STIFF + (1 - STIFF) * (1 - torch.exp(-(k / ORDER).pow(4)))
    amplitude = ICE / WATER * torch.exp(-WATER_WIDTH * k.square() / 4)
    return WATER * thickness * structure * amplitude.square()
