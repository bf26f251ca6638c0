"""The settings of a reconstruction from a stack of particles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from unpicked.data.maps import Map
from unpicked.data.particles import Particles


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
    steps: int = 3000
    """Updates of an encoder or a table, of 32 images each."""
    halves: bool = False
    """Solve two halves of the images as well, from starts of their own, and compare them."""

    def __post_init__(self) -> None:
        check_settings(self.max_shift, self.voxel, self.diameter, self.starts)
        if self.rounds < 1:
            raise ValueError(f"--rounds must be at least 1; got {self.rounds}")
        if self.heads < 0 or (self.branches == "none" and self.heads > 1):
            raise ValueError(f"--heads must not be negative, and 1 with --branches none; got {self.heads}; try heads")
        if self.steps < 2:
            raise ValueError(f"--steps must be at least 2, one for each of two rates; got {self.steps}")


def check_settings(max_shift: float, voxel: float | None, diameter: float | None, starts: int) -> None:
    """What all methods ask of the settings that they share.

    Raises:
        ValueError: for a number that makes no sense; the message names the option.
    """
    if not (math.isfinite(max_shift) and max_shift >= 0):
        raise ValueError(f"--max-shift must not be negative, in angstrom; got {max_shift}")
    if voxel is not None and not (math.isfinite(voxel) and voxel > 0):
        raise ValueError(f"--voxel must be positive, in angstrom; got {voxel}")
    if diameter is not None and not diameter > 0:
        raise ValueError(f"--diameter must be positive, in angstrom; got {diameter}")
    if starts < 1:
        raise ValueError(f"--starts must be at least 1; got {starts}")


def check_field(data: Particles, max_shift: float, start: Map | None) -> None:
    """Refuse shifts beyond the images and start maps of another field of view.

    Raises:
        ValueError: for either.
    """
    field = data.box * data.pixel_size
    if 2 * max_shift >= field:
        raise ValueError(f"--max-shift must be below half the box, {field / 2:g} A; got {max_shift:g}")
    if start is not None and abs(start.box * start.voxel_size - field) > 0.01 * field:
        raise ValueError(
            f"the start map's field of view must be that of the images, {field:.1f} A; got "
            f"{start.box * start.voxel_size:.1f} A; crop or pad it"
        )


def working(data: Particles, voxel: float | None) -> int:
    """Edge in working pixels: the even size nearest to the wanted voxel.

    Raises:
        ValueError: for a voxel finer than the pixel, or so coarse that fewer than 8 pixels remain.
    """
    if voxel is None:
        return data.box
    size = 2 * round(data.box * data.pixel_size / voxel / 2)
    if voxel < data.pixel_size * (1 - 1e-6):
        raise ValueError(f"--voxel must be at least the pixel size, {data.pixel_size:g} A; got {voxel:g}")
    if size < 8:
        raise ValueError(f"--voxel {voxel:g} leaves {size} of {data.box} pixels; give a finer one")
    return min(size, data.box)
