"""The main jobs, from files to an answer: one file per job, what it shares with others beside it."""

from __future__ import annotations

from unpicked.recipes.images import ImageAnswer, ImageJob, from_images
from unpicked.recipes.job import MicrographJob
from unpicked.recipes.micrographs import MicrographAnswer, from_micrographs, ready
from unpicked.recipes.parts import ball_reach
from unpicked.recipes.signals import SignalAnswer, SignalJob, from_signal

__all__ = [
    "ImageAnswer",
    "ImageJob",
    "MicrographAnswer",
    "MicrographJob",
    "SignalAnswer",
    "SignalJob",
    "ball_reach",
    "from_images",
    "from_micrographs",
    "from_signal",
    "ready",
]
