"""Settings of the documentation: ``sphinx-build -W docs docs/_build``."""

from importlib.metadata import version as _version

project = "unpicked"
author = "The unpicked developers"
copyright = author
release = version = _version("unpicked")

extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"unpicked {release}"
html_show_copyright = False
