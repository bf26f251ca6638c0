"""``unpicked plan``: energies of the methods page, boundaries, and what the measured table says."""

import itertools
import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from matplotlib.figure import Figure

from answers import answered, is_refused
from unpicked.data.snr import energy
from unpicked.experiments.recovery import Fields, Volume, recover
from unpicked.plan import Microscope, boundary_of, cost, grid_energy, plan
from unpicked.plan.cost import seconds_of, view_passes
from unpicked.plan.information import expected, needed, table
from unpicked.plan.measured import forecast, measured
from unpicked.plan.physics import energy_density, energy_slope, particle_energy, power, radius
from unpicked.recipes import MicrographJob, parts
from unpicked.recipes.known import Known
from unpicked.report import phase_diagram
from unpicked.simulate.phantom import bead_chain

PAGE = {
    6.5: (8, 17, 31, 78),
    10: (11, 22, 47, 143),
    14: (15, 28, 62, 227),
    20: (19, 37, 78, 369),
    29: (25, 47, 96, 610),
    38: (31, 58, 115, 878),
    47: (37, 68, 136, 1166),
    64: (46, 83, 170, 1755),
    100: (63, 117, 232, 3146),
}


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return partial(answered, capsys, "plan")


@pytest.mark.parametrize("mass", PAGE)
def test_energies_are_those_of_the_prototype(mass):
    scopes = [Microscope(defocus_um=z) for z in (0.5, 1.0, 2.0)] + [Microscope(phase_plate=True)]
    for scope, wanted in zip(scopes, PAGE[mass], strict=True):
        assert grid_energy(mass, scope) == pytest.approx(wanted, rel=0.005, abs=0.51), "to the digits of the table"


def test_energy_rises_with_mass_dose_and_defocus_and_falls_with_b():
    rising = [[grid_energy(m, Microscope()) for m in (5, 10, 20, 40)]]
    rising += [[grid_energy(20, Microscope(dose=d)) for d in (10, 30, 50, 100)]]
    rising += [[grid_energy(20, Microscope(defocus_um=z)) for z in (0.5, 1, 1.5, 2)]]
    rising += [[grid_energy(20, Microscope(b_factor=b)) for b in (200, 100, 60, 0)]]
    rising += [[particle_energy(20, Microscope(), d) for d in (20, 10, 5, 3)]]
    assert all(a < b for row in rising for a, b in itertools.pairwise(row))


def test_doses_and_power_are_the_published_ones():
    k = torch.tensor([0.1, 0.25], dtype=torch.float64)
    critical = 0.24499 * k.pow(-1.6649) + 2.8141
    assert torch.allclose(Microscope(dose=1e9).effective_dose(k), critical)
    assert torch.allclose(Microscope(dose=1e-6).effective_dose(k), torch.full_like(k, 1e-6), rtol=1e-6)
    assert bool((Microscope(voltage_kv=200).effective_dose(k) < Microscope().effective_dose(k)).all())
    atoms = 1000 * 20 / 14.1
    low = power(20, torch.tensor([1e-4], dtype=torch.float64))
    contrast = (2.353 + 0.318) * atoms / (1210 * 20) - 0.0814
    assert float(low) == pytest.approx((contrast * 1210 * 20) ** 2, rel=1e-3), "all atoms in step, less the ice"
    assert radius(20) == pytest.approx(17.94, abs=0.01)


def test_slopes_add_up_to_the_energy():
    k = torch.linspace(1 / 300, 0.2, 4001, dtype=torch.float64)
    area = float(torch.trapezoid(energy_density(20, Microscope(), k), k))
    assert particle_energy(20, Microscope(), 5.0) == pytest.approx(area, rel=1e-4)
    assert energy_slope(20, Microscope(phase_plate=True), 5.0) > energy_slope(20, Microscope(), 5.0) > 0


def test_boundaries_and_regimes():
    assert boundary_of(441) == pytest.approx(29, abs=0.1) and boundary_of(1.7e7) == pytest.approx(50, abs=0.5)
    assert [plan(mass).regime for mass in (1, 10, 38, 100)] == ["marginal", "detection-free", "pick", "pick"]
    assert plan(0.5).regime == "hopeless" and plan(0.5).particles is None
    assert plan(38).realistic_regime == "detection-free"


def test_particles_rise_as_energy_falls_and_the_range_holds_the_middle():
    found = [needed(level, error=0.2) for level in (400, 100, 42, 20, 12, 6, 3)]
    assert all(a.middle <= b.middle for a, b in itertools.pairwise(found))
    assert all(one.low <= one.middle <= one.high for one in found)
    assert found[-1].middle > 1e3 * found[2].middle
    deeper = [needed(24, shell=shell).middle for shell in (1, 2, 3, 3.5, 4, 5)]
    assert deeper == sorted(deeper)
    with pytest.raises(ValueError, match="one of the two"):
        needed(24)


