"""``unpicked simulate``: data with known truth, written as a microscope would."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unpicked._lazy import torch
from unpicked.cli.common import Common, Output, claim, height_and_width, write_facts
from unpicked.data import snr

if TYPE_CHECKING:
    from unpicked.data.micrographs import Micrographs
    from unpicked.simulate.micrographs import Simulation, Specimen


def micrographs(
    *,
    output: Output,
    structure: Path | None = None,
    map: Path | None = None,
    phantom: Literal["shepp-logan", "beads"] | None = None,
    map_voxel: float | None = None,
    box: int = 11,
    voxel: float | None = None,
    count: int = 4,
    size: tuple[int, ...] = (1024,),
    density: float = 0.1,
    energy: float | None = None,
    snr_box: float | None = None,
    snr_disc: float | None = None,
    snr_db: float | None = None,
    sigma: float | None = None,
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
    structure
        PDB or mmCIF file to put into the micrographs.
    map
        MRC map to put into the micrographs.
    phantom
        Built-in object to put into the micrographs: Shepp-Logan's, or a chain of beads drawn from --seed (box 7 or 11).
    map_voxel
        Voxel size of the map in angstrom, where its header has none.
    box
        Edge of a particle image in pixels.
    voxel
        Pixel size of the micrographs in angstrom; chosen so that the object fills the box if not given.
    count
        Number of micrographs.
    size
        Height and width in pixels, or one number for both.
    density
        Covered fraction: copies x box^2 / pixels.
    energy
        Noise level by the energy per particle: mean sum of squares of a clean image over sigma^2.
    snr_box
        Noise level by energy / box^2.
    snr_disc
        Noise level by energy / (pi floor(box / 2)^2).
    snr_db
        Noise level by 10 log10(variance of the clean image in its box / sigma^2).
    sigma
        Noise level by its standard deviation per pixel.
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
    level = noise_level(energy=energy, snr_box=snr_box, snr_disc=snr_disc, snr_db=snr_db, sigma=sigma)
    shape = height_and_width(size)
    if box < 4:
        raise ValueError(f"--box must be at least 4 pixels; got {box}")
    from unpicked.simulate.micrographs import simulate_micrographs

    specimen, notes = shown(structure, map, map_voxel, phantom, box, voxel, b_factor, common.seed)
    data, simulation = simulate_micrographs(
        specimen,
        count=count,
        size=shape,
        density=density,
        noise=level,
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


def shown(
    structure: Path | None,
    map: Path | None,
    map_voxel: float | None,
    phantom: str | None,
    box: int,
    voxel: float | None,
    b_factor: float,
    seed: int,
) -> tuple[Specimen, tuple[str, ...]]:
    """The specimen that the options name, and what was noted in reading it."""
    for name, value in (("--voxel", voxel), ("--b-factor", b_factor)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number; got {value}")
    given = [name for name, value in (("--structure", structure), ("--map", map), ("--phantom", phantom)) if value]
    if len(given) != 1:
        raise ValueError(f"give exactly one of --structure, --map and --phantom; got {' and '.join(given) or 'none'}")
    if structure is not None:
        return _of_structure(structure, box, voxel, b_factor)
    if map is not None:
        return _of_map(map, map_voxel, box, voxel), ()
    return _of_phantom(phantom, box, voxel, seed), ()


def _of_structure(path: Path, box: int, voxel: float | None, b_factor: float) -> tuple[Specimen, tuple[str, ...]]:
    """The specimen of a structure, and what was noted in reading it."""
    from unpicked.io.structure import read_structure
    from unpicked.simulate.specimens import specimen_from_structure

    atoms = read_structure(path)
    return specimen_from_structure(atoms, box, voxel, b_factor=b_factor), atoms.notes


def _of_map(path: Path, map_voxel: float | None, box: int, voxel: float | None) -> Specimen:
    from unpicked.io import mrc
    from unpicked.simulate.specimens import specimen_from_map

    return specimen_from_map(mrc.read_map(path, voxel_size=map_voxel), box, voxel)


def _of_phantom(name: str | None, box: int, voxel: float | None, seed: int) -> Specimen:
    from unpicked.simulate.phantom import bead_chain, shepp_logan
    from unpicked.simulate.specimens import specimen_from_map

    if name == "beads":
        return bead_chain(box, seed, voxel_size=voxel or 1.0)
    return specimen_from_map(shepp_logan(4 * box, (voxel or 1.0) / 4), box, voxel)


def _write(
    folder: Path, data: Micrographs, simulation: Simulation, contrast: Literal["dark", "bright"], common: Common
) -> None:
    """Micrographs, and the true positions, poses and map."""
    from unpicked.io import mrc, star

    (folder / "micrographs").mkdir(exist_ok=True)
    paths = [f"micrographs/{name}" for name in data.names]
    for index, path in enumerate(paths):
        mrc.write_image(data[index], folder / path, data.pixel_size, contrast=contrast)
        common.say(f"{folder / path}: {simulation.per_micrograph} particles")
    star.write_micrographs_star(folder / "micrographs.star", paths, data.pixel_size)
    _write_truth(simulation, paths, folder / "truth.star")
    mrc.write_map(simulation.specimen.truth(), folder / "truth.mrc")


def _write_truth(simulation: Simulation, paths: list[str], path: Path) -> None:
    """Centres (x, y) in pixels from 0, and poses, of every copy, as a RELION STAR file."""
    from unpicked.io import star

    where = [simulation.occurrences(index) for index in range(len(simulation))]
    half = simulation.specimen.box // 2
    centres = [
        copies.corners.flip(-1).double() + half + simulation.offsets(index) for index, copies in enumerate(where)
    ]
    star.write_particles_star(
        path,
        [name for name, copies in zip(paths, where, strict=True) for _ in range(len(copies))],
        torch.cat(centres),
        torch.cat([copies.rotations for copies in where]),
        simulation.specimen.voxel_size,
        simulation.specimen.box,
    )


def noise_level(**kinds: float | None) -> snr.NoiseLevel:
    """The one noise level that the options give."""
    given = {kind: value for kind, value in kinds.items() if value is not None}
    if len(given) != 1:
        options = ", ".join("--" + kind.replace("_", "-") for kind in kinds)
        raise ValueError(f"give exactly one noise level of {options}; got {len(given)}")
    kind, value = next(iter(given.items()))
    return {
        "energy": snr.energy,
        "snr_box": snr.snr_box,
        "snr_disc": snr.snr_disc,
        "snr_db": snr.snr_db,
        "sigma": snr.sigma,
    }[kind](value)
