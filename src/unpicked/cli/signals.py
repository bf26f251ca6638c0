"""``unpicked simulate signal``, ``unpicked reconstruct signal`` and ``unpicked compare-signal``."""

from __future__ import annotations

import json as js
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from unpicked._lazy import torch
from unpicked.cli import common as shared
from unpicked.cli import runs
from unpicked.cli.common import Common, Output
from unpicked.recipes import SignalJob

if TYPE_CHECKING:
    from unpicked.recipes import SignalAnswer


def simulate(
    *,
    out: Path,
    target: str = "step",
    length: int | None = None,
    samples: int | None = None,
    occurrences: int | None = None,
    density: float = 0.1,
    sigma: float = 1.0,
    spacing: Literal["separated", "arbitrary", "dense"] = "separated",
    classes: int = 1,
    overwrite: bool = False,
    common: Common = Common(),
) -> int:
    """Simulate one long signal: copies of a short target at unknown places in white noise.

    Example:
        unpicked simulate signal --out y.npy --target step --length 21 --samples 100000 --density 0.3 --sigma 1

    Parameters
    ----------
    out
        File for the signal, .npy; beside it .truth.json and .target.npy are written.
    target
        step, gauss, bump (two of them), or a .npy file with the target, (length,) or (kinds, length).
    length
        Samples of the target, 21 if not given; of a file, its own.
    samples
        Length of the signal.
    occurrences
        Number of copies, instead of the length of the signal.
    density
        Covered fraction: copies x length / samples.
    sigma
        Standard deviation of the noise; the built-in targets have mean square 1.
    spacing
        Least distance of the starts of two copies: separated (2 length - 1), arbitrary (length) or dense (half of it).
    classes
        Kinds of target: the given one, and its successors step, gauss, bump, or the rows of the file.
    overwrite
        Replace the files of an earlier simulation.
    """
    common.begin()
    if out.suffix != ".npy":
        raise ValueError(f"--out must be the name of a .npy file; got {out}")
    if (samples is None) == (occurrences is None):
        raise ValueError("give exactly one of --samples and --occurrences")
    from unpicked.io import npy
    from unpicked.simulate.signals import simulate_signal

    targets = _targets(target, length, classes)
    signal, truth = simulate_signal(
        targets, samples=samples, occurrences=occurrences, density=density, sigma=sigma, spacing=spacing,
        seed=common.seed, block=1 << 20,
    )  # fmt: skip
    paths = out, out.with_suffix(".truth.json"), out.with_suffix(".target.npy")
    for path in paths:
        if path.exists() and not overwrite:
            raise ValueError(f"{path} exists; try --overwrite or another --out")
    if not out.parent.is_dir():
        raise ValueError(f"folder {out.parent} does not exist; make it first")
    npy.write_signal(signal, out, overwrite=overwrite)
    npy.write_array(targets[0] if len(targets) == 1 else targets, paths[2], overwrite=overwrite)
    facts = shared.write_facts(paths[1], truth.facts())
    common.say(
        f"{out}: {signal.length} samples, {truth.occurrences} copies at density {truth.density:.4f}, "
        f"E = {truth.energy:.3g} per copy"
    )
    return common.end(facts)


