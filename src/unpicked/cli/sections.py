"""Help in sections: what every user needs comes first, then a panel per kind of choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cyclopts.help import DefaultFormatter, HelpPanel

RUN = "overwrite seed device threads quiet json"
SECTIONS = {
    "reconstruct": {
        "Model of the data": "object lmax likelihood spacing subpixel stride reach window angles classes rotations "
        "noise ignore-ctf sigma density view-distribution tilt tilt-axis",
        "Belief about the answer": "prior signed support symmetry denoiser denoiser-noise structures structures-error",
        "Search": "method march starts refined views iterations batch solver moves held-out rounds rotation branches "
        "heads steps",
        "The run itself": f"resume live {RUN}",
    },
    "simulate": {
        "Noise": "energy snr-box snr-disc snr-db sigma noise",
        "Microscope": "ctf defocus ctf-groups astigmatism voltage cs amplitude-contrast phase-shift b-factor",
        "Physical exposures": "physical pixel dose ice dqe",
        "The run itself": RUN,
    },
}
"""Of a group of commands: titles, and the options below them; what has no section stays in the first panel."""
LONG = 20  # options from which a panel is cut


class Sections:
    """Prints a panel of help, a long one in sections.

    Args:
        titles: and the options below them.
    """

    def __init__(self, titles: Mapping[str, str]) -> None:
        self.place = {f"--{name}": title for title, names in titles.items() for name in names.split()}
        self.titles = titles
        self.plain = DefaultFormatter()

    def __call__(self, console: Any, options: Any, panel: HelpPanel) -> None:
        """As cyclopts calls its formatters."""
        for part in self.parts(panel):
            self.plain(console, options, part)

    def parts(self, panel: HelpPanel) -> list[HelpPanel]:
        """The panel, or its sections."""
        if panel.format != "parameter" or len(panel.entries) < LONG:
            return [panel]
        held: dict[str, list[Any]] = {"": [], **{title: [] for title in self.titles}}
        for entry in panel.entries:
            held[next((self.place[name] for name in entry.names if name in self.place), "")].append(entry)
        return [panel.copy(title=title or panel.title, entries=some) for title, some in held.items() if some]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)  # usage and description
