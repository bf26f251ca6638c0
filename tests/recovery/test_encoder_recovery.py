"""Auto-encoders with branches find a molecule from random starts; one branch and a table of poses are reported."""

from __future__ import annotations

import pytest
import torch

from unpicked.data.micrographs import InMemory
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.estimators.gradient import Gradient
from unpicked.estimators.poses import Encoder, Table
from unpicked.estimators.seen import PoseSource
from unpicked.model.centred import Centred
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.views import Projection
from unpicked.objects.gaussians import Gaussians
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation
from unpicked.reconstruct import reconstruct

BOX = 16


def clean_stack(count: int) -> Particles:
    """Twenty-five Gaussians without symmetry in 16 pixels, projected exactly from random views."""
    generator = torch.Generator().manual_seed(11)
    places = torch.randn(25, 3, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.4])
    places = places.clamp(-5, 5)
    object = Gaussians(BOX, places, torch.full((25,), 1.0, dtype=torch.float64))
    turns = rotation.random_rotations(count, generator)
    images = object.projector(turns).project(torch.rand(25, generator=generator, dtype=torch.float64) + 0.5)
    images = images / images.std()
    poses = Poses(turns, torch.zeros(count, 2, dtype=torch.float64))
    return Particles(InMemory(images.float()), 3.0, tuple(str(index) for index in range(count)), poses=poses)


def median_error(found: torch.Tensor, true: torch.Tensor) -> float:
    """Median angle in degrees under the best common rotation and hand, tried from the single pairs of poses."""
    flip = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    least = 180.0
    for poses in (found, flip @ found):
        for turn in (true.mT @ poses)[:150]:
            errors = rotation.geodesic_distance(true @ turn, poses)
            near = errors < errors.median()
            u, _, v = torch.linalg.svd((true.mT @ poses)[near].sum(0))
            refined = rotation.geodesic_distance(true @ (u @ v), poses)
            least = min(least, float(errors.median()), float(refined.median()))
    return least


def run(source: PoseSource, iterations: int, seed: int) -> tuple[float, float]:
    """Median pose error of images that were not fitted (for a table: of those that were), and the last misfit."""
    data = clean_stack(1800)
    fitted, rest = data.part(range(1500)), data.part(range(1500, 1800))
    if isinstance(source, Table):
        fitted = rest
    model = Model(Voxels(BOX), Projection(torch.eye(3, dtype=torch.float64)[None]), Centred(), noise=White(0.1))
    estimator = Gradient(source, iterations=iterations, map_rate=0.2, least_map_rate=0.02, first_radius=3, every=100)
    answer = reconstruct(fitted, model, estimator, seed=seed, moves=0)
    poses = estimator.poses_of(model, answer.state, rest)
    truth = rest.poses
    assert truth is not None
    return median_error(poses.rotations, truth.rotations), answer.history[-1]["mean_loss"]


@pytest.mark.slow
def test_an_orbit_finds_poses_of_images_that_it_has_not_seen() -> None:
    found = [run(Encoder(widths=(24, 48, 64), learning_rate=1e-3), 900, seed) for seed in range(3)]
    print("median error in degrees, misfit:", found)
    assert sum(error < 10 for error, _ in found) >= 2


@pytest.mark.slow
def test_one_branch_and_a_table_are_reported() -> None:
    for source in (Encoder(branches="none", widths=(24, 48, 64)), Table()):
        error, loss = run(source, 900, 0)
        print(type(source).__name__, "median error in degrees, misfit:", error, loss)
        assert 0 < loss < 1
