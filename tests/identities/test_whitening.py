"""Spectra of noise, micrographs whitened, and simulated noise of a colour."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from unpicked import whitening
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.snr import energy, sigma, snr_db
from unpicked.model.gas import Gas
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.placements import Anywhere
from unpicked.model.views import Projection
from unpicked.objects.voxels import Voxels
from unpicked.ops import filters, rotation
from unpicked.recipes.job import MicrographJob
from unpicked.recipes.known import Known
from unpicked.recipes.micrographs import _sigma
from unpicked.recipes.parts import prior, signal_spectra
from unpicked.reconstruct import Reconstruction, Result
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.noise import colour, measured
from unpicked.simulate.optics import draw_optics, drawn
from unpicked.simulate.phantom import bead_chain

SHARED = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "phase_shift": 0.0}


def rings(name: str) -> torch.Tensor:
    """The exact power around the rings of a tile."""
    return torch.tensor(whitening.rings(colour(name).power(*filters.half_plane((128, 128)))))


@pytest.mark.parametrize("name", ["white", "coloured", "ar:0.4", "1/f"])
def test_the_spectrum_is_that_of_the_noise(name: str) -> None:
    found = torch.tensor(whitening.spectrum(2 * colour(name).draw((900, 1000), 1, 0))) / 4
    ratio = (found / rings(name))[3:88]
    assert float((ratio - 1).abs().mean()) < 0.04
    assert float((ratio - 1).abs().max()) < 0.25


def test_a_tenth_of_the_area_cannot_spoil_it() -> None:
    """Carbon, ice and gold are outliers to a median: a mean of the periodograms would be ten times too high."""
    image = colour("coloured").draw((900, 900), 2, 0)
    image[:300, :300] *= 10
    ratio = (torch.tensor(whitening.spectrum(image)) / rings("coloured"))[3:88]
    assert float((ratio - 1).abs().mean()) < 0.35


@pytest.mark.parametrize("name", ["coloured", "ar:0.4", "1/f"])
def test_whitened_noise_is_white(name: str) -> None:
    images = torch.stack([3 * colour(name).draw((500, 520), 3, index) for index in range(2)])
    data = Micrographs(InMemory(images), 2.0, ("a", "b"))
    by = whitening.gains([whitening.spectrum(image) for image in data])
    white = whitening.whitened(data, by)
    assert white.gains == by and white.shape == data.shape
    for image in white:
        assert float(image.std()) == pytest.approx(1.0, abs=0.05)
        flat = torch.tensor(whitening.spectrum(image))[4:88]
        assert float((flat - flat.mean()).abs().mean()) < 0.06


def test_what_particles_add_is_not_noise() -> None:
    total, signal = [(5.0, 4.0, 2.0, 1.0)], [(3.0, 3.9, 1.0, 0.0)]
    curve = whitening.gains(total, signal).curves[0]
    assert curve == pytest.approx((2.0**-0.5, (whitening.LEAST * 4.0) ** -0.5, 1.0, 1.0))


def test_whitened_data_are_told_from_others() -> None:
    data = Micrographs(InMemory(torch.randn(1, 64, 64)), 2.0, ("a",))
    assert whitening.whitened(data, whitening.gains([(1.0, 1.0)])).digest != data.digest


def test_particles_larger_than_a_tile_are_seen_in_whole() -> None:
    """Power of images at the frequencies of a tile, however small the tile."""
    object = Voxels(20)
    model = Model(object, Projection(rotation.super_fibonacci(3)), Anywhere(0.1, Gas()))
    x = object.fit(torch.rand(20, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    data = Micrographs(InMemory(torch.zeros(1, 48, 48)), 2.0, ("a",))
    run = Reconstruction(x, None, [], Result.CONVERGED, {}, model)
    assert whitening.tile(data.shape) == 12
    images = model.templates(x)
    power = torch.fft.rfft2(images, s=(60, 60)).abs().square().mean(0)[::5, :31:5].double() * (0.1 / 400)
    assert signal_spectra(run, data)[0] == pytest.approx(whitening.rings(power), rel=1e-5)


def test_the_noise_is_told_as_it_was_before_it_was_whitened() -> None:
    data = Micrographs(InMemory(torch.zeros(1, 48, 48)), 2.0, ("a",), gains=whitening.gains([(4.0, 4.0)]))
    model = Model(Voxels(8), Projection(rotation.super_fibonacci(3)), Anywhere(0.1, Gas()), noise=White(1.5))
    run = Reconstruction(torch.ones(512), None, [], Result.CONVERGED, {}, model.measured(data))
    assert _sigma(run) == pytest.approx(3.0, rel=1e-6)
    assert _sigma(replace(run, model=model)) == 1.5


def test_a_ridge_has_the_power_of_projections_without_filters() -> None:
    data = Micrographs(InMemory(torch.zeros(1, 48, 48)), 2.0, ("a",), gains=whitening.gains([(9.0, 9.0)]))
    object = Voxels(8)
    model = Model(object, Projection(rotation.super_fibonacci(10)), Anywhere(0.1, Gas()))
    job = MicrographJob(box=8, prior="ridge", signed=True)
    found = [prior(job, object, one, Known(5.0, 1.0)) for one in (model, model.measured(data))]
    assert found[0] == found[1]


def test_small_micrographs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 pixels"):
        whitening.spectrum(torch.zeros(30, 400))


def test_a_measured_spectrum_makes_such_noise() -> None:
    curve = tuple(1 + 5 * (1 - k / 91) ** 2 for k in range(92))
    found = torch.tensor(whitening.spectrum(measured("mine", curve).draw((900, 900), 5, 0)))
    assert float((found / torch.tensor(curve) - 1)[4:88].abs().mean()) < 0.05


@pytest.mark.parametrize("name", ["pink", "ar:", "ar:1.5", "ar:x"])
def test_an_unknown_colour_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="noise"):
        colour(name)


@pytest.mark.parametrize("name", ["white", "coloured"])
def test_the_energy_is_what_a_matched_filter_finds(name: str) -> None:
    """Mean over particles of sum |M|^2 / S, with M what the optics show, tails included."""
    specimen = bead_chain(7, 1, voxel_size=6.0)
    optics = draw_optics(2, 2, (8000.0, 16000.0), 500.0, SHARED, drawn(3))
    _, truth = simulate_micrographs(
        specimen, count=2, size=(220, 220), density=0.05, noise=energy(60), seed=1, optics=optics, colour=colour(name)
    )
    found = 0.0
    for index in range(2):
        clean = torch.fft.rfft2(truth.clean(index), s=(320, 320))
        power = colour(name).power(*filters.half_plane((320, 320))) * truth.sigma**2
        twice = torch.full_like(power, 2.0)
        twice[:, 0] = twice[:, -1] = 1.0
        found += float((clean.abs().square() * twice / power).sum()) / 320**2
    assert found / (2 * truth.per_micrograph) == pytest.approx(60, rel=0.12)  # copies' tails overlap, views are few


def test_sigma_is_that_of_a_pixel() -> None:
    specimen = bead_chain(7, 1)
    _, truth = simulate_micrographs(
        specimen, count=1, size=(300, 300), density=0.05, noise=sigma(2.5), seed=1, colour=colour("coloured")
    )
    noise = truth.read(0) - truth.clean(0)
    assert float(noise.std()) == pytest.approx(2.5, rel=0.02)
    assert truth.facts()["sigma"] == pytest.approx(2.5) and truth.facts()["noise"] == "coloured"


def test_one_copy_through_optics_is_its_image_convolved() -> None:
    specimen = bead_chain(7, 2, voxel_size=6.0)
    optics = draw_optics(1, 1, (9000.0, 9000.0), 800.0, SHARED, drawn(5))
    size = (180, 200)
    plain, seen = (
        simulate_micrographs(specimen, count=1, size=size, density=0.0014, noise=sigma(1), seed=2, optics=one)[1]
        for one in (None, optics)
    )
    assert plain.per_micrograph == seen.per_micrograph == 1
    wide = (512, 512)
    fx, fy = filters.half_plane(wide)
    factors = optics.values(fx / 6.0, fy / 6.0)[0]
    found = torch.fft.irfft2(torch.fft.rfft2(plain.clean(0), s=wide) * factors, s=wide)[: size[0], : size[1]]
    assert float((seen.clean(0) - found).norm() / found.norm()) < 0.02  # the tails' ends


def test_optics_of_another_number_are_refused() -> None:
    optics = draw_optics(2, 1, (9000.0, 9000.0), 0.0, SHARED, drawn(5))
    with pytest.raises(ValueError, match="one entry per micrograph"):
        simulate_micrographs(
            bead_chain(7, 2), count=1, size=(90, 90), density=0.05, noise=energy(9), seed=1, optics=optics
        )


def test_a_level_in_decibels_is_that_of_pixels_as_the_optics_show_them() -> None:
    """A single particle of the set, in noise of a colour: its variance in the box over that of the noise."""
    specimen = bead_chain(7, 1, voxel_size=6.0)
    optics = draw_optics(1, 1, (8000.0, 16000.0), 500.0, SHARED, drawn(3))
    shape = colour("coloured")
    _, truth = simulate_micrographs(
        specimen, count=1, size=(900, 900), density=0.05, noise=snr_db(-10), seed=1, optics=optics, colour=shape
    )
    corners = truth.occurrences(0).corners.tolist()
    clean = truth.clean(0)
    boxes = torch.stack([clean[row : row + 7, column : column + 7] for row, column in corners])
    shown = float(boxes.var((1, 2), correction=0).mean())
    noise = (truth.sigma * shape.draw((900, 900), 1, 7)).double()
    assert shown / float(noise.var()) == pytest.approx(0.1, rel=0.15)
    assert truth.facts()["snr_db"] == pytest.approx(-10)
