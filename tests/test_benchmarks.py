"""Benchmarks are not run by the tests, but each must find what it imports."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SHARED = {"common", "fuzz_mutations", "fuzz_readers"}


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_it_imports(script, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    assert "main" in runpy.run_path(str(script)) or script.stem in SHARED