def reconstruct(
    file: Path,
    /,
    *,
    job: Annotated[SignalJob, Parameter(name="*")],
    output: Output,
    start: str = "random",
    truth: Path | None = None,
    resume: bool = False,
    no_verify: bool = False,
    live: bool = False,
    common: Common = Common(),
) -> int:
    """Find the target that a long signal holds many times, at unknown places.

    Example:
        unpicked reconstruct signal y.npy --length 21 --out run

    Parameters
    ----------
    file
        The signal: a .npy file of float32 or float64 samples, of any size.
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
    from unpicked.evaluate.signals import compare_signals
    from unpicked.io import npy
    from unpicked.recipes import from_signal
    from unpicked.recipes.signals import ready
    from unpicked.recipes.trials import SignalTrial

    data = npy.read_signal(file)
    first = runs.read_start(start, (job.length,), job.classes)
    target = runs.read_target(truth, "--truth", (job.length,), job.classes)
    ready(data, job, first)
    settings = {
        "file": str(file),
        **asdict(job),
        "start": start,
        "seed": common.seed,
    }
    judge = None if target is None else lambda: compare_signals(npy.read_array(output.out / "target.npy"), target)
    run = runs.Run(output, settings, common, began, resume, truth, judge, live)
    trial = None if no_verify else partial(SignalTrial, data, job, first)
    return runs.complete(run, [file], partial(from_signal, data, job, start=first), _write, trial=trial)


def compare(estimate: Path, truth: Path, /, *, rotations: bool = False, json: bool = False) -> int:
    """Compare an estimated target with the truth: relative error, without and with a shift.

    Example:
        unpicked compare-signal run/target.npy y.target.npy --json

    Parameters
    ----------
    estimate
        .npy file, (length,) or (kinds, length); of images (length, length) or (kinds, length, length).
    truth
        .npy file of the same shape.
    rotations
        Images may be turned in their plane, each kind by its own angle.
    json
        Print one JSON object.
    """
    from unpicked.evaluate.images import compare_images
    from unpicked.evaluate.signals import compare_signals
    from unpicked.io import npy

    ours, theirs = npy.read_array(estimate), npy.read_array(truth)
    if rotations or ours.dim() == 3 or (ours.dim() == 2 and ours.shape[0] == ours.shape[1]):
        facts = compare_images(ours, theirs, rotations=rotations).to_json()
    else:
        facts = compare_signals(ours, theirs).to_json()
    if json:
        print(js.dumps(facts))
        return 0
    print(f"relative error             {facts['relative_error']:.4f}")
    print(f"relative error, shifted    {facts['relative_error_shifted']:.4f}")
    print(f"shift                      {facts['shift']}")
    if "angle_deg" in facts:
        print(f"angle                      {facts['angle_deg']:.2f} degrees")
    return 0


def _write(folder: Path, answer: SignalAnswer) -> runs.Written:
    """Target and standard errors."""
    from unpicked.io import npy

    npy.write_array(answer.target, folder / "target.npy", overwrite=True)
    if answer.errors is not None:
        npy.write_array(answer.errors, folder / "errors.npy", overwrite=True)
    figures = answer.figures()
    return runs.Written(
        data={"kind": "signal", "signals": answer.data.rows, "samples": answer.data.length},
        last=answer.run,
        passes=answer.run.histories.items(),
        figures=figures,
        notes=answer.notes,
        words=f"{folder / 'target.npy'}: {runs.per_copy(figures)}",
        compared=_compared,
    )


def _compared(found: Mapping[str, Any]) -> str:
    return (
        f"relative error {found['relative_error']:.3f}, with a shift of {found['shift']:g} samples "
        f"{found['relative_error_shifted']:.3f}"
    )


def _targets(name: str, length: int | None, classes: int) -> torch.Tensor:
    """Targets ``(kinds, L)`` of a name or a file."""
    from unpicked.io import npy
    from unpicked.simulate.signals import TARGETS
    from unpicked.simulate.signals import target as built_in

    if classes < 1:
        raise ValueError(f"--classes must be at least 1; got {classes}")
    if name in TARGETS:
        if length is not None and length < 2:
            raise ValueError(f"--length must be at least 2 samples; got {length}")
        if classes > len(TARGETS):
            raise ValueError(f"--classes must be at most {len(TARGETS)} for built-in targets; got {classes}")
        first = TARGETS.index(name)
        names = [TARGETS[(first + kind) % len(TARGETS)] for kind in range(classes)]
        return torch.stack([built_in(each, length or 21) for each in names])
    if not name.endswith(".npy"):
        raise ValueError(f"--target must be one of {', '.join(TARGETS)}, or a .npy file; got {name!r}")
    found = torch.atleast_2d(npy.read_array(name, "a target"))
    if found.dim() != 2 or (classes > 1 and len(found) != classes):
        raise ValueError(f"{name} must hold (length,) or (kinds, length); got {tuple(found.shape)}")
    if length is not None and found.shape[1] != length:
        raise ValueError(f"{name} holds targets of {found.shape[1]} samples; --length says {length}; leave it out")
    return found
