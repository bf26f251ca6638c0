"""Particles in a micrograph at three energies: python docs/pictures/micrographs.py."""

from _style import BLUE, plt, save

import unpicked as up
from unpicked.simulate.phantom import bead_chain

LEVELS = {200: "E = 200", 42: "E = 42", 12: "E = 12"}


def main() -> None:
    """Draw the same places at three noise levels; rings mark every particle of the left half."""
    figure, axes = plt.subplots(1, len(LEVELS), figsize=(7.2, 2.6), layout="constrained")
    for axis, (level, title) in zip(axes, LEVELS.items(), strict=True):
        data, truth = up.simulate_micrographs(
            bead_chain(11, 10), count=1, size=(110, 110), density=0.13, noise=up.energy(level), seed=4
        )
        image = data[0].numpy()
        limit = 2.5 * image.std()
        axis.imshow(image, cmap="gray", vmin=-limit, vmax=limit)
        for y, x in (truth.occurrences(0).corners + 5).tolist():
            if x < 55:
                axis.add_patch(plt.Circle((x, y), 6.5, fill=False, color=BLUE, linewidth=1.1))
        axis.axvline(54.5, color=BLUE, linewidth=0.6, linestyle=":")
        axis.set(title=title, xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    save(figure, __file__, "png")


if __name__ == "__main__":
    main()
