"""What the pictures share: no background, and colours that can be read on white and on black."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

GREY, BLUE, ORANGE, GREEN = "#808080", "#4a8fd6", "#e08a3c", "#4fa66f"

plt.rcParams.update(
    {
        "font.size": 9,
        "font.family": "sans-serif",
        "text.color": GREY,
        "axes.edgecolor": GREY,
        "axes.labelcolor": GREY,
        "axes.titlecolor": GREY,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "axes.prop_cycle": matplotlib.cycler(color=[BLUE, ORANGE, GREEN]),
        "xtick.color": GREY,
        "ytick.color": GREY,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "lines.linewidth": 1.4,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "svg.fonttype": "none",
        "svg.hashsalt": "unpicked",
        "image.interpolation": "none",
    }
)


def save(figure: plt.Figure, script: str, kind: str = "svg") -> None:
    """Write ``NAME.svg`` beside the script ``NAME.py``; or, to look at, where the command line says: PATH [COLOUR]."""
    if len(sys.argv) > 1:
        figure.savefig(sys.argv[1], dpi=110, facecolor=sys.argv[2] if len(sys.argv) > 2 else "white")
        return
    told = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(Path(script).with_suffix(f".{kind}"), dpi=90, transparent=True, metadata=told)
