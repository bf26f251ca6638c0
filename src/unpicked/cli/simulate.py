"""``unpicked simulate``: data with known truth, written as a microscope would."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unpicked._lazy import torch
from unpicked.cli.common import Common, Output, claim, height_and_width, write_facts
from unpicked.cli.specimens import Level, Seen

if TYPE_CHECKING:
    from unpicked.data.micrographs import Micrographs
    from unpicked.simulate.micrographs import Simulation


def micrographs(
    *,
    output: Output,
    seen: Seen = Seen(),
    box: int = 11,
    count: int = 4,
    size: tuple[int, ...] = (1024,),
    density: float = 0.1,
    level: Level = Level(),
    spacing: Literal["separated", "arbitrary"] = "separated",
    positions: Literal["pixel", "continuous"] = "pixel",
    contrast: Literal["dark", "bright"] = "dark",
    b_factor: float = 60.0,
    common: Common = Common(),
) -> int:
    """Simulate micrographs of a structure, a map or a phantom; views are uniform and continuous.

    Example:
        unpicked simulate micrographs --out sim --structure 5pti.cif --box 11 --voxel 5 --size 512 --energy 424

    Parameters
    ----------
    box
        Edge of a particle image in pixels.
    count
        Number of micrographs.
    size
        Height and width in pixels, or one number for both.
    density
        Covered fraction: copies x box^2 / pixels.
    spacing
        Least distance of copies: separated (2 box - 1 pixels) or arbitrary (box pixels).
    positions
        Whole pixels, as published, or continuous.
    contrast
        Sign of the written files: matter dark, as a microscope writes, or bright.
    b_factor
        Temperature factor of all atoms in square angstrom.
    """
    common.begin()
    noise, shape = level.needed(), height_and_width(size)
    from unpicked.simulate.micrographs import simulate_micrographs

    specimen, notes = seen.specimen(box, b_factor, common.seed)
    data, simulation = simulate_micrographs(
        specimen,
        count=count,
        size=shape,
        density=density,
        noise=noise,
        seed=common.seed,
        spacing=spacing,
        sub_pixel=positions == "continuous",
    )
    for index in range(count):
        simulation.occurrences(index)  # fails where the copies do not fit, before anything is written
    claim(output.out, overwrite=output.overwrite)
    _write(output.out, data, simulation, contrast, common)
    facts = write_facts(output.out / "truth.json", {**simulation.facts(), "contrast": contrast})
    for note in notes:
        common.say(note)
    common.say(
        f"{len(data)} micrographs of {data.shape[0]} x {data.shape[1]} pixels of {data.pixel_size:g} A; "
        f"{facts['occurrences']} particles at density {simulation.density:.4f}, E = {facts['energy']:.1f} per particle"
    )
    return common.end(facts)


def _write(
    folder: Path, data: Micrographs, simulation: Simulation, contrast: Literal["dark", "bright"], common: Common
) -> None:
    """Micrographs, and the true positions, poses and map."""
    from unpicked.io import mrc, star_layouts

    (folder / "micrographs").mkdir(exist_ok=True)
    paths = [f"micrographs/{name}" for name in data.names]
    for index, path in enumerate(paths):
        mrc.write_image(data[index], folder / path, data.pixel_size, contrast=contrast)
        common.say(f"{folder / path}: {simulation.per_micrograph} particles")
    star_layouts.write_micrographs_star(folder / "micrographs.star", paths, data.pixel_size)
    _write_truth(simulation, paths, folder / "truth.star")
    mrc.write_map(simulation.specimen.truth(), folder / "truth.mrc")


def _write_truth(simulation: Simulation, paths: list[str], path: Path) -> None:
    """Centres (x, y) in pixels from 0, and poses, of every copy, as a RELION STAR file."""
    from unpicked.io import star_layouts

    where = [simulation.occurrences(index) for index in range(len(simulation))]
    half = simulation.specimen.box // 2
    centres = [
        copies.corners.flip(-1).double() + half + simulation.offsets(index) for index, copies in enumerate(where)
    ]
    star_layouts.write_particles_star(
        path,
        [name for name, copies in zip(paths, where, strict=True) for _ in range(len(copies))],
        torch.cat(centres),
        torch.cat([copies.rotations for copies in where]),
        simulation.specimen.voxel_size,
        simulation.specimen.box,
    )
