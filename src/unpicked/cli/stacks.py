"""``unpicked reconstruct particles``: a volume and poses from a stack of particle images."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from unpicked import processes
from unpicked._lazy import torch
from unpicked.cli import runs
from unpicked.cli.common import Common, Output
from unpicked.recipes.particle_job import ParticleJob

if TYPE_CHECKING:
    from unpicked.data.particles import Particles
    from unpicked.data.poses import Poses
    from unpicked.recipes.particles import ParticleAnswer


@Parameter(name="*")
@dataclass(frozen=True)
class Input:
    """How a stack is read."""

    poses: Path | None = None
    """STAR file whose poses replace those of the data, row by row by image name."""
    pixel_size: float | None = None
    """Pixel size of the images in angstrom, where the files do not say or are wrong; for a stack without any, --voxel
    serves, too."""
    contrast: Literal["dark", "bright"] = "bright"
    """Sign of the files: matter bright, as particle stacks are by custom, or dark."""
    root: Path | None = None
    """Folder that the names of the stacks are relative to, where they are not found beside the file."""
    passthrough: tuple[Path, ...] = ()
    """More .cs files of the same particles, joined by their uid."""
    relion_odd_box: bool = False
    """Add the pixel by which odd boxes written by RELION are off."""
    ctf: Annotated[bool | None, Parameter(negative="--no-ctf")] = None
    """Refuse data without contrast transfer parameters; --no-ctf leaves them out. Taken where known if not given."""

    def read(self, file: Path, job: ParticleJob) -> tuple[Particles, ParticleJob]:
        """The stack, and the job; its voxel is spent where it is the pixel of files that have none."""
        from unpicked.io.particles import NoPixelSize, read_particles

        options = {name: value for name, value in vars(self).items() if name not in ("poses", "pixel_size")}
        try:
            data = read_particles(file, pixel_size=self.pixel_size, **options)
        except NoPixelSize:
            if job.voxel is None:
                raise
            data, job = read_particles(file, pixel_size=job.voxel, **options), replace(job, voxel=None)
            note = "the files have no pixel size: that of --voxel is taken, uncropped"
            data = replace(data, notes=(*data.notes, note))
        return data if self.poses is None else replace(data, poses=poses_of(data, self.poses)), job

    @staticmethod
    def of(settings: Mapping[str, Any]) -> Input:
        """From what :meth:`settings` told."""
        names = [entry.name for entry in fields(Input) if entry.name in settings]
        told: dict[str, Any] = {name: settings[name] for name in names}
        told |= {name: Path(told[name]) for name in ("poses", "root") if told.get(name) is not None}
        return Input(**told | {"passthrough": tuple(Path(path) for path in told.get("passthrough", ()))})

    def settings(self) -> dict[str, Any]:
        """As ``result.json`` tells them."""
        told = {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}
        return told | {"passthrough": [str(path) for path in self.passthrough]}


def particles(
    file: Path,
    /,
    *,
    job: Annotated[ParticleJob, Parameter(name="*")] = ParticleJob(),
    output: Output,
    input: Input = Input(),
    start: Path | None = None,
    truth: Path | None = None,
    resume: bool = False,
    no_verify: bool = False,
    live: bool = False,
    common: Common = Common(),
) -> int:
    """Reconstruct a volume and the poses of all images from a stack of particles, from random starts.

    Example:
        unpicked reconstruct particles sim/particles.star --out run

    Parameters
    ----------
    file
        RELION STAR file, cryoSPARC .cs file, or a bare MRC stack.
    start
        MRC map to start from, in place of random starts.
    truth
        Map to compare the answer with, for simulated data.
    resume
        Go on from the run folder's checkpoint.
    no_verify
        Do not ask whether images kept apart support the answer; the verdict reads "not verified". Poses that were given
        (--method known) are never asked about: they come from all of the images.
    live
        Show the run on a page while it goes on: its address, which works on this computer only, is printed first.
    """
    began = time.perf_counter()
    if processes.asked() > 1 and job.method != "em":
        raise ValueError(
            f"--method {job.method} runs on one process; got {processes.asked()}; start it without torchrun, or try "
            "--method em"
        )
    device = common.begin(many=True)
    from unpicked.evaluate.compare import compare
    from unpicked.io import mrc
    from unpicked.io.particles import source_of
    from unpicked.recipes.particles import from_particles, ready
    from unpicked.recipes.stack_trials import ParticleTrial

    if file.resolve() == (output.out / "particles.star").resolve():
        raise ValueError(f"--out {output.out} would replace the input {file}; give another folder")
    stated = asdict(job)
    data, job = input.read(file, job)
    first = None if start is None else mrc.read_map(start)
    target = None if truth is None else mrc.read_map(truth)
    ready(data, job, first)
    settings = {
        "file": str(file),
        **stated,
        **input.settings(),
        "start": None if start is None else str(start),
        "seed": common.seed,
        "device": device,
    }
    judge = None if target is None else lambda: compare(mrc.read_map(output.out / "volume.mrc"), target)
    run = runs.Run(output, settings, common, began, resume, truth, judge, live)
    solve = partial(from_particles, data, job, start=first, device=device)
    stacks = source_of(data)
    files = [file, *input.passthrough, *(() if stacks is None else stacks.files)]
    asked = not no_verify and job.method != "known"
    trial = partial(ParticleTrial, data, job, first, device=device) if asked else None
    return runs.complete(run, files, solve, partial(write_stack, source=data), data.notes, trial)


def write_stack(folder: Path, answer: ParticleAnswer, *, source: Particles) -> runs.Written:
    """Write maps, mask and ``particles.star``."""
    from unpicked.io.particle_files import SPREAD, write_particles

    runs.write_maps(folder, answer.map, answer.halves)
    columns: dict[str, list[float]] = {}
    if not answer.spread.isnan().all():  # some methods predict none; beyond 180 degrees nothing is known
        columns[SPREAD] = answer.spread.nan_to_num(180, 180).clamp(max=180).tolist()
    told = write_particles(
        folder / "particles.star", source, answer.poses, columns=columns, relocate=True, overwrite=True
    )
    figures = answer.figures()
    return runs.Written(
        data={
            "kind": "particles",
            "images": len(source),
            "box": source.box,
            "pixel_size": source.pixel_size,
            "voxel_size": answer.map.voxel_size,
            "contrast_transfer": source.optics is not None,
        },
        last=answer.last,
        passes=runs.histories(answer.stages),
        figures=figures,
        notes=(*answer.notes, *told),
        words=_words(folder, len(source), figures),
        compared=compared,
    )


def _words(folder: Path, count: int, figures: Mapping[str, Any]) -> str:
    """Files and figures; what a method does not give is left out."""
    out = f"{folder / 'volume.mrc'}: {count} images"
    if figures["energy"] is not None:
        out += f", E = {figures['energy']:.1f} per particle"
    if figures["pose_spread_deg"] is not None:
        out += f", poses to {figures['pose_spread_deg']:.2g} degrees as the noise implies"
    if "misfit" in figures:
        out += f", misfit {figures['misfit']:.3g} of the images' power"
    return f"{out}; {folder / 'particles.star'}"


def compared(found: Mapping[str, Any]) -> str:
    """The figures of a comparison with the truth in words."""
    resolution = found["resolution_05"]
    reached = "FSC below 0.5 in every shell" if resolution is None else f"FSC 0.5 at {resolution:.2f} A"
    return f"correlation with the truth {found['correlation']:.4f}, {reached}"


def poses_of(data: Particles, path: Path) -> Poses:
    """Poses of a file for every image of the data; odd boxes of RELION are corrected as the data were."""
    from unpicked.io.particles import table_of
    from unpicked.io.poses import read_poses

    names, found = read_poses(path)
    rows = table_of(data)
    if rows is not None and rows.odd_box and path.suffix.lower() != ".cs":
        found = replace(found, shifts=found.shifts + data.pixel_size)
    return _matched(data.names, names, found, path)


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
    return replace(poses, rotations=poses.rotations[rows], shifts=poses.shifts[rows])
