"""What one stage tells the next, kept beside its checkpoint: a resumed run takes the very same numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from unpicked.priors import Wilson


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

    Another number of threads or another machine would find it a little different, and make another run of it.

    Raises:
        ValueError: for a file that cannot be read.
    """
    if folder is None:
        return find()
    path = folder / "known.json"
    if resume and path.exists():
        try:
            read = json.loads(path.read_text())
            return Known(read["power"], read["energy"], Wilson(**read["wilson"]) if read["wilson"] else None)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is not a readable checkpoint ({type(error).__name__}); delete its folder to start anew"
            ) from error
    known = find()
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(known)))
    os.replace(part, path)
    return known
