"""``unpicked reconstruct``: from files to an answer in a run folder."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from unpicked import processes
from unpicked.cli import common as shared
from unpicked.cli import runs
from unpicked.cli.common import Common, Output
from unpicked.cli.micrographs import WHITENING, Input, gains_of_run
from unpicked.recipes import MicrographJob

if TYPE_CHECKING:
    from unpicked.data.maps import Map
    from unpicked.preprocess import Prepared
    from unpicked.recipes import MicrographAnswer
    from unpicked.recipes.micrographs import Start as MicrographStart
    from unpicked.recipes.trials import MicrographTrial


def micrographs(
    files: list[str],
    /,
    *,
    job: Annotated[MicrographJob, Parameter(name="*")],
    output: Output,
    input: Annotated[Input, Parameter(name="*", group="How micrographs are read")] = Input(),
    start: str = "random",
    truth: Path | None = None,
    resume: bool = False,
    no_verify: bool = False,
    live: bool = False,
    common: Common = Common(),
) -> int:
    """Reconstruct a volume straight from micrographs, without particle picking.

    Example:
        unpicked reconstruct micrographs sim/micrographs.star --box 11 --out run

    Parameters
    ----------
    files
        Micrographs: MRC files (also .gz, .bz2) or TIFF files, folders, quoted globs; or one RELION micrographs STAR
        file, or one .cs file of cryoSPARC's exposures.
    start
        random, autocorrelation (beside random starts the volume, density and noise level that the micrographs' moments
        tell, one more pass), or an MRC map of the box's size and voxel to start from.
    truth
        Map to compare the answer with, for simulated data.
    resume
        Go on from the run folder's checkpoint.
    no_verify
        Do not ask whether held-out data support the answer, which takes about as long again; the verdict reads "not
        verified".
    live
        Show the run on a page while it goes on: its address, which works on this computer only, is printed first.
    """
    began = time.perf_counter()
    device = common.begin(many=True)
    from unpicked.evaluate.compare import compare
    from unpicked.io import mrc
    from unpicked.recipes import from_micrographs, ready

    data = input.read(files)
    first = read_start(start)
    target = None if truth is None else mrc.read_map(truth)
    prepared = ready(data, job, first)  # whatever is wrong with the input is found before a folder is made or cleared
    settings = {
        "files": files,
        **asdict(job),
        "start": start,
        **input.settings(),
        "seed": common.seed,
        "device": device,
    }
    judge = None if target is None else lambda: compare(mrc.read_map(output.out / "volume.mrc"), target)
    run = runs.Run(output, settings, common, began, resume, truth, judge, live)
    solve = partial(from_micrographs, prepared, job, start=first, device=device)
    trial = None if no_verify else partial(trial_of_run, output.out, prepared, job, first, device=device)
    sources = [*map(Path, job.structures), *input.sources(files, data)]  # micrographs come last
    return runs.complete(run, sources, solve, write_volume, data.notes, trial)


def read_start(start: str) -> Map | Literal["autocorrelation"] | None:
    """What ``--start`` names: an MRC map, what moments tell, or nothing ("random")."""
    from unpicked.io import mrc

    if start == "autocorrelation":
        return "autocorrelation"
    return None if start == "random" else mrc.read_map(Path(start))


def trial_of_run(
    folder: Path, prepared: Prepared, job: MicrographJob, first: MicrographStart, **kept: Any
) -> MicrographTrial:
    """What judges a run on micrographs: the same data, whitened as the run in this folder whitened them at the end.

    Raises:
        ValueError: where what whitened them is lost or damaged.
    """
    from unpicked.recipes.micrographs import begun, fixed
    from unpicked.recipes.trials import MicrographTrial

    gains, count = None, len(prepared.micrographs)
    if job.coloured(optics=prepared.micrographs.optics is not None):
        gains, path = processes.agreed(lambda: gains_of_run(folder)), folder / WHITENING
        if gains is None:
            raise ValueError(
                f"{path} is gone, by which the run whitened its data, and no verdict can do without; put it back, or "
                "run the reconstruction again with --overwrite"
            )
        if len(gains) != count:
            raise ValueError(
                f"{path} is damaged (it has {len(gains)} micrographs instead of {count}); run the reconstruction again"
            )
    return MicrographTrial(fixed(prepared, job, gains), job, begun(prepared, job, first), **kept)


def write_volume(folder: Path, answer: MicrographAnswer) -> runs.Written:
    """Write maps and mask, pictures of micrographs and likeliest particles, where there are any."""
    from unpicked.recipes.pictures import pictures

    runs.write_maps(folder, answer.map, answer.halves)
    if answer.gains is not None:
        shared.write_text(folder / WHITENING, json.dumps(answer.gains.to_json()) + "\n")
    shared.write_arrays(folder / "micrographs.npz", pictures(answer.prepared, answer.gallery))
    if answer.gallery is not None:
        shared.write_arrays(folder / "patches.npz", answer.gallery)
    data, figures = answer.prepared.micrographs, answer.figures()
    masked = {} if data.masks is None else {"masked": 1 - data.counted()}  # share of the area
    energy, particles = (figures.get(name, math.nan) for name in ("energy", "particles"))
    return runs.Written(
        data={"files": len(data), "size": list(data.shape), "voxel_size": data.pixel_size, **masked},
        last=answer.last,
        passes=runs.histories(answer.stages),
        figures=figures,
        notes=answer.notes,
        words=f"{folder / 'volume.mrc'}: E = {energy:.1f} per particle, {particles:.0f} particles, "
        f"sigma {figures['sigma']:.4g}",
        compared=_compared,
    )


def _compared(found: Mapping[str, Any]) -> str:
    return f"correlation with the truth {found['correlation']:.4f}, relative error {found['relative_error']:.3f}"
