"""Moments of micrographs: seconds for one of 4,096 x 4,096 pixels, and density and noise from twenty of them.

Timed is one micrograph at a time, boxes of L = 11: all orders in the steerable form; orders 1 and 2 with the triple
products of radial filters (the steerable form of order 0), both with the arithmetic they take and the part of this
machine's GEMM rate that is reached; and the third order at all pairs of lags as matrix products, on a piece, brought to
the size of the whole. Then the Fisher information of both forms about BPTI's coefficients of every degree.

With --count micrographs of BPTI (its expansion of degree 4, as hidden in the published experiments; --whole: as it is)
are simulated at an SNR of 0.1 per pixel of the box; wanted are a density within three of its errors, these at most 2 %,
and the noise within 0.5 %. Then as many blank ones stand beside them.
"""

from __future__ import annotations

import argparse
import math
import resource
import time
from collections.abc import Callable

import torch

from common import save
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.snr import snr_box
from unpicked.estimators.image_fit import BAND
from unpicked.experiments.recovery import Fields, bpti, expanded
from unpicked.model import steerable_volumes
from unpicked.objects.ball import Ball
from unpicked.ops import rotation, seeding, steerable
from unpicked.recipes.moments import merged, moments_of, told_by

BOX, VOXEL, DENSITY = 11, 5.0, 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument(
        "--count", type=int, default=20, help="micrographs of the density; 0: timing alone, a file apart"
    )
    parser.add_argument("--blank", type=int, default=4, help="micrographs of noise beside them")
    parser.add_argument("--snr", type=float, default=0.1, help="per pixel of the box")
    parser.add_argument("--lmax", type=int, default=4)
    parser.add_argument("--whole", action="store_true", help="the molecule as it is, not its expansion")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures: dict[str, object] = {"size, threads": [options.size, options.threads]}
    figures |= timings(options.size)
    figures["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # of Linux, in KiB
    figures |= information(options.snr, options.lmax)
    if options.count:
        figures |= density(options)
    save("moments_micrographs" if options.count else "moments_speed", figures)


def timings(size: int) -> dict[str, object]:
    """Seconds, arithmetic and rates."""
    image = torch.randn(size, size, generator=seeding.generator(0, "image"))
    functions = steerable.discs(BOX - 1, BAND)
    few = functions.groups[0]
    low = steerable.Discs(functions.values[few], functions.orders[: few.stop])
    rate = gemm()
    out: dict[str, object] = {"moments": functions.size, "GEMM, Gflop/s": rate}
    for name, which in (("orders 1-3, steerable", functions), ("orders 1-3, radial", low)):
        seconds = timed(lambda which=which: steerable.steerable_sums(image, which))
        flop = arithmetic(which, size)
        out[f"{name}: s"] = seconds
        out[f"{name}: Gflop"] = flop / 1e9
        out[f"{name}: part of GEMM"] = flop / 1e9 / seconds / rate
    lags, piece = BOX**2, 256
    part = torch.randn(lags, piece * 64)
    seconds = timed(lambda: (part * part[:1]) @ part.mT)
    out["all pairs of lags by GEMM, extrapolated: s"] = seconds * size**2 / part.shape[1]
    return out


def information(snr: float, lmax: int) -> dict[str, object]:
    """What a base point tells of the coefficients of every degree in white noise: trace of the Fisher information.

    Of all steerable moments, and the part that those of radial filters alone tell.
    """
    ball = Ball(BOX, lmax)
    x = ball.fit(bpti(BOX, VOXEL).specimen.truth().values.double())
    views = ball.projector(rotation.super_fibonacci(64)).project(x)
    sigma = math.sqrt(float(views.square().sum((-2, -1)).mean()) / (snr * BOX**2))
    functions = steerable.discs(BOX - 1, BAND)
    zero = functions.groups[0].stop
    power = torch.full((functions.size,), sigma**3, dtype=torch.float64)
    power[0], power[1 : 1 + zero] = sigma, sigma**2
    covariance = steerable.steerable_covariance(functions) * torch.outer(power, power)
    _, slope = steerable_volumes.volume_table(ball, functions).slope(x[None])
    slope = DENSITY / BOX**2 * slope[0]
    slope[1 + zero :] += sigma**2 * (
        (steerable.steerable_noise(functions, 1.0, 1.0) - steerable.steerable_noise(functions, 1.0, 0.0))[
            1 + zero :, None
        ]
        * slope[:1]
    )
    radial = 1 + zero + zero * (zero + 1) // 2
    degree, out = ball.index[:, 0], dict[str, object]()
    for name, last in (("steerable", functions.size), ("radial", radial)):
        inverse = torch.linalg.pinv(covariance[:last, :last], rtol=1e-6, hermitian=True)
        told = slope[:last].mT @ inverse @ slope[:last]
        out[name] = [float(told.diagonal()[degree == number].sum()) for number in range(lmax + 1)]
    whole, part = out.values()
    return {
        "information per base point and degree": whole,
        "part of it in the radial form": [a / b for a, b in zip(part, whole, strict=True)],
    }


def arithmetic(functions: steerable.Discs, size: int) -> float:
    """Flops: an FFT of every function per tile and their products, complex; halos included."""
    tile, halo = steerable.TILE, 2 * functions.radius
    tiles = (-(-(size - halo) // (tile - halo))) ** 2
    transforms = (1 + len(functions.orders)) * 5 * tile**2 * 2 * (tile - 1).bit_length()
    sizes = [group.stop - group.start for group in functions.groups]
    products = sum(8 * n**2 + 8 * n for n in sizes) * (tile - halo) ** 2
    return float(tiles * (transforms + products + 6 * len(functions.orders) * tile**2))


def gemm() -> float:
    """This machine's rate with these threads, Gflop/s."""
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / 1e9 / timed(lambda: a @ a)


def timed(call: Callable[[], object], repeats: int = 3) -> float:
    """The best of some runs, after one that is not counted."""
    call()
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best


def density(options: argparse.Namespace) -> dict[str, object]:
    """What the moments tell of simulated micrographs, one after the other; then blank ones as well."""
    volume = bpti(BOX, VOXEL) if options.whole else expanded(bpti(BOX, VOXEL), 4)
    records, copies, seconds, deviations = [], 0, 0.0, []
    for index in range(options.count):
        seed = seeding.derive(options.seed, "micrograph", index)
        fields = Fields(1, options.size, DENSITY)
        data, truth = fields.simulate(volume.specimen, snr_box(options.snr), seed)
        image = data.source.read(0).float()
        held = Micrographs(InMemory(image[None]), VOXEL, (f"{index}",))
        began = time.perf_counter()
        records.append(moments_of(held, BOX)[0])
        seconds += time.perf_counter() - began
        copies += truth.per_micrograph
        deviations.append(truth.sigma / robust(image))
    true = copies * BOX**2 / (options.count * options.size**2)
    level = sum(deviations) / len(deviations)
    found = told_by(merged(records), lmax=options.lmax, seed=options.seed)
    out: dict[str, object] = {
        "micrographs, copies, SNR": [options.count, copies, options.snr],
        "moments: s per micrograph, prepared": seconds / options.count,
        "density, error, true": [found.density, found.density_error, true],
        "density off by, in its errors": (found.density - true) / found.density_error,
        "density's error, %": 100 * found.density_error / true,
        "sigma off by, %": 100 * (found.sigma / level - 1),
        "energy, told and true": [found.energy, options.snr * BOX**2],
        "chi2": found.chi2,
    }
    generator = seeding.generator(options.seed, "blank")
    for index in range(options.blank):
        noise = torch.randn(1, options.size, options.size, generator=generator)
        records.append(moments_of(Micrographs(InMemory(noise), VOXEL, (f"blank {index}",)), BOX)[0])
    if options.blank:
        told = told_by(merged(records), lmax=options.lmax, seed=options.seed)
        z = [row[2] for row in told.rows or []]
        full, blank = z[: options.count], z[options.count :]
        out["z of full ones: least, mean"] = [min(full), sum(full) / len(full)]
        out["z of blank ones: most"] = max(blank)
        wrong = sum(value < 3 for value in full) + sum(value >= 3 for value in blank)
        out["told wrongly, of"] = [wrong, len(z)]
    return out


def robust(image: torch.Tensor) -> float:
    """1.4826 times the median absolute deviation, by which micrographs are divided."""
    some = image.flatten()[:: max(1, image.numel() // 4_000_000)]
    return 1.4826 * float((some - some.median()).abs().median())


if __name__ == "__main__":
    main()
