"""A denoiser as a prior: what its energy, its curvature and its share of a map are, and that fits balance it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch

import unpicked as up
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.estimators.acceleration import Relaxed
from unpicked.estimators.maximisation import Problem
from unpicked.objects.ball import Ball
from unpicked.objects.base import Projector
from unpicked.objects.samples import Samples
from unpicked.objects.voxels import Voxels
from unpicked.ops import fourier
from unpicked.priors import (
    Both,
    Denoiser,
    Flat,
    Positive,
    Ridge,
    Shells,
    data_share,
    majorant,
    precision,
    response_share,
)

Tensor = torch.Tensor


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wiener(tau2: tuple[float, ...], variance: float):
    """Posterior mean of a map whose voxels are seen under white noise; E|fft3|^2 of noise per voxel is N variance."""

    def denoised(values: Tensor) -> Tensor:
        spectrum = fourier.fft3(values)
        power = torch.tensor(tau2, dtype=values.dtype)
        shells = fourier.shells(spectrum.shape).clamp(max=len(tau2) - 1)
        return fourier.ifft3(spectrum * (power / (power + variance * len(values)))[shells])

    return denoised


def blurred(tau2: tuple[float, ...], variance: float, box: int) -> Shells:
    """The belief that a Wiener filter stands for: that of its maps under its noise."""
    return Shells(tuple(power + variance * box for power in tau2))


TAU2 = (9.0, 4.0, 1.0, 0.1)


@pytest.mark.parametrize("object", [Voxels(7), Voxels(6), Ball(7, 4)], ids=["odd", "even", "ball"])
def test_a_posterior_mean_gives_the_energy_of_the_blurred_prior(object) -> None:
    """Tweedie: (v - f(v)) / s^2 is the gradient of -log p_s, and of a Gaussian p that is Gaussian again."""
    s2, box = 0.3, object.shape[0]
    prior, exact = Denoiser(wiener(TAU2, s2), 1 / s2), blurred(TAU2, s2, box)
    x = noise(object.size)
    assert float(prior.energy(x, object)) == pytest.approx(float(exact.energy(x, object)), rel=1e-9)
    assert torch.allclose(precision(prior, object, x), precision(exact, object, x), rtol=1e-6, atol=1e-6)


def test_a_denoiser_of_two_points_gives_the_energy_of_the_blurred_mixture() -> None:
    """Not Gaussian at all: every voxel is -1 or 1; f = tanh(v / s^2), E = |v|^2 / 2 s^2 - sum log cosh(v / s^2)."""
    s2 = 0.8
    prior = Denoiser(lambda v: (v / s2).tanh(), 1 / s2)
    x = noise(27 * 8)
    exact = x.square().sum() / (2 * s2) - (x / s2).cosh().log().sum()
    assert float(prior.energy(x, Voxels(6))) == pytest.approx(float(exact), rel=1e-3)
    slope = torch.func.grad(lambda y: prior.energy(y, Voxels(6)))(x)
    assert torch.allclose(slope, (x - (x / s2).tanh()) / s2, rtol=1e-12, atol=1e-12)
    curved = precision(prior, Voxels(6), x)
    assert torch.allclose(curved, ((1 - (x / s2).cosh() ** -2 / s2) / s2).diag(), rtol=1e-4, atol=1e-6)


def test_the_scale_is_what_the_function_sees_as_one() -> None:
    seen = []
    prior = Denoiser(lambda v: seen.append(float(v.max())) or 0 * v, 2.0, scale=5.0)
    x = torch.full((64,), 10.0, dtype=torch.float64)
    assert float(prior.energy(x, Voxels(4))) == pytest.approx(2.0 * 64 * 100 / 2)
    assert max(seen) < 2.0 and prior(x.reshape(4, 4, 4)).shape == (4, 4, 4)


def test_the_majorant_stands_for_the_denoiser_only() -> None:
    ridge, denoiser = Ridge(2.0), Denoiser(wiener(TAU2, 0.3), 2.0)
    assert majorant(ridge) is ridge and majorant(Both((ridge, Flat()))) == Both((ridge, Flat()))
    bound, x = majorant(Both((ridge, denoiser))), noise(216)
    assert bound.quadratic and bound.priors[0] is ridge
    held = precision(bound, Voxels(6), x) - precision(Both((ridge, denoiser)), Voxels(6), x)
    assert float(torch.linalg.eigvalsh(held).min()) > -1e-6


# in a fit


def fitted(prior, object, seed: int = 0):
    truth = object.fit(torch.exp(-fourier.distances(object.shape).square() / 3) * (1 + 0.3 * noise(*object.shape)))
    views = up.Projection(up.super_fibonacci(10))
    placement = up.Anywhere(0.1)
    model = up.Model(object, views, placement, noise=up.White(0.5))
    images = object.projector(up.random_rotations(40, torch.Generator().manual_seed(seed))).project(truth)
    field = 0.5 * noise(2, 48, 48, seed=seed + 1)
    for k in range(18):
        top, left = 16 * (k // 3 % 3) + 1, 16 * (k % 3) + 1
        field[k // 9, top : top + images.shape[-1], left : left + images.shape[-1]] += images[k]
    data = Micrographs(InMemory(field), 2.0, ("a", "b"))
    estimator = up.EM(iterations=4, frozen=3, precision="float64", tolerance=0, acceleration=Relaxed())
    return up.reconstruct(data, model, estimator, prior=prior, start=truth, moves=0)


@pytest.mark.parametrize(
    "object", [Ball(7, 4), pytest.param(Voxels(12), marks=pytest.mark.slow)], ids=["ball", "more than is held"]
)
def test_a_fit_with_a_wiener_filter_is_the_fit_with_the_gaussian_prior(object) -> None:
    """Fixed-point steps of the M-step end where the one linear solve of the quadratic prior ends."""
    s2 = 0.02
    tau2 = tuple(0.1 * power for power in TAU2)
    exact = fitted(blurred(tau2, s2, object.box), object)
    run = fitted(Denoiser(wiener(tau2, s2), 1 / s2), object)
    assert float((run.x - exact.x).norm() / exact.x.norm()) < 2e-3
    assert run.objective == pytest.approx(exact.objective, abs=0.5)
    free = fitted(Flat(), object)
    assert float((free.x - exact.x).norm() / exact.x.norm()) > 0.05  # the prior has something to say


def median(values: Tensor) -> Tensor:
    """Not differentiable, and the gradient of nothing."""
    near = [values, *(values.roll(shift, axis) for axis in range(3) for shift in (-1, 1))]
    return torch.stack(near).median(0).values


@pytest.mark.parametrize("others", [(), (Ridge(4.0),), (Positive(0.5),)], ids=["alone", "ridge", "positive"])
def test_an_m_step_with_a_denoiser_that_has_no_energy_ends_where_it_balances_the_data(others) -> None:
    """weight (x - data) + strength (x - f(x)) + the other priors' gradients = 0."""
    object, strength = Voxels(5), 1.5
    weight, data = 1 + noise(1, 125).square(), noise(1, 125, seed=1)
    seen = Projector(lambda x: x[..., None, :], lambda y: y[..., 0, :])
    prior = Both((Denoiser(median, strength), *others))
    found = Problem(object, seen, weight * data, weight, 1.0, prior).maximise(torch.zeros(125, dtype=torch.float64))
    rest = weight[0] * (found - data[0]) + strength * (found - median(found.reshape(5, 5, 5)).flatten())
    for other in others:
        rest = rest + torch.func.grad(lambda y, other=other: other.energy(y, object))(found)
    assert float(rest.norm()) < 1e-3 * float((weight * data).norm())
    assert float((found - data[0]).norm()) > 0.1 * float(data.norm())


