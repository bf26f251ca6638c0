"""Seconds per unit of the E-step and of its statistics, beside the raw kernels of the same shapes in the same run.

Units: patch x view x offset for patches of side B = L = 11 (441 offsets), pixel x view for the lattice gas.

Counts: a patch and an offset overlap in (B L / (B + L - 1))^2 = 33.2 pixels on average, so a score is 66 flops; the
statistics compute it again and add 66 flops of weighted windows. A site of the gas is one inner product of 121 pixels,
242 flops; the statistics only concern the sites that carry weight. Every score is one exponential, about 20
instructions of which a core with AVX2 does 8 lanes and 3 to 4 a cycle: 0.3-0.6 ns with the search for the largest.
Predicted at 70 GFLOP/s: patches 0.95 + 0.5 = 1.4e-9 s, with statistics 2 x 1.4 + 0.95 = 3.8e-9 s; gas 3.5 + 0.5 =
4.0e-9 s, and with the screen (256 representatives for 1500 views) about a sixth of that per view.
By FFT a score would take two transforms' share: 22 x 22 real inverse FFT, about 11 kflop for 441 offsets.

For comparison the published MATLAB code (Bendory 2022) under Octave 7.3 on one thread: E-step 1.9e-7 .. 4.0e-7 s per
patch x view x offset, M-step 3.4e-3 .. 5.8e-3 s per view x offset.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import unpicked as up
from common import save
from unpicked.estimators.base import Batch
from unpicked.estimators.em import EM
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.placements import Anywhere, Gas, Likelihood, Patches, Window
from unpicked.model.views import Projection
from unpicked.objects.ball import Ball
from unpicked.ops import correlate, evidence, rotation
from unpicked.priors import Flat

BOX, DENSITY, ENERGY = 11, 0.12, 424
PUBLISHED = "1.9e-7 .. 4.0e-7 s per patch x view x offset; M-step 3.4e-3 .. 5.8e-3 s per view x offset"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=300)
    parser.add_argument("--fine-views", type=int, default=1500, help="for the gas behind its screen")
    parser.add_argument("--patches", type=int, default=100_489, help="a square number")
    parser.add_argument("--size", type=int, default=512, help="side of the gas's micrograph")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full", action="store_true", help="one iteration at full scale instead")
    parser.add_argument(
        "--micrographs", type=int, default=8, help="of 4096 x 4096 pixels, for --full; 8 are 1.1e6 patches"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.no_grad():
        if options.full:
            save("em_throughput_full", full(options.micrographs, options.device))
        else:
            save("em_throughput", table(options))


def table(options: argparse.Namespace) -> dict[str, object]:
    """Seconds per unit."""
    device, views = options.device, options.views
    model, x, data = world(views, options.size, 1, device)
    templates, weights, noise = model.templates(x).float(), model.log_weights, model.noise
    offsets = (2 * BOX - 1) ** 2

    def step(image: torch.Tensor, likelihood: Likelihood, statistics: bool, fine: Model = model) -> float:
        if fine is model:
            shown, odds = templates, weights
        else:
            shown, odds = fine.templates(x).float(), fine.log_weights

        def run() -> None:
            one = Anywhere(DENSITY, likelihood).step(shown, odds, noise, statistics=statistics)
            one.add(image, 0)
            one.finish()

        return seconds(run, 1 if image.numel() > 1 << 22 else 3)

    micrograph = data[0].to(device)
    step(micrograph[:100, :100], Patches(), True)  # compiles
    step(micrograph[:100, :100], Gas(), True)
    raw_overlap = sgemm_by_overlap(templates, device) / offsets
    raw_window = sgemm(templates, device)
    raw_fft = fft(device)
    side = BOX * round(options.patches**0.5)
    wide = micrograph.repeat(side // options.size + 1, side // options.size + 1)[:side, :side]
    units = (side // BOX) ** 2 * views * offsets
    patches = [step(wide, Patches(), statistics) / units for statistics in (False, True)]
    units = options.size**2 * views
    gas = [step(micrograph, Gas(screen=None), statistics) / units for statistics in (False, True)]
    window = step(micrograph, Window(screen=None), True) / units
    fine = world(options.fine_views, options.size, 1, device)[0]
    units = options.size**2 * options.fine_views
    screened = [step(micrograph, Gas(), statistics, fine) / units for statistics in (False, True)]
    screened_window = step(micrograph, Window(), True, fine) / units
    return {
        "box, views, patches": [BOX, views, (side // BOX) ** 2],
        "device and threads of this run": [device, torch.get_num_threads()],
        "raw sgemm, overlaps, s per patch x view x offset": raw_overlap,
        "raw sgemm, windows, s per pixel x view": raw_window,
        "raw sgemm, windows, GFLOP/s": 2e-9 * BOX**2 / raw_window,
        "raw inverse FFT, s per patch x view x offset": raw_fft,
        "patches, E-step": patches[0],
        "patches, E + M statistics": patches[1],
        "gas, E-step, no screen": gas[0],
        "gas, E + M statistics, no screen": gas[1],
        "window, E + M statistics, no screen": window,
        f"gas, E-step, screen, {options.fine_views} views": screened[0],
        f"gas, E + M statistics, screen, {options.fine_views} views": screened[1],
        f"window, E + M statistics, screen, {options.fine_views} views": screened_window,
        "raw sgemm over patches, E-step": raw_overlap / patches[0],
        "raw FFT over patches, E-step": raw_fft / patches[0],
        "raw sgemm over patches, E + M (three products)": 3 * raw_overlap / patches[1],
        "raw sgemm over gas, E-step": raw_window / gas[0],
        "published code in Octave": PUBLISHED,
    }


def full(micrographs: int, device: str) -> dict[str, object]:
    """One whole iteration, E-step, statistics and M-step, with micrographs that are made one at a time."""
    model, x, small = world(552, 1024, 1, device, energy=1e9)
    data = up.Micrographs(Tiled(small[0], 4, model.noise.sigma, micrographs), 5.0, ("",) * micrographs)
    model = Model(model.object, model.view, Anywhere(DENSITY, Window()), noise=model.noise)
    estimator = EM(iterations=2, frozen=0)
    state = estimator.init(data, model, x, 0)
    generation = 0.0

    class Timed(Batch):
        def __iter__(self):  # type: ignore[no-untyped-def]
            nonlocal generation
            for index in self.indices:
                start = time.perf_counter()
                image = self.data[index]
                generation += time.perf_counter() - start
                yield index, image

    start = time.perf_counter()
    now = estimator.current(model, state)
    stats = estimator.accumulate(now, Timed(data, range(micrographs)), state)
    middle = time.perf_counter()
    estimator.update(now, state, stats, Flat())
    end = time.perf_counter()
    scale = "full scale" if micrographs >= 8 else f"{micrographs} of 8 micrographs"
    return {
        "scale": f"{scale}: {micrographs} x 4096 x 4096 pixels, {micrographs * (4096 // BOX) ** 2} patches, 552 views",
        "device and threads of this run": [device, torch.get_num_threads()],
        "likelihood": repr(model.placement.likelihood),
        "E-step and statistics, s": middle - start - generation,
        "M-step, s": end - middle,
        "generation of the micrographs, s": generation,
        "one iteration, all of it, s": end - start,
        "peak memory, GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "peak memory of the GPU, GiB": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
    }


@dataclass(frozen=True)
class Tiled:
    """Micrographs of one clean image, repeated along both axes, each with noise of its own: quickly made."""

    clean: torch.Tensor
    times: int
    sigma: float
    count: int

    def __len__(self) -> int:
        return self.count

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return (self.times * self.clean.shape[0], self.times * self.clean.shape[1])

    def read(self, index: int) -> torch.Tensor:
        """One micrograph."""
        noise = torch.randn(self.shape, generator=torch.Generator().manual_seed(index))
        return self.clean.repeat(self.times, self.times) + self.sigma * noise


def world(
    views: int, size: int, count: int, device: str, energy: float = ENERGY
) -> tuple[Model, torch.Tensor, up.Micrographs]:
    """BPTI at 5 angstrom: a model at its true coefficients and the level ENERGY, and micrographs at another."""
    structure = up.read_structure(Path(up.__file__).parent / "simulate" / "5pti.cif")
    specimen = up.specimen_from_structure(structure, box=BOX, voxel=5.0)
    data, truth = up.simulate_micrographs(
        specimen, count=count, size=(size, size), density=DENSITY, noise=up.energy(energy), seed=0
    )
    sigma = truth.sigma * (energy / ENERGY) ** 0.5
    view = Projection(rotation.super_fibonacci(views).to(device))
    model = Model(Ball(BOX, 10), view, Anywhere(DENSITY), noise=White(sigma, 0.0))
    return model, model.object.fit(specimen.truth().values.to(device)), data


def sgemm(templates: torch.Tensor, device: str) -> float:
    """The product of windows with templates alone, per pixel and view."""
    rows = evidence.block_length(len(templates), templates)
    windows = torch.randn(BOX**2, rows, device=device)
    flat, out = templates.flatten(1).contiguous(), torch.empty(len(templates), rows, device=device)
    return seconds(lambda: [torch.mm(flat, windows, out=out) for _ in range(100)], 5) / (100 * out.numel())


def sgemm_by_overlap(templates: torch.Tensor, device: str) -> float:
    """The products of all overlaps alone, per patch and view."""
    rows = evidence.block_length(len(templates), templates)
    windows = torch.randn(BOX**2 * rows, device=device)
    flat, out = templates.flatten().contiguous(), torch.empty(len(templates), rows, device=device)
    pairs = []
    for _, (y, x), _ in correlate.overlaps(BOX, BOX):
        pixels = (y.stop - y.start) * (x.stop - x.start)
        one = flat[: len(templates) * pixels].view(len(templates), pixels)
        pairs.append((one, windows[: pixels * rows].view(pixels, rows)))
    return seconds(lambda: [torch.mm(one, other, out=out) for one, other in pairs], 5) / out.numel()


def fft(device: str) -> float:
    """The inverse transform alone, per patch, view and offset."""
    size = correlate.fast_size(2 * BOX - 1)
    spectra = torch.randn(256, size, size // 2 + 1, dtype=torch.complex64, device=device)
    run = seconds(lambda: [torch.fft.irfft2(spectra, s=(size, size)) for _ in range(20)], 5)
    return run / (20 * 256 * (2 * BOX - 1) ** 2)


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The least of some."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
