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
