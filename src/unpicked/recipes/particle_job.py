"""The settings of a reconstruction from a stack of particles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ParticleJob:
    """How to reconstruct a volume from a stack of particles; the flags of ``unpicked reconstruct particles``."""

    method: Literal["auto", "search", "encoder", "table", "known", "em", "sgd"] = "auto"
    """auto and search: views are searched from random starts, then poses are fitted image by image, from coarse to fine
    pixels; encoder: a network that reads poses from images takes the place of the search; table: a pose per image by
    gradients, as published, and nothing after it; known: the poses of the data (or of --poses) are taken as they
    are; em and sgd: classical marginalised maximum likelihood, with all images in every update or a few at a time."""
    max_shift: float = 0.0
    """Farthest that a particle's centre may lie from that of its image, in angstrom; 0 takes images as centred."""
    voxel: float | None = None
    """Working voxel size in angstrom: images are cropped to the nearest even size. The pixel size if not given."""
    diameter: float | None = None
    """Of the particle, in angstrom: the map is zero outside this ball. Nearly the box if not given."""
    starts: int = 3
    """Random starts of the search; the one most likely on images kept apart goes on."""
    rounds: int = 6
    """Rounds of fitting poses and solving the map at every pixel size."""
    rotation: Literal["s2s2", "quaternion", "euler"] = "s2s2"
    """What the encoder's outputs stand for: two vectors, three numbers of a quaternion, or angles."""
    branches: Literal["heads", "orbit", "mirror", "none"] = "heads"
    """Poses that the encoder offers for an image, of which the best counts: several outputs, one for each of its flips
    and quarter turns, one more for its half turn, or a single one as published."""
    heads: int = 0
    """Outputs of the encoder; 0 means 16 for heads, and 1 for the others."""
    steps: int = 2400
    """Updates of an encoder or a table, of 32 images each."""
    halves: bool = False
    """Solve two halves of the images as well, from starts of their own, and compare them."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_shift) and self.max_shift >= 0):
            raise ValueError(f"--max-shift must not be negative, in angstrom; got {self.max_shift}")
        if self.voxel is not None and not (math.isfinite(self.voxel) and self.voxel > 0):
            raise ValueError(f"--voxel must be positive, in angstrom; got {self.voxel}")
        if self.diameter is not None and not self.diameter > 0:
            raise ValueError(f"--diameter must be positive, in angstrom; got {self.diameter}")
        if self.starts < 1:
            raise ValueError(f"--starts must be at least 1; got {self.starts}")
        if self.rounds < 1:
            raise ValueError(f"--rounds must be at least 1; got {self.rounds}")
        if self.heads < 0 or (self.branches == "none" and self.heads > 1):
            raise ValueError(f"--heads must not be negative, and 1 with --branches none; got {self.heads}; try heads")
        if self.steps < 2:
            raise ValueError(f"--steps must be at least 2, one for each of two rates; got {self.steps}")
