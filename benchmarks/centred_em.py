"""Seconds of an update of EM on particle images, beside the raw matrix product in the same run.

1,000 images x 4,608 views x 49 shifts in the band r = 8 (98 coefficients): scores are one product of (49,000, 196) with
(196, 4,608) and the numerators one of (4,608, 49,000) with (49,000, 196), 88 GFLOP each where no posterior is sharp,
and 2.3e8 exponentials. Where posteriors are sharp, views without weight are left out of the second product. Processor
seconds are told, so that other programs on the machine count little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from common import save
from unpicked.data.micrographs import InMemory
from unpicked.data.optics import Optics
from unpicked.data.particles import Particles
from unpicked.estimators.base import Batch
from unpicked.estimators.em import EM, random_start
from unpicked.model.centred import Centred
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.views import Projection
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation
from unpicked.priors import globular

BOX, PIXEL, RADIUS, SHIFT = 24, 4.0, 8, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--views", type=int, default=4608)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.no_grad():
        save("centred_em", figures(options.images, options.views))


def figures(count: int, views: int) -> dict[str, object]:
    """Seconds of the parts of an update, for flat and for sharp posteriors."""
    model = Model(
        Voxels(BOX), Projection(rotation.super_fibonacci(views)), Centred(SHIFT * PIXEL, radius=RADIUS), noise=White()
    )
    out: dict[str, object] = {"images": count, "views": views}
    for name, energy in (("faint", 20.0), ("clear", 1000.0)):
        x = random_start(model, energy, 1)
        data = particles(x, count)
        measured = model.measured(data)
        out["shifts"] = len(measured.placement.shifts(x))  # type: ignore[attr-defined]
        estimator = EM(estimate_mean=False, estimate_density=False, solver_steps=20, solver_tolerance=1e-4)
        state = estimator.init(data, model, x, 0)
        if name == "faint":  # compiled loops are loaded
            estimator.update(model, state, estimator.accumulate(model, Batch(data, range(4)), state), globular(BOX, 20))
        stats, spent = clocked(lambda: estimator.accumulate(model, Batch(data, range(count)), state))  # noqa: B023
        out[f"{name}: E-step, s"] = round(spent, 2)
        out[f"{name}: effective views x shifts"] = round(float(stats["effective"]) / count, 1)
        _, solved = clocked(lambda: estimator.update(model, state, stats, globular(BOX, energy)))  # noqa: B023
        out[f"{name}: M-step, s"] = round(solved, 2)
        points = stats["numerator"].shape[-1]
        work = 2.0 * count * int(str(out["shifts"])) * views * 2 * points
        out[f"{name}: score products alone, GFLOP/s of the E-step"] = round(work / spent / 1e9, 1)
    out["coefficients"] = points
    left, right = torch.randn(1024, 2 * points), torch.randn(2 * points, views)
    _, raw = clocked(lambda: [left @ right for _ in range(40)])
    rate = 40 * 2.0 * left.numel() * views / raw
    out["raw product, GFLOP/s"] = round(rate / 1e9, 1)
    out["score products at that rate, s"] = round(work / rate, 2)
    return out


def particles(x: torch.Tensor, count: int) -> Particles:
    """Images of random views with contrast transfer and noise; shifted by up to two pixels."""
    generator = torch.Generator().manual_seed(3)
    band = Centred().band(BOX)
    turned = rotation.random_rotations(count, generator)
    slices = Voxels(BOX).slicer(turned, band.points, band.radius, like=x, precise=True).project(x)
    defocus = tuple((8000 + 8000 * torch.rand(count, generator=generator)).tolist())
    same = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "phase_shift": 0.0, "b_factor": 0.0}
    optics = Optics(
        defocus_u=defocus,
        defocus_v=defocus,
        astigmatism_angle=(0.0,) * count,
        scale=(1.0,) * count,
        group=tuple(range(count)),
        **{name: (value,) * count for name, value in same.items()},
    )
    shifts = 4 * torch.rand(count, 2, generator=generator, dtype=torch.float64) - 2
    clean = band.images(slices * optics.values(*band.frequencies(PIXEL)) * band.ramp(shifts))
    noisy = clean + torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    return Particles(InMemory(noisy.float()), PIXEL, tuple(str(index) for index in range(count)), optics=optics)


def clocked(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the processor's seconds."""
    began = time.process_time()
    return work(), time.process_time() - began


if __name__ == "__main__":
    main()
