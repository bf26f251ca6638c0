"""What lets random starts invert moments without noise: weights, bends of valleys, low frequencies first.

Volumes of 11 voxels as expansions of low degree, ten random starts each, the same for all choices: the default, with
uniform weights, with straight steps, and with low frequencies first. Printed are the relative errors (least cost first)
and how many starts end at rounding.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch

from common import save
from unpicked.estimators.bispectrum_fit import EXACT, Inversion, invert
from unpicked.evaluate.coefficients import lay
from unpicked.experiments.recovery import talk_volumes
from unpicked.experiments.table import Settings
from unpicked.model import expected_volumes
from unpicked.model.expected_volumes import VolumeMoments
from unpicked.objects.ball import Ball

BOX, VOXEL, RADII, DENSITY = 11, 5.0, 16, 0.1
MARCHES = (3, 4, 5, 6, 7, 8, 9, 10, 12, 14)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lmax", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--volumes", nargs="+", default=["BPTI", "4AKE chain", "70S ribosome"])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plain, figures = Inversion(), dict[str, object]()
    choices = {
        "default": plain,
        "uniform weights": replace(plain, weights="uniform"),
        "straight steps": replace(plain, bends=False),
        "low frequencies first": replace(plain, marches=MARCHES, last=plain.last - plain.steps * len(MARCHES)),
    }
    places = expected_volumes.triangles(RADII)
    for volume in talk_volumes(BOX, VOXEL, Settings())[0]:
        if volume.name not in options.volumes:
            continue
        for lmax in options.lmax:
            ball = Ball(BOX, lmax)
            truth = ball.fit(volume.specimen.truth().values.double())
            truth = truth / truth.norm()
            clean = expected_volumes.expected_volumes(truth[None], ball, places)
            target = VolumeMoments(*(DENSITY * part for part in clean))
            for name, how in choices.items():
                began = time.process_time()
                found = invert(target, ball, places, how, options.seed)
                seconds = time.process_time() - began
                errors = [float(f"{lay(x, truth, ball).error:.2g}") for x in found.x]
                figures[f"{volume.name}, lmax {lmax}, {name}"] = {
                    "errors": errors,
                    "exact": int((found.cost <= EXACT).sum()),
                    "cpu_s": round(seconds, 1),
                }
                print(volume.name, lmax, name, figures[f"{volume.name}, lmax {lmax}, {name}"], flush=True)
    save("inversion", figures)


if __name__ == "__main__":
    main()