def test_a_run_tells_what_came_from_the_data_in_its_folder_and_on_its_page(tmp_path: Path) -> None:
    box, s2 = 7, 0.02
    steep = (9.0, 4.0, 1.0, 1e-4)  # nothing is believed of the last shell
    run = fitted(Denoiser(wiener(steep, s2), 1 / s2, name="my filter"), Ball(box, 4))
    page = up.write_run(run, tmp_path / "run", notes=["beads on a lattice"])
    text = page.read_text()
    figures = json.loads((tmp_path / "run" / "result.json").read_text())["figures"]
    share = figures["data_share"]
    assert figures["data_share_kind"] == "response" and len(share) == 4
    assert share[1] > share[3] and min(share) >= 0 and max(share) <= 1
    for words in ("my filter", "a small change in what the data say", "Beads on a lattice", "not verified"):
        assert words.lower() in text.lower()
    with pytest.raises(FileExistsError, match="overwrite"):
        up.write_run(run, tmp_path / "run")
    assert up.write_run(run, tmp_path / "run", overwrite=True) == page


# what came from the data


@pytest.mark.parametrize("object", [Voxels(7), Voxels(6), Ball(7, 4)], ids=["odd", "even", "ball"])
@pytest.mark.parametrize("information", [0.0, 1.0, 4.0])
def test_response_share_of_multiples_of_the_identity(object, information: float) -> None:
    told = information * torch.eye(object.size, dtype=torch.float64)
    for given in (told, lambda v: information * v):
        share = response_share(object, noise(object.size), given, Ridge(1 / 3))
        assert share == pytest.approx([information / (information + 3)] * len(share), abs=1e-4)


