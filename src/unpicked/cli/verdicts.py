"""``unpicked verify``: whether the data of a finished run support its answer."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from unpicked import processes
from unpicked.cli import common as shared
from unpicked.cli import micrographs, runs
from unpicked.cli.common import Common
from unpicked.cli.specimens import given, refuse
from unpicked.cli.stacks import Input
from unpicked.io._files import read_json
from unpicked.recipes.particle_job import ParticleJob

if TYPE_CHECKING:
    from unpicked.verify import Trial
    from unpicked.verify.agreement import Rival
    from unpicked.verify.omit import Omitted

NOT_SUPPORTED = 4  # exit status with --strict
DECOYS = 1000
SURROGATES, STARTS, OMITS = 4, 3, 1


@Parameter(name="*")
@dataclass(frozen=True)
class Sought:
    """A map that is looked for in micrographs."""

    map: Path | None = None
    """MRC map, matter bright: do the micrographs contain it?"""
    decoys: int | None = None
    """With --map: wrong maps that it is ranked among, at most 1000 if not given; p is at least 1 / (decoys + 1)."""
    map_voxel: float | None = None
    """With --map: its voxel size in angstrom, where its header has none."""
    voxel: float | None = None
    """With --map: working voxel size in angstrom; the coarser one of map and micrographs if not given."""
    density: float | None = None
    """With --map: fraction of the micrographs that boxes of particles cover; estimated if not given."""
    ignore_ctf: bool = False
    """With --map: leave the contrast transfer that the files state out of the model."""
    noise: Literal["auto", "white", "coloured"] | None = None
    """With --map: spectrum of the noise, flat, or measured in every micrograph, which is then whitened; auto, if not
    given: measured where the files state contrast transfer."""

    def __post_init__(self) -> None:
        if self.map is None:
            refuse(given(self), "{} needs --map")
        if self.decoys is not None and self.decoys < 1:
            raise ValueError(f"--decoys must be at least 1; got {self.decoys}")
        if self.voxel is not None and not (math.isfinite(self.voxel) and self.voxel > 0):
            raise ValueError(f"--voxel must be positive, in angstrom; got {self.voxel}")
        if self.density is not None and not 0 < self.density < 1:
            raise ValueError(f"--density must lie between 0 and 1, as a covered fraction; got {self.density}")


def verify(
    paths: list[str],
    /,
    *,
    surrogates: int | None = None,
    starts: int | None = None,
    omits: int | None = None,
    strict: bool = False,
    sought: Sought = Sought(),
    input: Annotated[micrographs.Input, Parameter(name="*", group="Micrographs, with --map")] = micrographs.Input(),
    common: Common = Common(),
) -> int:
    """Judge a finished run by its own data, or ask whether micrographs contain a given map.

    A run: two folds, three nulls, data of random phases, other random starts, and, where it started from a map, again
    from a part of that map. The verdict is written into the run's result.json and heads its report again; a stopped
    verification goes on where it was. With --map nothing of the structure is fitted: the map must explain the
    micrographs better than the nulls do, and than other folds of its size, shape and spectrum.

    Example:
        unpicked verify run --surrogates 4
        unpicked verify --map predicted.mrc micrographs/*.mrc --voxel 5

    Parameters
    ----------
    paths
        Folder of a finished reconstruction from a signal, images, micrographs or particles, whose data must be where
        they were; with --map, micrographs: MRC or TIFF files, folders, quoted globs, a micrographs STAR file, or a .cs
        file of exposures.
    surrogates
        Data sets of random phases that go through the same pipeline, 4 if not given; none may be explained as well as
        the data. Each takes about half as long as the reconstruction.
    starts
        Random starts of the first half of the data that are laid beside one another, 3 if not given. Each beyond the
        first takes about half as long as the reconstruction.
    omits
        Times that a part of the map is removed from which a run on micrographs started, 1 if not given: does it come
        back from the data? Each takes about half as long as the reconstruction.
    strict
        Exit with status 4 where the verdict is not "supported".
    """
    device = common.begin(many=sought.map is None)
    if sought.map is None:
        refuse(input.given(), "{} needs --map")
    if sought.map is not None:
        for name, value in (("--surrogates", surrogates), ("--starts", starts), ("--omits", omits)):
            if value is not None:
                raise ValueError(f"{name} is for a finished run; with --map give --decoys")
        status, word = _claim(paths, sought.map, sought, input, device, common)
    elif len(paths) != 1:
        raise ValueError(f"give one run folder, or micrographs with --map; got {len(paths)} paths")
    else:
        counts = {
            "surrogates": SURROGATES if surrogates is None else surrogates,
            "starts": (STARTS if starts is None else starts) - 1,
            "omits": omits,
        }
        run = Path(paths[0])
        with shared.alone(run) if run.is_dir() and processes.leads() else nullcontext():
            status, word = _run(run, counts, device, common)
    return NOT_SUPPORTED if strict and word != "supported" else status


def _run(run: Path, wanted: Mapping[str, int | None], device: str, common: Common) -> tuple[int, str]:
    """Judge a finished run, with so many surrogates and starts beside its own; exit status and verdict."""
    if common.seed:
        raise ValueError(f"--seed is for --map: a run is judged by the seed that it was made with; got {common.seed}")
    summary, settings = runs.finished(run)
    counts = {name: value for name, value in wanted.items() if value is not None}
    counts |= {"omits": _omits(settings, summary, wanted["omits"])}
    if counts["surrogates"] < 0:
        raise ValueError(f"--surrogates must not be negative; got {counts['surrogates']}")
    if counts["starts"] < 0:
        raise ValueError(f"--starts must be at least 1; got {counts['starts'] + 1}")
    _unchanged(run)
    from unpicked.checkpoint import OtherRun
    from unpicked.report import report
    from unpicked.verify import verify_with_surrogates
    from unpicked.verify.agreement import Rival

    place = run / "checkpoint" / "verify"
    trial = partial(trial_of(run, summary, settings, device), checkpoint=place, report=common.progress)
    seed = int(settings.get("seed", 0))
    path = run / "verify.json"
    known = _known(path, seed)
    left = sum(max(0, wanted - len(known[name])) for name, wanted in counts.items())
    expected = float(summary.get("seconds", math.nan)) * (1.2 + 0.6 * left)
    plan = f"two folds, {counts['surrogates']} surrogates and {counts['starts']} more starts"
    plan += f", {counts['omits']} from a part of the start map" if counts["omits"] else ""
    common.say(f"{plan}: about {expected:.0f} s by the time that the run took")
    began = time.perf_counter()

    def tell(name: str, rival: Rival | Omitted) -> None:
        known[name].append(rival)
        kept = {each: [one.to_json() for one in rivals] for each, rivals in known.items()}
        processes.first(lambda: shared.write_text(path, json.dumps({"seed": seed} | kept) + "\n"))
        over = "its best null" if name == "surrogates" else "the first start"
        told = f"{rival.gain:+.1f} log units over {over}" if isinstance(rival, Rival) else rival.sentence
        common.say(f"{name} {len(known[name])} of {counts[name]}: {told}")

    judged = partial(
        verify_with_surrogates,
        count=counts["surrogates"],
        starts=counts["starts"],
        omits=counts["omits"],
        seed=seed,
        known={name: tuple(rivals) for name, rivals in known.items()},
        tell=tell,
    )
    try:
        found = judged(trial(resume=True))
    except OtherRun:  # what lies there was made in another way, by an earlier version for one
        processes.first(lambda: shutil.rmtree(place))
        found = judged(trial(resume=False))
    if not processes.leads():
        return 0, found.verdict
    summary["verdict"] = found.verdict
    summary["figures"]["verify"] = found.to_json()
    shared.write_text(run / "result.json", json.dumps(summary, indent=2) + "\n")
    report(run)
    told = found.to_json()
    took = time.perf_counter() - began
    common.say(f"{found.sentence}\nverdict: {found.verdict}, in {took:.0f} s; see {run / 'report.html'}")
    return common.end({name: told[name] for name in ("verdict", "z", "evidence")}), found.verdict


def _claim(
    paths: list[str], path: Path, sought: Sought, input: micrographs.Input, device: str, common: Common
) -> tuple[int, str]:
    """Whether micrographs contain a map; exit status and verdict."""
    from unpicked.io import mrc
    from unpicked.recipes.claims import claimed
    from unpicked.verify.claims import judge_claim

    map = mrc.read_map(path, voxel_size=sought.map_voxel)
    data = input.read(paths)
    claim = claimed(
        data, map, voxel=sought.voxel, density=sought.density, ignore_ctf=sought.ignore_ctf,
        noise=sought.noise or "auto", seed=common.seed, device=device,
    )  # fmt: skip
    for note in claim.notes:
        common.say(note)
    began, decoys = time.perf_counter(), sought.decoys or DECOYS

    def tell(done: int, left: int, above: int) -> None:
        if not common.quiet:
            told = f"{done} of {decoys} decoys done, {left} in the race, {above} above the map"
            print(f"{told}, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)

    found = judge_claim(claim, decoys, seed=common.seed, tell=tell)
    common.say(found.sentence)
    if found.verdict == "supported":
        common.say("its mirror image explains them equally well: the hand is not in untilted data")
    common.say(f"verdict: {found.verdict}, in {time.perf_counter() - began:.0f} s")
    return common.end(found.to_json()), found.verdict


def trial_of(
    run: Path, summary: Mapping[str, Any], settings: Mapping[str, Any], device: str
) -> Callable[..., Trial[Any]]:
    """The data and the pipeline of a run, as its settings say.

    Raises:
        ValueError: for data that have no verdict, or that are no longer there.
    """
    from unpicked.cli.reconstruct import read_start, trial_of_run
    from unpicked.io import mrc, npy
    from unpicked.io.micrographs import read_micrographs
    from unpicked.recipes import ImageJob, SignalJob, ready
    from unpicked.recipes.images import ready as images_ready
    from unpicked.recipes.trials import ImageTrial, SignalTrial

    kind = str(dict(summary.get("data") or {}).get("kind", "micrographs"))
    start = str(settings.get("start", "random"))
    if kind == "signal":
        signals = runs.job_of(SignalJob, settings)
        signal = npy.read_signal(Path(settings["file"]))
        first = runs.read_start(start, (signals.length,), signals.classes)
        return partial(SignalTrial, signal, signals, first)
    if kind == "image":
        planar = runs.job_of(ImageJob, settings)
        images = read_micrographs(list(settings["files"]), pixel_size=1.0, contrast="bright")
        target = runs.read_start(start, (planar.length,) * 2, planar.classes)
        return partial(ImageTrial, images_ready(images, planar, target), planar, target)
    if kind == "micrographs":
        volumes = micrographs.job_of_run(settings)
        data = micrographs.Input.of(settings).read(list(settings["files"]))
        begun = read_start(start)
        return partial(trial_of_run, run, ready(data, volumes, begun), volumes, begun, device=device)
    if kind == "particles":
        from unpicked.recipes.stack_trials import ParticleTrial

        if settings.get("method") == "known":
            raise ValueError("a map of given poses has no verdict: they come from all of the images; try --method auto")
        stack, job = Input.of(settings).read(Path(settings["file"]), runs.job_of(ParticleJob, settings))
        map = None if settings.get("start") is None else mrc.read_map(Path(settings["start"]))
        return partial(ParticleTrial, stack, job, map, device=device)
    raise ValueError(f"runs on {kind} have no verdict; signals, images, micrographs and particles have")


def _unchanged(run: Path) -> None:
    """Refuse data that are no longer those of the run."""
    for entry in runs.held_files(run):
        path = entry.rsplit(" ", 2)[0]
        if shared.identity([path]) != [entry]:
            raise ValueError(f"{path} is gone or was changed since the run in {run}; put it back, or run again")


def _omits(settings: Mapping[str, Any], summary: Mapping[str, Any], wanted: int | None) -> int:
    """How often a part of the start map is removed: never where there is no map, or not of micrographs."""
    kind = dict(summary.get("data") or {}).get("kind", "micrographs")
    begun = settings.get("start", "random") not in ("random", "autocorrelation") or bool(
        settings.get("structures") or settings.get("denoiser")
    )
    template = kind == "micrographs" and begun
    if wanted is not None and wanted < 0:
        raise ValueError(f"--omits must not be negative; got {wanted}")
    if wanted and not template:
        raise ValueError(
            "--omits needs a run on micrographs that started from a map, or with --structures or --denoiser; this one, "
            f"on {kind}, did not"
        )
    return (OMITS if wanted is None else wanted) if template else 0


def _known(path: Path, seed: int) -> dict[str, list[Any]]:
    """Surrogates, starts and parts of the start that an earlier call has judged."""
    from unpicked.verify import REPEATED
    from unpicked.verify.agreement import Rival
    from unpicked.verify.omit import Omitted

    try:
        kept = read_json(path)
        if kept["seed"] == seed:
            kinds = {name: Omitted if name == "omits" else Rival for name in REPEATED}
            return {name: [kind.of_json(one) for one in kept.get(name, [])] for name, kind in kinds.items()}
    except (OSError, KeyError, TypeError, ValueError, OverflowError, AttributeError):
        pass
    return {name: [] for name in REPEATED}
