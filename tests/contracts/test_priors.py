"""The contract of every prior: adding a prior means adding one row to ROWS."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import pytest
import torch

from unpicked.objects.ball import Ball
from unpicked.objects.base import Object, Volume
from unpicked.objects.gaussians import Gaussians
from unpicked.objects.voxels import Voxels
from unpicked.ops import fourier, rotation
from unpicked.priors import (
    Both,
    Denoiser,
    Flat,
    Mass,
    Positive,
    Prior,
    Ridge,
    Shells,
    Smooth,
    Subspace,
    Support,
    Symmetric,
    Wilson,
    constraints,
    data_share,
    expected_error,
    gaussian,
    globular,
    group,
    learned,
    log_evidence,
    precision,
    unmoved,
    wilson,
)
from unpicked.simulate.phantom import bead_chain

Tensor = torch.Tensor


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spectral(box: int, variances: Tensor, seed: int) -> Tensor:
    """A volume whose fft3 has the given expected square at every shell (beyond the last: the last)."""
    white = fourier.fft3(noise(box, box, box, seed=seed)) / box**0.5  # fft3 of white noise has E|F|^2 = N
    index = fourier.shells(white.shape).clamp(max=len(variances) - 1)
    return fourier.ifft3(white * variances[index].sqrt())


def blurred(values: Tensor) -> Tensor:
    """A denoiser that is linear, symmetric and never expands: neighbours on the torus lend a sixth."""
    near = sum(values.roll(shift, axis) for axis in range(values.dim()) for shift in (-1, 1))
    return values / 2 + near / (4 * values.dim())


def shrunk(values: Tensor) -> Tensor:
    """A denoiser that is smooth and not linear: large values are kept, small ones halved."""
    return values - values.tanh() / 2


@dataclass(frozen=True)
class Related:
    """Volumes like five random ones, on the grid of whichever object."""

    quadratic: ClassVar[bool] = True

    def on(self, object: Object) -> Subspace:
        return _related(object.shape)

    def energy(self, x: Tensor, object: Object) -> Tensor:
        return self.on(object).energy(x, object)

    def curvature(self, x: Tensor, object: Object) -> Tensor:
        return self.on(object).curvature(x, object)


@cache
def _related(shape: tuple[int, ...]) -> Subspace:
    return Subspace(noise(5, *shape, seed=3) + 2, 1.5, Wilson(0.3, 1.3))


ROWS: dict[str, Prior] = {
    "flat": Flat(),
    "ridge": Ridge(2.5),
    "shells, fewer than the box has": Shells((3.0, 0.5)),
    "shells": Shells((3.0, 2.0, 1.0, 0.1)),
    "shells, more than the box has": Shells(tuple(1 / (1 + k) for k in range(30))),
    "globular": globular(8, 40.0),
    "wilson": Wilson(2.0, 1.3),
    "smooth": Smooth(2.0, 1.5),
    "wilson, no blob, no correlation": Wilson(2.0, 1.3, correlation=0.0, blob=0.0),
    "support": Support(1.8, 0.3),
    "positive": Positive(0.1),
    "mass": Mass(3.0, 0.5),
    "subspace": Related(),
    "both, with a subspace": Both((Related(), Positive(0.3))),
    "symmetric C1": Symmetric("C1", 0.5),
    "symmetric C3": Symmetric("C3", 0.5),
    "symmetric C4": Symmetric("C4", 0.5),
    "symmetric D2": Symmetric("D2", 0.5),
    "both, quadratic": Both((Wilson(2.0, 1.3), Support(1.8, 0.3))),
    "both, not quadratic": Both((Ridge(2.0), Positive(0.3))),
    "denoiser, linear": Denoiser(blurred, 3.0),
    "denoiser, not linear": Denoiser(shrunk, 0.5),
    "denoiser of an array": Denoiser(lambda values: blurred(values).numpy(), 3.0, scale=2.0, name="array"),
    "both, with a denoiser": Both((Ridge(2.0), Denoiser(blurred, 3.0))),
}
ELSEWHERE = [prior for name, prior in ROWS.items() if "mass" in name]  # not centred at zero
OBJECTS: dict[str, Object] = {"voxels even": Voxels(6), "voxels odd": Voxels(5), "ball": Ball(6, 3)}
every = pytest.mark.parametrize("prior", ROWS.values(), ids=ROWS.keys())
QUADRATIC = {name: prior for name, prior in ROWS.items() if prior.quadratic}
every_quadratic = pytest.mark.parametrize("prior", QUADRATIC.values(), ids=QUADRATIC.keys())
with_object = pytest.mark.parametrize("object", OBJECTS.values(), ids=OBJECTS.keys())


@every
@with_object
def test_energy_is_a_finite_scalar_that_is_never_negative(prior: Prior, object: Object) -> None:
    for scale in (1e-6, 1.0, 1e6):
        energy = prior.energy(scale * noise(object.size), object)
        assert energy.shape == ()
        assert 0 <= float(energy) < float("inf")
    nothing = float(prior.energy(torch.zeros(object.size, dtype=torch.float64), object))
    assert nothing > 0 if prior in ELSEWHERE else nothing == 0


@every
@with_object
def test_energy_is_differentiable(prior: Prior, object: Object) -> None:
    x = noise(object.size).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: prior.energy(y, object), (x,), fast_mode=True)
    (gradient,) = torch.autograd.grad(prior.energy(x, object), x)
    assert gradient.shape == x.shape
    assert bool(gradient.isfinite().all())


@every_quadratic
@with_object
def test_a_quadratic_energy_scales_with_the_square(prior: Prior, object: Object) -> None:
    x = noise(object.size)
    for factor in (-1.0, 0.5, 3.0):
        scaled = float(prior.energy(factor * x, object))
        assert scaled == pytest.approx(factor**2 * float(prior.energy(x, object)), rel=1e-12)


@every_quadratic
@with_object
def test_a_quadratic_energy_obeys_the_parallelogram_law(prior: Prior, object: Object) -> None:
    a, b = noise(2, object.size)
    left = prior.energy(a + b, object) + prior.energy(a - b, object)
    right = 2 * prior.energy(a, object) + 2 * prior.energy(b, object)
    assert float(left) == pytest.approx(float(right), rel=1e-12)


@every_quadratic
@with_object
def test_the_gradient_of_a_quadratic_energy_is_linear_and_symmetric(prior: Prior, object: Object) -> None:
    """What the M-step relies on: x -> grad E(x) is a symmetric linear map A, and E = x^T A x / 2."""

    def gradient(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(prior.energy(x, object), x)[0]

    a, b = noise(2, object.size)
    tolerance = 1e-10 * max(1.0, float(gradient(a).abs().max()) / 1e3)
    assert torch.allclose(gradient(2 * a - b), 2 * gradient(a) - gradient(b), rtol=0, atol=tolerance)
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


@every
@with_object
def test_the_precision_is_the_hessian(prior: Prior, object: Object) -> None:
    """x^T P x / 2 is a quadratic energy; otherwise P is the slope of the gradient, and nowhere negative."""
    x = noise(object.size)
    hessian = precision(prior, object, x)
    scale = max(1.0, float(hessian.abs().max()))
    assert torch.equal(hessian, hessian.mT)
    assert float(torch.linalg.eigvalsh(hessian).min()) > -1e-10 * scale
    if prior.quadratic:
        assert float(x @ hessian @ x) / 2 == pytest.approx(float(prior.energy(x, object)), rel=1e-9, abs=1e-12)
        assert torch.allclose(precision(prior, object, 3 * x + 1), hessian, rtol=0, atol=1e-12 * scale)
    else:
        gradient = torch.func.grad(lambda y: prior.energy(y, object))
        step = 1e-7 * noise(object.size, seed=1)
        assert torch.allclose(gradient(x + step) - gradient(x), hessian @ step, rtol=1e-4, atol=1e-9)


@with_object
def test_the_curvature_of_positivity_is_that_of_automatic_differentiation(
    object: Object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The basis that is kept is a way to be fast; beyond its limit there is another."""
    x, prior = noise(object.size), Positive(0.3)
    fast = precision(prior, object, x)
    monkeypatch.setattr(constraints, "_HELD", 0)
    assert torch.allclose(precision(prior, object, x), fast, rtol=0, atol=1e-12 * float(fast.abs().max()))


