"""Structures of the user's, of which the molecule is believed to be another conformation."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.evaluate.align import align, apply
from unpicked.evaluate.resample import on_grid
from unpicked.io.mrc import read_map
from unpicked.io.structure import read_structure
from unpicked.objects.base import Volume
from unpicked.ops import fourier, rotation
from unpicked.priors import Subspace, wilson
from unpicked.simulate.specimens import specimen_from_map, specimen_from_structure

_ATOMS = (".pdb", ".ent", ".cif", ".mmcif")
_VIEWS = 24  # that stand for all views
_FINE, _LARGEST = 2.5, 17  # angstrom of the voxels at which files are laid on one another, and voxels of a box at most
_ALIKE = 0.5  # correlation of a file with the first, at least


@dataclass(frozen=True, eq=False)
class Given:
    """Volumes of files at the working voxel, laid on the first of them and brought to its grey values.

    Attributes:
        volumes: ``(n, box, box, box)``, double precision.
        digest: of the files' contents.
    """

    volumes: torch.Tensor
    digest: str


def given(names: Sequence[str], box: int, voxel: float) -> Given:
    """The volumes of files.

    They are compared at a finer voxel than the working one, by rotation and shift; their hands are kept.

    Args:
        names: atomic models (PDB, mmCIF) or MRC maps, all of the same molecule, of the same hand.
        box: edge in working voxels.
        voxel: working voxel in angstrom.

    Raises:
        ValueError: for a single file, files that are all alike, one that is not there, cannot be read or is no
            conformation of the first, or a molecule that does not fit the box.
    """
    if len(names) < 2:
        raise ValueError(
            f"--structures needs at least two files, whose differences say what is not known; got {len(names)}; "
            "of one structure try --start, or verify --map"
        )
    for name in names:
        if not Path(name).is_file():
            raise ValueError(f"--structures {name} was not found; give PDB or mmCIF files, or MRC maps")
    marks = tuple(hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in names)
    return _given(tuple(names), marks, box, voxel)


@functools.lru_cache(maxsize=4)
def _given(names: tuple[str, ...], marks: tuple[str, ...], box: int, voxel: float) -> Given:
    finer = max(1, min(math.ceil(voxel / _FINE), _LARGEST // box))
    fine = [_one(name, finer * box, voxel / finer) for name in names]
    maps = [fine[0], *(_laid(map, fine[0], name) for map, name in zip(fine[1:], names[1:], strict=True))]
    volumes = torch.stack([specimen_from_map(map, box).truth().values.double() for map in maps])
    if not float(volumes.std(0).norm()) > 1e-3 * float(volumes.norm()):
        raise ValueError("--structures must differ from one another; these are all alike at the working voxel")
    return Given(volumes, hashlib.sha256(repr((marks, box, f"{voxel:.6g}")).encode()).hexdigest())


def _one(name: str, box: int, voxel: float) -> Map:
    """A file's map, centred, at a voxel."""
    path = Path(name)
    ending = path.with_suffix("").suffix if path.suffix.lower() == ".gz" else path.suffix
    try:
        if ending.lower() in _ATOMS:
            return specimen_from_structure(read_structure(path), box, voxel).truth()
        return on_grid(_centred(read_map(path)), box, voxel, names=("the map", "the working voxel"))
    except ValueError as error:
        raise ValueError(f"--structures {name}: {error}") from error


def _centred(map: Map) -> Map:
    """The map rolled by whole voxels so that its mass lies in the centre; what is faint is no mass."""
    values = map.values.double()
    mass = (values - values.median()).clamp(min=0)
    mass = torch.where(mass > 0.2 * mass.max(), mass, 0.0)
    axis = torch.arange(map.box, dtype=torch.float64) - map.box // 2
    away = [float((mass.sum([d for d in range(3) if d != dim]) * axis).sum() / mass.sum()) for dim in range(3)]
    return Map(values.roll([-round(one) for one in away], (0, 1, 2)), map.voxel_size)


def _laid(map: Map, first: Map, name: str) -> Map:
    """A map on the first by rotation and shift, with the grey values that fit it best."""
    found = align(map, first, mirrored=False)
    if not found.score >= _ALIKE:
        raise ValueError(
            f"--structures {name} is no conformation of the first file: their correlation is {found.score:.2f} where "
            f"they fit best; {_ALIKE} is the least"
        )
    inside = fourier.distances(first.values.shape) <= first.box / 2
    values, wanted = apply(found, map, first).values.double(), first.values.double()
    x, y = values[inside], wanted[inside]
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    return Map((y.mean() + slope * (values - x.mean())) * inside, first.voxel_size)


def belief(found: Given, object: Volume, power: float, error: float, emptied: torch.Tensor | None = None) -> Subspace:
    """The molecule is among these volumes, at any height, but for a relative ``error``.

    Args:
        found: the volumes.
        object: the volume that is reconstructed.
        power: expected sum of squares of a projection, in the data's variance.
        error: r.m.s. of what the volumes do not know, in parts of the molecule.
        emptied: voxels of which they shall say nothing.
    """
    own = object.fit(found.volumes.mean(0))
    seen = object.projector(rotation.super_fibonacci(_VIEWS).to(own)).project(own)
    scale = math.sqrt(power / float(seen.square().sum((-2, -1)).mean()))
    rest = wilson(object, float(f"{error**2 * power:.9g}"))
    return Subspace(found.volumes, float(f"{scale:.9g}"), rest, emptied, found.digest)
