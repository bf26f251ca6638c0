"""Steerable moments of images: filters, noise, and what a turned target predicts."""

from __future__ import annotations

import math

import pytest
import torch

from unpicked.model import expected_images
from unpicked.objects.disk import Disk
from unpicked.ops import steerable


def draw(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(image: torch.Tensor, functions: steerable.Discs) -> torch.Tensor:
    radius = functions.radius
    windows = image.unfold(0, 2 * radius + 1, 1).unfold(1, 2 * radius + 1, 1)
    c = torch.einsum("hwab,nab->nhw", windows.to(torch.complex128), functions.values.conj()).flatten(1)
    y = image[radius:-radius, radius:-radius].flatten()
    parts = [torch.tensor([float(len(y))], dtype=torch.float64), y.sum()[None], c[functions.groups[0]].real @ y]
    for order, group in enumerate(functions.groups):
        matrix = (c[group].conj() * y) @ c[group].mT
        a, b = torch.tril_indices(len(matrix), len(matrix))
        parts.append(matrix.real[a, b])
        if order:
            a, b = torch.tril_indices(len(matrix), len(matrix), -1)
            parts.append(matrix.imag[a, b])
    return torch.cat(parts)


def test_disc_functions_are_orthonormal_on_the_pixels() -> None:
    functions = steerable.discs(5)
    for group in functions.groups:
        flat = functions.values[group].flatten(1)
        eye = torch.eye(len(flat), dtype=torch.complex128)
        torch.testing.assert_close(flat @ flat.conj().mT, eye, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(40, 37), (300, 262)])
def test_sums_are_those_of_the_definition(size: tuple[int, int]) -> None:
    functions, image = steerable.discs(3, 1.0), draw(0, *size) + 0.2
    ours = steerable.steerable_sums(image, functions).sum(0)
    torch.testing.assert_close(ours, naive(image, functions), rtol=1e-10, atol=1e-9)


def test_images_that_are_cut_give_the_same_sums() -> None:
    functions, image = steerable.discs(2), draw(1, 60, 50)
    parts = [steerable.steerable_sums(part, functions).sum(0) for part in (image[:30], image[26:])]
    whole = steerable.steerable_sums(image, functions).sum(0)
    torch.testing.assert_close(parts[0] + parts[1], whole, rtol=1e-10, atol=1e-10)


def test_noise_bias_and_covariance() -> None:
    functions, draws = steerable.discs(2, 1.0), 1500
    rows = []
    for seed in range(draws):
        sums = steerable.steerable_sums(draw(seed, 40, 40), functions).sum(0)
        rows.append(sums[1:] / sums[:1])
    means, points = torch.stack(rows), 36**2
    ours = steerable.steerable_covariance(functions)
    scale = ours.diagonal().sqrt()
    measured = torch.cov(means.mT) * points
    assert float(((measured - ours) / torch.outer(scale, scale)).abs().max()) < 0.2  # of 5 standard errors and edges
    z = (means.mean(0) - steerable.steerable_noise(functions, 1.0, 0.0)) / (scale / math.sqrt(draws * points))
    assert float(z.abs().max()) < 4.5


def test_noise_on_a_constant() -> None:
    functions, mean, sigma = steerable.discs(2, 1.0), 0.6, 1.3
    image = mean + sigma * draw(7, 1200, 1200)
    sums = steerable.steerable_sums(image, functions).sum(0)
    flat = steerable.steerable_sums(torch.full((40, 40), mean, dtype=torch.float64), functions).sum(0)
    left = sums[1:] / sums[0] - flat[1:] / flat[0] - steerable.steerable_noise(functions, sigma, mean)
    assert float(left.abs().max()) < 0.1
    assert float(steerable.steerable_noise(functions, sigma, mean).abs().max()) > 1


@pytest.mark.parametrize("side", [4, 5])
def test_prediction_is_the_mean_over_all_angles(side: int) -> None:
    disk, functions = Disk(side), steerable.discs(side - 1)
    table = expected_images.polynomial(disk, functions)
    x = draw(2, disk.size)
    total = torch.zeros(1 + functions.size, dtype=torch.float64)
    angles = 4 * int(disk.index.abs().max()) + 3
    for number in range(angles):
        turned = disk.rotate(x, torch.tensor(2 * math.pi * number / angles, dtype=torch.float64))
        image = torch.zeros(6 * side, 6 * side, dtype=torch.float64)
        image[2 * side : 3 * side, 2 * side : 3 * side] = disk.values(turned)
        total += steerable.steerable_sums(image, functions).sum(0) / angles
    ours = expected_images.expected_images(x[None], table)[0]
    torch.testing.assert_close(ours, total[1:], rtol=1e-10, atol=1e-10)


def test_prediction_does_not_change_with_rotation_but_with_the_mirror() -> None:
    disk, functions = Disk(7), steerable.discs(6)
    table = expected_images.polynomial(disk, functions)
    x = draw(3, disk.size)
    turned = disk.rotate(x, torch.tensor(0.7, dtype=torch.float64))
    mirrored = x * torch.where(disk.index[:, 0] < 0, -1.0, 1.0)
    one, two, other = expected_images.expected_images(torch.stack([x, turned, mirrored]), table)
    torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-10)
    assert float((other - one).norm() / one.norm()) > 0.01


def test_slope_of_the_prediction() -> None:
    disk, functions = Disk(5), steerable.discs(4)
    table = expected_images.polynomial(disk, functions)
    x = draw(4, 2, disk.size)
    values, slope = expected_images.expected_images_slope(x, table)
    torch.testing.assert_close(values, expected_images.expected_images(x, table))
    auto = torch.autograd.functional.jacobian(lambda t: expected_images.expected_images(t[None], table)[0], x[1])
    torch.testing.assert_close(slope[1], auto, rtol=1e-10, atol=1e-10)


def test_lags_that_do_not_reach_and_bad_functions_are_refused() -> None:
    with pytest.raises(ValueError, match="lags must reach 4 pixels"):
        expected_images.polynomial(Disk(5), steerable.discs(3))
    with pytest.raises(ValueError, match="at least 1 pixel"):
        steerable.discs(0)
    with pytest.raises(ValueError, match="share of the frequencies"):
        steerable.discs(3, 1.5)