@every
def test_the_first_call_may_come_from_inside_a_transform(prior: Prior) -> None:
    """Constants made inside torch.func.grad or inference mode are good for later calls outside."""
    gaussian._parts.cache_clear()
    gaussian._factor.cache_clear()
    gaussian._inverse.cache_clear()
    constraints._planar.cache_clear()
    points = 1.5 * noise(5, 3)
    for object in (Voxels(6), Gaussians(6, points, torch.ones(5, dtype=torch.float64))):
        x = noise(object.size)
        with torch.inference_mode():
            prior.energy(x.float(), object)
        inner = torch.func.grad(lambda y, object=object: prior.energy(y, object))(x)
        x.requires_grad_()
        (outer,) = torch.autograd.grad(prior.energy(x, object), x)
        assert torch.equal(inner, outer)
        prior.energy(x.float(), object).backward()


# Wilson


def covariance(prior: Wilson, object: Object) -> Tensor:
    root = prior.root(torch.eye(object.size, dtype=torch.float64), object)  # rows L e_i
    return root.mT @ root


def wilson_by_hand(prior: Wilson, box: int, count: int) -> Tensor:
    """Draws of e (m + g), by the definition, without the floor."""
    dims = (1, 2, 3)
    level, white = noise(count, 1, 1, 1), noise(count, box, box, box, seed=1)
    grid = torch.meshgrid(*[torch.fft.fftfreq(box, dtype=torch.float64)] * 3, indexing="ij")
    gain = torch.exp(-2 * (torch.pi * prior.correlation) ** 2 * torch.stack(grid).square().sum(0))
    g = torch.fft.ifftn(torch.fft.fftn(white, dim=dims) * gain, dim=dims).real / gain.square().mean().sqrt()
    envelope = torch.exp(-fourier.distances((box,) * 3).square() / (2 * prior.radius**2))
    return prior.variance**0.5 * envelope * (prior.blob**0.5 * level + g)


