"""The command line: the same words as Python, loaded when used."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from cyclopts import App, CycloptsError, Parameter, convert

import unpicked

PLACE = "unpicked.cli"
COMMAND: ContextVar[tuple[str, ...]] = ContextVar("command", default=("unpicked",))
"""The words of the command that runs."""


def build() -> App:
    """The commands, each loaded at its first use."""
    app = App(
        name="unpicked",
        help="Structure of molecules too small to be seen: volumes straight from micrographs, without picking.",
        version=unpicked.__version__,
        help_format="plaintext",
        default_parameter=Parameter(consume_multiple=True, negative=(), converter=_convert),
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    simulate = App(name="simulate", help="Make data with known truth.")
    simulate.command(
        f"{PLACE}.simulate:micrographs",
        name="micrographs",
        help="Micrographs of a structure, map or phantom.",
    )
    reconstruct = App(name="reconstruct", help="Find the object in data.")
    reconstruct.command(
        f"{PLACE}.reconstruct:micrographs",
        name="micrographs",
        help="A volume straight from micrographs, without picking.",
    )
    reconstruct.command(
        f"{PLACE}.stacks:particles", name="particles", help="A volume and poses from a stack of particle images."
    )
    simulate.command(f"{PLACE}.signals:simulate", name="signal", help="A long signal that holds a target many times.")
    reconstruct.command(
        f"{PLACE}.signals:reconstruct", name="signal", help="The target that a long signal holds many times."
    )
    simulate.command(f"{PLACE}.images:simulate", name="image", help="Large images that hold a small target many times.")
    reconstruct.command(
        f"{PLACE}.images:reconstruct", name="image", help="The small target that large images hold many times."
    )
    simulate.command(
        f"{PLACE}.particles:simulate",
        name="particles",
        help="A stack of particle images of a structure, map or phantom.",
    )
    app.command(simulate)
    app.command(reconstruct)
    app.command(
        f"{PLACE}.evaluate:compare",
        name="compare",
        help="A map against the truth: hand, rotation, shift, FSC.",
    )
    app.command(
        f"{PLACE}.evaluate:halves",
        name="halves",
        help="Two independently solved halves: aligned by low shells, FSC, resolution.",
    )
    app.command(f"{PLACE}.signals:compare", name="compare-signal", help="An estimated target against the truth.")
    app.command(
        f"{PLACE}.poses:compare",
        name="compare-poses",
        help="Poses against the truth: errors plain and modulo (pseudo-)symmetry, hand, shifts.",
    )
    app.command(
        f"{PLACE}.verdicts:verify",
        name="verify",
        help="Do the data of a finished run support its answer? Do micrographs contain a given map?",
    )
    app.command(
        f"{PLACE}.planning:plan",
        name="plan",
        help="Can micrographs of a protein give its structure, and how many does it take?",
    )
    app.command(f"{PLACE}.evaluate:report", name="report", help="Write the page of a finished run again.")
    app.command(
        f"{PLACE}.reproduce:reproduce",
        name="reproduce",
        help="A published experiment again: our figures beside the published ones.",
    )
    app.command(f"{PLACE}.demo:demo", name="demo", help="The main job on data it makes itself, in a few minutes.")
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run one command; exit 0 done, 2 bad input, 3 out of a resource or told to stop, 1 anything else."""
    # threads that wait for each other by spinning come to a crawl where another program holds a core
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens
    if debug:
        tokens.remove("--debug")
    try:
        status = _run(tokens)
    except BaseException as error:
        if debug and not isinstance(error, SystemExit):
            raise
        status = _told(error)
    sys.exit(status)


def _convert(kind: Any, tokens: Sequence[Any]) -> Any:
    """Cyclopts' conversion, but a whole number must be written as one (it would round 8.25 to 8)."""
    whole = kind in (int, int | None, tuple[int, ...])
    for token in tokens if whole else ():
        if not re.fullmatch(r"[+-]?\d+", token.value):
            raise ValueError(f"expected a whole number; got {token.value!r}")
    return convert(kind, tokens)


def _run(tokens: list[str]) -> int:
    COMMAND.set(("unpicked", *tokens))
    result = build()(tokens, exit_on_error=False, print_error=False)
    return result if isinstance(result, int) else 0


def _told(error: BaseException) -> int:
    """One line on standard error, and the exit status."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(bool(error.code))
    if isinstance(error, KeyboardInterrupt):
        goes_on = " go on with --resume" if "reconstruct" in COMMAND.get() else " start again with --overwrite"
        return _say(f"stopped; what was finished is kept,{goes_on}", 3)
    if isinstance(error, BrokenPipeError):  # the reader of our output has gone
        sys.stdout = open(os.devnull, "w")
        return 0
    if isinstance(error, MemoryError) or _names(error, "OutOfMemoryError") or "can't allocate memory" in str(error):
        return _say(f"out of memory ({error}); try fewer --views, a larger --voxel or a smaller --box", 3)
    if isinstance(error, OSError) and error.errno in (28, 122):
        return _say(f"no space left: {error}", 3)
    if isinstance(error, CycloptsError):
        return _say(str(error), 2)
    if isinstance(error, ValueError | TypeError | OSError):
        return _say(str(error), 2)
    return _say(f"{type(error).__name__}: {error} (run again with --debug to see where)", 1)


def _names(error: BaseException, name: str) -> bool:
    return type(error).__name__ == name


def _say(message: Any, status: int) -> int:
    print("unpicked: " + " ".join(str(message).split()), file=sys.stderr)
    return status
