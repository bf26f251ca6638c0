"""``unpicked pick``: where particles of a map are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unpicked.cli.common import Common
from unpicked.cli.micrographs import Input

if TYPE_CHECKING:
    from unpicked.data.maps import Map


def pick(
    volume: Path,
    files: list[str],
    /,
    *,
    out: Path,
    least: float = 0.5,
    views: int = 800,
    density: float | None = None,
    spacing: Literal["separated", "arbitrary"] = "separated",
    map_voxel: float | None = None,
    ignore_ctf: bool = False,
    noise: Literal["auto", "white", "coloured"] = "auto",
    input: Input = Input(),
    overwrite: bool = False,
    common: Common = Common(),
) -> int:
    """Pick particles: maxima of the posterior occupancy, given a map, its neighbours, the noise and the optics.

    Scale of the map, noise and density are fitted to the micrographs; the structure is not. Every pick has the
    probability that a particle is there (rlnAutopickFigureOfMerit) and its likeliest rotation. RELION and cryoSPARC
    read the STAR file.

    Example:
        unpicked pick run sim/micrographs.star --out picks.star

    Parameters
    ----------
    volume
        MRC map of the particle, matter bright, of at most 64 voxels; or the folder of a finished run.
    files
        Micrographs: MRC or TIFF files, folders, quoted globs, a STAR file or a .cs file.
    out
        STAR file of positions to write.
    least
        Probability that a pick has at least.
    views
        Orientations that are tried.
    density
        Fraction of the area that boxes of particles cover; estimated if not given.
    spacing
        Least distance of two particles: separated (2 box - 1 voxels) or arbitrary (box voxels).
    map_voxel
        Voxel size of the map in angstrom, where its header has none.
    ignore_ctf
        Leave the contrast transfer that the files state out of the model.
    noise
        Spectrum of the noise: white, or measured in every micrograph; auto: measured where there is contrast transfer.
    overwrite
        Replace an existing file.
    """
    device = common.begin()
    if out.suffix.lower() != ".star":
        raise ValueError(f"--out {out} must end in .star")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; give --overwrite or another --out")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"folder {out.parent} does not exist; make it before writing {out.name}")
    if views < 1:
        raise ValueError(f"--views must be at least 1; got {views}")
    if not 0 <= least <= 1:
        raise ValueError(f"--least must be a probability from 0 to 1; got {least}")
    if density is not None and not 0 < density < 1:
        raise ValueError(f"--density must lie between 0 and 1, as a covered fraction; got {density}")
    from unpicked._lazy import torch
    from unpicked.io import mrc, star_layouts
    from unpicked.picking import fit_scale
    from unpicked.picking import pick as picked
    from unpicked.recipes import MicrographJob, ready
    from unpicked.recipes.micrographs import fixed

    map = mrc.read_map(volume / "volume.mrc" if volume.is_dir() else volume, voxel_size=map_voxel)
    _check(volume, map)
    data = input.read(files)
    job = MicrographJob(
        box=map.box, voxel=map.voxel_size, density=density, spacing=spacing, ignore_ctf=ignore_ctf, noise=noise
    )
    prepared = ready(data, job)
    working = prepared.micrographs
    if abs(working.pixel_size / map.voxel_size - 1) > 0.01:
        raise ValueError(
            f"the map's voxel of {map.voxel_size:.4g} A cannot be reached from pixels of {data.pixel_size:.4g} A: the "
            f"nearest is {working.pixel_size:.4g} A; rescale the map"
        )
    working = fixed(prepared, job).micrographs
    run = fit_scale(working, map, density=density, spacing=spacing, seed=common.seed, device=device)
    names: list[str] = []
    rows: list[Any] = []
    for name, found in zip(
        working.names, picked(working, run, views=views, least=least, seed=common.seed), strict=True
    ):
        common.say(f"{name}: {len(found)} particles")
        names += [name] * len(found)
        rows.append(found)
    if not names:
        raise ValueError(f"no place has a particle with a probability of {least:g} or more; try a lower --least")
    star_layouts.write_particles_star(
        out,
        names,
        prepared.to_file_pixels(torch.cat([found.centres for found in rows])),
        torch.cat([found.rotations for found in rows]),
        data.pixel_size,
        round(map.box * map.voxel_size / data.pixel_size),
        scores=torch.cat([found.posterior for found in rows]),
        overwrite=overwrite,
    )
    last = run.history[-1]
    told = {
        "out": str(out), "count": len(names), "micrographs": len(working), "energy": last["energy"],
        "density": last["density"], "expected": last["particles"],
    }  # fmt: skip
    common.say(
        f"{out}: {len(names)} particles on {len(working)} micrographs; E = {last['energy']:.1f} per particle, "
        f"about {last['particles']:.0f} are expected"
    )
    return common.end(told)


def _check(path: Path, map: Map) -> None:
    """Refuse maps that cannot be looked for."""
    if map.box > 64:
        raise ValueError(f"{path} has {map.box} voxels, more than 64; bring it to a coarser voxel first")
    if not float(map.values.max()) > -float(map.values.min()):
        raise ValueError(f"{path} must have matter bright, and some density; try it times -1")
