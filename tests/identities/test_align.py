"""Alignment and comparison: truths are Gaussians rendered where the estimate must land."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.evaluate.align import align, apply
from unpicked.evaluate.compare import aligned, compare
from unpicked.evaluate.resample import match_grid, sphere, transform
from unpicked.ops.fourier import mirror
from unpicked.ops.rotation import geodesic_distance, random_rotations

KEYS = {
    "correlation", "relative_error", "resolution_05", "resolution_0143", "at_nyquist", "nyquist", "fsc",
    "fsc_area", "hand", "hand_margin", "rotation", "shift",
}  # fmt: skip
VOXEL = 2.5


def render(box: int, places: torch.Tensor, weights: torch.Tensor, width: float) -> torch.Tensor:
    """Gaussians at places (k, 3), xyz in voxels from voxel N // 2, on an array z, y, x."""
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    factors = [torch.exp(-(axis - places[:, i, None]).square() / (2 * width**2)) for i in range(3)]
    return torch.einsum("k,kz,ky,kx->zyx", weights, factors[2], factors[1], factors[0])


def molecule(box: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A compact chiral heap of eight Gaussians within 0.22 boxes of the centre."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    radii = torch.rand(8, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
    weights = 0.5 + torch.rand(8, generator=generator, dtype=torch.float64)
    return (
        0.22 * box * radii * places / places.norm(dim=-1, keepdim=True),
        weights,
        min(max(1.0, box / 25), 1.5),
    )


def pair(box: int, seed: int, shift: float, mirrored: bool) -> tuple[Map, Map, torch.Tensor, torch.Tensor]:
    """An estimate, the truth on which it must land, and the planted rotation and shift (voxels)."""
    generator = torch.Generator().manual_seed(1000 + seed)
    places, weights, width = molecule(box, seed)
    turn = random_rotations(1, generator)[0]
    direction = torch.randn(3, generator=generator, dtype=torch.float64)
    move = shift * direction / direction.norm()
    hand = torch.tensor([1.0, 1.0, -1.0 if mirrored else 1.0], dtype=torch.float64)
    truth = render(box, (places * hand) @ turn.T + move, weights, width)
    return Map(render(box, places, weights, width), VOXEL), Map(truth, VOXEL), turn, move


def check(box: int, seed: int, shift: float, mirrored: bool) -> None:
    estimate, truth, turn, move = pair(box, seed, shift, mirrored)
    found = compare(estimate, truth)
    assert found.hand == ("mirrored" if mirrored else "same")
    assert found.hand_decidable
    assert found.hand_margin > 0
    assert found.correlation > 0.999
    assert found.relative_error < 0.03
    assert found.at_nyquist
    assert float(geodesic_distance(torch.tensor(found.rotation, dtype=torch.float64), turn)) < 0.5
    assert math.dist(found.shift, (move * VOXEL).tolist()) < 0.05 * VOXEL


@pytest.mark.parametrize("box", [11, 12, 16, 17, 32, 33])
@pytest.mark.parametrize("mirrored", [False, True])
def test_transform_is_that_of_the_analytic_map(box: int, mirrored: bool) -> None:
    estimate, truth, turn, move = pair(box, box, 0.7, mirrored)
    moved = transform(estimate.values, turn, move, mirrored)
    assert float((moved - truth.values).norm() / truth.values.norm()) < 0.02


def test_transform_by_splines_agrees_too() -> None:
    estimate, truth, turn, move = pair(48, 1, 3.0, True)
    moved = transform(estimate.values.float(), turn.float(), move.float(), True)
    assert moved.dtype == torch.float32
    assert float((moved - truth.values).norm() / truth.values.norm()) < 1e-3


@pytest.mark.parametrize("box", [11, 12])
def test_transform_exact_turns_and_background(box: int) -> None:
    places, weights, width = molecule(box, 3)
    values = render(box, places, weights, width)
    eye, none = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(transform(values, eye, none, False), values)
    torch.testing.assert_close(transform(values, eye, none, True), mirror(values, (0,)))
    lifted = transform(values + 5, random_rotations(1, torch.Generator().manual_seed(1))[0], none, False)
    assert float((lifted - 5).abs().max()) < 1.2 * float(values.max())


@pytest.mark.parametrize("box", [11, 16])
def test_identity(box: int) -> None:
    estimate, _, _, _ = pair(box, 5, 0.0, False)
    found = compare(estimate, estimate)
    assert found.hand == "same"
    assert found.correlation > 0.99999
    assert found.relative_error < 1e-3
    assert found.scale == pytest.approx(1, abs=1e-3)
    assert found.fsc_area == pytest.approx(1, abs=1e-4)
    assert (found.resolution_05, found.resolution_0143, found.nyquist) == (2 * VOXEL,) * 3


@pytest.mark.parametrize(
    ("box", "seed", "shift", "mirrored"),
    [
        (11, 0, 0.0, False), (11, 1, 0.3, True), (11, 2, 2.0, False), (11, 3, 2.0, True), (11, 4, 0.3, True),
        (12, 0, 0.0, True), (12, 1, 0.3, False), (12, 2, 2.0, True),
        (16, 0, 0.3, True), (16, 1, 3.0, True),
        (17, 0, 0.3, True), (17, 1, 3.0, False),
        (32, 0, 3.0, True), (33, 1, 3.0, True),
    ],
)  # fmt: skip
def test_rotated_shifted_mirrored_copies_are_found(box: int, seed: int, shift: float, mirrored: bool) -> None:
    check(box, seed, shift, mirrored)


@pytest.mark.slow
@pytest.mark.parametrize("box", [64, 65])
@pytest.mark.parametrize("mirrored", [False, True])
def test_copies_are_found_in_large_boxes(box: int, mirrored: bool) -> None:
    check(box, 2, 3.0, mirrored)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 30))
