"""Particle images cut out of micrographs at picked positions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from unpicked._lazy import torch
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.particles import Particles
from unpicked.ops import fourier


def extract(
    data: Micrographs, centres: Sequence[torch.Tensor], box: int, *, background: float | None = None
) -> Particles:
    """Images around picked positions, in memory, each with the contrast transfer of its micrograph.

    A position is rounded to whole pixels, the centre of its image (index ``box // 2``): what is left of up to half a
    pixel is a shift that the reconstruction has to find. Positions whose image would reach beyond the micrograph are
    left out, and a note tells how many. The sign is that of the micrographs, matter bright.

    Args:
        data: micrographs, as read or prepared, not whitened.
        centres: per micrograph ``(n, 2)`` x (column) and y (row) in its pixels, from 0.
        box: edge of an image in pixels, with room for what contrast transfer carries out of the particle.
        background: radius in pixels beyond which an image shows background: its mean there is taken off, and the
            standard deviation there becomes 1 in the middle one of the images of its micrograph: the few pixels of
            every one would scale its particle by chance. None leaves the grey values.

    Raises:
        ValueError: for positions that are not one list per micrograph or not finite, a box that does not fit, a radius
            that leaves no background, an image without noise there, whitened micrographs, or where nothing is left.
    """
    _check(data, centres, box)
    outside = None if background is None else _outside(box, background)
    pieces, names, items, lost = [], list[str](), list[int](), 0
    for index, (name, places) in enumerate(zip(data.names, centres, strict=True)):
        corners = (places.double() + 0.5).floor().long() - box // 2
        height, width = data.shape
        inside = (corners >= 0).all(1) & (corners[:, 0] <= width - box) & (corners[:, 1] <= height - box)
        lost += int((~inside).sum())
        if not bool(inside.any()):
            continue
        image = data[index]
        own = torch.stack([image[y : y + box, x : x + box] for x, y in corners[inside].tolist()])
        pieces.append(own if outside is None else _normalised(own, outside, name))
        names += [f"{number:06d}@{PurePath(name).stem}_{index + 1}.mrcs" for number in range(1, len(own) + 1)]
        items += [index] * len(own)
    if not items:
        raise ValueError(f"no position has an image of {box} pixels inside its micrograph; got {lost} at the edges")
    notes = [f"{len(items)} images of {box} pixels cut out of {len(data)} micrographs"]
    if lost:
        notes.append(f"{lost} positions too near to an edge are left out")
    if outside is not None:
        notes.append(
            f"beyond {background:g} pixels of its centre every image has mean 0, and the middle one of a micrograph "
            "standard deviation 1"
        )
    return Particles(
        InMemory(torch.cat(pieces)),
        data.pixel_size,
        tuple(names),
        None if data.optics is None else data.optics.part(items),
        notes=(*data.notes, *notes),
    )


def _check(data: Micrographs, centres: Sequence[torch.Tensor], box: int) -> None:
    if data.gains is not None:
        raise ValueError("particles are cut out of micrographs whose noise is as it was; got whitened ones")
    if len(centres) != len(data):
        raise ValueError(f"centres must be one list per micrograph, {len(data)}; got {len(centres)}")
    if not 4 <= box <= min(data.shape):
        raise ValueError(f"box must lie between 4 and {min(data.shape)} pixels; got {box}")
    for name, places in zip(data.names, centres, strict=True):
        if places.dim() != 2 or places.shape[1] != 2:
            raise ValueError(f"centres must be (n, 2), x and y; got {tuple(places.shape)} for {name}")
        if not bool(torch.isfinite(places).all()):
            raise ValueError(f"{name} has positions that are not finite; leave them out")


def _outside(box: int, radius: float) -> torch.Tensor:
    """Pixels farther than ``radius`` from the centre, ``(box, box)``."""
    outside = fourier.distances((box, box)) > radius
    if not radius > 0 or int(outside.sum()) < 8:
        raise ValueError(f"background must leave pixels beyond it, from above 0 to about {box / 2:g}; got {radius:g}")
    return outside


def _normalised(images: torch.Tensor, outside: torch.Tensor, name: str) -> torch.Tensor:
    """Mean 0 of every background, and standard deviation 1 of the middle one."""
    around = images[:, outside].double()
    spread = around.var(1, correction=0)
    if not bool((spread > 0).all()):
        raise ValueError(f"{name} is the same all around a position; leave it out")
    return ((images - around.mean(1)[:, None, None]) / spread.median().sqrt()).to(images.dtype)
