"""The main jobs, from files to an answer: one file per job, what it shares with others beside it."""

from __future__ import annotations

from unpicked.recipes.job import MicrographJob
from unpicked.recipes.micrographs import MicrographAnswer, from_micrographs, ready
from unpicked.recipes.parts import ball_reach

__all__ = ["MicrographAnswer", "MicrographJob", "ball_reach", "from_micrographs", "ready"]
