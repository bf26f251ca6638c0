"""Simulated micrographs: where the copies lie, how strong the noise is, and what they depend on."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unpicked.data import snr
from unpicked.io.structure import read_structure
from unpicked.objects.gaussians import Gaussians
from unpicked.objects.voxels import Voxels
from unpicked.ops import fourier, rotation
from unpicked.simulate.micrographs import Simulation, Specimen, place, simulate_micrographs
from unpicked.simulate.potential import VOLT, atoms, potential

Tensor = torch.Tensor
steady = settings(max_examples=60, derandomize=True, deadline=None, database=None)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turns(count: int, seed: int = 1) -> Tensor:
    return rotation.random_rotations(count, torch.Generator().manual_seed(seed))


def specimen(box: int = 12, factor: int = 2) -> Specimen:
    """Seven positive Gaussians, none beyond 0.21 of the box from the centre, at Nyquist < 1e-3 of their peak."""
    fine = factor * box
    positions = torch.nn.functional.normalize(noise(7, 3), dim=1) * torch.linspace(0.05, 0.21, 7)[:, None] * fine
    object = Gaussians(fine, positions, torch.full((7,), 0.095 * fine, dtype=torch.float64))
    return Specimen(object, torch.linspace(1, 2, 7, dtype=torch.float64), box, 3.0)


def simulated(**changes: object) -> Simulation:
    settings: dict[str, object] = {
        "count": 3,
        "size": (90, 110),
        "density": 0.1,
        "noise": snr.energy(50),
        "seed": 5,
    }
    return simulate_micrographs(specimen(), **{**settings, **changes})[1]  # type: ignore[arg-type]


def chebyshev(corners: Tensor) -> Tensor:
    """Larger coordinate difference of every pair of corners."""
    gaps = (corners[:, None] - corners[None]).abs().amax(-1)
    rows, columns = torch.triu_indices(len(corners), len(corners), 1)
    return gaps[rows, columns]


# where the copies lie


@steady
@given(
    box=st.integers(2, 14),
    extra=st.integers(0, 13),
    height=st.integers(14, 70),
    width=st.integers(14, 70),
    fill=st.floats(0, 0.5),
    seed=st.integers(0, 1000),
)
def test_placed_boxes_lie_inside_and_apart(
    box: int, extra: int, height: int, width: int, fill: float, seed: int
) -> None:
    least = box + min(extra, box - 1)
    count = max(1, int(fill * (height - box + least) * (width - box + least) / least**2))
    corners = place((height, width), box, least, count, torch.Generator().manual_seed(seed))
    assert corners.shape == (count, 2)
    assert corners.dtype == torch.int64
    assert int(corners.min()) >= 0
    assert int(corners[:, 0].max()) <= height - box
    assert int(corners[:, 1].max()) <= width - box
    assert bool((chebyshev(corners) >= least).all())


def test_a_box_as_large_as_the_image_has_one_place() -> None:
    assert place((8, 8), 8, 8, 1, torch.Generator()).tolist() == [[0, 0]]


def test_more_copies_than_fit_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"5 copies do not fit a 8 x 8 micrograph at a distance of 4.*\(\d did\)"
    ) as caught:
        place((8, 8), 4, 4, 5, torch.Generator())
    assert "\n" not in str(caught.value)


def test_every_place_is_used_equally() -> None:
    """One copy of box 3 in 6 x 7 pixels: 20 corners, 4000 draws, chi^2 with 19 degrees of freedom below 50."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(4, 5)
    for _ in range(4000):
        row, column = place((6, 7), 3, 3, 1, generator)[0].tolist()
        counts[row, column] += 1
    assert float(((counts - 200) ** 2 / 200).sum()) < 50