def test_many_small_molecules(seed: int) -> None:
    check(11 + seed % 2, seed, 1.0, bool(seed // 2 % 2))


def test_a_shift_beyond_half_the_box_is_not_taken_modulo_the_box() -> None:
    ball = torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [0, 0, 4.0], [-2.0, 1, 1]], dtype=torch.float64)
    weights, offset = torch.tensor([1.0, 1.3, 0.8, 0.6], dtype=torch.float64), torch.tensor([9.0, 0, 0])
    estimate = Map(render(32, ball - offset, weights, 1.3), VOXEL)
    truth = Map(render(32, ball + offset, weights, 1.3), VOXEL)
    found = align(estimate, truth)
    assert found.score > 0.99
    assert found.shift.tolist() == pytest.approx([18 * VOXEL, 0, 0], abs=0.2)


def test_a_noisy_estimate_still_lands() -> None:
    estimate, truth, turn, _ = pair(16, 7, 1.0, True)
    noise = torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    noisy = Map(estimate.values + 0.15 * estimate.values.max() * noise, VOXEL)
    found = compare(noisy, truth)
    assert found.hand == "mirrored"
    assert found.hand_decidable
    assert float(geodesic_distance(torch.tensor(found.rotation, dtype=torch.float64), turn)) < 5
    assert not found.at_nyquist
    assert found.resolution_05 is not None
    assert found.resolution_05 > 2 * VOXEL


@pytest.mark.parametrize("box", [11, 16])
def test_the_hand_of_a_ball_is_undecidable(box: int) -> None:
    ball = Map(render(box, torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, dtype=torch.float64), 1.7), VOXEL)
    found = compare(ball, ball)
    assert found.correlation > 0.999
    assert not found.hand_decidable
    assert any("hand undecidable" in note for note in found.notes)


