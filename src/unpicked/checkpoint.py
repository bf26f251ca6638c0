"""Checkpoint files: what a run needs to go on after a stop, and how it is told to stop."""

from __future__ import annotations

import hashlib
import io
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from unpicked._lazy import torch
from unpicked.data.base import Data
from unpicked.estimators.base import Estimator, State
from unpicked.io._files import write_durably
from unpicked.model.model import Model
from unpicked.model.placements import Stats
from unpicked.priors import Prior

History = list[dict[str, float]]

FORMAT = 2  # raised whenever a state that lies in a file means something else
_HEAD = re.compile(rb"unpicked checkpoint (\d+) ([0-9a-f]{64})\n")


class OtherRun(ValueError):
    """A checkpoint is that of other data or settings, or of another version."""


class Result(Enum):
    """How a run ended, in words for its user."""

    CONVERGED = "converged: the last passes gained nothing more"
    ITERATIONS = "stopped at the iteration limit while the likelihood was still rising; try more iterations"
    EMPTY = (
        "nothing was found: less than one particle is expected in all the data; "
        "the noise may be too strong, or the box wrong"
    )
    MISFIT = (
        "the fit did not come to rest in agreement with the data: a wrong optimum, or a wrong model; "
        "try more starts, more data, or another spacing"
    )
    OVERFITTED = "stopped early: the likelihood of held-out micrographs fell; the best map before that is kept"
    NOT_FINITE = "stopped: a figure was not finite; the last good state is kept"


@dataclass(frozen=True)
class Sums:
    """Part of a pass: the statistics of the first ``count`` pieces of data that it reads."""

    count: int
    stats: Stats


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        state: the present one.
        history: a row of figures per pass.
        result: how the run ended; None while it goes on.
        note: what was chosen before it, if anything.
        best: state of the highest held-out likelihood so far, if that is asked for.
        sums: of the pass that was going on, if any.
        damage: a sentence on a damaged file in whose place an earlier one was taken, if so.
    """

    state: State
    history: History
    result: Result | None = None
    note: str = ""
    best: State | None = None
    sums: Sums | None = None
    damage: str = ""


def fingerprint(
    data: Data,
    model: Model,
    estimator: Estimator,
    prior: Prior,
    seed: int,
    start: torch.Tensor | None,
    starts: int,
    held: Data | None,
    check: int,
) -> str:
    """What a checkpoint must share with the run that resumes it."""
    parts: Sequence[Any] = (
        *data.digest,
        model.object,
        model.view.digest,
        model.placement,
        model.noise,
        model.optics,
        estimator,
        prior,
        seed,
        starts,
        None if start is None else start.tolist(),
        None if held is None else held.digest[0],
        check,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def save(path: Path, fingerprint: str, held: Checkpoint) -> None:
    """Write a file, whole or not at all; the one before it is kept beside it, and folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {
        "fingerprint": fingerprint,
        "state": held.state,
        "history": held.history,
        "result": held.result.name if held.result else "",
        "note": held.note,
        "best": held.best,
        "sums": vars(held.sums) if held.sums else None,
        "damage": held.damage,
    }
    whole = io.BytesIO()  # torch would hide a full disk behind an error of its own
    torch.save(parts, whole)
    content = whole.getbuffer()
    head = f"unpicked checkpoint {FORMAT} {hashlib.sha256(content).hexdigest()}\n"
    write_durably(path, head.encode(), content, before=_before(path))


def load(path: Path, fingerprint: str) -> Checkpoint | None:
    """What a file holds, or where it is damaged or missing the one before it; None where there is neither.

    Raises:
        ValueError: for files that cannot be read.
        OtherRun: for that of another run or version.
    """
    damage: ValueError | None = None
    for one in (path, _before(path)):
        try:
            found = _read(one, fingerprint)
        except FileNotFoundError:
            continue
        except OtherRun:
            raise
        except ValueError as error:
            damage = damage or error
            continue
        if damage is None:
            return found
        return replace(found, damage=f"{path.name} was damaged: the run went on from the state before it")
    if damage is not None:
        raise damage
    return None


def _before(path: Path) -> Path:
    """The file before the present one."""
    return path.with_suffix(".pt.old")


def _read(path: Path, fingerprint: str) -> Checkpoint:
    """What one file holds, its checksum compared before it is looked into."""
    with path.open("rb") as file:
        head, content = file.readline(100), file.read()
    known = _HEAD.fullmatch(head)
    if head.startswith(b"PK") or (known and int(known[1]) != FORMAT):
        raise older(path)
    if not known or known[2].decode() != hashlib.sha256(content).hexdigest():
        raise ValueError(f"{path} is not a readable checkpoint (damaged); delete it to start this part anew")
    try:
        if not content.startswith(b"PK\x03\x04"):  # torch would read it as a stream that states its lengths
            raise ValueError("no archive")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of archives that torch takes for something else
            parts = torch.load(io.BytesIO(content), weights_only=True)
        written = parts.pop("fingerprint")
        sums, ended = parts.pop("sums"), parts.pop("result")
        found = Checkpoint(**parts, sums=Sums(**sums) if sums else None, result=Result[ended] if ended else None)
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); delete it to start this part anew"
        ) from error
    if written != fingerprint:
        raise OtherRun(
            f"{path} belongs to a run with other data or settings; resume with the same ones, or use another folder"
        )
    return found


def older(path: Path) -> OtherRun:
    """What is raised for a file of another version."""
    return OtherRun(
        f"{path} was written by another version of unpicked, whose checkpoints this one does not read; end the run "
        "with that version, or start it anew with --overwrite or in another folder"
    )


@dataclass
class Stop:
    """A signal that is held back until the work in hand is saved.

    Attributes:
        came: its number, None while there is none.
        handlers: what the signals do otherwise.
    """

    came: int | None = None
    handlers: dict[int, Callable[..., object]] = field(default_factory=dict)

    def act(self) -> None:
        """Let the signal, if there is one, do what it does."""
        number, self.came = self.came, None
        if number is not None:
            self.handlers[number](number, None)


@contextmanager
def patient(*, hold: bool) -> Iterator[Stop]:
    """SIGTERM and Ctrl-C, where they are handled in Python, held back in this block; a second Ctrl-C acts at once."""
    stop = Stop()

    def note(number: int, frame: object) -> None:
        again, stop.came = stop.came is not None and number == signal.SIGINT, number
        if again:
            stop.act()

    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if hold and callable(handler) and threading.current_thread() is threading.main_thread():
            stop.handlers[number] = handler
            signal.signal(number, note)
    try:
        yield stop
    finally:
        for known, handler in stop.handlers.items():
            signal.signal(known, handler)
    stop.act()
