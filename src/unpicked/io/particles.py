"""Particle stacks: read lazily from STAR, .cs or bare MRC stacks, and written as STAR or .cs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from unpicked.data.micrographs import Part
from unpicked.data.particles import Particles, Resized
from unpicked.data.poses import Poses
from unpicked.io._files import around, found_among
from unpicked.io.cryosparc import cs_table
from unpicked.io.mrc import Contrast, check_contrast
from unpicked.io.particle_checks import background_notes, contrast_notes
from unpicked.io.particle_table import ParticleTable, checked_pixel_size, star_table
from unpicked.io.stacks import ENDINGS, StackSource, stack_files, stack_header, stack_notes

PathLike = Path | str


class NoPixelSize(ValueError):
    """Neither the files nor the caller say how large a pixel is."""


def read_particle_table(
    path: PathLike | Sequence[PathLike],
    *,
    pixel_size: float | None = None,
    passthrough: PathLike | Sequence[PathLike] = (),
    ctf: bool | None = None,
    voltage_kv: float | None = None,
    cs_mm: float | None = None,
    amplitude_contrast: float | None = None,
) -> ParticleTable:
    """What a file says of particle images: names, optics, poses, half sets. Image files need not be there.

    Args:
        path: RELION STAR file (3.0 to 5), cryoSPARC .cs file, or one or several MRC stacks (these must be there).
        pixel_size: angstrom; overrides the file.
        passthrough: .cs files with more fields of the same particles, joined by ``uid``.
        ctf: True asks for contrast transfer (an error where it is not known), False leaves it out, None takes it
            where it is known.
        voltage_kv: for files that do not say, as the next two.
        cs_mm: spherical aberration.
        amplitude_contrast: fraction.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a file of 2-D particle images, or its values make no sense.
    """
    given = {"rlnVoltage": voltage_kv, "rlnSphericalAberration": cs_mm, "rlnAmplitudeContrast": amplitude_contrast}
    known = {name: value for name, value in given.items() if value is not None}
    first = path if isinstance(path, str | Path) else (list(path) or [""])[0]
    ending = str(first).lower()
    if pixel_size is not None:
        checked_pixel_size(pixel_size)
    if ending.endswith((".star", ".star.gz", ".star.bz2", ".cs")) and not isinstance(path, str | Path):
        if len(path) > 1:
            raise ValueError(f"a STAR or .cs file must stand alone; got {first} among {len(path)} inputs")
        path = path[0]
    if isinstance(path, str | Path):
        if passthrough and not ending.endswith(".cs"):
            raise ValueError(f"passthrough files belong to a .cs file; got {path}")
        if ending.endswith((".star", ".star.gz", ".star.bz2")):
            return star_table(path, pixel_size=pixel_size, ctf=ctf, given=known)
        if ending.endswith(".cs"):
            return cs_table(path, passthrough=passthrough, pixel_size=pixel_size, ctf=ctf, given=known)
    return _bare(path, pixel_size, ctf)


def read_particles(
    path: PathLike | Sequence[PathLike],
    *,
    pixel_size: float | None = None,
    contrast: Contrast = "bright",
    root: PathLike | None = None,
    relion_odd_box: bool = False,
    passthrough: PathLike | Sequence[PathLike] = (),
    ctf: bool | None = None,
    voltage_kv: float | None = None,
    cs_mm: float | None = None,
    amplitude_contrast: float | None = None,
    check: int = 200,
) -> Particles:
    """Particle images with their optics, poses and half sets; images are read one by one when asked for.

    Args:
        path: RELION STAR file (3.0 to 5), cryoSPARC .cs file, or one or several MRC stacks.
        pixel_size: angstrom; overrides optics groups and headers.
        contrast: "bright" (matter bright in the files, the custom for stacks) or "dark" (multiplied by -1 on reading).
        root: folder in which the stacks are looked for as well, with and without their folders' names.
        relion_odd_box: add one pixel in x and y to the shifts of a STAR file with an odd box, as RELION's own
            projections of odd boxes need.
        passthrough: .cs files with more fields of the same particles, joined by ``uid``.
        ctf: True asks for contrast transfer (an error where it is not known), False leaves it out, None takes it
            where it is known.
        voltage_kv: for files that do not say, as the next two.
        cs_mm: spherical aberration.
        amplitude_contrast: fraction.
        check: how many images, evenly spread, to look at for contrast and normalisation; 0 for none.

    Returns:
        The set; its ``notes`` tell what was read, converted, assumed and left out.

    Raises:
        FileNotFoundError: if a file is missing (for a stack: all places tried).
        ValueError: for files that are not particle images of one box and pixel size, an image beyond its stack, no
            pixel size, an image that is constant or not finite among those looked at, or contrast transfer that is
            asked for and not known.
    """
    check_contrast(contrast)
    if check < 0:
        raise ValueError(f"check must be 0 or a number of images; got {check}")
    table = read_particle_table(
        path, pixel_size=pixel_size, passthrough=passthrough, ctf=ctf,
        voltage_kv=voltage_kv, cs_mm=cs_mm, amplitude_contrast=amplitude_contrast,
    )  # fmt: skip
    if table.mixed:
        raise ValueError(table.mixed)
    files = tuple(locate_stack(table, name, root) for name in table.files)
    flip = -1 if contrast == "dark" else 1
    signs = table.signs if table.signs is not None else (1,) * len(table)
    signs = tuple(flip * sign for sign in signs)
    source = StackSource(files, table.which, table.indices, table.names, None if min(signs) > 0 else signs, table)
    size, size_notes = _pixel_size(table, source, pixel_size)
    poses, odd_notes = _moved(table, source.shape[0], size, relion_odd_box)
    if relion_odd_box and table.kind == "star" and source.shape[0] % 2:
        source = replace(source, table=replace(table, odd_box=True))
    notes = [*table.notes, *_stack_notes(table, source, contrast), *size_notes, *odd_notes]
    particles = Particles(source, size, table.names, table.optics, poses, table.halves, tuple(notes))
    return checked(particles, check, contrast) if check else particles


read_star = read_particles  # the name that scripts may know it by


def checked(particles: Particles, count: int = 200, contrast: Contrast = "bright") -> Particles:
    """The particles with notes on contrast and background of ``count`` images, evenly spread.

    Raises:
        ValueError: if one of these images is constant or not finite.
    """
    picks = np.unique(np.linspace(0, len(particles) - 1, min(count, len(particles))).round().astype(int)).tolist()
    images = particles.images(picks)
    more = (*contrast_notes(images, particles.pixel_size, contrast), *background_notes(images))
    return replace(particles, notes=(*particles.notes, *more))


def source_of(particles: Particles) -> StackSource | None:
    """The stacks that a set, or the part of a set, is read from; None for one that does not come from files."""
    source = particles.source
    while isinstance(source, Part | Resized):
        source = source.source if isinstance(source, Part) else source.origin
    return source if isinstance(source, StackSource) else None


def table_of(particles: Particles) -> ParticleTable | None:
    """The rows that a set, or the part of a set, was read with, in its order; None where there are none."""
    origin = source_of(particles)
    if origin is None or origin.table is None:
        return None
    source, picks = particles.source, list(range(len(particles)))
    while isinstance(source, Part | Resized):
        if isinstance(source, Part):
            picks = [source.indices[row] for row in picks]
        source = source.source if isinstance(source, Part) else source.origin
    return origin.table if picks == list(range(len(origin.table))) else origin.table.part(picks)


def _bare(files: PathLike | Sequence[PathLike], pixel_size: float | None, ctf: bool | None) -> ParticleTable:
    paths = stack_files(files)
    if not paths:
        raise ValueError("path must name at least one stack; got an empty list")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"the list of {len(paths)} stacks names one more than once; expected every stack once")
    for path in paths:
        if not path.name.lower().endswith((*ENDINGS, ".mrcs.gz", ".mrc.gz", ".mrcs.bz2", ".mrc.bz2")):
            raise ValueError(f"{path} is no file of particles; expected .star, .cs, {', '.join(ENDINGS)}")
    counts = [stack_header(path).shape[0] for path in paths]
    which = tuple(file for file, count in enumerate(counts) for _ in range(count))
    indices = tuple(index for count in counts for index in range(count))
    names = tuple(f"{index + 1:06d}@{paths[file]}" for file, index in zip(which, indices, strict=True))
    if ctf:
        raise ValueError(
            f"{paths[0]}: contrast transfer is asked for, but a bare stack has none; give a STAR or .cs file"
        )
    notes = (f"{len(names)} particle images of {len(paths)} bare stacks", "no poses and no contrast transfer are known")
    origin = "" if pixel_size is None else "as given"
    files = tuple(str(path) for path in paths)
    return ParticleTable(paths[0], "stack", files, which, indices, names, None, pixel_size, origin, notes=notes)


def locate_stack(table: ParticleTable, name: str, root: PathLike | None = None) -> Path:
    """Where a stack lies: seen from its list, the working folder, folders above the list, or ``root``.

    Raises:
        FileNotFoundError: if it is in none of them; all places tried are told.
    """
    if table.kind == "stack":
        return Path(name)
    if root is not None and not Path(root).is_dir():
        raise FileNotFoundError(f"root must be a folder that exists; got {root}")
    tried = [folder / name for folder in around(table.path)]  # joining an absolute name gives that name
    if root is not None:
        tried += [Path(root) / name, Path(root) / Path(name).name]
    found, places = found_among(tried, name)
    if found is not None:
        return found
    row = table.which.index(table.files.index(name)) + 1
    raise FileNotFoundError(
        f"{table.path}, row {row}: stack {name[:400]} not found; tried {places}; give its folder with root= (--root)"
    )


def _pixel_size(table: ParticleTable, source: StackSource, given: float | None) -> tuple[float, list[str]]:
    """Pixel size and notes on it: as given, as stated by the table, else from the headers."""
    headers = {header.path: header.voxel[:2] for header in source.headers}
    if table.pixel_size is not None:
        size = table.pixel_size
        notes = [f"pixel size {size:g} A, {table.pixel_origin}"]
        others = sorted({voxel[0] for voxel in headers.values() if abs(voxel[0] - size) > 5e-3 * size and voxel[0] > 0})
        if others:
            said = ", ".join(f"{other:g}" for other in others[:5])
            notes.append(f"the header says {said} A per pixel; {size:g} A is used, {table.pixel_origin}")
        return size, notes
    for path, voxel in headers.items():
        if not all(voxel):
            raise NoPixelSize(
                f"{path} has no pixel size (0 in the header), nor has {table.path}; "
                "give pixel_size= (command line: --voxel), in angstrom"
            )
    sizes = [length for voxel in headers.values() for length in voxel]
    if max(sizes) > 1.001 * min(sizes):
        raise ValueError(
            f"the headers of the stacks of {table.path} say {min(sizes):g} to {max(sizes):g} A per pixel; expected one "
            "pixel size; treat them as separate sets, or give pixel_size= (--voxel)"
        )
    notes = [f"pixel size {sizes[0]:g} A, from the headers"]
    if sizes[0] == 1.0:
        notes.append("the pixel size is exactly 1 A in the headers, a common filler; check it")
    return sizes[0], notes


def _moved(table: ParticleTable, box: int, size: float, asked: bool) -> tuple[Poses | None, list[str]]:
    """Poses in angstrom, those of odd boxes of RELION moved by a pixel where that is asked for."""
    poses = table.poses(size)
    if poses is None or table.kind != "star" or box % 2 == 0:
        return poses, []
    if asked:
        poses = Poses(poses.rotations, poses.shifts + size)
        return poses, [f"odd box of {box} pixels: ({size:g}, {size:g}) A were added to the shifts, as asked"]
    return poses, [
        f"odd box of {box} pixels: if RELION made the images, its poses sit one pixel off in x and y; "
        "relion_odd_box=True (--relion-odd-box) corrects that"
    ]


def _stack_notes(table: ParticleTable, source: StackSource, contrast: Contrast) -> list[str]:
    box, count = source.shape[0], len(source.files)
    types = ", ".join(sorted({header.dtype.name for header in source.headers}))
    notes = [f"images of {box} x {box} pixels, {types}, in {count} stack{'s' if count > 1 else ''}"]
    if table.box is not None and table.box != box:
        notes.append(f"{table.path} says a box of {table.box} pixels; the stacks have {box}, which is used")
    unused = sum(header.shape[0] for header in source.headers) - len(
        set(zip(source.which, source.indices, strict=True))
    )
    if unused:
        notes.append(f"{unused} images of the stacks are named by no row and not used")
    notes.append(
        "contrast dark: values are multiplied by -1, matter is bright inside"
        if contrast == "dark"
        else "contrast bright: values are taken as they are"
    )
    return notes + [note for header in source.headers for note in stack_notes(header)]
