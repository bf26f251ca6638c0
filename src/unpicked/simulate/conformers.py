"""Other conformations of a structure: smooth deformations that keep what lies together together."""

from __future__ import annotations

import math
from dataclasses import replace

from unpicked._lazy import torch
from unpicked.data.structure import Structure
from unpicked.ops import rotation, seeding

WAVES = 6  # plane waves of displacement
LONG = 0.8  # of the structure's extent: shortest wavelength


def deformed(structure: Structure, seed: int, size: float = 3.0) -> Structure:
    """The structure with every atom displaced by a sum of long plane waves of random directions.

    Args:
        structure: atoms.
        seed: of the waves.
        size: r.m.s. displacement in angstrom, after the best translation.

    Raises:
        ValueError: for a size that is not positive, or a structure of a single atom.
    """
    if not 0 < size < math.inf:
        raise ValueError(f"size must be positive, in angstrom; got {size}")
    places = structure.positions
    if len(places) < 2:
        raise ValueError("a structure of a single atom has no other conformation")
    generator = seeding.generator(seed, "deformed")
    extent = float((places.amax(0) - places.amin(0)).max())
    directions = torch.randn(WAVES, 3, generator=generator, dtype=torch.float64)
    lengths = extent * (LONG + torch.rand(WAVES, generator=generator, dtype=torch.float64))
    waves = 2 * math.pi * directions / (directions.norm(dim=1) * lengths)[:, None]
    phases = 2 * math.pi * torch.rand(WAVES, generator=generator, dtype=torch.float64)
    heights = torch.randn(WAVES, 3, generator=generator, dtype=torch.float64)
    moved = torch.cos(places @ waves.mT + phases) @ heights
    moved = moved - moved.mean(0)
    return replace(structure, positions=places + moved * (size / moved.square().sum(1).mean().sqrt()))


def twisted(structure: Structure, degrees: float) -> Structure:
    """The structure twisted about its longest axis: one end turned against the other by an angle.

    Args:
        structure: atoms.
        degrees: from end to end.

    Raises:
        ValueError: for an angle that is not finite, or fewer than four atoms.
    """
    if not math.isfinite(degrees):
        raise ValueError(f"degrees must be finite; got {degrees}")
    centre = structure.positions.mean(0)
    places = structure.positions - centre
    if len(places) < 4:
        raise ValueError(f"a structure must have at least four atoms to have a longest axis; got {len(places)}")
    axis = torch.linalg.svd(places, full_matrices=False)[2][0]
    along = places @ axis
    angles = math.radians(degrees) * along / (along.amax() - along.amin())
    turns = rotation.exp_map(angles[:, None] * axis)
    return replace(structure, positions=(turns @ places[:, :, None])[:, :, 0] + centre)
