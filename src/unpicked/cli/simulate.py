"""``unpicked simulate``: data with known truth, written as a microscope would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unpicked._lazy import torch
from unpicked.cli.common import Common, Output, claim, height_and_width, write_facts
from unpicked.cli.specimens import LEVELS, Field, Level, Microscope, Physical, Preferred, Seen, option

if TYPE_CHECKING:
    from unpicked.data.micrographs import Micrographs
    from unpicked.data.optics import Optics
    from unpicked.simulate.contamination import TrueMasks
    from unpicked.simulate.exposure import Exposure
    from unpicked.simulate.micrographs import Simulation, Specimen
    from unpicked.simulate.noise import Colour


def micrographs(
    *,
    output: Output,
    seen: Seen = Seen(),
    box: int = 11,
    field: Field = Field(),
    level: Level = Level(),
    contrast: Literal["dark", "bright"] = "dark",
    b_factor: float = 60.0,
    microscope: Microscope = Microscope(),
    noise: str = "white",
    physical: Physical = Physical(),
    preferred: Preferred = Preferred(),
    common: Common = Common(),
) -> int:
    """Simulate micrographs of a structure, a map or a phantom; views are continuous, and uniform if not preferred.

    Example:
        unpicked simulate micrographs --out sim --structure 5pti.cif --box 11 --voxel 5 --size 512 --energy 424

    Parameters
    ----------
    box
        Edge of a particle image in pixels.
    contrast
        Sign of the written files: matter dark, as a microscope writes, or bright.
    b_factor
        Temperature factor of all atoms in square angstrom.
    noise
        Spectrum of the noise: white, coloured (power 1 + 3 exp(-(s / 0.15 Nyquist)^2)), ar:A, 1/f, or an MRC file of
        a micrograph, whose spectrum it takes.
    """
    common.begin()
    exposed = physical.settings()
    if exposed:
        microscope, exposure = _exposure(exposed, level, noise, microscope)
        specimen, truth, notes = _in_ice(seen, box, b_factor, exposed["pixel"], exposure)
        strength = None
    else:
        strength, exposure = level.needed(), None
        specimen, notes = seen.specimen(box, b_factor, common.seed)
        truth = specimen
    law = {"noise": strength, "colour": _colour(noise), "exposure": exposure, "preference": preferred.found()}
    data, simulation, masks = _simulated(specimen, field, microscope, common.seed, law)
    claim(output.out, overwrite=output.overwrite)
    _write(output.out, data, simulation, truth, contrast, common)
    told = {**simulation.facts(), "contrast": contrast}
    if masks is not None:
        _write_masks(output.out / "masks", data, masks, common)
        told |= {"contamination": field.contamination}
    if exposed:
        told |= {"voxel_size": truth.voxel_size, "box": truth.box, "pixel_size": data.pixel_size, "physical": exposed}
    facts = write_facts(output.out / "truth.json", told)
    for note in notes:
        common.say(note)
    common.say(
        f"{len(data)} micrographs of {data.shape[0]} x {data.shape[1]} pixels of {data.pixel_size:g} A; "
        f"{facts['occurrences']} particles at density {simulation.density:.4f}, E = {facts['energy']:.1f} per particle"
    )
    return common.end(facts)


def _simulated(
    specimen: Specimen, field: Field, microscope: Microscope, seed: int, law: Mapping[str, Any]
) -> tuple[Micrographs, Simulation, TrueMasks | None]:
    """Micrographs, what is known of them, and where carbon and ice lie on them.

    Raises:
        ValueError: where the copies do not fit.
    """
    from unpicked.simulate.contamination import contaminated
    from unpicked.simulate.micrographs import simulate_micrographs

    data, simulation = simulate_micrographs(
        specimen,
        count=field.count,
        size=height_and_width(field.size),
        density=field.density,
        seed=seed,
        spacing=field.spacing,
        sub_pixel=field.positions == "continuous",
        optics=_optics(microscope, field.count, seed),
        **law,
    )
    for index in range(field.count):
        simulation.occurrences(index)  # they are drawn when asked for
    if field.contamination is None:
        return data, simulation, None
    data, masks = contaminated(data, field.contamination, seed)
    return data, simulation, masks


def _exposure(asked: dict[str, float], level: Level, noise: str, microscope: Microscope) -> tuple[Microscope, Exposure]:
    """How electrons are counted, and through which microscope: 1 um of defocus if none is given.

    Raises:
        ValueError: for a noise level or spectrum, which electrons bring themselves.
    """
    from unpicked.simulate.exposure import Exposure

    if level.found() is not None or noise != "white":
        named = "--noise" if level.found() is None else option(next(n for n in LEVELS if getattr(level, n) is not None))
        raise ValueError(f"{named} cannot be given with --physical: electrons and ice bring their own noise")
    seen = replace(microscope, ctf=True, defocus=microscope.defocus or (10000.0, 10000.0))
    told = {name: value for name, value in asked.items() if name != "pixel"}
    return seen, Exposure(**told, voltage_kv=microscope.voltage or 300.0)


def _in_ice(
    seen: Seen, box: int, b_factor: float, pixel: float, exposure: Exposure
) -> tuple[Specimen, Specimen, tuple[str, ...]]:
    """A protein in ice at the files' pixel, the truth at the working voxel, and what was noted in reading it."""
    from unpicked.io.structure import read_structure
    from unpicked.simulate.exposure import in_ice
    from unpicked.simulate.micrographs import Specimen
    from unpicked.simulate.specimens import specimen_from_structure

    if seen.structure is None or seen.voxel is None:
        raise ValueError(
            "--physical needs --structure and --voxel: the scattering of atoms, and the voxel of the truth"
        )
    if 2 * pixel > seen.voxel:
        raise ValueError(f"--pixel must be at most half of --voxel, {seen.voxel / 2:g} A; got {pixel:g}")
    _, notes = seen.specimen(box, b_factor, 0)  # all that can be wrong with what is asked for
    atoms = read_structure(seen.structure)
    edge = 2 * round(box * seen.voxel / pixel / 2)
    object, x = in_ice(atoms, pixel, edge, exposure, b_factor=b_factor)
    truth = specimen_from_structure(atoms, box, seen.voxel, b_factor=b_factor)
    return Specimen(object, x, edge, pixel), truth, notes


