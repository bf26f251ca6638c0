"""How long a reconstruction from micrographs takes, before it is begun: pixels x views x passes at a constant cost.

The constant is that of one core, measured where every pixel meets every view: an E-step of the lattice gas with its
statistics (``benchmarks/em_throughput.py``: 0.9 to 5.8 ns, less the more pixels can be screened out). What does not
grow with the data, solving for the map above all, is not in it: on small data it is most of a run.
"""

from __future__ import annotations

UNIT = 4e-9  # seconds per pixel, view and pass on one core
VERIFIED = 2.1  # a run with its verification, in runs without: benchmarks/verify_cost.py

# what `reconstruct micrographs` does if nothing else is asked for; a test holds that these are its defaults
STARTS, PASSES, FIRST, FINER = 4, (12, 8, 12), 100, 4
FAINT = 150.0  # E above which single particles tell their views, and the last stage takes four times as many


def view_passes(energy: float) -> int:
    """Views times passes of all stages, for particles of energy E."""
    views = [FIRST * FINER**stage for stage in range(len(PASSES))]
    views[-1] *= FINER if energy >= FAINT else 1
    starts = [STARTS] + [1] * (len(PASSES) - 1)
    return sum(count * passes * each for count, passes, each in zip(starts, PASSES, views, strict=True))


def seconds_of(pixels: float, energy: float) -> float:
    """Of a reconstruction from so many working pixels and its verification, on one core.

    Args:
        pixels: of all micrographs, at the working voxel.
        energy: E of one particle.
    """
    return VERIFIED * UNIT * pixels * view_passes(energy)
