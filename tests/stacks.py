"""Small stacks of particle images that several tests share."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import torch

from unpicked.data.micrographs import InMemory
from unpicked.data.particles import Particles
from unpicked.data.snr import energy
from unpicked.data.structure import Structure
from unpicked.ops import seeding
from unpicked.simulate.particles import ParticleSimulation, simulate_particles
from unpicked.simulate.specimens import specimen_from_structure


def beads(seed: int = 0, count: int = 60) -> Structure:
    """Carbon atoms at random in a flattened ball of 20 angstrom: a compact object of no symmetry."""
    generator = seeding.generator(seed, "beads")
    ways = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    reach = torch.rand(count, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
    places = 20 * reach * ways / ways.norm(dim=1, keepdim=True) * torch.tensor([1.0, 0.85, 0.7], dtype=torch.float64)
    ones = torch.ones(count, dtype=torch.float64)
    return Structure(("C",) * count, places, 20 * ones, ones, "beads")


def twins(seed: int = 0, apart: float = 1.5) -> Structure:
    """Two chains of beads, the second the first one turned by 180 degrees about z, but for ``apart`` angstrom r.m.s. of
    every atom and coordinate: a molecule that looks nearly the same from elsewhere.
    """
    one = beads(seed, 40)
    first = 0.6 * one.positions + torch.tensor([9.0, 0.0, 0.0], dtype=torch.float64)
    noise = torch.randn(first.shape, generator=seeding.generator(seed, "twins"), dtype=torch.float64)
    second = first * torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64) + apart * noise
    places, ones = torch.cat([first, second]), torch.ones(2 * len(first), dtype=torch.float64)
    return Structure(("C",) * len(places), places, 20 * ones, ones, "twins")


@lru_cache
def stack(
    count: int = 300, box: int = 24, level: float = 2000.0, seed: int = 0, shift: float = 0.0, lens: bool = False
) -> tuple[Particles, ParticleSimulation]:
    """Images of beads at energy ``level`` (infinite: clean), read into memory, and what is true of them."""
    data, truth = simulate_particles(
        specimen_from_structure(beads(), box, 52.8 / box, b_factor=60.0),
        count=count,
        noise=None if math.isinf(level) else energy(level),
        seed=seed,
        defocus=(6000.0, 14000.0) if lens else None,
        max_shift=shift,
    )
    return replace(data, source=InMemory(data.images())), truth