def _optics(microscope: Microscope, count: int, seed: int) -> Optics | None:
    """Of every micrograph, as the options say."""
    told = microscope.settings()
    if not told:
        return None
    from unpicked.simulate.optics import draw_optics, drawn

    shared = {
        "voltage_kv": told.get("voltage", 300.0),
        "cs_mm": told.get("cs", 2.7),
        "amplitude_contrast": told.get("amplitude_contrast", 0.1),
        "phase_shift": told.get("phase_shift", 0.0),
    }
    groups = told.get("ctf_groups")
    return draw_optics(count, groups, told["defocus"], told.get("astigmatism", 0.0), shared, drawn(seed))


def _colour(name: str) -> Colour:
    """The spectrum of the noise, or that of a micrograph in a file."""
    from unpicked.simulate.noise import colour, measured

    path = Path(name)
    if path.suffix.lower() not in (".mrc", ".mrcs", ".map"):
        return colour(name)
    from unpicked.io.micrographs import read_micrographs
    from unpicked.whitening import spectrum

    image = read_micrographs([path], pixel_size=1.0)[0]
    return measured(f"spectrum of {path.name}", spectrum(image))


def _write(
    folder: Path,
    data: Micrographs,
    simulation: Simulation,
    truth: Specimen,
    contrast: Literal["dark", "bright"],
    common: Common,
) -> None:
    """Micrographs, and the true positions, poses and map."""
    from unpicked.io import mrc, star_layouts

    (folder / "micrographs").mkdir(exist_ok=True)
    paths = [f"micrographs/{name}" for name in data.names]
    for index, path in enumerate(paths):
        mrc.write_image(data[index], folder / path, data.pixel_size, contrast=contrast)
        common.say(f"{folder / path}: {simulation.per_micrograph} particles")
    star_layouts.write_micrographs_star(folder / "micrographs.star", paths, data.pixel_size, optics=data.optics)
    _write_truth(simulation, paths, folder / "truth.star")
    mrc.write_map(truth.truth(), folder / "truth.mrc")


def _write_masks(folder: Path, data: Micrographs, masks: TrueMasks, common: Common) -> None:
    """One mask per micrograph, of its name: 1 where something lies on it."""
    from unpicked.io import mrc

    folder.mkdir(exist_ok=True)
    for index, name in enumerate(data.names):
        mrc.write_image((~masks.read(index)).float(), folder / name, data.pixel_size)
    common.say(f"{folder}: where carbon and ice lie, one mask per micrograph")


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
