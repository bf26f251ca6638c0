"""Simulate a small stack of particle images of BPTI, find its map and poses from nothing, compare with the truth."""

from dataclasses import replace
from pathlib import Path

import unpicked as up
from unpicked.data.micrographs import InMemory


def main(count: int = 400, rounds: int = 4) -> tuple[float, float]:
    structure = up.read_structure(Path(up.__file__).parent / "simulate" / "5pti.cif")
    specimen = up.specimen_from_structure(structure, box=24, voxel=2.0)
    lazy, truth = up.simulate_particles(specimen, count=count, noise=up.energy(3000), seed=1)
    particles = replace(lazy, source=InMemory(lazy.images()))  # made once, not in every pass
    answer = up.from_particles(particles, up.ParticleJob(starts=1, rounds=rounds), seed=2)
    map, poses = up.compare(answer.map, specimen.truth()), up.compare_poses(answer.poses, truth.poses())
    print(f"{count} images, poses to {answer.figures()['pose_spread_deg']:.1f} degrees as the noise implies")
    print(f"median error of the poses {poses.median_deg:.1f} degrees, hand {poses.hand}")
    print(f"correlation of the map with the truth {map.correlation:.3f}")
    return map.correlation, poses.median_deg


if __name__ == "__main__":
    main()
