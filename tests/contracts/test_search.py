"""The contract of estimators, for search and refinement of particle stacks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from stacks import stack
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.estimators.base import Batch, add
from unpicked.estimators.refine import APART, Refine, far_apart, poses_of
from unpicked.estimators.search import Search
from unpicked.model.centred import Centred
from unpicked.model.model import Model
from unpicked.model.placements import Anywhere
from unpicked.model.views import Projection
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation, seeding
from unpicked.priors import Flat
from unpicked.reconstruct import Result, reconstruct


@dataclass(frozen=True)
class Case:
    """Data, what is believed of them, and the method."""

    data: Particles
    model: Model
    estimator: Search | Refine


def model(box: int, shift: float = 0.0) -> Model:
    return Model(Voxels(box), Projection(rotation.super_fibonacci(4)), Centred(shift))


def posed(shift: float = 0.0, lens: bool = False, away: float = 0.05) -> Particles:
    """A stack with poses near the truth."""
    data, truth = stack(60, 16, 2000.0, 1, shift, lens)
    turns = truth.poses().rotations
    w = away * torch.randn(len(turns), 3, generator=seeding.generator(2, "away"), dtype=torch.float64)
    return replace(data, poses=Poses(rotation.exp_map(w) @ turns, truth.poses().shifts))


SEARCH = Search(4, 40, views=(300, 400), radius=(3, 5), solver_steps=4)
REFINE = Refine(3, (5, 7), rescues=1, views=300, rescue_radius=4, steps=2, solver_steps=4)
CASES = {
    "search": Case(stack(60, 16)[0], model(16), SEARCH),
    "search, shifts and transfer": Case(stack(60, 16, shift=3.0, lens=True)[0], model(16, 3.0), SEARCH),
    "refine": Case(posed(), model(16), REFINE),
    "refine, shifts and transfer": Case(posed(3.0, True), model(16, 3.0), REFINE),
    "known": Case(posed(away=0.0), model(16), replace(REFINE, rescues=0, steps=0)),
}
NAMES = list(CASES)


def solve(case: Case, **options: object):  # type: ignore[no-untyped-def]
    return reconstruct(case.data, case.model, case.estimator, seed=3, moves=0, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_answer_and_inputs_stay(name: str) -> None:
    case = CASES[name]
    before = case.data.images().clone()
    first, second = solve(case), solve(case)
    assert torch.equal(first.x, second.x)
    assert torch.equal(case.data.images(), before)
    assert first.map is not None and first.map.box == 16
    assert all(isinstance(value, torch.Tensor) for value in first.state.values())
    assert [row["step"] for row in first.history] == list(range(case.estimator.iterations))


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_is_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    whole = solve(case)

    def stop(_: str, row: dict[str, float]) -> None:
        if row["step"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve(case, checkpoint=tmp_path, report=stop)
    again = solve(case, checkpoint=tmp_path, resume=True)
    assert torch.equal(again.x, whole.x)
    assert len(again.history) == len(whole.history)


@pytest.mark.parametrize("name", NAMES)
def test_statistics_add(name: str) -> None:
    """Of batches, of processes; an empty batch gives zeros."""
    case = CASES[name]
    first = torch.randn(16**3, generator=seeding.generator(1, "map"))
    state = case.estimator.init(case.data, case.model, first, 3)
    whole = case.estimator.accumulate(case.model, Batch(case.data, range(60)), state)
    total = None
    for indices in (range(0, 25), range(25, 60)):
        for rank in range(2):
            part = Batch(case.data, indices).shard(rank, 2)
            total = add(total, case.estimator.accumulate(case.model, part, state))
    empty = case.estimator.accumulate(case.model, Batch(case.data, []), state)
    assert total is not None
    for key, value in whole.items():
        assert not bool(empty[key].any())
        error = (total[key] - value).abs().max() / value.abs().max().clamp(min=1e-30)
        assert float(error) < 1e-3, key  # float32 sums in another order


@pytest.mark.parametrize("name", NAMES)
def test_an_image_that_is_not_finite_ends_in_a_typed_failure(name: str) -> None:
    case = CASES[name]
    images = case.data.images().clone()
    images[7, 3, 4] = torch.nan
    broken = replace(case, data=replace(case.data, source=InMemory(images)))
    run = solve(broken)
    assert run.result is Result.NOT_FINITE


def test_the_truth_stays_where_it_is() -> None:
    """Clean images, true poses: every pose stays to a tenth of a degree, and the map explains the images."""
    data, truth = stack(200, 24, float("inf"))
    given = replace(data, poses=truth.poses())
    run = reconstruct(given, model(24), Refine(4, (11, 11), rescues=0, steps=3), seed=0, moves=0)
    error = rotation.geodesic_distance(poses_of(run.state).rotations, truth.poses().rotations)
    assert float(error.median()) < 0.1
    assert float(error.max()) < 1.0


def test_a_turned_truth_gives_a_turned_answer() -> None:
    """The same images with all poses turned by one rotation: the same misfit, the map turned."""
    data, truth = stack(120, 24)
    turn = rotation.random_rotations(1, seeding.generator(4, "turn"))[0]
    method = Refine(3, (9, 9), rescues=0, steps=2)
    plain = reconstruct(replace(data, poses=truth.poses()), model(24), method, moves=0)
    poses = Poses(truth.poses().rotations @ turn, truth.poses().shifts)
    turned = reconstruct(replace(data, poses=poses), model(24), method, moves=0)
    assert abs(turned.objective - plain.objective) < 0.01 * abs(plain.objective)
    back = poses_of(turned.state).rotations @ turn.mT
    assert float(rotation.geodesic_distance(back, poses_of(plain.state).rotations).median()) < 0.3


@pytest.mark.parametrize("name", NAMES)
def test_an_update_leaves_the_state_it_came_from(name: str) -> None:
    case = CASES[name]
    first = torch.randn(16**3, generator=seeding.generator(1, "map"))
    state = case.estimator.init(case.data, case.model, first, 3)
    held = {key: value.clone() for key, value in state.items()}
    stats = case.estimator.accumulate(case.model, Batch(case.data, range(60)), state)
    new = case.estimator.update(case.model, state, stats, Flat())
    assert all(torch.equal(state[key], value) for key, value in held.items())
    assert not torch.equal(new["x"], state["x"])


BAD = {
    "radius": lambda: solve(replace(CASES["search"], estimator=replace(SEARCH, radius=(3, 8)))),
    "refine radius": lambda: solve(replace(CASES["refine"], estimator=replace(REFINE, radius=(5, 8)))),
    "no poses": lambda: solve(replace(CASES["refine"], data=stack(60, 16)[0])),
    "start": lambda: solve(CASES["search"], start=torch.zeros(5)),
    "placement": lambda: solve(replace(CASES["search"], model=replace(model(16), placement=Anywhere(0.1)))),
    "iterations": lambda: Search(1),
    "temperature": lambda: Search(temperature=0.5),
    "memory": lambda: Search(memory=1.0),
    "falling": lambda: Search(radius=(9, 4)),
    "rounds": lambda: Refine(0),
    "rescue": lambda: Refine(radius=(5, 9), rescue_radius=6),
    "steps": lambda: Refine(steps=-1),
}


@pytest.mark.parametrize("wrong", list(BAD))
def test_what_does_not_fit_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"got|try"):
        BAD[wrong]()


def test_micrographs_are_refused() -> None:
    data = Micrographs(InMemory(torch.zeros(2, 32, 32)), 1.0, ("a", "b"))
    with pytest.raises(TypeError, match="Particles"):
        reconstruct(data, model(16), SEARCH, moves=0)


def test_candidates_of_a_rescue_lie_apart() -> None:
    near = torch.stack([rotation.exp_map(torch.tensor([0.0, 0.0, 0.1 * place])) for place in range(5)])
    far = rotation.exp_map(torch.tensor([0.0, 2.0, 0.0])) @ near[:2]
    ranked = torch.cat([near[:3], far, near[3:]])[None].expand(2, -1, -1, -1).clone()
    ranked[1, 3:5] = near[3]  # the second image has nothing else to offer
    chosen = far_apart(ranked, 2)
    assert chosen.tolist() == [[0, 3], [0, 1]]
    assert float(rotation.geodesic_distance(ranked[0, 0], ranked[0, 3])) > APART
    assert far_apart(ranked[:, :1], 2).tolist() == [[0], [0]]
