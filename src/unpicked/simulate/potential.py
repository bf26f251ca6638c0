"""Electrostatic potential of atoms, every atom a sum of Gaussians, so that projections are exact."""

from __future__ import annotations

import math

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.structure import Structure
from unpicked.objects.gaussians import Gaussians

VOLT = 47.87801  # V A^2: h^2 / (2 pi m_e e), potential per scattering amplitude in A


def atoms(
    structure: Structure, voxel_size: float, box: int, *, b_factor: float = 60.0
) -> tuple[Gaussians, torch.Tensor]:
    """The structure as Gaussians centred on its potential's centroid, and their integrals in volt voxel^3.

    Each atom is the sum of five Gaussians of the electron scattering factors (International Tables C, 4.3.2.2, by
    gemmi), broadened by a temperature factor: exp(-(b_i + B) s^2 / 4) in Fourier space at spatial frequency s.

    Args:
        structure: heavy atoms.
        voxel_size: angstrom.
        box: edge of the grid in voxels.
        b_factor: one B for all atoms in square angstrom.

    Returns:
        The object and its coefficients; ``object.values(x)`` is the potential in volts.

    Raises:
        ValueError: if voxel_size or b_factor is not positive, or an element is unknown.
    """
    if not voxel_size > 0:
        raise ValueError(f"voxel_size must be positive, in angstrom; got {voxel_size}")
    if not b_factor > 0:
        raise ValueError(f"b_factor must be positive, in square angstrom; got {b_factor}")
    table = scattering(structure)
    strength = torch.tensor([table[e][0] for e in structure.elements], dtype=torch.float64)
    breadth = torch.tensor([table[e][1] for e in structure.elements], dtype=torch.float64) + b_factor
    strength = strength * torch.as_tensor(structure.occupancies, dtype=torch.float64)[:, None]
    weights = strength.sum(1)
    positions = torch.as_tensor(structure.positions, dtype=torch.float64)
    centre = (weights[:, None] * positions).sum(0) / weights.sum()
    spread = ((positions - centre) / voxel_size).repeat_interleave(strength.shape[1], dim=0)
    sigmas = (breadth / (8 * math.pi**2)).sqrt().flatten() / voxel_size
    return Gaussians(box, spread, sigmas), strength.flatten() * VOLT / voxel_size**3


def potential(structure: Structure, voxel_size: float, box: int, *, b_factor: float = 60.0) -> Map:
    """Potential map in volts, sampled at the voxel centres (arguments as in :func:`atoms`)."""
    object, x = atoms(structure, voxel_size, box, b_factor=b_factor)
    return Map(object.values(x), voxel_size)


def scattering(structure: Structure) -> dict[str, tuple[list[float], list[float]]]:
    """Amplitudes in angstrom and widths in square angstrom of the five Gaussians of every element in the structure.

    Raises:
        ValueError: for an element without electron scattering factors.
    """
    return {element: _factors(element) for element in sorted(set(structure.elements))}


def _factors(element: str) -> tuple[list[float], list[float]]:
    import gemmi

    entry = gemmi.Element(element)
    if entry.atomic_number == 0 or entry.c4322 is None:
        raise ValueError(f"element must be one with electron scattering factors; got {element!r}")
    return list(entry.c4322.a), list(entry.c4322.b)
