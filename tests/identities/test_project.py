"""The projector against closed forms and exact turns (conventions, sections 4, 9 and 15, rows 1-6, 9, 10)."""

from __future__ import annotations

import math

import pytest
import torch

from unpicked.objects.gaussians import Gaussians
from unpicked.ops import fourier, project, rotation

Tensor = torch.Tensor
BOXES = pytest.mark.parametrize("box", [9, 10, 16])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turns(count: int, seed: int = 3) -> Tensor:
    return rotation.random_rotations(count, torch.Generator().manual_seed(seed))


def diagonal(*signs: float) -> Tensor:
    return torch.diag(torch.tensor(signs, dtype=torch.float64))


def views(volume: Tensor, rotations: Tensor, pad: int = 2) -> Tensor:
    return project.project(volume, project.plan_slices(rotations, volume.shape[-1], pad))


def without_nyquist(image: Tensor) -> Tensor:
    return fourier.ifft2(fourier.drop_nyquist(fourier.fft2(image), (-2, -1)))


def partnered(box: int, seed: int = 0) -> Tensor:
    """White noise, 0 on the first faces of an even box, which have no mirror image about the centre."""
    volume = noise(box, box, box, seed=seed)
    if box % 2 == 0:
        volume[0], volume[:, 0], volume[:, :, 0] = 0, 0, 0
    return volume


def taken_at(volume: Tensor, matrix: Tensor) -> Tensor:
    """V'(p) = V(A p) voxel by voxel, for A that maps axes onto axes; coordinates without a voxel give 0."""
    box = volume.shape[-1]
    axis = torch.arange(box) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    seen = torch.einsum("ab,...b->...a", matrix.round().long(), torch.stack([x, y, z], -1)) + box // 2
    inside = ((seen >= 0) & (seen < box)).all(-1)
    column, row, section = seen.clamp(0, box - 1).unbind(-1)
    return volume[section, row, column] * inside


def gaussian_views(box: int, mu: Tensor, sigma: float, rotations: Tensor) -> Tensor:
    """sqrt(2 pi) sigma times a 2-D Gaussian at (R mu)_xy, written out."""
    line = torch.arange(box, dtype=torch.float64) - box // 2
    x, y = (rotations @ mu)[:, 0, None, None], (rotations @ mu)[:, 1, None, None]
    squared = (line[None, None, :] - x) ** 2 + (line[None, :, None] - y) ** 2
    return math.sqrt(2 * math.pi) * sigma * (-squared / (2 * sigma**2)).exp()


def gaussian_volume(box: int, mu: Tensor, sigma: float) -> Tensor:
    line = torch.arange(box, dtype=torch.float64) - box // 2
    x, y, z = ((line - m).square() for m in mu)
    return (-(z[:, None, None] + y[:, None] + x) / (2 * sigma**2)).exp()


def errors(found: Tensor, expected: Tensor) -> Tensor:
    return (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)


@pytest.mark.parametrize(("box", "sigma"), [(32, 1.5), (33, 1.5), (11, 1.1), (12, 1.1)])
def test_an_off_centre_gaussian_is_seen_at_r_mu(box: int, sigma: float) -> None:
    """Row 1: the box cuts off < 1e-3 of it and it has < 1e-3 at Nyquist; R^T puts it more than a sigma away."""
    mu = 0.2 * box * torch.tensor([2, -1, 2], dtype=torch.float64) / 3
    rotations = turns(20)
    images = views(gaussian_volume(box, mu, sigma), rotations)
    assert float(errors(images, gaussian_views(box, mu, sigma, rotations)).max()) < 0.01
    apart = ((rotations - rotations.mT) @ mu)[:, :2].norm(dim=1) > sigma
    assert int(apart.sum()) >= 10
    transposed = errors(images, gaussian_views(box, mu, sigma, rotations.mT))
    assert float(transposed[apart].min()) > 0.5


