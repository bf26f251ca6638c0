"""``unpicked reproduce``: names, refusals, and every experiment end to end at toy size."""

import json
from dataclasses import replace
from functools import partial

import pytest

from answers import answered, is_refused
from unpicked.cli.common import alone
from unpicked.data.maps import Map
from unpicked.experiments import NAMES, em_iterations, load, low_snr, priors, recovery, talk_em
from unpicked.experiments.recovery import Fields
from unpicked.experiments.table import Check, Column, Line, Plot, Settings, Table, figure
from unpicked.io.mrc import write_map
from unpicked.objects.ball import Ball
from unpicked.recipes import MicrographJob
from unpicked.simulate.phantom import shepp_logan
from unpicked.simulate.specimens import specimen_from_map

QUICK = {"starts": 1, "views": (8,), "iterations": (2,)}


@pytest.fixture
def reproduce(tmp_path, capsys, monkeypatch):
    """The exit status, standard output, and standard error; the run is in a folder without shared data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNPICKED_SHARED", str(tmp_path / "nothing"))

    return partial(answered, capsys, "reproduce")


def small(monkeypatch, module, **sizes):
    """Shrink an experiment."""
    found = module.EXPERIMENT
    monkeypatch.setattr(module, "EXPERIMENT", replace(found, quick=replace(found.quick, **sizes)))


def finished(answer, folder, name, rows):
    """The table as JSON; it is what was written, and there is a figure."""
    status, out, err = answer
    assert status == 0, err
    table = json.loads(out.splitlines()[-1], parse_constant=pytest.fail)
    assert table == json.loads((folder / f"{name}.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.json", f"{name}.svg"]
    assert (folder / f"{name}.svg").read_text().count("<svg") == 1
    assert len(table["rows"]) == rows and err.count("\n") == rows
    assert table["name"] == name and table["checks"] and table["source"] and table["settings"]
    return table


def test_a_folder_in_which_another_process_runs_is_left_alone(reproduce, tmp_path):
    (tmp_path / "out").mkdir()
    with alone(tmp_path / "out", ".talk-em"):
        assert is_refused(reproduce("talk-em", "--out", tmp_path / "out"), "in use", "another folder")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_list_tells_names_sources_and_times(reproduce):
    status, out, err = reproduce("--list")
    assert (status, err) == (0, "")
    for name in NAMES:
        assert name in out
    assert out.count("about") == 2 * len(NAMES) and "arXiv 2303.02157" in out
    status, out, _ = reproduce("--list", "--json")
    assert status == 0 and [item["name"] for item in json.loads(out)] == list(NAMES)


def test_what_cannot_be_run_is_refused_in_one_line(reproduce, tmp_path):
    assert is_refused(reproduce("no-such"), "no-such", "talk-em")
    assert is_refused(reproduce(), "talk-em", "--list")
    assert is_refused(reproduce("talk-em", "--seeds", "0"), "--seeds")
    assert is_refused(reproduce("talk-em", "--map", "no.mrc"), "no.mrc")
    (tmp_path / "file").write_text("x")
    assert is_refused(reproduce("talk-em", "--out", "file"), "file", "folder")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "talk-em.json").write_text("{}")
    assert is_refused(reproduce("talk-em", "--out", "old"), "talk-em.json", "--overwrite")
    assert not (tmp_path / "reproduced").exists()


def counted(monkeypatch, stop=None):
    """Toy passes of EM whose runs are counted, and break off at one."""
    sizes = {"energies": (100.0, 50.0, 25.0), "particles": (8, 8, 8), "views": 6, "limit": 3, "lmax": 3}
    small(monkeypatch, em_iterations, **sizes)
    runs, count = [], em_iterations.EMIterations.count

    def wrapped(self, *given):
        if len(runs) == stop:
            raise KeyboardInterrupt
        runs.append(given)
        return count(self, *given)

    monkeypatch.setattr(em_iterations.EMIterations, "count", wrapped)
    return runs


def test_an_interrupted_experiment_goes_on_after_its_last_row(reproduce, tmp_path, monkeypatch):
    command = ("em-iterations", "--seeds", "1", "--out", "o", "--json")
    with monkeypatch.context() as patch:
        assert len(counted(patch, stop=2)) == 0
        status, _, err = reproduce(*command)
        assert status == 3, err
    kept = json.loads((tmp_path / "o" / "em-iterations.rows.json").read_text())["rows"]
    assert len(kept) == 2 and all(len(rows) == 1 for rows in kept.values())
    with monkeypatch.context() as patch:
        assert len(counted(patch, stop=0)) == 0
        status, _, err = reproduce(*command)
        assert status == 3 and "the same command" in err
    again = json.loads((tmp_path / "o" / "em-iterations.rows.json").read_text())["rows"]
    assert again == kept, "stopped once more, nothing is lost"
    runs = counted(monkeypatch)
    assert is_refused(reproduce(*command, "--seed", "1"), "2 rows", "other settings", "--overwrite")
    table = finished(reproduce(*command), tmp_path / "o", "em-iterations", 3)
    assert len(runs) == 1 and table["rows"][:2] == [row for rows in kept.values() for row in rows]


def test_rows_are_known_by_their_keys_not_by_their_place():
    def one(name, seed):
        return {"name": name, "seed": seed}

    told = {}
    asked = Settings(finished=lambda key, rows, lines: told.update({key: rows}))
    columns = (Column("name"),)
    for name in ("a", "b"):
        asked.row(columns, (name, 0), one, name, 0)
    again = Settings(kept=told)
    assert [again.row(columns, (name, 0), one, name, 9)["seed"] for name in ("b", "c", "a")] == [0, 9, 0]
    assert again.row(columns, ("a", 1), one, "a", 1)["seed"] == 1 and len(told) == 2
    assert again.row(columns, ("a", 0), one, "a", 7)["seed"] == 7, "a second one of the key is not the first"


BAD = [
    "",
    "[]",
    '{"rows": []}',
    "no",
    *(f'{{"run": {{}}, "rows": {rows}}}' for rows in ("5", "null", "[5]", '{"a": [5]}', '{"a": []}')),
]


@pytest.mark.parametrize("text", BAD)
def test_rows_that_are_none_are_refused(reproduce, tmp_path, text):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "em-iterations.rows.json").write_text(text)
    assert is_refused(reproduce("em-iterations", "--out", "o"), "em-iterations.rows.json", "--overwrite")


def test_only_some_cases(reproduce):
    found = load("small-protein")
    some = found.sizes(False, ("bpti", "phase"))
    assert [protein.name for protein in some.proteins] == ["BPTI"] and len(some.optics) == 1
    assert len(found.sizes(True, ("bpti",)).optics) == len(found.full.optics) == 2
    assert found.sizes(True) is found.full
    assert is_refused(reproduce("small-protein", "--only", "GroEL"), "GroEL", "4AKE dimer", "1 um")
    assert is_refused(reproduce("mtd2d-em", "--only", "x"), "no cases")
    assert is_refused(reproduce("small-protein", "--only", " "), "no case")


def test_nothing_is_passed_where_nothing_or_only_a_part_was_asked():
    table = Table("t", "t", "s", (), (), (), (), Plot((), "x", "y"))
    met = replace(table, checks=(Check("c", "", "", "", True),))
    assert table.passed is None and met.passed is True and replace(met, whole=False).passed is None


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_has_both_sizes(name):
    found = load(name)
    assert found.name == name and found.quick != found.full and 0 < found.minutes[0] < found.minutes[1]


@pytest.mark.slow
def test_the_talk_at_toy_size_tells_what_is_left_out(reproduce, tmp_path, monkeypatch):
    monkeypatch.setattr(recovery, "PER_COEFFICIENT", 1)
    small(monkeypatch, talk_em, fields=Fields(1, 60, 0.12), job=MicrographJob(box=11, lmax=4, moves=0, **QUICK), runs=2)
    answer = reproduce("talk-em", "--seeds", "1", "--out", "o", "--json")
    table = finished(answer, tmp_path / "o", "talk-em", 2)
    assert [row["volume"] for row in table["rows"]] == ["Shepp-Logan", "BPTI"]
    assert "TRPV1 left out" in " ".join(table["notes"]) and "80S ribosome left out" in " ".join(table["notes"])
    for row in table["rows"]:
        assert row["particles"] == 4 and len(row["FSC"]) == 5 and row["relative error"] > 0 < row["ball error"]
    assert is_refused(reproduce("talk-em", "--out", "o"), "--overwrite")


def test_the_talk_takes_the_users_maps(reproduce, tmp_path, monkeypatch):
    fine = shepp_logan(24, 1.0)
    write_map(Map(fine.values, 1.0), tmp_path / "mine.mrc")
    volumes, left_out = recovery.talk_volumes(11, 5.0, Settings(maps=(tmp_path / "mine.mrc",)))
    assert [volume.name for volume in volumes] == ["Shepp-Logan", "BPTI", "mine"] and not left_out
    assert volumes[2].specimen.box == 11 and volumes[2].specimen.voxel_size == pytest.approx(24 / 11)


def test_stand_ins_are_named(shared_data, monkeypatch):
    root = shared_data("structures/5pti.cif").parents[2]
    monkeypatch.setenv("UNPICKED_SHARED", str(root))
    volumes, left_out = recovery.talk_volumes(11, 5.0, Settings())
    assert len(volumes) == 4 and not left_out
    assert all("stands in for" in volume.note for volume in volumes[2:])


def test_passes_of_em_at_toy_size(reproduce, tmp_path, monkeypatch):
    sizes = {"energies": (100.0, 50.0, 25.0), "particles": (8, 8, 8), "views": 6, "limit": 12, "lmax": 3}
    small(monkeypatch, em_iterations, **sizes)
    table = finished(
        reproduce("em-iterations", "--seeds", "1", "--out", "o", "--json"), tmp_path / "o", "em-iterations", 3
    )
    for row in table["rows"]:
        assert 1 <= row["to 90 %"] and row["passes"] <= row["passes run"] <= 12 and row["gain"] > 0


def toy_jobs(monkeypatch):
    """Reconstructions of a few passes on few views."""
    toy = MicrographJob(box=7, lmax=3, moves=0, **QUICK)
    monkeypatch.setattr(recovery, "PER_COEFFICIENT", 1)
    monkeypatch.setattr(low_snr, "MicrographJob", lambda box, starts, refined: replace(toy, box=box))


def test_low_signal_at_toy_size(reproduce, tmp_path, monkeypatch):
    levels = (
        low_snr.Level("beads", 7, 42.0, 10, seeds=2, error=0.01, best=9.0, beside=True),
        low_snr.Level("BPTI", 7, 42.0, 10, seeds=1, mean=9.0, fsc=0.999),
        low_snr.Level("4AKE chain", 7, 42.0, 10, seeds=1),
    )
    small(monkeypatch, low_snr, levels=levels, starts=1)
    toy_jobs(monkeypatch)
    table = finished(reproduce("low-snr", "--out", "o", "--json"), tmp_path / "o", "low-snr", 3)
    assert [row["volume"] for row in table["rows"]] == ["beads 7", "beads 7", "BPTI"]
    assert [row["bound"] is None for row in table["rows"]] == [False, True, False], "once per setting"
    assert all(0 < row["bound"] < 3 for row in table["rows"] if row["bound"])
    assert all(0.2 < row["ball error"] < 0.7 for row in table["rows"])
    assert all(row["gap"] is not None for row in table["rows"][:2]) and table["rows"][2]["gap"] is None
    verdicts = {check["what"].split(": ")[1]: check["passed"] for check in table["checks"]}
    gaps = sum(row["gap"] >= -3 for row in table["rows"][:2])
    assert verdicts == {
        "error": False, "best error": True, "gap": gaps == 2, "mean error": True, "FSC at 0.7 Nyquist": False
    }  # fmt: skip
    assert any("4AKE chain" in note and "left out" in note for note in table["notes"])


def test_priors_at_toy_size(reproduce, tmp_path, monkeypatch):
    study = priors.Study(priors.CONFORMER, 7, 100.0, (8, 16), ("none", "wilson", "structures"), seeds=1, omits=1)
    small(monkeypatch, priors, studies=(study,), starts=1)
    toy = MicrographJob(box=7, lmax=3, moves=0, **QUICK)
    monkeypatch.setattr(priors, "MicrographJob", lambda box, starts=1, **others: replace(toy, **others))
    monkeypatch.setattr(priors, "GIVEN", range(100, 102))
    monkeypatch.setattr(priors, "FINE", 14)
    table = finished(reproduce("priors", "--out", "o", "--json"), tmp_path / "o", "priors", 10)
    assert sum("came back" in row for row in table["rows"]) == 3, "an omit test on noise for every prior"
    (untold,) = (row for row in table["rows"] if "no data" in row["prior"])
    assert untold["mean FSC"] > 0.5, "conformations are alike, which is told"
    assert all(0 < row["mean FSC"] <= 1 for row in table["rows"] if row["particles"])
    saved = {check["what"].split(": ")[1]: check["passed"] for check in table["checks"]}
    assert set(saved) == {
        "particles saved by wilson", "by the best prior", "omit test on noise",
        "mean FSC of structures beyond that without data, 16 particles",
    }  # fmt: skip


def test_particles_that_a_prior_saves():
    plain = [(100.0, 0.5), (400.0, 0.7), (1600.0, 0.8)]
    assert priors.saved(plain, [(100.0, 0.6), (200.0, 0.7)]) == (pytest.approx(2.0), "")
    assert priors.saved(plain, [(100.0, 0.75), (200.0, 0.85)]) == (pytest.approx(1600 / 141.42, rel=1e-3), "")
    assert priors.saved(plain, [(100.0, 0.9), (400.0, 0.95)]) == (pytest.approx(16.0), "at least ")
    assert priors.saved(plain, [(100.0, 0.3), (400.0, 0.4)]) == (pytest.approx(0.25), "at most ")
    assert priors.rising([(1.0, 0.5), (2.0, 0.7), (4.0, 0.6), (8.0, 0.9)]) == [
        (1.0, 0.5), (2.0, pytest.approx(0.65)), (4.0, pytest.approx(0.65)), (8.0, 0.9)
    ]  # fmt: skip


def test_a_stopped_run_keeps_its_rows(reproduce, tmp_path, monkeypatch):
    small(monkeypatch, low_snr, levels=(low_snr.Level("beads", 7, 42.0, 10),), starts=1)
    calls = []

    def first_only(*given, **_):
        if calls:
            raise KeyboardInterrupt
        calls.append(given)
        return {"volume": "beads 7", "particles": 10, "relative error": 0.5, "ball error": 0.4, "FSC": (1.0, 0.9, 0.8)}

    monkeypatch.setattr(low_snr, "recover", first_only)
    status, _, err = reproduce("low-snr", "--out", "o")
    assert status == 3 and "stopped" in err
    assert len(json.loads((tmp_path / "o" / "low-snr.rows.json").read_text())["rows"]) == 1


def test_a_power_law_is_found_with_its_error():
    found = em_iterations.slope([100.0, 50.0, 25.0, 12.5], [3.0, 12.0, 48.0, 192.0])
    assert found is not None and found.exponent == pytest.approx(2) and found.error == pytest.approx(0, abs=1e-9)
    bent = em_iterations.slope([100.0, 50.0, 25.0, 12.5], [3.0, 15.0, 40.0, 192.0])
    assert bent is not None and bent.error > 0.01
    assert em_iterations.slope([10.0, 10.0, 10.0], [1.0, 2.0, 3.0]) is None


def test_a_table_is_aligned_and_missing_figures_are_dashes():
    table = Table(
        name="toy",
        title="a toy",
        source="nowhere",
        columns=(Column("what"), Column("value", ".2f"), Column("curve", ".1f")),
        rows=({"what": "first", "value": None, "curve": [1.0, 0.5]}, {"what": "2", "value": float("nan"), "curve": []}),
        checks=(Check("c", "1", "2", "3", None),),
        notes=("told",),
        plot=Plot((Line("a", [1, 2], [3, 4]), Line("a", [1, 2], [4, 5])), "x", "y", "xy"),
    )
    lines = table.text().splitlines()
    assert lines[3:6] == ["what   value  curve", "first  -      1.0 0.5", "2      -"]
    assert "undecided" in table.text() and table.passed is None and lines[-1] == "told"
    assert table.to_json()["rows"][1]["value"] is None
    assert figure(table).count("<svg") == 1
    assert replace(table, checks=(Check("c", "", "", "", True), Check("d", "", "", "", False))).passed is False


def test_fields_hold_about_as_many_particles_as_asked_for():
    for particles in (10, 500, 20_000):
        fields = Fields.of(particles, 7, 0.12)
        assert fields.size <= 1024
        assert fields.count * fields.size**2 * 0.12 / 49 == pytest.approx(particles, rel=0.05)
    assert recovery.shared("no/such/file") is None


def test_an_expansion_is_hidden_as_it_would_be_fitted():
    plain = recovery.Volume("phantom", specimen_from_map(shepp_logan(44, 0.25), 11))
    hidden = recovery.expanded(plain, 10)
    truth, basis = hidden.specimen.truth(), Ball(11, 10)
    values = truth.values.double()
    again = basis.values(basis.fit(values))
    assert truth.voxel_size == plain.specimen.voxel_size and truth.box == 11
    assert float((again - values).norm() / values.norm()) < 0.1, "in the expansion, but for what leaves the ball"
    before = plain.specimen.truth().values.double()
    assert float((basis.values(basis.fit(before)) - before).norm() / before.norm()) > 0.25


def toy_exposures(**sizes):
    """The shipped protein alone, in few and coarse exposures with a phase plate."""
    from unpicked.experiments.small_protein import Optics, Protein, SmallProtein

    return SmallProtein(
        proteins=(Protein("BPTI", "", 6.5, 7), Protein("missing", "nowhere.pdb", 1.0, 7)),
        optics=(Optics("phase plate, 0.5 um", (4000.0, 6000.0), 90.0),),
        pixel=4.0,
        count=2,
        **sizes,
    )


def test_what_fails_beside_small_proteins_is_told_in_its_row(monkeypatch):
    from unpicked.experiments import picked

    def fails(*given, **_):
        raise ValueError("too few\nfor this")

    monkeypatch.setattr(picked, "from_micrographs", fails)
    monkeypatch.setattr(picked, "from_particles", fails)
    told = []
    table = toy_exposures(size=200, beside=picked.Beside(views=100)).run(
        Settings(finished=lambda key, rows, lines: told.extend(row["way"] for row in rows))
    )
    assert told == ["micrographs", "LoG picks", "template picks", "posterior picks"]
    _, blobs, templates, posterior = table.rows
    assert all(row["verdict"] == "fails: too few" for row in table.rows) and posterior.get("picks") is None
    for row in (blobs, templates):
        assert 0 < row["picks"] <= row["particles"] and row["FSC"] == []
        assert row["precision"] > 0.5 < row["recall"] and 0.5 < row["best F1"] <= 1
    assert "fails: too few" in table.text() and figure(table).count("<svg") == 1
    json.dumps(table.to_json(), allow_nan=False)


@pytest.mark.slow
def test_small_proteins_are_sought_in_exposures():
    """Straight from micrographs and picked; E as planned within a half."""
    from unpicked.experiments.picked import Beside

    beside = Beside(pickers=("templates",), starts=1)
    table = toy_exposures(size=512, beside=beside).run(Settings())
    row, picked = table.rows
    assert row["E"] == pytest.approx(row["E planned"], rel=0.5)
    assert row["correlation"] > 0.8 and row["verdict"] != "not supported"
    assert picked["way"] == "template picks" and not picked["verdict"].startswith("fails")
    assert picked["recall"] > 0.3 and len(picked["FSC"]) == len(row["FSC"])
    assert any("missing left out" in note for note in table.notes)
