"""``unpicked demo``: the main job on data it makes itself."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

from unpicked.cli import common as shared
from unpicked.cli.common import Common


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
    from unpicked.cli.reconstruct import finish
    from unpicked.cli.simulate import micrographs as simulate
    from unpicked.io import mrc
    from unpicked.recipes import MicrographJob, from_micrographs

    data, run = out / "data", out / "run"
    if not overwrite:
        for folder in (data, run):
            if folder.exists() and any(folder.iterdir()):
                raise ValueError(f"{folder} is not empty; try --overwrite or another --out")
    simulate(
        output=shared.Output(data, overwrite),
        structure=_structure(),
        box=11,
        voxel=5.0,
        count=2,
        size=(448,),
        density=0.12,
        energy=424.0,
        common=Common(seed=common.seed, quiet=common.quiet, json=False),
    )
    job = MicrographJob(box=11)
    micrographs = mrc.read_micrographs([str(data / "micrographs.star")])
    settings = {
        "files": [str(data / "micrographs.star")],
        **asdict(job),
        "contrast": "dark",
        "seed": common.seed,
        "device": device,
    }
    shared.claim(run, overwrite=overwrite, settings=settings)
    answer = from_micrographs(
        micrographs,
        job,
        seed=common.seed,
        checkpoint=run / "checkpoint",
        device=device,
        report=common.progress,
    )
    truth = data / "truth.mrc"
    summary = finish(run, answer, settings, common.seed, time.perf_counter() - began, mrc.read_map(truth), truth)
    found = summary["figures"]["compare"]
    common.say(
        f"{summary['result']}\ncorrelation with the truth {found['correlation']:.4f} (hand {found['hand']}), "
        f"in {summary['seconds']:.0f} s\n{run / 'volume.mrc'}\n{run / 'result.json'}\n{run / 'report.html'}"
    )
    if common.json:
        print(json.dumps(summary))
    return 0


def _structure() -> Path:
    """5PTI, shipped with the package (CC0)."""
    import unpicked

    return Path(unpicked.__file__).parent / "simulate" / "5pti.cif"
