"""What a source of poses sees of some images, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from unpicked._lazy import torch
from unpicked.data.optics import Optics
from unpicked.data.particles import Particles


@dataclass(frozen=True, eq=False)
class Seen:
    """Some images of a stack.

    Attributes:
        images: ``(n, N, N)``.
        places: ``(n,)`` their numbers in the stack.
        pixel_size: angstrom.
        rotations: ``(n, 3, 3)`` that came with them, or None.
        shifts: ``(n, 2)`` that came with them in angstrom, or None.
        optics: contrast transfer of these images, or None.
        max_shift: angstrom.
        scale: ``(2,)`` mean and standard deviation of what a network is shown.
    """

    images: torch.Tensor
    places: torch.Tensor
    pixel_size: float
    rotations: torch.Tensor | None
    shifts: torch.Tensor | None
    optics: Optics | None
    max_shift: float
    scale: torch.Tensor


def look(data: Particles, places: Sequence[int], max_shift: float, scale: torch.Tensor, like: torch.Tensor) -> Seen:
    """Read some images, in the type and on the device of ``like``.

    Raises:
        FloatingPointError: for an image that holds NaN or infinity.
    """
    images = data.images(places) if len(places) else like.new_zeros((0, *data.shape))
    finite = torch.isfinite(images).flatten(1).all(1)
    if not bool(finite.all()):
        name = data.names[places[int((~finite).nonzero()[0])]]
        raise FloatingPointError(f"image {name} holds NaN or infinity")
    picks, poses = torch.tensor(list(places), dtype=torch.long), data.poses
    return Seen(
        images=images.to(like),
        places=picks.to(like.device),
        pixel_size=data.pixel_size,
        rotations=None if poses is None else poses.rotations[picks.to(poses.rotations.device)].to(like),
        shifts=None if poses is None else poses.shifts[picks.to(poses.shifts.device)].to(like),
        optics=None if data.optics is None or not len(places) else data.optics.part(places),
        max_shift=max_shift,
        scale=scale.to(like),
    )


@dataclass(frozen=True, eq=False)
class Proposal:
    """Poses that are proposed for n images, k each.

    Attributes:
        rotations: ``(n, k, 3, 3)``.
        shifts: ``(n, k, 2)`` in angstrom, or None: all zero.
        defocus: ``(n, k)`` what is added to both defoci, in angstrom, or None.
    """

    rotations: torch.Tensor
    shifts: torch.Tensor | None = None
    defocus: torch.Tensor | None = None

    def chosen(self, branches: torch.Tensor) -> Proposal:
        """Those numbered in ``branches`` ``(n, m)``."""
        rows = torch.arange(len(branches), device=branches.device)[:, None]
        return Proposal(
            self.rotations[rows, branches],
            None if self.shifts is None else self.shifts[rows, branches],
            None if self.defocus is None else self.defocus[rows, branches],
        )


class PoseSource(Protocol):
    """What ``Gradient`` asks of a source of poses. Its parameters are one tensor."""

    @property
    def count(self) -> int:
        """Poses that are proposed per image."""

    @property
    def outputs(self) -> int:
        """Heads, whose use is counted; pose b is that of head b modulo this number."""

    @property
    def together(self) -> bool:
        """Whether all poses of an image cost hardly more than one."""

    @property
    def spread(self) -> float:
        """Weight of a pose drawn from those that have not won, in the first half of a run."""

    def tried(self, fraction: float) -> int:
        """Poses, drawn from all, that are tried per image after this fraction of a run."""

    def check(self, data: Particles, max_shift: float) -> None:
        """Refuse data that do not fit."""

    def start(self, data: Particles, seed: int) -> torch.Tensor:
        """First parameters, float32."""

    def scale(self, data: Particles) -> torch.Tensor:
        """``(2,)`` mean and standard deviation of what a network will be shown."""

    def rate(self, fraction: float) -> float:
        """Length of a step after this fraction of a run."""

    def seen(self, parameters: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """How many of the images at ``places`` each part of the parameters belongs to, in a shape that broadcasts."""

    def propose(self, parameters: torch.Tensor, seen: Seen, branches: torch.Tensor | None = None) -> Proposal:
        """All poses, or only those numbered in ``branches`` ``(n, k)``."""

    def revived(self, parameters: torch.Tensor, usage: torch.Tensor, seed: int) -> torch.Tensor:
        """Parameters in which heads of hardly any use ``(outputs,)``, in shares of all images, begin anew."""
