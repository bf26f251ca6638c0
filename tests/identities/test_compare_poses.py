"""Poses compared after one registration: planted frames, hands, swaps, outliers; pseudo-symmetries of objects."""

import json
import math

import pytest
import torch

from unpicked.data.maps import Map
from unpicked.data.poses import Poses
from unpicked.data.structure import Structure
from unpicked.evaluate.poses import compare_poses
from unpicked.evaluate.pseudosymmetry import pseudo_symmetries
from unpicked.io.mrc import read_map
from unpicked.io.structure import read_structure
from unpicked.ops.point_group import axis_angle, axis_turn, distinct, point_group
from unpicked.ops.rotation import exp_map, geodesic_distance, random_rotations

KEYS = {"median_deg", "mean_deg", "p90_deg", "below_10_deg", "view_median_deg", "inplane_median_deg", "shift_rmse_A",
        "hand", "count", "median_deg_pseudo", "below_10_deg_pseudo", "pseudo_axis", "pseudo_angle_deg"}  # fmt: skip
HAND = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
SWAP = axis_turn((1.0, -0.3, 0.2), 178.75)


def planted(count, seed, *, mirrored=False, swaps=0.0, wrong=0.0, noise=0.0, symmetry="C1"):
    """True poses, and estimates in another frame with another centre; what was planted by image."""
    g = torch.Generator().manual_seed(seed)
    truth, frame = random_rotations(count, g), random_rotations(1, g)[0]
    group = point_group(symmetry)
    turns = (HAND @ truth if mirrored else truth) @ group[torch.randint(len(group), (count,), generator=g)]
    swapped, lost = (torch.rand(count, generator=g) < share for share in (swaps, wrong))
    turns = torch.where(swapped[:, None, None], turns @ SWAP, turns) @ frame
    turns = exp_map(math.radians(noise) * torch.randn(count, 3, generator=g, dtype=torch.float64)) @ turns
    turns = torch.where(lost[:, None, None], random_rotations(count, g), turns)
    shifts = 4 * torch.randn(count, 2, generator=g, dtype=torch.float64)
    offset = 10 * torch.randn(3, generator=g, dtype=torch.float64)
    return Poses(turns, shifts - (turns @ offset)[:, :2]), Poses(truth, shifts), frame, offset, swapped & ~lost


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("count", [2, 3, 10, 1000])
def test_a_free_frame_hand_and_centre_are_no_error(count, mirrored):
    for seed in range(3):
        estimate, truth, frame, offset, _ = planted(count, seed, mirrored=mirrored)
        found = compare_poses(estimate, truth)
        for name in ("median_deg", "mean_deg", "p90_deg", "view_median_deg", "inplane_median_deg"):
            assert getattr(found, name) < 1e-5
        assert found.below_10_deg == 1 and found.count == count
        assert found.hand == ("mirrored" if mirrored else "same") and found.hand_margin > 0.4
        assert torch.allclose(torch.tensor(found.rotation, dtype=torch.float64), frame, atol=1e-9)
        assert found.shift_rmse_A < 1e-6
        if count > 2:
            assert torch.allclose(torch.tensor(found.offset_A, dtype=torch.float64), offset, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_half_the_images_at_the_pseudo_symmetric_answer_are_bad_plain_and_good_modulo(seed):
    estimate, truth, *_, swapped = planted(800, seed, mirrored=seed % 2 == 1, swaps=0.5)
    found = compare_poses(estimate, truth, pseudo=SWAP[None])
    share = max(float(swapped.double().mean()), 1 - float(swapped.double().mean()))
    assert found.mean_deg == pytest.approx(178.75 * (1 - share), abs=0.1) and 80 < found.mean_deg < 95
    assert found.below_10_deg == pytest.approx(share, abs=1e-9)
    assert found.median_deg_pseudo < 0.01 and found.below_10_deg_pseudo == 1 and found.mean_deg_pseudo < 0.01
    assert max(found.copies) == pytest.approx(share, abs=1e-9) and sum(found.copies) == pytest.approx(1)
    assert found.pseudo_angle_deg == pytest.approx(178.75)
    axis = torch.tensor(found.pseudo_axis, dtype=torch.float64)
    assert abs(float(axis @ torch.tensor([1.0, -0.3, 0.2], dtype=torch.float64))) == pytest.approx(math.sqrt(1.13))


@pytest.mark.parametrize("seed", range(4))
def test_swaps_and_wrong_images_together_do_not_move_the_registration(seed):
    estimate, truth, *_ = planted(1000, seed, mirrored=seed % 2 == 0, swaps=0.5, wrong=0.2)
    found = compare_poses(estimate, truth, pseudo=SWAP[None])
    assert found.hand == ("mirrored" if seed % 2 == 0 else "same")
    assert found.median_deg_pseudo < 0.01 and found.below_10_deg_pseudo == pytest.approx(0.8, abs=0.06)
    assert found.mean_deg > 80


@pytest.mark.parametrize("wrong", [0.3, 0.9])
def test_the_frame_survives_noise_and_outliers(wrong):
    for seed in range(3):
        estimate, truth, frame, *_ = planted(1000, seed, wrong=wrong, noise=3.0)
        found = compare_poses(estimate, truth)
        turn = torch.tensor(found.rotation, dtype=torch.float64)
        # 3 degrees about each axis: the mean of k right images is off by 3 sqrt(3 / k) r.m.s.; allow 2.5 times that
        assert float(geodesic_distance(turn, frame)) < 2.5 * 3 * math.sqrt(3 / (1000 * (1 - wrong)))
        assert found.hand == "same"


def test_the_error_of_noise_is_the_noise():
    estimate, truth, *_ = planted(4000, 7, noise=2.0)
    found = compare_poses(estimate, truth)
    # lengths of three normal components: median 1.538 s, mean 1.596 s; of two: 1.177 s; of one: 0.674 s
    assert found.median_deg == pytest.approx(1.538 * 2, rel=0.04) and found.mean_deg == pytest.approx(
        1.596 * 2, rel=0.04
    )
    assert found.view_median_deg == pytest.approx(1.177 * 2, rel=0.05)
    assert found.inplane_median_deg == pytest.approx(0.674 * 2, rel=0.06)


@pytest.mark.parametrize("symmetry", ["C2", "C7", "D3", "T", "O", "I"])
def test_any_member_of_the_group_is_right(symmetry):
    for seed, mirrored in enumerate((False, True)):
        estimate, truth, *_ = planted(300, seed, mirrored=mirrored, wrong=0.2, symmetry=symmetry)
        found = compare_poses(estimate, truth, symmetry=symmetry)
        assert found.median_deg < 1e-5 and found.hand == ("mirrored" if mirrored else "same")
        assert compare_poses(estimate, truth).below_10_deg < 0.8


@pytest.mark.parametrize("count", [10, 1000])
def test_random_poses_have_large_errors_and_no_hand(count):
    hands = []
    for seed in range(6):
        found = compare_poses(*planted(count, seed, wrong=1.0)[:2])
        hands.append(found.hand)
        assert found.hand_margin < 0.2
        assert found.mean_deg > (110 if count == 1000 else 70)  # uniform: pi / 2 + 2 / pi rad = 126 degrees
    assert hands == ["undetermined"] * 6


def test_views_along_one_axis_do_not_tell_the_hand():
    g = torch.Generator().manual_seed(3)
    angles = 360 * torch.rand(200, generator=g, dtype=torch.float64)
    turns = torch.stack([axis_turn((0.0, 0.0, 1.0), float(angle)) for angle in angles])
    poses = Poses(turns, torch.zeros(200, 2))
    found = compare_poses(poses, Poses(turns.clone(), torch.zeros(200, 2)))
    assert found.hand == "undetermined" and found.median_deg < 1e-5


def test_kinds_are_what_they_say():
    estimate, truth, *_ = planted(500, 2, noise=10.0)
    by_kind = {kind: compare_poses(estimate, truth, kind=kind) for kind in ("geodesic", "view", "frobenius", "mae")}
    plain = by_kind["geodesic"]
    assert by_kind["frobenius"].median_deg == pytest.approx(plain.median_deg, abs=1e-6)
    assert by_kind["mae"].mean_deg == plain.mean_deg
    assert by_kind["view"].median_deg == plain.view_median_deg < plain.median_deg


def test_wrong_shifts_are_told_and_do_not_pull_the_centre():
    estimate, truth, _, offset, _ = planted(1000, 4)
    g = torch.Generator().manual_seed(9)
    noise = torch.randn(1000, 2, generator=g, dtype=torch.float64)
    noisy = compare_poses(Poses(estimate.rotations, estimate.shifts + noise), truth)
    assert noisy.shift_rmse_A == pytest.approx(math.sqrt(2), rel=0.06)
    far = torch.where(torch.rand(1000, 1, generator=g) < 0.2, 300.0, 0.0)
    pulled = compare_poses(Poses(estimate.rotations, estimate.shifts + far), truth)
    assert torch.allclose(torch.tensor(pulled.offset_A, dtype=torch.float64), offset, atol=0.5)
    assert pulled.shift_rmse_A == pytest.approx(300 * math.sqrt(2 * 0.2), rel=0.15)


def test_json_has_every_key_of_the_contract():
    estimate, truth, *_ = planted(50, 1)
    plain = json.loads(json.dumps(compare_poses(estimate, truth).to_json(), allow_nan=False))
    assert set(plain) >= KEYS and plain["median_deg_pseudo"] is None and plain["pseudo_axis"] is None
    assert compare_poses(estimate, truth, pseudo=SWAP[None]).to_json()["pseudo_angle_deg"] == pytest.approx(178.75)


def test_single_precision_and_repeats_give_the_same():
    estimate, truth, *_ = planted(1500, 3, wrong=0.3)
    single = [Poses(p.rotations.float(), p.shifts.float()) for p in (estimate, truth)]
    assert compare_poses(*single).median_deg < 1e-4
    assert compare_poses(estimate, truth) == compare_poses(estimate, truth)


def test_bad_poses_are_refused():
    estimate, truth, *_ = planted(5, 1)
    with pytest.raises(ValueError, match="5 estimated and 4 true"):
        compare_poses(estimate, Poses(truth.rotations[:4], truth.shifts[:4]))
    with pytest.raises(ValueError, match="at least 2 images"):
        compare_poses(Poses(estimate.rotations[:1], estimate.shifts[:1]), Poses(truth.rotations[:1], truth.shifts[:1]))
    with pytest.raises(ValueError, match="rotation matrices; number 3"):
        bad = estimate.rotations.clone()
        bad[2] = torch.nan
        compare_poses(Poses(bad, estimate.shifts), truth)
    with pytest.raises(ValueError, match="rotation matrices; number 1"):
        compare_poses(Poses(-estimate.rotations, estimate.shifts), truth)
    with pytest.raises(ValueError, match="symmetry must be"):
        compare_poses(estimate, truth, symmetry="X2")
    with pytest.raises(ValueError, match="kind must be"):
        compare_poses(estimate, truth, kind="best")
    with pytest.raises(ValueError, match="pseudo must be"):
        compare_poses(estimate, truth, pseudo=SWAP)


@pytest.mark.parametrize(("name", "order"), [("C5", 5), ("D4", 8), ("T", 12), ("O", 24), ("I", 60), ("I4", 60)])
def test_point_groups_are_groups(name, order):
    group = point_group(name)
    assert len(group) == order and torch.equal(group[0], torch.eye(3, dtype=torch.float64))
    assert len(distinct((group[:, None] @ group).flatten(0, 1))) == order


def test_relion_settings_of_the_icosahedron():
    """Three-fold axes of I1 to I4 as RELION's table of symmetries states them."""
    for name, axis in (("I1", (0.93417, 0.35682, 0.0)), ("I2", (0.0, 0.35682, 0.93417)),
                       ("I3", (-0.49112, 0.35682, 0.79465)), ("I4", (0.49112, 0.35682, 0.79465))):  # fmt: skip
        assert float(geodesic_distance(point_group(name), axis_turn(axis, 120)).min()) < 1e-3


# --------------------------------------------------------------------------------------------- pseudo-symmetry


def blobs(turns, seed, box=32, noise=0.0):
    """A map of Gaussians at random places and their turned copies, off the centre, in a random frame."""
    g = torch.Generator().manual_seed(seed)
    frame = random_rotations(1, g)[0]
    places = 5 * torch.randn(12, 3, generator=g, dtype=torch.float64).clamp(-1.6, 1.6)
    weights = 0.5 + torch.rand(12, generator=g, dtype=torch.float64)
    jitter = noise * torch.randn(len(turns), 12, 3, generator=g, dtype=torch.float64)
    centre = 2 * torch.rand(3, generator=g, dtype=torch.float64) - 1
    points = ((turns[:, None] @ places[..., None])[..., 0] + jitter) @ frame.T + centre
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    values = torch.zeros(box, box, box, dtype=torch.float64)
    for copy in points:
        for weight, point in zip(weights, copy, strict=True):
            x, y, z = (torch.exp(-(axis - c).square() / (2 * 1.8**2)) for c in point)
            values += weight * z[:, None, None] * y[:, None] * x
    return Map(values, 2.0), frame


def test_a_c4_map_has_its_axis_and_its_two_angles():
    source, frame = blobs(point_group("C4"), 1)
    found = pseudo_symmetries(source)
    assert sorted(round(one.angle_deg) for one in found) == [90, 180]
    for one in found:
        assert abs(float(torch.tensor(one.axis, dtype=torch.float64) @ frame[:, 2])) > math.cos(math.radians(0.5))
        assert one.score > 0.98 and one.rmsd is None


@pytest.mark.slow
def test_a_shell_with_icosahedral_symmetry_has_all_its_rotations():
    g = torch.Generator().manual_seed(3)
    places = torch.randn(3, 3, generator=g, dtype=torch.float64)
    places = 12 * places / places.norm(dim=-1, keepdim=True)
    frame = random_rotations(1, g)[0]
    axis = torch.arange(32, dtype=torch.float64) - 16
    values = torch.zeros(32, 32, 32, dtype=torch.float64)
    for point in (point_group("I")[:, None] @ places[..., None])[..., 0].flatten(0, 1) @ frame.T:
        x, y, z = (torch.exp(-(axis - c).square() / 3) for c in point)
        values += z[:, None, None] * y[:, None] * x
    angles = [round(one.angle_deg) for one in pseudo_symmetries(Map(values, 2.0))]
    assert sorted(angles) == [72] * 6 + [120] * 10 + [144] * 6 + [180] * 15


@pytest.mark.parametrize("seed", [2, 3])
def test_an_approximate_two_fold_of_a_map_is_found_and_a_map_without_one_has_none(seed):
    source, frame = blobs(point_group("C2"), seed, noise=0.3)
    (one,) = pseudo_symmetries(source)
    assert one.angle_deg == pytest.approx(180, abs=3) and 0.9 < one.score < 0.9999
    assert abs(float(torch.tensor(one.axis, dtype=torch.float64) @ frame[:, 2])) > math.cos(math.radians(3))
    assert pseudo_symmetries(blobs(point_group("C1"), seed)[0]) == []


def test_round_and_axial_objects_have_no_peaks():
    axis = torch.arange(24, dtype=torch.float64) - 12
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    ball = torch.exp(-(x**2 + y**2 + z**2) / 18)
    pear = ball + 0.7 * torch.exp(-(x**2 + y**2 + (z - 6) ** 2) / 8)
    assert pseudo_symmetries(Map(ball, 1.0)) == []
    assert pseudo_symmetries(Map(pear, 1.0)) == []


def test_the_4ake_dimer_by_its_atoms_and_by_its_map(shared_data):
    (atoms,) = pseudo_symmetries(read_structure(shared_data("structures/4ake_dimer_workshop.pdb")))
    assert atoms.angle_deg == pytest.approx(178.75, abs=0.01)  # C-alpha atoms of one chain on the other's
    assert axis_angle(atoms.rotation)[1] == pytest.approx(180, abs=1e-6)  # a swap is its own inverse
    assert atoms.score > 0.9 and atoms.rmsd < 1.5
    (seen,) = pseudo_symmetries(read_map(shared_data("maps/adk_4ake_dimer_128_0.8A_B20.mrc")))
    assert seen.score > 0.9
    assert float(geodesic_distance(seen.rotation, atoms.rotation)) < 0.5


def test_one_chain_and_a_ribosome_have_no_pseudo_symmetry(shared_data, bpti):
    assert pseudo_symmetries(read_structure(bpti)) == []
    assert pseudo_symmetries(read_map(shared_data("maps/clean70SRibosome_vol_65p.mrc"), voxel_size=5.0)) == []


def test_a_ring_of_six_in_a_real_map(shared_data):
    found = pseudo_symmetries(read_map(shared_data("maps/EMD-3197.map")))
    assert sorted(round(one.angle_deg) for one in found) == [60, 120, 180]
    for one in found:
        assert abs(one.axis[1]) > 0.999


def test_rings_of_chains_swap_as_a_whole():
    g = torch.Generator().manual_seed(5)
    chain = 8 * torch.randn(30, 3, generator=g, dtype=torch.float64) + torch.tensor([20.0, 0.0, 0.0])
    frame = random_rotations(1, g)[0]
    positions = (point_group("C3")[:, None] @ chain[..., None])[..., 0].flatten(0, 1) @ frame.T + 7.0
    names = tuple(name for name in "ABC" for _ in range(30))
    sites = tuple(f"ALA{i}/CB" for i in range(30)) * 3
    one = torch.ones(90, dtype=torch.float64)
    (found,) = pseudo_symmetries(Structure(("C",) * 90, positions, one, one, chains=names, sites=sites))
    assert found.angle_deg == pytest.approx(120) and found.score == pytest.approx(1) and found.rmsd < 1e-9
    assert abs(float(torch.tensor(found.axis, dtype=torch.float64) @ frame[:, 2])) == pytest.approx(1)
    # the third chain set apart: no rotation lays all chains on equal ones
    positions[60:] += 40 * frame[:, 2]
    assert pseudo_symmetries(Structure(("C",) * 90, positions, one, one, chains=names, sites=sites)) == []


def test_bad_objects_are_refused(bpti):
    atoms = read_structure(bpti)
    bare = Structure(atoms.elements, atoms.positions, atoms.b_factors, atoms.occupancies)
    with pytest.raises(ValueError, match="which chain"):
        pseudo_symmetries(bare)
    with pytest.raises(ValueError, match="threshold"):
        pseudo_symmetries(atoms, threshold=1.5)
    with pytest.raises(ValueError, match="in every voxel"):
        pseudo_symmetries(Map(torch.ones(16, 16, 16), 1.0))
    with pytest.raises(ValueError, match="chains must be one per atom"):
        Structure(atoms.elements, atoms.positions, atoms.b_factors, atoms.occupancies, chains=("A",))
