"""``unpicked reproduce sample-complexity-3d``: at toy size, what it hides, its bound, and its verdicts."""

import json
import math
from dataclasses import replace

import pytest
import torch

from answers import answered
from unpicked.evaluate.featureless import ball_error
from unpicked.experiments import sample_complexity_3d as complexity
from unpicked.experiments.sample_complexity_3d import Level, SampleComplexity3D, least_error, molecule
from unpicked.experiments.table import Settings, figure
from unpicked.objects.ball import Ball
from unpicked.ops.rotation import super_fibonacci
from unpicked.priors import expected_error
from unpicked.recipes import MicrographJob


def test_it_runs_at_toy_size(tmp_path, capsys, monkeypatch):
    toy = MicrographJob(box=5, lmax=2, moves=0, signed=True, starts=1, views=(8,), iterations=(2,))
    monkeypatch.setattr(complexity, "MicrographJob", lambda **given: replace(toy, starts=given["starts"]))
    monkeypatch.setattr(complexity, "EACH", 2)
    found = complexity.EXPERIMENT
    quick = replace(found.quick, levels=(Level(5, 100.0, (10, 20)),), seeds=1, starts=1)
    monkeypatch.setattr(complexity, "EXPERIMENT", replace(found, quick=quick))
    monkeypatch.chdir(tmp_path)
    status, out, err = answered(capsys, "reproduce", "sample-complexity-3d", "--out", "o", "--json")
    assert status == 0, err
    table = json.loads(out.splitlines()[-1], parse_constant=pytest.fail)
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        "sample-complexity-3d.json", "sample-complexity-3d.svg"
    ]  # fmt: skip
    few, many = table["rows"]
    assert few["particles"] < many["particles"] and 0 < many["bound"] < few["bound"]
    assert all(row["error"] > 0 < row["from the truth"] and row["ball error"] > 0.2 for row in (few, many))
    assert [check["what"] for check in table["checks"]] == [
        "box 5, E = 100: squared error over that of the bound",
        "box 5, E = 100: particles for 10%",
        "box 5: power of E in the particles for 10%",
    ]


@pytest.mark.parametrize("box", [5, 7])
def test_what_is_hidden_can_be_said_by_an_expansion_of_its_degree(box):
    volume = molecule(box, complexity.DEGREES[box], 0)
    truth = volume.specimen.truth()
    ball = Ball(box, complexity.DEGREES[box])
    assert ball_error(truth) > 0.25, "far from a ball"
    views = super_fibonacci(20).double()
    wide = replace(ball, reach=box / 2)
    seen = torch.stack([wide.project(x, views).flatten() for x in torch.eye(wide.size, dtype=torch.float64)], 1)
    images = volume.specimen.images(views).flatten()
    rest = images - seen @ torch.linalg.lstsq(seen, images[:, None]).solution[:, 0]
    assert float(rest.norm() / images.norm()) < 0.03


def test_turns_and_shifts_are_no_error():
    ball = Ball(5, 2, 2.5)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ball.size, generator=generator, dtype=torch.float64)
    root = torch.randn(ball.size, ball.size, generator=generator, dtype=torch.float64)
    told = root @ root.mT + torch.eye(ball.size, dtype=torch.float64)
    none = torch.zeros_like(told)
    least = least_error(ball, x, told, none)
    assert least == pytest.approx(expected_error(ball, x, told, none, within=2.5)), "nothing is biased without a prior"
    assert least_error(ball, x, 4 * told, none) == pytest.approx(least / 2)
    angle = 1e-5
    spin = torch.tensor([[0.0, -angle, 0.0], [angle, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    turn = (ball.rotate(x, torch.linalg.matrix_exp(spin)) - x) / angle
    unsure = torch.linalg.inv(torch.linalg.inv(told) + torch.outer(turn, turn))
    assert least_error(ball, x, unsure, none) == pytest.approx(least, rel=1e-3)


def test_the_bias_of_a_prior_counts():
    """Where both are multiples of the unit matrix, it is the prior's share of the truth."""
    ball = Ball(5, 2, 2.5)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(ball.size, generator=generator, dtype=torch.float64)
    eye = torch.eye(ball.size, dtype=torch.float64)
    strong = least_error(ball, x, eye, 1e9 * eye)
    assert strong < 1, "all is lost, but for what a turn or a shift makes good"
    weak = least_error(ball, x, 1e6 * eye, 1e3 * eye)
    assert weak == pytest.approx(math.hypot(1e-3 * strong, least_error(ball, x, 1e6 * eye, 0 * eye)), rel=0.01)


def made(level: Level, factor: float, seeds: int = 3):
    """Rows of errors that fall as the bound, 1 over the root of the number, and lie above it by a factor."""
    return [
        {
            "box": level.box, "E": level.energy, "wanted": count, "particles": count, "seed": seed, "gap": 0.0,
            "error": factor * bound, "from the truth": bound, "bound": bound, "ball error": 0.5, "seconds": 1.0,
        }
        for count in level.particles
        for bound in [(count * level.energy / 10_000) ** -0.5]
        for seed in range(seeds)
    ]  # fmt: skip


@pytest.mark.parametrize(("factor", "met"), [(1.0, True), (1.3, True), (1.6, False)])
def test_errors_are_judged_beside_the_bound(factor, met):
    levels = (Level(5, 200.0, (1000, 5000, 20_000)), Level(5, 100.0, (2000, 10_000, 40_000)))
    told = {}
    for level in levels:
        for row in made(level, factor):
            told[f"{level.name}, {row['wanted']}, {row['seed']}"] = [row]
    table = SampleComplexity3D(levels).run(Settings(kept=told))
    squares, particles, *_, power = table.checks
    assert squares.passed is met and particles.passed is met and power.passed is True
    assert "5e+03 at best" in particles.published and "bound -1.00" in power.ours
    assert figure(table).count("<svg") == 1


def test_numbers_that_lie_on_one_side_are_undecided():
    level = Level(5, 100.0, (100, 200))
    told = {f"{level.name}, {row['wanted']}, {row['seed']}": [row] for row in made(level, 1.0)}
    table = SampleComplexity3D((level,)).run(Settings(kept=told))
    _, particles, power = table.checks
    assert particles.passed is None and "not crossed" in particles.ours and power.passed is None
    json.dumps(table.to_json(), allow_nan=False)
