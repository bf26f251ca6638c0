"""Checkpoint files: what a run needs to go on after a stop."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from unpicked._lazy import torch
from unpicked.data.base import Data
from unpicked.estimators.base import Estimator, State
from unpicked.model.model import Model
from unpicked.priors import Prior

History = list[dict[str, float]]


class OtherRun(ValueError):
    """A checkpoint is that of other data or settings."""


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
class Checkpoint:
    """What a file holds.

    Attributes:
        state: the present one.
        history: a row of figures per pass.
        result: how the run ended; None while it goes on.
        note: what was chosen before it, if anything.
        best: state of the highest held-out likelihood so far, if that is asked for.
    """

    state: State
    history: History
    result: Result | None = None
    note: str = ""
    best: State | None = None


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
    """Write a file, whole or not at all; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".pt.part")
    parts = {
        "fingerprint": fingerprint,
        "state": held.state,
        "history": held.history,
        "result": held.result.name if held.result else "",
        "note": held.note,
        "best": held.best,
    }
    whole = io.BytesIO()  # torch would hide a full disk behind an error of its own
    torch.save(parts, whole)
    with open(temporary, "wb") as file:
        file.write(whole.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load(path: Path, fingerprint: str) -> Checkpoint | None:
    """What a file holds; None where there is none.

    Raises:
        ValueError: for a file that cannot be read, or that of another run.
    """
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":  # what is no archive torch would read as a stream that states its lengths
                raise ValueError("no archive")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of archives that torch takes for something else
            parts = torch.load(path, weights_only=True)
        ended = Result[parts["result"]] if parts["result"] else None
        found = Checkpoint(parts["state"], parts["history"], ended, parts["note"], parts["best"])
        written = parts["fingerprint"]
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); delete it to start this part anew"
        ) from error
    if written != fingerprint:
        raise OtherRun(
            f"{path} belongs to a run with other data or settings; resume with the same ones, or use another folder"
        )
    return found
