"""Scores of views as matrix products against direct sums, and poses fitted to single images."""

import math

import pytest
import torch

from unpicked.ops import alignment, gridding, orientations, rotation, seeding
from unpicked.ops.band import Band
from unpicked.ops.gridding import Cube
from unpicked.ops.orientations import Images


def setting(
    count: int = 6, views: int = 20, dtype: torch.dtype = torch.complex128
) -> tuple[Band, Images, torch.Tensor, torch.Tensor, torch.Tensor]:
    band = Band(16, 6)
    generator = seeding.generator(5, "images")
    draw = torch.randn(count + views, len(band), generator=generator, dtype=torch.complex128).to(dtype)
    transfer = torch.rand(count, len(band), generator=generator, dtype=torch.float64).to(draw.real.dtype)
    noise = (0.5 + torch.rand(len(band), generator=generator, dtype=torch.float64)).to(draw.real.dtype)
    ramps = band.ramp(orientations.shift_grid(1.5).to(draw.real.dtype))
    return band, Images(draw[:count], transfer), draw[count:], noise, ramps


def direct(images: Images, slices: torch.Tensor, noise: torch.Tensor, ramps: torch.Tensor) -> torch.Tensor:
    """-|Y - C S e^{-iqt}|^2 / s2 + |Y|^2 / s2, summed over the band: (n, t, k)."""
    transfer = torch.ones_like(noise)[None] if images.transfer is None else images.transfer
    model = transfer[:, None, None] * slices * ramps[:, None]
    rest = images.coefficients[:, None, None] - model
    square = images.coefficients.abs().square()[:, None, None] - rest.abs().square()
    return (square / noise).sum(-1)


