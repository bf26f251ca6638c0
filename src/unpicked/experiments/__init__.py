"""Published experiments again, one short file each: ``unpicked reproduce``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unpicked.experiments.table import Experiment

NAMES = (
    "talk-em",
    "em-iterations",
    "low-snr",
    "talk-clean-moments",
    "conditioning",
    "rct",
    "priors",
    "talk-mtd1d",
    "talk-em1d",
    "mtd2d-em",
    "consistency",
    "limits-1d",
    "mtd2d-autocorrelation",
    "sample-complexity",
    "sample-complexity-3d",
    "paper-parametrisations",
    "paper-noise",
    "paper-ctf",
    "noise-only",
    "small-protein",
)
"""What can be run; the file of each has its name with underscores, and an ``EXPERIMENT``."""


def load(name: str) -> Experiment:
    """The experiment of this name.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in NAMES:
        raise ValueError(f"there is no experiment {name!r}; known are {', '.join(NAMES)}")
    found: Experiment = import_module(f"unpicked.experiments.{name.replace('-', '_')}").EXPERIMENT
    return found
