"""``unpicked templates``: projections of a map for a picker."""

from __future__ import annotations

import json as js
from pathlib import Path
from typing import Literal


def templates(
    volume: Path,
    /,
    *,
    out: Path,
    angle: float = 15.0,
    box: int | None = None,
    voxel: float | None = None,
    map_voxel: float | None = None,
    contrast: Literal["bright", "dark"] = "bright",
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Project a map from evenly spread directions: templates for the pickers of RELION and cryoSPARC.

    Beside the stack a STAR file of the same name tells the angles. Directions cover the whole sphere; turns in the
    plane are left to the picker.

    Example:
        unpicked templates run/volume.mrc --angle 15 --voxel 3.2 --out templates.mrcs

    Parameters
    ----------
    volume
        MRC map, a cube, matter bright; or the folder of a finished run.
    out
        Stack to write, ending in .mrcs.
    angle
        Degrees between neighbouring directions, 1 to 90.
    box
        Edge of the images in pixels; the map's field of view if not given.
    voxel
        Pixel size of the images in angstrom: that of the picker's micrographs. The map's if not given.
    map_voxel
        Voxel size of the map in angstrom, where its header has none.
    contrast
        Matter bright, which both pickers take for granted, or dark, as on a raw micrograph.
    overwrite
        Replace existing files.
    json
        Print one JSON object.
    """
    from unpicked.data.poses import Poses
    from unpicked.io import mrc, stacks, star_layouts
    from unpicked.recipes.templates import templates as projected

    if out.suffix.lower() != ".mrcs":
        raise ValueError(f"--out {out} must end in .mrcs, the ending of image stacks")
    star = out.with_suffix(".star")
    for path in (out, star):
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists; give --overwrite or another --out")
    found = projected(
        mrc.read_map(volume / "volume.mrc" if volume.is_dir() else volume, voxel_size=map_voxel),
        angle,
        box=box,
        voxel=voxel,
    )
    count, map = len(found), found.map
    stacks.write_stack_of(found, out, count, map.voxel_size, contrast=contrast, overwrite=overwrite)
    poses = Poses(found.rotations, found.rotations.new_zeros(count, 2))
    names = [f"{number:06d}@{out.name}" for number in range(1, count + 1)]
    star_layouts.write_stack_star(star, names, map.voxel_size, map.box, poses=poses, overwrite=overwrite)
    if json:
        told = {"out": str(out), "star": str(star), "count": count, "box": map.box, "voxel_size": map.voxel_size}
        print(js.dumps({**told, "angle": angle, "contrast": contrast, "notes": list(found.notes)}))
        return 0
    for note in found.notes:
        print(note)
    print(
        f"{out}: {count} templates of {map.box} x {map.box} pixels of {map.voxel_size:g} A, matter {contrast}; {star}"
    )
    return 0
