"""What every ``reconstruct`` command does with its run folder: write the answer down, compare it with a truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from unpicked.cli import common as shared
from unpicked.cli.common import Common

if TYPE_CHECKING:
    from unpicked.reconstruct import History, Reconstruction


class Compared(Protocol):
    """What comes of comparing an answer with the truth."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""


def histories(stages: Mapping[str, Reconstruction]) -> list[tuple[str, History]]:
    """The histories of all sub-runs of all stages, by name."""
    return [(f"{stage} {name}", rows) for stage, run in stages.items() for name, rows in run.histories.items()]


def close(
    folder: Path,
    settings: Mapping[str, Any],
    seed: int,
    seconds: float,
    last: Reconstruction,
    *,
    data: Mapping[str, Any],
    figures: Mapping[str, Any],
    passes: Iterable[tuple[str, History]],
) -> None:
    """Write ``history.csv`` and ``result.json``, which is written last: it marks a finished run.

    Args:
        folder: of the run, where its outputs are.
        settings: of the run.
        seed: of the run.
        seconds: wall-clock time of this process; a resumed run took at least as long as its passes.
        last: the run whose answer it is.
        data: what is told of the data.
        figures: of the answer.
        passes: histories by name.
    """
    rows = [(name, row) for name, history in passes for row in history]
    shared.write_history(folder / "history.csv", rows)
    summary = {
        **shared.header(settings, seed),
        "data": {**data, "truth": None},
        "result": last.result.value,
        "verdict": "not verified",
        "figures": dict(figures),
        "seconds": max(seconds, sum(row["seconds"] for _, row in rows)),
        "peak_memory_mb": shared.peak_memory_mb(),
    }
    shared.write_text(folder / "result.json", json.dumps(summary, indent=2) + "\n")


def compare(folder: Path, found: Compared | None, truth: Path | None) -> dict[str, Any]:
    """Put a comparison with the truth, where there is one, into ``result.json``, and return what is there."""
    path = folder / "result.json"
    summary: dict[str, Any] = json.loads(path.read_text())
    if found is not None:
        summary["figures"]["compare"] = found.to_json()
        summary["data"]["truth"] = None if truth is None else str(truth.resolve())
        shared.write_text(path, json.dumps(summary, indent=2) + "\n")
    return summary


def again(folder: Path, common: Common, judge: Callable[[], object], *, truth: bool) -> int:
    """A finished run with the same settings is there: compare and draw what was not, and say so."""
    if truth or not (folder / "report.html").exists():
        judge()
    common.say(f"{folder} holds a finished run with these settings")
    if common.json:
        print(json.dumps(json.loads((folder / "result.json").read_text())))
    return 0
