"""What lets random starts invert moments without noise: weights, low frequencies first, bends of valleys.

Volumes of 11 voxels as expansions of low degree, ten random starts each, the same for all choices: with all three, with
uniform weights, with all triangles at once, and with straight steps. Printed are the relative errors (least cost first)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lmax", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--volumes", nargs="+", default=["BPTI", "4AKE chain", "70S ribosome"])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plain, figures = Inversion(), dict[str, object]()
    choices = {
        "all": plain,
        "uniform weights": replace(plain, weights="uniform"),
        "all triangles at once": replace(plain, marches=(), last=plain.last + plain.steps * len(plain.marches)),
        "straight steps": replace(plain, bends=False),
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