def test_the_hand_of_noise_is_undecidable() -> None:
    _, truth, _, _ = pair(11, 8, 0.0, False)
    noise = torch.randn(11, 11, 11, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = compare(Map(noise, VOXEL), truth)
    assert not found.hand_decidable


def test_scale_and_contrast_of_the_estimate_are_not_fitted() -> None:
    estimate, truth, _, _ = pair(11, 9, 0.5, False)
    found = compare(Map(2 * estimate.values, VOXEL), truth)
    assert found.correlation > 0.999
    assert found.relative_error == pytest.approx(1, abs=0.02)
    assert found.scale == pytest.approx(0.5, abs=0.01)


def test_a_symmetric_map_and_its_note() -> None:
    angle = torch.arange(4, dtype=torch.float64) * math.pi / 2
    ring = torch.stack([3 * angle.cos(), 3 * angle.sin(), torch.full_like(angle, 1.5)], -1)
    arm = torch.stack([2 * (angle + 0.5).cos(), 2 * (angle + 0.5).sin(), torch.full_like(angle, -1.5)], -1)
    places, weights = torch.cat([ring, arm]), torch.tensor([1.0] * 4 + [0.8] * 4, dtype=torch.float64)
    turn = random_rotations(1, torch.Generator().manual_seed(5))[0]
    found = compare(
        Map(render(16, places, weights, 1.1), VOXEL),
        Map(render(16, places @ turn.T, weights, 1.1), VOXEL),
        symmetry="C4",
    )
    assert found.correlation > 0.999
    assert any("C4" in note for note in found.notes)


def test_json_has_the_documented_keys() -> None:
    estimate, truth, _, _ = pair(11, 1, 0.3, False)
    record = json.loads(json.dumps(compare(estimate, truth).to_json(), allow_nan=False))
    assert set(record) >= KEYS
    assert len(record["fsc"]) == 6
    assert [len(row) for row in record["rotation"]] == [3, 3, 3]
    assert len(record["shift"]) == 3


def test_aligned_lies_on_the_truth_in_its_own_dtype() -> None:
    estimate, truth, _, _ = pair(11, 2, 0.5, True)
    before = estimate.values.clone()
    moved = aligned(Map(estimate.values.float(), VOXEL), truth)
    assert (moved.box, moved.voxel_size, moved.values.dtype) == (11, VOXEL, torch.float32)
    assert float((moved.values - truth.values).norm() / truth.values.norm()) < 0.02
    found = align(estimate, truth)
    again = apply(found, estimate, truth)
    torch.testing.assert_close(again.values.float(), moved.values, atol=1e-3, rtol=0)
    torch.testing.assert_close(estimate.values, before)


@pytest.mark.parametrize(
    ("box", "voxel"),
    [(32, VOXEL / 2), (24, VOXEL), (36, VOXEL / 1.5), (31, VOXEL / 1.5)],
)
def test_other_grids_are_brought_to_the_truth_s(box: int, voxel: float) -> None:
    places, weights, width = molecule(16, 6)
    width = 1.3
    factor = VOXEL / voxel
    estimate = Map(render(box, places * factor, weights, width * factor), voxel)
    truth = Map(render(16, places, weights, width), VOXEL)
    matched = match_grid(estimate, truth)
    assert (matched.box, matched.voxel_size) == (16, VOXEL)
    assert float((matched.values - truth.values).norm() / truth.values.norm()) < 0.02


def test_bad_input_is_refused_in_one_line() -> None:
    _, good, _, _ = pair(11, 1, 0.0, False)
    hole = good.values.clone()
    hole[1, 2, 3] = math.nan
    cube = torch.ones(11, 11, 11)
    cases = [
        (lambda: compare(Map(hole, VOXEL), good), "estimate must be finite"),
        (lambda: compare(good, Map(hole, VOXEL)), "truth must be finite"),
        (lambda: compare(Map(cube, VOXEL), good), "estimate must hold a structure"),
        (lambda: compare(Map(0 * cube, VOXEL), good), "estimate must hold a structure"),
        (lambda: compare(good, Map(cube, VOXEL)), "truth must hold a structure"),
        (lambda: compare(Map(torch.ones(0, 0, 0), VOXEL), good), "at least 4 voxels"),
        (lambda: compare(Map(good.values, 1e-3), good), r"0.001 A.*2.5 A"),
        (lambda: compare(good, good, symmetry="X3"), "symmetry"),
        (lambda: compare(good, good, symmetry="C0"), "symmetry"),
        (lambda: align(Map(torch.tensor(math.inf) * cube, VOXEL), good), "finite"),
        (lambda: transform(good.values, 2 * torch.eye(3), torch.zeros(3), False), "orthogonal"),
        (lambda: transform(good.values, -torch.eye(3), torch.zeros(3), False), "mirrored=True"),
        (lambda: transform(good.values, torch.eye(3), torch.zeros(2), False), "shift"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="real map"):
        align(Map(good.values.to(torch.complex64), VOXEL), good)
    with pytest.raises(TypeError, match="string"):
        compare(good, good, symmetry=4)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_turned_ribosome_is_found(shared_data: Callable[[str], Path], mirrored: bool) -> None:
    import mrcfile

    with mrcfile.open(shared_data("maps/clean70SRibosome_vol_65p.mrc"), permissive=True) as file:
        values = torch.tensor(file.data, dtype=torch.float64)
    turn = random_rotations(1, torch.Generator().manual_seed(11))[0]
    move = torch.tensor([3.0, -0.3, 1.2], dtype=torch.float64)
    found = compare(Map(values, 5.0), Map(transform(values, turn, move, mirrored), 5.0))
    assert found.hand == ("mirrored" if mirrored else "same")
    assert found.hand_decidable
    assert found.correlation > 0.999
    assert float(geodesic_distance(torch.tensor(found.rotation, dtype=torch.float64), turn)) < 0.2
    assert math.dist(found.shift, (5 * move).tolist()) < 0.5


def test_the_cosine_follows_from_error_and_scale() -> None:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(9, 9, 9, generator=generator, dtype=torch.float64) * sphere(9)
    values = values + 0.7 * sphere(9)
    other = 0.8 * values + 0.1 * torch.randn(9, 9, 9, generator=generator, dtype=torch.float64) * sphere(9)
    found = compare(Map(other, 2.0), Map(values, 2.0))
    assert found.cosine == pytest.approx(float((other * values).sum() / other.norm() / values.norm()), abs=5e-3)
    assert found.cosine > found.correlation
