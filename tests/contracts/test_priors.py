"""The contract of every prior: adding a prior means adding one row to ROWS."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from unpicked.objects.ball import Ball
from unpicked.objects.base import Object
from unpicked.objects.voxels import Voxels
from unpicked.ops import fourier
from unpicked.priors import Flat, Prior, Ridge, Shells, globular

Tensor = torch.Tensor


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spectral(box: int, variances: Tensor, seed: int) -> Tensor:
    """A volume whose fft3 has the given expected square at every shell (beyond the last: the last)."""
    white = fourier.fft3(noise(box, box, box, seed=seed)) / box**0.5  # fft3 of white noise has E|F|^2 = N
    index = fourier.shells(white.shape).clamp(max=len(variances) - 1)
    return fourier.ifft3(white * variances[index].sqrt())


ROWS: dict[str, Prior] = {
    "flat": Flat(),
    "ridge": Ridge(2.5),
    "shells, fewer than the box has": Shells((3.0, 0.5)),
    "shells": Shells((3.0, 2.0, 1.0, 0.1)),
    "shells, more than the box has": Shells(tuple(1 / (1 + k) for k in range(30))),
    "globular": globular(8, 40.0),
}
OBJECTS: dict[str, Object] = {"voxels even": Voxels(6), "voxels odd": Voxels(5), "ball": Ball(6, 3)}
every = pytest.mark.parametrize("prior", ROWS.values(), ids=ROWS.keys())
with_object = pytest.mark.parametrize("object", OBJECTS.values(), ids=OBJECTS.keys())


@every
@with_object
def test_energy_is_a_finite_scalar_that_is_never_negative(prior: Prior, object: Object) -> None:
    for scale in (1e-6, 1.0, 1e6):
        energy = prior.energy(scale * noise(object.size), object)
        assert energy.shape == ()
        assert 0 <= float(energy) < float("inf")
    assert float(prior.energy(torch.zeros(object.size, dtype=torch.float64), object)) == 0


@every
@with_object
def test_energy_is_differentiable(prior: Prior, object: Object) -> None:
    x = noise(object.size).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: prior.energy(y, object), (x,), fast_mode=True)
    (gradient,) = torch.autograd.grad(prior.energy(x, object), x)
    assert gradient.shape == x.shape
    assert bool(gradient.isfinite().all())


@every
@with_object
def test_a_quadratic_energy_scales_with_the_square(prior: Prior, object: Object) -> None:
    if not prior.quadratic:
        pytest.skip("does not claim to be quadratic")
    x = noise(object.size)
    for factor in (-1.0, 0.5, 3.0):
        scaled = float(prior.energy(factor * x, object))
        assert scaled == pytest.approx(factor**2 * float(prior.energy(x, object)), rel=1e-12)


@every
@with_object
def test_a_quadratic_energy_obeys_the_parallelogram_law(prior: Prior, object: Object) -> None:
    if not prior.quadratic:
        pytest.skip("does not claim to be quadratic")
    a, b = noise(2, object.size)
    left = prior.energy(a + b, object) + prior.energy(a - b, object)
    right = 2 * prior.energy(a, object) + 2 * prior.energy(b, object)
    assert float(left) == pytest.approx(float(right), rel=1e-12)


@every
@with_object
def test_the_gradient_of_a_quadratic_energy_is_linear_and_symmetric(prior: Prior, object: Object) -> None:
    """What the M-step relies on: x -> grad E(x) is a symmetric linear map A, and E = x^T A x / 2."""
    if not prior.quadratic:
        pytest.skip("does not claim to be quadratic")

    def gradient(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(prior.energy(x, object), x)[0]

    a, b = noise(2, object.size)
    assert torch.allclose(gradient(2 * a - b), 2 * gradient(a) - gradient(b), rtol=0, atol=1e-10)
    assert float(a.dot(gradient(b))) == pytest.approx(float(b.dot(gradient(a))), rel=1e-10, abs=1e-10)
    assert float(a.dot(gradient(a))) / 2 == pytest.approx(float(prior.energy(a, object)), rel=1e-12)


@every
def test_energy_keeps_the_dtype(prior: Prior) -> None:
    x = noise(216)
    single = prior.energy(x.float(), Voxels(6))
    assert single.dtype == torch.float32
    assert float(single) == pytest.approx(float(prior.energy(x, Voxels(6))), rel=1e-5)


@every
def test_the_input_is_not_changed(prior: Prior) -> None:
    x = noise(216)
    kept = x.clone()
    prior.energy(x, Voxels(6))
    assert torch.equal(x, kept)


def test_flat_is_zero() -> None:
    assert float(Flat().energy(noise(216), Voxels(6))) == 0


def test_ridge_is_half_the_square_over_the_variance() -> None:
    x = torch.zeros(64, dtype=torch.float64)
    x[:3] = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    assert float(Ridge(4.0).energy(x, Voxels(4))) == pytest.approx(14 / 8, rel=1e-14)


@pytest.mark.parametrize("box", [5, 6])
def test_shells_equals_the_sum_by_hand(box: int) -> None:
    """Frequency by frequency, with the transform written out as numpy's and the centre at box // 2."""
    import numpy as np

    tau2 = (3.0, 2.0, 0.5)
    values = noise(box, box, box)
    spectrum = np.fft.fftn(values.numpy()) / box  # where the centre is changes phases only
    expected = 0.0
    for index in np.ndindex(box, box, box):
        q = [(i + box // 2) % box - box // 2 for i in index]
        shell = round(float(np.linalg.norm(q)))
        expected += abs(spectrum[index]) ** 2 / (2 * tau2[min(shell, 2)])
    assert float(Shells(tau2).energy(values.flatten(), Voxels(box))) == pytest.approx(expected, rel=1e-12)


def test_shells_of_one_value_is_a_ridge_on_the_voxels() -> None:
    """Parseval: sum |fft3|^2 = N sum V^2."""
    x = noise(216)
    assert float(Shells((6.0,)).energy(x, Voxels(6))) == pytest.approx(float(Ridge(1.0).energy(x, Voxels(6))))


@pytest.mark.parametrize(("name", "prior"), [(n, p) for n, p in ROWS.items() if isinstance(p, Shells)])
@pytest.mark.parametrize("box", [7, 8])
def test_draws_from_shells_have_half_a_unit_of_energy_per_coefficient(name: str, prior: Shells, box: int) -> None:
    """2 E follows chi^2 with n = box^3 degrees of freedom: 60 draws, five standard errors."""
    tau2 = torch.tensor(prior.tau2, dtype=torch.float64)
    draws = [spectral(box, tau2, seed) for seed in range(60)]
    mean = sum(float(prior.energy(v.flatten(), Voxels(box))) for v in draws) / 60
    n = box**3
    assert abs(mean - n / 2) < 5 * (n / 2 / 60) ** 0.5


def test_draws_from_a_ridge_have_half_a_unit_of_energy_per_coefficient() -> None:
    mean = sum(float(Ridge(9.0).energy(3 * noise(216, seed=s), Voxels(6))) for s in range(60)) / 60
    assert abs(mean - 108) < 5 * (108 / 60) ** 0.5


@pytest.mark.parametrize("box", [11, 16])
def test_globular_draws_have_the_power_that_was_asked_for(box: int) -> None:
    tau2 = torch.tensor(globular(box, 40.0).tau2, dtype=torch.float64)
    assert len(tau2) == (box - 1) // 2 + 1
    assert bool((tau2.diff() < 0).all())
    powers = [float(spectral(box, tau2, s).sum(0).square().sum()) for s in range(400)]
    mean = sum(powers) / 400
    spread = (sum((p - mean) ** 2 for p in powers) / 400) ** 0.5
    assert abs(mean - 40) < 5 * spread / 20
    assert spread < 40  # the bound above is no more than a quarter of the power


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Ridge(0.0), "variance must be positive; got 0.0"),
        (lambda: Ridge(-1.0), "variance must be positive; got -1.0"),
        (lambda: Ridge(float("nan")), "variance must be positive; got nan"),
        (lambda: Shells(()), "tau2 must hold a positive value"),
        (lambda: Shells((1.0, 0.0)), "tau2 must hold a positive value"),
        (lambda: Shells((1.0, float("nan"))), "tau2 must hold a positive value"),
        (lambda: globular(8, 0.0), "must .*positive"),
        (lambda: globular(8, -1.0), "must .*positive"),
    ],
)
def test_bad_arguments_raise_one_line(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert "got" in str(caught.value)
