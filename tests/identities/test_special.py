"""Bessel functions, spherical harmonics and their rotation matrices, against definitions and group laws."""

from __future__ import annotations

import math

import pytest

from unpicked._lazy import torch
from unpicked.ops import rotation, special

LMAX = 20


def unit_vectors(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return vectors / vectors.norm(dim=-1, keepdim=True)


def block(values: torch.Tensor, degree: int) -> torch.Tensor:
    return values[..., degree**2 : (degree + 1) ** 2]


def turn_error(rotations: torch.Tensor) -> float:
    """Largest entry of S(R p) - D(R) S(p) over all degrees."""
    points = unit_vectors(30)
    turned = special.spherical_harmonics(LMAX, points @ rotations.mT)
    fixed = special.spherical_harmonics(LMAX, points)
    matrices = special.wigner_d(LMAX, rotations)
    return max(float((block(turned, n) - block(fixed, n) @ matrices[n].mT).abs().max()) for n in range(LMAX + 1))


def test_bessel_zeros() -> None:
    assert torch.allclose(special.spherical_bessel_zeros(0, 6), math.pi * torch.arange(1.0, 7.0).double(), rtol=1e-15)
    # tan x = x for degree 1; DLMF 10.58: other degrees against their own function
    assert abs(float(special.spherical_bessel_zeros(1, 1)[0]) - 4.493409457909064) < 1e-12
    assert abs(float(special.spherical_bessel_zeros(10, 1)[0]) - 15.033469303743419) < 1e-12
    for order in (2, 7, 20):
        zeros = special.spherical_bessel_zeros(order, 8)
        slope = special.spherical_bessel(order + 1, zeros)
        assert float((special.spherical_bessel(order, zeros) / slope).abs().max()) < 1e-12
        assert (zeros.diff() > math.pi).all()
        lower = special.spherical_bessel_zeros(order - 1, 9)
        assert ((lower[:-1] < zeros) & (zeros < lower[1:])).all()


def test_bessel_zeros_agree_with_mpmath() -> None:
    mpmath = pytest.importorskip("mpmath", reason="mpmath is not installed")
    for order in (1, 6, 13):
        expected = [float(mpmath.besseljzero(order + 0.5, s)) for s in (1, 2, 5)]
        assert torch.allclose(
            special.spherical_bessel_zeros(order, 5)[[0, 1, 4]],
            torch.tensor(expected, dtype=torch.float64),
            rtol=0,
            atol=1e-12,
        )


def test_bessel_values() -> None:
    x = torch.tensor([0.0, 1e-300, 1e-12, 1e-3, 0.7, 3.0, 40.0], dtype=torch.float64)
    assert torch.allclose(special.spherical_bessel(0, x)[1:], x[1:].sin() / x[1:], rtol=1e-14, atol=0)
    assert special.spherical_bessel(0, x)[0] == 1 and special.spherical_bessel(4, x)[0] == 0
    for order in range(1, 12):  # leading terms of the series: x^l / (2 l + 1)!! (1 - x^2 / (2 (2 l + 3)))
        small = torch.tensor([1e-6, 1e-3], dtype=torch.float64)
        lead = small**order / math.prod(range(1, 2 * order + 2, 2)) * (1 - small**2 / (4 * order + 6))
        assert torch.allclose(special.spherical_bessel(order, small), lead, rtol=1e-12, atol=0)
        large = x[4:]
        ends = special.spherical_bessel(order - 1, large) + special.spherical_bessel(order + 1, large)
        assert torch.allclose(ends, (2 * order + 1) / large * special.spherical_bessel(order, large), atol=1e-14)
    assert special.spherical_bessel(2, x.float().reshape(1, -1)).dtype == torch.float32


@pytest.mark.parametrize("call", [(-1, 3), (2, 0)])
def test_bessel_errors(call: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        special.spherical_bessel_zeros(*call)
    with pytest.raises(ValueError, match="negative"):
        special.spherical_bessel(1, torch.tensor([-1.0]))
    with pytest.raises(ValueError, match="order"):
        special.spherical_bessel(-1, torch.tensor([1.0]))


def test_harmonics_low_degrees() -> None:
    points = unit_vectors(7).reshape(7, 1, 3)
    x, y, z = points.unbind(-1)
    a, b = math.sqrt(3 / (4 * math.pi)), math.sqrt(15 / (4 * math.pi))
    expected = [
        torch.full_like(x, math.sqrt(1 / (4 * math.pi))),
        *(a * y, a * z, a * x),
        *(
            b * x * y,
            b * y * z,
            math.sqrt(5 / (16 * math.pi)) * (3 * z**2 - 1),
            b * x * z,
            b / 2 * (x**2 - y**2),
        ),
    ]
    assert torch.allclose(special.spherical_harmonics(2, points), torch.stack(expected, -1), atol=1e-14)


def test_harmonics_are_orthonormal() -> None:
    nodes, weights = (torch.tensor(v) for v in pytest.importorskip("scipy.special").roots_legendre(LMAX + 1))
    phi = torch.arange(2 * LMAX + 1, dtype=torch.float64) * 2 * math.pi / (2 * LMAX + 1)
    sine = (1 - nodes**2).sqrt()[:, None]
    points = torch.stack([sine * phi.cos(), sine * phi.sin(), nodes[:, None].expand(-1, len(phi))], -1)
    values = special.spherical_harmonics(LMAX, points).flatten(0, 1)
    weight = (weights * 2 * math.pi / len(phi)).repeat_interleave(len(phi))
    gram = values.mT @ (values * weight[:, None])
    assert torch.allclose(gram, torch.eye((LMAX + 1) ** 2, dtype=torch.float64), atol=1e-12)


def test_harmonics_at_the_poles() -> None:
    poles = torch.tensor([[0.0, 0, 1], [0, 0, -1]], dtype=torch.float64, requires_grad=True)
    values = special.spherical_harmonics(LMAX, poles)
    for degree in range(LMAX + 1):
        expected = torch.zeros(2, 2 * degree + 1, dtype=torch.float64)
        expected[:, degree] = math.sqrt((2 * degree + 1) / (4 * math.pi))
        expected[1] *= (-1) ** degree
        assert torch.allclose(block(values, degree), expected, atol=1e-12)
    (gradient,) = torch.autograd.grad(values.square().sum(), poles)
    assert gradient.isfinite().all()


def test_harmonics_errors() -> None:
    with pytest.raises(ValueError, match="vectors"):
        special.spherical_harmonics(2, torch.zeros(3, 2))
    with pytest.raises(ValueError, match="lmax"):
        special.spherical_harmonics(-1, torch.zeros(3))


def test_wigner_turns_the_harmonics() -> None:
    rotations = rotation.random_rotations(12, torch.Generator().manual_seed(1))
    assert turn_error(rotations) < 1e-12
    assert special.wigner_d(1, rotations)[0].shape == (12, 1, 1)


@pytest.mark.parametrize("tilt", [0.0, 1e-12, 1e-9, 1e-7, 1e-4, 90.0, 180 - 1e-7, 180 - 1e-10, 180.0])
def test_wigner_at_the_poles_of_the_euler_angles(tilt: float) -> None:
    angles = torch.tensor([[33.0, tilt, 71.0], [0.0, tilt, 0.0], [200.0, tilt, -140.0]], dtype=torch.float64)
    assert turn_error(rotation.euler_to_matrix(angles)) < 1e-12


def test_wigner_is_a_representation() -> None:
    generator = torch.Generator().manual_seed(2)
    first, second = rotation.random_rotations(10, generator), rotation.random_rotations(10, generator)
    products = special.wigner_d(LMAX, first @ second)
    for a, b, c in zip(special.wigner_d(LMAX, first), special.wigner_d(LMAX, second), products, strict=True):
        assert torch.allclose(a @ b, c, atol=1e-12)
        assert torch.allclose(a @ a.mT, torch.eye(a.shape[-1], dtype=a.dtype).expand_as(a), atol=1e-12)
    for degree, one in enumerate(special.wigner_d(LMAX, torch.eye(3, dtype=torch.float64))):
        assert torch.allclose(one, torch.eye(2 * degree + 1, dtype=torch.float64), atol=1e-12)


def test_wigner_batched_looped_and_float32() -> None:
    rotations = rotation.random_rotations(6, torch.Generator().manual_seed(3)).reshape(2, 3, 3, 3)
    batched = special.wigner_d(5, rotations)
    looped = special.wigner_d(5, rotations[1, 2])
    single = special.wigner_d(5, rotations.float())
    for a, b, c in zip(batched, looped, single, strict=True):
        assert torch.allclose(a[1, 2], b, atol=1e-14)
        assert c.dtype == torch.float32 and torch.allclose(c.double(), a, atol=5e-6)


def test_wigner_by_turns_equals_wigner_by_quadrature() -> None:
    poles = torch.tensor([[0.0, 0.0, 0.0], [30.0, 0.0, 10.0], [30.0, 180.0, 10.0], [0.0, 1e-7, 0.0]])
    generator = torch.Generator().manual_seed(3)
    rotations = torch.cat([rotation.random_rotations(5, generator), rotation.euler_to_matrix(poles.double())])
    turned, direct = special.wigner(LMAX, rotations), special.wigner_d(LMAX, rotations)
    assert len(turned) == LMAX + 1
    for ours, expected in zip(turned, direct, strict=True):
        assert ours.shape == expected.shape
        assert torch.allclose(ours, expected, atol=1e-12)
    assert all(matrix.dtype == torch.float64 for matrix in special.wigner(2, rotations.float()))


@pytest.mark.parametrize("start", [[0.0, 0.0, 0.0], [0.3, -1.0, 0.4], [math.pi, 0.0, 0.0]])
def test_wigner_gradient_is_finite_and_right(start: list[float]) -> None:
    base = rotation.exp_map(torch.tensor(start, dtype=torch.float64))

    def function(vector: torch.Tensor) -> torch.Tensor:
        return torch.cat([d.flatten() for d in special.wigner_d(3, rotation.exp_map(vector) @ base)])

    zero = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (zero,), eps=1e-6, atol=1e-7)


def test_wigner_errors() -> None:
    with pytest.raises(ValueError, match="rotations"):
        special.wigner_d(2, torch.zeros(3))
    with pytest.raises(ValueError, match="lmax"):
        special.wigner_d(-1, torch.eye(3))


def test_constants_made_in_inference_mode_can_be_trained_on() -> None:
    with torch.inference_mode():
        special.wigner_d(7, torch.eye(3, dtype=torch.float64))
    vectors = unit_vectors(2).requires_grad_()
    special.spherical_harmonics(7, vectors).sum().backward()
    rotations = torch.eye(3, dtype=torch.float64, requires_grad=True)
    torch.stack([d.sum() for d in special.wigner_d(7, rotations)]).sum().backward()
    assert rotations.grad is not None and rotations.grad.isfinite().all()
