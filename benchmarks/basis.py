"""What the ball leaves out: relative error of band-limited volumes of 11 voxels laid onto it, by its reach.

The volumes are those of `unpicked reproduce talk-em`, as its truth has them. With each reach: the number of
coefficients, and the condition number of the map from coefficients to values on the voxels.
"""

from __future__ import annotations

import argparse

import torch

from common import save
from unpicked.experiments.recovery import talk_volumes
from unpicked.experiments.table import Settings
from unpicked.experiments.talk_em import TalkEM
from unpicked.objects.ball import Ball
from unpicked.objects.ball_basis import largest_reach
from unpicked.recipes import MicrographJob, ball_reach


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    job = MicrographJob(box=11, lmax=10)
    volumes, left_out = talk_volumes(job.box, TalkEM().voxel, Settings())
    figures: dict[str, object] = {"box, lmax": [job.box, job.lmax]}
    choices = {"box / 2 - 0.5 (published)": job.box / 2 - 0.5, "box / 2 + 1": job.box / 2 + 1}
    choices |= {"of the recipe": ball_reach(job.box), "largest allowed": largest_reach(job.box)}
    for name, reach in choices.items():
        ball = Ball(job.box, job.lmax, reach)
        singular = torch.linalg.svdvals(ball.values(torch.eye(ball.size, dtype=torch.float64)).flatten(1))
        figures[f"reach {name}"] = {
            "voxels": reach,
            "coefficients": ball.size,
            "condition number": round(float(singular[0] / singular[-1]), 1),
            **{volume.name: round(missed(ball, volume.specimen.truth().values), 3) for volume in volumes},
        }
    if left_out:
        figures["left out"] = "4AKE chain or 70S ribosome: shared data not found; set UNPICKED_SHARED"
    save("basis", figures)


def missed(ball: Ball, values: torch.Tensor) -> float:
    """Relative error of the volume of the ball that is closest."""
    values = values.double()
    return float((ball.values(ball.fit(values)) - values).norm() / values.norm())


if __name__ == "__main__":
    main()
