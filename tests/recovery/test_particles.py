"""Stacks of particles from random starts: poses against the truth, over several seeds."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch

from stacks import stack, twins
from unpicked.data.micrographs import InMemory
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.data.snr import energy
from unpicked.estimators.refine import Refine, poses_of
from unpicked.evaluate.compare import compare
from unpicked.evaluate.poses import compare_poses
from unpicked.model.centred import Centred
from unpicked.model.model import Model
from unpicked.model.views import Projection
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation
from unpicked.recipes.particle_methods import apparent_energy, held_out, schedule
from unpicked.recipes.particles import ParticleAnswer, ParticleJob, from_particles, sizes
from unpicked.reconstruct import reconstruct
from unpicked.simulate.particles import ParticleSimulation, simulate_particles
from unpicked.simulate.specimens import specimen_from_structure

VIEWS = Projection(rotation.super_fibonacci(8))


def solved(data: Particles, truth: ParticleSimulation, seed: int, **job: object) -> tuple[ParticleAnswer, float, float]:
    """The answer, its median pose error in degrees, and the correlation of its map with the truth."""
    answer = from_particles(data, ParticleJob(starts=1, **job), seed=seed)  # type: ignore[arg-type]
    poses = compare_poses(answer.poses, truth.poses())
    return answer, poses.median_deg, compare(answer.map, truth.truth()).correlation


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_clear_images_from_random_starts(seed: int) -> None:
    data, truth = stack(400, 24, 3000.0, seed)
    answer, error, correlation = solved(data, truth, seed)
    assert error < 1.5
    assert correlation > 0.95
    assert 0.5 < float(answer.spread.median()) / error < 2


@pytest.mark.slow
def test_shifted_images_with_contrast_transfer() -> None:
    data, truth = stack(500, 24, 3000.0, 5, 4.0, True)
    answer, error, _ = solved(data, truth, 1, max_shift=4.0)
    found = compare_poses(answer.poses, truth.poses())
    assert error < 3
    assert found.shift_rmse_A < 1.0


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_rescue_asks_the_other_side_of_a_molecule_that_looks_the_same_from_there(seed: int) -> None:
    """Poses of which 35 in 100 are those of the other chain: all come to one side, not only each to a good fit."""
    data, truth = simulate_particles(
        specimen_from_structure(twins(seed), 24, 2.2, b_factor=60.0), count=300, noise=energy(5000.0), seed=seed
    )
    data = replace(data, source=InMemory(data.images()))
    half = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    other = torch.rand(len(data), generator=torch.Generator().manual_seed(seed)) < 0.35
    poses = truth.poses()
    mixed = torch.where(other[:, None, None], poses.rotations @ half, poses.rotations)
    given = replace(data, poses=Poses(mixed, poses.shifts))
    method = Refine(5, (9, 11), rescues=5, candidates=2, solver_steps=5)
    run = reconstruct(given, Model(Voxels(24), VIEWS, Centred()), method, seed=seed, moves=0)
    far = rotation.geodesic_distance(poses_of(run.state).rotations, poses.rotations) > 90
    assert min(float(far.double().mean()), 1 - float(far.double().mean())) < 0.03


def test_known_poses_stay_and_give_the_map() -> None:
    data, truth = stack(400, 24, 3000.0, 0)
    _, error, known = solved(replace(data, poses=truth.poses()), truth, 0, method="known")
    assert error < 1e-3
    assert known > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_faint_images_from_random_starts(seed: int) -> None:
    """E = 150: single poses are hardly determined, the map is."""
    data, truth = stack(2000, 24, 150.0, 10 + seed)
    _, error, correlation = solved(data, truth, seed)
    assert error < 12
    assert correlation > 0.85


@pytest.mark.slow
def test_halves_are_solved_from_their_own_starts() -> None:
    data, _ = stack(400, 24, 3000.0, 0)
    answer = from_particles(data, ParticleJob(starts=1, halves=True), seed=0)
    assert answer.halves is not None
    first, second, judged = answer.halves
    assert not judged.shared_start
    assert not torch.equal(first.values, second.values)
    assert min(judged.fsc[1:6]) > 0.8
    names = set(answer.stages)
    assert {"search-0", "refine-24", "half-1-search-0", "half-2-refine-24"} <= names


def test_stages_double_the_images_up_to_the_working_size() -> None:
    assert sizes(24) == (24,)
    assert sizes(32) == (32,)
    assert sizes(40) == (32, 40)
    assert sizes(64) == (32, 64)
    assert sizes(72) == (32, 72)
    assert sizes(128) == (32, 64, 128)
    assert sizes(200) == (32, 64, 128, 200)


def test_the_schedule_follows_the_energy() -> None:
    faint, clear = schedule(100.0, 32, None), schedule(20_000.0, 32, None)
    assert faint.temperature == 1.0 and faint.iterations > clear.iterations
    assert clear.temperature > 2
    data, _ = stack(400, 24, 3000.0, 0)
    assert 1000 < apparent_energy(data) < 6000


def test_held_out_images_tell_a_good_map_from_a_bad_one() -> None:
    data, _ = stack(400, 24, 3000.0, 0)
    search = schedule(3000.0, 24, None)
    place = Model(Voxels(24), Projection(rotation.super_fibonacci(4)), Centred())
    good = reconstruct(data, place, replace(search, iterations=12, views=(1500, 1500)), seed=1, moves=0)
    bad = replace(good, state=good.state | {"x": good.state["x"].flip(0).roll(500)})
    other, _ = stack(60, 24, 3000.0, 99)
    assert held_out(other, good) > held_out(other, bad) + 10


def test_an_encoder_hands_on_poses_and_a_table_stands_alone() -> None:
    data, truth = stack(300, 24, 3000.0, 0)
    job = ParticleJob(method="encoder", steps=20, rounds=1)
    answer = from_particles(data, job, seed=0)
    assert list(answer.stages) == ["encoder-0", "encoder-1", "refine-24"]
    assert answer.before is not None and len(answer.before) == 300
    figures = answer.figures()
    assert figures["before_moved_deg"] > 0 and 0 <= figures["before_far"] <= 1
    assert (
        "16 poses per image (heads, s2s2): 20 updates" in answer.notes[-2] and "refinement turned" in answer.notes[-1]
    )
    begun = answer.stages["encoder-1"].history[0]["mean_loss"]
    assert begun < answer.stages["encoder-0"].history[0]["mean_loss"], "the second run goes on where the first ended"
    alone = from_particles(data, ParticleJob(method="table", steps=10), seed=0)
    assert list(alone.stages) == ["table"] and alone.before is None
    figures = alone.figures()
    assert figures["misfit"] > 0 and figures["pose_spread_deg"] is None and figures["sigma"] is None
    assert compare_poses(alone.poses, truth.poses()).median_deg > 30


@pytest.mark.parametrize("branches", ["none", "mirror", "orbit"])
def test_encoders_of_every_kind_run(branches: Literal["none", "mirror", "orbit"]) -> None:
    data, _ = stack(60, 24, 3000.0, 0, 4.0, True)
    job = ParticleJob(method="encoder", branches=branches, rotation="euler", steps=2, rounds=1, max_shift=4.0)
    answer = from_particles(data, job, seed=0)
    assert answer.before is not None and 0 < float(answer.before.shifts.abs().max()) <= 4


def test_settings_of_encoders_are_checked() -> None:
    for settings, word in (
        ({"heads": -1}, "--heads"),
        ({"heads": 4, "branches": "none"}, "--heads"),
        ({"steps": 1}, "--steps"),
    ):
        with pytest.raises(ValueError, match=word):
            ParticleJob(**settings)


@pytest.mark.slow
def test_encoders_find_poses_from_random_weights() -> None:
    errors = []
    for seed in range(3):
        data, truth = stack(2000, 24, 3000.0, 20 + seed)
        answer = from_particles(data, ParticleJob(method="encoder"), seed=seed)
        assert answer.before is not None
        before, after = (compare_poses(poses, truth.poses()).median_deg for poses in (answer.before, answer.poses))
        errors.append((before, after))
    print("median error in degrees before and after refinement:", errors)
    assert sum(after < 1.5 for _, after in errors) >= 2
