"""The mean of equally likely answers of several starts, each in a frame of its own."""

from dataclasses import replace

import pytest
import torch

from unpicked.data.maps import Map
from unpicked.evaluate.compare import compare
from unpicked.model.model import Model
from unpicked.model.placements import Anywhere
from unpicked.model.views import Projection
from unpicked.objects.ball import Ball
from unpicked.objects.ball_basis import largest_reach
from unpicked.ops import rotation
from unpicked.recipes.parts import ball_reach, fitted
from unpicked.recipes.stages import mean
from unpicked.reconstruct import Reconstruction, Result
from unpicked.simulate.phantom import bead_chain, shepp_logan

BALL = Ball(11, 10, 6.5)
MODEL = Model(BALL, Projection(rotation.super_fibonacci(4)), Anywhere())


def ended(truth: torch.Tensor, noise: float, seed: int, objective: float) -> Reconstruction:
    """The truth in a frame of its own, with errors of its own."""
    generator = torch.Generator().manual_seed(seed)
    turn = rotation.random_rotations(1, generator)[0]
    error = torch.randn(len(truth), generator=generator, dtype=torch.float64)
    x = BALL.rotate(truth, turn) + noise * truth.norm() / error.norm() * error
    history = [{"objective": objective}]
    return Reconstruction(x, Map(BALL.values(x), 2.0), history, Result.CONVERGED, {"x": x}, MODEL)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_mean_of_equally_likely_answers_is_better_than_each(seed: int) -> None:
    wanted = bead_chain(11, seed).truth()
    wanted = Map(wanted.values, 2.0)
    truth = BALL.fit(wanted.values.double())
    runs = [ended(truth, 0.3, 10 * seed + index, 100.0 - index) for index in range(3)]
    far = ended(truth, 2.0, 10 * seed + 5, 90.0)
    answer, (note,) = mean([*runs[1:], far, runs[0]])
    best = Map(BALL.values(truth), 2.0)
    errors = [compare(run.map, best).relative_error for run in runs if run.map is not None]
    assert answer.map is not None
    assert compare(answer.map, best).relative_error < 0.75 * min(errors)  # three independent errors: 0.58
    assert torch.allclose(BALL.values(answer.x), answer.map.values)
    assert "4 refined starts ended at objectives 99.0, 98.0, 90.0, 100.0; the mean of 3 is given" in note
    assert answer.objective == 100.0


def test_a_single_answer_or_one_far_ahead_is_kept_as_it_is() -> None:
    truth = BALL.fit(bead_chain(11, 0).truth().values.double())
    first, second = ended(truth, 0.3, 1, 100.0), ended(truth, 0.3, 2, 96.0)
    assert mean([first]) == (first, [])
    answer, (note,) = mean([second, first])
    assert answer is first and note.endswith("the likeliest was kept")
    empty = replace(first, result=Result.EMPTY)
    assert mean([empty, replace(second, history=[{"objective": 99.0}])])[0] is empty


def test_a_map_that_no_coefficients_made_is_fitted_without_inventing_what_lies_outside_the_box() -> None:
    truth = shepp_logan(11).values
    inner, large = Ball(11, 10, ball_reach(11)), Ball(11, 10, largest_reach(11))
    views = rotation.super_fibonacci(50)

    def power(object: Ball, x: torch.Tensor) -> float:
        return float(object.project(x, views).square().sum())

    wanted = power(inner, inner.fit(truth))
    assert power(large, fitted(large, truth)) == pytest.approx(wanted, rel=1e-6)
    assert power(large, large.fit(truth)) > 10 * wanted, "what the largest ball makes of such a map by itself"
    assert torch.equal(fitted(inner, truth), inner.fit(truth))
