"""Slices by gridding: exact Gaussians, adjoints, slopes, the kernel of the normal operator."""

import math

import pytest
import torch

from unpicked.objects.gaussians import Gaussians
from unpicked.ops import gridding, rotation, seeding
from unpicked.ops.band import Band
from unpicked.ops.gridding import Cube


def molecule(box: int, seed: int = 1) -> tuple[Gaussians, torch.Tensor]:
    generator = seeding.generator(seed, "beads")
    places = (torch.rand(40, 3, generator=generator, dtype=torch.float64) - 0.5) * 0.45 * box
    weights = torch.rand(40, generator=generator, dtype=torch.float64)
    return Gaussians(box, places, torch.full((40,), 1.7, dtype=torch.float64)), weights


def turns(count: int, seed: int = 2) -> torch.Tensor:
    return rotation.random_rotations(count, seeding.generator(seed, "views"))


def part(error: torch.Tensor, of: torch.Tensor) -> float:
    return float(error.abs().norm() / of.abs().norm())


@pytest.mark.parametrize(("box", "radius"), [(32, 15), (33, 16), (32, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slices_of_gaussians(box: int, radius: int, dtype: torch.dtype) -> None:
    band, (object, x), views = Band(box, radius), molecule(box), turns(20)
    exact = band.coefficients(object.projector(views).project(x))
    cube = Cube(box, radius)
    spectrum = gridding.spectrum(object.values(x).to(dtype), cube)
    found = gridding.read(cube, spectrum, views.to(dtype), band.points)
    assert part(found - exact, exact) < 8e-4
    wrong = gridding.read(cube, spectrum, views.mT.to(dtype), band.points)
    assert part(wrong - exact, exact) > 0.1


@pytest.mark.parametrize("box", [16, 17])
def test_inserting_is_the_adjoint_of_reading_over_the_whole_plane(box: int) -> None:
    radius = (box - 1) // 2
    band, cube, views = Band(box, radius), Cube(box, radius), turns(5)
    generator = seeding.generator(3, "values")
    volume = torch.randn(box, box, box, generator=generator, dtype=torch.float64)
    values = torch.randn(5, len(band), generator=generator, dtype=torch.complex128)
    seen = gridding.read(cube, gridding.spectrum(volume, cube), views, band.points)
    left = 2 * (seen * values.conj()).real.sum()
    back = gridding.backprojected(cube, gridding.insert(cube, values, views, band.points))
    torch.testing.assert_close((volume * back).sum(), left, rtol=1e-10, atol=1e-10)
    single = gridding.insert(cube, values.to(torch.complex64), views.float(), band.points)
    torch.testing.assert_close(gridding.backprojected(cube, single).double(), back, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("box", [16, 17])
def test_the_kernel_is_that_of_the_normal_operator(box: int) -> None:
    radius = (box - 1) // 2
    band, cube, lags, views = Band(box, radius), Cube(box, radius), Cube(box, radius, pad=3, span=2), turns(6)
    object, x = molecule(box)
    volume = object.values(x)
    weights = torch.rand(6, len(band), generator=seeding.generator(4, "weights"), dtype=torch.float64)
    kernel = gridding.normal_kernel(lags, gridding.insert(lags, weights, views, band.points))
    seen = gridding.read(cube, gridding.spectrum(volume, cube), views, band.points)
    direct = gridding.backprojected(cube, gridding.insert(cube, weights * seen, views, band.points))
    assert part(gridding.apply_normal(kernel, volume) - direct, direct) < 3e-3


def test_slopes_are_the_change_of_slices_of_a_turned_view() -> None:
    box, radius = 32, 12
    band, cube, (object, x), views = Band(box, radius), Cube(box, radius), molecule(box), turns(8)
    spectrum = gridding.spectrum(object.values(x), cube)
    values, slopes = gridding.read_with_slopes(cube, spectrum, views, band.points)
    torch.testing.assert_close(values, gridding.read(cube, spectrum, views, band.points))
    single = gridding.read_with_slopes(cube, spectrum.float(), views.float(), band.points)[1]
    assert part(single - slopes, slopes) < 1e-5
    step = 1e-3
    for axis in range(3):
        w = torch.zeros(3, dtype=torch.float64)
        w[axis] = step
        ahead, behind = (object.projector(rotation.exp_map(s * w) @ views).project(x) for s in (1.0, -1.0))
        exact = (band.coefficients(ahead) - band.coefficients(behind)) / (2 * step)
        assert part(slopes[:, axis] - exact, exact) < 0.02


def test_a_slice_at_a_grid_point_of_a_delta() -> None:
    box, radius = 16, 7
    band, cube = Band(box, radius), Cube(box, radius, pad=3)
    volume = torch.zeros(box, box, box, dtype=torch.float64)
    volume[8 + 1, 8 + 2, 8 - 3] = 1.0  # z, y, x from the centre
    found = gridding.read(cube, gridding.spectrum(volume, cube), torch.eye(3, dtype=torch.float64)[None], band.points)
    qx, qy = band.points.double().unbind(1)
    expected = torch.polar(torch.full_like(qx, 1 / box), -2 * math.pi * (qx * -3 + qy * 2) / box)
    assert part(found[0] - expected, expected) < 1e-3


@pytest.mark.parametrize("wrong", ["volume", "rotations", "points", "values", "radius", "pad", "kernel"])
def test_what_does_not_fit_is_refused(wrong: str) -> None:
    cube, band, views = Cube(16, 7), Band(16, 7), turns(2)
    spectrum = gridding.spectrum(torch.zeros(16, 16, 16), cube)
    with pytest.raises(ValueError, match="got"):
        match wrong:
            case "volume":
                gridding.spectrum(torch.zeros(16, 16, 15), cube)
            case "rotations":
                gridding.read(cube, spectrum, views[0], band.points)
            case "points":
                gridding.read(cube, spectrum, views, Band(20, 9).points)
            case "values":
                gridding.insert(cube, torch.zeros(2, 5), views, band.points)
            case "radius":
                Cube(16, 9)
            case "pad":
                Cube(16, 7, pad=1)
            case "kernel":
                gridding.normal_kernel(cube, torch.zeros(cube.shape))
