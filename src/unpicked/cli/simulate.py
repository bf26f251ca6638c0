"""``unpicked simulate``: data with known truth, written as a microscope would."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unpicked._lazy import torch
from unpicked.cli.common import Common, Output, claim, write_text
from unpicked.data import snr

if TYPE_CHECKING:
    from unpicked.simulate.micrographs import Simulation


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
    level = _level(energy=energy, snr_box=snr_box, snr_disc=snr_disc, snr_db=snr_db, sigma=sigma)
    if len(size) not in (1, 2):
        raise ValueError(f"--size must be one or two lengths in pixels; got {len(size)}")
    if box < 4:
        raise ValueError(f"--box must be at least 4 pixels; got {box}")
    for name, value in (("--voxel", voxel), ("--b-factor", b_factor)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number; got {value}")
    from unpicked.data.maps import Map
    from unpicked.io import mrc, star
    from unpicked.io.structure import read_structure
    from unpicked.simulate.micrographs import simulate_micrographs
    from unpicked.simulate.phantom import bead_chain, shepp_logan
    from unpicked.simulate.specimens import specimen_from_map, specimen_from_structure

    given = [name for name, value in (("--structure", structure), ("--map", map), ("--phantom", phantom)) if value]
    if len(given) != 1:
        raise ValueError(f"give exactly one of --structure, --map and --phantom; got {' and '.join(given) or 'none'}")
    notes: tuple[str, ...] = ()
    if structure is not None:
        atoms = read_structure(structure)
        notes = atoms.notes
        specimen = specimen_from_structure(atoms, box, voxel, b_factor=b_factor)
    elif phantom == "beads":
        specimen = bead_chain(box, common.seed, voxel_size=voxel or 1.0)
    else:
        source: Map = (
            mrc.read_map(map, voxel_size=map_voxel) if map is not None else shepp_logan(4 * box, (voxel or 1.0) / 4)
        )
        specimen = specimen_from_map(source, box, voxel)
    data, simulation = simulate_micrographs(
        specimen,
        count=count,
        size=(size[0], size[-1]),
        density=density,
        noise=level,
        seed=common.seed,
        spacing=spacing,
        sub_pixel=positions == "continuous",
    )
    for index in range(count):
        simulation.occurrences(index)  # fails where the copies do not fit, before anything is written
    folder = output.out
    claim(folder, overwrite=output.overwrite)
    (folder / "micrographs").mkdir(exist_ok=True)
    paths = [f"micrographs/{name}" for name in data.names]
    for index, path in enumerate(paths):
        mrc.write_image(data[index], folder / path, data.pixel_size, contrast=contrast)
        if not common.quiet:
            common.say(f"{folder / path}: {simulation.per_micrograph} particles")
    star.write_micrographs_star(folder / "micrographs.star", paths, data.pixel_size)
    _write_truth(simulation, paths, folder / "truth.star")
    mrc.write_map(specimen.truth(), folder / "truth.mrc")
    facts: dict[str, float | int | str | None] = {**simulation.facts(), "contrast": contrast}
    facts = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in facts.items()}
    write_text(folder / "truth.json", json.dumps(facts, indent=2, allow_nan=False) + "\n")
    for note in notes:
        common.say(note)
    common.say(
        f"{len(data)} micrographs of {data.shape[0]} x {data.shape[1]} pixels of {data.pixel_size:g} A; "
        f"{facts['occurrences']} particles at density {simulation.density:.4f}, E = {facts['energy']:.1f} per particle"
    )
    if common.json:
        print(json.dumps(facts))
    return 0


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


def _level(**kinds: float | None) -> snr.NoiseLevel:
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
