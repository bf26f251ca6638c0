"""The contract of signals, images and kinds of them: adding an object means adding one row to OBJECTS."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch

from unpicked.model.conical import Conical
from unpicked.model.views import Identity, InPlane, OfClasses, View, Weighable
from unpicked.objects.ball import Ball
from unpicked.objects.base import Image, Object
from unpicked.objects.classes import Classes
from unpicked.objects.disk import Disk
from unpicked.objects.even import Even
from unpicked.objects.pixels import Pixels
from unpicked.objects.samples import Samples
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation

Tensor = torch.Tensor

IMAGES: dict[str, Image] = {
    "pixels even": Pixels(6),
    "pixels odd": Pixels(7),
    "disk 9": Disk(9),
    "disk 8": Disk(8),
    "disk 5, reach 3": Disk(5, 3.0),
    "disk 7, orders 2": Disk(7, orders=2),
}
OBJECTS: dict[str, Object] = {
    **IMAGES,
    "samples": Samples(7),
    "even samples": Even(6),
    "even samples, odd length": Even(7),
    "kinds of samples": Classes(Samples(5), 3),
    "kinds of disks": Classes(Disk(5), 2),
}
every = pytest.mark.parametrize("object", OBJECTS.values(), ids=OBJECTS.keys())
images = pytest.mark.parametrize("object", IMAGES.values(), ids=IMAGES.keys())


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def angles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# values and fit ----------------------------------------------------------------------------------------------------


@every
def test_fit_inverts_values_and_is_least_squares(object: Object) -> None:
    x = noise(object.size)
    assert object.values(x).shape == object.shape
    assert torch.allclose(object.fit(object.values(x)), x, rtol=0, atol=1e-10)
    given = noise(*object.shape, seed=1)
    left = given - object.values(object.fit(given))
    inside = object.values(noise(object.size, seed=2))
    assert abs(float((left * inside).sum())) < 1e-9 * float(inside.norm() * given.norm())


@every
def test_values_and_fit_are_linear_batched_and_keep_their_dtype(object: Object) -> None:
    x = noise(2, 3, object.size)
    values = object.values(x)
    assert values.shape == (2, 3, *object.shape)
    for i, j in product(range(2), range(3)):
        assert torch.allclose(values[i, j], object.values(x[i, j]), rtol=0, atol=1e-12)
        assert torch.allclose(object.fit(values)[i, j], x[i, j], rtol=0, atol=1e-10)
    both = object.values(2 * x[0, 0] - 3 * x[1, 1])
    assert torch.allclose(both, 2 * values[0, 0] - 3 * values[1, 1], rtol=0, atol=1e-12)
    single = object.values(x.float())
    assert single.dtype == torch.float32
    assert object.fit(single).dtype == torch.float32
    assert float((single - values).norm() / values.norm()) < 1e-5


@every
def test_wrong_shapes_are_refused(object: Object) -> None:
    with pytest.raises(ValueError, match=rf"x must .*got \({object.size + 1},\)") as caught:
        object.values(noise(object.size + 1))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"values must .*got \(2, 9, 4\)"):
        object.fit(noise(2, 9, 4))


# turns -------------------------------------------------------------------------------------------------------------


@images
def test_rotator_has_an_exact_adjoint_and_is_linear_and_batched(object: Image) -> None:
    operator = object.rotator(angles(0.3, -1.7, 2.9))
    x = noise(2, object.size)
    seen = operator.project(x)
    assert seen.shape == (2, 3, *object.shape)
    y = noise(*seen.shape, seed=1)
    back = operator.backproject(y)
    assert back.shape == x.shape
    assert float((seen * y).sum()) == pytest.approx(float((x * back).sum()), rel=1e-11)
    alone = torch.stack([operator.project(row) for row in x])
    assert torch.allclose(seen, alone, rtol=0, atol=1e-12)
    assert torch.allclose(operator.backproject(y)[1], operator.backproject(y[1]), rtol=0, atol=1e-11)
    both = operator.project(2 * x[0] - 3 * x[1])
    assert torch.allclose(both, 2 * seen[0] - 3 * seen[1], rtol=0, atol=1e-11)
    one = noise(object.size).requires_grad_()
    assert torch.autograd.gradcheck(operator.project, (one,), fast_mode=True)
    assert operator.project(x.float()).dtype == torch.float32


@images
def test_no_turn_is_no_turn_and_quarter_turns_are_exact(object: Image) -> None:
    """From +x (columns) towards +y (rows); an even square has a row and a column without a partner."""
    x = noise(object.size)
    values = object.values(x)
    seen = object.rotator(angles(0.0, math.pi / 2, math.pi)).project(x)
    assert torch.allclose(seen[0], values, rtol=0, atol=1e-12)
    first = 1 - values.shape[0] % 2
    inner = values[first:, first:]
    assert torch.allclose(seen[1][first:, first:], torch.rot90(inner, -1), rtol=0, atol=1e-9)
    assert torch.allclose(seen[2][first:, first:], torch.rot90(inner, 2), rtol=0, atol=1e-9)


@images
def test_wrong_turns_are_refused(object: Image) -> None:
    with pytest.raises(ValueError, match=r"angles must be \(k,\).*got \(2, 2\)"):
        object.rotator(noise(2, 2))
    with pytest.raises(ValueError, match=r"images must .*got \(1, 4, 4\)"):
        object.rotator(angles(0.0, 1.0)).backproject(noise(1, 4, 4))


@pytest.mark.parametrize("disk", [Disk(9), Disk(8, 4.5), Disk(7, orders=2)], ids=repr)
def test_disk_turned_and_evaluated_is_evaluated_and_turned(disk: Disk) -> None:
    x, points = noise(disk.size), 2 * noise(20, 2, seed=1)
    turn = torch.tensor(0.7, dtype=torch.float64)
    matrix = torch.stack([torch.stack([turn.cos(), -turn.sin()]), torch.stack([turn.sin(), turn.cos()])])
    # V'(p) = V(R^T p); rows of points @ R are R^T p
    assert torch.allclose(disk.evaluate(disk.rotate(x, turn), points), disk.evaluate(x, points @ matrix), atol=1e-11)
    other = disk.rotate(disk.rotate(x, turn), torch.tensor(-0.4, dtype=torch.float64))
    assert torch.allclose(other, disk.rotate(x, turn - 0.4), atol=1e-12)
    assert float(disk.rotate(x, turn).norm()) == pytest.approx(float(x.norm()), rel=1e-12)
    assert torch.allclose(disk.rotator(turn[None]).project(x)[0], disk.values(disk.rotate(x, turn)), atol=1e-12)


def test_disk_has_the_published_size_and_is_orthonormal_and_band_limited() -> None:
    assert Disk(9).size == 34
    assert Disk(5, 2.3).size == 10
    disk = Disk(9)
    line = torch.arange(-60, 61, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    functions = disk.evaluate(torch.eye(34, dtype=torch.float64), torch.stack([x, y], -1).reshape(-1, 2))
    # sums over samples are integrals of what is band-limited; the tails beyond 60 pixels hold 1e-5
    assert torch.allclose(functions @ functions.mT, torch.eye(34, dtype=torch.float64), rtol=0, atol=1e-5)
    spectrum = torch.fft.fftshift(torch.fft.fft2(functions.reshape(34, 121, 121)), dim=(-2, -1)).abs().square()
    outside = (x.square() + y.square()).sqrt() > 0.53 * 121
    assert float(spectrum[:, outside].sum() / spectrum.sum()) < 1e-3
    assert disk.index.shape == (34, 2)


def bump(x: float, y: float, side: int) -> Tensor:
    line = torch.arange(side, dtype=torch.float64) - side // 2
    return torch.exp(-((line[:, None] - y).square() + (line - x).square()) / (2 * 1.7**2))


@pytest.mark.parametrize(("object", "tolerance"), [(Pixels(21), 0.01), (Disk(21), 0.02)], ids=["pixels", "disk"])
def test_a_smooth_bump_is_turned_to_where_it_belongs(object: Image, tolerance: float) -> None:
    turns = angles(0.4, 2.0)
    found = object.rotator(turns).project(object.fit(bump(4.0, -1.0, 21)))
    for turn, image in zip(turns.tolist(), found, strict=True):
        x, y = 4 * math.cos(turn) + math.sin(turn), 4 * math.sin(turn) - math.cos(turn)
        expected = bump(x, y, 21)
        assert float((image - expected).norm() / expected.norm()) < tolerance


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pixels(1), "side must be at least 2 pixels; got 1"),
        (lambda: Disk(2), "side must be at least 3 pixels; got 2"),
        (lambda: Disk(9, 6.0), "reach must lie between 1 and 5 pixels.*got 6"),
        (lambda: Disk(9, orders=-1), "orders must not be negative; got -1"),
        (lambda: Classes(Samples(3), 0), "count must be at least 1 kind; got 0"),
        (lambda: InPlane(0), "count must be at least 1 angle; got 0"),
        (lambda: InPlane(3, shares=torch.zeros(2)), r"shares must be \(3,\).*got \(2,\)"),
        (lambda: OfClasses(Identity(), 0), "count must be at least 1 kind; got 0"),
        (lambda: OfClasses(InPlane(3), 2, torch.zeros(2)), r"shares must be \(6,\).*got \(2,\)"),
    ],
)
def test_impossible_objects_and_views_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


# views -------------------------------------------------------------------------------------------------------------

VIEWS: dict[str, tuple[View, Object]] = {
    "in plane, disk": (InPlane(5, 0.2), Disk(7)),
    "in plane, pixels": (InPlane(4), Pixels(6)),
    "kinds of signals": (OfClasses(Identity(), 3), Classes(Samples(5), 3)),
    "kinds in plane": (OfClasses(InPlane(3), 2), Classes(Disk(5), 2)),
}
KNOWN: dict[str, tuple[View, Object]] = {  # whose weights are not estimated
    "on a tilted grid, ball": (Conical(50.0, 6, 10.0, 0.2), Ball(7, 3)),
    "on a tilted grid, voxels": (Conical(-20.0, 3), Voxels(6)),
}
views = pytest.mark.parametrize(("view", "object"), VIEWS.values(), ids=VIEWS.keys())


@pytest.mark.parametrize(("view", "object"), (VIEWS | KNOWN).values(), ids=(VIEWS | KNOWN).keys())
def test_views_have_weights_templates_and_an_exact_adjoint(view: View, object: Object) -> None:
    assert view.log_weights.shape == (len(view),)
    assert float(view.log_weights.exp().sum()) == pytest.approx(1)
    x = noise(object.size)
    operator = view.operator(object, x)
    seen = operator.project(x)
    assert seen.shape == (len(view), *view.image_shape(object))
    y = noise(*seen.shape, seed=1)
    assert float((seen * y).sum()) == pytest.approx(float((x * operator.backproject(y)).sum()), rel=1e-11)


@views
def test_weights_are_estimated_from_counts(view: View, object: Object) -> None:
    assert isinstance(view, Weighable)
    counts = torch.arange(1.0, len(view) + 1, dtype=torch.float64)
    found = view.estimated(counts, turning=False)
    assert torch.allclose(found.exp(), counts / counts.sum(), rtol=5e-3)
    weighted = view.weighted(found)
    assert torch.equal(weighted.log_weights, found)
    assert weighted.digest != view.digest
    turning = view.estimated(counts, turning=True).exp()
    assert float(turning.sum()) == pytest.approx(1)
    if isinstance(view, OfClasses):  # of kinds alone
        kinds = counts.unflatten(0, (view.count, -1)).sum(1) / counts.sum()
        assert torch.allclose(turning.unflatten(0, (view.count, -1)).sum(1), kinds, rtol=5e-3)
        assert float(turning.unflatten(0, (view.count, -1)).std(1, correction=0).max()) < 1e-12
    else:
        assert torch.equal(turning.log(), view.log_weights)


def test_turned_views_see_the_turned_object() -> None:
    """Templates of V from views turned by Rz(a) are those of V turned by a."""
    disk, x = Disk(7), noise(Disk(7).size)
    turn = torch.tensor(0.9, dtype=torch.float64)
    matrix = torch.zeros(3, 3, dtype=torch.float64)
    matrix[:2, :2] = torch.stack([torch.stack([turn.cos(), -turn.sin()]), torch.stack([turn.sin(), turn.cos()])])
    matrix[2, 2] = 1
    view = InPlane(6, 0.1)
    seen = view.turned(matrix).operator(disk, x).project(x)
    assert torch.allclose(seen, view.operator(disk, x).project(disk.rotate(x, turn)), atol=1e-11)
    # uniform rotations turn by uniform angles
    turns = rotation.random_rotations(4000, torch.Generator().manual_seed(1))
    firsts = torch.tensor([InPlane(1).turned(each).first for each in turns])
    assert abs(float(torch.polar(torch.ones_like(firsts), firsts).mean().abs())) < 0.05


def test_kinds_of_another_number_are_refused() -> None:
    x = noise(15)
    with pytest.raises(ValueError, match=r"object must have 2 kinds.*got 3"):
        OfClasses(Identity(), 2).operator(Classes(Samples(5), 3), x)
