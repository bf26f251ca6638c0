"""Phantoms that need no file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.objects.gaussians import Gaussians
from unpicked.ops import rotation
from unpicked.simulate.micrographs import Specimen

# contrast, half axes a b c, centre x y z (box half-widths), turn about z in degrees: Toft's contrast (1996) in three
# dimensions, the table of Schabel's widely used phantom3d
_ELLIPSOIDS = (
    (1.0, 0.69, 0.92, 0.81, 0.0, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.78, 0.0, -0.0184, 0.0, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.22, 0.0, 0.0, -18.0),
    (-0.2, 0.16, 0.41, 0.28, -0.22, 0.0, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.41, 0.0, 0.35, -0.15, 0.0),
    (0.1, 0.046, 0.046, 0.05, 0.0, 0.1, 0.25, 0.0),
    (0.1, 0.046, 0.046, 0.05, 0.0, -0.1, 0.25, 0.0),
    (0.1, 0.046, 0.023, 0.05, -0.08, -0.605, 0.0, 0.0),
    (0.1, 0.023, 0.023, 0.02, 0.0, -0.606, 0.0, 0.0),
    (0.1, 0.023, 0.046, 0.02, 0.06, -0.605, 0.0, 0.0),
)


def shepp_logan(box: int, voxel_size: float = 1.0, *, oversampling: int = 2) -> Map:
    """The modified Shepp-Logan phantom in three dimensions, values 0 to 1, averaged over sub-voxels.

    Args:
        box: edge in voxels.
        voxel_size: angstrom.
        oversampling: sub-voxels per voxel and axis.
    """
    steps = box * oversampling
    axis = ((torch.arange(steps, dtype=torch.float64) + 0.5) / oversampling - 0.5 - box // 2) / (box / 2)
    z, y, x = axis[:, None, None], axis[:, None], axis
    values = torch.zeros(steps, steps, steps, dtype=torch.float64)
    for contrast, a, b, c, x0, y0, z0, turn in _ELLIPSOIDS:
        cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        u = (x - x0) * cosine + (y - y0) * sine
        v = (y - y0) * cosine - (x - x0) * sine
        values += contrast * (((u / a) ** 2 + (v / b) ** 2 + ((z - z0) / c) ** 2) <= 1)
    blocks = values.reshape(box, oversampling, box, oversampling, box, oversampling)
    return Map(blocks.mean((1, 3, 5)), voxel_size)


@dataclass(frozen=True)
class Chain:
    """The shape of a bead chain, in working voxels.

    Attributes:
        beads: their number.
        sigma: width of a bead, a Gaussian.
        step: distance of neighbours in the chain.
        apart: least distance of all others.
        radius: largest distance from the first bead.
    """

    beads: int
    sigma: float
    step: float
    apart: float
    radius: float

    def __post_init__(self) -> None:
        if self.beads < 1:
            raise ValueError(f"beads must be at least 1; got {self.beads}")
        for name in ("sigma", "step", "apart", "radius"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, in voxels; got {getattr(self, name)}")


CHAINS = {7: Chain(7, 0.78, 1.8, 1.6, 2.3), 11: Chain(12, 0.9, 2.4, 2.1, 3.6)}
"""Chains of the recovery studies by box: compact, chiral, and far from a featureless ball."""
TRIES = 200  # walks begun before a chain is called impossible


def bead_chain(box: int, seed: int, *, chain: Chain | None = None, voxel_size: float = 1.0) -> Specimen:
    """A chiral chain of Gaussian beads of random strengths U(0.6, 1.4), another one for every seed.

    Strengths are scaled so that the mean over views of a projection's sum of squares is 1: at noise of standard
    deviation sigma, E = 1 / sigma^2.

    Args:
        box: edge of the particle's box in working voxels.
        seed: of the chain.
        chain: its shape; default that of :data:`CHAINS` for boxes of 7 and 11 voxels.
        voxel_size: angstrom.

    Returns:
        A specimen on a grid twice as fine, centred on its centroid.

    Raises:
        ValueError: for another box without ``chain``, or where no such chain was found.
    """
    chain = chain or CHAINS.get(box)
    if chain is None:
        known = " and ".join(map(str, CHAINS))
        raise ValueError(f"bead chains are known for boxes of {known} voxels; got {box}; try one of these, or chain=")
    # the seed itself, not a stream of it: the chains are those that recorded studies name by it
    generator = torch.Generator().manual_seed(seed)
    positions = _walk(chain, generator)
    weights = 0.6 + 0.8 * torch.rand(chain.beads, generator=generator, dtype=torch.float64)
    positions = positions - (weights[:, None] * positions).sum(0) / weights.sum()
    widths = torch.full((chain.beads,), 2 * chain.sigma, dtype=torch.float64)
    bare = Specimen(Gaussians(2 * box, 2 * positions, widths), weights, box, voxel_size)
    power = bare.images(rotation.super_fibonacci(400)).square().sum((-2, -1)).mean()
    return Specimen(bare.object, weights / power.sqrt(), box, voxel_size)


def _walk(chain: Chain, generator: torch.Generator) -> torch.Tensor:
    """Places ``(beads, 3)`` of a self-avoiding walk inside the radius; begun anew where it is caught."""
    for _ in range(TRIES):
        walk = [torch.zeros(3, dtype=torch.float64)]
        for _ in range(2000):
            if len(walk) == chain.beads:
                return torch.stack(walk)
            direction = torch.randn(3, generator=generator, dtype=torch.float64)
            new = walk[-1] + chain.step * direction / direction.norm()
            apart = all(float((new - old).norm()) >= chain.apart for old in walk[:-1])
            if apart and float(new.norm()) <= chain.radius:
                walk.append(new)
        if len(walk) == chain.beads:
            return torch.stack(walk)
    raise ValueError(f"no chain was found with {chain}; try fewer beads, or a larger radius")