def test_error_and_particles_are_each_others_inverse():
    for curves in table():
        for level in (8.0, 24.0, 60.0):
            count = curves.needed(level, error=0.3)
            again = [curves.needed(level, error=error) for error in (0.27, 0.33)]
            assert again[1] < count < again[0]
    error, shells = expected(24.0, needed(24.0, error=0.3).middle)
    assert error.low <= 0.3 <= error.high and shells[1] <= shells[0] <= shells[2]


@pytest.mark.parametrize("level", [3.0, 24.0, 400.0])
def test_errors_fall_without_a_step_from_the_fewest_to_very_many(level):
    found = [expected(level, count)[0].middle for count in (100, 110, 300, 1e3, 1e5, 1e8, 1e10)]
    assert all(a >= b for a, b in itertools.pairwise(found)) and found[0] <= 1.3 and found[-1] < found[-2]
    with pytest.raises(ValueError, match="fewest"):
        expected(level, 99)


def test_error_falls_as_the_root_of_many_particles():
    one, four = (expected(42.0, count)[0].middle for count in (2.5e5, 1e6))
    assert one / four == pytest.approx(2, rel=0.25)


def test_finer_than_the_working_grid_takes_more():
    grid = plan(47)
    fine = plan(47, resolution=4.0)
    assert grid.resolution == pytest.approx(grid.field / 5)
    assert fine.particles is not None and grid.particles is not None and fine.particles.middle > grid.particles.middle
    assert next(change for change, *_ in grid.helps) == "an ideal phase plate"
    energies = [value for _, value, _ in grid.helps]
    assert energies == sorted(energies, reverse=True)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"mass_kda": -1}, "mass_kda"),
        ({"mass_kda": math.nan}, "mass_kda"),
        ({"mass_kda": 20, "resolution": 0.0}, "resolution"),
        ({"mass_kda": 20, "resolution": 0.001}, "resolution"),
        ({"mass_kda": 1e9}, "mass_kda"),
        ({"mass_kda": 20, "area": 900.0}, "larger than a box"),
        ({"mass_kda": 20, "density": 0.0}, "density"),
        ({"mass_kda": 20, "area": -1.0}, "larger than a box"),
        ({"mass_kda": 20, "micrographs": 0}, "micrographs"),
    ],
)
def test_nonsense_is_refused(keys, told):
    with pytest.raises(ValueError, match=told):
        plan(**keys)


@pytest.mark.parametrize("name", ["voltage_kv", "dose", "dqe", "defocus_um", "cs_mm", "b_factor"])
def test_a_microscope_is_checked(name):
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=name):
            replace(Microscope(), **{name: value})
    with pytest.raises(ValueError, match="dqe"):
        Microscope(dqe=1.2)


def test_the_command_tells_in_words_and_in_json(command):
    status, out, _ = command("--mass-kda", "20", "--micrographs", "500")
    assert status == 0
    for told in (
        "E = 36.8",
        "detection-free",
        "500 micrographs",
        "[estimate]",
        "ideal phase plate",
        "[constant: 4e-09",
    ):
        assert told in out
    status, out, _ = command("--mass-kda", "20", "--micrographs", "500", "--json")
    found = json.loads(out)
    assert status == 0 and found["energy"] == pytest.approx(36.8, abs=0.05)
    assert found["energy_realistic"] == pytest.approx(found["energy"] / 2)
    assert found["d_prime"] ** 2 == pytest.approx(found["energy"])
    assert found["outcome"]["error"]["expected"] < found["outcome_realistic"]["error"]["expected"] < 1
    assert set(found["status"]) == {"energy", "boundaries", "particles", "seconds_expected"}
    assert found["seconds_expected"]["expected"] == pytest.approx(108_000, rel=0.1)


def test_hopeless_is_said_without_a_number(command):
    status, out, _ = command("--mass-kda", "0.5", "--micrographs", "10", "--json")
    found = json.loads(out)
    assert status == 0 and found["regime"] == "hopeless"
    assert found["particles"] is None and found["micrographs_needed"] is None and found["outcome"] is None
    assert "no number of particles" in command("--mass-kda", "0.5")[1]


def test_a_structure_gives_its_mass(command, shared_data):
    status, out, _ = command("--structure", str(shared_data("structures/5pti.cif")), "--json")
    assert status == 0 and json.loads(out)["mass_kda"] == pytest.approx(6.5, rel=0.02)


def ran(**changed):
    """``result.json`` of a run on micrographs."""
    summary = {
        "settings": {"box": 11},
        "data": {"files": 2, "size": [448, 400], "voxel_size": 5.0},
        "verdict": "supported",
        "figures": {"energy": 24.0, "density": 0.12, "particles": 340.0, "sigma": 118.0},
        "seconds": 100.0,
    }
    for name, value in changed.items():
        summary[name] = {**summary[name], **value} if isinstance(value, dict) else value
    return summary


