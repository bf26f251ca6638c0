"""``unpicked reproduce``: published experiments again, our figures beside theirs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unpicked.cli.common import Common, write_text
from unpicked.experiments import NAMES, load
from unpicked.experiments.recovery import require
from unpicked.experiments.table import Row, Settings, write


def reproduce(
    name: str | None = None,
    /,
    *,
    show: Annotated[bool, Parameter("--list")] = False,
    full: bool = False,
    seeds: int | None = None,
    map: tuple[Path, ...] = (),
    map_voxel: float | None = None,
    out: Path = Path("reproduced"),
    overwrite: bool = False,
    common: Common = Common(),
) -> int:
    """Run a published experiment: our figures beside the published ones, in OUT/NAME.json and OUT/NAME.svg.

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
    kept = out / f"{name}.rows.json"
    settings = Settings(common.seed, seeds, map, map_voxel, device, _keeper(kept, common.quiet))
    _claim(out, name, overwrite)
    table = (experiment.full if full else experiment.quick).run(settings)
    paths = write(table, out, overwrite=overwrite)
    kept.unlink(missing_ok=True)
    common.say("\n".join([table.text(), "", *(str(path) for path in paths)]))
    return common.end(table.to_json())


def _keeper(path: Path, quiet: bool) -> Callable[[Row, str], None]:
    """Told of every finished row, it writes all of them to a file, and the last one to standard error."""
    rows: list[Row] = []

    def finished(row: Row, line: str) -> None:
        rows.append(row)
        write_text(path, json.dumps(rows, indent=2) + "\n")
        if not quiet:
            print(line, file=sys.stderr, flush=True)

    return finished


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
