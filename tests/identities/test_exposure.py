"""Protein in ice, counted by a camera, against the planner's law and against its own definition."""

from __future__ import annotations

import pytest
import torch

from unpicked.io.structure import read_structure
from unpicked.ops.scattering import ICE, WATER, critical_dose, ice_power, interaction
from unpicked.plan.physics import Microscope, particle_energy
from unpicked.simulate.exposure import Exposure, in_ice
from unpicked.simulate.micrographs import Simulation, Specimen, simulate_micrographs
from unpicked.simulate.noise import colour
from unpicked.simulate.optics import draw_optics, drawn

PIXEL, BOX = 3.0, 16
SCOPE = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "phase_shift": 0.0}


@pytest.fixture(scope="module")
def simulated(request) -> Simulation:
    path = request.config.rootpath / "src" / "unpicked" / "simulate" / "5pti.cif"
    exposure = Exposure()
    object, x = in_ice(read_structure(path), PIXEL, BOX, exposure, b_factor=60.0)
    optics = draw_optics(2, 1, (10000.0, 10000.0), 0.0, SCOPE, drawn(1))
    return simulate_micrographs(
        Specimen(object, x, BOX, PIXEL), count=2, size=(256, 256), density=0.05, noise=None, seed=1,
        optics=optics, exposure=exposure,
    )[1]  # fmt: skip


def test_the_sum_of_an_image_is_the_scattering_of_the_molecule_less_its_ice(simulated: Simulation, bpti) -> None:
    exposure = simulated.exposure
    assert exposure is not None
    image = simulated.specimen.images(torch.eye(3, dtype=torch.float64)[None])[0]
    phase = float(image.sum()) / exposure.shown(PIXEL) * PIXEL**2 / interaction(300.0)
    atoms = float(read_structure(bpti).occupancies.sum())
    assert phase / atoms == pytest.approx(2.353 + 0.318 - ICE * 17.06, rel=0.06)  # mean of C, N, O and S


def test_the_energy_is_near_the_planners(simulated: Simulation) -> None:
    """Atoms against a law of globules: the same constants, another way."""
    told = particle_energy(6.5, Microscope(amplitude_contrast=0.1), 2 * PIXEL)
    assert simulated.facts()["energy"] == pytest.approx(told, rel=0.3)


def test_counts_have_their_mean_and_hardly_more_than_their_own_noise(simulated: Simulation) -> None:
    exposure = simulated.exposure
    assert exposure is not None
    counts = -simulated.read(0)
    assert torch.equal(counts, counts.round()) and float(counts.min()) >= 0
    assert float(counts.mean()) == pytest.approx(exposure.counts(PIXEL), rel=0.01)
    assert 1.0 < float(counts.var()) / exposure.counts(PIXEL) < 1.3
    assert torch.equal(simulated.read(1), simulated.read(1)) and not torch.equal(counts, -simulated.read(1))


def test_ice_has_the_power_that_is_stated() -> None:
    exposure = Exposure(ice=40.0)
    phase = exposure.ice_phase((512, 512), 2.0, 3, 0).double()
    axis = torch.fft.fftfreq(512, dtype=torch.float64)
    k = (axis[:, None].square() + axis.square()).sqrt() / 2.0
    expected = float((ice_power(k, 400.0) / 4).mean()) * interaction(300.0) ** 2
    assert float(phase.var()) == pytest.approx(expected, rel=0.03)
    small = float(ice_power(torch.tensor([1e-3], dtype=torch.float64), 400.0))
    assert small == pytest.approx(0.07 * WATER * 400 * (ICE / WATER) ** 2, rel=1e-3)


def test_damage_is_the_mean_over_the_exposure() -> None:
    exposure, k = Exposure(dose=40.0), torch.tensor([0.05], dtype=torch.float64)
    critical = float(critical_dose(k, 300.0))
    doses = torch.linspace(0, 40, 4001, dtype=torch.float64)
    mean = float(torch.trapezoid(torch.exp(-doses / (2 * critical)), doses) / 40)
    found = exposure.damage(k * 2.0, torch.zeros_like(k), 2.0)
    assert float(found) == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize(("name", "value"), [("dose", 0.0), ("ice", -1.0), ("dqe", 1.5), ("voltage_kv", -3.0)])
def test_an_impossible_exposure_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        Exposure(**{name: value})


def test_an_exposure_needs_optics_and_no_colour(simulated: Simulation) -> None:
    for optics, shape in ((None, "white"), (simulated.optics, "1/f")):
        with pytest.raises(ValueError, match="exposure needs optics"):
            simulate_micrographs(
                simulated.specimen, count=2, size=(256, 256), density=0.05, noise=None, seed=1, optics=optics,
                colour=colour(shape), exposure=Exposure(),
            )  # fmt: skip
