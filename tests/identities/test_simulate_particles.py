"""Simulated particle images: exact projections, padded contrast transfer, the noise that was asked for, seeds."""

from __future__ import annotations

import math
from dataclasses import replace

import gemmi
import numpy as np
import pytest
import torch

from unpicked.data import snr
from unpicked.data.maps import Map
from unpicked.io.mrc import read_map
from unpicked.io.structure import read_structure
from unpicked.objects.gaussians import Gaussians
from unpicked.ops import fourier, rotation
from unpicked.simulate.datasets import DATASETS, dataset
from unpicked.simulate.micrographs import Specimen
from unpicked.simulate.particles import ParticleSimulation, in_order, simulate_particles
from unpicked.simulate.phantom import shepp_logan
from unpicked.simulate.scatterers import scatterers, volume, waves
from unpicked.simulate.specimens import specimen_from_map, specimen_from_structure

Tensor = torch.Tensor


def turns(count: int, seed: int = 1) -> Tensor:
    return rotation.random_rotations(count, torch.Generator().manual_seed(seed))


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def limited(image: Tensor) -> Tensor:
    """Only |q| < N / 2."""
    spectrum = fourier.fft2(image)
    return fourier.ifft2(spectrum * (fourier.radius(image.shape[-2:]) < image.shape[-1] / 2))


@pytest.fixture(scope="module")
def protein():
    from unpicked import simulate

    return read_structure(next(iter(simulate.__path__)) + "/5pti.cif")


def by_hand(structure, turn: Tensor, shift: Tensor, length: int, pixel: float, b_factor: float, fine: float) -> Tensor:
    """Full spectrum of a projection, atom by atom from the tables, DC first, in the specimen's grey values."""
    names, table = np.array(structure.elements), {name: gemmi.Element(name).c4322 for name in structure.elements}
    weight = structure.occupancies.numpy()
    charge = weight * np.array([sum(table[name].a) for name in names])
    place = structure.positions.numpy()
    place = (place - charge @ place / charge.sum()) @ turn.numpy().T + np.append(shift.numpy(), 0)
    q = np.fft.fftfreq(length, 1 / length)
    s2 = (q[:, None] ** 2 + q**2) / (length * pixel) ** 2
    total = np.zeros((length, length), complex)
    for name, kind in table.items():
        form = sum(a * np.exp(-(b + b_factor) * s2 / 4) for a, b in zip(kind.a, kind.b, strict=True))
        here = place[names == name] / (length * pixel)
        rows, columns = (np.exp(-2j * np.pi * np.outer(q, here[:, axis])) for axis in (1, 0))
        total += form * ((rows * weight[names == name]) @ columns.T)
    total[s2 >= (0.5 / pixel) ** 2 * (1 - 1e-12)] = 0
    return torch.from_numpy(total * 47.87801 / fine**3 / (length * pixel / fine))


@pytest.mark.parametrize(("box", "voxel"), [(24, 2.0), (27, 1.7)])
@pytest.mark.parametrize(("precise", "tolerance"), [(True, 1e-9), (False, 1e-5)])
def test_images_are_the_sum_over_atoms(protein, box, voxel, precise, tolerance):
    specimen = specimen_from_structure(protein, box, voxel, b_factor=20.0)
    _, simulation = simulate_particles(specimen, count=2, noise=None, seed=3, max_shift=3.0, precise=precise)
    for index in range(2):
        turn, shift = simulation.pose(index)
        length, fine = simulation.padded(index), box * voxel / specimen.object.shape[-1]
        wide = fourier.ifft2(by_hand(protein, turn, shift, length, voxel, 20.0, fine))
        edge = length // 2 - box // 2
        assert error(simulation.clean(index), wide[edge : edge + box, edge : edge + box]) < tolerance


@pytest.mark.parametrize(("box", "voxel"), [(24, 2.0), (25, 2.0), (16, 3.0)])
def test_images_and_truth_agree_with_the_general_projector(protein, box, voxel):
    specimen = specimen_from_structure(protein, box, voxel, b_factor=150.0)  # nothing folds on its grid
    _, simulation = simulate_particles(specimen, count=3, noise=None, seed=3, precise=True)
    wanted = limited(specimen.images(simulation.poses().rotations))
    assert error(torch.stack([simulation.clean(index) for index in range(3)]), wanted) < 1e-6
    assert error(simulation.truth().values, specimen.truth().values) < 1e-6
    assert simulation.truth().voxel_size == voxel


