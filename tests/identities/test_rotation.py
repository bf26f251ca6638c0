"""Rotations against their definitions, scipy, and known figures (conventions, sections 4 and 5)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from unpicked.ops import rotation

Tensor = torch.Tensor
ANGLES = st.floats(-360, 360, allow_nan=False, width=64)
steady = settings(max_examples=200, derandomize=True, deadline=None, database=None)


def turns(count: int, seed: int = 0) -> Tensor:
    return rotation.random_rotations(count, torch.Generator().manual_seed(seed))


def about(axis: str, degrees: float) -> Tensor:
    """The active elementary matrices as the conventions write them."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rows = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }
    return torch.tensor(rows[axis], dtype=torch.float64)


def assert_rotation(matrix: Tensor, tolerance: float = 1e-12) -> None:
    eye = torch.eye(3, dtype=matrix.dtype).expand_as(matrix)
    assert torch.allclose(matrix @ matrix.mT, eye, rtol=0, atol=tolerance)
    assert torch.allclose(torch.linalg.det(matrix), matrix.new_ones(matrix.shape[:-2]), rtol=0, atol=tolerance)


def difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


def test_euler_matrix_is_the_product_of_elementary_turns() -> None:
    for a, b, g in ((10.0, 20.0, 30.0), (-100.0, 170.0, 359.0), (0.0, 0.0, 45.0), (33.0, 180.0, 70.0)):
        expected = about("z", -g) @ about("y", -b) @ about("z", -a)
        found = rotation.euler_to_matrix(torch.tensor([a, b, g], dtype=torch.float64))
        assert difference(found, expected) < 1e-15


