"""An image on a square grid; its coefficients are its pixels."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int

from unpicked._lazy import torch
from unpicked.objects.base import Projector


@dataclass(frozen=True)
class Pixels:
    """Grey values on a square of ``side`` pixels.

    Turned images are interpolated by cubic convolution (Keys 1981): exact by 0, 90, 180 and 270 degrees, and to 1 %
    where the image is smooth over two pixels. :class:`unpicked.objects.disk.Disk` turns exactly.

    Attributes:
        side: edge in pixels, >= 2, even or odd.

    Raises:
        ValueError: if side < 2.
    """

    side: int

    def __post_init__(self) -> None:
        if self.side < 2:
            raise ValueError(f"side must be at least 2 pixels; got {self.side}")

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the values, yx."""
        return (self.side, self.side)

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.side**2

    def values(self, x: Float[torch.Tensor, "*b n"]) -> Float[torch.Tensor, "*b l l"]:
        """``(..., size)`` to ``(..., side, side)``.

        Raises:
            ValueError: if the last axis of x is not ``size``.
        """
        if x.shape[-1:] != (self.size,):
            raise ValueError(f"x must end in shape ({self.size},); got {tuple(x.shape)}")
        return x.reshape(*x.shape[:-1], *self.shape)

    def fit(self, values: Float[torch.Tensor, "*b l l"]) -> Float[torch.Tensor, "*b n"]:
        """``(..., side, side)`` to ``(..., size)``.

        Raises:
            ValueError: if the last two axes are not ``(side, side)``.
        """
        if tuple(values.shape[-2:]) != self.shape:
            raise ValueError(f"values must end in shape {self.shape}; got {tuple(values.shape)}")
        return values.reshape(*values.shape[:-2], self.size)

    def rotator(self, angles: Float[torch.Tensor, " k"]) -> Projector:
        """The image turned by angles in radians, from +x towards +y, with the exact adjoint; zero beyond the square.

        Raises:
            ValueError: if angles is not ``(k,)``.
        """
        if angles.dim() != 1:
            raise ValueError(f"angles must be (k,), in radians; got {tuple(angles.shape)}")
        places, weights = _taps(self.side, angles.double())
        count, flat = len(angles), places.flatten()

        def project(x: torch.Tensor) -> torch.Tensor:
            self.values(x)  # checks
            return (x[..., places] * weights.to(x)).sum(-1).unflatten(-1, self.shape)

        def backproject(images: torch.Tensor) -> torch.Tensor:
            if tuple(images.shape[-3:]) != (count, *self.shape):
                raise ValueError(
                    f"images must end in shape ({count}, {self.side}, {self.side}); got {tuple(images.shape)}"
                )
            spread = (images.flatten(-2)[..., None] * weights.to(images)).flatten(-3)
            return images.new_zeros(*images.shape[:-3], self.size).index_add(-1, flat, spread)

        return Projector(project, backproject)


def _taps(side: int, angles: torch.Tensor) -> tuple[Int[torch.Tensor, "k n 16"], Float[torch.Tensor, "k n 16"]]:
    """Pixels and weights that make up every pixel of the turned images: V'(p) = V(R^T p)."""
    line = torch.arange(side, dtype=torch.float64, device=angles.device) - side // 2
    y, x = (part.flatten() for part in torch.meshgrid(line, line, indexing="ij"))
    # whole turns by 90 degrees must not fall between pixels by rounding
    cosine, sine = ((part * 1e15).round() / 1e15 for part in (angles.cos()[:, None], angles.sin()[:, None]))
    source = torch.stack([cosine * y - sine * x, cosine * x + sine * y], -1) + side // 2
    first = (source + 1e-9).floor()
    steps = torch.arange(-1, 3, device=angles.device)
    places = first.long()[..., None, :] + steps[:, None]
    distance = (source[..., None, :] - places).abs()
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))
    weights = torch.where((places >= 0) & (places < side), weights, 0.0)
    places = places.clamp(0, side - 1)
    index = places[..., :, None, 0] * side + places[..., None, :, 1]
    return index.flatten(-2), (weights[..., :, None, 0] * weights[..., None, :, 1]).flatten(-2)
