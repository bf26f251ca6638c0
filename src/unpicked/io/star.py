"""STAR tables: read, and written in RELION 3.1 style.

Column names are given without their leading underscore; the unnamed block ``data_`` has the name "".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpicked.io._files import existing, one_line, output, read_text

Column = Sequence[Any]
_QUOTED = re.compile(r"['\";]")  # how a value starts that is more than its text
_PLAIN = re.compile(r"[-+.0-9][!-~]*")  # a value, such as a number or the name of an image, that needs no quotes
_WORD = re.compile(r"'[^']*'(?=\s|$)|\"[^\"]*\"(?=\s|$)|\S+")


@dataclass(frozen=True)
class Table:
    """One block of a STAR file: text, column by column, in the file's order.

    Attributes:
        names: column names without the underscore.
        columns: the values of each column as text, all of one length.
        source: where it was read, for messages.
    """

    names: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]
    source: str = ""

    def __post_init__(self) -> None:
        if len(self.names) != len(self.columns):
            raise ValueError(f"names must be one per column, {len(self.columns)}; got {len(self.names)}")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"column names must differ; got {', '.join(self.names)}")
        if len({len(column) for column in self.columns}) > 1:
            lengths = ", ".join(f"{n}: {len(c)}" for n, c in zip(self.names, self.columns, strict=True))
            raise ValueError(f"columns must have one length; got {lengths}")

    def __len__(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def strings(self, name: str) -> tuple[str, ...]:
        """A column as text.

        Raises:
            ValueError: if there is no such column.
        """
        if name not in self.names:
            where = f"{self.source}: " if self.source else ""
            raise ValueError(f"{where}no column {name}; found {', '.join(self.names) or 'none'}")
        return self.columns[self.names.index(name)]

    def floats(self, name: str) -> NDArray[np.float64]:
        """A column as float64.

        Raises:
            ValueError: if there is no such column, or a value is not a finite number (it names the row).
        """
        values = self.strings(name)
        try:
            out = np.fromiter(map(float, values), np.float64, len(values))
        except ValueError:
            out = np.full(len(values), math.nan)
        if np.isfinite(out).all():
            return out
        for row, text in enumerate(values):
            try:
                out[row] = float(text)
            except ValueError:
                out[row] = math.nan
            if not math.isfinite(out[row]):
                where = f"{self.source}: " if self.source else ""
                raise ValueError(f"{where}{name} of row {row + 1} must be a finite number; got {text[:40]!r}")
        return out


def read_star(path: Path | str) -> dict[str, Table]:
    """All blocks of a STAR file (RELION 3.0 to 5), plain or compressed.

    Args:
        path: file name.

    Returns:
        Block name to table, in the file's order; a block of single values is a table of one row, the unnamed
        block has the name "".

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a STAR file, a row has too many or too few values, or a loop has no rows; the
            message gives the line number.
    """
    from gemmi import cif

    path = existing(path, "STAR file")
    text = read_text(path).removeprefix("\ufeff")
    escape = _escape(text)
    try:
        document = cif.read_string(_escaped(text, escape))
    except (RuntimeError, ValueError) as error:
        raise ValueError(_complaint(path, text, one_line(error))) from None
    tables = {}
    for block in document:
        items = [item for item in block if item.pair is not None or item.loop is not None]
        if items:
            tables[block.name.strip()] = _unescaped(_table(path, block.name.strip(), items), escape)
    if not tables:
        raise ValueError(f"{path} holds no table; expected a STAR file with at least one block of data")
    return tables


def write_star(
    path: Path | str, blocks: Mapping[str, Table | Mapping[str, Column]], *, overwrite: bool = False
) -> None:
    """Write blocks as loops; floats are written such that reading gives the same number.

    Args:
        path: file name.
        blocks: block name to a :class:`Table` or to columns of text, integers or finite floats.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        ValueError: for no blocks, no rows, columns of different lengths, or values that STAR cannot hold.
    """
    if not blocks:
        raise ValueError("blocks must hold at least one table; got none")
    parts = []
    for name, block in blocks.items():
        table = block if isinstance(block, Table) else as_table(name, block)
        parts.append(_format(name, table))
    with output(path, overwrite) as temporary:
        temporary.write_text("".join(parts), encoding="utf-8")


def _table(path: Path, name: str, items: Sequence[Any]) -> Table:
    where = f"{path}, data_{name}"
    loops = [item for item in items if item.loop is not None]
    if loops and len(items) > 1:
        raise ValueError(f"{where}: {len(items)} tables in one block (line {items[1].line_number}); expected one")
    columns: list[tuple[str, ...]]
    if not loops:
        tags = [item.pair[0] for item in items]
        columns = [(_text(item.pair[1]),) for item in items]
    else:
        loop, line = loops[0].loop, loops[0].line_number
        tags = list(loop.tags)
        if not loop.values:
            raise ValueError(f"{path}: the loop of data_{name} at line {line} has no rows; expected at least one")
        values = list(loop.values)
        if any(map(_QUOTED.match, values)):
            values = [_text(value) for value in values]
        columns = [tuple(values[k :: len(tags)]) for k in range(len(tags))]
    return Table(tuple(tag.removeprefix("_") for tag in tags), tuple(columns), where)


def _text(raw: str) -> str:
    from gemmi import cif

    return raw if raw in ("?", ".") else str(cif.as_string(raw))


def _escape(text: str) -> str:
    """Letters that the text does not hold, to begin an escape with; empty where the text needs none.

    CIF knows ASCII only, but folders of RELION projects have names in all languages.
    """
    return "" if text.isascii() else next(mark for k in range(len(text)) if (mark := f"~{k}~") not in text)


def _escaped(text: str, escape: str) -> str:
    return re.sub(r"[^\x00-\x7f]", lambda found: f"{escape}{ord(found[0]):06x}", text) if escape else text


def _unescaped(table: Table, escape: str) -> Table:
    if not escape:
        return table
    letter = re.compile(re.escape(escape) + "([0-9a-f]{6})")

    def plain(values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(letter.sub(lambda found: chr(int(found[1], 16)), value) for value in values)

    return replace(table, names=plain(table.names), columns=tuple(plain(values) for values in table.columns))


def _complaint(path: Path, text: str, message: str) -> str:
    """One line that says where the file goes wrong, from the parser's message."""
    if not text.strip():
        return f"{path} is empty; expected a STAR file"
    found = re.match(r"string(?::(\d+))?[^ ]* ?(?:in (data_\S*): )?(.*)", message)
    line, reason = (int(found[1] or 1), found[3]) if found else (1, message)
    if "Wrong number of values" in reason:
        line, reason = _ragged_row(text, line)
    return f"{path}, line {line}: {reason}; expected a STAR file"


