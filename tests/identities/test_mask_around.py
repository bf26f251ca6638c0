"""The soft mask around a molecule."""

from __future__ import annotations

import pytest
import torch

from answers import fails
from unpicked.data.maps import Map
from unpicked.evaluate.mask import mask_around
from unpicked.simulate.phantom import bead_chain


def block(box: int = 32, low: int = 12, high: int = 20) -> torch.Tensor:
    values = torch.zeros(box, box, box)
    values[low:high, low:high, low:high] = 1
    return values


def test_a_block_is_whole_inside_and_the_edge_falls_over_its_width() -> None:
    found = mask_around(Map(block(), 3.0), extend=2, edge=4)
    assert (found.voxel_size, found.values.dtype) == (3.0, torch.float32)
    assert bool((found.values[block() > 0] == 1).all())
    line = found.values[16, 16, 19:]  # from the last voxel of the block outwards
    torch.testing.assert_close(line[:3], torch.ones(3))
    assert float(line[4]) == pytest.approx(0.5, abs=1e-6)  # at half of the edge
    assert bool((line[2:7].diff() < 0).all()) and not line[6:].any()


def test_noise_as_strong_as_the_map_moves_the_mask_little() -> None:
    map = bead_chain(11, 3).truth()
    noise = torch.randn(map.values.shape, generator=torch.Generator().manual_seed(1)) * map.values.std()
    for seen in (map.values, map.values + 0.5 * noise, 40 * map.values):
        mask = mask_around(Map(seen, 6.0)).values
        kept = (mask * map.values.clamp(min=0)).sum() / map.values.clamp(min=0).sum()
        assert kept > 0.95 and (mask > 0.5).float().mean() < 0.5
        assert not mask[0, 0, 0] and not mask[-1, -1, -1]


def test_specks_are_left_out_and_holes_are_filled() -> None:
    values = block(low=8, high=20)
    values[12:16, 12:16, 12:16] = 0
    values[26, 16, 16] = 4
    mask = mask_around(Map(values, 1.0), extend=0, edge=2).values
    assert bool((mask[12:16, 12:16, 12:16] == 1).all()) and not mask[26, 16, 16]


@pytest.mark.parametrize("values", [torch.zeros(16, 16, 16), -block(16, 6, 10)])
def test_a_map_without_matter_has_the_ball_for_a_mask(values: torch.Tensor) -> None:
    mask = mask_around(Map(values, 1.0)).values
    assert mask[8, 8, 8] == 1 and mask[8, 8, 0] == 1 and not mask[0, 0, 0]


def test_what_makes_no_mask_is_refused() -> None:
    broken = block()
    broken[0, 0, 0] = float("nan")
    assert fails(lambda: mask_around(Map(broken, 1.0)), "NaN")
    assert fails(lambda: mask_around(Map(block(), 1.0), edge=-1), "-1", "negative")
