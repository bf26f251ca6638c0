"""The contract of every object: adding an object means adding one row to ROWS."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations, product

import pytest
import torch

from unpicked.objects.ball import Ball
from unpicked.objects.base import Object, Projector, Volume
from unpicked.objects.gaussians import Gaussians
from unpicked.objects.voxels import Voxels
from unpicked.ops import fourier, rotation

Tensor = torch.Tensor


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def turns(count: int, seed: int = 1) -> Tensor:
    return rotation.random_rotations(count, torch.Generator().manual_seed(seed))


def quarter_turns() -> Tensor:
    """The 24 rotations that map the axes onto the axes."""
    out = []
    for order, signs in product(permutations(range(3)), product((1.0, -1.0), repeat=3)):
        matrix = torch.zeros(3, 3, dtype=torch.float64)
        matrix[range(3), order] = torch.tensor(signs, dtype=torch.float64)
        if torch.linalg.det(matrix) > 0:
            out.append(matrix)
    return torch.stack(out)


@dataclass(frozen=True)
class Row:
    """An object; what its rotation is; along which rotations that is exact; and what its projections sum up to.

    Attributes:
        object: the object.
        turned: (x, A) to the object and the coefficients of V'(p) = V(A^T p).
        group: the rotations A, `(k, 3, 3)`.
        line: x to the sums along z, `(..., L, L)`, of what is projected, from values in space.
        tolerance: of the projections, relative to their largest value.
    """

    object: Volume
    turned: Callable[[Tensor, Tensor], tuple[Volume, Tensor]]
    group: Tensor
    line: Callable[[Tensor], Tensor]
    tolerance: float


def voxels(box: int) -> Row:
    object = Voxels(box)

    def turned(x: Tensor, matrix: Tensor) -> tuple[Volume, Tensor]:
        """V'(p) = V(A^T p) by transposed and mirrored axes, of volumes that are 0 on the faces without a partner."""
        first = 1 - box % 2
        kept = torch.zeros_like(x).reshape(*x.shape[:-1], *object.shape)
        kept[..., first:, first:, first:] = object.values(x)[..., first:, first:, first:]
        source = matrix.abs().argmax(1).tolist()  # axis j of the result, x y z, is this axis of the original
        batch = range(x.dim() - 1)
        out = kept.permute(*batch, *(x.dim() - 1 + 2 - source[2 - dim] for dim in range(3)))
        backwards = [-1 - j for j in range(3) if matrix[j, source[j]] < 0]
        return object, object.fit(fourier.mirror(out, backwards))

    return Row(object, turned, quarter_turns(), lambda x: object.values(x).sum(-3), 1e-11)


def ball(box: int, lmax: int, reach: float | None = None) -> Row:
    object = Ball(box, lmax, reach)
    line = torch.arange(box, dtype=torch.float64) - box // 2
    z, y, x = torch.meshgrid(torch.arange(-150.0, 151.0, dtype=torch.float64), line, line, indexing="ij")
    points = torch.stack([x, y, z], -1).reshape(-1, 3)

    def columns(x: Tensor) -> Tensor:
        return object.evaluate(x, points).reshape(*x.shape[:-1], 301, box, box).sum(-3)

    return Row(object, lambda x, matrix: (object, object.rotate(x, matrix)), turns(5), columns, 1e-3)


def gaussians(box: int) -> Row:
    positions = 2 * torch.tensor([[0, 0, 0], [1, 0, 0.5], [-1, 1, 0], [0.5, -1, 1], [0, 1.2, -1]], dtype=torch.float64)
    sigmas = torch.tensor([0.9, 1.0, 1.1, 0.95, 1.2], dtype=torch.float64)
    object = Gaussians(box, positions, sigmas)

    def turned(x: Tensor, matrix: Tensor) -> tuple[Volume, Tensor]:
        return Gaussians(box, positions @ matrix.mT, sigmas), x

    # sums over samples of a Gaussian of sigma 0.9 are its integral to exp(-2 pi^2 0.81) = 1e-7
    return Row(object, turned, turns(5), lambda x: object.values(x).sum(-3), 1e-6)


ROWS = {
    "voxels even": voxels(8),
    "voxels odd": voxels(9),
    "ball 11, 10": ball(11, 10),
    "ball 8, 3": ball(8, 3),
    "ball 9, 6, reach 5.5": ball(9, 6, 5.5),
    "gaussians even": gaussians(20),
    "gaussians odd": gaussians(21),
}
every = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())


def unpaired_faces_removed(row: Row, x: Tensor) -> Tensor:
    """The first face of an even axis has no mirror image, and the projector does not use unpaired frequencies."""
    return row.turned(x, torch.eye(3, dtype=x.dtype))[1]


