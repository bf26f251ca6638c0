"""The verdict on particle stacks: nulls against exact densities, structures, noise, and centred lumps without any."""

import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import unpicked
from answers import answered
from stacks import stack
from unpicked.data.micrographs import InMemory
from unpicked.data.particles import Particles
from unpicked.data.surrogates import ScrambledImages, random_phases
from unpicked.evaluate.stack_nulls import Moments, StackSpectrum, StackWhite, missing_noise
from unpicked.ops import fourier, orientations
from unpicked.ops.band import Band
from unpicked.ops.orientations import Images
from unpicked.recipes import stack_trials
from unpicked.recipes.particle_job import ParticleJob
from unpicked.recipes.stack_trials import ParticleTrial
from unpicked.verify import verify
from unpicked.verify.verdict import FEATURELESS

BAND = Band(12, 5)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Of the torch library."""
    torch.set_num_threads(1)


def complex_normal(count: int, power: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn(2, count, len(BAND), generator=generator, dtype=torch.float64)
    return torch.complex(*parts) * (power / 2).sqrt()


def test_nulls_of_white_noise_are_one_density() -> None:
    images = Images(complex_normal(300, torch.tensor(2.5), 0))
    exact = torch.distributions.Normal(0.0, math.sqrt(1.25))
    wanted = (exact.log_prob(images.coefficients.real) + exact.log_prob(images.coefficients.imag)).sum(1)
    points, flat = len(BAND), torch.zeros(2 * len(BAND), dtype=torch.float64)
    known = torch.full((points,), 2.5, dtype=torch.float64)
    ones = torch.ones(300, points, dtype=torch.float64)
    assert torch.allclose(StackWhite(2.5).log_likelihood(images), wanted)
    assert torch.allclose(StackSpectrum(BAND.shells, known, 0 * known).log_likelihood(images), wanted)
    for some in (images, Images(images.coefficients, ones)):
        still = torch.ones(1, points, dtype=torch.complex64)
        moments = Moments(flat, torch.zeros(2 * points, 2 * points, dtype=torch.float64), known, 0 * known, still)
        assert torch.allclose(moments.log_likelihood(some), wanted)
    assert StackWhite().fitted([images[:100], images[100:]]).power == pytest.approx(2.5, rel=0.05)


def test_the_spectrum_tells_specimen_and_detector_apart_by_the_contrast_transfer() -> None:
    index = BAND.shells
    noise, signal = torch.tensor([1.0, 1.0, 2.0, 1.0, 0.5, 0.7]), torch.tensor([0.0, 9.0, 5.0, 3.0, 1.0, 0.0])
    defocus = torch.linspace(0.5, 3.0, 600)[:, None]
    transfer = torch.sin(defocus * BAND.points.double().norm(dim=1)).double()
    whole = noise.double()[index] + transfer.square() * signal.double()[index]
    images = Images(complex_normal(600, whole, 1), transfer)
    found = StackSpectrum(index).fitted([images[:200], images[200:]])
    assert found.noise is not None and found.signal is not None
    assert torch.allclose(found.noise.float(), noise[index], rtol=0.2, atol=0.1)
    assert torch.allclose(found.signal.float(), signal[index], rtol=0.2, atol=0.2)
    truth = StackSpectrum(index, noise.double()[index], signal.double()[index])
    gain = float((truth.log_likelihood(images) - found.log_likelihood(images)).sum())
    assert abs(gain) < 30 and gain < float(
        (truth.log_likelihood(images) - StackWhite().fitted([images]).log_likelihood(images)).sum()
    )
    with pytest.raises(ValueError, match="fitted"):
        StackSpectrum(index).log_likelihood(images)


@pytest.mark.parametrize("reach", [0.0, 1.0])
@pytest.mark.parametrize("transferred", [False, True])
def test_moments_are_the_gaussian_of_their_mean_and_covariance_at_all_shifts(transferred: bool, reach: float) -> None:
    points = len(BAND)
    slices, ramps = complex_normal(50, torch.tensor(3.0), 2) + 1, BAND.ramp(orientations.shift_grid(reach))
    transfer = torch.linspace(0.2, 1.0, 40 * points, dtype=torch.float64).view(40, points) if transferred else None
    images = Images(complex_normal(40, torch.tensor(2.0), 3), transfer)
    found = Moments.of(slices, ramps, BAND, images)
    wanted = []
    for row in range(40):
        seen = torch.ones(2 * points, dtype=torch.float64) if transfer is None else transfer[row].repeat(2)
        covariance = torch.outer(seen, seen) * found.covariance + torch.diag(found.noise.repeat(2))
        one = torch.distributions.MultivariateNormal(seen * found.mean, covariance)
        left = images.coefficients[row] - seen[:points] * found.around
        moved = [left * ramp.conj() for ramp in ramps]
        flat = torch.stack([math.sqrt(2) * torch.cat([part.real, part.imag]) for part in moved])
        wanted.append(one.log_prob(flat).logsumexp(0) - math.log(len(ramps)) + points * math.log(2))
    assert torch.allclose(found.log_likelihood(images), torch.stack(wanted), rtol=1e-6)


def test_noise_is_added_to_clear_images_only(clean: Particles) -> None:
    seen = Images(BAND.coefficients(fourier.resize_image(clean.images().double(), (BAND.box, BAND.box))))
    noise = complex_normal(len(seen), torch.tensor(1.0), 4)
    shells = BAND.shells
    for level, wanted in ((0.0, 0.1), (0.04, 0.06), (0.25, 0.0), (3.0, 0.0)):
        power = float(seen.coefficients.abs().square().mean())
        images = Images(seen.coefficients + math.sqrt(level * power) * noise)
        added = missing_noise(images, BAND, 0.1)
        whole = images.coefficients.abs().square().mean(0)
        parts = torch.stack([added[shells == shell].mean() / whole[shells == shell].mean() for shell in (1, 2, 4)])
        assert torch.allclose(parts, torch.full((3,), wanted).double(), atol=0.02)
    trial = ParticleTrial(clean, ParticleJob())
    assert torch.equal(trial.surrogate(0).added, trial.added) and bool(trial.added.any())


def test_surrogates_keep_power_and_the_phases_that_centre() -> None:
    image = torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = random_phases(image, 1, 2.0)
    one, other = torch.fft.fft2(image), torch.fft.fft2(found)
    assert torch.allclose(one.abs(), other.abs())
    low = fourier.radius(image.shape) <= 2
    assert torch.allclose(one[low], other[low]) and not torch.allclose(one[~low], other[~low], rtol=0.1)
    data = InMemory(image[None])
    assert torch.equal(ScrambledImages(data, 3, 2.0).read(0), ScrambledImages(data, 3, 2.0).read(0))


def lumps(data: Particles, seed: int) -> torch.Tensor:
    """Centred density of random phases, with the power of the images at every frequency."""
    images = data.images().double()
    window = torch.exp(-((fourier.distances(data.shape) / (0.3 * data.box)) ** 4))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(images.shape, generator=generator, dtype=torch.float64) * window
    spectrum = fourier.fft2(drawn)
    wanted = fourier.fft2(images).abs().square().mean(0).sqrt()
    return fourier.ifft2(spectrum * wanted / spectrum.abs().square().mean(0).sqrt()) * window


@pytest.fixture(scope="module")
def clean() -> Particles:
    return stack(count=160, box=20, level=math.inf)[0]


def judged(clean: Particles, images: torch.Tensor, energy: float):
    """The verdict on images in white noise at a mean energy."""
    generator = torch.Generator().manual_seed(7)
    scale = math.sqrt(energy / max(float(images.double().square().sum((1, 2)).mean()), 1e-30))
    noisy = scale * images.double() + torch.randn(images.shape, generator=generator, dtype=torch.float64)
    data = Particles(InMemory(noisy.float()), clean.pixel_size, clean.names)
    return verify(ParticleTrial(data, ParticleJob(starts=1, rounds=1)), seed=1)


@pytest.mark.parametrize("energy", [1e8, pytest.param(1000.0, marks=pytest.mark.slow)])
def test_a_structure_is_supported(clean: Particles, energy: float) -> None:
    """Also where noise is so low that no image is quite what a view on a grid says."""
    found = judged(clean, clean.images(), energy)
    assert found.verdict == "supported" and found.unit == "group of images"
    assert all(fold.best == FEATURELESS for fold in found.folds)


@pytest.mark.slow
def test_round_particles_are_not(clean: Particles) -> None:
    blob = torch.exp(-((fourier.distances(clean.shape) / 5.0) ** 4))
    found = judged(clean, blob.expand(len(clean), -1, -1), 500.0)
    assert found.verdict != "supported" and all(fold.gain < 0 and fold.over_noise > 0 for fold in found.folds)


@pytest.mark.slow
def test_noise_is_not(clean: Particles) -> None:
    assert judged(clean, torch.zeros_like(clean.images()), 0.0).verdict == "not supported"


@pytest.mark.parametrize("energy", [1e8, pytest.param(1000.0, marks=pytest.mark.slow)])
def test_centred_lumps_without_structure_are_not_though_they_beat_every_noise(clean: Particles, energy: float) -> None:
    found = judged(clean, lumps(clean, 3), energy)
    assert found.verdict == "not supported"
    assert all(fold.over_noise > 0 for fold in found.folds), "what only the Gaussian of the same moments sees through"


def test_neither_the_scale_of_a_map_nor_what_surrounds_it_counts(clean: Particles, monkeypatch) -> None:
    """Only what lies beyond the second order: mean, covariance and noise are those of the featureless images."""
    monkeypatch.setattr(stack_trials, "VIEWS", 4608)
    truth = stack(count=160, box=20, level=math.inf)[1].truth().values.float().flatten()
    generator = torch.Generator().manual_seed(9)
    scale = math.sqrt(1000 / float(clean.images().square().sum((1, 2)).mean()))
    images = scale * clean.images() + torch.randn(clean.images().shape, generator=generator)
    around = 0.5 * torch.exp(-(((fourier.distances(clean.shape) - 8) / 2) ** 2)).float()
    gains = []
    for factor, shown in ((1.0, images), (math.sqrt(2), images), (1.0, images + around)):
        trial = ParticleTrial(Particles(InMemory(shown), clean.pixel_size, clean.names), ParticleJob())
        run, part = SimpleNamespace(x=factor * scale * truth), trial.part(range(trial.count))
        own, null = trial.score(run, part), trial.featureless(run, part, 0)
        gains.append(sum(float((own(tiles) - null(tiles)).sum()) for tiles in trial.tiles(part)))
    assert gains[0] > 50
    assert gains[1] == pytest.approx(gains[0], rel=1e-3) and gains[2] == pytest.approx(gains[0], rel=0.1)


def test_round_particles_off_their_centres_have_no_structure(clean: Particles, monkeypatch) -> None:
    """Judged by their own map: a mixture over shifts is no Gaussian, and no structure either."""
    monkeypatch.setattr(stack_trials, "VIEWS", 800)  # of a round map all are alike
    generator = torch.Generator().manual_seed(5)
    reach, box = 2.0, clean.box
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    away = 2 * reach * torch.rand(4 * len(clean), 2, generator=generator, dtype=torch.float64) - reach
    places = away[away.norm(dim=1) <= reach][: len(clean)]
    x, y = axis - places[:, :1], axis - places[:, 1:]
    images = torch.exp(-(y[:, :, None].square() + x[:, None].square()) / 8)
    volume = torch.exp(-(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2) / 8) / math.sqrt(8 * math.pi)
    scale = math.sqrt(1000 / float(images[0].square().sum()))
    shown = scale * images + torch.randn(images.shape, generator=generator, dtype=torch.float64)
    data = Particles(InMemory(shown.float()), clean.pixel_size, clean.names[: len(images)])
    trial = ParticleTrial(data, ParticleJob(max_shift=reach * clean.pixel_size))
    run, part = SimpleNamespace(x=scale * volume.float().flatten()), trial.part(range(trial.count))
    own, null = trial.score(run, part), trial.featureless(run, part, 0)
    gains = torch.stack([(own(tiles) - null(tiles)).sum() for tiles in trial.tiles(part)])
    assert float(gains.sum()) < 3 * float(gains.std() * len(gains) ** 0.5) + 1


def test_a_handful_of_images_cannot_be_judged(clean: Particles) -> None:
    found = verify(ParticleTrial(clean.part(range(6)), ParticleJob()), seed=1)
    assert found.verdict == "undecided" and not found.folds


def test_the_commands(clean: Particles, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = partial(answered, capsys)
    protein = str(Path(unpicked.__file__).parent / "simulate" / "5pti.cif")
    made = command(
        "simulate", "particles", "--out", "sim", "--structure", protein, "--box", "20", "--voxel", "3",
        "--count", "120", "--energy", "2000", "--seed", "3",
    )  # fmt: skip
    assert made[0] == 0, made[2]
    small = ("--starts", "1", "--rounds", "1", "--threads", "1")
    done = command("reconstruct", "particles", "sim/particles.star", "--out", "run", *small)
    assert done[0] == 0, done[2]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["verdict"] in ("supported", "undecided") and result["figures"]["verify"]["evidence"]["gain"] > 0
    again = command("verify", "run", "--surrogates", "1", "--starts", "1", "--json")
    assert again[0] == 0, again[2]
    told = json.loads(again[1].splitlines()[-1])
    assert (
        len(told["evidence"]["surrogates"]) == 1
        and told["evidence"]["surrogates"][0]["gain"] < told["evidence"]["gain"]
    )
    given = ("--method", "known", "--poses", "sim/truth.star", "--out", "known")
    known = command("reconstruct", "particles", "sim/particles.star", *small, *given)
    assert known[0] == 0 and json.loads((tmp_path / "known" / "result.json").read_text())["verdict"] == "not verified"
