"""Resolution by place and by direction: maps whose resolution is known, and noise."""

from __future__ import annotations

import math

import pytest
import torch

from unpicked.data.maps import Map
from unpicked.evaluate.directional import directional, half_sphere
from unpicked.evaluate.fsc import fsc_error, fsc_interval, shell_counts
from unpicked.evaluate.local import local_resolution
from unpicked.ops import fourier

VOXEL = 2.0
BOX = 24


def noise(seed: int, box: int = BOX) -> torch.Tensor:
    return torch.randn(box, box, box, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def low_passed(values: torch.Tensor, shell: int) -> torch.Tensor:
    return fourier.ifft3(fourier.fft3(values) * (fourier.radius(values.shape) <= shell))


def pair(signal: torch.Tensor, level: float, seed: int = 100) -> tuple[Map, Map]:
    """Two maps of one signal with noise of their own."""
    box = len(signal)
    return tuple(Map(signal + level * noise(seed + k, box), VOXEL) for k in range(2))


# by place


@pytest.mark.parametrize("box", [12, 13])
def test_equal_maps_agree_up_to_nyquist_everywhere(box):
    found = local_resolution(Map(noise(1, box), VOXEL), Map(noise(1, box), VOXEL))
    assert found.map.voxel_size == VOXEL and found.map.box == box
    assert torch.equal(found.map.values, torch.full((box,) * 3, found.nyquist, dtype=torch.float32))
    assert (found.median, found.at_nyquist, found.unresolved) == (2 * VOXEL, 1.0, 0.0)


def test_independent_noise_agrees_nowhere():
    found = local_resolution(Map(noise(1), VOXEL), Map(noise(2), VOXEL), diameter=BOX * VOXEL / 2)
    assert found.unresolved > 0.85 and found.median == pytest.approx(found.window)
    assert all(0 < level < 0.9 for level in found.floor[2:]) and found.floor[:2] == [1.0, 1.0]


@pytest.mark.parametrize("shell", [4, 7])
@pytest.mark.parametrize("level", [0.1, 0.3])
def test_maps_limited_at_a_shell_give_it_back_as_sharply_as_the_window_allows(shell, level):
    """A band is N / W shells wide on either side, so the end of a strong signal shows that much late at most."""
    diameter = 0.6 * BOX * VOXEL
    first, second = pair(low_passed(noise(1), shell), level * float(low_passed(noise(1), shell).std()))
    found = local_resolution(first, second, diameter=diameter)
    assert found.unresolved == 0 and found.at_nyquist < 0.01
    for angstrom in (found.best, found.median, found.worst):
        assert -0.5 < BOX * VOXEL / angstrom - shell < 1 / 0.6 + 0.5


def test_two_parts_of_a_map_have_their_own_resolution():
    """Fine structure in the middle, coarse structure outside, with one noise."""
    box = 32
    middle = ((torch.arange(box) - box // 2).abs() <= 4).double()
    signal = noise(1, box) * middle + 3 * low_passed(noise(2, box), 5) * (1 - middle)
    found = local_resolution(*pair(signal, 0.4), diameter=11 * VOXEL).map.values
    assert float(found[:, :, 14:19].median()) == 2 * VOXEL
    outside = torch.cat([found[:, :, :4], found[:, :, -4:]], 2)
    assert box * VOXEL / (5 + 3) < float(outside.median()) < box * VOXEL / 4


def test_the_figures_are_those_of_the_mask_or_of_the_structure():
    left = (torch.arange(BOX) < BOX // 2).float().expand(BOX, BOX, BOX)
    first, second = pair(noise(1) * left, 0.5)
    masked = local_resolution(first, second, mask=Map(left, VOXEL), diameter=20.0)
    assert masked.voxels == BOX**3 // 2 and masked.at_nyquist > 0.8
    own = local_resolution(first, second, diameter=20.0)
    assert own.voxels < BOX**3 and own.window == 20.0
    other = local_resolution(first, second, mask=Map(1 - left, VOXEL), diameter=20.0)
    assert other.at_nyquist < masked.at_nyquist - 0.2


def test_a_higher_threshold_is_never_better():
    first, second = pair(low_passed(noise(1), 6), 0.1)
    lenient, strict = (local_resolution(first, second, threshold=level, diameter=24.0) for level in (0.143, 0.5))
    assert bool((strict.map.values >= lenient.map.values).all())


@pytest.mark.parametrize(
    ("second", "more", "words"),
    [
        (Map(noise(2, 12), VOXEL), {}, "grid of the first map, 24 voxels of 2 A; got 12 of 2 A"),
        (Map(noise(2), 3.0), {}, "grid of the first map, 24 voxels of 2 A; got 24 of 3 A"),
        (Map(noise(2) / 0, VOXEL), {}, "the second map must be finite"),
        (Map(noise(2), VOXEL), {"diameter": 49.0}, "window must be between 6 A .* 48 A wide; got 49 A"),
        (Map(noise(2), VOXEL), {"diameter": 5.0}, "window must be between 6 A .* got 5 A"),
        (Map(noise(2), VOXEL), {"diameter": math.nan}, "window must be between 6 A .* got nan A"),
        (Map(noise(2), VOXEL), {"threshold": 1.0}, "threshold must lie between 0 and 1; got 1"),
        (Map(noise(2), VOXEL), {"mask": Map(torch.full((BOX,) * 3, 0.3), VOXEL)}, "mask must reach 0.5"),
        (Map(noise(2), VOXEL), {"mask": Map(torch.ones(12, 12, 12), VOXEL)}, "the mask must lie on the grid"),
    ],
)
def test_bad_input_by_place_raises_one_line(second, more, words):
    with pytest.raises(ValueError, match=words) as caught:
        local_resolution(Map(noise(1), VOXEL), second, **more)
    assert "\n" not in str(caught.value)


# by direction


@pytest.mark.parametrize("box", [16, 17])
def test_equal_maps_agree_in_every_direction(box):
    found = directional(Map(noise(1, box), VOXEL), Map(noise(1, box), VOXEL))
    assert set(found.resolution) == {2 * VOXEL} and found.best == found.worst == found.nyquist
    assert found.sphericity == pytest.approx(1, abs=1e-12)
    assert found.fsc[1:] == pytest.approx([1.0] * len(found.fsc[1:]))


def missing(signal: torch.Tensor, axis: torch.Tensor, seed: int) -> Map:
    """The signal with noise in its place within 40 degrees of an axis of Fourier space."""
    q = fourier.frequencies(BOX).double()
    z, y, x = torch.meshgrid(q, q, q, indexing="ij")
    along = (torch.stack([x, y, z], -1) @ axis).abs() / fourier.radius((BOX,) * 3).clamp(min=1)
    gone = along > math.cos(math.radians(40))
    other = fourier.fft3(noise(seed))
    return Map(fourier.ifft3(torch.where(gone, other, fourier.fft3(signal) + 0.2 * other)), VOXEL)


@pytest.mark.parametrize("axis", [(0.0, 0.0, 1.0), (0.6, 0.0, 0.8), (-0.36, 0.48, 0.8)])
def test_a_missing_cone_is_found_where_it_is_and_lowers_the_sphericity(axis):
    direction = torch.tensor(axis, dtype=torch.float64)
    found = directional(missing(noise(1), direction, 2), missing(noise(1), direction, 3), masked=False)
    angle = (torch.tensor(found.directions, dtype=torch.float64) @ direction).abs().clamp(max=1).acos().rad2deg()
    sizes = torch.tensor([math.inf if one is None else one for one in found.resolution])
    assert bool((sizes[angle > 61] == 2 * VOXEL).all())  # cones that do not touch it
    assert bool((sizes[angle < 15] > 1.5 * 2 * VOXEL).all())  # cones inside it
    worst = torch.tensor(found.worst_direction, dtype=torch.float64)
    assert float((worst @ direction).abs()) > math.cos(math.radians(25))
    assert found.sphericity < 0.9
    whole = directional(*pair(noise(1), 0.2), masked=False)
    assert whole.sphericity > 0.99 > found.sphericity


def test_all_directions_at_once_are_the_plain_curve():
    first, second = pair(low_passed(noise(1), 6), 0.3)
    found = directional(first, second, half_angle=90.0, count=12, masked=False)
    assert found.fsc_low[1:] == pytest.approx(found.fsc[1:], abs=1e-12)
    assert found.fsc_high[1:] == pytest.approx(found.fsc[1:], abs=1e-12)
    assert max(found.spread) < 1e-12


def test_directions_are_spread_evenly():
    axes = half_sphere(200)
    assert torch.allclose(axes.norm(dim=1), torch.ones(200, dtype=torch.float64)) and float(axes[:, 2].min()) > 0
    second = axes.mT @ axes / 200
    assert torch.allclose(second, torch.eye(3, dtype=torch.float64) / 3, atol=5e-3)


def test_noise_stays_below_the_floor_of_a_cone_in_nineteen_cases_of_twenty():
    for seed in range(4):
        found = directional(Map(noise(2 * seed), VOXEL), Map(noise(2 * seed + 1), VOXEL))
        kept = [shell for shell, level in enumerate(found.floor) if level > 0]
        assert kept == [7, 8, 9, 10, 11]
        assert sum(found.fsc_high[shell] < found.floor[shell] for shell in kept) >= 4  # a tenth of 200 directions


@pytest.mark.parametrize(
    ("second", "more", "words"),
    [
        (Map(noise(2, 12), VOXEL), {}, "grid of the first map"),
        (Map(noise(2), VOXEL), {"half_angle": 0.0}, "half_angle must be between 1 and 90 degrees; got 0"),
        (Map(noise(2), VOXEL), {"count": 3}, "count must be at least 12 directions; got 3"),
    ],
)
def test_bad_input_by_direction_raises_one_line(second, more, words):
    with pytest.raises(ValueError, match=words):
        directional(Map(noise(1), VOXEL), second, **more)


# the interval


@pytest.mark.parametrize("truth", [0.0, 0.4, 0.9])
def test_the_interval_of_a_curve_holds_its_truth_as_often_as_it_says(truth):
    """Correlations of n pairs of normal numbers, 2,000 times."""
    n, generator = 50, torch.Generator().manual_seed(3)
    x, y = torch.randn(2, 2000, n, generator=generator, dtype=torch.float64)
    y = truth * x + math.sqrt(1 - truth**2) * y
    found = (x * y).sum(1) / (x.square().sum(1) * y.square().sum(1)).sqrt()
    for level in (0.68, 0.95):
        low, high = fsc_interval(found, torch.full((2000,), float(n)), level)
        inside = float(((low <= truth) & (truth <= high)).double().mean())
        assert abs(inside - level) < 5 * math.sqrt(level * (1 - level) / 2000) + 0.01
        assert bool((low >= -1).all()) and bool((high <= 1).all())


def test_the_interval_is_about_two_standard_deviations_and_knows_when_it_knows_nothing():
    counts, curve = shell_counts(64), torch.full((32,), 0.3, dtype=torch.float64)
    low, high = fsc_interval(curve, counts)
    assert torch.allclose((high - low)[10:], 2 * 1.96 * fsc_error(curve, counts)[10:], rtol=0.01)
    assert (float(low[0]), float(high[0])) == (-1.0, 1.0)
    with pytest.raises(ValueError, match="level must be a probability"):
        fsc_interval(curve, counts, 95)
