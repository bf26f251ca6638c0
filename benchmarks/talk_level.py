"""BPTI (5PTI) at 11 x 11 x 11, E = 424, random starts: correlation with the band-limited truth over several seeds."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import unpicked as up
from common import save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=448)
    options = parser.parse_args()
    structure = up.read_structure(Path(up.__file__).parent / "simulate" / "5pti.cif")
    specimen = up.specimen_from_structure(structure, box=11, voxel=5.0)
    rows = []
    for seed in range(options.seeds):
        data, truth = up.simulate_micrographs(
            specimen, count=2, size=(options.size, options.size), density=0.12, noise=up.energy(424), seed=seed
        )
        began = time.perf_counter()
        job = up.MicrographJob(box=11)
        answer = up.from_micrographs(data, job, seed=seed + 1000)
        found = up.compare(answer.map, specimen.truth())
        rows.append(
            {
                "seed": seed,
                "particles": truth.per_micrograph * truth.count,
                "correlation": round(found.correlation, 4),
                "relative_error": round(found.relative_error, 3),
                "resolution_05": found.resolution_05,
                "sigma / true": round(answer.sigma / truth.sigma, 4),
                "density / true": round(answer.figures()["density"] / truth.density, 3),
                "seconds": round(time.perf_counter() - began, 1),
                "threads": torch.get_num_threads(),
            }
        )
        print(rows[-1], flush=True)
    save("talk_level", {"runs": rows, "smallest correlation": min(row["correlation"] for row in rows)})


if __name__ == "__main__":
    main()