@every
def test_sizes_agree(row: Row) -> None:
    object: Object = row.object
    x = noise(object.size)
    assert object.values(x).shape == object.shape
    assert object.fit(object.values(x)).shape == (object.size,)
    assert object.projector(turns(3)).project(x).shape == (3, *object.shape[1:])


@every
def test_fit_inverts_values(row: Row) -> None:
    x = noise(row.object.size)
    assert torch.allclose(row.object.fit(row.object.values(x)), x, rtol=0, atol=1e-8)


@every
def test_values_and_fit_are_linear(row: Row) -> None:
    a, b = noise(2, row.object.size)
    both = row.object.values(2 * a - 3 * b)
    apart = 2 * row.object.values(a) - 3 * row.object.values(b)
    assert torch.allclose(both, apart, rtol=0, atol=1e-11)
    u, v = noise(2, *row.object.shape, seed=1)
    fitted = row.object.fit(2 * u - 3 * v)
    assert torch.allclose(fitted, 2 * row.object.fit(u) - 3 * row.object.fit(v), rtol=0, atol=1e-9)


@every
def test_fit_is_least_squares(row: Row) -> None:
    """What is left of any volume is orthogonal to every volume of the class."""
    volume = noise(*row.object.shape)
    left = volume - row.object.values(row.object.fit(volume))
    for x in noise(5, row.object.size, seed=3):
        inside = row.object.values(x)
        assert abs(float((left * inside).sum())) < 1e-8 * float(inside.norm() * volume.norm())


@every
def test_values_and_fit_are_batched(row: Row) -> None:
    x = noise(2, 3, row.object.size)
    values = row.object.values(x)
    assert values.shape == (2, 3, *row.object.shape)
    fitted = row.object.fit(values)
    for i, j in product(range(2), range(3)):
        assert torch.allclose(values[i, j], row.object.values(x[i, j]), rtol=0, atol=1e-12)
        assert torch.allclose(fitted[i, j], x[i, j], rtol=0, atol=1e-8)


@every
def test_projector_adjoint(row: Row) -> None:
    projector: Projector = row.object.projector(turns(3))
    x = noise(row.object.size).requires_grad_()
    images = projector.project(x)
    y = noise(*images.shape, seed=2)
    back = projector.backproject(y)
    (gradient,) = torch.autograd.grad(images, x, y)
    images, x = images.detach(), x.detach()
    assert float((images * y).sum()) == pytest.approx(float((x * back).sum()), rel=1e-10)
    assert torch.allclose(back, gradient, rtol=0, atol=1e-10)
    assert float(back.abs().max()) > 0


@every
def test_projector_is_linear(row: Row) -> None:
    projector = row.object.projector(turns(3))
    a, b = noise(2, row.object.size)
    both = projector.project(2 * a - 3 * b)
    assert torch.allclose(both, 2 * projector.project(a) - 3 * projector.project(b), rtol=0, atol=1e-10)
    u, v = noise(2, *both.shape, seed=1)
    both = projector.backproject(2 * u - 3 * v)
    apart = 2 * projector.backproject(u) - 3 * projector.backproject(v)
    assert torch.allclose(both, apart, rtol=0, atol=1e-10)


@every
def test_projector_is_batched(row: Row) -> None:
    projector = row.object.projector(turns(3))
    x = noise(2, 2, row.object.size)
    images = projector.project(x)
    assert images.shape == (2, 2, 3, *row.object.shape[1:])
    back = projector.backproject(images)
    for i, j in product(range(2), range(2)):
        alone = projector.project(x[i, j])
        assert torch.allclose(images[i, j], alone, rtol=0, atol=1e-11)
        assert torch.allclose(back[i, j], projector.backproject(alone), rtol=0, atol=1e-9)


@every
def test_each_rotation_is_projected_alone(row: Row) -> None:
    views = turns(4)
    x = noise(row.object.size)
    together = row.object.projector(views).project(x)
    alone = torch.cat([row.object.projector(view[None]).project(x) for view in views])
    assert torch.allclose(together, alone, rtol=0, atol=1e-11)


@every
def test_projector_gradcheck(row: Row) -> None:
    projector = row.object.projector(turns(2))
    x = noise(row.object.size).requires_grad_()
    assert torch.autograd.gradcheck(projector.project, (x,), fast_mode=True)


@every
def test_rotated_then_projected_is_projected_from_the_composed_view(row: Row) -> None:
    """P_R of V(A^T p) is P_{R A} of V, and not P_{R A^T}."""
    views = turns(3, seed=4)
    x = unpaired_faces_removed(row, noise(row.object.size))
    wrong = 0.0
    for matrix in row.group:
        object, moved = row.turned(x, matrix)
        found = object.projector(views).project(moved)
        expected = row.object.projector(views @ matrix).project(x)
        transposed = row.object.projector(views @ matrix.mT).project(x)
        scale = float(expected.abs().max())
        assert float((found - expected).abs().max()) < 1e-9 * scale
        wrong = max(wrong, float((found - transposed).abs().max()) / scale)
    assert wrong > 0.1


