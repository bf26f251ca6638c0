"""Particles that a map takes against the energy of one: python docs/pictures/boundary.py."""

import numpy as np
from _style import BLUE, GREY, ORANGE, plt, save

from unpicked.plan.information import needed

BOUNDARIES = {29: "one box", 44: "a whole micrograph"}


def main() -> None:
    """The table that ``unpicked plan`` reads: four structures in a box of 11 voxels, white noise, places unknown."""
    energies = np.geomspace(6, 100, 40)
    figure, axis = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    for error, colour in ((0.3, BLUE), (0.1, ORANGE)):
        found = [needed(float(energy), error=error) for energy in energies]
        low, high = [one.low for one in found], [one.high for one in found]
        axis.fill_between(energies, low, high, color=colour, alpha=0.25, linewidth=0)
        axis.plot(energies, [one.middle for one in found], color=colour, label=f"relative error {error:g}")
    faint = energies[energies < 30]
    cubic = needed(24.0, error=0.3).middle * (faint / 24) ** -3.0
    axis.plot(faint, cubic, color=GREY, linestyle=":", label="1 / E³, for comparison")
    for at, name in BOUNDARIES.items():
        axis.axvline(at, color=GREY, linewidth=0.6)
        axis.annotate(f" {name}", (at, 1.0), xycoords=("data", "axes fraction"), rotation=90, va="top", fontsize=7)
    axis.set(xscale="log", yscale="log", xlabel="energy E of one particle", ylabel="particles")
    axis.set_xticks([6, 12, 24, 42, 100])
    axis.set_xticklabels(["6", "12", "24", "42", "100"])
    axis.minorticks_off()
    axis.legend()
    save(figure, __file__)


if __name__ == "__main__":
    main()
