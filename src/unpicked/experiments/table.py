"""What every experiment gives: a table of ours beside what was published, as text, JSON and a figure."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVarTuple

from unpicked import __version__
from unpicked.io._files import output

Row = Mapping[str, Any]  # of strings, numbers, lists of numbers and None
Given = TypeVarTuple("Given")


@dataclass(frozen=True)
class Column:
    """One figure of every row.

    Attributes:
        name: key in the rows, and heading.
        form: format of its numbers, e.g. ".3f".
    """

    name: str
    form: str = ""

    def show(self, value: Any) -> str:
        """The cell in words; what is missing or not finite is "-"."""
        if isinstance(value, list):
            return " ".join(self.show(item) for item in value)
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return "-"
        return format(value, self.form) if isinstance(value, int | float) and self.form else str(value)


@dataclass(frozen=True)
class Check:
    """A published figure beside ours, and a target that is met or not.

    Attributes:
        what: the figure's name.
        published: what the source says, in words.
        target: what is asked of us.
        ours: what was measured.
        passed: whether the target is met; None where too little was run to say.
    """

    what: str
    published: str
    target: str
    ours: str
    passed: bool | None


@dataclass(frozen=True)
class Line:
    """A curve of the figure.

    Attributes:
        label: name in the legend; curves of one label have one colour and one entry.
        x: positions.
        y: heights.
        style: matplotlib's, e.g. "o-" or "--".
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "o-"


@dataclass(frozen=True)
class Plot:
    """The figure: curves and axes."""

    lines: tuple[Line, ...]
    xlabel: str
    ylabel: str
    log: str = ""
    """Which axes are logarithmic: "", "x", "y" or "xy"."""


