"""Seconds per patch, view and shift of the E-step, beside the raw FFTs of the same shapes in the same run.

Count: one 22 x 22 real inverse FFT (about 11 kflop), and about six passes over its 484 values (bias, maximum,
difference, clamp, exponential, sum) per patch and view; the statistics add one forward FFT and two passes. Predicted
from the raw FFT and 1 ns per value: about 1.5-2 times the FFT alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from common import save
from unpicked.model.noise import White
from unpicked.model.placements import Anywhere
from unpicked.ops.correlate import fast_size


def best(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--box", type=int, default=11)
    parser.add_argument("--views", type=int, default=300)
    parser.add_argument("--patches", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    side = options.box * round(options.patches**0.5)
    image = torch.randn(side, side, generator=generator).to(options.device)
    templates = torch.randn(options.views, options.box, options.box, generator=generator).to(options.device)
    weights = torch.full((options.views,), 1 / options.views, device=options.device).log()
    placement = Anywhere(0.12)
    units = (side // options.box) ** 2 * options.views * (2 * options.box - 1) ** 2
    size = fast_size(2 * options.box - 1)
    spectra = torch.randn(32, 8, size, size // 2 + 1, dtype=torch.complex64, device=options.device)

    def raw() -> None:
        for _ in range(20):
            torch.fft.irfft2(spectra, s=(size, size))

    with torch.no_grad():
        fft = best(raw, options.repeats) / (20 * 32 * 8 * (2 * options.box - 1) ** 2)
        e = best(lambda: placement.log_likelihood(templates, weights, White(3.0), image), options.repeats) / units
        em = best(lambda: placement.accumulate(templates, weights, White(3.0), image), options.repeats) / units
    save(
        "em_throughput",
        {
            "box, views, patches": [options.box, options.views, (side // options.box) ** 2],
            "device of this run": options.device,
            "raw inverse FFT, s per unit": fft,
            "E-step, s per patch x view x shift": e,
            "E + M statistics, s per unit": em,
            "E-step over raw FFT": e / fft,
        },
    )


if __name__ == "__main__":
    main()
