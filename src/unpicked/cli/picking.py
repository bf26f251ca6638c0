"""``unpicked pick``: where particles of a map are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from unpicked.cli import runs
from unpicked.cli.common import Common
from unpicked.cli.micrographs import Input


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
    _sound(out, overwrite, least, views, density)
    from unpicked.io import mrc, star_layouts
    from unpicked.recipes import MicrographJob
    from unpicked.recipes.picks import pick_from_map

    map = mrc.read_map(volume / "volume.mrc" if volume.is_dir() else volume, voxel_size=map_voxel)
    data = _masked_as(volume, files, input, common).read(files)
    job = MicrographJob(
        box=map.box, voxel=map.voxel_size, density=density, spacing=spacing, ignore_ctf=ignore_ctf, noise=noise
    )
    found = pick_from_map(
        data, map, job, views=views, least=least, seed=common.seed, device=device,
        tell=lambda name, count: common.say(f"{name}: {count} particles"),
    )  # fmt: skip
    box = round(map.box * map.voxel_size / data.pixel_size)
    star_layouts.write_particles_star(
        out, found.names, found.centres, found.rotations, data.pixel_size, box,
        scores=found.posterior, overwrite=overwrite,
    )  # fmt: skip
    last, count = found.run.history[-1], len(found.names)
    common.say(
        f"{out}: {count} particles on {len(data)} micrographs; E = {last['energy']:.1f} per particle, "
        f"about {last['particles']:.0f} are expected"
    )
    fitted = {"energy": last["energy"], "density": last["density"], "expected": last["particles"]}
    return common.end({"out": str(out), "count": count, "micrographs": len(data), **fitted})


def _masked_as(volume: Path, files: list[str], input: Input, common: Common) -> Input:
    """The input, with the masks of a run where its own micrographs are picked from and no others are given."""
    if input.masks or input.masks_auto or not (volume / "result.json").is_file():
        return input
    _, settings = runs.finished(volume)
    own = Input.of(settings)
    if not (own.masks or own.masks_auto) or list(settings.get("files", [])) != files:
        return input
    common.say(f"masks as in {volume}")
    return replace(input, masks=own.masks, masks_mark=own.masks_mark, masks_auto=own.masks_auto)


def _sound(out: Path, overwrite: bool, least: float, views: int, density: float | None) -> None:
    """Refuse what can be seen to be wrong before anything is read."""
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
