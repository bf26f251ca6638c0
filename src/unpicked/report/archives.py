"""The ``.npz`` files of a run folder: None where there is none, a note where it cannot be understood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpicked.data.arrays import members

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Patches:
    """Places in the micrographs, the map's projections for them, and averages: ``(n, L, L)``; chances ``(n,)``."""

    patches: Array
    projections: Array
    posterior: Array
    averages: Array | None


@dataclass(frozen=True)
class Pictures:
    """Micrographs, binned, matter bright.

    Attributes:
        pictures: ``(n, h, w)``.
        names: of the micrographs.
        pixel_size: angstrom.
        total: number of micrographs of the run.
        hidden: ``(n, h, w)``, the share of every pixel that masks leave out; None: there are no masks.
        shares: per micrograph, the share that is left out.
        marks: ``(m, 2)`` x and y of the particles found in the first one, in pixels; None: they are not known.
        width: of a particle's box, in pixels.
    """

    pictures: Array
    names: tuple[str, ...]
    pixel_size: float
    total: int
    hidden: Array | None = None
    shares: tuple[float, ...] = ()
    marks: Array | None = None
    width: float = 0.0


def patches(path: Path, notes: list[str]) -> Patches | None:
    """``patches.npz``."""
    found = _arrays(path, ("patches", "projections", "posterior", "averages"), (), notes, "its patches are not shown")
    if found is None:
        return None
    images = [found[name] for name in ("patches", "projections", "averages") if name in found]
    chance = found.get("posterior", np.zeros(0))
    fits = (
        {"patches", "projections", "posterior"} <= set(found)
        and chance.ndim == 1
        and len(chance) > 0
        and all(image.shape == images[0].shape and image.ndim == 3 for image in images)
        and images[0].shape[0] == len(chance)
        and min(images[0].shape) > 0
        and all(np.isfinite(values).all() for values in (*images, chance))
    )
    if not fits:
        wanted = "finite patches and projections (n, L, L) and posterior (n,)"
        notes.append(f"{path.name} must hold {wanted}; found {_shapes(found)}; its patches are not shown")
        return None
    return Patches(found["patches"], found["projections"], chance, found.get("averages"))


def pictures(path: Path, notes: list[str]) -> Pictures | None:
    """``micrographs.npz``."""
    numbers = ("pictures", "pixel_size", "total", "hidden", "shares", "marks", "width")
    found = _arrays(path, numbers, ("names",), notes, "its micrographs are not shown")
    if found is None:
        return None
    shape = found["pictures"].shape if "pictures" in found else ()
    places = (*found["marks"].shape[:1], 2) if "marks" in found else ()
    shapes = {
        "pictures": shape, "names": shape[:1], "pixel_size": (), "total": (), "hidden": shape, "shares": shape[:1],
        "marks": places, "width": (),
    }  # fmt: skip
    fits = (
        {"pictures", "names", "pixel_size", "total"} <= set(found)
        and len(shape) == 3
        and min(shape) > 0
        and all(values.shape == shapes[name] for name, values in found.items())
        and all(np.isfinite(found[name]).all() for name in numbers if name in found)
        and found["pixel_size"] > 0
        and ("hidden" in found) == ("shares" in found)
        and ("marks" in found) == ("width" in found)
    )
    if not fits:
        wanted = "finite pictures (n, h, w), names (n,), pixel_size and total, and whole pairs of the others"
        notes.append(f"{path.name} must hold {wanted}; found {_shapes(found)}; its micrographs are not shown")
        return None
    return Pictures(
        found["pictures"],
        tuple(found["names"].tolist()),
        float(found["pixel_size"]),
        int(found["total"]),
        found.get("hidden"),
        tuple(found.get("shares", np.zeros(0)).tolist()),
        found.get("marks"),
        float(found.get("width", 0.0)),
    )


def _arrays(
    path: Path, numbers: Sequence[str], words: Sequence[str], notes: list[str], lost: str
) -> dict[str, NDArray[Any]] | None:
    """Those of some arrays that a file holds; a note ends in what is ``lost``."""
    if not path.is_file():
        return None
    try:
        found = members(path, (*numbers, *words))
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read: {' '.join(str(error).split())}; {lost}")
        return None
    if wrong := [name for name, values in found.items() if values.dtype.kind not in ("U" if name in words else "fiub")]:
        notes.append(f"{path.name} cannot be read: {', '.join(wrong)} of a wrong type; {lost}")
        return None
    with np.errstate(all="ignore"):  # of signalling NaN
        return {name: values if name in words else values.astype(np.float64) for name, values in found.items()}


def _shapes(found: dict[str, NDArray[Any]]) -> str:
    return ", ".join(f"{name} {values.shape}" for name, values in found.items()) or "nothing known"
