"""``unpicked simulate image`` and ``unpicked reconstruct image``."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from unpicked._lazy import torch
from unpicked.cli import common as shared
from unpicked.cli import runs
from unpicked.cli.common import Common, Output
from unpicked.recipes import ImageJob

if TYPE_CHECKING:
    from unpicked.recipes import ImageAnswer
    from unpicked.simulate.images import Targets


def simulate(
    *,
    output: Output,
    target: str = "random",
    length: int | None = None,
    size: tuple[int, ...] = (1024,),
    count: int = 1,
    density: float = 0.1,
    sigma: float = 1.0,
    rotations: Literal["uniform", "none"] = "uniform",
    spacing: Literal["separated", "arbitrary", "dense"] = "separated",
    classes: int = 1,
    common: Common = Common(),
) -> int:
    """Simulate large images: copies of a small target at unknown places, turned in their plane, in white noise.

    Example:
        unpicked simulate image --out sim --target random --length 9 --size 1024 --density 0.1 --sigma 1.4

    Parameters
    ----------
    target
        random (band-limited, of mean square 1), a .npy file, (length, length) or (kinds, length, length), or a .png.
    length
        Edge of the target in pixels, 9 if not given; of a file, its own.
    size
        Height and width in pixels, or one number for both.
    count
        Number of images.
    density
        Covered fraction: copies x length^2 / pixels.
    sigma
        Standard deviation of the noise per pixel.
    rotations
        Angles of the copies: uniform, or none.
    spacing
        Least distance of two copies: separated (2 length - 1 pixels), arbitrary (length) or dense (half of it).
    classes
        Kinds of target.
    """
    common.begin()
    shape = shared.height_and_width(size)
    from unpicked.io import mrc, npy
    from unpicked.simulate.images import simulate_images

    targets = _targets(target, length, classes, common.seed)
    data, truth = simulate_images(
        targets,
        size=shape,
        density=density,
        sigma=sigma,
        seed=common.seed,
        count=count,
        rotations=rotations,
        spacing=spacing,
    )
    for index in range(count):
        truth.corners(index)  # fails where the copies do not fit, before anything is written
    folder = output.out
    shared.claim(folder, overwrite=output.overwrite)
    (folder / "images").mkdir(exist_ok=True)
    for index, name in enumerate(data.names):
        mrc.write_image(data[index], folder / "images" / name, data.pixel_size, contrast="bright")
    values = targets.values
    npy.write_array(values[0] if len(values) == 1 else values, folder / "target.npy", overwrite=True)
    facts = shared.write_facts(folder / "truth.json", truth.facts())
    common.say(
        f"{count} images of {truth.size[0]} x {truth.size[1]} pixels in {folder / 'images'}: {facts['occurrences']} "
        f"copies at density {truth.density:.4f}, E = {facts['energy']:.3g} per copy"
    )
    return common.end(facts)


def reconstruct(
    files: list[str],
    /,
    *,
    job: Annotated[ImageJob, Parameter(name="*")],
    output: Output,
    start: str = "random",
    truth: Path | None = None,
    resume: bool = False,
    no_verify: bool = False,
    live: bool = False,
    common: Common = Common(),
) -> int:
    """Find the small image that large ones hold many times, at unknown places and angles.

    Example:
        unpicked reconstruct image sim/images --length 9 --out run

    Parameters
    ----------
    files
        Images: MRC files (also .gz, .bz2), folders, or quoted globs.
    start
        random, autocorrelation (the answer of that method), or a .npy file with the target to start from.
    truth
        .npy file with the true target to compare with, for simulated data.
    resume
        Go on from the run folder's checkpoint.
    no_verify
        Do not ask whether held-out data support the answer, which takes about as long again; the verdict reads "not
        verified".
    live
        Show the run on a page while it goes on: its address, which works on this computer only, is printed first.
    """
    began = time.perf_counter()
    common.begin(many=True, sums="cpu")
    from unpicked.evaluate.images import compare_images
    from unpicked.io import npy
    from unpicked.io.micrographs import files_of, read_micrographs
    from unpicked.recipes import from_images
    from unpicked.recipes.images import ready
    from unpicked.recipes.trials import ImageTrial

    data = read_micrographs(files, pixel_size=1.0, contrast="bright")
    first = runs.read_start(start, (job.length,) * 2, job.classes)
    target = runs.read_target(truth, "--truth", (job.length,) * 2, job.classes)
    found = ready(data, job, first)
    settings = {
        "files": files,
        **asdict(job),
        "start": start,
        "seed": common.seed,
    }
    turned, path = job.rotations == "uniform", output.out / "target.npy"
    judge = None if target is None else lambda: compare_images(npy.read_array(path), target, rotations=turned)
    run = runs.Run(output, settings, common, began, resume, truth, judge, live)
    trial = None if no_verify else partial(ImageTrial, found, job, first)
    solve = partial(from_images, found, job, start=first)
    return runs.complete(run, files_of(data), solve, _write, trial=trial)


def _write(folder: Path, answer: ImageAnswer) -> runs.Written:
    from unpicked.io import npy

    npy.write_array(answer.target, folder / "target.npy", overwrite=True)
    figures = answer.figures()
    return runs.Written(
        data={"kind": "image", "files": len(answer.images), "size": list(answer.images.shape)},
        last=answer.last,
        passes=runs.histories(answer.stages),
        figures=figures,
        notes=answer.notes,
        words=f"{folder / 'target.npy'}: {runs.per_copy(figures)}",
        compared=lambda found: f"relative error {found['relative_error']:.3f}",
    )


def _targets(name: str, length: int | None, classes: int, seed: int) -> Targets:
    """Targets of a name or a file."""
    from unpicked.simulate.images import PixelTargets, random_targets

    if classes < 1:
        raise ValueError(f"--classes must be at least 1; got {classes}")
    if length is not None and length < 3:
        raise ValueError(f"--length must be at least 3 pixels; got {length}")
    if name == "random":
        return random_targets(length or 9, seed, kinds=classes)
    values = _read(name)
    if values.dim() != 3 or values.shape[1] != values.shape[2] or values.shape[1] < 3 or len(values) != classes:
        expected = "(length, length)" if classes == 1 else f"({classes}, length, length)"
        raise ValueError(f"{name} must hold {expected}, length at least 3; got {tuple(values.shape)}")
    if length is not None and values.shape[1] != length:
        raise ValueError(f"{name} holds targets of {values.shape[1]} pixels; --length says {length}; leave it out")
    return PixelTargets(values)


def _read(name: str) -> torch.Tensor:
    """Values ``(kinds, height, width)`` of a .npy file, or the grey values of a .png, black 0 and white 1."""
    from unpicked.io import npy

    path = Path(name)
    if path.suffix.lower() == ".npy":
        values = npy.read_array(path, "a target")
    elif path.suffix.lower() == ".png":
        if not path.is_file():
            raise FileNotFoundError(f"--target {path} was not found")
        from matplotlib.image import imread

        try:
            pixels = torch.from_numpy(imread(path).astype("float64"))
        except Exception as error:
            raise ValueError(f"{path} is not a readable PNG image ({type(error).__name__})") from error
        values = pixels if pixels.dim() == 2 else pixels[..., :3].mean(-1)
    else:
        raise ValueError(f"--target must be random, or a .npy or .png file; got {name!r}")
    return values[None] if values.dim() == 2 else values
