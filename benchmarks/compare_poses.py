"""Time to register and compare poses: half of the images at the pseudo-symmetric answer and 20 % wrong."""

from __future__ import annotations

import argparse
import time

import torch

from common import save
from unpicked.data.poses import Poses
from unpicked.evaluate.poses import compare_poses
from unpicked.ops.point_group import axis_turn, point_group
from unpicked.ops.rotation import random_rotations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    n, g = options.images, torch.Generator().manual_seed(0)
    swap, truth = axis_turn((1.0, 0.1, 0.2), 178.75), random_rotations(n, g)
    swapped, wrong = (torch.rand(n, 1, 1, generator=g) < share for share in (0.5, 0.2))
    shifts = torch.zeros(n, 2)
    figures: dict[str, object] = {"images": n}
    for name, group in (("C1", "C1"), ("C1, pseudo-C2", "C1"), ("I", "I")):
        turns = truth @ point_group(group)[torch.randint(len(point_group(group)), (n,), generator=g)]
        pseudo = swap[None] if "pseudo" in name else None
        turns = torch.where(swapped, turns @ swap, turns) if pseudo is not None else turns
        turns = torch.where(wrong, random_rotations(n, g), turns @ random_rotations(1, g))
        best = float("inf")
        for _ in range(options.repeats):
            began = time.process_time()
            found = compare_poses(Poses(turns, shifts), Poses(truth, shifts), symmetry=group, pseudo=pseudo)
            best = min(best, time.process_time() - began)
        figures[f"{name}, seconds"] = round(best, 2)
        figures[f"{name}, median degrees"] = found.median_deg if pseudo is None else found.median_deg_pseudo
    save("compare_poses", figures)


if __name__ == "__main__":
    main()