@dataclass(frozen=True)
class Table:
    """An experiment's result.

    Attributes:
        name: of the experiment.
        title: one line.
        source: the paper.
        columns: figures of a row, in order.
        rows: one per run.
        checks: published figures beside ours.
        notes: sentences: what stands in for what, what was left out.
        plot: the figure.
        settings: sizes that were used.
        whole: all cases were run.
    """

    name: str
    title: str
    source: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    plot: Plot
    settings: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = True

    @property
    def passed(self) -> bool | None:
        """Whether every target is met; None where one is undecided and none is missed, or only some cases were run."""
        found = [check.passed for check in self.checks]
        return False if False in found else True if self.whole and found and None not in found else None

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``; a number that is not finite is None (null)."""
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "passed": self.passed,
            "settings": _plain(self.settings),
            "rows": [_plain(row) for row in self.rows],
            "checks": [_plain(vars(check)) for check in self.checks],
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """The table in aligned plain text, with checks and notes below."""
        head = [column.name for column in self.columns]
        body = [[column.show(row.get(column.name)) for column in self.columns] for row in self.rows]
        parts = [self.title, f"source: {self.source}", "", *_aligned([head, *body])]
        if self.checks:
            words = {True: "met", False: "MISSED", None: "undecided"}
            checks = [[c.what, c.published, c.target, c.ours, words[c.passed]] for c in self.checks]
            parts += ["", *_aligned([["figure", "published", "target", "ours", ""], *checks])]
        return "\n".join([*parts, *(["", *self.notes] if self.notes else [])])


@dataclass(frozen=True)
class Settings:
    """What the user asked of an experiment.

    Attributes:
        seed: the first seed; every run uses the next one.
        seeds: runs per setting; None means the experiment's own number.
        maps: MRC files to use instead of stand-ins.
        map_voxel: voxel size in angstrom of maps whose header has none.
        device: torch device.
        kept: rows that an interrupted run had finished, by their keys.
        finished: called with the key of finished rows, the rows, and their lines of the table.
        seen: keys of rows that were asked for; those of one key are counted.
    """

    seed: int = 0
    seeds: int | None = None
    maps: tuple[Path, ...] = ()
    map_voxel: float | None = None
    device: str = "cpu"
    kept: Mapping[str, list[Row]] = field(default_factory=dict)
    finished: Callable[[str, list[Row], list[str]], None] = lambda key, rows, lines: None
    seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.seeds is not None and self.seeds < 1:
            raise ValueError(f"--seeds must be at least 1; got {self.seeds}")

    def runs(self, default: int) -> range:
        """The seeds to run."""
        return range(self.seed, self.seed + (self.seeds or default))

    def row(
        self, columns: Sequence[Column], key: Sequence[Any], compute: Callable[[*Given], Row], *given: *Given
    ) -> Row:
        """A row computed of what is given, or the one of an interrupted run, and tell of it.

        Args:
            columns: of the table.
            key: what tells the row from all others, in plain values.
            compute: makes the row.
            *given: to ``compute``.
        """
        return self.rows(columns, key, lambda *given: [compute(*given)], *given)[0]

    def rows(
        self, columns: Sequence[Column], key: Sequence[Any], compute: Callable[[*Given], list[Row]], *given: *Given
    ) -> list[Row]:
        """The same of rows that are computed together."""
        name = ", ".join(str(part) for part in key)
        self.seen[name] += 1
        if self.seen[name] > 1:
            name += f", {self.seen[name]}"
        found = self.kept[name] if name in self.kept else compute(*given)
        lines = [", ".join(f"{column.name} {column.show(row.get(column.name))}" for column in columns) for row in found]
        self.finished(name, found, lines)
        return found


class Runner(Protocol):
    """An experiment with its sizes."""

    def run(self, settings: Settings) -> Table:
        """Run it."""
        ...


@dataclass(frozen=True)
class Experiment:
    """An experiment that ``unpicked reproduce`` knows.

    Attributes:
        name: on the command line.
        summary: one line.
        source: the paper.
        minutes: on two cores, quick and full.
        quick: sizes for a first look.
        full: sizes as published.
        needs: files of the shared data without which it cannot be run.
        cases: fields of its sizes that hold what is gone through: strings, numbers, or things with a name.
    """

    name: str
    summary: str
    source: str
    minutes: tuple[float, float]
    quick: Runner
    full: Runner
    needs: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()

    def sizes(self, full: bool, only: Sequence[str] = ()) -> Runner:
        """The sizes, of some cases only.

        Args:
            full: as published.
            only: cases to run, by parts of their names: of every field those that have one of them, and all of a field
                that has none.

        Raises:
            ValueError: for a word that no case has.
        """
        runner: Any = self.full if full else self.quick
        named = {key: {str(getattr(case, "name", case)): case for case in getattr(runner, key)} for key in self.cases}
        for word in only:
            if not word.strip() or not any(word.lower() in name.lower() for names in named.values() for name in names):
                known = "; ".join(name for names in named.values() for name in names)
                raise ValueError(
                    f"{self.name} has no case like {word!r}; {f'its cases: {known}' if known else 'it has no cases'}"
                )
        for key, names in named.items():
            left = tuple(case for name, case in names.items() if any(word.lower() in name.lower() for word in only))
            runner = replace(runner, **{key: left}) if left else runner
        found: Runner = runner
        return found


def run_of(runner: Runner, settings: Settings) -> dict[str, Any]:
    """What rows depend on, as it is read back from JSON."""
    asked = {"seed": settings.seed, "seeds": settings.seeds, "map_voxel": settings.map_voxel, "device": settings.device}
    found = {"version": __version__, "sizes": vars(runner), **asked}
    out: dict[str, Any] = json.loads(json.dumps(_plain(found)))
    return out


def write(table: Table, folder: Path, *, overwrite: bool = False) -> tuple[Path, Path]:
    """Write ``NAME.json`` and ``NAME.svg``; returns their paths.

    Raises:
        FileExistsError: if one exists and ``overwrite`` is False.
    """
    paths = folder / f"{table.name}.json", folder / f"{table.name}.svg"
    for path, text in zip(paths, (json.dumps(table.to_json(), indent=2) + "\n", figure(table)), strict=True):
        with output(path, overwrite) as temporary:
            temporary.write_text(text)
    return paths


def figure(table: Table) -> str:
    """The table's plot as an SVG page."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": table.name, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        drawing = Figure(figsize=(6.4, 4.0), layout="constrained")
        canvas = FigureCanvasSVG(drawing)
        axes = drawing.add_subplot()
        colours: dict[str, str] = {}
        for line in table.plot.lines:
            new = line.label not in colours
            colour = colours.setdefault(line.label, f"C{len(colours) % 10}")
            axes.plot(line.x, line.y, line.style, color=colour, label=line.label if new else None, markersize=4)
        axes.set(xlabel=table.plot.xlabel, ylabel=table.plot.ylabel, title=table.title)
        axes.title.set_fontsize(9)
        for axis in table.plot.log:
            getattr(axes, f"set_{axis}scale")("log")
        if colours:
            axes.legend(frameon=False, fontsize=8)
        out = io.StringIO()
        canvas.print_svg(out, metadata={"Date": None})
    return out.getvalue()


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows whose columns begin at one place."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _plain(value: Any) -> Any:
    """Values that JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
