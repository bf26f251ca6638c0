"""``unpicked convert``: files of other programs, from one to another."""

from __future__ import annotations

import json as js
from pathlib import Path
from typing import Literal


def convert(
    source: Path,
    out: Path,
    /,
    *,
    pixel_size: float | None = None,
    contrast: Literal["dark", "bright"] | None = None,
    passthrough: tuple[Path, ...] = (),
    no_ctf: bool = False,
    relocate: bool = False,
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Convert lists of particle images or micrographs between RELION's STAR and cryoSPARC's .cs, or MRC files.

    STAR to STAR keeps every column, .cs to .cs every field. Between the two go names, pixel size, box, contrast
    transfer, poses (Euler angles, rotation vectors), half sets and micrographs; what is left out is told.

    Example:
        unpicked convert J42/particles.cs particles.star --passthrough J42/passthrough_particles.cs

    Parameters
    ----------
    source
        STAR file, .cs file, or an MRC stack or map.
    out
        File to write, ending in .star or .cs; for MRC files in .mrc, .mrcs or .map.
    pixel_size
        Pixel or voxel size in angstrom, in place of what the file says.
    contrast
        Sign of the images: "dark" is written as blob/sign -1 in a .cs file, and MRC files are inverted.
    passthrough
        More .cs files of the same rows, joined by their uid.
    no_ctf
        Leave contrast transfer out where the format changes.
    relocate
        Write places of image files as seen from the new file's folder; they must be there.
    overwrite
        Replace an existing file.
    json
        Print one JSON object.
    """
    from unpicked.io.convert import Changes
    from unpicked.io.convert import convert as written

    done = written(source, out, Changes(pixel_size, contrast, passthrough, not no_ctf, relocate), overwrite=overwrite)
    if json:
        print(js.dumps({"out": str(out), "kind": done.kind, "count": done.count, "notes": list(done.notes)}))
        return 0
    for note in done.notes:
        print(note)
    print(f"{out}: {done.kind}, {done.count}")
    return 0
