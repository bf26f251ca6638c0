"""``unpicked reproduce``: published experiments again, our figures beside theirs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from unpicked.cli.common import Common, alone, identity, write_text
from unpicked.experiments import NAMES, load
from unpicked.experiments.recovery import require
from unpicked.experiments.table import Row, Runner, Settings, Table, run_of, write
from unpicked.io._files import read_json


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
        Some of its cases, by parts of their names: of proteins and optics, say, those that have one of the parts.
    map
        MRC maps to use where the experiment has stand-ins.
    map_voxel
        Voxel size of these maps in angstrom, where their headers have none.
    out
        Folder of the results.
    overwrite
        Replace the results of an earlier run of this experiment, also of an interrupted one with other settings.
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
    with alone(out, f".{name}"):
        table = _made(out, name, runner, asked, only, overwrite, common)
    return common.end(table.to_json())


def _made(
    out: Path, name: str, runner: Runner, asked: Settings, only: tuple[str, ...], overwrite: bool, common: Common
) -> Table:
    """The table, from the first row or from where an interrupted run ended, written."""
    rows = out / f"{name}.rows.json"
    _claim(out, name, overwrite or rows.exists())  # rows go last: with them there, results are not whole
    kept = _Kept(rows, run_of(runner, asked) | {"maps": identity(asked.maps)}, common.quiet)
    earlier = kept.read(overwrite)
    if earlier:
        count = sum(len(rows) for rows in earlier.values())
        common.say(f"goes on after {count} rows of an interrupted run; without {kept.path} it would begin anew")
    table = runner.run(replace(asked, kept=earlier, finished=kept.add))
    if only:
        table = replace(table, whole=False, notes=(*table.notes, f"only some cases were run: {', '.join(only)}"))
    paths = write(table, out, overwrite=overwrite or rows.exists())
    kept.path.unlink(missing_ok=True)
    common.say("\n".join([table.text(), "", *(str(path) for path in paths)]))
    return table


@dataclass
class _Kept:
    """Finished rows in a file, from which the same run goes on after an interruption.

    Attributes:
        path: the file.
        run: what rows depend on.
        quiet: no line per row on standard error.
        done: rows by their keys.
    """

    path: Path
    run: Mapping[str, Any]
    quiet: bool
    done: dict[str, list[Row]] = field(default_factory=dict)

    def read(self, overwrite: bool) -> dict[str, list[Row]]:
        """Rows of an interrupted run with these settings, which are kept; of one with others none, if they may go."""
        if not self.path.exists():
            return {}
        try:
            found = read_json(self.path)
            run, rows = found["run"], found["rows"]
            sound = all(some and all(isinstance(row, dict) for row in some) for some in rows.values())
        except (ValueError, KeyError, TypeError, AttributeError):
            sound, run, rows = False, None, {}
        if sound and run == self.run:
            self.done.update(rows)
            return dict(self.done)
        if overwrite:
            return {}
        if not sound:
            raise ValueError(f"{self.path} does not hold the rows of an interrupted run; try --overwrite")
        raise ValueError(
            f"{self.path} holds {sum(map(len, rows.values()))} rows of an interrupted run with other settings; go on "
            "with it by its own command, or try --overwrite or another --out"
        )

    def add(self, key: str, rows: list[Row], lines: list[str]) -> None:
        """Keep finished rows, but not those that failed, and tell of them."""
        if key not in self.done and not any(str(row.get("verdict")).startswith("fails") for row in rows):
            self.done[key] = rows
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