def test_time_is_that_of_the_defaults():
    job, known = MicrographJob(box=11), [Known(1.0, level) for level in (24.0, 400.0)]
    assert (cost.STARTS, cost.PASSES, cost.FAINT) == (job.starts, job.iterations, parts.FAINT)
    for one in known:
        views = [parts.views(job, stage, one) for stage in range(job.stages)]
        passes = [job.starts * job.iterations[0], *job.iterations[1:]]
        assert view_passes(one.energy) == sum(a * b for a, b in zip(views, passes, strict=True))
    assert seconds_of(2e6, 24.0) == pytest.approx(2 * seconds_of(1e6, 24.0))
    two, grid, fine = plan(20, micrographs=2), plan(20), plan(20, resolution=4.0)
    pixels = 2 * two.area / two.voxel**2
    assert two.seconds.middle == two.seconds.high == pytest.approx(2.1 * 4e-9 * pixels * view_passes(two.energy))
    needs = grid.particles.middle / grid.per_micrograph
    assert grid.seconds.middle == pytest.approx(needs / 2 * two.seconds.middle)
    more = fine.particles.middle / grid.particles.middle * (2 * grid.voxel / 4.0) ** 2
    assert fine.seconds.middle / grid.seconds.middle == pytest.approx(more), "smaller voxels are more pixels"
    assert plan(0.5).seconds is None


def test_a_run_is_planned_from_what_it_measured():
    run = measured(ran())
    found = forecast(run)
    assert (run.field, run.per_micrograph, run.reached) == (55.0, 170.0, None)
    assert found.resolution == 10.0 == run.nyquist and found.regime == "detection-free"
    assert found.patch_boundary == pytest.approx(29, abs=0.1)
    assert found.micrograph_boundary == boundary_of(448 * 400)
    coarse = forecast(run, resolution=55 / 3)
    assert coarse.particles == needed(24.0, shell=3.0), "in the table, for shells of the run's own box"
    assert coarse.particles.low < coarse.particles.middle < coarse.particles.high and not coarse.finer
    assert found.particles.middle >= needed(24.0, shell=5.0).middle
    assert coarse.seconds.middle == pytest.approx(coarse.particles.middle / 340 * 100), "the run's own cost"
    assert coarse.own.error == expected(24.0, 340)[0] and coarse.outcome is None
    many = forecast(run, resolution=5.0, micrographs=20)
    assert many.finer and many.seconds.middle == pytest.approx(100 * 10 * 4), "half the voxel, four times the pixels"
    assert many.outcome.error.middle < coarse.own.error.middle
    assert many.particles.middle > found.particles.middle
    faint = forecast(measured(ran(figures={"energy": 1.0})))
    assert faint.regime == "hopeless" and faint.particles is None and faint.seconds is None
    json.dumps([one.to_json() for one in (found, many, faint)])
    for keys in ({"resolution": 0.5}, {"micrographs": 0}, {"resolution": math.nan}):
        with pytest.raises(ValueError, match="must be at least 1"):
            forecast(run, **keys)


def test_what_a_run_did_not_reach_is_what_is_asked_for():
    truth = {"compare": {"resolution_05": 16.0}, "halves": {"resolution_0143": 12.0}}
    found = measured(ran(figures=truth))
    assert (found.reached, found.target) == (16.0, 10.0) and "truth" in found.reached_by
    folds = measured(ran(figures={"verify": {"evidence": {"resolution": 10.0}}}))
    assert folds.target == pytest.approx(55 / 6.5) and "folds" in folds.reached_by and forecast(folds).finer
    shared = measured(ran(figures={"halves": {"resolution_0143": 12.0, "shared_start": True}}))
    assert shared.reached is None, "halves of one start agree on it"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"data": {"kind": "particles"}}, "particles"),
        ({"figures": {"energy": None}}, "lacks a figure"),
        ({"figures": {"energy": math.nan}}, "energy nan"),
        ({"figures": {"particles": 0.0}}, "no particles"),
        ({"settings": None}, "box"),
        ({"data": {"size": [448]}}, "lacks a figure"),
        ({"data": {"files": 0}}, "not positive"),
        ({"data": []}, "size"),
    ],
)
def test_runs_that_tell_nothing_are_refused(changed, told):
    with pytest.raises(ValueError, match=told):
        measured(ran(**changed))


