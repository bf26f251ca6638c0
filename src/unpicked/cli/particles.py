"""``unpicked simulate particles``: a stack of particle images with known truth."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unpicked._lazy import torch
from unpicked.cli.common import Common, Output, claim, write_facts
from unpicked.cli.simulate import noise_level, shown

if TYPE_CHECKING:
    from unpicked.data.particles import Particles
    from unpicked.data.snr import NoiseLevel
    from unpicked.simulate.particles import ParticleSimulation

STRUCTURE = "4ake_dimer_workshop.pdb"  # of the shared data: 4AKE, both chains


def simulate(
    *,
    output: Output,
    dataset: str | None = None,
    structure: Path | None = None,
    map: Path | None = None,
    phantom: Literal["shepp-logan", "beads"] | None = None,
    map_voxel: float | None = None,
    box: int = 128,
    voxel: float | None = None,
    count: int = 10_000,
    held: int | None = None,
    energy: float | None = None,
    snr_box: float | None = None,
    snr_disc: float | None = None,
    snr_db: float | None = None,
    sigma: float | None = None,
    clean: bool = False,
    ctf: bool = False,
    defocus: tuple[float, float] | None = None,
    ctf_groups: int | None = None,
    astigmatism: float | None = None,
    voltage: float | None = None,
    cs: float | None = None,
    amplitude_contrast: float | None = None,
    phase_shift: float | None = None,
    max_shift: float | None = None,
    contrast: Literal["bright", "dark"] = "bright",
    b_factor: float | None = None,
    common: Common = Common(),
) -> int:
    """Simulate a stack of particle images; uniform continuous views, padded contrast transfer, noise last.

    Writes particles.mrcs, particles.star (contrast transfer, no poses), truth.star (with poses), truth.mrc, truth.json.
    Images that are held out of the fit are the last of the stack: particles.star lists the others, held.star lists
    them, truth.star lists all. Of a dataset one image in ten is held out: 9,000 to fit and 1,000 of 10,000.

    Example:
        unpicked simulate particles --out sim --structure 5pti.cif --box 64 --voxel 1 --count 1000 --snr-db 0 --ctf

    Parameters
    ----------
    dataset
        A set of Nashed et al. (2021), 4AKE at 128 pixels of 0.8 A: A (clean), B to F (10, 5, 0, -5, -10 dB), G (0 dB,
        defocus 0.4 to 1.2 um); or H (-20 dB, the same defocus, shifts up to 8 A), M (chain A alone, clean unless a
        noise level is given). A smaller --box sees the same field with coarser pixels, as Fourier-cropped images.
    structure
        PDB or mmCIF file that is seen; for a dataset 4AKE, sought in the shared data (UNPICKED_SHARED) if not given.
    map
        MRC map that is seen.
    phantom
        Built-in object that is seen: Shepp-Logan's, or a chain of beads drawn from --seed (box 7 or 11).
    map_voxel
        Voxel size of the map in angstrom, where its header has none.
    box
        Edge of an image in pixels.
    voxel
        Pixel size in angstrom; chosen so that the object fills the box if not given.
    count
        Number of images.
    held
        Number of images held out of the fit, the last ones; none if not given, of a dataset one in ten.
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
    clean
        No noise.
    ctf
        Images are seen through a microscope.
    defocus
        Least and largest defocus in angstrom, underfocus positive; 4000 12000 if not given.
    ctf_groups
        Number of different defocus settings; one per image if not given.
    astigmatism
        Difference of the two defocus values in angstrom, at random angles; 0 if not given.
    voltage
        Acceleration voltage in kV; 300 if not given.
    cs
        Spherical aberration in mm; 2.7 if not given.
    amplitude_contrast
        Fraction in [0, 1]; 0.1 if not given.
    phase_shift
        Of a phase plate, in degrees; 0 if not given.
    max_shift
        Shifts are uniform in a disc of this radius, angstrom; 0 if not given.
    contrast
        Sign of the written stack: matter bright, as stacks are by custom, or dark.
    b_factor
        Temperature factor of all atoms in square angstrom; 60 if not given, of a dataset 20.
    """
    common.begin()
    levels = {"energy": energy, "snr_box": snr_box, "snr_disc": snr_disc, "snr_db": snr_db, "sigma": sigma}
    level = _level(levels, clean, dataset is not None)
    held = _held(box, count, held, dataset is not None)
    microscope: dict[str, Any] = {
        "defocus": defocus, "ctf_groups": ctf_groups, "astigmatism": astigmatism, "voltage": voltage, "cs": cs,
        "amplitude_contrast": amplitude_contrast, "phase_shift": phase_shift,
    }  # fmt: skip
    microscope = {name: value for name, value in microscope.items() if value is not None}
    facts: dict[str, Any] = {}
    if dataset is not None:
        fixed = {"map": map, "phantom": phantom, "map_voxel": map_voxel, "voxel": voxel, "ctf": ctf or None,
                 "max_shift": max_shift, "b_factor": b_factor, **microscope}  # fmt: skip
        if given := [name for name, value in fixed.items() if value is not None]:
            raise ValueError(f"--dataset fixes what {_option(given[0])} says; give one of them")
        data, simulation, notes = _dataset(dataset, structure, level, count, box, common.seed)
        facts["dataset"] = dataset
    else:
        if microscope and not ctf:
            raise ValueError(f"{_option(next(iter(microscope)))} needs --ctf")
        if ctf:
            microscope.setdefault("defocus", (4000.0, 12000.0))
        from unpicked.simulate.particles import simulate_particles

        atoms = 60.0 if b_factor is None else b_factor
        specimen, notes = shown(structure, map, map_voxel, phantom, box, voxel, atoms, common.seed)
        data, simulation = simulate_particles(
            specimen, count=count, noise=level, seed=common.seed, max_shift=max_shift or 0.0, **microscope
        )
    facts |= {**simulation.facts(), "fit": count - held, "held": held, "contrast": contrast}
    claim(output.out, overwrite=output.overwrite)
    _write(output.out, data, simulation, held, contrast, common)
    facts = write_facts(output.out / "truth.json", facts)
    for note in notes:
        common.say(note)
    common.say(
        f"{len(data)} images of {data.box} x {data.box} pixels of {data.pixel_size:g} A in {output.out}, "
        f"{count - held} to fit and {held} held out; "
        + ("no noise" if simulation.sigma == 0 else f"E = {facts['energy']:.1f} per image, {facts['snr_db']:.1f} dB")
    )
    return common.end(facts)


def _level(levels: dict[str, float | None], clean: bool, dataset: bool) -> NoiseLevel | None:
    """The noise level that was asked for; None for none, or for that of a dataset.

    Raises:
        ValueError: for several, or for none where there is no dataset.
    """
    told = [name for name, value in levels.items() if value is not None]
    if clean and told:
        raise ValueError(f"give --clean or one noise level, not both; got --clean and {_option(told[0])}")
    if len(told) > 1:
        raise ValueError(f"give exactly one noise level; got {' and '.join(_options(told))}")
    if not (told or clean or dataset):
        raise ValueError(f"give exactly one noise level of {', '.join(_options(levels))}, or --clean; got none")
    return noise_level(**levels) if told else None


def _held(box: int, count: int, held: int | None, dataset: bool) -> int:
    """Number of images that are held out; ValueError for sizes that cannot be."""
    if box < 4:
        raise ValueError(f"--box must be at least 4 pixels; got {box}")
    if count < 1:
        raise ValueError(f"--count must be at least 1; got {count}")
    held = (count // 10 if dataset else 0) if held is None else held
    if not 0 <= held < count:
        raise ValueError(f"--held must lie between 0 and one less than --count, {count - 1}; got {held}")
    return held


def _options(names: Any) -> list[str]:
    return [_option(name) for name in names]


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _dataset(
    name: str, structure: Path | None, noise: NoiseLevel | None, count: int, box: int, seed: int
) -> tuple[Particles, ParticleSimulation, tuple[str, ...]]:
    from unpicked.io.structure import read_structure
    from unpicked.simulate.datasets import DATASETS, dataset

    if name not in DATASETS:
        raise ValueError(f"--dataset must be one of {', '.join(DATASETS)}; got {name!r}")
    atoms = read_structure(_found() if structure is None else structure)
    data, simulation = dataset(name, atoms, count=count, box=box, seed=seed, noise=noise)
    return data, simulation, atoms.notes


def _found() -> Path:
    """4AKE in the shared data: folder UNPICKED_SHARED, else ../shared."""
    root = Path(os.environ.get("UNPICKED_SHARED", "../shared"))
    for path in (root / "data" / "structures" / STRUCTURE, root / "structures" / STRUCTURE):
        if path.exists():
            return path
    raise ValueError(
        f"--dataset needs the structure 4AKE (both chains), which is not shipped; {STRUCTURE} was not found in "
        f"{root}/data/structures; give --structure FILE.pdb, or set UNPICKED_SHARED"
    )


def _write(
    folder: Path,
    data: Particles,
    simulation: ParticleSimulation,
    held: int,
    contrast: Literal["bright", "dark"],
    common: Common,
) -> None:
    """The stack, the list of images to fit and of those held out, true poses and map."""
    from unpicked.io import mrc, star
    from unpicked.io.stacks import write_stack_of
    from unpicked.simulate.particles import in_order

    count = len(data)
    images = _watched(in_order(data, torch.get_num_threads()), count, common)
    write_stack_of(images, folder / "particles.mrcs", count, data.pixel_size, contrast=contrast)
    star.write_stack_star(
        folder / "truth.star", data.names, data.pixel_size, data.box, optics=data.optics, poses=simulation.poses()
    )
    parts = {"particles.star": range(count - held), "held.star": range(count - held, count)}
    for name, part in parts.items():
        if part:
            some = data.part(part)
            star.write_stack_star(folder / name, some.names, some.pixel_size, some.box, optics=some.optics)
    mrc.write_map(simulation.truth(), folder / "truth.mrc")


def _watched(images: Iterator[torch.Tensor], count: int, common: Common) -> Iterator[torch.Tensor]:
    """The images, and a line of progress on standard error every ten seconds."""
    began = told = time.perf_counter()
    for done, image in enumerate(images, start=1):
        yield image
        now = time.perf_counter()
        if now - told > 10 and not common.quiet:
            told, rate = now, done / (now - began)
            print(
                f"{done} of {count} images, {rate:.0f} per second, {(count - done) / rate:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