def test_euler_matrix_is_the_transpose_of_scipys_intrinsic_zyz() -> None:
    angles = torch.rand(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 360 - 180
    expected = torch.tensor(Rotation.from_euler("ZYZ", angles.numpy(), degrees=True).as_matrix()).mT
    found = rotation.euler_to_matrix(angles)
    assert difference(found, expected) < 1e-14
    assert difference(found, expected.mT) > 1


def test_euler_angles_come_back() -> None:
    angles = torch.tensor(
        [[10, 20, 30], [-170, 90, 175], [179, 1, -179], [0, 179, 0], [45, 1e-3, -60], [45, 179.999, -60]],
        dtype=torch.float64,
    )
    found = rotation.matrix_to_euler(rotation.euler_to_matrix(angles))
    assert difference(found, angles) < 1e-10


@steady
@given(rot=ANGLES, tilt=st.floats(0, 180, width=64), psi=ANGLES)
@example(rot=33.0, tilt=0.0, psi=70.0)
@example(rot=33.0, tilt=180.0, psi=70.0)
@example(rot=33.0, tilt=1e-12, psi=70.0)
@example(rot=33.0, tilt=180 - 1e-12, psi=70.0)
@example(rot=-120.0, tilt=1e-7, psi=170.0)
@example(rot=-120.0, tilt=180 - 1e-7, psi=170.0)
@example(rot=33.0, tilt=5e-5, psi=70.0)
@example(rot=33.0, tilt=6e-5, psi=70.0)
@example(rot=200.0, tilt=90.0, psi=-200.0)
@example(rot=1.0, tilt=5e-324, psi=1.0)
def test_matrix_to_euler_and_back_is_the_same_rotation(rot: float, tilt: float, psi: float) -> None:
    matrix = rotation.euler_to_matrix(torch.tensor([rot, tilt, psi], dtype=torch.float64))
    angles = rotation.matrix_to_euler(matrix)
    assert difference(rotation.euler_to_matrix(angles), matrix) < 4e-15
    assert -180 <= float(angles[0]) <= 180
    assert 0 <= float(angles[1]) <= 180
    assert -180 <= float(angles[2]) <= 180


@pytest.mark.parametrize("sign", [1, -1])
def test_rot_is_zero_at_the_poles(sign: int) -> None:
    """Matrices that are a turn about z exactly, and those whose sine of the tilt is a rounding error."""
    exact = about("z", 25.0) @ torch.diag(torch.tensor([sign, 1, sign], dtype=torch.float64))
    rounded = rotation.euler_to_matrix(torch.tensor([40.0, 0.0 if sign > 0 else 180.0, 70.0], dtype=torch.float64))
    for matrix in (exact, rounded, -0.0 + exact):
        angles = rotation.matrix_to_euler(matrix)
        assert float(angles[0]) == 0
        assert float(angles[1]) == pytest.approx(0 if sign > 0 else 180, abs=1e-12)
        assert difference(rotation.euler_to_matrix(angles), matrix) < 1e-15
    assert float(rotation.matrix_to_euler(rounded)[2]) == pytest.approx(110 if sign > 0 else 30, abs=1e-12)


def test_single_precision_matrices_give_angles_to_single_precision() -> None:
    angles = torch.tensor([[33, 0.01, 70], [33, 179.99, 70], [33, 1e-3, 70], [-100, 60, 20]], dtype=torch.float64)
    matrix = rotation.euler_to_matrix(angles)
    found = rotation.matrix_to_euler(matrix.float())
    assert found.dtype == torch.float32
    assert difference(rotation.euler_to_matrix(found.double()), matrix) < 1e-6


def test_quaternion_matrix_is_scipys_with_w_first() -> None:
    q = torch.randn(100, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = torch.tensor(Rotation.from_quat(q[:, [1, 2, 3, 0]].numpy()).as_matrix())
    assert difference(rotation.quaternion_to_matrix(q), expected) < 1e-14


@pytest.mark.parametrize(
    "matrix",
    [
        torch.eye(3, dtype=torch.float64),
        about("x", 180),
        about("y", 180),
        about("z", 180),
        about("x", 180 - 1e-9) @ about("y", 1e-9),
        about("z", 120) @ about("x", 179.9999),
    ],
    ids=["identity", "half turn x", "half turn y", "half turn z", "near a half turn", "large"],
)
def test_quaternions_of_special_rotations_come_back(matrix: Tensor) -> None:
    q = rotation.matrix_to_quaternion(matrix)
    assert float(q.norm()) == pytest.approx(1, abs=1e-15)
    assert float(q[0]) >= 0
    assert difference(rotation.quaternion_to_matrix(q), matrix) < 1e-15


def test_quaternions_of_random_rotations_come_back() -> None:
    matrices = turns(500)
    q = rotation.matrix_to_quaternion(matrices)
    assert bool((q[:, 0] >= 0).all())
    assert difference(rotation.quaternion_to_matrix(q), matrices) < 1e-14


def test_s2s2_rows_are_the_two_vectors_made_orthonormal() -> None:
    vectors = torch.randn(50, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = rotation.s2s2_to_matrix(vectors)
    assert_rotation(found, 1e-6)
    a, b = vectors[:, :3], vectors[:, 3:]
    assert difference(found[:, 0], a / a.norm(dim=1, keepdim=True)) < 1e-7
    assert bool(((found[:, 1] * b).sum(1) > 0).all())
    normal = torch.linalg.cross(a, b)
    assert difference(found[:, 2], normal / normal.norm(dim=1, keepdim=True)) < 1e-7


def test_s2s2_gives_a_rotation_back_from_its_first_rows() -> None:
    matrices = turns(50)
    scaled = torch.cat([3 * matrices[:, 0], 0.2 * matrices[:, 1] + matrices[:, 0]], -1)
    assert difference(rotation.s2s2_to_matrix(scaled), matrices) < 1e-6


def test_s2s2_has_a_correct_gradient_and_survives_zeros() -> None:
    vectors = torch.randn(2, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.autograd.gradcheck(rotation.s2s2_to_matrix, (vectors.requires_grad_(),))
    assert bool(rotation.s2s2_to_matrix(torch.zeros(6, dtype=torch.float64)).isfinite().all())


def test_exp_map_is_scipys_rotation_vector() -> None:
    w = 2 * torch.randn(100, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    w[:20] *= 1e-4
    w[20:40] *= 1e-9
    found = rotation.exp_map(w)
    assert difference(found, torch.tensor(Rotation.from_rotvec(w.numpy()).as_matrix())) < 4e-15
    assert_rotation(found)


def test_exp_map_turns_x_towards_y_about_z() -> None:
    found = rotation.exp_map(torch.tensor([0.0, 0.0, math.pi / 2], dtype=torch.float64))
    assert difference(found, about("z", 90)) < 1e-15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_gradient_of_exp_map_at_zero_is_the_generators(dtype: torch.dtype) -> None:
    jacobian = torch.autograd.functional.jacobian(rotation.exp_map, torch.zeros(3, dtype=dtype))
    expected = torch.zeros(3, 3, 3, dtype=dtype)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        expected[k, j, i], expected[j, k, i] = 1, -1  # d[w]x / dw_i has +1 at (k, j) and -1 at (j, k)
    assert torch.equal(jacobian, expected)


@pytest.mark.parametrize("length", [1e-6, 9.9e-5, 1.01e-4, 1e-2, 3.0])
def test_the_gradient_of_exp_map_is_correct_on_both_sides_of_the_series(length: float) -> None:
    """Exact: the derivative along w is R [w]x / |w|; in float32 to its precision."""
    w = torch.tensor([1.0, 2.0, -2.0], dtype=torch.float64) / 3
    cross = torch.tensor([[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]], dtype=torch.float64)
    expected = rotation.exp_map(w * length) @ cross
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-5)):
        x = (w * length).to(dtype)
        _, found = torch.autograd.functional.jvp(rotation.exp_map, x, w.to(dtype))
        assert difference(found.double(), expected) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("degrees", [0.0, 1e-7, 1e-3, 1.0, 90.0, 179.0, 179.999, 180 - 1e-7, 180.0])
def test_geodesic_distance_is_accurate_at_every_angle(degrees: float, dtype: torch.dtype) -> None:
    axes = torch.nn.functional.normalize(
        torch.randn(30, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64), dim=1
    )
    first = turns(30)
    second = first @ rotation.exp_map(axes * math.radians(degrees))
    found = rotation.geodesic_distance(first.to(dtype), second.to(dtype))
    assert found.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 4e-5
    assert float((found.double() - degrees).abs().max()) < tolerance


def test_geodesic_distance_is_a_metric_that_turns_do_not_change() -> None:
    a, b, c, q = (turns(40, seed) for seed in range(4))
    distance = rotation.geodesic_distance
    assert torch.allclose(distance(a, b), distance(b, a), rtol=0, atol=1e-11)
    assert bool((distance(a, c) <= distance(a, b) + distance(b, c) + 1e-9).all())
    assert torch.allclose(distance(q @ a, q @ b), distance(a, b), rtol=0, atol=1e-9)
    assert torch.allclose(distance(a @ q, b @ q), distance(a, b), rtol=0, atol=1e-9)
    assert distance(a[:, None], b[None]).shape == (40, 40)
    assert torch.allclose(distance(a[:, None], b[None]).diagonal(), distance(a, b))


def test_random_rotations_are_rotations_and_uniform() -> None:
    """Mean 0; E tr^2 = 1; angle density (1 - cos t) / pi, whose mean is 90 + 2 / pi rad = 126.5 degrees."""
    matrices = turns(20000)
    assert_rotation(matrices)
    assert float(matrices.mean(0).abs().max()) < 5 * (1 / 3 / 20000) ** 0.5
    traces = matrices.diagonal(dim1=1, dim2=2).sum(1)
    assert float(traces.square().mean()) == pytest.approx(1, abs=0.06)
    angles = rotation.geodesic_distance(matrices, torch.eye(3, dtype=torch.float64))
    assert float(angles.mean()) == pytest.approx(90 + math.degrees(2 / math.pi), abs=1.5)
    assert float(angles.std()) > 30


def test_random_rotations_depend_on_the_generator_only() -> None:
    torch.manual_seed(1)
    first = turns(3, 5)
    torch.manual_seed(2)
    assert torch.equal(first, turns(3, 5))
    assert not torch.equal(first, turns(3, 6))
    single = rotation.random_rotations(3, torch.Generator().manual_seed(5), dtype=torch.float32)
    assert single.dtype == torch.float32
    assert torch.equal(single, first.float())


def farness(grid: Tensor, others: Tensor) -> Tensor:
    """Degrees from each of the others to the grid's rotations, sorted near to far, `(n, 2)` nearest two."""
    near = rotation.matrix_to_quaternion(grid)
    far = rotation.matrix_to_quaternion(others)
    cosine = (far @ near.mT).abs().topk(2, dim=1).values.clamp(max=1)
    return torch.rad2deg(2 * cosine.acos())


def test_super_fibonacci_covers_all_rotations() -> None:
    grid = rotation.super_fibonacci(4608)
    assert grid.shape == (4608, 3, 3)
    assert_rotation(grid)
    covering = float(farness(grid, turns(4000))[:, 0].max())
    assert covering < 16
    assert covering > 9  # what the best arrangement of so many could reach is more than this


def test_super_fibonacci_neighbours_are_evenly_spread() -> None:
    """Random rotations have a spread of 0.3 and neighbours that all but coincide."""
    grid = rotation.super_fibonacci(4608)
    nearest = farness(grid, grid)[:, 1]
    assert float(nearest.std() / nearest.mean()) < 0.15
    assert float(nearest.min()) > 6
    random = farness(turns(4608), turns(4608))[:, 1]
    assert float(random.std() / random.mean()) > 0.25
    assert float(random.min()) < 3


def test_super_fibonacci_integrates_low_degrees() -> None:
    """The mean of a uniform set of matrices is 0 and of their squared entries 1/3."""
    grid = rotation.super_fibonacci(1000)
    assert float(grid.mean(0).abs().max()) < 0.01
    assert float((grid.square().mean(0) - 1 / 3).abs().max()) < 0.01


@pytest.mark.parametrize(("angle", "count"), [(15, 4400), (30, 550), (53, 100), (180, 3)])
def test_grid_sizes_are_those_of_the_documentation(angle: float, count: int) -> None:
    assert len(rotation.so3_grid(angle)) == pytest.approx(count, abs=0.5)


def test_grids_refuse_impossible_sizes() -> None:
    with pytest.raises(ValueError, match="count must be at least 1; got 0"):
        rotation.super_fibonacci(0)
    for angle in (0.5, 181.0, float("nan")):
        with pytest.raises(ValueError, match="angle must lie between 1 and 180 degrees; got"):
            rotation.so3_grid(angle)
    assert rotation.super_fibonacci(1).shape == (1, 3, 3)
