"""Defocus from Thon rings: simulated spectra and micrographs, a real one, noise alone, and bad input."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import unpicked as up
from answers import answered, fails, is_refused
from unpicked.ctffit import CtfSearch, NoThonRings, estimate_ctf, fit_ctf
from unpicked.ctffit.fit import Box, Lens, fit, splines
from unpicked.ctffit.rings import _equivalent
from unpicked.ctffit.spectrum import power_spectrum
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.io.micrographs import read_micrographs
from unpicked.io.mrc import write_image
from unpicked.io.star_layouts import write_micrographs_star
from unpicked.ops import fourier
from unpicked.ops.ctf import ctf, ctf_grid

KRIOS = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1}
PIXEL = 1.5


def micrograph(seed: int, u: float, v: float, angle: float, *, size: int = 1024, ratio: float = 1.0, **optics: float):
    """Matter through the contrast transfer plus coloured noise, cut from a larger field; ratio 0: noise alone."""
    field = round(1.25 * size)
    generator = torch.Generator().manual_seed(seed)
    transfer = ctf_grid(
        (field, field),
        PIXEL,
        defocus_u=u,
        defocus_v=v,
        astigmatism_angle=angle,
        b_factor=150.0,
        **(KRIOS | optics),
    )
    s = fourier.radius((field, field)) / field
    colour = (1 + 3 * torch.exp(-((s / 0.075) ** 2))).sqrt()
    matter, noise = (torch.fft.fft2(torch.randn(field, field, generator=generator)) for _ in range(2))
    return torch.fft.ifft2(math.sqrt(ratio) * transfer * matter + colour * noise).real[:size, :size].float()


def turned(found: float, true: float) -> float:
    return abs((found - true + 90) % 180 - 90)


def test_power_of_white_noise_and_place_of_a_wave() -> None:
    image = torch.randn(300, 420, generator=torch.Generator().manual_seed(1)) * 3 + 50
    spectrum = power_spectrum(image, 2.0, (30.0, 4.5), tile=256.0)
    assert float(spectrum.power.mean()) == pytest.approx(9, rel=0.02)
    assert float(spectrum.s.min()) >= 1 / 30 and float(spectrum.s.max()) <= 1 / 4.5
    x, y = torch.arange(420), torch.arange(300)[:, None]
    spectrum = power_spectrum(torch.cos(0.9 * x + 0.4 * y) + 0.01 * image, 2.0, (30.0, 4.5), tile=256.0)
    top = int(spectrum.power.argmax())
    assert abs(float(spectrum.sx[top]) - 0.9 / (4 * math.pi)) < spectrum.step
    assert abs(float(spectrum.sy[top]) - 0.4 / (4 * math.pi)) < spectrum.step


def test_samples_per_independent_one() -> None:
    """Means over many samples scatter as the fit believes."""
    generator, means = torch.Generator().manual_seed(3), []
    for _ in range(300):
        spectrum = power_spectrum(torch.randn(128, 128, generator=generator), 2.0, (30.0, 4.5), tile=128.0)
        means.append(float(spectrum.power.mean()))
    expected = float(spectrum.power.std()) * math.sqrt(spectrum.correlated / len(spectrum.power))
    assert np.std(means) == pytest.approx(expected, rel=0.15)


def test_splines_add_up_to_one() -> None:
    basis = splines(torch.linspace(0.03, 0.2, 50, dtype=torch.float64), (0.03, 0.2))
    assert torch.allclose(basis.sum(1), torch.ones(50, dtype=torch.float64)) and float(basis.min()) >= 0


def test_lines_of_equal_phase() -> None:
    """The mean defocus has the same transfer at the equivalent frequency."""
    angle = torch.linspace(0, math.pi, 40, dtype=torch.float64)
    sx, sy = 0.15 * angle.cos(), 0.15 * angle.sin()
    numbers = torch.tensor([9000.0, 700.0, -500.0, 20.0], dtype=torch.float64)
    lens = Lens(300.0, 2.7, 0.1)
    place = _equivalent(sx, sy, lens, numbers)
    plain = torch.tensor([9000.0, 0.0, 0.0, 20.0], dtype=torch.float64)
    assert torch.allclose(lens.square(sx, sy, numbers), lens.square(place, 0 * place, plain), atol=1e-9)


def test_numbers_of_the_lens_are_those_of_the_conventions() -> None:
    sx, sy = torch.rand(2, 50, dtype=torch.float64) * 0.2
    u, v, a = 12_000.0, 9_000.0, 35.0
    half, turn = (u - v) / 2, 2 * math.radians(a)
    numbers = torch.tensor([(u + v) / 2, half * math.cos(turn), half * math.sin(turn), 0.0], dtype=torch.float64)
    expected = ctf(sx, sy, defocus_u=u, defocus_v=v, astigmatism_angle=a, **KRIOS).square()
    assert torch.allclose(Lens(300.0, 2.7, 0.1).square(sx, sy, numbers), expected)


@pytest.mark.parametrize(("u", "v", "angle", "phase"), [(6300.0, 4700.0, 155.0, 0.0), (21_000.0, 19_500.0, 10.0, 0.0),
                                                        (8_000.0, 7_000.0, 70.0, 60.0)])  # fmt: skip
def test_a_spectrum_of_the_model_gives_its_numbers_back(u: float, v: float, angle: float, phase: float) -> None:
    spectrum = power_spectrum(torch.randn(512, 512), 2.0, (30.0, 5.0))
    optics = {"defocus_u": u, "defocus_v": v, "astigmatism_angle": angle, "phase_shift": phase}
    s = spectrum.s
    rings = ctf(spectrum.sx, spectrum.sy, **optics, **KRIOS).square()
    spectrum = replace(spectrum, power=7 * ((0.3 - s) + 0.5 * torch.exp(-60 * s.square()) * rings))
    found, _ = fit(spectrum, Lens(300.0, 2.7, 0.1), Box((3_000.0, 50_000.0), 4_000.0), None if phase else 0.0)
    z, c, d, p = found.numbers.tolist()
    half = (u - v) / 2
    assert z == pytest.approx((u + v) / 2, rel=2e-3)
    assert c == pytest.approx(half * math.cos(2 * math.radians(angle)), abs=20)
    assert d == pytest.approx(half * math.sin(2 * math.radians(angle)), abs=20)
    assert p == pytest.approx(phase, abs=1)


@pytest.mark.parametrize("seed", range(6))
def test_simulated_micrographs(seed: int) -> None:
    drawn = torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()
    mean = 5_000 * 6 ** ((seed + drawn[0]) / 6)  # from 0.5 to 3 um
    apart, angle = 800 + 1_200 * drawn[1], 180 * drawn[2]
    found = fit_ctf(micrograph(seed, mean + apart / 2, mean - apart / 2, angle), PIXEL)
    assert abs(found.defocus / mean - 1) < 0.02
    assert abs(found.defocus - mean) < 5 * found.defocus_error < 0.05 * mean
    assert turned(found.astigmatism_angle, angle) < 5 and found.angle_error < 5
    assert abs(found.astigmatism - apart) < 5 * found.astigmatism_error
    assert found.resolution < 8 and found.correlation > 0.8 and found.rings > 2
    assert found.defocus_u >= found.defocus_v and 0 <= found.astigmatism_angle < 180


def test_a_phase_plate_and_another_voltage() -> None:
    image = micrograph(7, 9_500.0, 8_500.0, 40.0, size=768, ratio=2.0, phase_shift=80.0, voltage_kv=200.0)
    search = CtfSearch(voltage_kv=200.0, phase_shift=None)
    found = fit_ctf(image, PIXEL, search)
    assert abs(found.phase_shift - 80) < 8 and abs(found.defocus / 9_000 - 1) < 0.03 and found.phase_error > 0
    given = fit_ctf(image, PIXEL, replace(search, phase_shift=80.0))
    assert abs(given.defocus / 9_000 - 1) < 0.01 and given.phase_shift == 80.0 and given.phase_error == 0
    assert given.defocus_error < found.defocus_error


def test_the_real_micrograph(shared_data) -> None:
    """Binned and cropped; the microscope was set to 2.2 um, the rings say 2.7."""
    names = ("epu2.9_example_bin4.mrc", "epu2.9_example_crop1024.mrc")
    sets = [read_micrographs(shared_data(f"micrographs/{name}")) for name in names]
    found = [fit_ctf(data[0], data.pixel_size) for data in sets]
    binned, cropped = found
    assert abs(binned.defocus / cropped.defocus - 1) < 0.03
    assert all(25_000 < one.defocus < 29_000 for one in found)
    assert binned.resolution < 6 and binned.correlation > 0.95 and binned.rings > 15
    assert cropped.resolution < 8 and cropped.correlation > 0.75 and cropped.rings > 8


@pytest.mark.parametrize("kind", ["white", "coloured", "particles"])
def test_no_rings_no_defocus(kind: str, bpti) -> None:
    if kind == "particles":  # without contrast transfer
        specimen = up.specimen_from_structure(up.read_structure(bpti), 16, 2.5)
        data, _ = up.simulate_micrographs(
            specimen, count=1, size=(320, 320), density=0.1, noise=up.energy(30), seed=1, spacing="arbitrary"
        )
        image, pixel = data[0], 2.5
    else:
        image = micrograph(3, 1e4, 1e4, 0, size=320, ratio=0.0)
        pixel = PIXEL
        if kind == "white":
            image = torch.randn(320, 320, generator=torch.Generator().manual_seed(5))
    with pytest.raises(NoThonRings, match="no Thon rings found") as caught:
        fit_ctf(image, pixel, name="blank.mrc")
    assert "blank.mrc" in str(caught.value) and "\n" not in str(caught.value)


def test_a_range_that_misses_the_defocus_is_told() -> None:
    image = micrograph(11, 12_500.0, 11_500.0, 20.0, size=480, ratio=3.0)
    for search in (CtfSearch(defocus=(15_000.0, 50_000.0)), CtfSearch(defocus=(3_000.0, 9_000.0))):
        with pytest.raises(NoThonRings):
            fit_ctf(image, PIXEL, search)
    assert fit_ctf(image, PIXEL, CtfSearch(astigmatism=0.0)).astigmatism == 0.0


def test_borders_hot_pixels_and_gradients_hardly_matter() -> None:
    image = micrograph(12, 12_500.0, 11_500.0, 20.0, size=480, ratio=3.0)
    worse = 1_000 + image + torch.linspace(0, 20, 480)
    worse[:10], worse[:, -7:] = 0.0, 0.0
    worse.view(-1)[torch.randperm(480 * 480, generator=torch.Generator().manual_seed(1))[:40]] += 500
    clean, found = (fit_ctf(one, PIXEL) for one in (image, worse))
    assert abs(found.defocus - clean.defocus) < 3 * clean.defocus_error
    assert abs(clean.defocus / 12_000 - 1) < 0.02 and turned(found.astigmatism_angle, 20) < 3 * found.angle_error


def test_a_set_and_its_optics() -> None:
    """Micrographs with rings get optics; the others are left out, with the reason."""
    images = torch.stack(
        [micrograph(k, z + 400, z - 400, 30.0, size=400, ratio=3 * (k % 2)) for k, z in ((1, 9e3), (2, 9e3))]
    )
    data = Micrographs(InMemory(images), PIXEL, ("rings", "noise"), notes=("two",))
    found = estimate_ctf(data)
    assert found.kept == (0,) and [name for name, _ in found.refused] == ["noise"]
    assert len(found.notes) == 2 and found.fits[0].flat is None
    ready = found.apply(data)
    assert ready.names == ("rings",) and torch.equal(ready[0], images[0]) and ready.notes[0] == "two"
    assert ready.optics is not None and ready.optics.defocus_u == (found.fits[0].defocus_u,)
    assert ready.optics.voltage_kv == (300.0,) and ready.optics.group == (0,)
    with pytest.raises(ValueError, match="fits of 2"):
        found.apply(data.part([0]))
    with pytest.raises(ValueError, match="no Thon rings"):
        estimate_ctf(data.part([1])).apply(data.part([1]))


def test_bad_input_is_refused() -> None:
    image = torch.randn(300, 300)
    assert fails(lambda: fit_ctf(image[0], 1.5), "(height, width)")
    assert fails(lambda: fit_ctf(image, 0.0), "pixel_size")
    assert fails(lambda: fit_ctf(image * math.nan, 1.5, name="holes"), "holes", "finite")
    assert fails(lambda: fit_ctf(torch.zeros(300, 300), 1.5, name="dark"), "dark", "flat", error=NoThonRings)
    passed = fourier.resize_image(fourier.resize_image(image, (100, 100)), (300, 300))
    assert fails(lambda: fit_ctf(passed, 1.5, name="soft"), "soft", "low-passed", error=NoThonRings)
    assert fails(lambda: fit_ctf(image, 12.0), "12 A", "finer")
    assert fails(lambda: fit_ctf(image[:20, :20], 1.5), "20 x 20", "larger micrograph")
    assert fails(lambda: fit_ctf(image, 3.0, CtfSearch(band=(30.0, 5.0))), "two pixels, 6 A")
    assert fails(lambda: CtfSearch(voltage_kv=300_000.0), "kV", 300000)
    assert fails(lambda: CtfSearch(cs_mm=-1.0), "cs_mm")
    assert fails(lambda: CtfSearch(amplitude_contrast=7.0), "between 0 and 1")
    assert fails(lambda: CtfSearch(phase_shift=math.inf), "phase_shift")
    assert fails(lambda: CtfSearch(defocus=(20_000.0, 10_000.0)), "defocus")
    assert fails(lambda: CtfSearch(astigmatism=-1.0), "astigmatism")
    assert fails(lambda: CtfSearch(band=(5.0, 30.0)), "band")


@pytest.fixture
def files(tmp_path):
    """A micrograph with rings, and one of noise alone."""
    (tmp_path / "data").mkdir()
    write_image(micrograph(1, 13_000.0, 12_000.0, 30.0, size=480, ratio=3.0), tmp_path / "data" / "good.mrc", PIXEL)
    write_image(torch.randn(480, 480), tmp_path / "data" / "noise.mrc", PIXEL)
    return tmp_path


def test_the_command(files, capsys) -> None:
    status, out, _ = answered(capsys, "ctf", files / "data", "--out", files / "ctf", "--json")
    assert status == 0
    facts = json.loads(out.splitlines()[-1])
    assert facts == json.loads((files / "ctf" / "ctf.json").read_text())
    (row,) = facts["micrographs"]
    assert abs(row["defocus_u"] - 13_000) < 300 and row["name"].endswith("good.mrc")
    assert facts["left_out"][0]["name"].endswith("noise.mrc") and "no Thon rings" in facts["left_out"][0]["reason"]
    names = {path.name for path in (files / "ctf").iterdir()}
    assert names == {"ctf.json", "micrographs.star", "good_ctf.png"}
    assert (files / "ctf" / "good_ctf.png").stat().st_size > 20_000
    again = read_micrographs(files / "ctf" / "micrographs.star")
    assert len(again) == 1 and again.pixel_size == PIXEL
    assert again.optics is not None and again.optics.defocus_u == (row["defocus_u"],)
    assert again.optics.voltage_kv == (300.0,) and again.optics.amplitude_contrast == (0.1,)


def test_values_of_a_star_file_are_compared_and_its_microscope_is_taken(files, capsys) -> None:
    image = micrograph(2, 12_000.0, 11_000.0, 30.0, size=480, ratio=3.0, voltage_kv=200.0)
    write_image(image, files / "data" / "good.mrc", PIXEL, overwrite=True)
    optics = up.Optics((12e3,), (11e3,), (30.0,), (200.0,), (2.7,), (0.1,), (0.0,), (0.0,), (1.0,), (0,))
    write_micrographs_star(files / "micrographs.star", ["data/good.mrc"], PIXEL, optics=optics)
    words = ("ctf", files / "micrographs.star", "--no-pictures", "--json", "--out")
    status, out, _ = answered(capsys, *words, files / "ctf")
    facts = json.loads(out.splitlines()[-1])
    assert status == 0 and facts["settings"]["voltage"] == 200.0
    (row,) = facts["micrographs"]
    assert row["given"]["defocus_u"] == 12_000.0 and abs(row["defocus_u"] / 12_000 - 1) < 0.02
    assert any("gave defocus values already" in note for note in facts["notes"])
    assert read_micrographs(files / "micrographs.star").optics == optics  # as it was
    assert is_refused(answered(capsys, *words, files, "--overwrite"), "is what is read")


def test_bad_input_of_the_command(files, capsys) -> None:
    good, noise, out = files / "data" / "good.mrc", files / "data" / "noise.mrc", files / "ctf"
    assert is_refused(answered(capsys, "ctf", noise, "--out", out), "noise.mrc", "no Thon rings found")
    assert is_refused(answered(capsys, "ctf", files / "none.mrc", "--out", out), "none.mrc")
    assert is_refused(answered(capsys, "ctf", good, "--out", out, "--phase-shift", "some"), "find", "some")
    assert is_refused(answered(capsys, "ctf", good, "--out", out, "--voltage", "300000"), "kV")
    assert is_refused(answered(capsys, "ctf", good, "--out", out, "--band", "30", "5", "2"), "--band")
    assert is_refused(answered(capsys, "ctf", good, "--out", out, "--pixel-size", "20"), "20 A")
    assert is_refused(answered(capsys, "ctf", good, "--out", good), "is a file")
    assert not out.exists()
    out.mkdir()
    (out / "mine").write_text("")
    assert is_refused(answered(capsys, "ctf", good, "--out", out), "not empty", "--overwrite")
    status, _, _ = answered(capsys, "ctf", good, "--out", out, "--overwrite", "--voxel", PIXEL, "--no-pictures")
    assert status == 0 and {path.name for path in out.iterdir()} == {"mine", "ctf.json", "micrographs.star"}
