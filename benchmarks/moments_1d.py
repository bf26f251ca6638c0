"""Time of the moments of a signal: a1, a2 and all third-order lags, per sample and core, beside other formulations.

One thread. Every formulation is timed several times, in turns, and its best time counts: that of an idle core. The
matrix form multiplies a Hankel copy of each block by itself, with the same precision of products and sums.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from common import save
from unpicked.ops import moments
from unpicked.ops.normal import normal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=21)
    parser.add_argument("--samples", type=int, default=4_000_000)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    y, length = normal(options.samples, 0, "benchmark"), options.length
    forms: dict[str, Callable[[], object]] = {
        "compiled": lambda: moments.lag_sums(y, length, method="compiled"),
        "Hankel GEMM": lambda: moments.lag_sums(y, length, method="gemm"),
        "normal numbers alone": lambda: normal(options.samples, 0, "benchmark"),
    }
    if torch.cuda.is_available():
        on_gpu = y.cuda()
        forms["Hankel GEMM, GPU"] = lambda: (moments.lag_sums(on_gpu, length), torch.cuda.synchronize())
    best = dict.fromkeys(forms, float("inf"))
    for _ in range(options.repeats):
        for name, form in forms.items():
            began, wall = time.process_time(), time.perf_counter()
            form()
            spent = time.perf_counter() - wall if "GPU" in name else time.process_time() - began
            best[name] = min(best[name], spent)
    first = torch.as_tensor(moments.lag_sums(y, length, method="compiled")).sum(0)
    cut = options.samples // 3
    parts = (y[: cut + length - 1], y[cut:])
    split = torch.stack([moments.lag_sums(part, length).sum(0) for part in parts]).sum(0)
    products = 2 * (length + moments.count(length) - 1 - length)
    figures: dict[str, object] = {"length, samples": [length, options.samples], "sums": moments.count(length)}
    for name, seconds in best.items():
        figures[f"{name}, ns per sample"] = round(seconds / options.samples * 1e9, 2)
    figures["compiled / Hankel GEMM"] = round(best["compiled"] / best["Hankel GEMM"], 3)
    figures["useful GFLOP/s, compiled"] = round(products * options.samples / best["compiled"] / 1e9, 1)
    spread = options.samples**0.5  # of a sum of products of unit noise
    figures["cut in two, largest difference in standard deviations"] = float((first - split).abs().max() / spread)
    save("moments_1d", figures)


if __name__ == "__main__":
    main()
