"""Structures and maps, made ready to be simulated."""

from __future__ import annotations

import math

from unpicked.data.maps import Map
from unpicked.data.structure import Structure
from unpicked.objects.voxels import Voxels
from unpicked.ops.window import crop_or_pad
from unpicked.simulate.micrographs import Specimen
from unpicked.simulate.potential import atoms


def specimen_from_structure(
    structure: Structure, box: int, voxel: float | None = None, *, b_factor: float = 60.0
) -> Specimen:
    """A structure, ready to be simulated: atoms on a fine grid of at most 1 angstrom and half the working voxel.

    Args:
        structure: heavy atoms.
        box: edge of a particle image in working pixels.
        voxel: working voxel size in angstrom; None lets the molecule fill 85 % of the box.
        b_factor: temperature factor of all atoms in square angstrom.

    Raises:
        ValueError: if the molecule is larger than the box.
    """
    probe, _ = atoms(structure, 1.0, box)
    diameter = 2 * float(probe.positions.norm(dim=1).max())
    if voxel is None:
        voxel = math.ceil(10 * diameter / (0.85 * box)) / 10
    if diameter > box * voxel:
        raise ValueError(
            f"the molecule of {diameter:.0f} A does not fit a box of {box} voxels of {voxel} A = {box * voxel:.0f} A; "
            "try a larger --box or --voxel"
        )
    oversampling = max(2, math.ceil(voxel))
    object, x = atoms(structure, voxel / oversampling, box * oversampling, b_factor=b_factor)
    return Specimen(object, x, box, voxel)


def specimen_from_map(map: Map, box: int, voxel: float | None = None) -> Specimen:
    """A map, ready to be simulated: its whole field of view, or that of ``box`` voxels of about ``voxel`` angstrom.

    The field of view is a whole number of the map's own voxels; the exact working voxel size is the specimen's.

    Raises:
        ValueError: if the map is coarser than the working voxel.
    """
    field = map.box if voxel is None else round(box * voxel / map.voxel_size)
    if field < box:
        raise ValueError(
            f"the map's voxels of {map.voxel_size} A are coarser than the working voxel of {voxel} A; "
            "try a larger --voxel"
        )
    values = crop_or_pad(map.values.double(), (field, field, field))
    fine = Map(values, map.voxel_size)
    if field < 2 * box:
        fine = fine.rescale(2 * box)
    object = Voxels(fine.box, pad=2)
    return Specimen(object, object.fit(fine.values), box, field * map.voxel_size / box)