@pytest.mark.parametrize("box", [6, 7])
@pytest.mark.parametrize("blob", [0.0, 2.0])
def test_draws_from_wilson_are_those_of_its_definition(box: int, blob: float) -> None:
    """Voxel variances and the covariance of neighbours of 4,000 draws, six standard errors."""
    prior = Wilson(2.0, 1.5, 0.6, blob=blob, floor=1e-9)
    exact = covariance(prior, Voxels(box))
    draws = wilson_by_hand(prior, box, 4000).flatten(1)
    for shift in (0, 1, box, box**2):
        pairs = draws * draws.roll(-shift, 1)
        expected = torch.stack([exact[i, (i + shift) % box**3] for i in range(box**3)])
        error = pairs.std(0) / 4000**0.5
        assert bool(((pairs.mean(0) - expected).abs() < 6 * error + 1e-6).all())
    centre = (box // 2) * (box**2 + box + 1)
    assert float(exact[centre, centre]) == pytest.approx(2.0 * (1 + blob), rel=1e-6)


@with_object
@pytest.mark.parametrize("blob", [0.0, 3.0])
def test_wilson_precision_is_the_inverse_of_its_covariance(object: Object, blob: float) -> None:
    prior = Wilson(0.3, 1.4, 0.6, blob=blob)
    product = precision(prior, object, noise(object.size)) @ covariance(prior, object)
    assert torch.allclose(product, torch.eye(object.size, dtype=torch.float64), atol=1e-7)
    white = noise(object.size)
    energy = float(prior.energy(prior.root(white, object), object))
    assert energy == pytest.approx(float(white.square().sum()) / 2, rel=1e-8)


@pytest.mark.parametrize("box", [5, 6])
def test_wilson_of_a_ball_is_that_of_the_voxels_fitted(box: int) -> None:
    """The dense way and the way through transforms are one prior: F C F^T, and on voxels C itself."""
    prior, ball, voxels = Wilson(0.3, 1.4, 0.6, 2.0), Ball(box, 2), Voxels(box)
    full = covariance(prior, voxels)
    fitted = ball.fit(ball.fit(full.reshape(box**3, box, box, box)).mT.reshape(ball.size, box, box, box))
    assert torch.allclose(covariance(prior, ball), fitted, rtol=0, atol=1e-10)
    unit = replace(prior, variance=1.0)
    cpu = torch.device("cpu")
    lower, inverse = (make(unit, voxels, torch.float64, cpu) for make in (gaussian._factor, gaussian._inverse))
    assert torch.allclose(0.3 * lower @ lower.mT, full, rtol=0, atol=1e-12)
    x = noise(voxels.size)
    assert float(prior.energy(x, voxels)) == pytest.approx(float((inverse @ x).square().sum()) / 0.6, rel=1e-7)


@pytest.mark.parametrize("object", [Voxels(8), Voxels(9), Ball(8, 4)], ids=["even", "odd", "ball"])
def test_wilson_has_the_projected_power_that_was_asked_for(object: Volume) -> None:
    prior = wilson(object, 40.0)
    assert prior.radius == pytest.approx(0.2 * object.shape[0])
    views = rotation.random_rotations(40, torch.Generator().manual_seed(3))
    root = prior.root(torch.eye(object.size, dtype=torch.float64), object)
    project = object.projector(views).project
    power = sum(float(project(part).square().sum()) for part in root.split(64)) / len(views)
    assert power == pytest.approx(40, rel=0.02)
    assert wilson(object, 80.0).variance == pytest.approx(2 * prior.variance)


def test_wilson_leaves_the_blob_to_the_data() -> None:
    """The envelope itself costs less than one unit at its expected size; a rough field of that power, hundreds."""
    prior, object = wilson(Voxels(9), 1.0), Voxels(9)
    envelope = torch.exp(-fourier.distances(object.shape).square() / (2 * prior.radius**2)).flatten()
    blob = prior.variance**0.5 * envelope
    assert float(prior.energy(blob, object)) < 0.6
    rough = noise(object.size) * blob
    assert float(prior.energy(rough, object)) > 300


# constraints


def test_support_counts_the_voxels_outside() -> None:
    ones = torch.ones(343, dtype=torch.float64)
    outside = int((fourier.distances((7, 7, 7)) > 2.0).sum())
    assert outside == 343 - 33
    assert float(Support(2.0, 0.5).energy(ones, Voxels(7))) == pytest.approx(outside / (2 * 0.25))
    assert float(Support(6.0, 0.5).energy(ones, Voxels(7))) == 0


def test_positive_counts_the_negative_values() -> None:
    x = torch.zeros(64, dtype=torch.float64)
    x[:3] = torch.tensor([1.0, -2.0, -3.0], dtype=torch.float64)
    assert float(Positive(2.0).energy(x, Voxels(4))) == pytest.approx(13 / 8)
    assert float(Positive(2.0).energy(x.abs(), Voxels(4))) == 0


@pytest.mark.parametrize(("name", "count"), [("C1", 1), ("C2", 2), ("C7", 7), ("D1", 2), ("D3", 6), ("d4", 8)])
def test_group_is_a_group(name: str, count: int) -> None:
    turns = group(name)
    assert turns.shape == (count, 3, 3)
    assert torch.allclose(turns @ turns.mT, torch.eye(3, dtype=torch.float64).expand(count, 3, 3))
    assert torch.allclose(torch.linalg.det(turns), torch.ones(count, dtype=torch.float64))
    products = (turns[:, None] @ turns).reshape(-1, 9)
    distance = torch.cdist(products, turns.reshape(-1, 9))
    assert bool(((distance < 1e-6).sum(1) == 1).all())
    assert float(torch.cdist(turns.reshape(-1, 9), turns.reshape(-1, 9)).fill_diagonal_(9).min()) > 0.1 or count == 1
    assert torch.equal(turns[0], torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("box", [7, 8])
@pytest.mark.parametrize("name", ["C2", "C4", "D1", "D2", "D4"])
def test_symmetric_voxels_by_hand(name: str, box: int) -> None:
    """Quarter and half turns are permutations of the voxels (periodic on the first planes of an even box)."""
    values = noise(box, box, box)
    axis = torch.arange(box) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.stack([x, y, z], -1)
    turned = []
    for turn in group(name).round().long():
        a, b, c = ((points @ turn + box // 2) % box).unbind(-1)  # R^T p
        turned.append(values[c, b, a])
    mean = torch.stack(turned).mean(0)
    prior = Symmetric(name, 0.5)
    expected = float((values - mean).square().sum()) / (2 * 0.25)
    assert float(prior.energy(values.flatten(), Voxels(box))) == pytest.approx(expected, rel=1e-10)
    assert float(prior.energy(mean.flatten(), Voxels(box))) < 1e-20 * expected


@pytest.mark.parametrize("name", ["C3", "D3", "D5"])
def test_symmetric_ball_is_exact(name: str) -> None:
    ball = Ball(8, 4)
    x = noise(ball.size)
    mean = torch.stack([ball.rotate(x, turn) for turn in group(name)]).mean(0)
    prior = Symmetric(name, 0.5)
    assert float(prior.energy(x, ball)) == pytest.approx(2 * float(ball.values(x - mean).square().sum()), rel=1e-10)
    assert float(prior.energy(mean, ball)) < 1e-20 * float(prior.energy(x, ball))


@pytest.mark.parametrize("name", ["C3", "C5", "D3"])
@pytest.mark.parametrize("box", [11, 12])
def test_symmetric_voxels_at_other_angles(name: str, box: int) -> None:
    """Gaussian beads, symmetric and not: what interpolation leaves is below 1/300 of the asymmetry."""
    seed = torch.tensor([[2.2, 0.5, 1.1], [-0.8, 1.9, -1.6]], dtype=torch.float64)
    turns = group(name)
    copies = (seed @ turns.mT).reshape(-1, 3)
    width = torch.full((len(copies),), 0.9, dtype=torch.float64)
    beads = Gaussians(box, copies, width)
    even = beads.values(torch.ones(len(copies), dtype=torch.float64)).flatten()
    odd = beads.values(torch.linspace(0, 2, len(copies), dtype=torch.float64)).flatten()
    prior = Symmetric(name, 0.1)
    assert float(prior.energy(even, Voxels(box))) < 1 / 300 * float(prior.energy(odd, Voxels(box)))


# data against prior


def diagonal(object: Object, scale: float) -> Tensor:
    return scale * torch.eye(object.size, dtype=torch.float64)


@with_object
def test_data_share_of_multiples_of_the_identity(object: Object) -> None:
    for information, expected in ((0.0, 0.0), (1.0, 0.25), (2.0, 0.4), (4.0, 4 / 7)):
        share = data_share(object, diagonal(object, information), diagonal(object, 3.0))
        assert len(share) == (object.shape[0] - 1) // 2 + 1
        assert share == pytest.approx([expected] * len(share), abs=1e-12)


def test_data_share_of_shells_by_hand() -> None:
    """Fourier coefficients are independent: d = I / (I + N / tau^2), by Parseval N the box."""
    tau2, box = (6.0, 2.0, 0.5), 6
    prior = precision(Shells(tau2), Voxels(box), noise(box**3))
    share = data_share(Voxels(box), diagonal(Voxels(box), 0.7), prior)
    assert share == pytest.approx([0.7 / (0.7 + box / value) for value in tau2], rel=1e-10)


@with_object
def test_data_share_without_a_prior_or_without_data(object: Object) -> None:
    flat = precision(Flat(), object, noise(object.size))
    share = data_share(object, diagonal(object, 0.1), flat)
    assert share == pytest.approx([1.0] * len(share))
    proper = precision(Wilson(1.0, 1.3), object, noise(object.size))
    assert max(data_share(object, 0 * proper, proper)) == 0


def test_data_share_falls_where_the_prior_knows_more() -> None:
    """White data against Wilson: the outer shells come from the prior."""
    object = Ball(8, 5)
    prior = precision(wilson(object, 1.0, correlation=1.0), object, noise(object.size))
    share = data_share(object, diagonal(object, 300.0), prior)
    assert share[0] > 0.8
    assert share[-1] < share[0] - 0.2
    assert all(0 <= value <= 1 for value in share)


# evidence


def measured(object: Object, prior: Wilson, strength: float, seed: int) -> tuple[Tensor, Tensor]:
    """Information and pull of data about a draw from the prior: J of views with white noise, J x + J^1/2 noise."""
    seen = object.projector(rotation.super_fibonacci(40)).project(torch.eye(object.size, dtype=torch.float64))  # type: ignore[attr-defined]
    information = strength * seen.flatten(1) @ seen.flatten(1).mT / 40
    x = prior.root(noise(object.size, seed=seed), object)
    values, vectors = torch.linalg.eigh(information)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
    return information, information @ x + root @ noise(object.size, seed=seed + 1)


@pytest.mark.parametrize("object", [Voxels(4), Ball(6, 3)], ids=["voxels", "ball"])
@pytest.mark.parametrize("rank", [4, 500])
def test_log_evidence_in_closed_form(object: Object, rank: int) -> None:
    """h^T (J + P)^-1 h / 2 - (log det (J + P) - log det P) / 2."""
    prior = Wilson(0.4, 1.3, 0.6)
    scores = noise(rank, object.size)
    information, pull = scores.mT @ scores, 5 * noise(object.size, seed=2)
    before = precision(prior, object, pull)
    after = information + before
    expected = pull @ torch.linalg.solve(after, pull) / 2 - (torch.logdet(after) - torch.logdet(before)) / 2
    ours = log_evidence(prior, object, information, pull)
    assert ours == pytest.approx(float(expected), rel=1e-7)
    assert log_evidence(prior, object, 0 * information, 0 * pull) == 0


def test_log_evidence_is_an_integral_over_the_prior() -> None:
    """Mean of exp(h y - y^T J y / 2) over 200,000 draws from the prior, six standard errors."""
    object, prior = Gaussians(6, noise(3, 3), torch.ones(3, dtype=torch.float64)), Wilson(0.5, 1.5, 0.6)
    width = float(prior.root(torch.eye(3, dtype=torch.float64), object).norm())
    scores = noise(4, 3) / width
    information, pull = scores.mT @ scores, noise(3, seed=2) / width
    draws = prior.root(noise(200_000, 3, seed=5), object)
    values = (draws @ pull - 0.5 * ((draws @ scores.mT).square().sum(1))).exp()
    error = float(values.std()) / len(values) ** 0.5
    assert error < 0.02 * float(values.mean())
    exact = math.exp(log_evidence(prior, object, information, pull))
    assert abs(float(values.mean()) - exact) < 6 * error
    assert abs(exact - 1) > 10 * error  # there was something to integrate


@pytest.mark.parametrize(("radius", "correlation"), [(1.4, 0.9), (2.2, 0.6)])
def test_learned_finds_the_prior_of_strong_data(radius: float, correlation: float) -> None:
    ball = Ball(11, 8)
    true = wilson(ball, 40.0, radius, correlation=correlation)
    guess = wilson(ball, 25.0, 1.75, correlation=0.75)
    found = learned(guess, ball, *measured(ball, true, 300.0, 10))
    assert found.radius == pytest.approx(radius, rel=0.2)
    assert found.correlation == pytest.approx(correlation, rel=0.2)
    assert found.floor == guess.floor


def test_learned_raises_the_evidence() -> None:
    ball = Ball(8, 5)
    data = measured(ball, wilson(ball, 40.0, 1.2, correlation=0.9), 100.0, 4)
    guess = wilson(ball, 20.0)
    assert log_evidence(learned(guess, ball, *data), ball, *data) > log_evidence(guess, ball, *data) + 1


@pytest.mark.parametrize("prior", [Wilson(0.5, 1.3), Wilson(0.5, 1.3, 0.0, 0.0)], ids=["plain", "zeros stay zeros"])
def test_learned_without_data_is_the_prior_given(prior: Wilson) -> None:
    zero = torch.zeros(64, dtype=torch.float64)
    assert learned(prior, Voxels(4), torch.diag(zero), zero) == prior


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
        (lambda: Wilson(0.0, 1.0), "variance must be positive; got 0.0"),
        (lambda: Wilson(1.0, float("nan")), "radius must be positive; got nan"),
        (lambda: Wilson(1.0, 1.0, correlation=-0.1), "correlation must not be negative; got -0.1"),
        (lambda: Wilson(1.0, 1.0, blob=-1.0), "blob must not be negative"),
        (lambda: Wilson(1.0, 1.0, floor=0.0), "floor must be positive"),
        (
            lambda: Wilson(1.0, 1.0).energy(noise(4001), Gaussians(4, noise(4001, 3), torch.ones(4001))),
            "at most 4000 coefficients",
        ),
        (lambda: wilson(Voxels(6), 0.0), "power must be positive; got 0.0"),
        (lambda: wilson(Voxels(6), float("inf")), "power must be positive; got inf"),
        (lambda: Support(0.0, 1.0), "radius must be positive; got 0.0"),
        (lambda: Support(1.0, -1.0), "softness must be positive; got -1.0"),
        (lambda: Positive(0.0), "softness must be positive; got 0.0"),
        (lambda: Symmetric("C2", 0.0), "softness must be positive; got 0.0"),
        (lambda: Symmetric("X2", 1.0), 'group must be "Cn" or "Dn".*got \'X2\''),
        (lambda: group("C0"), "group must be"),
        (lambda: group("C"), "group must be"),
        (lambda: group("C2 "), "group must be"),
        (lambda: Both(()), "priors must be a tuple of at least one prior; got"),
        (lambda: precision(Flat(), Voxels(6), noise(5)), r"x must have shape \(216,\); got \(5,\)"),
        (lambda: data_share(Voxels(4), noise(4, 4), noise(64, 64)), r"information must have shape \(64, 64\); got"),
        (lambda: data_share(Voxels(4), 0 * noise(64, 64), 0 * noise(64, 64)), "must not both be zero; got"),
        (lambda: data_share(Voxels(4), noise(64, 64) / 0, noise(64, 64)), "information must be finite; got"),
    ],
)
def test_bad_arguments_raise_one_line(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert "got" in str(caught.value)


def test_expected_error_falls_with_the_data_and_a_turn_or_shift_is_no_error() -> None:
    ball = Ball(7, 4)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(ball.size, generator=generator, dtype=torch.float64)
    eye = torch.eye(ball.size, dtype=torch.float64)
    found = [expected_error(ball, x, weight * eye, eye) for weight in (0.0, 1.0, 3.0, 1e12)]
    values = ball.values(eye).flatten(1)
    whole = float((values.square().sum() / ball.values(x).square().sum()).sqrt())
    assert 0.9 * whole < found[0] < whole, "the prior's spread, less three turns and three shifts"
    assert found[1] == pytest.approx(found[0] / 2**0.5) and found[2] == pytest.approx(found[0] / 2)
    assert found[3] < 1e-5
    # what is known but for turns, or but for shifts, has no error
    compact = ball.fit(bead_chain(7, 0).truth().values.double())
    turn = (ball.rotate(compact, torch.linalg.matrix_exp(1e-5 * SPIN)) - compact) / 1e-5
    step = torch.tensor([1e-4, 0.0, 0.0], dtype=torch.float64)
    points = (torch.stack(torch.meshgrid(*[torch.arange(7.0)] * 3, indexing="ij"), -1) - 3).flip(-1).double()
    moved = ball.evaluate(compact, points.reshape(-1, 3) + step) - ball.evaluate(compact, points.reshape(-1, 3) - step)
    shift = ball.fit(moved.reshape(7, 7, 7)) / 2e-4
    basis, left = unmoved(ball, compact)
    for move, most in ((turn, 1e-3), (shift, 0.25)):  # the rest no coefficient can say
        assert float((move @ left).norm()) < most * float((move @ basis).norm())
    blind = 1e9 * (eye - torch.outer(turn, turn) / turn.dot(turn))
    assert expected_error(ball, compact, blind, 1e-3 * eye / float(compact.square().mean())) < 1e-2


def test_expected_error_may_leave_out_what_lies_far_from_the_centre() -> None:
    ball = Ball(7, 4)
    x = torch.randn(ball.size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    eye = torch.eye(ball.size, dtype=torch.float64)
    whole = expected_error(ball, x, eye, eye)
    assert expected_error(ball, x, eye, eye, within=7.0) == pytest.approx(whole)
    assert expected_error(ball, x, eye, eye, within=2.0) != pytest.approx(whole, rel=1e-3)


SPIN = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
