"""Settings of the documentation: ``sphinx-build -W docs docs/_build``."""

import re as _re
from importlib.metadata import version as _version
from typing import Any as _Any

project = "unpicked"
author = "The unpicked developers"
copyright = author
release = version = _version("unpicked")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_default_options = {"members": True}
autodoc_typehints = "none"  # shapes and units stand in the docstrings
autodoc_class_signature = "mixed"
napoleon_use_ivar = True
napoleon_use_rtype = False
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"unpicked {release}"
html_show_copyright = False


def _plain(app: _Any, what: str, name: str, object: _Any, options: _Any, lines: list[str]) -> None:
    """Docstrings are plain text: absolute values and stars of formulas are no markup."""
    for number, line in enumerate(lines):
        parts = _re.split(r"(``.*?``|:\w+:`.*?`)", line)
        lines[number] = "".join(part if at % 2 else _re.sub(r"([|*])", r"\\\1", part) for at, part in enumerate(parts))


def setup(app: _Any) -> None:
    """Read docstrings by our rules, before napoleon reads their sections."""
    app.connect("autodoc-process-docstring", _plain, priority=400)