@pytest.mark.parametrize(("spacing", "least", "density"), [("separated", 23, 0.12), ("arbitrary", 12, 0.5)])
def test_simulated_copies_keep_their_distance_and_density(spacing: str, least: int, density: float) -> None:
    simulation = simulated(size=(300, 260), density=density, spacing=spacing)
    assert simulation.density == pytest.approx(density, rel=144 / (300 * 260 * density))
    for index in range(3):
        where = simulation.occurrences(index)
        assert len(where) == simulation.per_micrograph
        assert int(where.corners.min()) >= 0
        assert bool((where.corners <= torch.tensor([288, 248])).all())
        assert int(chebyshev(where.corners).min()) >= least
        assert torch.allclose(torch.linalg.det(where.rotations), torch.ones(len(where), dtype=torch.float64))


@pytest.mark.parametrize(
    ("spacing", "density"), [("separated", 0.2), ("arbitrary", 0.6), ("separated", 0.0), ("arbitrary", -0.1)]
)
def test_impossible_densities_are_refused(spacing: str, density: float) -> None:
    with pytest.raises(ValueError, match=rf"density must lie between 0 and 0\.\d+ .*got {density}") as caught:
        simulated(size=(300, 300), density=density, spacing=spacing)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spacing", ["separated", "arbitrary"])
