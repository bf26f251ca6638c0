"""How the page says numbers, values and sentences."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence


def as_number(value: object) -> float | None:
    """The value where it is a finite number, else None."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None  # type: ignore[arg-type]


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, without exponent where it is of common size."""
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits}g}"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:#.{digits}g}".rstrip(".")


def counted(count: int, noun: str) -> str:
    """So many of a thing."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def angstrom(value: float | None, nyquist: float = 0) -> str:
    """A resolution; "none" where there is none, marked where it is the Nyquist limit."""
    if value is None:
        return "none"
    return f"{value:.3g} Å" + (" (Nyquist)" if value == nyquist else "")


def sentence(text: str) -> str:
    """The text with a capital, unless it starts with a name, and a full stop."""
    text = text.strip()
    first = text.split(maxsplit=1)[0] if text else ""
    if first.rstrip(",:;").isalpha():  # not the name of a file, an option or a field
        text = text[0].upper() + text[1:]
    return text if not text or text[-1] in ".!?" else text + "."


def plain(value: object) -> str:
    """A value of ``result.json`` for a table; a long list is cut."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case list() | tuple():
            shown = value if len(value) <= 8 else value[:3]
            rest = f", … ({len(value)} in all)" if len(value) > len(shown) else ""
            return (", ".join(plain(item) for item in shown) or "–") + rest
        case dict():
            return ", ".join(f"{key} {plain(item)}" for key, item in value.items()) or "–"
    return str(value)


def command(given: object) -> str:
    """The command line, quoted for a shell."""
    if isinstance(given, list):
        return shlex.join(str(part) for part in given)
    return str(given or "")


def ranges(indices: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of every unbroken stretch of increasing whole numbers."""
    found: list[tuple[int, int]] = []
    for index in indices:
        if found and found[-1][1] == index - 1:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return found
