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
from collections.abc import Callable, Sequence

import numpy as np
import torch

from common import save
from unpicked.data.snr import energy
from unpicked.experiments.recovery import bpti
from unpicked.ops import lattice, rotation
from unpicked.picking import fit_scale, pick
from unpicked.preprocess import prepare
from unpicked.simulate.micrographs import Simulation, simulate_micrographs

BOX, VIEWS = 11, 800


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
        ours = [(one.centres.numpy(), one.posterior.numpy()) for one in found]
        seconds = time.process_time() - began
        likely = [(centres[scores >= 0.5], scores[scores >= 0.5]) for centres, scores in ours]
        figures[f"E = {level:g}, ours, p >= 0.5"] = figures_of(likely, truth) | {"cpu_s": round(seconds, 1)}
        figures[f"E = {level:g}, ours, best F1"] = best(ours, truth)
        views = specimen.images(rotation.super_fibonacci(VIEWS).double()).float()
        figures[f"E = {level:g}, template"] = best([peaks(correlated(image, views)) for image in images], truth)
        gaussians = [
            best([peaks(blobs(image, width)) for image in images], truth) for width in (1.0, 1.4, 1.8, 2.3, 3.0)
        ]
        figures[f"E = {level:g}, Laplacian of Gaussian"] = max(gaussians, key=lambda one: float(one["f1"]))
    save("picking", figures)


Picks = tuple[np.ndarray, np.ndarray]


def peaks(scores: torch.Tensor) -> Picks:
    """Local maxima of scores at centres, no two closer than the least distance, the highest first."""
    top = scores == lattice.windowed_maximum(scores, 2 * BOX - 1)
    rows, columns = top.nonzero(as_tuple=True)
    return torch.stack([columns, rows], 1).double().numpy(), scores[rows, columns].double().numpy()


def correlated(image: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
    """Largest normalised cross-correlation over the views, at every centre."""
    flat = views - views.mean((-2, -1), keepdim=True)
    flat = flat / flat.square().sum((-2, -1), keepdim=True).sqrt()
    padded = torch.nn.functional.pad(image[None, None], (BOX // 2,) * 4, mode="reflect")
    mean, square = (torch.nn.functional.avg_pool2d(one, BOX, 1)[0, 0] for one in (padded, padded.square()))
    spread = ((square - mean**2) * BOX**2).clamp(min=1e-12).sqrt()
    top = torch.full_like(image, -torch.inf)
    for part in flat.split(50):
        top = torch.maximum(top, torch.nn.functional.conv2d(padded, part[:, None])[0].amax(0))
    return top / spread


def blobs(image: torch.Tensor, width: float) -> torch.Tensor:
    """The negative Laplacian of the image smoothed by a Gaussian of this standard deviation."""
    fy = torch.fft.fftfreq(image.shape[0])[:, None]
    fx = torch.fft.rfftfreq(image.shape[1])
    square = (2 * torch.pi) ** 2 * (fx.square() + fy.square())
    return torch.fft.irfft2(torch.fft.rfft2(image) * square * torch.exp(-square * width**2 / 2), s=image.shape)


def best(picks: Sequence[Picks], truth: Simulation) -> dict[str, float]:
    """The figures at the threshold of the best F1."""
    levels = np.quantile(np.concatenate([scores for _, scores in picks]), np.linspace(0, 0.995, 120))
    kept: Callable[[float], list[Picks]] = lambda level: [(c[s >= level], s[s >= level]) for c, s in picks]  # noqa: E731
    return max((figures_of(kept(level), truth) for level in levels), key=lambda one: one["f1"])


def figures_of(picks: Sequence[Picks], truth: Simulation) -> dict[str, float]:
    """Precision, recall and F1; every particle is hit once."""
    hits = found = 0
    for index, (centres, scores) in enumerate(picks):
        real = truth.occurrences(index).corners.flip(1).double().numpy() + BOX // 2
        free = np.ones(len(real), bool)
        for centre in centres[np.argsort(-scores, kind="stable")]:
            distance = np.where(free, np.hypot(*(real - centre).T), np.inf)
            if distance.min(initial=np.inf) <= BOX / 2:
                free[distance.argmin()] = False
                hits += 1
        found += len(centres)
    precision, recall = hits / max(found, 1), hits / (truth.per_micrograph * truth.count)
    f1 = 2 * precision * recall / max(precision + recall, 1e-12)
    return {"precision": round(precision, 3), "recall": round(recall, 3), "f1": round(f1, 3)}


if __name__ == "__main__":
    main()