def test_the_largest_density_that_is_allowed_can_be_placed(spacing: str) -> None:
    with pytest.raises(ValueError) as caught:
        simulated(size=(240, 250), density=0.99, spacing=spacing)
    limit = float(str(caught.value).split("between 0 and ")[1].split()[0])
    simulation = simulated(size=(240, 250), density=limit - 0.001, spacing=spacing)
    assert all(len(simulation.occurrences(i)) == simulation.per_micrograph for i in range(3))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"count": 0}, "count must be at least 1 micrograph; got 0"),
        ({"size": (11, 90)}, "a box of 12 pixels does not fit a micrograph of 11 x 90"),
        ({"density": 0.001}, "less than one copy"),
        ({"density": float("nan")}, "density must lie between"),
    ],
)
def test_bad_settings_are_refused_in_one_line(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        simulated(**changes)
    assert "\n" not in str(caught.value)


def test_a_bare_number_is_no_noise_level() -> None:
    with pytest.raises(TypeError, match=r"must say which kind.*got 3\.5.*energy\(\.\.\.\)"):
        simulated(noise=3.5)


def test_a_fine_grid_that_is_too_coarse_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least twice the working box, 24 voxels; got 23"):
        Specimen(Voxels(23), torch.zeros(23**3, dtype=torch.float64), 12, 1.0)


# what a particle looks like


@pytest.mark.parametrize("box", [12, 13])
def test_particle_images_are_the_projections_at_the_working_pixel(box: int) -> None:
    """Written out: Gaussians of the working grid, half the places and widths, half the integral per pixel sum."""
    it = specimen(box)
    rotations = turns(70)
    images = it.images(rotations)
    assert images.shape == (70, box, box)
    assert images.dtype == torch.float64
    half = Gaussians(box, it.object.positions / 2, it.object.sigmas / 2)
    expected = half.projector(rotations).project(it.x) / 2
    assert float((images - expected).norm() / expected.norm()) < 5e-3
    assert it.images(rotations[:0]).shape == (0, box, box)


@pytest.mark.parametrize("box", [12, 13])
@pytest.mark.parametrize("factor", [2, 3])
def test_the_truth_is_limited_in_band_and_space(box: int, factor: int) -> None:
    it = specimen(box, factor)
    truth = it.truth()
    assert (truth.box, truth.voxel_size) == (box, 3.0)
    assert float(truth.values[fourier.distances((box,) * 3) > box / 2].abs().max()) == 0
    white = replace(it, object=Voxels(factor * box), x=noise((factor * box) ** 3))
    spectrum = fourier.fft3(it.object.values(it.x))
    kept = fourier.fft3(truth.values)
    high = fourier.radius((box,) * 3) >= box / 2
    assert float(kept[high].abs().max()) < 2e-3 * float(kept.abs().max())
    assert float((kept[0, 0, 0] - spectrum[0, 0, 0]).abs() / spectrum[0, 0, 0].abs()) < 1e-3
    # white noise fills every frequency: what is left of the high ones comes from the ball's edge alone
    rough, all_of_it = (
        fourier.fft3(white.truth().values),
        fourier.fft3(fourier.resize_volume(white.object.values(white.x), box)),
    )
    corner = fourier.radius((box,) * 3) > 0.7 * box
    assert float(rough[corner].abs().square().mean()) < 0.1 * float(all_of_it[~high].abs().square().mean())


@pytest.mark.parametrize("box", [12, 13])
def test_the_truth_projects_to_the_particle_images(box: int) -> None:
    it = specimen(box)
    rotations = turns(10)
    images = it.images(rotations)
    found = Voxels(box, 3).projector(rotations).project(it.truth().values.flatten())
    assert float((found - images).norm() / images.norm()) < 0.02
    wrong = Voxels(box, 3).projector(rotations.mT).project(it.truth().values.flatten())
    assert float((wrong - images).norm() / images.norm()) > 0.1


# signal and noise


def test_a_clean_micrograph_is_the_sum_of_its_copies() -> None:
    simulation = simulated(spacing="arbitrary", density=0.4)
    where = simulation.occurrences(1)
    left = simulation.clean(1)
    for (row, column), view in zip(where.corners.tolist(), where.rotations, strict=True):
        left[row : row + 12, column : column + 12] -= simulation.specimen.images(view[None])[0]
    assert float(left.abs().max()) < 1e-12


@pytest.mark.parametrize(
    "level", [snr.energy(24), snr.snr_box(0.2), snr.snr_disc(0.1), snr.snr_db(-10)], ids=lambda n: n.kind
)
def test_the_energy_is_the_one_asked_for(level: snr.NoiseLevel) -> None:
    """Measured on clean micrographs of separated copies and on the noise that was added to them."""
    simulation = simulated(size=(600, 600), density=0.1, count=3, noise=level)
    clean = [simulation.clean(i) for i in range(3)]
    copies = 3 * simulation.per_micrograph
    added = torch.stack([simulation.read(i).double() - c for i, c in enumerate(clean)])
    power = sum(float(c.square().sum()) for c in clean) / copies
    variance = float(added.square().mean())
    views = torch.cat([simulation.occurrences(i).rotations for i in range(3)])
    box_variance = float(simulation.specimen.images(views).var((-2, -1), correction=0).mean())
    measured = {
        "energy": power / variance,
        "snr_box": power / variance / 144,
        "snr_disc": power / variance / (math.pi * 36),
        "snr_db": 10 * math.log10(box_variance / variance),
    }[level.kind]
    if level.kind == "snr_db":
        assert measured == pytest.approx(level.value, abs=10 * math.log10(1.02))
    else:
        assert measured == pytest.approx(level.value, rel=0.02)
    assert abs(float(added.mean())) < 5 * (variance / added.numel()) ** 0.5


def test_the_noise_is_white() -> None:
    simulation = simulated(size=(256, 256), noise=snr.sigma(2.0))
    added = simulation.read(0).double() - simulation.clean(0)
    assert float(added.std()) == pytest.approx(2, rel=0.02)
    power = fourier.fft2(added).abs().square() / 4
    rings = fourier.shell_sum(power) / fourier.shell_sum(torch.ones_like(power))
    pairs = fourier.shell_sum(torch.ones_like(power)) / 2
    assert float(((rings - 1).abs() * pairs.sqrt())[4:].max()) < 4.5
    assert float((added[1:] * added[:-1]).mean()) == pytest.approx(0, abs=5 * 4 / 256)


def test_facts_hold_every_definition_and_can_be_written() -> None:
    simulation = simulated(noise=snr.energy(50))
    facts = simulation.facts()
    assert facts["energy"] == pytest.approx(50)
    assert facts["snr_box"] == pytest.approx(50 / 144)
    assert facts["occurrences"] == 3 * simulation.per_micrograph
    assert {"sigma", "snr_disc", "snr_db", "density", "seed", "voxel_size", "box"} <= facts.keys()
    assert json.loads(json.dumps(facts)) == facts


# definitions of signal to noise


@pytest.mark.parametrize("make", [snr.energy, snr.snr_box, snr.snr_disc, snr.snr_db, snr.sigma])
@pytest.mark.parametrize("value", [0.01, 3.5, 424.0])
@pytest.mark.parametrize("box", [11, 128])
def test_levels_come_back(make: Callable[[float], snr.NoiseLevel], value: float, box: int) -> None:
    level = make(value)
    sigma = level.sigma(7.3, 0.02, box)
    assert sigma > 0
    assert snr.levels(sigma, 7.3, 0.02, box)[level.kind] == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("decibels", "energy"),
    [(10, 163840), (5, 51811), (0, 16384), (-5, 5181), (-10, 1638), (-20, 164), (-25, 52)],
)
def test_decibels_of_a_box_of_128_are_the_tabulated_energies(decibels: float, energy: float) -> None:
    """Images of mean 0: power = box^2 x variance."""
    variance = 0.37
    sigma = snr.snr_db(decibels).sigma(128**2 * variance, variance, 128)
    assert snr.levels(sigma, 128**2 * variance, variance, 128)["energy"] == pytest.approx(energy, abs=0.5)


