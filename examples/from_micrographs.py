"""Simulate two small micrographs of BPTI, reconstruct it from them without picking, compare with the truth."""

from pathlib import Path

import unpicked as up


def main(size: int = 256, iterations: int = 10) -> float:
    structure = up.read_structure(Path(up.__file__).parent / "simulate" / "5pti.cif")
    specimen = up.specimen_from_structure(structure, box=9, voxel=6.0)
    micrographs, truth = up.simulate_micrographs(
        specimen, count=2, size=(size, size), density=0.12, noise=up.energy(424), seed=1
    )
    job = up.MicrographJob(box=9, lmax=6, starts=1, views=(60,), iterations=(iterations,), moves=0)
    answer = up.from_micrographs(micrographs, job, seed=2)
    found = up.compare(answer.map, specimen.truth())
    print(answer.last.result.value)
    print(f"{truth.per_micrograph * truth.count} particles, {answer.figures()['particles']:.0f} found")
    print(f"correlation with the truth {found.correlation:.3f}, hand {found.hand}")
    return found.correlation


if __name__ == "__main__":
    main()
