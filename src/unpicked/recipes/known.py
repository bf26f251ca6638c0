"""What one stage tells the next, kept beside its checkpoint: a resumed run takes the very same numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from unpicked import processes
from unpicked.checkpoint import OtherRun, older
from unpicked.io._files import read_json, write_durably
from unpicked.priors import Wilson

Found = TypeVar("Found")


@dataclass(frozen=True)
class Known:
    """What is known of the particles before a stage.

    Attributes:
        power: expected sum of squares of a projection, in the data's variance.
        energy: the same over the noise's variance, 0 where the data do not tell it from noise.
        wilson: the prior that the data suggest, None where nothing was learned.
    """

    power: float
    energy: float
    wilson: Wilson | None = None


def kept(folder: Path | None, resume: bool, find: Callable[[], Known]) -> Known:
    """What ``find`` finds, written to the folder of a stage; read from there where a run goes on.

    Raises:
        ValueError: for a file that cannot be read.
    """

    def known(read: Any) -> Known:
        return Known(read["power"], read["energy"], Wilson(**read["wilson"]) if read["wilson"] else None)

    return once(None if folder is None else folder / "known.json", resume, find, asdict, known)


def once(
    path: Path | None, resume: bool, find: Callable[[], Found], told: Callable[[Found], Any], of: Callable[[Any], Found]
) -> Found:
    """What ``find`` finds, written to a file as JSON with its checksum; read from there where a run goes on.

    Another number of threads or another machine would find it a little different, and make another run of it: of
    several processes the first one finds it for all.

    Args:
        path: the file; None keeps nothing.
        resume: read it, where it is there.
        find: finds it.
        told: makes plain values of it.
        of: makes it of plain values.

    Raises:
        ValueError: for a file that cannot be read.
        OtherRun: for that of another version.
    """
    return processes.agreed(find if path is None else lambda: _once(path, resume, find, told, of))


def _once(
    path: Path, resume: bool, find: Callable[[], Found], told: Callable[[Found], Any], of: Callable[[Any], Found]
) -> Found:
    """The same on one process, with a file."""
    if resume and path.exists():
        try:
            held = read_json(path)
            if isinstance(held, dict | list) and "sha256" not in held:
                raise older(path)
            if held["sha256"] != _checksum(held["found"]):
                raise ValueError("damaged")
            return of(held["found"])
        except OtherRun:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is not a readable checkpoint ({type(error).__name__}); delete its folder to start anew"
            ) from error
    found = find()
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = told(found)
    write_durably(path, json.dumps({"sha256": _checksum(plain), "found": plain}).encode())
    return found


def _checksum(plain: Any) -> str:
    """Of plain values, which JSON gives back to the last bit."""
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()
