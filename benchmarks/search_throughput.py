"""Scores of all views for all images as matrix products, beside the raw rate of sgemm measured in the same run.

10,000 images against 4,608 views at radius 8 (half a disc of 98 complex frequencies): n k (4 p) flops for the products
with the images, and n k (2 p) for those of C^2 with |S|^2 where there is a contrast transfer. One core, float32. Times
are the least of some repeats; the product alone is measured between them, in blocks of the same shape.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from common import save
from unpicked.ops import orientations, seeding
from unpicked.ops.band import Band
from unpicked.ops.orientations import Images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--views", type=int, default=4608)
    parser.add_argument("--box", type=int, default=32)
    parser.add_argument("--radius", type=int, default=8)
    parser.add_argument("--shifted", type=int, default=1000, help="images of the case with 49 shifts")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures: dict[str, object] = {
        "images, views, radius": [options.images, options.views, options.radius],
        "threads": options.threads,
        "frequencies": len(Band(options.box, options.radius)),
    }
    reach = 4.0  # pixels: 49 shifts
    for name, count, reach_px, transfer in (
        ("no CTF", options.images, 0.0, False),
        ("CTF", options.images, 0.0, True),
        ("CTF, 49 shifts", options.shifted, reach, True),
    ):
        figures |= {f"{name}: {key}": value for key, value in one(count, reach_px, transfer, options).items()}
    save("search_throughput" if options.device == "cpu" else f"search_throughput_{options.device}", figures)


def one(count: int, reach: float, transfer: bool, options: argparse.Namespace) -> dict[str, float]:
    """Figures of one case."""
    images, slices, noise, ramps = setting(count, reach, transfer, options)
    points, views, shifts = len(noise), len(slices), len(ramps)
    flops = 2.0 * count * shifts * views * 2 * points + (2.0 * count * views * points if transfer else 0.0)
    rows = min(count * shifts, max(64, (1 << 23) // views))
    left = torch.randn(rows, 2 * points, device=options.device)
    right = torch.randn(2 * points, views, device=options.device)
    product = torch.empty(rows, views, device=options.device)

    def raw() -> None:
        torch.mm(left, right, out=product)

    def scores() -> None:
        for _ in orientations.scores(images, slices, noise, ramps):
            pass

    works = {
        "scores": scores,
        "best": lambda: orientations.best(images, slices, noise, ramps),
        "best 4": lambda: orientations.best(images, slices, noise, ramps, 4),
        "posterior_sums": lambda: orientations.posterior_sums(images, slices, noise, ramps),
    }
    times = least({"raw": raw, **works}, options.repeats, options.device)
    rate = 2.0 * rows * views * 2 * points / times["raw"]
    figures = {"Gflop of the scores": flops / 1e9, "sgemm, Gflop/s": rate / 1e9, "sgemm alone, s": flops / rate}
    for name in works:
        work = flops if name != "posterior_sums" else 2 * flops  # the sums are the products' adjoints
        figures[f"{name}, s"] = times[name]
        figures[f"{name}, part of sgemm"] = work / rate / times[name]
    return figures


def setting(
    count: int, reach: float, transfer: bool, options: argparse.Namespace
) -> tuple[Images, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images of a random map's slices in noise, as many as asked for, and what they are compared with."""
    band, generator = Band(options.box, options.radius), seeding.generator(0, "throughput")
    points = len(band)
    slices = torch.randn(options.views, points, generator=generator, dtype=torch.complex64)
    chosen = torch.randint(options.views, (count,), generator=generator)
    ramps = band.ramp(orientations.shift_grid(reach))
    moved = ramps[torch.randint(len(ramps), (count,), generator=generator)]
    seen = torch.rand(count, points, generator=generator) if transfer else None
    clean = slices[chosen] * moved if seen is None else slices[chosen] * moved * seen
    noisy = clean + 3 * torch.randn(count, points, generator=generator, dtype=torch.complex64)
    device = options.device
    images = Images(noisy.to(device), None if seen is None else seen.to(device))
    return images, slices.to(device), torch.full((points,), 9.0, device=device), ramps.to(device)


def least(works: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Least seconds of each, measured in turn; of one thread on a CPU, that thread's own time."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    times = dict.fromkeys(works, float("inf"))
    for _ in range(repeats + 1):
        for name, work in works.items():
            start = clock()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name] = min(times[name], clock() - start)
    return times


if __name__ == "__main__":
    main()
