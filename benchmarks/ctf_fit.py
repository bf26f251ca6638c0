"""Defocus and astigmatism fitted to Thon rings: simulated micrographs with known answers, noise, and a real one.

20 micrographs of 0.5 to 3 um of defocus and 500 to 2,000 A of astigmatism: matter of white spectrum through the
contrast transfer with a B factor of 150 A^2, in coloured noise of power 1 + 3 exp(-(s / 0.15 Nyquist)^2), the two of
equal power at low frequency before the transfer. Beside the errors stands how they compare with the errors that the
fit tells (1 if it tells them right). Noise alone must be refused. The real micrograph, binned and cropped, is taken
from the folder UNPICKED_SHARED.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from pathlib import Path

import torch

from common import save
from unpicked.ctffit import CtfFit, CtfSearch, NoThonRings, fit_ctf
from unpicked.io.micrographs import read_micrographs
from unpicked.ops import fourier
from unpicked.ops.ctf import ctf_grid
from unpicked.report.ctf import draw

FILES = ("epu2.9_example_bin4.mrc", "epu2.9_example_crop1024.mrc")
DRAWN = 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--pixel-size", type=float, default=1.0)
    parser.add_argument("--ratio", type=float, default=1.0, help="power of matter over that of white noise")
    parser.add_argument("--phase", action="store_true", help="phase shifts of 0 to 170 degrees, to be found")
    parser.add_argument("--first", type=int, default=0, help="number of the first simulated micrograph")
    parser.add_argument("--noise", type=int, default=4, help="micrographs of noise alone")
    parser.add_argument("--picture", type=Path, help="draw the fit of simulated micrograph 15, as docs/ctf.png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, object] = {"micrographs, pixels, A": [options.count, options.size, options.pixel_size]}
    figures |= simulated(options)
    figures["noise refused"] = [refused(options), options.noise]
    figures |= real()
    save("ctf_fit" + ("_phase" if options.phase else "") + (f"_{options.first}" if options.first else ""), figures)


def simulated(options: argparse.Namespace) -> dict[str, object]:
    rows: list[tuple[float, ...]] = []
    lost = 0
    for index in range(options.first, options.first + options.count):
        drawn = torch.rand(4, generator=torch.Generator().manual_seed(1000 + index)).tolist()
        mean, apart, angle = 5_000 + 25_000 * drawn[0], 500 + 1_500 * drawn[1], 180 * drawn[2]
        phase = 170 * drawn[3] if options.phase else 0.0
        image = micrograph(options, index, mean, apart, angle, phase, options.ratio)
        began = time.process_time()
        name = f"simulated micrograph {index + 1}"
        try:
            found = fit_ctf(image, options.pixel_size, CtfSearch(phase_shift=None if options.phase else 0.0), name)
        except NoThonRings as error:
            print(error)
            lost += 1
            continue
        seconds = time.process_time() - began
        if options.picture is not None and index == DRAWN:
            draw(options.picture, found)
        off = 100 * (found.defocus / mean - 1)
        turned = (found.astigmatism_angle - angle + 90) % 180 - 90
        strayed = (found.phase_shift - phase + 90) % 180 - 90
        rows.append((off, turned, seconds, *pulls(found, mean, apart, angle), strayed))
        print(
            f"defocus {mean:5.0f} A {off:+.2f} %, u - v {apart:4.0f} A {found.astigmatism - apart:+4.0f}, "
            f"angle {angle:3.0f} {turned:+.1f} degrees, {seconds:.1f} s, rings to {found.resolution:.1f} A",
            flush=True,
        )
    columns = list(zip(*rows, strict=True))
    out: dict[str, object] = {"refused": lost}
    for name, column in zip(("defocus, %", "angle, degrees"), columns, strict=False):
        sizes = sorted(map(abs, column))
        out[f"error of {name}: median, largest"] = [round(statistics.median(sizes), 3), round(sizes[-1], 3)]
    if options.phase:
        sizes = sorted(map(abs, columns[5]))
        out["error of phase, degrees: median, largest"] = [round(statistics.median(sizes), 3), round(sizes[-1], 3)]
    out["error over told error: defocus, astigmatism"] = [
        round(math.sqrt(statistics.fmean(value**2 for value in column)), 2) for column in columns[3:5]
    ]
    out["CPU seconds per micrograph"] = round(statistics.median(columns[2]), 2)
    return out


def pulls(found: CtfFit, mean: float, apart: float, angle: float) -> tuple[float, float]:
    """Errors of the mean defocus and of the astigmatism's two parts over those that the fit tells."""
    ours, true = ((u_v / 2, 2 * math.radians(a)) for u_v, a in ((found.astigmatism, found.astigmatism_angle),
                                                              (apart, angle)))  # fmt: skip
    away = math.dist(*((half * math.cos(turn), half * math.sin(turn)) for half, turn in (ours, true)))
    return (found.defocus - mean) / found.defocus_error, away / math.sqrt(2) / (found.astigmatism_error / 2)


def micrograph(
    options: argparse.Namespace, seed: int, mean: float, apart: float, angle: float, phase: float, ratio: float
) -> torch.Tensor:
    """Matter through the contrast transfer plus coloured noise, cut from a larger field."""
    field, pixel = round(1.25 * options.size), options.pixel_size
    generator = torch.Generator().manual_seed(seed)
    transfer = ctf_grid(
        (field, field),
        pixel,
        defocus_u=mean + apart / 2,
        defocus_v=mean - apart / 2,
        astigmatism_angle=angle,
        phase_shift=phase,
        voltage_kv=300,
        cs_mm=2.7,
        amplitude_contrast=0.1,
        b_factor=150,
    )
    s = fourier.radius((field, field)) / (field * pixel)
    colour = (1 + 3 * torch.exp(-((s * pixel / 0.075) ** 2))).sqrt()
    spectra = [torch.fft.fft2(torch.randn(field, field, generator=generator)) for _ in range(2)]
    both = torch.fft.ifft2(math.sqrt(ratio) * transfer * spectra[0] + colour * spectra[1]).real
    return both[: options.size, : options.size].float()


def refused(options: argparse.Namespace) -> int:
    count = 0
    for seed in range(options.noise):
        try:
            fit_ctf(micrograph(options, 500 + seed, 10_000, 500, 0, 0, 0.0), options.pixel_size)
        except NoThonRings:
            count += 1
    return count


def real() -> dict[str, object]:
    root = Path(os.environ.get("UNPICKED_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    out: dict[str, object] = {}
    for name in FILES:
        places = [root / part / name for part in ("data/micrographs", "micrographs")]
        path = next((place for place in places if place.exists()), None)
        if path is None:
            return {"real micrograph": "not found: set UNPICKED_SHARED"}
        data = read_micrographs(path)
        found = fit_ctf(data[0], data.pixel_size, name=name)
        out[name] = {
            "defocus_A": round(found.defocus, 1),
            "error_A": round(found.defocus_error, 1),
            "astigmatism_A": round(found.astigmatism),
            "astigmatism_error_A": round(found.astigmatism_error),
            "correlation": round(found.correlation, 3),
            "resolution_A": round(found.resolution, 2),
        }
    first, second = (dict(out[name])["defocus_A"] for name in FILES)  # type: ignore[call-overload]
    out["difference of the two, %"] = round(100 * abs(first / second - 1), 2)
    return out


if __name__ == "__main__":
    main()