@pytest.mark.parametrize(("value", "energy"), [(3.5, 424), (0.2, 24)])
def test_snr_per_pixel_of_a_box_of_11_is_the_tabulated_energy(value: float, energy: float) -> None:
    sigma = snr.snr_box(value).sigma(5.0, 0.01, 11)
    assert snr.levels(sigma, 5.0, 0.01, 11)["energy"] == pytest.approx(energy, abs=0.51)


@pytest.mark.parametrize("make", [snr.energy, snr.snr_box, snr.snr_disc, snr.sigma])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_impossible_levels_are_refused(make: Callable[[float], snr.NoiseLevel], value: float) -> None:
    with pytest.raises(ValueError, match=r"must be a positive finite number; got"):
        make(value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_decibels_must_be_finite(value: float) -> None:
    with pytest.raises(ValueError, match=r"snr_db must be .*finite.*got"):
        snr.snr_db(value)


# what a micrograph depends on


def test_a_micrograph_depends_on_seed_and_number_only() -> None:
    first, more = simulated(count=2), simulated(count=7)
    backwards = [more.read(i) for i in (6, 1, 0)]
    assert torch.equal(first.read(0), backwards[2])
    assert torch.equal(first.read(1), backwards[1])
    assert torch.equal(first.read(1), first.read(1))
    assert not torch.equal(first.read(0), first.read(1))
    assert not torch.equal(first.read(0), simulated(seed=6).read(0))
    assert not torch.equal(first.clean(1), simulated(seed=6).clean(0))


def test_micrographs_share_neither_places_views_nor_noise() -> None:
    simulation = simulated(size=(200, 200), sub_pixel=True)
    first, second = simulation.occurrences(0), simulation.occurrences(1)
    assert not torch.equal(first.corners, second.corners)
    assert float((first.rotations - second.rotations).abs().amax((1, 2)).min()) > 1e-3
    pattern = [(simulation.read(i).double() - simulation.clean(i)) / simulation.sigma for i in range(2)]
    assert abs(float((pattern[0] * pattern[1]).mean())) < 5 / 200


def test_global_seeds_and_other_draws_change_nothing() -> None:
    simulation = simulated()
    torch.manual_seed(0)
    first = simulation.read(2)
    state = torch.get_rng_state()
    simulation.read(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(simulation.read(2), first)


def test_the_noise_level_changes_neither_places_nor_views() -> None:
    loud, quiet = simulated(noise=snr.energy(1)), simulated(noise=snr.energy(1e4))
    assert torch.equal(loud.clean(0), quiet.clean(0))
    pattern = [(s.read(0).double() - s.clean(0)) / s.sigma for s in (loud, quiet)]
    assert torch.allclose(pattern[0], pattern[1], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_another_process_makes_the_same_micrograph() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_simulate, hashlib, torch;"
        "torch.set_num_threads(1);"
        "print(hashlib.sha256(test_simulate.simulated().read(2).numpy().tobytes()).hexdigest())"
    )
    call = [sys.executable, "-W", "ignore", "-c", code, str(Path(__file__).parent)]
    one, two = (subprocess.run(call, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert one == two
    assert len(one.strip()) == 64


# positions between pixels


def centroids(images: Tensor) -> Tensor:
    """Centres of mass (x, y) of positive images, from index N // 2."""
    line = torch.arange(images.shape[-1], dtype=torch.float64) - images.shape[-1] // 2
    total = images.sum((1, 2))
    return torch.stack([(images.sum(1) @ line) / total, (images.sum(2) @ line) / total], -1)


def test_sub_pixel_positions_move_the_copies_by_their_offsets() -> None:
    simulation = simulated(sub_pixel=True, size=(300, 300))
    offsets, where, clean = simulation.offsets(0), simulation.occurrences(0), simulation.clean(0)
    assert offsets.shape == (len(where), 2)
    assert bool((offsets.abs() <= 0.5).all())
    assert float(offsets.abs().max()) > 0.3
    assert not torch.equal(offsets, simulation.offsets(1))
    patches = torch.stack([clean[r : r + 12, c : c + 12] for r, c in where.corners.tolist()])
    moved = centroids(patches) - centroids(simulation.specimen.images(where.rotations))
    assert float((moved - offsets).abs().max()) < 0.03


def test_whole_pixel_positions_have_no_offsets() -> None:
    simulation = simulated()
    assert float(simulation.offsets(0).abs().max()) == 0
    where, clean = simulation.occurrences(0), simulation.clean(0)
    row, column = where.corners[0].tolist()
    assert torch.allclose(
        clean[row : row + 12, column : column + 12], simulation.specimen.images(where.rotations[:1])[0]
    )


# what an estimator sees


def test_the_data_are_the_simulation_read_lazily() -> None:
    micrographs, simulation = simulate_micrographs(
        specimen(), count=4, size=(60, 70), density=0.1, noise=snr.energy(9), seed=2
    )
    assert len(micrographs) == 4
    assert micrographs.shape == (60, 70)
    assert micrographs.pixel_size == 3.0
    assert len(set(micrographs.names)) == 4
    assert micrographs[3].dtype == torch.float32
    assert torch.equal(micrographs[3], simulation.read(3))


# potential of atoms


@pytest.mark.filterwarnings("ignore")
def test_the_potential_of_bpti_integrates_to_its_scattering_amplitudes(bpti: Path) -> None:
    """Integral / (h^2 / (2 pi m e)) = sum over atoms of the amplitude at zero angle; centred on its centroid."""
    import gemmi

    structure = read_structure(bpti)
    expected = sum(
        sum(gemmi.Element(e).c4322.a) * o
        for e, o in zip(structure.elements, structure.occupancies.tolist(), strict=True)
    )
    box, voxel = 40, 1.5
    _, x = atoms(structure, voxel, box)
    assert float(x.sum()) * voxel**3 / VOLT == pytest.approx(expected, rel=1e-12)
    found = potential(structure, voxel, box)
    assert found.voxel_size == voxel
    assert float(found.values.sum()) * voxel**3 / VOLT == pytest.approx(expected, rel=1e-3)
    line = torch.arange(box, dtype=torch.float64) - box // 2
    for dims in ((0, 1), (0, 2), (1, 2)):
        mean = (found.values.sum(dims) * line).sum() / found.values.sum()
        assert abs(float(mean)) < 0.01
    assert 1.0 < float(found.values.max()) < 50


@pytest.mark.parametrize(("voxel_size", "b_factor", "name"), [(0.0, 60.0, "voxel_size"), (1.0, 0.0, "b_factor")])
def test_impossible_potentials_are_refused(bpti: Path, voxel_size: float, b_factor: float, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be positive.*got 0\.0"):
        atoms(read_structure(bpti), voxel_size, 20, b_factor=b_factor)
