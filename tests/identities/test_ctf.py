"""The contrast transfer function: values and identities of docs/conventions.md, section 7 and rows 15-18."""

from __future__ import annotations

import math

import pytest

from unpicked._lazy import torch
from unpicked.ops import ctf, fourier, window

KRIOS = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1}


def radial(s: torch.Tensor | float, defocus: float = 1e4, **optics: float) -> torch.Tensor:
    sx = torch.as_tensor(s, dtype=torch.float64)
    both = {"defocus_u": defocus, "defocus_v": defocus}
    return ctf.ctf(sx, torch.zeros_like(sx), **(KRIOS | both | optics))


def test_wavelengths() -> None:
    expected = {80: 0.041756, 100: 0.037013, 120: 0.033491, 200: 0.025079, 300: 0.019687}
    found = ctf.electron_wavelength(list(expected))
    assert torch.allclose(found, torch.tensor(list(expected.values()), dtype=torch.float64), rtol=0, atol=1.1e-6)
    assert ctf.electron_wavelength(torch.tensor(300)).dtype == torch.float64


def test_values_of_the_conventions() -> None:
    assert abs(float(radial(0.0)) - 0.1) < 1e-12
    assert abs(float(radial(0.0, phase_shift=90.0)) - math.sqrt(1 - 0.01)) < 1e-12
    assert abs(float(radial(1 / 20)) - 0.9973) < 5e-5
    s = torch.linspace(1 / 20, 1 / 10, 200001, dtype=torch.float64)
    zero = 1 / float(s[(radial(s) < 0).nonzero()[0, 0]])
    assert abs(zero - 14.24) < 5e-3
    assert (radial(torch.linspace(0, 1 / 14.3, 100)) > 0).all()  # matter is bright at low frequency


def test_closed_form() -> None:
    s, wavelength = 0.21, float(ctf.electron_wavelength(200.0))
    chi = math.pi * wavelength * 7e3 * s**2 - math.pi / 2 * 1.1e7 * wavelength**3 * s**4 + math.radians(35)
    expected = 0.8 * math.exp(-60 * s**2 / 4) * math.sin(chi + math.asin(0.07))
    optics = {"voltage_kv": 200.0, "cs_mm": 1.1, "amplitude_contrast": 0.07, "phase_shift": 35.0}
    assert abs(float(radial(s, 7e3, b_factor=60.0, scale=0.8, **optics)) - expected) < 1e-12


def test_astigmatism() -> None:
    direction = torch.deg2rad(torch.tensor([30.0, 120.0, 75.0], dtype=torch.float64))
    sx, sy = 0.09 * direction.cos(), 0.09 * direction.sin()
    pair = {"defocus_u": 12000.0, "defocus_v": 8000.0, "astigmatism_angle": 30.0}
    found = ctf.ctf(sx, sy, **KRIOS, **pair)
    expected = torch.stack([radial(0.09, 12000.0), radial(0.09, 8000.0), radial(0.09, 10000.0)])
    assert torch.allclose(found, expected, atol=1e-9)
    swapped = {"defocus_u": 8000.0, "defocus_v": 12000.0, "astigmatism_angle": 120.0}
    shape = (9, 12)
    assert torch.allclose(
        ctf.ctf_grid(shape, 2.0, **KRIOS, **pair), ctf.ctf_grid(shape, 2.0, **KRIOS, **swapped), atol=1e-9
    )


def test_finite_gradients_at_the_singular_places() -> None:
    u, v, angle = (torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in (1e4, 1e4, 20.0))
    sx = torch.tensor([0.0, 0.05], dtype=torch.float64, requires_grad=True)
    sy = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def function(*values: torch.Tensor) -> torch.Tensor:
        u, v, angle, sx, sy = values
        return ctf.ctf(sx, sy, defocus_u=u * 1e4, defocus_v=v * 1e4, astigmatism_angle=angle, **KRIOS)

    inputs = ((u / 1e4).detach().requires_grad_(), (v / 1e4).detach().requires_grad_(), angle, sx, sy)
    gradients = torch.autograd.grad(function(*inputs).sum(), inputs)
    assert all(g.isfinite().all() for g in gradients)
    assert torch.autograd.gradcheck(function, inputs, eps=1e-7, atol=1e-5)