def _ragged_row(text: str, loop_line: int) -> tuple[int, str]:
    """The first row of a loop whose number of values is not that of the columns."""
    tags = 0
    for number, line in enumerate(text.splitlines()[loop_line - 1 :], start=loop_line):
        words = _WORD.findall(re.split(r"\s#", line)[0])
        if not words or words[0].startswith("#") or words[0].lower() == "loop_":
            continue
        if words[0].startswith("_"):
            tags += 1
        elif len(words) != tags:
            return number, f"the row has {len(words)} values, the loop {tags} columns"
    return loop_line, "the number of values is not a multiple of the number of columns"


def as_table(name: str, columns: Mapping[str, Column]) -> Table:
    """Columns of text, integers or finite floats as a :class:`Table`, for the block of this name.

    Raises:
        ValueError: for other values, or columns of different lengths.
    """
    values = tuple(_as_text(name, column, list(columns[column])) for column in columns)
    return Table(tuple(columns), values, f"data_{name}")


def _as_text(block: str, column: str, values: list[Any]) -> tuple[str, ...]:
    """A column as text; columns of one type, as nearly all are, need no look at every value."""
    kinds = set(map(type, values))
    if kinds == {str}:
        return tuple(values)
    if kinds == {int} or (kinds == {float} and all(map(math.isfinite, values))):
        return tuple(map(repr, values))
    return tuple(_written(block, column, value) for value in values)


def _written(block: str, column: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float | np.floating) and math.isfinite(value):
        return repr(float(value))
    raise ValueError(f"{column} of data_{block} must hold text, integers or finite floats; got {value!r}")


def _format(name: str, table: Table) -> str:
    from gemmi import cif

    for title in (name, *table.names):
        if title and not re.fullmatch(r"[!-~]+", title):
            raise ValueError(f"names of blocks and columns must be printable without spaces; got {title!r}")
    if len(table) == 0:
        raise ValueError(f"data_{name} has no rows; a STAR loop needs at least one")
    quoted = []
    for column, values in zip(table.names, table.columns, strict=True):
        if all(map(_PLAIN.fullmatch, values)):
            quoted.append(list(values))
            continue
        if bad := next((text for text in values if re.search(r"[\x00-\x1f\x7f]", text)), None):
            raise ValueError(f"{column} of data_{name} must not hold control characters; got {bad!r}")
        quoted.append([text if _bare(text) else str(cif.quote(text)) for text in values])
        if bad := next((text for text in quoted[-1] if "\n" in text), None):
            raise ValueError(f"{column} of data_{name} must not mix both kinds of quotes; got {bad!r}")
    tags = "".join(f"_{column} #{k} \n" for k, column in enumerate(table.names, start=1))
    widths = [max(map(len, column)) for column in quoted]
    padded = [[text.rjust(width) for text in column] for column, width in zip(quoted, widths, strict=True)]
    body = "".join(f"{' '.join(row)} \n" for row in zip(*padded, strict=True))
    return f"\n# version 30001\n\ndata_{name}\n\nloop_ \n{tags}{body}\n"


def _bare(text: str) -> bool:
    """Whether a value needs no quotes; fewer quotes are written than CIF's rules suggest, as RELION does."""
    reserved = re.fullmatch(r"(data|save)_.*|loop_|stop_|global_", text, flags=re.IGNORECASE)
    vector = re.fullmatch(r"\[[-+0-9.eE,]*\]", text)  # as RELION writes aberrations
    return not reserved and (vector or re.fullmatch(r"[^\s'\"#_$;\[\]][^\s]*", text)) is not None
