"""Fourier shell correlation: its definition, its statistics on white noise, and resolutions read from it."""

from __future__ import annotations

import math

import pytest

from unpicked._lazy import torch
from unpicked.evaluate.fsc import fsc, fsc_area, fsc_error, resolution, shell_counts


def noise(box: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(box, box, box, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("box", [4, 5, 11, 12])
def test_curve_is_the_sum_over_hard_shells(box: int) -> None:
    generator = torch.Generator().manual_seed(box)
    first, second = noise(box, generator), noise(box, generator)
    one, two = torch.fft.fftn(first), torch.fft.fftn(second)  # the position of the centre cancels
    axis = [q if q < (box + 1) // 2 else q - box for q in range(box)]
    sums = [[0.0, 0.0, 0.0] for _ in range(2 * box)]
    for i, z in enumerate(axis):
        for j, y in enumerate(axis):
            for k, x in enumerate(axis):
                a, b = complex(one[i, j, k]), complex(two[i, j, k])
                cell = sums[round(math.sqrt(z * z + y * y + x * x))]
                cell[0] += (a * b.conjugate()).real
                cell[1] += abs(a) ** 2
                cell[2] += abs(b) ** 2
    expected = [c[0] / math.sqrt(c[1] * c[2]) for c in sums[: (box - 1) // 2 + 1]]
    curve = fsc(first.float(), second.float())
    assert curve.dtype == torch.float64
    assert len(curve) == (box - 1) // 2 + 1
    torch.testing.assert_close(curve, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_map_agrees_with_itself_whatever_its_scale() -> None:
    values = noise(16, torch.Generator().manual_seed(1))
    torch.testing.assert_close(fsc(values, 3 * values), torch.ones(8, dtype=torch.float64))
    torch.testing.assert_close(fsc(values, -values), -torch.ones(8, dtype=torch.float64))


def test_shells_without_power_count_as_disagreement() -> None:
    values = noise(16, torch.Generator().manual_seed(1))
    spectrum = torch.fft.fftn(values)
    radius = torch.fft.fftfreq(16, dtype=torch.float64).mul(16)
    far = radius[:, None, None] ** 2 + radius[:, None] ** 2 + radius**2 > 3.4**2
    spectrum[far] = 0
    curve = fsc(torch.fft.ifftn(spectrum).real, values)
    assert bool((curve[4:] == 0).all())
    assert bool((curve[:4] > 0.9).all())


@pytest.mark.parametrize("box", [11, 16])
def test_white_noise_halves_have_mean_zero_and_variance_one_over_count(box: int) -> None:
    generator = torch.Generator().manual_seed(7)
    draws = 1500
    curves = torch.stack([fsc(noise(box, generator), noise(box, generator)) for _ in range(draws)])
    counts = shell_counts(box)
    mean, spread = curves[:, 1:].mean(0), curves[:, 1:].var(0)
    assert bool((mean.abs() < 5 / (draws * counts[1:]).sqrt()).all())
    # the variance of a sample variance is about 2 / draws; five standard deviations
    assert bool(((spread * counts[1:] - 1).abs() < 5 * math.sqrt(2 / draws)).all())
    torch.testing.assert_close(fsc_error(torch.zeros_like(counts), counts), counts.rsqrt())


def test_counts_are_those_of_a_full_shell() -> None:
    assert shell_counts(11)[:3].tolist() == [1, 18, 62]
    assert shell_counts(12)[:3].tolist() == [1, 18, 62]
    assert len(shell_counts(11)) == len(shell_counts(12)) == 6


def test_resolution_is_the_first_crossing_linear_between_shells() -> None:
    curve = torch.tensor([1.0, 0.9, 0.7, 0.3, 0.8, 0.1])
    found = resolution(curve, 2.0, 12, 0.5)
    assert found.angstrom == pytest.approx(12 * 2.0 / 2.5)
    assert not found.at_nyquist


def test_resolution_at_the_ends() -> None:
    good = resolution(torch.tensor([0.0, 0.9, 0.8]), 2.0, 6, 0.5)
    assert (good.angstrom, good.at_nyquist) == (4.0, True)
    bad = resolution(torch.tensor([1.0, 0.4, 0.8]), 2.0, 6, 0.5)
    assert (bad.angstrom, bad.at_nyquist) == (None, False)
    equal = resolution(torch.tensor([1.0, 0.5, 0.5]), 2.0, 6, 0.5)
    assert equal.at_nyquist


def test_area_is_the_mean_without_shell_zero() -> None:
    assert fsc_area(torch.tensor([9.0, 1.0, 0.5, 0.0])) == pytest.approx(0.5)


def test_bad_input_is_refused_in_one_line() -> None:
    cube = torch.ones(8, 8, 8)
    hole = cube.clone()
    hole[1, 2, 3] = math.nan
    cases = [
        (lambda: fsc(cube, torch.ones(9, 9, 9)), "one grid"),
        (lambda: fsc(cube, torch.ones(8, 8)), "second must be a cube"),
        (lambda: fsc(hole, cube), "first must be finite"),
        (lambda: fsc_error(torch.ones(3), torch.ones(4)), "one number per shell"),
        (lambda: fsc_error(torch.ones(3), torch.zeros(3)), "positive"),
        (lambda: resolution(torch.tensor([1.0, math.nan]), 1.0, 8, 0.5), "finite"),
        (lambda: resolution(torch.ones(4), 0.0, 8, 0.5), "voxel_size"),
        (lambda: resolution(torch.ones(4), 1.0, 8, 1.5), "threshold"),
        (lambda: fsc_area(torch.ones(1)), "shells"),
        (lambda: shell_counts(3), "box"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
