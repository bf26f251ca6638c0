"""The particle sets of Nashed et al. (2021) and two more: E. coli adenylate kinase at 128 pixels of 0.8 angstrom."""

from __future__ import annotations

from dataclasses import dataclass

from unpicked.data import snr
from unpicked.data.particles import Particles
from unpicked.data.snr import NoiseLevel
from unpicked.data.structure import Structure
from unpicked.simulate.micrographs import Specimen
from unpicked.simulate.particles import ParticleSimulation, simulate_particles
from unpicked.simulate.specimens import specimen_from_structure

BOX, VOXEL, B_FACTOR, COUNT = 128, 0.8, 20.0, 10_000


@dataclass(frozen=True)
class Dataset:
    """What one of the sets is.

    Attributes:
        decibels: noise level, signal variance over noise variance in the box; None: clean.
        defocus: least and largest in angstrom; None: no contrast transfer.
        max_shift: radius of the disc of shifts, angstrom.
        chain: the one chain that is seen; None: the whole structure.
    """

    decibels: float | None = None
    defocus: tuple[float, float] | None = None
    max_shift: float = 0.0
    chain: str | None = None


DEFOCUS = (4000.0, 12000.0)
DATASETS = {
    "A": Dataset(),
    "B": Dataset(10.0),
    "C": Dataset(5.0),
    "D": Dataset(0.0),
    "E": Dataset(-5.0),
    "F": Dataset(-10.0),
    "G": Dataset(0.0, DEFOCUS),
    "H": Dataset(-20.0, DEFOCUS, max_shift=8.0),
    "M": Dataset(chain="A"),
}


def dataset(
    name: str,
    structure: Structure,
    *,
    count: int = COUNT,
    box: int = BOX,
    seed: int,
    noise: NoiseLevel | None = None,
) -> tuple[Particles, ParticleSimulation]:
    """One of the sets A to H and M, lazily; microscope of G and H: 300 kV, Cs 2.7 mm, amplitude contrast 0.1.

    Args:
        name: A (clean), B to F (10, 5, 0, -5, -10 dB), G (0 dB, defocus 0.4 to 1.2 um), H (-20 dB, the same defocus,
            shifts of up to 8 angstrom), M (chain A alone, clean).
        structure: 4AKE, both chains, without waters.
        count: number of images; the sets have 10,000, of which the last 1,000 are held out of the fit.
        box: smaller boxes show the same field of view with coarser pixels, as a Fourier crop of the same images
            would; the noise stays that of the full size, per Fourier coefficient.
        seed: of everything random.
        noise: level of M's images at full size, instead of none; the other sets have their own.

    Raises:
        ValueError: for an unknown name, a box above 128 or below 4, or noise for a set that has its own.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}; got {name!r}")
    if not 4 <= box <= BOX:
        raise ValueError(f"the box of a dataset must lie between 4 and {BOX} pixels; got {box}")
    kind = DATASETS[name]
    if noise is not None and name != "M":
        level = "clean" if kind.decibels is None else f"at {kind.decibels:g} dB"
        raise ValueError(f"dataset {name} is {level} by definition; try another dataset, M, or no dataset")
    if kind.decibels is not None:
        noise = snr.snr_db(kind.decibels)
    seen = structure if kind.chain is None else structure.chain(kind.chain)
    full = specimen_from_structure(seen, BOX, VOXEL, b_factor=B_FACTOR)
    specimen = full
    if box != BOX:
        specimen = Specimen(full.object, full.x, box, BOX * VOXEL / box)
        if noise is not None:
            _, truth = simulate_particles(
                full, count=1, noise=noise, seed=seed, defocus=kind.defocus, max_shift=kind.max_shift
            )
            noise = snr.sigma(truth.sigma)
    data, simulation = simulate_particles(
        specimen, count=count, noise=noise, seed=seed, defocus=kind.defocus, max_shift=kind.max_shift
    )
    return data, simulation
