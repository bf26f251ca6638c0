"""The course of every ``reconstruct`` command: claim the folder, solve, write down, compare with a truth, say."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from unpicked import processes
from unpicked._lazy import torch
from unpicked.cli import common as shared
from unpicked.cli.common import Common, Output
from unpicked.io._files import read_json, sync

if TYPE_CHECKING:
    from unpicked.data.maps import Map
    from unpicked.reconstruct import History, Reconstruction, Report
    from unpicked.verify import Trial
    from unpicked.verify.verdict import Verdict

Answer = TypeVar("Answer")  # what a recipe gives
Job = TypeVar("Job")


class Compared(Protocol):
    """What comes of comparing an answer with the truth."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""


@dataclass(frozen=True)
class Run:
    """One run of a command, its input read and checked.

    Attributes:
        output: the run folder.
        settings: told in ``result.json``.
        common: the options of all commands.
        began: when the command began, by ``time.perf_counter``.
        resume: go on from the folder's checkpoint.
        truth: file of the truth.
        compare: compares the answer in the folder with the truth; None where none is given.
        live: whether the run is shown on a page while it goes on.
    """

    output: Output
    settings: Mapping[str, Any]
    common: Common
    began: float
    resume: bool = False
    truth: Path | None = None
    compare: Callable[[], Compared] | None = None
    live: bool = False


@dataclass(frozen=True)
class Written:
    """What is told of an answer whose own files lie in the run folder.

    Attributes:
        data: what is told of the data, beside the notes.
        last: the run whose answer it is.
        passes: histories by name.
        figures: of the answer.
        notes: sentences: assumed, tried, found.
        words: file and figures, for the reader.
        compared: says in words what a comparison with the truth gave.
    """

    data: Mapping[str, Any]
    last: Reconstruction
    passes: Iterable[tuple[str, History]]
    figures: Mapping[str, Any]
    notes: tuple[str, ...]
    words: str
    compared: Callable[[Mapping[str, Any]], str]


def complete(
    run: Run,
    files: Iterable[str | Path],
    solve: Callable[..., Answer],
    write: Callable[[Path, Answer], Written],
    notes: tuple[str, ...] = (),
    trial: Callable[..., Trial[Any]] | None = None,
) -> int:
    """Fill a run folder and say what was found; a finished run with the same settings is only compared and drawn.

    Of several processes the first one writes and speaks.

    Args:
        run: from where, and where to.
        files: of the data.
        solve: takes ``seed``, ``checkpoint``, ``resume`` and ``report``.
        write: writes the answer's own files.
        notes: the first of the answer's notes, which can be said before it is sought.
        trial: takes ``checkpoint``, ``resume`` and ``report``; None leaves the answer unverified.
    """
    with shared.alone(run.output.out) if processes.leads() else nullcontext():
        return _completed(run, files, solve, write, notes, trial)


def _completed(
    run: Run,
    files: Iterable[str | Path],
    solve: Callable[..., Answer],
    write: Callable[[Path, Answer], Written],
    notes: tuple[str, ...],
    trial: Callable[..., Trial[Any]] | None,
) -> int:
    common, folder = run.common, run.output.out
    known = {**run.settings, "data_files": shared.identity(files)}
    claimed = partial(shared.claim, folder, overwrite=run.output.overwrite, resume=run.resume, settings=known)
    if processes.agreed(claimed):
        return processes.first(lambda: _told_again(run)) or 0
    for note in notes:
        common.say(note)
    with shown(run) as report:
        answer = solve(seed=common.seed, checkpoint=folder / "checkpoint", resume=run.resume, report=report)
        written = processes.first(lambda: write(folder, answer))
        verdict = None if trial is None else verified(run, trial, report)
    if written is None:
        return 0
    summary = close(run, written, verdict)
    for note in written.notes[len(notes) :]:
        common.say(note)
    common.say(f"{summary['result']}\n{written.words}; verdict: {summary['verdict']}; see {folder / 'report.html'}")
    if verdict is not None:
        common.say(verdict.sentence)
    if run.compare is not None:
        common.say(written.compared(summary["figures"]["compare"]))
    return common.end(summary)


def _told_again(run: Run) -> int:
    """Compare and draw a finished run."""
    folder, common = run.output.out, run.common
    if run.compare is not None or not (folder / "report.html").exists():
        judge(run)
    common.say(f"{folder} holds a finished run with these settings")
    return common.end(json.loads((folder / "result.json").read_text()))


@contextmanager
def shown(run: Run) -> Iterator[Report]:
    """What is called after every pass: progress and, if asked for, a live page until the block ends."""
    progress = run.common.progress
    if not (run.live and processes.leads()):
        yield progress
        return
    from unpicked.report.live import Live

    with Live(run.output.out.resolve().name) as page:
        if page.url:
            print(f"live page: {page.url}", file=sys.stderr, flush=True)
        else:
            print(f"no live page ({page.trouble}); the run goes on", file=sys.stderr, flush=True)

        def both(name: str, row: dict[str, float]) -> None:
            progress(name, row)
            page.add(name, row)

        yield both


def verified(run: Run, trial: Callable[..., Trial[Any]], report: Report | None = None) -> Verdict:
    """The verdict on a pipeline; its fits keep their state beside that of the run."""
    from unpicked.verify import verify

    common = run.common
    place = run.output.out / "checkpoint" / "verify"
    told = report or common.progress
    return verify(trial(checkpoint=place, resume=run.resume, report=told), seed=common.seed)


