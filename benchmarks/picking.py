"""Precision and recall of the posterior occupancy beside a Laplacian-of-Gaussian and a template picker.

BPTI of eleven voxels of 5 A in simulated micrographs, white noise, no contrast transfer, at E = 100 and 30. All pickers
know the size of the particle; the template picker and ours know the map, too. The Laplacian-of-Gaussian picker takes
the best of several widths; the template picker takes the largest normalised cross-correlation over the same views;
both keep no two picks closer than the true least distance and are given the threshold of the best F1, which a user does
not know. Ours keeps what is more likely than not; its best F1 is told beside it. A pick within half a box is a hit.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch

from common import save
from unpicked.data.snr import energy
from unpicked.evaluate.picks import PickComparison, compare_picks
from unpicked.experiments.recovery import bpti
from unpicked.ops import rotation
from unpicked.picking import fit_scale, pick
from unpicked.picking.peaks import Peaks, blobs, correlated, peaks
from unpicked.preprocess import prepare
from unpicked.simulate.micrographs import Simulation, simulate_micrographs

BOX, VIEWS = 11, 800
APART = 2 * BOX - 1  # pixels between two particles at least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--energies", type=float, nargs="+", default=[100.0, 30.0])
    parser.add_argument("--micrographs", type=int, default=3, help="of 500 x 500 pixels")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, object] = {}
    specimen = bpti(BOX, 5.0).specimen
    for level in options.energies:
        data, truth = simulate_micrographs(
            specimen, count=options.micrographs, size=(500, 500), density=0.1, noise=energy(level), seed=options.seed
        )
        working = prepare(data).micrographs
        images = list(working)
        began = time.process_time()
        run = fit_scale(working, specimen.truth(), seed=1)
        found = list(pick(working, run, views=VIEWS, least=0.0, seed=1))
        ours = [Peaks(one.centres, one.posterior) for one in found]
        seconds = time.process_time() - began
        likely = figures_of([one.above(0.5) for one in ours], truth)
        figures[f"E = {level:g}, ours, p >= 0.5"] = rounded(likely.precision, likely.recall) | {
            "cpu_s": round(seconds, 1)
        }
        figures[f"E = {level:g}, ours, best F1"] = best(ours, truth)
        views = specimen.images(rotation.super_fibonacci(VIEWS).double()).float()
        figures[f"E = {level:g}, template"] = best([peaks(correlated(image, views), APART) for image in images], truth)
        gaussians = [
            best([peaks(blobs(image, width), APART) for image in images], truth) for width in (1.0, 1.4, 1.8, 2.3, 3.0)
        ]
        figures[f"E = {level:g}, Laplacian of Gaussian"] = max(gaussians, key=lambda one: float(one["f1"]))
    save("picking", figures)


def figures_of(picks: Sequence[Peaks], truth: Simulation) -> PickComparison:
    """Picks beside the truth, micrograph by micrograph; a pick within half a box is a hit."""
    real = {str(n): truth.occurrences(n).corners.flip(1).double().numpy() + BOX // 2 for n in range(truth.count)}
    places = {str(n): one.centres.numpy() for n, one in enumerate(picks)}
    return compare_picks(places, real, BOX / 2, {str(n): one.scores.numpy() for n, one in enumerate(picks)})


def rounded(precision: float, recall: float) -> dict[str, float]:
    """The three figures."""
    f1 = 2 * precision * recall / max(precision + recall, 1e-12)
    return {"precision": round(precision, 3), "recall": round(recall, 3), "f1": round(f1, 3)}


def best(picks: Sequence[Peaks], truth: Simulation) -> dict[str, float]:
    """The figures at the threshold of the best F1."""
    curve = (rounded(precision, recall) for _, precision, recall in figures_of(picks, truth).curve)
    return max(curve, key=lambda one: one["f1"])


if __name__ == "__main__":
    main()
