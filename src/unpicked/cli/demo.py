"""``unpicked demo``: the main job on data it makes itself."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

from unpicked.cli import runs
from unpicked.cli.common import Common, Output, alone, claim


def demo(
    *,
    out: Path = Path("demo-run"),
    overwrite: bool = False,
    common: Common = Common(),
) -> int:
    """Simulate micrographs of BPTI (5PTI, 6.5 kDa), find its structure in them without picking, and write the report.

    E = 424 per particle, the level of Bendory's 2022 talk. Nothing is fetched, nothing is opened.

    Example:
        unpicked demo --out demo-run

    Parameters
    ----------
    out
        Folder: the data go to OUT/data, the run to OUT/run.
    overwrite
        Replace the results of an earlier demo in that folder.
    """
    began = time.perf_counter()
    device = common.begin()
    from unpicked.cli.reconstruct import write_volume
    from unpicked.cli.simulate import micrographs as simulate
    from unpicked.cli.specimens import Field, Level, Seen
    from unpicked.evaluate.compare import compare
    from unpicked.io import mrc
    from unpicked.io.micrographs import read_micrographs
    from unpicked.recipes import MicrographJob, from_micrographs
    from unpicked.recipes.trials import MicrographTrial

    data, run = out / "data", out / "run"
    if not overwrite:
        for folder in (data, run):
            if folder.exists() and any(folder.iterdir()):
                raise ValueError(f"{folder} is not empty; try --overwrite or another --out")
    simulate(
        output=Output(data, overwrite),
        seen=Seen(structure=_structure(), voxel=5.0),
        box=11,
        field=Field(count=2, size=(448,), density=0.12),
        level=Level(energy=424.0),
        common=Common(seed=common.seed, quiet=common.quiet, json=False),
    )
    job = MicrographJob(box=11)
    files = [str(data / "micrographs.star")]
    micrographs = read_micrographs(files)
    settings = {"files": files, **asdict(job), "contrast": "dark", "seed": common.seed, "device": device}
    with alone(run):
        claim(run, overwrite=overwrite, settings=settings)
        answer = from_micrographs(
            micrographs, job, seed=common.seed, checkpoint=run / "checkpoint", device=device, report=common.progress
        )
        path = data / "truth.mrc"
        truth = mrc.read_map(path)
        judged = runs.Run(
            Output(run, overwrite), settings, common, began, truth=path,
            compare=lambda: compare(mrc.read_map(run / "volume.mrc"), truth),
        )  # fmt: skip
        written = write_volume(run, answer)
        trial = partial(MicrographTrial, answer.prepared, job, device=device)
        summary = runs.close(judged, written, runs.verified(judged, trial))
    found = summary["figures"]["compare"]
    common.say(
        f"{summary['result']}\n{summary['figures']['verify']['sentence']}\n"
        f"correlation with the truth {found['correlation']:.4f} (hand {found['hand']}), "
        f"in {summary['seconds']:.0f} s\n{run / 'volume.mrc'}\n{run / 'result.json'}\n{run / 'report.html'}"
    )
    return common.end(summary)


def _structure() -> Path:
    """5PTI, shipped with the package (CC0)."""
    import unpicked

    return Path(unpicked.__file__).parent / "simulate" / "5pti.cif"
