"""``unpicked reproduce paper-...``: the experiments with particle stacks end to end at toy size."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from test_reproduce_command import finished, small

from answers import answered, is_refused
from stacks import beads
from unpicked.data.maps import Map
from unpicked.data.structure import Structure
from unpicked.evaluate.fsc import fsc, resolution
from unpicked.experiments import paper_ctf, paper_noise, paper_parametrisations, stacks
from unpicked.experiments.stacks import Stacks, crossing
from unpicked.recipes.particle_job import ParticleJob

TOY = Stacks(16, 120, 20)
JOB = ParticleJob(starts=1, rounds=2, steps=20)


@pytest.fixture
def reproduce(tmp_path, capsys, monkeypatch):
    """The exit status, standard output, and standard error, with a made-up molecule in place of 4AKE."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "shared" / "data" / stacks.NEEDED
    place.parent.mkdir(parents=True)
    place.write_text("stands for the file that is sought\n")
    monkeypatch.setenv("UNPICKED_SHARED", str(tmp_path / "shared"))
    monkeypatch.setattr(stacks, "read_structure", lambda path: molecule())
    monkeypatch.setattr(stacks, "compare", unmoved)
    return partial(answered, capsys, "reproduce")


def unmoved(map: Map, truth: Map) -> SimpleNamespace:
    """The FSC without a search for the frame, which takes seconds and has tests of its own."""
    curve = fsc(map.values.double(), truth.values)
    levels = {"resolution_0143": 0.143, "resolution_05": 0.5}
    found = {name: resolution(curve, truth.voxel_size, truth.box, level).angstrom for name, level in levels.items()}
    return SimpleNamespace(fsc=curve.tolist(), **found)


def molecule() -> Structure:
    """Two equal chains of beads, one half a turn about z from the other: a dimer as 4AKE is one."""
    one = beads(count=40)
    first = one.positions + torch.tensor([14.0, 3.0, 0.0], dtype=torch.float64)
    second = first * torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    return Structure(
        one.elements * 2,
        torch.cat([first, second]),
        one.b_factors.repeat(2),
        one.occupancies.repeat(2),
        "dimer",
        chains=("A",) * 40 + ("B",) * 40,
        sites=tuple(f"ALA{number}/CA" for number in range(40)) * 2,
    )


def test_without_the_structure_nothing_is_begun(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNPICKED_SHARED", str(tmp_path / "nothing"))
    for name in ("paper-parametrisations", "paper-noise", "paper-ctf"):
        answer = answered(capsys, "reproduce", name, "--out", "o")
        assert is_refused(answer, name, "4ake_dimer_workshop.pdb", "UNPICKED_SHARED")
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_parametrisations_at_toy_size(reproduce, tmp_path, monkeypatch):
    small(monkeypatch, paper_parametrisations, sizes=TOY, steps=20)
    answer = reproduce("paper-parametrisations", "--seeds", "1", "--out", "o", "--json")
    table = finished(answer, tmp_path / "o", "paper-parametrisations", 8)
    rows = {row["method"]: row for row in table["rows"]}
    assert list(rows) == ["euler", "quaternion", "s2s2", "table", "known", "orbit", "heads", "search"]
    for name in ("euler", "quaternion", "s2s2", "table", "orbit", "heads"):
        row = rows[name]
        assert len(row["steps"]) == len(row["errors"]) == len(row["losses"]) > 1
        assert row["steps"] == sorted(set(row["steps"])) and row["steps"][-1] <= 20
        assert 0 < row["loss"] and 0 <= row["median"] <= 180
    assert rows["known"]["median"] is None and rows["known"]["loss"] < 1
    assert len(table["checks"]) == 5


@pytest.mark.slow
def test_noise_at_toy_size(reproduce, tmp_path, monkeypatch):
    small(monkeypatch, paper_noise, sizes=TOY, sets=("A", "F"), job=JOB, every=5)
    table = finished(reproduce("paper-noise", "--seeds", "1", "--out", "o", "--json"), tmp_path / "o", "paper-noise", 6)
    rows = {(row["set"], row["method"]): row for row in table["rows"]}
    course = rows["A", "encoder"]
    assert course["steps"] == [3, 8, 13, 18, 19] and len(course["FSC 0.143 at steps"]) == 5
    assert "steps" not in rows["F", "encoder"]
    for name in ("A", "F"):
        assert rows[name, "known"]["before"] is None
        assert rows[name, "encoder"]["held out"] is not None and rows[name, "auto"]["held out"] is None
    verdicts = {check["what"]: check["passed"] for check in table["checks"]}
    assert verdicts["F (-10 dB): as published"] is None, "pixels of 6.4 A cannot say"
    assert len(verdicts) == 5


@pytest.mark.slow
def test_contrast_transfer_at_toy_size(reproduce, tmp_path, monkeypatch):
    small(monkeypatch, paper_ctf, sizes=TOY, job=JOB)
    table = finished(reproduce("paper-ctf", "--seeds", "1", "--out", "o", "--json"), tmp_path / "o", "paper-ctf", 4)
    assert [(row["set"], row["method"]) for row in table["rows"]] == [
        ("D", "known"), ("D", "auto"), ("G", "known"), ("G", "auto")
    ]  # fmt: skip
    assert all(len(row["FSC"]) == 7 for row in table["rows"])
    assert all(row["FSC 0.5"] == pytest.approx(12.8) for row in table["rows"] if row["method"] == "known")
    assert table["checks"][-1]["passed"] is None, "the shape of the curves is a matter of fine pixels"


def test_a_level_counts_as_crossed_where_it_is_never_left_again():
    steps = [0, 200, 400, 600]
    assert crossing(steps, [None, 6.4, 12.0, 6.4], 6.4) == 600
    assert crossing(steps, [None, 6.4, 6.4, 6.4], 6.4) == 200
    assert crossing(steps, [6.4, 6.4, 6.4, 7.0], 6.4) is None
