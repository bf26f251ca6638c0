"""``unpicked reproduce``: published experiments again, our figures beside theirs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from unpicked.cli.common import Common, write_text
from unpicked.experiments import NAMES, load
from unpicked.experiments.recovery import require
from unpicked.experiments.table import Row, Settings, run_of, write


def reproduce(
    name: str | None = None,
    /,
    *,
    show: Annotated[bool, Parameter("--list")] = False,
    full: bool = False,
    seeds: int | None = None,
    only: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    map: tuple[Path, ...] = (),
    map_voxel: float | None = None,
    out: Path = Path("reproduced"),
    overwrite: bool = False,
    common: Common = Common(),
) -> int:
    """Run a published experiment: our figures beside the published ones, in OUT/NAME.json and OUT/NAME.svg.

    Rows are kept in OUT/NAME.rows.json as they are finished; the same command again goes on after the last of them.

    Example:
        unpicked reproduce talk-em --seeds 1 --out reproduced

    Parameters
    ----------
    name
        Which one; see --list.
    show
        Print the names, what they show and how long they take.
    full
        The sizes as published instead of those for a first look.
    seeds
        Runs per setting; the experiment's own number if not given.
    only
        Some of its cases, by words in their names, such as BPTI.
    map
        MRC maps to use where the experiment has stand-ins.
    map_voxel
        Voxel size of these maps in angstrom, where their headers have none.
    out
        Folder of the results.
    overwrite
        Replace the results of an earlier run of this experiment.
    """
    if show:
        return _list(common.json)
    if name is None:
        raise ValueError(f"give the name of an experiment: {', '.join(NAMES)}; --list tells more")
    experiment = load(name)
    device = common.begin()
    for path in map:
        if not path.exists():
            raise FileNotFoundError(f"--map {path} was not found")
    for needed in experiment.needs:
        require(needed, name)
    runner = experiment.sizes(full, only)
    asked = Settings(common.seed, seeds, map, map_voxel, device)
    _claim(out, name, overwrite)
    kept = _Kept(out / f"{name}.rows.json", run_of(runner, asked), common.quiet)
    earlier = [] if overwrite else kept.earlier()
    if earlier:
        common.say(f"goes on after {sum(len(rows) for rows in earlier)} rows of an interrupted run, of {kept.path}")
    table = runner.run(replace(asked, kept=iter(earlier), finished=kept.add))
    paths = write(table, out, overwrite=overwrite)
    kept.path.unlink(missing_ok=True)
    common.say("\n".join([table.text(), "", *(str(path) for path in paths)]))
    return common.end(table.to_json())


@dataclass
class _Kept:
    """Finished rows in a file, from which the same run goes on after an interruption.

    Attributes:
        path: the file.
        run: what rows depend on.
        quiet: no line per row on standard error.
        done: rows so far, a list for what was computed together.
    """

    path: Path
    run: Mapping[str, Any]
    quiet: bool
    done: list[list[Row]] = field(default_factory=list)

    def earlier(self) -> list[list[Row]]:
        """Rows of an interrupted run with these settings."""
        if not self.path.exists():
            return []
        try:
            found = json.loads(self.path.read_text())
            run, rows = found["run"], found["rows"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{self.path} does not hold the rows of an interrupted run; try --overwrite") from None
        if run != self.run:
            raise ValueError(
                f"{self.path} holds {sum(map(len, rows))} rows of an interrupted run with other settings; go on "
                "with it by its own command, or try --overwrite or another --out"
            )
        return list(rows)

    def add(self, rows: list[Row], lines: list[str]) -> None:
        """Keep finished rows, and tell of them."""
        self.done.append(rows)
        write_text(self.path, json.dumps({"run": self.run, "rows": self.done}, indent=2) + "\n")
        if not self.quiet:
            print("\n".join(lines), file=sys.stderr, flush=True)


def _list(as_json: bool) -> int:
    found = [load(name) for name in NAMES]
    if as_json:
        keys = ("name", "summary", "source", "minutes")
        print(json.dumps([{key: getattr(experiment, key) for key in keys} for experiment in found]))
        return 0
    width = max(len(experiment.name) for experiment in found)
    for experiment in found:
        quick, full = (_duration(minutes) for minutes in experiment.minutes)
        print(f"{experiment.name:{width}s}  {experiment.summary}")
        print(f"{'':{width}s}  {experiment.source}")
        print(f"{'':{width}s}  about {quick} on two cores, with --full about {full}")
    return 0


def _claim(out: Path, name: str, overwrite: bool) -> None:
    """Make the folder, where nothing of this experiment may lie."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder")
    for path in (out / f"{name}.json", out / f"{name}.svg"):
        if path.exists() and not overwrite:
            raise ValueError(f"{path} exists; try --overwrite or another --out")
    out.mkdir(parents=True, exist_ok=True)


def _duration(minutes: float) -> str:
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"