@every
def test_image_at_no_rotation_is_the_sum_along_z(row: Row) -> None:
    x = unpaired_faces_removed(row, noise(3, row.object.size))
    image = row.object.projector(torch.eye(3, dtype=torch.float64)[None]).project(x)[:, 0]
    expected = row.line(x)
    if row.object.shape[-1] % 2 == 0 and isinstance(row.object, Voxels):
        expected = fourier.ifft2(fourier.drop_nyquist(fourier.fft2(expected), (-2, -1)))
    assert torch.allclose(image, expected, rtol=0, atol=row.tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["voxels even", "voxels odd", "gaussians even", "gaussians odd"])
def test_sum_of_an_image_is_the_sum_of_the_volume(name: str) -> None:
    row = ROWS[name]
    x = noise(row.object.size)
    images = row.object.projector(turns(4)).project(x)
    expected = row.object.values(x).sum()
    assert torch.allclose(images.sum((-2, -1)), expected.expand(4), rtol=0, atol=1e-6 * float(x.norm()))


@every
def test_float32_agrees_with_float64(row: Row) -> None:
    views, x = turns(3), noise(row.object.size)
    exact = row.object.projector(views).project(x)
    single = row.object.projector(views.float())
    images = single.project(x.float())
    assert images.dtype == torch.float32
    assert float((images - exact).norm() / exact.norm()) < 1e-4
    back = single.backproject(images)
    assert back.dtype == torch.float32
    full = row.object.projector(views).backproject(exact)
    assert float((back - full).norm() / full.norm()) < 1e-4
    values = row.object.values(x.float())
    assert values.dtype == torch.float32
    assert float((values - row.object.values(x)).norm() / row.object.values(x).norm()) < 1e-5
    assert row.object.fit(values).dtype == torch.float32


@every
def test_inputs_are_not_changed(row: Row) -> None:
    views, x = turns(3), noise(row.object.size)
    kept_views, kept_x = views.clone(), x.clone()
    projector = row.object.projector(views)
    images = projector.project(x)
    kept_images = images.clone()
    projector.backproject(images)
    row.object.fit(row.object.values(x))
    assert torch.equal(views, kept_views)
    assert torch.equal(x, kept_x)
    assert torch.equal(images, kept_images)


@every
def test_wrong_rotations_are_refused(row: Row) -> None:
    with pytest.raises(ValueError, match=r"rotations must .*got \(3, 3\)") as caught:
        row.object.projector(torch.eye(3, dtype=torch.float64)).project(noise(row.object.size))
    assert "\n" not in str(caught.value)


@every
def test_wrong_coefficients_are_refused(row: Row) -> None:
    projector = row.object.projector(turns(2))
    for call in (row.object.values, projector.project):
        with pytest.raises(ValueError, match=rf"must .*got .*\({row.object.size + 1},\)") as caught:
            call(noise(row.object.size + 1))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"must .*got .*\(2, 3, 5\)"):
        row.object.fit(noise(2, 3, 5))
    with pytest.raises(ValueError, match=r"must .*got .*\(1, 4, 4\)"):
        projector.backproject(noise(1, 4, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Voxels(3), "box must be at least 4 voxels; got 3"),
        (lambda: Voxels(8, pad=0), "pad must be at least 1; got 0"),
        (lambda: Gaussians(8, torch.zeros(2, 2), torch.ones(2)), "positions must .*got \\(2, 2\\)"),
        (lambda: Gaussians(8, torch.zeros(0, 3), torch.ones(0)), "positions must .*got \\(0, 3\\)"),
        (lambda: Gaussians(8, torch.zeros(2, 3), torch.ones(3)), "sigmas must .*got \\(3,\\)"),
        (lambda: Gaussians(8, torch.zeros(1, 3), torch.zeros(1)), "sigmas must be positive.*got .*0"),
        (lambda: Gaussians(3, torch.zeros(1, 3), torch.ones(1)), "box must be at least 4 voxels; got 3"),
    ],
)
def test_impossible_objects_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_gaussian_is_sampled_at_the_voxel_centres() -> None:
    object = Gaussians(
        9, torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64), torch.tensor([1.5], dtype=torch.float64)
    )
    value = object.values(torch.tensor([3.0], dtype=torch.float64))[4 + 1, 4 + 0, 4 - 1]  # z 1, y 0, x -1
    squared = 2**2 + 2**2 + 0.5**2
    expected = 3 * (2 * math.pi * 1.5**2) ** -1.5 * math.exp(-squared / (2 * 1.5**2))
    assert float(value) == pytest.approx(expected, rel=1e-12)
