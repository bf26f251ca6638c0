"""The examples run, and do what they say."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_from_micrographs(capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(EXAMPLES / "from_micrographs.py"))["main"]
    assert main(size=160, iterations=8) > 0.8
    assert "correlation with the truth" in capsys.readouterr().out


def test_from_particles(capsys: pytest.CaptureFixture[str]) -> None:
    correlation, error = runpy.run_path(str(EXAMPLES / "from_particles.py"))["main"](count=300)
    assert correlation > 0.9 and error < 4
    assert "median error of the poses" in capsys.readouterr().out


def test_compare_methods(capsys: pytest.CaptureFixture[str]) -> None:
    objectives = runpy.run_path(str(EXAMPLES / "compare_methods.py"))["main"](size=96, iterations=3)
    assert set(objectives) == {"ball", "voxels"}
    assert capsys.readouterr().out.count("objective") == 2


def test_own_prior() -> None:
    errors = runpy.run_path(str(EXAMPLES / "own_prior.py"))["main"]()
    assert errors["gentle"] < 0.7 * errors["none"]


def test_own_view() -> None:
    errors = runpy.run_path(str(EXAMPLES / "own_view.py"))["main"]()
    assert errors["either face"] < 0.7 * errors["one face"]


def test_own_estimator() -> None:
    """Where copies are seen, picking is as good as summing out; where they are not, it is biased."""
    errors = runpy.run_path(str(EXAMPLES / "own_estimator.py"))["main"]()
    clear, faint = errors["E = 60"], errors["E = 6"]
    assert clear[0] < 1.5 * clear[1] + 0.01 and faint[0] > 1.3 * faint[1]
