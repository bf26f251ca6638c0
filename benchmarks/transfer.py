"""BPTI straight from micrographs through contrast transfer and in coloured noise, at one energy per particle.

Eleven voxels of 5 A, E = 100, random starts, everything else as the command line has it. With contrast transfer: three
groups of defoci between 0.5 and 2 um, 1,000 A of astigmatism, once as the files state it and once left out.
Noise: white, coloured (power 1 + 3 exp(-(s / 0.15 Nyquist)^2)), autoregressive, 1 / f, and the spectrum of a measured
micrograph (of the folder UNPICKED_SHARED), each with and without whitening. Correlation and relative error after
alignment.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import torch

from common import save
from unpicked.data.snr import energy
from unpicked.evaluate.compare import compare
from unpicked.experiments.recovery import bpti
from unpicked.io.micrographs import read_micrographs
from unpicked.preprocess import prepare
from unpicked.recipes import MicrographJob, from_micrographs
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.noise import WHITE, Colour, colour, measured
from unpicked.simulate.optics import draw_optics, drawn
from unpicked.whitening import spectrum

SCOPE = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "phase_shift": 0.0}
REAL = "data/micrographs/epu2.9_example_bin4.mrc"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--energy", type=float, default=100.0)
    parser.add_argument("--micrographs", type=int, default=4, help="of 500 x 500 pixels, 248 particles each")
    parser.add_argument("--with-ctf", type=int, default=8, help="micrographs through contrast transfer")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=None, help="rows whose name holds one of these words")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures: dict[str, object] = {"E, micrographs, with CTF": [options.energy, options.micrographs, options.with_ctf]}
    rows: list[tuple[str, Colour, bool, MicrographJob]] = [
        ("contrast transfer as the files state it", WHITE, True, MicrographJob(box=11)),
        ("contrast transfer left out", WHITE, True, MicrographJob(box=11, ignore_ctf=True)),
        ("white noise", WHITE, False, MicrographJob(box=11)),
    ]
    for name, shape in colours().items():
        rows.append((f"{name} noise, whitened", shape, False, MicrographJob(box=11, noise="coloured")))
        rows.append((f"{name} noise, taken for white", shape, False, MicrographJob(box=11)))
    for name, shape, transfer, job in rows:
        if options.only is not None and not any(word in name for word in options.only):
            continue
        for seed in range(options.seeds):
            figures[f"{name}, seed {seed}"] = recovered(options, shape, transfer, job, seed)
            print(name, seed, figures[f"{name}, seed {seed}"], flush=True)
    save("transfer", figures)


def colours() -> dict[str, Colour]:
    """Noise that is not white."""
    found = {name: colour(name) for name in ("coloured", "ar:0.5", "1/f")}
    root = os.environ.get("UNPICKED_SHARED", Path(__file__).resolve().parents[2] / "shared")
    path = Path(root) / REAL
    if path.exists():
        prepared = prepare(read_micrographs([path], pixel_size=2.666))
        found["a real micrograph's"] = measured("measured", spectrum(prepared.micrographs[0]))
    return found


def recovered(
    options: argparse.Namespace, shape: Colour, transfer: bool, job: MicrographJob, seed: int
) -> dict[str, object]:
    """Figures of one run."""
    specimen, count = bpti(11, 5.0).specimen, options.with_ctf if transfer else options.micrographs
    optics = draw_optics(count, 3, (5000.0, 20000.0), 1000.0, SCOPE, drawn(seed + 1)) if transfer else None
    data, truth = simulate_micrographs(
        specimen, count=count, size=(500, 500), density=0.12, noise=energy(options.energy), seed=seed + 3,
        optics=optics, colour=shape,
    )  # fmt: skip
    began = time.process_time()
    answer = from_micrographs(data, replace(job, starts=2), seed=seed + 5)
    seconds = time.process_time() - began
    found = compare(answer.map, specimen.truth())
    return {
        "particles": truth.per_micrograph * truth.count,
        "correlation": round(found.correlation, 4),
        "relative_error": round(found.relative_error, 3),
        "fsc": [round(value, 3) for value in found.fsc[1:]],
        "energy": round(answer.figures()["energy"], 1),
        "cpu_s": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
