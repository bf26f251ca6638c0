"""``unpicked simulate particles``: a stack of particle images with known truth."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unpicked._lazy import torch
from unpicked.cli.common import Common, Output, claim, write_facts
from unpicked.cli.specimens import Level, Microscope, Seen, given, refuse

if TYPE_CHECKING:
    from unpicked.data.particles import Particles
    from unpicked.data.snr import NoiseLevel
    from unpicked.simulate.particles import ParticleSimulation

STRUCTURE = "4ake_dimer_workshop.pdb"  # of the shared data: 4AKE, both chains


def simulate(
    *,
    output: Output,
    dataset: str | None = None,
    seen: Seen = Seen(),
    box: int = 128,
    count: int = 10_000,
    held: int | None = None,
    level: Level = Level(),
    clean: bool = False,
    microscope: Microscope = Microscope(),
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
    box
        Edge of an image in pixels.
    count
        Number of images.
    held
        Number of images held out of the fit, the last ones; none if not given, of a dataset one in ten.
    clean
        No noise.
    max_shift
        Shifts are uniform in a disc of this radius, angstrom; 0 if not given.
    contrast
        Sign of the written stack: matter bright, as stacks are by custom, or dark.
    b_factor
        Temperature factor of all atoms in square angstrom; 60 if not given, of a dataset 20.
    """
    common.begin()
    if clean:
        refuse(given(level), "give --clean or one noise level, not both; got --clean and {}")
    held = _held(box, count, held, dataset is not None)
    if dataset is not None:
        free = {"max_shift": max_shift, "b_factor": b_factor}
        told = [*given(seen), *given(microscope), *(name for name, value in free.items() if value is not None)]
        refuse((name for name in told if name != "structure"), "--dataset fixes what {} says; give one of them")
        data, simulation, notes = _dataset(dataset, seen.structure, level.found(), count, box, common.seed)
    else:
        noise = None if clean else level.needed(", or --clean")
        lens = {**microscope.settings(), "max_shift": max_shift or 0.0}
        warm = 60.0 if b_factor is None else b_factor
        data, simulation, notes = _own(seen, box, warm, count, noise, common.seed, lens)
    facts: dict[str, Any] = {} if dataset is None else {"dataset": dataset}
    facts |= {**simulation.facts(), "fit": count - held, "held": held, "contrast": contrast}
    claim(output.out, overwrite=output.overwrite)
    _write(output.out, data, simulation, held, contrast, common)
    facts = write_facts(output.out / "truth.json", facts)
    for note in notes:
        common.say(note)
    kind = "no noise" if simulation.sigma == 0 else f"E = {facts['energy']:.1f} per image, {facts['snr_db']:.1f} dB"
    shape = f"{len(data)} images of {data.box} x {data.box} pixels of {data.pixel_size:g} A"
    common.say(f"{shape} in {output.out}, {count - held} to fit and {held} held out; {kind}")
    return common.end(facts)


def _own(
    seen: Seen, box: int, b_factor: float, count: int, noise: NoiseLevel | None, seed: int, lens: Mapping[str, Any]
) -> tuple[Particles, ParticleSimulation, tuple[str, ...]]:
    """Images of what is asked for."""
    from unpicked.simulate.particles import simulate_particles

    specimen, notes = seen.specimen(box, b_factor, seed)
    return *simulate_particles(specimen, count=count, noise=noise, seed=seed, **lens), notes


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
    from unpicked.io import mrc, star_layouts
    from unpicked.io.stacks import write_stack_of
    from unpicked.simulate.particles import in_order

    count = len(data)
    images = _watched(in_order(data, torch.get_num_threads()), count, common)
    write_stack_of(images, folder / "particles.mrcs", count, data.pixel_size, contrast=contrast)
    star_layouts.write_stack_star(
        folder / "truth.star", data.names, data.pixel_size, data.box, optics=data.optics, poses=simulation.poses()
    )
    parts = {"particles.star": range(count - held), "held.star": range(count - held, count)}
    for name, part in parts.items():
        if part:
            some = data.part(part)
            star_layouts.write_stack_star(folder / name, some.names, some.pixel_size, some.box, optics=some.optics)
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