@pytest.mark.parametrize("with_transfer", [True, False])
def test_scores_are_the_direct_sums(with_transfer: bool) -> None:
    _, images, slices, noise, ramps = setting()
    if not with_transfer:
        images = Images(images.coefficients)
    found = torch.cat([values for _, values in orientations.scores(images, slices, noise, ramps)])
    torch.testing.assert_close(found, direct(images, slices, noise, ramps), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("with_transfer", [True, False])
def test_sums_are_those_of_enumerated_posteriors(with_transfer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    _, images, slices, noise, ramps = setting()
    if not with_transfer:
        images = Images(images.coefficients)
    monkeypatch.setitem(orientations._ROOM, "cpu", 2 * len(ramps) * len(slices))  # two images at a time
    found = orientations.posterior_sums(images, slices, noise, ramps)
    table = direct(images, slices, noise, ramps)
    posterior = torch.softmax(table.flatten(1), 1).view_as(table)
    back = images.filtered[:, None] * ramps.conj()
    torch.testing.assert_close(found.numerator, torch.einsum("ntk,ntp->kp", posterior.to(back), back))
    weight = images.weight.expand(len(images), -1)
    torch.testing.assert_close(found.weight, torch.einsum("ntk,np->kp", posterior, weight))
    torch.testing.assert_close(found.views, posterior.sum((0, 1)))
    evidence = torch.logsumexp(table.flatten(1), 1) - math.log(table[0].numel())
    torch.testing.assert_close(found.log_likelihood, evidence.sum())
    effective = (1 / posterior.flatten(1).square().sum(1)).sum()
    torch.testing.assert_close(found.effective, effective)


def test_numerators_are_the_gradient_of_the_likelihood() -> None:
    _, images, slices, noise, ramps = setting()
    leaf = torch.view_as_real(slices).clone().requires_grad_()
    table = direct(images, torch.view_as_complex(leaf), noise, ramps)
    (slope,) = torch.autograd.grad(torch.logsumexp(table.flatten(1), 1).sum(), leaf)
    sums = orientations.posterior_sums(images, slices, noise, ramps)
    expected = 2 * (sums.numerator - sums.weight * slices) / noise
    torch.testing.assert_close(torch.view_as_complex(slope), expected)


def test_the_best_views_and_shifts() -> None:
    _, images, slices, noise, ramps = setting()
    values, views, shifts = orientations.best(images, slices, noise, ramps, count=3)
    table = direct(images, slices, noise, ramps)
    over = table.amax(1)
    torch.testing.assert_close(values, over.topk(3, dim=1).values)
    rows = torch.arange(len(images))
    torch.testing.assert_close(table[rows, shifts[:, 0], views[:, 0]], values[:, 0])


def test_a_temperature_flattens() -> None:
    _, images, slices, noise, ramps = setting()
    cold, warm = (orientations.posterior_sums(images, slices, noise, ramps, temperature=t) for t in (1.0, 8.0))
    assert float(warm.effective) > 2 * float(cold.effective)
    torch.testing.assert_close(warm.log_likelihood, cold.log_likelihood)


def test_shift_grids() -> None:
    assert orientations.shift_grid(0.0).tolist() == [[0.0, 0.0]]
    assert len(orientations.shift_grid(1.0)) == 5
    assert len(orientations.shift_grid(1.0, 0.5)) == 13


def blob(box: int) -> torch.Tensor:
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    square = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis**2
    noise = torch.randn(box, box, box, generator=seeding.generator(6, "blob"), dtype=torch.float64)
    return noise * torch.exp(-square / (2 * (box / 5) ** 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_poses_are_found_again_from_nearby(dtype: torch.dtype) -> None:
    box = 16
    band, cube, generator = Band(box, 7), Cube(box, 7), seeding.generator(7, "poses")
    turns = rotation.random_rotations(12, generator)
    shifts = 2 * torch.rand(12, 2, generator=generator, dtype=torch.float64) - 1
    transfer = torch.rand(12, len(band), generator=generator, dtype=torch.float64)
    spectrum = gridding.spectrum(blob(box), cube)
    images = transfer * gridding.read(cube, spectrum, turns, band.points) * band.ramp(shifts)
    complex_type = torch.complex64 if dtype == torch.float32 else torch.complex128
    away = rotation.exp_map(0.05 * torch.randn(12, 3, generator=generator, dtype=torch.float64)) @ turns
    moved = shifts + 0.3 * torch.randn(12, 2, generator=generator, dtype=torch.float64)
    noise = torch.full((len(band),), 1e-2 * float(images.abs().square().mean()), dtype=dtype)
    given = Images(images.to(complex_type), transfer.to(dtype))
    fit = (given, spectrum.to(dtype), cube, band, noise)
    found = alignment.align(*fit, away.to(dtype), moved.to(dtype), steps=8)
    assert float(rotation.geodesic_distance(found.rotations.double(), turns).max()) < 1e-3
    assert float((found.shifts.double() - shifts).abs().max()) < 1e-4
    before = alignment.align(*fit, away.to(dtype), moved.to(dtype), steps=0)
    one = alignment.align(*fit, away.to(dtype), moved.to(dtype), steps=1)
    assert bool((one.misfit <= before.misfit).all())


@pytest.mark.parametrize("seed", [0, 1])
def test_the_predicted_spread_is_that_of_noisy_poses(seed: int) -> None:
    box, count = 24, 200
    band, cube, generator = Band(box, 11), Cube(box, 11), seeding.generator(seed, "noisy")
    turns = rotation.random_rotations(count, generator)
    spectrum = gridding.spectrum(blob(box), cube)
    clean = gridding.read(cube, spectrum, turns, band.points)
    variance = float(clean.abs().square().sum(1).mean()) * 2 / 2000  # E = 2000 per image
    noisy = clean + math.sqrt(variance) * torch.randn(clean.shape, generator=generator, dtype=torch.complex128)
    noise = torch.full((len(band),), variance, dtype=torch.float32)
    start = (rotation.exp_map(0.02 * torch.randn(count, 3, generator=generator, dtype=torch.float64)) @ turns).float()
    images = Images(noisy.to(torch.complex64))
    zero = torch.zeros(count, 2)
    found = alignment.align(images, spectrum.float(), cube, band, noise, start, zero, steps=6, shifted=False)
    error = rotation.geodesic_distance(found.rotations.double(), turns)
    ratio = float(error.square().mean().sqrt() / found.spread.square().mean().sqrt())
    assert 0.85 < ratio < 1.2
    assert bool((found.shifts == 0).all())
