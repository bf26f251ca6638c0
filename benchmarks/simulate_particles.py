"""Images per second of the particle simulator at 128 pixels, and its rate beside the raw matrix product's.

Counts for n = 3,312 atoms (4AKE, both chains) on a grid of P pixels: one real product of (P, n) by (n, P), 2 P^2 n =
0.11 GFLOP at P = 128, 0.43 at P = 256, 0.98 at P = 384 (contrast transfer of 0.4 um needs P = 256, of 1.2 um 378: 0.59
on average); waves 2 P n x 3 flops, form factors 8 P^2 per element, inverse FFT 2.5 P^2 log2(P^2). The product is most
of it: predicted at 60 GFLOP/s 2 ms per plain image and 10 ms with contrast transfer, with 2 to 4 ms for the rest;
10,000 images in 0.7 and 2 minutes on one core.

Without the file of 4AKE (--structure) BPTI stands in, repeated to as many atoms.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import unpicked as up
from common import save
from unpicked.data.structure import Structure
from unpicked.simulate.datasets import dataset
from unpicked.simulate.particles import ParticleSimulation, in_order

ATOMS = 3312


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structure", type=Path, help="4AKE, both chains")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    structure = up.read_structure(options.structure) if options.structure else stand_in()
    figures: dict[str, object] = {
        "structure, atoms": [structure.name, len(structure)],
        "threads of this run": options.threads,
    }
    rate = sgemm(len(structure))
    figures["raw sgemm of (256, n) by (n, 256), one thread, GFLOP/s"] = rate
    for name in ("D", "G"):
        data, truth = dataset(name, structure, count=options.count, seed=1)
        for _ in in_order(data.part(range(min(8, len(data)))), options.threads):
            pass
        start, used = time.perf_counter(), time.process_time()
        for _ in in_order(data, options.threads):
            pass
        wall, used = time.perf_counter() - start, time.process_time() - used
        work = 1e-9 * sum(flops(truth, index, len(structure)) for index in range(len(data)))
        figures |= {
            f"{name}: images per second": len(data) / wall,
            f"{name}: CPU ms per image": 1e3 * used / len(data),
            f"{name}: GFLOP of products per image": work / len(data),
            f"{name}: GFLOP/s per CPU second, all work counted": work / used,
            f"{name}: share of the raw rate": work / used / rate,
            f"{name}: CPU s for 10,000 images": 1e4 * used / len(data),
        }
    save("simulate_particles", figures)


def flops(truth: ParticleSimulation, index: int, atoms: int) -> float:
    """Of the matrix products of one image."""
    return 2.0 * truth.padded(index) ** 2 * atoms


def sgemm(atoms: int) -> float:
    """GFLOP/s of the product alone, one thread: the best of some."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    left, right = torch.randn(256, atoms), torch.randn(256, atoms)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        left @ right.mT
        times.append(time.perf_counter() - start)
    torch.set_num_threads(before)
    return 2e-9 * 256**2 * atoms / min(times)


def stand_in() -> Structure:
    """BPTI's atoms, again and again until they are as many as 4AKE's."""
    one = up.read_structure(Path(up.__file__).parent / "simulate" / "5pti.cif")
    picks = [index % len(one) for index in range(ATOMS)]
    turn = torch.arange(ATOMS) // len(one)
    return Structure(
        tuple(one.elements[index] for index in picks),
        one.positions[picks] + turn[:, None] * torch.tensor([4.0, 0.0, 0.0], dtype=torch.float64),
        one.b_factors[picks],
        one.occupancies[picks],
        "BPTI, repeated",
    )


if __name__ == "__main__":
    main()