@pytest.mark.parametrize("box", [20, 21])
def test_clean_images_are_central_slices_of_the_band_limited_volume(protein, box):
    specimen = specimen_from_structure(protein, box, 2.5)
    atoms = scatterers(specimen.object, specimen.x)
    views = atoms.views(specimen.object.shape[-1] / box, box, torch.float64)
    spectrum = fourier.fft3(volume(atoms, box))
    for turn, plane in ((torch.eye(3), spectrum[0]), (torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]), None)):
        if plane is None:  # the new x is z, the new y stays: F_image(qx, qy) = F_V(0, qy, qx)
            plane = spectrum[:, :, 0].mT
        found = views.coefficients(turn.double(), torch.zeros(2))
        assert error(found, plane[:, : box // 2 + 1]) < 1e-12
        assert bool((found[fourier.radius((box, box))[:, : box // 2 + 1] >= box / 2] == 0).all())


def test_scatterers_of_gaussians_of_any_kind():
    places = torch.tensor(
        [[0.0, 1, 2], [0, 1, 2], [3, 1, 0], [3, 1, 0], [-2, 0.5, 1], [-2, 0.5, 1]], dtype=torch.float64
    )
    widths = torch.tensor([2.0, 3.0, 2.0, 3.0, 2.5, 3.0], dtype=torch.float64)
    x = torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0, 2.0], dtype=torch.float64)
    object = Gaussians(48, places, widths)
    found = scatterers(object, x)
    assert sorted(found.counts) == [1, 2] and float(found.weights.sum()) == pytest.approx(7.5)  # two of one kind
    for picks, coefficients in (([0, 1, 2, 3, 4, 5], x), ([0, 1, 2, 3, 4], x[:5]), ([0, 1], torch.tensor([1.0, -1.0]))):
        part = Gaussians(48, places[picks], widths[picks])
        specimen = Specimen(part, coefficients.double(), 12, 2.0)
        _, simulation = simulate_particles(specimen, count=1, noise=None, seed=0, precise=True)
        wanted = limited(specimen.images(simulation.poses().rotations))[0]
        assert error(simulation.clean(0), wanted) < 1e-6
    with pytest.raises(ValueError, match="one coefficient per Gaussian"):
        scatterers(object, x[:5])


@pytest.mark.parametrize("count", [1, 2, 7, 16, 23, 64, 97])
def test_waves_are_cosines_and_sines(count):
    turn = torch.linspace(-3, 3, 50, dtype=torch.float64)
    found = waves(turn, count, torch.float64)
    found = found.view(2, found.shape[0] // 2, 50)[:, :count]
    angle = 2 * math.pi * torch.arange(count).double()[:, None] * turn
    assert float((found - torch.stack([angle.cos(), angle.sin()])).abs().max()) < 1e-11


def through_a_large_box(
    structure, simulation: ParticleSimulation, index: int, length: int, fine: float, b_factor: float
) -> Tensor:
    """Projection in a very large box, contrast transfer by its own formula, then the box cut out."""
    turn, shift = simulation.pose(index)
    box, pixel, optics = simulation.specimen.box, simulation.specimen.voxel_size, simulation.optics
    spectrum = by_hand(structure, turn, shift, length, pixel, b_factor, fine).numpy()
    group = optics.group[index]
    s = np.fft.fftfreq(length, pixel)
    sy, sx = np.meshgrid(s, s, indexing="ij")
    angle = np.arctan2(sy, sx) - math.radians(optics.astigmatism_angle[group])
    u, v = optics.defocus_u[group], optics.defocus_v[group]
    z = (u + v) / 2 + (u - v) / 2 * np.cos(2 * angle)
    s2, wavelength = sx**2 + sy**2, 12.2639 / math.sqrt(3e5 + 0.97845e-6 * 9e10)
    chi = math.pi * wavelength * z * s2 - math.pi / 2 * 2.7e7 * wavelength**3 * s2**2
    wide = fourier.ifft2(torch.from_numpy(spectrum * np.sin(chi + math.asin(0.1))))
    edge = length // 2 - box // 2
    return wide[edge : edge + box, edge : edge + box]


@pytest.mark.parametrize("box", [32, 33])
def test_contrast_transfer_is_that_of_a_much_larger_box(protein, box, monkeypatch):
    pixel, b_factor = 1.5, 100.0
    specimen = specimen_from_structure(protein, box, pixel, b_factor=b_factor)
    _, simulation = simulate_particles(
        specimen, count=2, noise=None, seed=4, defocus=(9000.0, 9000.0), astigmatism=600.0, max_shift=2.0, precise=True
    )
    moved = 0.0196875 * 9300 / (2 * pixel)  # lambda z s at Nyquist: 61 A
    assert simulation.padded(0) * pixel >= max(2 * box * pixel, box * pixel + 2 + moved, 2 * moved)
    fine = box * pixel / specimen.object.shape[-1]
    wanted = [through_a_large_box(protein, simulation, index, 384, fine, b_factor) for index in range(2)]
    assert all(error(simulation.clean(index), wanted[index]) < 2e-3 for index in range(2))
    for length, least, most in ((384, 0.0, 1e-6), (box, 0.1, 2.0)):  # the same length, and what padding is for
        monkeypatch.setattr(ParticleSimulation, "padded", lambda self, index, length=length: length)
        assert all(least <= error(simulation.clean(index), wanted[index]) < most for index in range(2))


def test_a_shift_moves_the_object_by_its_own_sign():
    positions = torch.zeros(1, 3, dtype=torch.float64)
    specimen = Specimen(Gaussians(64, positions, torch.tensor([2.5])), torch.ones(1), 32, 2.0)
    _, simulation = simulate_particles(specimen, count=4, noise=None, seed=2, max_shift=12.0)
    for index in range(4):
        image, (_, shift) = simulation.clean(index), simulation.pose(index)
        axis = (torch.arange(32) - 16) * 2.0
        centre = torch.stack([(image.sum(0) * axis).sum(), (image.sum(1) * axis).sum()]) / image.sum()
        assert float((centre - shift).norm()) < 0.05 and float(shift.norm()) <= 12


def test_a_map_is_seen_as_the_atoms_that_it_shows(protein):
    atoms = specimen_from_structure(protein, 24, 2.5, b_factor=100.0)
    map = Map(atoms.object.values(atoms.x), 2.5 * 24 / atoms.object.shape[-1])
    for options in ({}, {"defocus": (5000.0, 9000.0), "astigmatism": 400.0, "max_shift": 6.0}):
        wanted, found = (
            simulate_particles(specimen, count=3, noise=None, seed=1, precise=True, **options)[1]
            for specimen in (atoms, specimen_from_map(map, 24))
        )
        for index in range(3):
            assert error(found.clean(index), wanted.clean(index)) < 1e-3
        assert error(found.truth().values, wanted.truth().values) < 1e-5
    phantom = specimen_from_map(shepp_logan(32, 3.0), 16)
    rough, exact = (simulate_particles(phantom, count=2, noise=None, seed=1, precise=p)[1] for p in (False, True))
    assert error(rough.clean(1), exact.clean(1)) < 1e-5
    assert error(rough.clean(1), limited(phantom.images(rough.poses([1]).rotations))[0]) < 0.02


@pytest.mark.parametrize("defocus", [None, (5000.0, 12000.0)])
def test_the_noise_is_as_asked_for_of_the_images_themselves(protein, defocus):
    specimen = specimen_from_structure(protein, 16, 4.0)
    data, truth = simulate_particles(specimen, count=1500, noise=snr.energy(50), seed=8, defocus=defocus)
    clean = torch.stack([truth.clean(index) for index in range(len(data))])
    noise = (data.images() - clean) / truth.sigma
    assert float(noise.square().mean()) == pytest.approx(1, abs=4 * math.sqrt(2 / noise.numel()))
    power, variance = float(clean.square().sum((1, 2)).mean()), float(clean.var((1, 2), correction=0).mean())
    asked = {"energy": 50, "snr_box": 0.1, "snr_disc": 0.2, "snr_db": -5, "sigma": 2.0}
    for kind, value in asked.items():
        facts = simulate_particles(specimen, count=1, noise=snr.NoiseLevel(kind, value), seed=8, defocus=defocus)[
            1
        ].facts()
        assert facts[kind] == pytest.approx(value, rel=1e-9)
        assert facts["energy"] * facts["sigma"] ** 2 == pytest.approx(power, rel=0.01)
        assert facts["snr_box"] == pytest.approx(facts["energy"] / 256)
        assert facts["snr_disc"] == pytest.approx(facts["energy"] / (math.pi * 64))
        assert 10 ** (facts["snr_db"] / 10) * facts["sigma"] ** 2 == pytest.approx(variance, rel=0.01)


def test_clean_images_have_no_noise_and_say_so(protein):
    specimen = specimen_from_structure(protein, 16, 4.0)
    data, truth = simulate_particles(specimen, count=3, noise=None, seed=8)
    assert torch.equal(data[2], truth.clean(2).float())
    facts = truth.facts()
    assert (facts["sigma"], facts["energy"], facts["snr_db"], facts["noise"]) == (0, math.inf, math.inf, "none")


def test_image_i_depends_on_seed_and_i_only(protein):
    specimen = specimen_from_structure(protein, 16, 4.0)
    options = {"noise": snr.snr_db(0), "defocus": (5000.0, 9000.0), "astigmatism": 300.0, "max_shift": 3.0}
    data, truth = simulate_particles(specimen, count=9, seed=5, **options)
    whole = torch.stack([data[index] for index in range(9)])
    for few in (1, 4):
        some, same = simulate_particles(specimen, count=few, seed=5, **options)
        assert torch.equal(some.images(), whole[:few])
        assert torch.equal(same.poses().rotations, truth.poses().rotations[:few])
    assert torch.equal(torch.stack([data[index] for index in (8, 2, 5)]), whole[[8, 2, 5]])
    for threads in (1, 3):
        assert torch.equal(torch.stack(list(in_order(data, threads))), whole)
    other = simulate_particles(specimen, count=9, seed=6, **options)[0]
    assert float((other.images() - whole).abs().min(0).values.max()) > 0


def test_data_hide_the_poses_and_show_the_optics(protein):
    specimen = specimen_from_structure(protein, 16, 4.0)
    data, truth = simulate_particles(specimen, count=7, noise=None, seed=5, defocus=(5000.0, 9000.0), ctf_groups=3)
    assert data.poses is None and data.optics is truth.optics and data.pixel_size == 4.0
    assert data.names[6] == "000007@particles.mrcs"
    assert len(data.optics.defocus_u) == 3 and data.optics.group == (0, 1, 2, 0, 1, 2, 0)
    assert all(5000 <= z <= 9000 for z in data.optics.defocus_u)
    assert truth.facts()["ctf"]["groups"] == 3
    assert simulate_particles(specimen, count=7, noise=None, seed=5)[0].optics is None


def test_rotations_and_shifts_are_uniform(protein):
    specimen = specimen_from_structure(protein, 16, 4.0)
    poses = simulate_particles(specimen, count=2000, noise=None, seed=5, max_shift=10.0)[1].poses()
    # entries of a uniform rotation have mean 0 and variance 1 / 3
    assert float(poses.rotations.mean(0).abs().max()) < 4 * math.sqrt(1 / 3 / 2000)
    assert float((poses.rotations.square().mean(0) - 1 / 3).abs().max()) < 4 * math.sqrt(4 / 45 / 2000)
    radius = poses.shifts.norm(dim=1)
    assert float(radius.max()) <= 10
    assert float(radius.square().mean()) == pytest.approx(50, abs=4 * 100 / math.sqrt(12 * 2000))
    assert float(poses.shifts.mean(0).abs().max()) < 4 * 5 / math.sqrt(2000)


def test_settings_that_make_no_sense_are_refused(protein):
    specimen = specimen_from_structure(protein, 16, 4.0)
    for changes, words in (
        ({"count": 0}, "count must be at least 1"),
        ({"max_shift": 33.0}, "max_shift must lie between 0 and half the box, 32 A"),
        ({"max_shift": math.nan}, "max_shift"),
        ({"defocus": (9000.0, 5000.0)}, "defocus must be the least and the largest"),
        ({"defocus": (-1.0, 5000.0)}, "underfocus positive"),
        ({"defocus": (5000.0, 9000.0), "ctf_groups": 9}, "ctf_groups must lie between 1 and"),
        ({"defocus": (5000.0, 9000.0), "astigmatism": math.inf}, "astigmatism"),
        ({"defocus": (5000.0, 9000.0), "voltage": 0.0}, "voltage_kv must be positive"),
        ({"defocus": (5000.0, 9000.0), "amplitude_contrast": 2.0}, "amplitude_contrast must lie between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=words):
            simulate_particles(specimen, **{"count": 3, "noise": None, "seed": 0, **changes})
    with pytest.raises(TypeError, match="must say which kind"):
        simulate_particles(specimen, count=3, noise=0.1, seed=0)
    empty = Specimen(Gaussians(32, torch.zeros(1, 3), torch.ones(1)), torch.zeros(1), 16, 2.0)
    with pytest.raises(ValueError, match="empty"):
        simulate_particles(empty, count=3, noise=None, seed=0)


def test_the_sets_of_the_paper(protein):
    chains = replace(protein, chains=("A",) * 200 + ("B",) * (len(protein) - 200))
    levels = [DATASETS[name].decibels for name in "ABCDEFGH"]
    assert levels == [None, 10, 5, 0, -5, -10, 0, -20]
    assert [name for name in DATASETS if DATASETS[name].defocus == (4000.0, 12000.0)] == ["G", "H"]
    data, truth = dataset("D", chains, count=4, seed=1)
    assert (data.box, data.pixel_size) == (128, 0.8) and truth.facts()["snr_db"] == pytest.approx(0)
    crop, same = dataset("D", chains, count=4, box=32, seed=1)
    assert (crop.box, crop.pixel_size) == (32, 3.2) and same.sigma == truth.sigma
    seen = torch.stack([limited(fourier.resize_image(truth.clean(index), (32, 32))) for index in range(4)])
    assert error(torch.stack([same.clean(index) for index in range(4)]), seen) < 1e-5
    one, alone = dataset("M", chains, count=1, seed=1)
    assert one.optics is None and sum(alone.seen_as.counts) == 200 and alone.sigma == 0
    assert dataset("M", chains, count=1, seed=1, noise=snr.snr_db(-3))[1].facts()["snr_db"] == pytest.approx(-3)
    with pytest.raises(ValueError, match="dataset D is at 0 dB by definition"):
        dataset("D", chains, seed=1, noise=snr.snr_db(3))
    with pytest.raises(ValueError, match="between 4 and 128"):
        dataset("D", chains, seed=1, box=256)
    with pytest.raises(ValueError, match="one of A, B"):
        dataset("Z", chains, seed=1)
    with pytest.raises(ValueError, match="no chain A; found none"):
        dataset("M", replace(protein, chains=()), seed=1)


def test_4ake_has_two_chains_and_its_truth_is_the_shared_map(shared_data):
    structure = read_structure(shared_data("structures/4ake_dimer_workshop.pdb"))
    chain = structure.chain("A")
    assert len(structure) == 3312 and len(chain) == 1656 and set(chain.chains) == {"A"}
    _, simulation = dataset("A", structure, count=1, seed=1)
    reference = read_map(shared_data("maps/adk_4ake_dimer_128_0.8A_B20.mrc")).values.double()
    spectrum = fourier.fft3(reference)
    reference = fourier.ifft3(spectrum * (fourier.radius(reference.shape) < 64))
    truth = simulation.truth().values
    correlation = float(torch.corrcoef(torch.stack([truth.flatten(), reference.flatten()]))[0, 1])
    assert correlation > 0.999  # 0.9992: that map was sampled at 0.8 A, which folds what lies beyond Nyquist
