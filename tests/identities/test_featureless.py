"""The featureless ball, and the bead chains that are far from it."""

from __future__ import annotations

import math

import pytest
import torch

from unpicked.data.maps import Map
from unpicked.evaluate.featureless import ball_error
from unpicked.ops import fourier, rotation
from unpicked.ops.radial import radial
from unpicked.simulate import phantom
from unpicked.simulate.phantom import CHAINS, Chain, bead_chain


@pytest.mark.parametrize("box", [7, 8, 11, 16])
def test_a_ball_has_no_error_and_an_odd_map_nothing_but_error(box: int) -> None:
    distance = fourier.distances((box,) * 3)
    assert ball_error(Map(torch.exp(-distance.square() / (0.1 * box**2)), 2.0)) < 0.01
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    odd = axis[:, None, None] * torch.exp(-distance.square() / (0.05 * box**2))
    if box % 2:
        assert ball_error(Map(odd, 2.0)) == pytest.approx(1.0)


def test_the_radial_map_is_the_nearest_one() -> None:
    values = bead_chain(11, 3).truth().values
    best = radial(values)
    torch.testing.assert_close(radial(best), best)
    left = float((best - values).norm())
    distance = fourier.distances((11,) * 3)
    for knot in (0, 1, 2.5, 4):
        hat = (1 - (distance / 0.5 - knot / 0.5).abs()).clamp_min(0)
        for step in (-1e-3, 1e-3):
            assert float((best + step * hat - values).norm()) >= left
    assert ball_error(Map(7 * values, 2.0)) == pytest.approx(ball_error(Map(values, 1.0)))


@pytest.mark.parametrize("box", [7, 11])
def test_bead_chains_are_far_from_a_ball_and_of_unit_power(box: int) -> None:
    for seed in range(3):
        specimen = bead_chain(box, seed, voxel_size=2.5)
        assert 0.25 < ball_error(specimen.truth()) < 0.65
        views = rotation.random_rotations(1500, torch.Generator().manual_seed(seed))
        assert float(specimen.images(views).square().sum((-2, -1)).mean()) == pytest.approx(1, rel=0.02)
        assert specimen.voxel_size == 2.5 and specimen.truth().box == box


def test_a_chain_keeps_its_distances_and_is_that_of_its_seed() -> None:
    chain = CHAINS[11]
    specimen, again, other = bead_chain(11, 4), bead_chain(11, 4), bead_chain(11, 5)
    places = specimen.object.positions / 2
    steps = (places[1:] - places[:-1]).norm(dim=1)
    torch.testing.assert_close(steps, torch.full_like(steps, chain.step))
    distances = torch.cdist(places, places) + 99 * torch.eye(len(places))
    assert len(places) == chain.beads and float(distances.min()) >= min(chain.apart, chain.step) - 1e-9
    assert torch.equal(specimen.x, again.x) and not torch.equal(specimen.x, other.x)


def test_bad_input_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantom, "TRIES", 1)
    cases = [
        (lambda: ball_error(Map(torch.zeros(8, 8, 8), 1.0)), "hold a structure"),
        (lambda: ball_error(Map(torch.full((8, 8, 8), math.nan), 1.0)), "finite"),
        (lambda: bead_chain(9, 0), "boxes of 7 and 11"),
        (lambda: bead_chain(9, 0, chain=Chain(40, 1.0, 2.0, 1.9, 2.0)), "no chain was found"),
        (lambda: Chain(0, 1.0, 1.0, 1.0, 1.0), "beads must be at least 1"),
        (lambda: Chain(3, 1.0, 0.0, 1.0, 1.0), "step must be positive"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
