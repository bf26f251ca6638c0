"""Trilinear slices: against exact projections, a gather written out, autograd; the flips that are views."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import unpicked as up
from unpicked.objects.gaussians import Gaussians
from unpicked.ops import dihedral, fourier, project, rotation, trilinear
from unpicked.ops.band import Band


def turns(count: int, seed: int = 3) -> torch.Tensor:
    return rotation.random_rotations(count, torch.Generator().manual_seed(seed))


def draw(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("box", "pad", "radius"), [(16, 2, 7), (17, 2, 8), (16, 3, 5), (9, 1, 3), (8, 1, 3)])
def test_half_cube_is_the_padded_transform(box: int, pad: int, radius: int) -> None:
    volume = draw(1, box, box, box)
    cube = trilinear.half_cube(volume, radius, pad)
    padded = torch.zeros((pad * box,) * 3, dtype=torch.float64)
    low = pad * box // 2 - box // 2
    padded[low : low + box, low : low + box, low : low + box] = volume
    whole = fourier.fft3(padded) * pad  # divided by the box, not by the padded one
    top = trilinear.reach(radius, pad)
    both, half = torch.arange(-top, top + 1) % (pad * box), torch.arange(top + 1) % (pad * box)
    expected = whole[both[:, None, None], both[None, :, None], half[None, None]]
    assert torch.allclose(torch.complex(cube[0], cube[1]), expected, atol=1e-10)


@pytest.mark.parametrize(("box", "pad"), [(16, 2), (15, 2), (12, 3), (9, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_slices_equal_the_gather(box: int, pad: int, dtype: torch.dtype, tolerance: float) -> None:
    radius = (box - 1) // 2
    points = Band(box, radius).points.to(dtype)
    cube = trilinear.half_cube(draw(2, box, box, box).to(dtype), radius, pad)
    views = torch.cat([turns(6), torch.eye(3, dtype=torch.float64)[None], dihedral.matrices()]).to(dtype)
    fast, slow = (slicer(cube, views, points, pad) for slicer in (trilinear.slices, trilinear.slices_by_gather))
    assert float((fast - slow).abs().max() / slow.abs().max()) < tolerance
    many = trilinear.slices(cube, views.view(3, 5, 3, 3), points, pad)
    assert torch.equal(many.flatten(0, 1), fast)
    assert torch.allclose(trilinear.slices(cube, views[2], points, pad), fast[2], atol=1e-5)


def molecule(shared_data: Callable[[str], Path], chain: bool) -> tuple[Gaussians, torch.Tensor]:
    structure = up.read_structure(shared_data("structures/4ake_dimer_workshop.pdb"))
    places = torch.as_tensor(structure.positions, dtype=torch.float64)
    places = places[: len(places) // 2] if chain else places
    places = (places - places.mean(0)) / 3.2
    return Gaussians(32, places, torch.full((len(places),), 0.75, dtype=torch.float64)), torch.ones(
        len(places)
    ).double()


@pytest.mark.parametrize("chain", [False, True])
def test_errors_of_slices_of_a_molecule(shared_data: Callable[[str], Path], chain: bool) -> None:
    """Adenylate kinase, two chains or one, in 32 pixels of 3.2 angstrom; relative error by padding."""
    object, x = molecule(shared_data, chain)
    views, band = turns(10), Band(32, 15)
    exact = band.coefficients(object.projector(views).project(x))
    found = {}
    for pad in (1, 2, 3):
        for shaped in (True, False):
            volume = object.values(x) * (trilinear.compensation(32, pad) if shaped else 1)
            slices = trilinear.slices(trilinear.half_cube(volume, 15, pad), views, band.points.double(), pad)
            found[pad, shaped] = float((slices - exact).norm() / exact.norm())
    bounds = {1: 0.055, 2: 0.0125, 3: 0.007} if chain else {1: 0.11, 2: 0.0205, 3: 0.010}
    for pad, bound in bounds.items():
        assert bound / 1.5 < found[pad, True] < bound
        assert found[pad, True] < 0.72 * found[pad, False]


@pytest.mark.parametrize("box", [8, 9])
def test_gradients_in_volume_and_rotation(box: int) -> None:
    radius = (box - 1) // 2 - 1
    points = Band(box, radius).points.double()
    volume, vectors = draw(4, box, box, box), 0.7 * draw(5, 2, 3)

    def through(v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        slices = trilinear.slices(trilinear.half_cube(v, radius), rotation.exp_map(w), points)
        return torch.view_as_real(slices)

    assert torch.autograd.gradcheck(lambda v: through(v, vectors), (volume.requires_grad_(),), fast_mode=True)
    volume = volume.detach()
    assert torch.autograd.gradcheck(lambda w: through(volume, w), (vectors.requires_grad_(),), eps=1e-7, atol=1e-5)


def test_interpolation_is_of_second_order_in_the_padding() -> None:
    """A wide Gaussian off the centre, against the cubic projector."""
    grid = (torch.arange(24) - 12).double()
    volume = torch.exp(-((grid[:, None, None] - 1) ** 2 + (grid[:, None] + 2) ** 2 + grid**2) / 12)
    band, views, errors = Band(24, 8), turns(5), {}
    expected = band.coefficients(project.project(volume, project.plan_slices(views, 24, 4)))
    for pad in (2, 4):
        shaped = volume * trilinear.compensation(24, pad)
        found = trilinear.slices(trilinear.half_cube(shaped, 8, pad), views, band.points.double(), pad)
        errors[pad] = float((found - expected).norm() / expected.norm())
    assert errors[2] < 1.2e-2
    assert errors[4] < 0.35 * errors[2]


@pytest.mark.parametrize("box", [16, 17])
def test_flips_and_turns_of_an_image_are_views_of_the_same_volume(box: int) -> None:
    """g (P_R V) = P_(M_g R) V for all eight elements, on exact projections."""
    object = Gaussians(box, 2 * draw(6, 12, 3), torch.full((12,), 1.3, dtype=torch.float64))
    x, views, elements = draw(7, 12).abs(), turns(4), dihedral.matrices()
    images = object.projector(views).project(x)
    seen = set()
    for element in range(dihedral.COUNT):
        expected = object.projector(elements[element] @ views).project(x)
        turned = dihedral.turn(images, element)
        # a mirrored even box brings its first row, of which there is no second one, to the other side
        inner = (slice(None), slice(1, None), slice(1, None))
        assert float((turned - expected)[inner].abs().max() / expected.abs().max()) < 1e-7
        assert math.isclose(float(torch.linalg.det(elements[element])), 1.0, abs_tol=1e-12)
        seen.add(tuple(elements[element].flatten().tolist()))
    assert len(seen) == dihedral.COUNT
    half = elements[dihedral.HALF_TURN]
    assert torch.equal(half, torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: trilinear.half_cube(torch.zeros(8, 8, 9), 3), r"volume must be a cube.*got \(8, 8, 9\)"),
        (lambda: trilinear.half_cube(torch.zeros(8, 8, 8), 3, 0), "pad must be at least 1; got 0"),
        (lambda: trilinear.half_cube(torch.zeros(8, 8, 8), 4), "radius must be positive and at most 3 .*; got 4"),
        (
            lambda: trilinear.slices(torch.zeros(2, 3, 3, 3), torch.eye(3), torch.zeros(1, 2)),
            "cube must be .*half_cube",
        ),
        (lambda: trilinear.slices(torch.zeros(2, 3, 3, 2), torch.eye(4), torch.zeros(1, 2)), "rotations must end"),
        (lambda: trilinear.slices(torch.zeros(2, 3, 3, 2), torch.eye(3), torch.zeros(1, 3)), "points must be"),
        (lambda: dihedral.turn(torch.zeros(8, 9), 1), r"images must be square; got \(8, 9\)"),
        (lambda: dihedral.turn(torch.zeros(8, 8), 8), "element must lie between 0 and 7; got 8"),
    ],
)
def test_bad_arguments_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
