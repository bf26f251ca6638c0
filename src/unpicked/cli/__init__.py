"""The command line: the same words as Python, loaded when used."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from cyclopts import App, CycloptsError, Parameter, convert

import unpicked
from unpicked import processes
from unpicked.cli.sections import SECTIONS, Sections

PLACE = "unpicked.cli"
COMMAND: ContextVar[tuple[str, ...]] = ContextVar("command", default=("unpicked",))
"""The words of the command that runs."""


GROUPS = {"simulate": "Make data with known truth.", "reconstruct": "Find the object in data."}
COMMANDS = (
    ("simulate", "micrographs", "simulate:micrographs", "Micrographs of a structure, map or phantom."),
    ("simulate", "signal", "signals:simulate", "A long signal that holds a target many times."),
    ("simulate", "image", "images:simulate", "Large images that hold a small target many times."),
    ("simulate", "particles", "particles:simulate", "A stack of particle images of a structure, map or phantom."),
    (
        "reconstruct",
        "micrographs",
        "reconstruct:micrographs",
        "A volume straight from micrographs, without particle picking.",
    ),
    ("reconstruct", "particles", "stacks:particles", "A volume and poses from a stack of particle images."),
    ("reconstruct", "signal", "signals:reconstruct", "The target that a long signal holds many times."),
    ("reconstruct", "image", "images:reconstruct", "The small target that large images hold many times."),
    ("", "compare", "evaluate:compare", "A map against the truth: hand, rotation, shift, FSC."),
    (
        "",
        "halves",
        "evaluate:halves",
        "Two independently solved halves: aligned by low shells, FSC, resolution.",
    ),
    ("", "compare-signal", "signals:compare", "An estimated target against the truth."),
    (
        "",
        "compare-poses",
        "poses:compare",
        "Poses against the truth: errors plain and modulo (pseudo-)symmetry, hand, shifts.",
    ),
    ("", "compare-picks", "picks:compare", "Picked positions against the truth: precision, recall, their curve."),
    (
        "",
        "verify",
        "verdicts:verify",
        "Do the data of a finished run support its answer? Do micrographs contain a given map?",
    ),
    ("", "pick", "picking:pick", "Positions of particles, from a map of them: scores, poses, a STAR file."),
    ("", "templates", "templates:templates", "Projections of a map from all directions, for a picker."),
    ("", "convert", "files:convert", "Lists of particles or micrographs between RELION's and cryoSPARC's files."),
    ("", "ctf", "ctf:ctf", "Defocus and astigmatism of micrographs from their Thon rings, with the fits drawn."),
    (
        "",
        "moments",
        "moments:moments",
        "Autocorrelations of micrographs in one pass: density, noise level, blank micrographs.",
    ),
    ("", "plan", "planning:plan", "Can micrographs of a protein give its structure, and how many does it take?"),
    ("", "report", "evaluate:report", "Write the page of a finished run again."),
    (
        "",
        "reproduce",
        "reproduce:reproduce",
        "A published experiment again: our figures beside the published ones.",
    ),
    ("", "doctor", "doctor:doctor", "Versions, devices, threads, memory, and a short self-test with known answers."),
    ("", "demo", "demo:demo", "The main job on data it makes itself, in a few minutes."),
)
"""Group, name, place and help of every command."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, what one may hold of it, the size of a file


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
    groups = {name: App(name=name, help=told, help_formatter=Sections(SECTIONS[name])) for name, told in GROUPS.items()}
    for group in groups.values():
        app.command(group)
    for home, name, place, told in COMMANDS:
        groups.get(home, app).command(f"{PLACE}.{place}", name=name, help=told)
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
    processes.end()
    return result if isinstance(result, int) else 0


def _told(error: BaseException) -> int:
    """One line on standard error, and the exit status."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(bool(error.code))
    if isinstance(error, KeyboardInterrupt | processes.Lost):
        why = "stopped" if isinstance(error, KeyboardInterrupt) else f"stopped: {error}"
        return _say(f"{why}; {_onward()}", 3)
    if isinstance(error, BrokenPipeError):  # the reader of our output has gone
        sys.stdout = open(os.devnull, "w")
        return 0
    if isinstance(error, MemoryError) or _names(error, "OutOfMemoryError") or "can't allocate memory" in str(error):
        return _say(f"out of memory ({error}); try fewer --views, a larger --voxel or a smaller --box", 3)
    if isinstance(error, OSError) and error.errno in _FULL:
        return _say(f"no space left: {error}; make room: {_onward()}", 3)
    if isinstance(error, CycloptsError):
        return _say(str(error), 2)
    if isinstance(error, ValueError | TypeError | OSError):
        return _say(str(error), 2)
    return _say(f"{type(error).__name__}: {error} (run again with --debug to see where)", 1)


def _onward() -> str:
    """How to go on with the command that was stopped."""
    kept = "what was finished is kept"
    words = {
        "reconstruct": f"{kept}, go on with --resume",
        "reproduce": f"{kept}, go on with the same command",
        "verify": f"{kept}, go on with the same command",
        "moments": "the file is written when all micrographs are summed, then it stays",
    }
    told = (told for name, told in words.items() if name in COMMAND.get()[:2])
    return next(told, f"{kept}, start again with --overwrite")


def _names(error: BaseException, name: str) -> bool:
    return type(error).__name__ == name


def _say(message: Any, status: int) -> int:
    if processes.complains(sys.exception()):
        print("unpicked: " + " ".join(str(message).split()), file=sys.stderr)
    return status