def test_turning_the_content_turns_the_optics() -> None:
    generator = torch.Generator().manual_seed(0)
    sx, sy = 0.2 * torch.randn(2, 50, generator=generator, dtype=torch.float64)
    theta = math.radians(25)
    pair = {"defocus_u": 15000.0, "defocus_v": 11000.0}
    turned = ctf.ctf(
        sx * math.cos(theta) - sy * math.sin(theta),
        sx * math.sin(theta) + sy * math.cos(theta),
        astigmatism_angle=10.0 + 25.0,
        **KRIOS,
        **pair,
    )
    assert torch.allclose(turned, ctf.ctf(sx, sy, astigmatism_angle=10.0, **KRIOS, **pair), atol=1e-9)


def test_batches_and_dtypes() -> None:
    u = torch.tensor([[8000.0, 9000.0, 10000.0]])
    angle = torch.tensor([[0.0], [40.0]])
    optics = {"defocus_v": 9500.0, **KRIOS}
    many = ctf.ctf_grid((6, 5), 3.0, defocus_u=u, astigmatism_angle=angle, **optics)
    assert many.shape == (2, 3, 6, 5) and many.dtype == torch.float64
    one = ctf.ctf_grid((6, 5), 3.0, defocus_u=10000.0, astigmatism_angle=40.0, **optics)
    assert torch.allclose(many[1, 2], one, atol=1e-12)
    assert ctf.ctf_grid((6, 5), 3.0, defocus_u=1e4, dtype=torch.float32, **optics).dtype == torch.float32
    sy, sx = torch.meshgrid(*(fourier.frequencies(n) / (3.0 * n) for n in (6, 5)), indexing="ij")
    single = ctf.ctf(sx, sy, defocus_u=[10000.0], astigmatism_angle=(40.0,), **optics)
    assert single.dtype == torch.float32 and torch.allclose(single[0].double(), one, atol=1e-4)


def test_grid_is_dc_first_and_x_is_the_last_axis() -> None:
    pair = {"defocus_u": 12000.0, "defocus_v": 8000.0, "astigmatism_angle": 0.0}
    grid = ctf.ctf_grid((8, 10), 2.5, **KRIOS, **pair)
    assert abs(float(grid[0, 0]) - 0.1) < 1e-12
    assert torch.allclose(grid[0, 3], radial(3 / 25.0, 12000.0)) and torch.allclose(grid[0, -3], grid[0, 3])
    assert torch.allclose(grid[2, 0], radial(2 / 20.0, 8000.0))


def gaussian(side: int, sigma: float) -> torch.Tensor:
    distance = fourier.distances((side, side))
    return torch.exp(-((distance / sigma) ** 2) / 2)


def blur(image: torch.Tensor, pad: int, pixel: float, defocus: float) -> torch.Tensor:
    side = image.shape[-1]
    padded = window.crop_or_pad(image, (side * pad, side * pad))
    values = ctf.ctf_grid((side * pad,) * 2, pixel, defocus_u=defocus, defocus_v=defocus, **KRIOS)
    return window.crop_or_pad(fourier.ifft2(fourier.fft2(padded) * values), (side, side))


@pytest.mark.parametrize("side", [96, 97])
def test_padding(side: int) -> None:
    # lambda z s is 5 angstrom at s = 1 / 20, far inside a box of 192 angstrom
    image = gaussian(side, 6.0)
    near, far = blur(image, 1, 2.0, 5000.0), blur(image, 3, 2.0, 5000.0)
    assert float((near - far).norm() / far.norm()) < 1e-3
    # 100 times the defocus: the tails leave the box, and the circular model folds them back
    near, far = blur(image, 1, 2.0, 5e5), blur(image, 3, 2.0, 5e5)
    assert float((near - far).norm() / far.norm()) > 0.05


def test_errors_are_one_line() -> None:
    zero = torch.zeros(3)
    good = {"defocus_u": 1e4, "defocus_v": 1e4} | KRIOS
    bad = [
        ({"voltage_kv": 0.0}, "voltage_kv"),
        ({"voltage_kv": 300000.0}, "voltage_kv"),
        ({"amplitude_contrast": [0.1, 1.2]}, "amplitude_contrast"),
        ({"defocus_u": [1.0, 2.0], "defocus_v": [1.0, 2.0, 3.0]}, "broadcast"),
    ]
    for change, match in bad:
        with pytest.raises(ValueError, match=match) as caught:
            ctf.ctf(zero, zero, **(good | change))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="one shape"):
        ctf.ctf(zero, torch.zeros(2), **good)
    with pytest.raises(ValueError, match="pixel_size"):
        ctf.ctf_grid((4, 4), 0.0, **good)
    with pytest.raises(ValueError, match="shape"):
        ctf.ctf_grid((0, 4), 1.0, **good)