@pytest.mark.parametrize("box", [32, 33])
def test_more_padding_is_more_accurate(box: int) -> None:
    """The figures of the module's first lines: 3.3e-3 with pad 2 and 9e-4 with pad 3, sigma 2, box 32."""
    mu = 0.2 * box * torch.tensor([2, -1, 2], dtype=torch.float64) / 3
    rotations = turns(10)
    expected = gaussian_views(box, mu, 2.0, rotations)
    volume = gaussian_volume(box, mu, 2.0)
    two, three = (float(errors(views(volume, rotations, pad), expected).max()) for pad in (2, 3))
    assert two < 4e-3
    assert three < 1.2e-3


@pytest.mark.parametrize("box", [20, 21])
def test_gaussians_objects_agree_with_the_voxels_they_give(box: int) -> None:
    positions = noise(6, 3) * 1.5
    object = Gaussians(box, positions, torch.full((6,), 1.4, dtype=torch.float64))
    x, rotations = noise(6, seed=1), turns(8)
    exact = object.projector(rotations).project(x)
    assert float(errors(views(object.values(x), rotations), exact).max()) < 0.01


@BOXES
def test_the_sum_of_an_image_is_the_sum_of_the_volume(box: int) -> None:
    volume = noise(box, box, box)
    images = views(volume, turns(6))
    assert torch.allclose(images.sum((1, 2)), volume.sum().expand(6), rtol=0, atol=1e-10)


@BOXES
@pytest.mark.parametrize("pad", [1, 2, 3])
def test_unrotated_the_image_is_the_sum_along_z(box: int, pad: int) -> None:
    volume = noise(box, box, box)
    image = views(volume, torch.eye(3, dtype=torch.float64)[None], pad)[0]
    assert torch.allclose(image, without_nyquist(volume.sum(0)), rtol=0, atol=1e-10)
    odd = without_nyquist(volume.sum(0)) - volume.sum(0)
    assert (float(odd.abs().max()) < 1e-10) == (box % 2 == 1)


@BOXES
def test_the_image_is_the_central_plane_of_the_volumes_transform(box: int) -> None:
    volume = noise(box, box, box)
    image = views(volume, torch.eye(3, dtype=torch.float64)[None])[0]
    plane = fourier.drop_nyquist(fourier.fft3(volume)[0], (-2, -1))
    assert torch.allclose(fourier.fft2(image), plane, rtol=0, atol=1e-10)


