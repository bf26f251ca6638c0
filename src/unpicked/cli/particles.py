"""``unpicked simulate particles`` and ``unpicked reconstruct particles``: stacks of particle images."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from unpicked._lazy import torch
from unpicked.cli import runs
from unpicked.cli.common import Common, Output, claim, write_facts
from unpicked.cli.simulate import noise_level, phantom_specimen, specimen_of_map
from unpicked.recipes.particles import ParticleJob

if TYPE_CHECKING:
    from unpicked.data.particles import Particles
    from unpicked.data.poses import Poses
    from unpicked.recipes.particles import ParticleAnswer
    from unpicked.simulate.datasets import Dataset
    from unpicked.simulate.micrographs import Specimen
    from unpicked.simulate.particles import Molecule, ParticleSimulation

FILE = "structures/4ake_dimer_workshop.pdb"
Name = Literal["A", "B", "C", "D", "E", "F", "G", "H", "M"]


def simulate(
    *,
    output: Output,
    dataset: Name | None = None,
    structure: Path | None = None,
    map: Path | None = None,
    phantom: Literal["shepp-logan", "beads"] | None = None,
    map_voxel: float | None = None,
    box: int | None = None,
    voxel: float | None = None,
    count: int | None = None,
    held: int | None = None,
    energy: float | None = None,
    snr_box: float | None = None,
    snr_disc: float | None = None,
    snr_db: float | None = None,
    sigma: float | None = None,
    clean: bool = False,
    ctf: bool = False,
    defocus: tuple[float, float] = (4000.0, 12000.0),
    ctf_groups: int = 0,
    astigmatism: float = 0.0,
    voltage: float = 300.0,
    cs: float = 2.7,
    amplitude_contrast: float = 0.1,
    phase_shift: float = 0.0,
    max_shift: float = 0.0,
    b_factor: float = 20.0,
    common: Common = Common(),
) -> int:
    """Simulate a stack of particle images; views are uniform and continuous, atoms are projected exactly.

    Data sets A to G are those of Nashed et al. (2021): 4AKE, both chains, 10,000 images of 128 pixels of 0.8 angstrom,
    A without noise, B to F at 10, 5, 0, -5 and -10 dB, G at 0 dB with contrast transfer of 0.4 to 1.2 um. H is -20 dB
    with contrast transfer and shifts, M is A of chain A alone. The last tenth of the images is for testing: held.star.

    Example:
        unpicked simulate particles --out sim --structure 5pti.cif --box 32 --voxel 2 --count 1000 --snr-db 0

    Parameters
    ----------
    dataset
        Published data set; --structure then names the file of 4AKE, where it is not in the shared data folder
        (UNPICKED_SHARED). --box, --count, --held and --seed may differ; another box covers the same field of view.
    structure
        PDB or mmCIF file.
    map
        MRC map.
    phantom
        Built-in object.
    map_voxel
        Voxel size of the map in angstrom, where its header has none.
    box
        Edge of an image in pixels; 64 if not given.
    voxel
        Pixel size in angstrom; chosen so that the object fills the box if not given.
    count
        Number of images; 1,000 if not given.
    held
        So many of the last images go to held.star; none if not given.
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
        Apply a contrast transfer function, on a padded image.
    defocus
        Least and largest, angstrom, underfocus positive.
    ctf_groups
        So many values of defocus; every image has its own if 0.
    astigmatism
        Difference of the two defoci in angstrom, at random angles.
    voltage
        Of the microscope, kV.
    cs
        Spherical aberration, mm.
    amplitude_contrast
        Part of the contrast, 0 to 1.
    phase_shift
        Of a phase plate, degrees.
    max_shift
        Farthest that a particle's centre lies from that of its image, angstrom.
    b_factor
        Temperature factor of all atoms in square angstrom.
    """
    common.begin()
    from unpicked.simulate import datasets
    from unpicked.simulate.particles import Lens, simulate_particles

    levels = {"energy": energy, "snr_box": snr_box, "snr_disc": snr_disc, "snr_db": snr_db, "sigma": sigma}
    for name, value in (("--voxel", voxel), ("--b-factor", b_factor)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number; got {value}")
    notes: tuple[str, ...] = ()
    subject: Molecule | Specimen
    if dataset is not None:
        asked = [name for name, value in (*levels.items(), ("map", map), ("phantom", phantom)) if value is not None]
        if asked or clean or ctf:
            raise ValueError(
                f"--dataset {dataset} fixes object and noise; leave out "
                f"{', '.join('--' + name.replace('_', '-') for name in asked) or '--clean and --ctf'}"
            )
        found = datasets.DATASETS[dataset]
        subject, notes = _published(found, structure, box or datasets.BOX)
        total = datasets.COUNT if count is None else count
        kept = total // 10 if held is None else held
        noise, lens, reach = found.noise, found.lens, found.max_shift
    else:
        if clean == any(value is not None for value in levels.values()):
            raise ValueError(
                "give exactly one noise level of --energy, --snr-box, --snr-disc, --snr-db, --sigma and --clean"
            )
        noise = None if clean else noise_level(**levels)
        subject, notes = _subject(structure, map, phantom, map_voxel, box or 64, voxel, b_factor, common.seed)
        total, kept = 1000 if count is None else count, held or 0
        lens, reach = None, max_shift
        if ctf:
            lens = Lens(defocus, ctf_groups, astigmatism, voltage, cs, amplitude_contrast, phase_shift)
    if not 0 <= kept < total:
        raise ValueError(f"--held must leave images to fit: 0 to {total - 1}; got {kept}")
    data, simulation = simulate_particles(
        subject, count=total, noise=noise, seed=common.seed, lens=lens, max_shift=reach
    )
    claim(output.out, overwrite=output.overwrite)
    facts = _write(output.out, data, simulation, kept, dataset)
    for note in notes:
        common.say(note)
    common.say(
        f"{total} images of {data.box} x {data.box} pixels of {data.pixel_size:g} A"
        + (f", the last {kept} in held.star" if kept else "")
        + (f"; E = {facts['energy']:.1f} per particle, {facts['snr_db']:.2f} dB" if facts["energy"] else "; no noise")
    )
    return common.end(facts)


def reconstruct(
    file: Path,
    /,
    *,
    job: Annotated[ParticleJob, Parameter(name="*")],
    output: Output,
    poses: Path | None = None,
    start: Path | None = None,
    pixel_size: float | None = None,
    contrast: Literal["dark", "bright"] = "bright",
    truth: Path | None = None,
    resume: bool = False,
    no_verify: bool = False,
    common: Common = Common(),
) -> int:
    """Reconstruct a volume and the poses of all images from a stack of particles, from random starts.

    Example:
        unpicked reconstruct particles sim/particles.star --out run

    Parameters
    ----------
    file
        RELION STAR file, cryoSPARC .cs file, or a bare MRC stack.
    poses
        STAR file whose poses replace those of the data, row by row by image name.
    start
        MRC map to start from, in place of random starts.
    pixel_size
        Pixel size of the images in angstrom, where the files do not say or are wrong; for a stack without any, --voxel
        serves, too.
    contrast
        Sign of the files: matter bright, as particle stacks are by custom, or dark.
    truth
        Map to compare the answer with, for simulated data.
    resume
        Go on from the run folder's checkpoint.
    no_verify
        Accepted; verification is not part of this version, and the verdict reads "not verified".
    """
    began = time.perf_counter()
    device = common.begin()
    from unpicked.evaluate.compare import compare
    from unpicked.io import mrc
    from unpicked.io.particles import files_of, read_particles
    from unpicked.io.poses import read_poses
    from unpicked.recipes.particles import from_particles, ready

    data = read_particles(file, pixel_size=pixel_size, contrast=contrast, voxel=job.voxel)
    if poses is not None:
        names, found = read_poses(poses)
        data = replace(data, poses=_matched(data.names, names, found, poses))
    first = None if start is None else mrc.read_map(start)
    target = None if truth is None else mrc.read_map(truth)
    ready(data, job, first)
    settings = {
        "file": str(file),
        **asdict(job),
        "poses": None if poses is None else str(poses),
        "start": None if start is None else str(start),
        "pixel_size": pixel_size,
        "contrast": contrast,
        "seed": common.seed,
        "device": device,
    }
    judge = None if target is None else lambda: compare(mrc.read_map(output.out / "volume.mrc"), target)
    run = runs.Run(output, settings, common, began, resume, truth, judge)
    solve = partial(from_particles, data, job, start=first, device=device)
    return runs.complete(run, [file, *files_of(data)], solve, partial(write_stack, source=data, star=file), data.notes)


def write_stack(folder: Path, answer: ParticleAnswer, *, source: Particles, star: Path) -> runs.Written:
    """Write ``volume.mrc``, ``particles.star`` and half maps."""
    from unpicked.io import mrc
    from unpicked.io.particles import write_particles

    mrc.write_map(answer.map, folder / "volume.mrc", overwrite=True)
    write_particles(folder / "particles.star", star, source, answer.poses, overwrite=True)
    if answer.halves is not None:
        for number, half in enumerate(answer.halves[:2], 1):
            mrc.write_map(half, folder / f"half{number}.mrc", overwrite=True)
    figures = answer.figures()
    return runs.Written(
        data={"images": len(source), "box": source.box, "pixel_size": source.pixel_size},
        last=answer.last,
        passes=runs.histories(answer.stages),
        figures=figures,
        notes=answer.notes,
        words=f"{folder / 'volume.mrc'}: {len(source)} images, E = {figures['energy']:.1f} per particle, poses to "
        f"{figures['pose_spread_deg']:.2g} degrees as the noise implies; {folder / 'particles.star'}",
        compared=compared,
    )


def compared(found: Mapping[str, Any]) -> str:
    """The figures of a comparison with the truth in words."""
    return f"correlation with the truth {found['correlation']:.4f}, FSC 0.5 at {found['resolution_05']:.2f} A"


def _published(found: Dataset, structure: Path | None, box: int) -> tuple[Molecule, tuple[str, ...]]:
    """The molecule of a published data set, from the file given or that of the shared data folder."""
    from unpicked.io.structure import read_structure
    from unpicked.simulate import datasets

    if structure is None:
        root = Path(os.environ.get("UNPICKED_SHARED", "../shared"))
        paths = [root / "data" / FILE, root / FILE]
        structure = next((path for path in paths if path.exists()), None)
        if structure is None:
            raise ValueError(
                f"the data sets need a file of PDB entry 4AKE; none in {root}; give --structure FILE (or set "
                "UNPICKED_SHARED)"
            )
    atoms = read_structure(structure)
    return datasets.molecule(found, atoms, box), atoms.notes


def _subject(
    structure: Path | None,
    map: Path | None,
    phantom: str | None,
    map_voxel: float | None,
    box: int,
    voxel: float | None,
    b_factor: float,
    seed: int,
) -> tuple[Molecule | Specimen, tuple[str, ...]]:
    given = [name for name, value in (("--structure", structure), ("--map", map), ("--phantom", phantom)) if value]
    if len(given) != 1:
        raise ValueError(
            f"give exactly one of --dataset, --structure, --map and --phantom; got {' and '.join(given) or 'none'}"
        )
    if box < 4:
        raise ValueError(f"--box must be at least 4 pixels; got {box}")
    if map is not None:
        return specimen_of_map(map, map_voxel, box, voxel), ()
    if phantom is not None:
        return phantom_specimen(phantom, box, voxel, seed), ()
    from unpicked.io.structure import read_structure
    from unpicked.simulate.particles import Molecule, filling

    atoms = read_structure(Path(str(structure)))
    return Molecule(atoms, box, voxel or filling(atoms, box), b_factor), atoms.notes


def _write(
    folder: Path, data: Particles, simulation: ParticleSimulation, held: int, dataset: str | None
) -> dict[str, Any]:
    """Stack, STAR files, true map and figures."""
    from unpicked.io import mrc, star

    total = len(data)
    mrc.write_images(simulation.blocks(), total, folder / "particles.mrcs", data.pixel_size)
    poses = simulation.poses
    for name, first, last, true in (
        ("particles.star", 0, total - held, None),
        ("held.star", total - held, total, None),
        ("truth.star", 0, total, poses),
    ):
        rows = range(first, last)
        if len(rows):
            optics = None if data.optics is None else data.optics.part(rows)
            names = [data.names[row] for row in rows]
            star.write_stack_star(folder / name, names, data.pixel_size, data.box, optics=optics, poses=true)
    mrc.write_map(simulation.subject.truth(), folder / "truth.mrc")
    facts = {**simulation.facts(), "contrast": "bright", "dataset": dataset, "held": held}
    return write_facts(folder / "truth.json", facts)


def _matched(names: tuple[str, ...], other: tuple[str, ...], poses: Poses, path: Path) -> Poses:
    """Poses of a file, row by row of the data, by image name."""
    place = {name: row for row, name in enumerate(other)}
    missing = [name for name in names if name not in place]
    if missing:
        raise ValueError(
            f"--poses {path} has no pose for {len(missing)} of {len(names)} images, the first {missing[0]}; "
            "give a file that names all of them"
        )
    rows = torch.tensor([place[name] for name in names])
    return Poses(poses.rotations[rows], poses.shifts[rows])
