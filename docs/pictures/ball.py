"""Basis functions of a ball, and a molecule by more and more of them: python docs/pictures/ball.py."""

from pathlib import Path

import torch
from _style import plt, save

import unpicked as up

DEGREES = (0, 2, 4, 7, 10)
SIDE = 60
_LINE = torch.linspace(-5.5, 5.5, SIDE, dtype=torch.float64)
PLANE = torch.stack([_LINE.repeat(SIDE), _LINE.repeat_interleave(SIDE), 0 * _LINE.repeat(SIDE)], 1)
"""Points x, y, z = 0 of the box's central plane."""


def main() -> None:
    """Above: one function of each degree, cut through the centre. Below: projections of BPTI up to that degree."""
    structure = up.read_structure(Path(up.__file__).parent / "simulate" / "5pti.cif")
    truth = up.specimen_from_structure(structure, box=11, voxel=5.0).truth().values.double()
    figure, axes = plt.subplots(2, len(DEGREES) + 1, figsize=(7.2, 2.6), layout="constrained")
    for (above, below), degree in zip(axes.T, DEGREES, strict=False):
        ball = up.Ball(11, lmax=degree)
        fitted = ball.values(ball.fit(truth))
        one = torch.zeros(ball.size, dtype=torch.float64)
        one[ball.index.tolist().index([degree, 1, degree])] = 1.0  # l, s, m
        cut = ball.evaluate(one, PLANE).reshape(SIDE, SIDE)
        above.imshow(cut, cmap="RdBu_r", vmin=-cut.abs().max(), vmax=cut.abs().max())
        below.imshow(fitted.sum(0), cmap="gray", vmin=0, vmax=truth.sum(0).max())
        above.set_title(f"l = {degree}")
        below.set_title(f"up to {degree}: {ball.size}")
    axes[0, -1].axis("off")
    axes[1, -1].imshow(truth.sum(0), cmap="gray", vmin=0, vmax=truth.sum(0).max())
    axes[1, -1].set_title("BPTI, 5 Å voxels")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    save(figure, __file__)


if __name__ == "__main__":
    main()