def test_response_share_of_a_wiener_filter_by_hand() -> None:
    """Shells are independent: d = I / (I + P), P = N / (tau^2 + N s^2); the share of the variance is the same."""
    s2, box, told = 0.3, 6, 2.0
    x, eye = noise(box**3), torch.eye(box**3, dtype=torch.float64)
    expected = [told / (told + box / (power + box * s2)) for power in TAU2[:3]]
    found = response_share(Voxels(box), x, told * eye, Denoiser(wiener(TAU2, s2), 1 / s2))
    assert found == pytest.approx(expected, abs=1e-5)
    by_products = response_share(Voxels(box), x, lambda v: told * v, Denoiser(wiener(TAU2, s2), 1 / s2), probes=2)
    assert by_products == pytest.approx(expected, abs=3e-3)
    variance = data_share(Voxels(box), told * eye, precision(blurred(TAU2, s2, box), Voxels(box), x))
    assert variance == pytest.approx(expected, abs=1e-9)


def test_response_share_counts_what_a_denoiser_leaves_free_and_what_it_takes() -> None:
    """Half of the frequencies of a shell pass, the others go: half of it follows the data, half follows less.

    The share of the variance would say that all of it comes from the data: what is free is infinitely uncertain.
    """
    box, strength, told = 7, 50.0, 1.0
    axes = torch.meshgrid(*[fourier.frequencies(box)] * 3, indexing="ij")
    passed = (torch.stack(axes).abs().sum(0) % 2 == 0).double()

    def half(values: Tensor) -> Tensor:
        return fourier.ifft3(fourier.fft3(values) * passed)

    prior, x = Denoiser(half, strength), noise(box**3)
    found = response_share(Voxels(box), x, told * torch.eye(box**3, dtype=torch.float64), prior, probes=200)
    free = fourier.shell_sum(passed) / fourier.shell_sum(torch.ones(box, box, box))
    expected = free + (1 - free) * told / (told + strength)
    assert found == pytest.approx(expected.tolist(), abs=0.05)
    other = data_share(Voxels(box), told * torch.eye(box**3, dtype=torch.float64), precision(prior, Voxels(box), x))
    assert min(other[0], *other[2:]) > 0.99 and max(found[1:]) < 0.7


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Denoiser("blur", 1.0), r"function must take a map.*'blur'"),
        (lambda: Denoiser(abs, 0.0), "strength must be positive.*0"),
        (lambda: Denoiser(abs, 1.0, scale=math.inf), "scale must be positive.*inf"),
        (lambda: Denoiser(lambda v: v[1:], 1.0).energy(noise(64), Voxels(4)), r"shape \(4, 4, 4\).*\(3, 4, 4\)"),
        (lambda: Denoiser(lambda v: v * 1j, 1.0, name="mine").energy(noise(64), Voxels(4)), "mine.*complex"),
        (lambda: Denoiser(lambda v: v / 0, 1.0).energy(noise(64), Voxels(4)), "finite values"),
        (lambda: response_share(Samples(8), noise(8), torch.eye(8), Ridge(1.0)), "volume"),
        (lambda: response_share(Voxels(4), noise(8), torch.eye(64), Ridge(1.0)), r"x must have shape \(64,\)"),
        (lambda: response_share(Voxels(4), noise(64), torch.eye(8), Ridge(1.0)), r"information must have.*64"),
        (lambda: response_share(Voxels(4), noise(64), torch.eye(64), Ridge(1.0), probes=0), "probes.*0"),
        (lambda: response_share(Voxels(4), noise(64), torch.zeros(64, 64), Flat()), "together"),
    ],
)  # fmt: skip
def test_bad_input_raises_one_line(make, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        make()
    assert "\n" not in str(caught.value) and re.search(words, str(caught.value))
