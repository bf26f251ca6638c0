"""Importing the package is inert, and help pages do not wait for torch."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "matplotlib", "scipy", "gemmi", "mrcfile", "numba", "jinja2", "pandas")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_has_no_side_effect() -> None:
    code = (
        "import logging, sys; before = list(logging.root.handlers), sys.excepthook\n"
        "import unpicked\n"
        "assert before == (list(logging.root.handlers), sys.excepthook)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert run(code) == "[]"


def test_every_public_name_exists() -> None:
    assert (
        run("import unpicked; print(all(getattr(unpicked, name) is not None for name in unpicked.__all__))") == "True"
    )


def test_verbs_stay_functions_when_their_modules_are_loaded() -> None:
    code = (
        "import unpicked as up; up.Result; import unpicked.report; print(callable(up.reconstruct), callable(up.report))"
    )
    assert run(code) == "True True"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["simulate", "micrographs", "--help"],
        ["reconstruct", "micrographs", "--help"],
        ["compare", "--help"],
        ["simulate", "signal", "--help"],
        ["reconstruct", "signal", "--help"],
        ["compare-signal", "--help"],
        ["report", "--help"],
        ["demo", "--help"],
        ["ctf", "--help"],
    ],
    ids=" ".join,
)
def test_help_does_not_import_torch(words: list[str]) -> None:
    code = (
        "import sys\nfrom unpicked.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "False"
    assert done.stdout.strip()
