"""``unpicked reconstruct``: from files to an answer in a run folder."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from unpicked.cli import common as shared
from unpicked.cli import runs
from unpicked.cli.common import Common, Output
from unpicked.recipes import MicrographJob

if TYPE_CHECKING:
    from unpicked.data.maps import Map
    from unpicked.recipes import MicrographAnswer


def micrographs(
    files: list[str],
    /,
    *,
    job: Annotated[MicrographJob, Parameter(name="*")],
    output: Output,
    start: str = "random",
    pixel_size: float | None = None,
    contrast: Literal["dark", "bright"] = "dark",
    truth: Path | None = None,
    resume: bool = False,
    no_verify: bool = False,
    common: Common = Common(),
) -> int:
    """Reconstruct a volume straight from micrographs, without particle picking.

    Example:
        unpicked reconstruct micrographs sim/micrographs.star --box 11 --out run

    Parameters
    ----------
    files
        Micrographs: MRC files (also .gz, .bz2), folders, quoted globs, or a micrographs STAR file.
    start
        "random", or an MRC map of the box's size and voxel to start from.
    pixel_size
        Pixel size of the files in angstrom, where they do not say or are wrong.
    contrast
        Sign of the files: matter dark, as a microscope writes, or bright.
    truth
        Map to compare the answer with, for simulated data.
    resume
        Go on from the run folder's checkpoint.
    no_verify
        Accepted; verification is not part of this version, and the verdict reads "not verified".
    """
    began = time.perf_counter()
    device = common.begin()
    settings: dict[str, Any] = {
        "files": files,
        **asdict(job),
        "start": start,
        "pixel_size": pixel_size,
        "contrast": contrast,
        "seed": common.seed,
        "device": device,
    }
    from unpicked.io import mrc

    data = mrc.read_micrographs(files, pixel_size=pixel_size, contrast=contrast)
    first = None if start == "random" else mrc.read_map(start)
    target = None if truth is None else mrc.read_map(truth)
    folder = output.out
    from unpicked.recipes import from_micrographs, ready

    prepared = ready(data, job, first)  # whatever is wrong with the input is found before a folder is made or cleared
    known = settings | {"data_files": shared.identity(str(path) for path in mrc.files_of(data))}
    if shared.claim(folder, overwrite=output.overwrite, resume=resume, settings=known):
        return runs.again(folder, common, lambda: judge(folder, target, truth), truth=target is not None)
    for note in data.notes:
        common.say(note)
    answer = from_micrographs(
        prepared,
        job,
        seed=common.seed,
        start=first,
        checkpoint=folder / "checkpoint",
        resume=resume,
        device=device,
        report=common.progress,
    )
    summary = finish(folder, answer, settings, common.seed, time.perf_counter() - began, target, truth)
    for note in answer.notes[len(data.notes) :]:
        common.say(note)
    figures = summary["figures"]
    common.say(
        f"{summary['result']}\n{folder / 'volume.mrc'}: E = {figures.get('energy', float('nan')):.1f} per particle, "
        f"{figures.get('particles', float('nan')):.0f} particles, sigma {figures['sigma']:.4g}; "
        f"verdict: {summary['verdict']}; see {folder / 'report.html'}"
    )
    if "compare" in figures:
        found = figures["compare"]
        common.say(
            f"correlation with the truth {found['correlation']:.4f}, relative error {found['relative_error']:.3f}"
        )
    if common.json:
        print(json.dumps(summary))
    return 0


def finish(
    folder: Path,
    answer: MicrographAnswer,
    settings: dict[str, Any],
    seed: int,
    seconds: float,
    truth: Map | None = None,
    truth_path: Path | None = None,
) -> dict[str, Any]:
    """Write maps, ``history.csv``, ``result.json`` (last: it marks a finished run) and ``report.html``."""
    from unpicked.io import mrc

    mrc.write_map(answer.map, folder / "volume.mrc", overwrite=True)
    if answer.halves is not None:
        for number, half in enumerate(answer.halves[:2], 1):
            mrc.write_map(half, folder / f"half{number}.mrc", overwrite=True)
    if answer.gallery is not None:
        shared.write_arrays(folder / "patches.npz", answer.gallery)
    micrographs = answer.prepared.micrographs
    data = {
        "files": len(micrographs),
        "size": list(micrographs.shape),
        "voxel_size": micrographs.pixel_size,
        "notes": list(answer.notes),
    }
    passes = runs.histories(answer.stages)
    runs.close(folder, settings, seed, seconds, answer.last, data=data, figures=answer.figures(), passes=passes)
    return judge(folder, truth, truth_path)


def judge(folder: Path, truth: Map | None, truth_path: Path | None) -> dict[str, Any]:
    """Compare a finished run with the truth, where one is given, and draw its page; returns ``result.json``."""
    from unpicked.evaluate.compare import compare
    from unpicked.io import mrc
    from unpicked.report import report

    found = None if truth is None else compare(mrc.read_map(folder / "volume.mrc"), truth)
    summary = runs.compare(folder, found, truth_path)
    report(folder, truth=truth)
    return summary
