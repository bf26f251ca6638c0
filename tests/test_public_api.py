"""The public names and their parameters: a change of them is meant, and told in the changelog.

``python tests/test_public_api.py`` writes the list anew.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import unpicked

LIST = Path(__file__).with_name("public_api.txt")


def described() -> str:
    """A line per name: what it is and which parameters it takes, those in brackets with a default."""
    lines = []
    for name in sorted(unpicked.__all__):
        thing = getattr(unpicked, name)
        kind = "class" if inspect.isclass(thing) else "function" if callable(thing) else type(thing).__name__
        lines.append(f"{kind} {name}{_parameters(thing) if callable(thing) else ''}")
    return "\n".join(lines) + "\n"


def _parameters(thing: object) -> str:
    if inspect.isclass(thing) and (issubclass(thing, BaseException) or getattr(thing, "_is_protocol", False)):
        return ""
    try:
        given = inspect.signature(thing).parameters.values()  # type: ignore[arg-type]
    except ValueError:
        return ""
    shown = []
    for one in given:
        stars = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        word = stars + one.name
        if one.kind is one.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        shown.append(word if one.default is one.empty else f"[{word}]")
    return f"({', '.join(shown)})"


def test_the_public_names_are_those_on_the_list() -> None:
    assert described() == LIST.read_text(), "tell the change in CHANGELOG.md, then run python tests/test_public_api.py"


if __name__ == "__main__":
    LIST.write_text(described())