def close(run: Run, written: Written, verdict: Verdict | None = None) -> dict[str, Any]:
    """Write ``history.csv`` and ``result.json``, which is written last: it marks a finished run; then :func:`judge`.

    The seconds told are those of this process; a resumed run took at least as long as its passes.
    """
    folder, seconds = run.output.out, time.perf_counter() - run.began
    rows = [(name, row) for name, history in written.passes for row in history]
    shared.write_history(folder / "history.csv", rows)
    summary = {
        **shared.header(run.settings, run.common.seed),
        "data": {**written.data, "notes": list(written.notes), "truth": None},
        "result": written.last.result.value,
        "verdict": "not verified" if verdict is None else verdict.verdict,
        "figures": {**written.figures, **({} if verdict is None else {"verify": verdict.to_json()})},
        "seconds": max(seconds, sum(row["seconds"] for _, row in rows)),
        "peak_memory_mb": shared.peak_memory_mb(),
    }
    for path in folder.iterdir():
        if path.is_file():
            sync(path)  # a power cut must not leave a finished run without its files
    shared.write_text(folder / "result.json", json.dumps(summary, indent=2) + "\n")
    return judge(run)


def judge(run: Run) -> dict[str, Any]:
    """Compare a finished run with the truth, where one is given, and draw its page; returns ``result.json``."""
    from unpicked.report import report

    path = run.output.out / "result.json"
    summary: dict[str, Any] = json.loads(path.read_text())
    if run.compare is not None:
        summary["figures"]["compare"] = run.compare().to_json()
        summary["data"]["truth"] = None if run.truth is None else str(run.truth.resolve())
        shared.write_text(path, json.dumps(summary, indent=2) + "\n")
    report(run.output.out)
    return summary


def write_maps(folder: Path, map: Map, halves: Sequence[Any] | None) -> None:
    """``volume.mrc``, ``mask.mrc`` around its molecule, and ``half1.mrc`` and ``half2.mrc`` where there are halves."""
    from unpicked.evaluate.mask import mask_around
    from unpicked.io import mrc

    mrc.write_map(map, folder / "volume.mrc", overwrite=True)
    mrc.write_map(mask_around(map), folder / "mask.mrc", overwrite=True)
    for number, half in enumerate((halves or ())[:2], 1):
        mrc.write_map(half, folder / f"half{number}.mrc", overwrite=True)


def finished(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """``result.json`` of a run folder, which is written last, and the settings in it.

    Raises:
        ValueError: where the folder holds no run, or one that has not ended.
    """
    path = folder / "result.json"
    try:
        summary = read_json(path)
        if not isinstance(summary["figures"], dict) or not isinstance(summary.get("seconds", 0.0), int | float):
            raise TypeError("figures or seconds are not what a run writes")
        return summary, dict(summary["settings"])
    except (FileNotFoundError, NotADirectoryError):
        if (folder / "settings.json").is_file():
            raise ValueError(
                f"{folder} holds no finished run (no result.json yet); end it by the same reconstruct with --resume"
            ) from None
        raise ValueError(
            f"{folder} holds no finished run (no result.json); give the --out folder of a reconstruction"
        ) from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); run the reconstruction again") from None


def held_files(folder: Path) -> list[str]:
    """The files of a run's data as they were then, see ``identity``; none where its folder does not say."""
    try:
        return [str(entry) for entry in read_json(folder / "settings.json").get("data_files", [])]
    except (OSError, ValueError, AttributeError, TypeError):
        return []


def job_of(kind: Callable[..., Job], settings: Mapping[str, Any]) -> Job:
    """The job of some settings, lists as tuples."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    chosen = {name: value for name, value in settings.items() if name in names}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()})


def histories(stages: Mapping[str, Reconstruction]) -> list[tuple[str, History]]:
    """The histories of all sub-runs of all stages, by name."""
    return [(f"{stage} {name}", rows) for stage, run in stages.items() for name, rows in run.histories.items()]


def read_target(path: Path | None, option: str, shape: tuple[int, ...], kinds: int) -> torch.Tensor | None:
    """A signal or image from a .npy file, ``shape`` or ``(kinds, *shape)``; None for no file."""
    if path is None:
        return None
    from unpicked.io import npy

    values = npy.read_array(path)
    wanted = shape if kinds == 1 else (kinds, *shape)
    if tuple(values.shape) != wanted:
        raise ValueError(f"{option} must hold an array of shape {wanted}; got {tuple(values.shape)}")
    return values


def read_start(start: str, shape: tuple[int, ...], kinds: int) -> torch.Tensor | Literal["autocorrelation"] | None:
    """What ``--start`` names: a .npy file, the answer of another method, or nothing ("random")."""
    if start == "autocorrelation":
        return "autocorrelation"
    return None if start == "random" else read_target(Path(start), "--start", shape, kinds)


def per_copy(figures: Mapping[str, Any]) -> str:
    """The figures of a signal's or an image's target in words."""
    energy, density = (figures.get(name, float("nan")) for name in ("energy", "density"))
    return f"E = {energy:.3g} per copy, density {density:.4g}, sigma {figures['sigma']:.4g}"
