"""Wrong structures that look as right as may be: same spectrum, size, shape and mass as a map, another fold.

Two families. Phases shuffled: lumps of density at random. Chains: a self-avoiding walk of residues, as a protein is,
and so the harder to tell apart. Both are brought to the map's radial part and to its power in every Fourier shell.
"""

from __future__ import annotations

import math

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.ops import fourier, seeding
from unpicked.ops.radial import radial

STEP = 3.8  # angstrom between the alpha carbons of neighbouring residues
VOLUME = 134.0  # cubic angstrom of a residue
LOOSE = 1.3  # volume of the shape over that of the residues in it
FEWEST, MOST = 30, 400
ROUNDS = 12
BACK = 15  # residues that are taken back where a walk is caught


def shuffled(map: Map, seed: int) -> Map:
    """Density of random phases within the map's envelope, at the map's spectrum.

    Args:
        map: matter bright, centred.
        seed: of the phases.
    """
    generator = seeding.generator(seed, "shuffled")
    white = torch.randn(map.values.shape, generator=generator, dtype=torch.float64)
    return _alike(white * _envelope(map.values.double()), map)


def chain(map: Map, seed: int, residues: int | None = None) -> Map:
    """A self-avoiding chain within an ellipsoid of the map's shape, at the map's spectrum.

    Args:
        map: matter bright, centred.
        seed: of the chain.
        residues: its length; None means what fills the ellipsoid, from 30 to 400, with longer steps where these are
            too few.

    Raises:
        ValueError: if no such chain was found.
    """
    values = map.values.double()
    axes, lengths = _shape(values)
    semi = math.sqrt(5) * lengths * map.voxel_size  # of a solid ellipsoid of the same second moments
    room = float(4 / 3 * math.pi * semi.prod()) / (LOOSE * VOLUME)
    count = residues or round(min(max(room, FEWEST), MOST))
    step = STEP * min(1.0, (room / count) ** (1 / 3)) if residues else STEP * (room / count) ** (1 / 3)
    walk = _walk(count, step, semi, seeding.generator(seed, "chain"))
    places = (walk @ axes.mT) / map.voxel_size
    axis = torch.arange(map.box, dtype=torch.float64) - map.box // 2
    spread = max(0.7, 0.66 * step / map.voxel_size)
    x, y, z = (torch.exp(-0.5 * ((axis - place[:, None]) / spread).square()) for place in places.unbind(1))
    return _alike(torch.einsum("nz,ny,nx->zyx", z, y, x), map)


def _shape(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Principal axes as columns, and standard deviations of density along them in voxels."""
    mass = values.clamp(min=0)
    mass = torch.where(mass > 0.1 * mass.max(), mass, 0.0)
    axis = torch.arange(values.shape[0], dtype=torch.float64) - values.shape[0] // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.stack([x, y, z], -1).reshape(-1, 3)
    weight = mass.flatten() / mass.sum()
    centred = points - weight @ points
    moments, axes = torch.linalg.eigh((centred * weight[:, None]).mT @ centred)
    return axes, moments.clamp(min=0.25).sqrt()


def _envelope(values: torch.Tensor) -> torch.Tensor:
    """How strong density is about there: a Gaussian of the map's second moments, flat inside."""
    axes, lengths = _shape(values)
    axis = torch.arange(values.shape[0], dtype=torch.float64) - values.shape[0] // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    inside = (torch.stack([x, y, z], -1) @ axes / (math.sqrt(5) * lengths)).square().sum(-1)
    return torch.exp(-inside.pow(3))


def _alike(values: torch.Tensor, map: Map) -> Map:
    """Density brought, in turns, to the map's power in every shell, its radial part, and hardly less than its least."""
    wanted = map.values.double()
    plain, least = radial(wanted), float(wanted.min())
    target = fourier.shell_sum(fourier.fft3(wanted - plain).abs().square()).sqrt()
    shells = fourier.shells(wanted.shape)
    inside = shells < len(target)
    rest = values
    for _ in range(ROUNDS):
        rest = rest - radial(rest)
        spectrum = fourier.fft3(rest)
        power = fourier.shell_sum(spectrum.abs().square()).sqrt()
        gain = target / power.clamp(min=1e-12 * float(power.max()))
        rest = fourier.ifft3(spectrum * torch.where(inside, gain[shells.clamp(max=len(target) - 1)], 0.0))
        rest = (plain + rest).clamp(min=least)
    rest = rest - radial(rest)
    rest = rest * ((wanted - plain).norm() / rest.norm())
    return Map(plain + rest, map.voxel_size)


def _walk(count: int, step: float, semi: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Alpha carbons ``(count, 3)`` of a persistent self-avoiding walk in an ellipsoid, in angstrom."""
    for _ in range(20):
        places = torch.zeros(count, 3, dtype=torch.float64)
        places[0] = (torch.rand(3, generator=generator, dtype=torch.float64) - 0.5) * semi
        direction = _unit(torch.randn(1, 3, generator=generator, dtype=torch.float64))[0]
        at, tries = 1, 0
        while at < count and tries < 60 * count:
            tries += 1
            turns = _unit(direction + 0.9 * torch.randn(24, 3, generator=generator, dtype=torch.float64))
            new = places[at - 1] + step * turns
            good = (new / semi).square().sum(1) <= 1
            if at > 1:
                apart = torch.cdist(new, places[: at - 1]).amin(1)
                good &= apart >= step
            if bool(good.any()):
                pick = int(good.nonzero()[0])
                places[at], direction = new[pick], turns[pick]
                at += 1
            else:
                at = max(1, at - BACK)
                direction = _unit(torch.randn(1, 3, generator=generator, dtype=torch.float64))[0]
        if at == count:
            return places - places.mean(0)
    raise ValueError(f"no self-avoiding chain of {count} residues was found in an ellipsoid of {semi.tolist()} A")


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)