@BOXES
def test_a_quarter_turn_about_z_turns_the_image_from_x_towards_y(box: int) -> None:
    """What was at (x, y) is seen at (-y, x): new[y, x] = old[row -x, column y], voxel by voxel."""
    volume = partnered(box)
    quarter = torch.tensor([[0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    still, turned = views(volume, torch.stack([torch.eye(3, dtype=torch.float64), quarter]))
    line = torch.arange(1 - box % 2, box) - box // 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    half = box // 2
    assert torch.allclose(turned[y + half, x + half], still[half - x, half + y], rtol=0, atol=1e-10)


@BOXES
def test_projecting_a_turned_volume_is_projecting_from_the_composed_view(box: int) -> None:
    """Row 4: P_{R A} of V(A p) is P_R of V, for the 24 turns A of the cube."""
    volume, rotations = partnered(box), turns(2)
    expected = views(volume, rotations)
    x = torch.tensor([[1, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    z = torch.tensor([[0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    group = [torch.eye(3, dtype=torch.float64)]
    for matrix in group:
        for step in (x @ matrix, z @ matrix):
            if not any(torch.equal(step, old) for old in group):
                group.append(step)
    assert len(group) == 24
    wrong = 0.0
    for matrix in group:
        turned = taken_at(volume, matrix)
        assert torch.allclose(views(turned, rotations @ matrix), expected, rtol=0, atol=1e-10)
        wrong = max(wrong, float(errors(views(turned, rotations @ matrix.mT), expected).min()))
    assert wrong > 0.5


@BOXES
def test_flipped_images_are_views_from_behind(box: int) -> None:
    """Row 5: the four statements at the end of section 4."""
    volume, rotations = partnered(box), turns(4)
    images = views(volume, rotations)
    swapped = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, -1]], dtype=torch.float64)
    statements = [
        (fourier.mirror(images, (-1,)), diagonal(-1, 1, -1)),
        (fourier.mirror(images, (-2,)), diagonal(1, -1, -1)),
        (images.mT, swapped),
        (fourier.mirror(images, (-2, -1)), diagonal(-1, -1, 1)),
    ]
    for flipped, matrix in statements:
        assert torch.allclose(views(volume, matrix @ rotations), flipped, rtol=0, atol=1e-10)
        assert float(errors(views(volume, rotations), flipped).min()) > 0.5


@BOXES
def test_the_inverted_volume_gives_the_same_images(box: int) -> None:
    """Row 6: the hand is not determined; and for a mirror in z, R becomes F R F."""
    volume, rotations = partnered(box), turns(4)
    images = views(volume, rotations)
    inverted = fourier.mirror(volume, (-3, -2, -1))
    assert torch.allclose(views(inverted, diagonal(-1, -1, 1) @ rotations), images, rtol=0, atol=1e-10)
    f = diagonal(1, 1, -1)
    mirrored = fourier.mirror(volume, (-3,))
    assert torch.allclose(views(mirrored, f @ rotations @ f), images, rtol=0, atol=1e-10)
    assert float(errors(views(inverted, rotations), images).min()) > 0.5


@pytest.mark.parametrize(("old", "new"), [(32, 20), (32, 21), (33, 20), (33, 21)])
def test_projecting_the_marched_volume_is_cropping_the_projection(old: int, new: int) -> None:
    """Row 10: exact along the axes; elsewhere what lies between grid frequencies is read from other cubes."""
    generator = torch.Generator().manual_seed(4)
    positions = (torch.rand(8, 3, generator=generator, dtype=torch.float64) - 0.5) * 10
    object = Gaussians(old, positions, torch.full((8,), 2.0, dtype=torch.float64))
    volume = object.values(torch.rand(8, generator=generator, dtype=torch.float64))
    exact = torch.tensor([[[0, -1, 0], [0, 0, -1], [1, 0, 0]]], dtype=torch.float64)
    for rotations, tolerance in ((exact, 1e-10), (turns(6), 5e-4)):
        marched = views(fourier.resize_volume(volume, new), rotations, 3)
        cropped = fourier.resize_image(views(volume, rotations, 3), (new, new))
        assert float(errors(marched, cropped).max()) < tolerance


@pytest.mark.parametrize("box", [12, 13])
def test_views_of_white_noise_have_the_power_of_their_frequencies(box: int) -> None:
    """A slice of white noise of variance 1 has E|F|^2 = N: the power of an image is N x the frequencies kept."""
    volumes = noise(60, box, box, box)
    power = views(volumes, torch.eye(3, dtype=torch.float64)[None]).square().sum((-2, -1)).mean()
    kept = (box - 1 + box % 2) ** 2
    assert float(power) == pytest.approx(box * kept, rel=0.05)


def test_single_precision_agrees_with_double() -> None:
    volume, rotations = noise(12, 12, 12), turns(5)
    single = views(volume.float(), rotations.float())
    assert single.dtype == torch.float32
    assert float(errors(single.double(), views(volume, rotations)).max()) < 2e-5


def test_the_gradient_reaches_the_volume() -> None:
    volume = noise(5, 5, 5).requires_grad_()
    plan = project.plan_slices(turns(2), 5)
    assert torch.autograd.gradcheck(lambda v: project.project(v, plan), (volume,), fast_mode=True)


def test_the_gradient_reaches_the_rotations() -> None:
    """The cubic convolution has a continuous derivative; finite differences of a smooth volume agree."""
    volume = gaussian_volume(9, torch.tensor([1.0, -0.5, 0.7], dtype=torch.float64), 1.2)
    base = turns(1)[0]
    weights = noise(9, 9, seed=2)

    def score(w: Tensor) -> Tensor:
        return (views(volume, (rotation.exp_map(w) @ base)[None])[0] * weights).sum()

    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(score(w), w)
    step = 1e-5
    for axis in range(3):
        d = torch.zeros(3, dtype=torch.float64)
        d[axis] = step
        assert float(found[axis]) == pytest.approx(float(score(d) - score(-d)) / (2 * step), rel=1e-4, abs=1e-6)
