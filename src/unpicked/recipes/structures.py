"""Structures of the user's, of which the molecule is believed to be another conformation."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.evaluate.compare import aligned
from unpicked.io.mrc import read_map
from unpicked.io.structure import read_structure
from unpicked.objects.base import Volume
from unpicked.ops import rotation
from unpicked.priors import Subspace, wilson
from unpicked.simulate.specimens import specimen_from_map, specimen_from_structure

_ATOMS = (".pdb", ".ent", ".cif", ".mmcif")
_VIEWS = 24  # that stand for all views
_CLOSE = 0.01  # part by which voxels may differ in size


@functools.cache
def given(names: tuple[str, ...], box: int, voxel: float) -> torch.Tensor:
    """Volumes of files, laid on the first of them: ``(n, box, box, box)`` at the working voxel, double precision.

    Args:
        names: atomic models (PDB, mmCIF) or MRC maps, all of the same molecule.
        box: edge in working voxels.
        voxel: working voxel in angstrom.

    Raises:
        ValueError: for a file that is not there or cannot be read, a molecule that does not fit the box, or a map that
            is coarser or shows less than the box.
    """
    maps = [_one(name, box, voxel) for name in names]
    maps = [maps[0], *(aligned(map, maps[0]) for map in maps[1:])]
    return torch.stack([map.values.double() for map in maps])


def _one(name: str, box: int, voxel: float) -> Map:
    path, suffixes = Path(name), Path(name).name.lower().split(".")
    if not path.is_file():
        raise ValueError(f"--structures {name} was not found; give PDB or mmCIF files, or MRC maps")
    try:
        if any(f".{part}" in _ATOMS for part in suffixes[1:]):
            return specimen_from_structure(read_structure(path), box, voxel).truth()
        map = read_map(path)
        if map.box * map.voxel_size < box * voxel * (1 - _CLOSE):
            raise ValueError(
                f"the map is {map.box * map.voxel_size:.4g} A wide, the box of {box} voxels of {voxel:.4g} A "
                f"{box * voxel:.4g} A; try a smaller --box or --voxel, or a map with more around the molecule"
            )
        found = specimen_from_map(map, box, voxel).truth()
    except ValueError as error:
        raise ValueError(f"--structures {name}: {error}") from error
    if abs(found.voxel_size / voxel - 1) > _CLOSE:
        raise ValueError(
            f"--structures {name}: voxels of {found.voxel_size:.4g} A are the nearest to {voxel:.4g} A that it gives; "
            "rescale it first"
        )
    return Map(found.values, voxel)


def belief(volumes: torch.Tensor, object: Volume, power: float, error: float) -> Subspace:
    """The molecule is among volumes ``(n, box, box, box)``, but for a relative ``error``.

    Args:
        volumes: in one frame, of any grey values.
        object: the volume that is reconstructed.
        power: expected sum of squares of a projection, in the data's variance.
        error: r.m.s. of what the volumes do not know, in parts of the molecule.
    """
    own = object.fit(volumes.mean(0))
    seen = object.projector(rotation.super_fibonacci(_VIEWS).to(own)).project(own)
    scale = math.sqrt(power / float(seen.square().sum((-2, -1)).mean()))
    return Subspace(volumes, float(f"{scale:.9g}"), wilson(object, float(f"{error**2 * power:.9g}")))


def check(names: Sequence[str], box: int, voxel: float) -> None:
    """Read them once, so that what is wrong with them is found before all else.

    Raises:
        ValueError: as :func:`given`, for a single file, or for files that are all alike.
    """
    if len(names) < 2:
        raise ValueError(
            f"--structures needs at least two files, whose differences say what is not known; got {len(names)}; "
            "of one structure try --start, or verify --map"
        )
    volumes = given(tuple(names), box, voxel)
    if not float(volumes.std(0).norm()) > 1e-3 * float(volumes.norm()):
        raise ValueError("--structures must differ from one another; these are all alike at the working voxel")