def test_the_command_plans_from_a_run(command, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    assert is_refused(command("--from", "run"), "no finished run")
    assert is_refused(command("--from", "none"), "no finished run")
    (run / "settings.json").write_text("{}")
    assert is_refused(command("--from", "run"), "--resume")
    (run / "result.json").write_text(json.dumps(ran()))
    status, out, err = command("--from", "run", "--micrographs", "50", "--resolution", "18")
    assert (status, err) == (0, "")
    for told in (
        "E = 24,",
        "[measured]",
        "340 particles on 2 micrographs of 448 x 400",
        "for 18.0 A",
        "50 micrographs",
    ):
        assert told in out
    assert "in proportion to pixels x views" in out and "confirmed" not in out
    status, out, _ = command("--from", "run", "--json")
    found = json.loads(out)
    assert status == 0 and found["energy"] == 24.0 and found["run"]["verdict"] == "supported"
    assert found["seconds_expected"]["expected"] == pytest.approx(found["micrographs_needed"]["expected"] * 50)
    for more in (("--mass-kda", "20"), ("--dose", "30"), ("--density", "0.1"), ("--picture", "d.png")):
        assert is_refused(command("--from", "run", *more), more[0], "--from")
    (run / "result.json").write_text(json.dumps(ran(verdict="not supported", data={"kind": "signal"})))
    assert is_refused(command("--from", "run"), "got one on signal")
    (run / "result.json").write_text(json.dumps(ran(verdict="not supported")))
    assert "have not confirmed" in command("--from", "run")[1]
    (run / "result.json").write_text("{")
    assert is_refused(command("--from", "run"), "damaged")


@pytest.mark.parametrize("mass", [0.5, 20.0, 900.0])
def test_the_particle_is_in_its_diagram_and_regimes_lie_as_they_are_told(mass):
    axes, found = Figure().subplots(), plan(mass)
    phase_diagram._draw(axes, found)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert left < mass < right and low < 0.5 * found.energy < found.energy < high
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [tuple(dot.get_xydata()[0]) for dot in dots] == [(mass, found.energy)]
    edge = axes.collections[0].get_paths()[0].vertices  # the upper area's lower edge: where picking begins
    below = [y for x, y in edge if abs(x / mass - 1) < 0.1 and y < high]
    assert min(abs(y - found.micrograph_boundary) for y in below) < 1


@pytest.mark.parametrize("name", ["d.png", "d.svg", "d.pdf"])
def test_the_diagram_is_drawn(command, tmp_path, name):
    assert command("--mass-kda", "20", "--picture", name)[0] == 0
    assert (tmp_path / name).stat().st_size > 5000 and len(list(tmp_path.iterdir())) == 1
    assert is_refused(command("--mass-kda", "20", "--picture", name), name, "--overwrite")
    assert command("--mass-kda", "20", "--picture", name, "--overwrite")[0] == 0


def test_what_lies_beyond_the_table_is_said(command):
    assert "[extrapolated]" in command("--mass-kda", "20", "--resolution", "1")[1]
    told = json.loads(command("--mass-kda", "20", "--resolution", "4", "--json")[1].splitlines()[-1])
    assert told["particles"]["extrapolated"] and told["microscope"]["dose"] == 50.0
    assert not json.loads(command("--mass-kda", "20", "--json")[1].splitlines()[-1])["particles"]["extrapolated"]


def test_bad_requests_are_refused_in_one_line(command, tmp_path):
    assert is_refused(command(), "--mass-kda", "--structure")
    assert is_refused(command("--mass-kda", "20", "--structure", "x.pdb"), "one of the three")
    assert is_refused(command("--mass-kda", "-2"), "mass_kda")
    assert is_refused(command("--mass-kda", "20", "--dose", "0"), "dose")
    assert is_refused(command("--mass-kda", "20", "--voltage-kv", "1e-6"), "voltage_kv must be 10 to 3000")
    assert is_refused(command("--mass-kda", "20", "--size", "0"), "--size")
    assert is_refused(command("--mass-kda", "20", "--picture", "d.txt"), "d.txt", ".png")
    assert is_refused(command("--mass-kda", "20", "--picture", "no/d.png"), "no folder")
    (tmp_path / "folder.png").mkdir()
    assert is_refused(command("--mass-kda", "20", "--picture", "folder.png", "--overwrite"), "is a folder")
    (tmp_path / "folder.png").rmdir()
    assert is_refused(command("--structure", "none.pdb"), "none.pdb")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("level", "particles"), [(42.0, 1014), (24.0, 1014)])
def test_a_reconstruction_ends_within_a_factor_of_two_of_the_error_foretold(level, particles):
    specimen = bead_chain(11, 12)  # not one of the table
    fields = Fields.of(particles, 11, 0.12)
    row = recover(Volume("beads", specimen), fields, energy(level), MicrographJob(box=11, starts=2), 0, "cpu")
    foretold = expected(level, row["particles"])[0].middle
    if foretold < row["ball error"]:
        assert row["relative error"] < row["ball error"], "a structure was found at all"
    assert 0.5 < row["relative error"] / foretold < 2, (row["relative error"], foretold)
