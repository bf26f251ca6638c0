"""The eight flips and quarter turns of an image, each of which is a view of the same volume.

An image mirrored in x shows the volume from behind: P_R V mirrored is P_{M R} V with M = diag(-1, 1, -1); so are
images mirrored in y and transposed ones (`docs/conventions.md`, section 4). Even boxes are mirrored about their centre.
"""

from __future__ import annotations

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.ops import fourier

COUNT = 8
HALF_TURN = 3  # mirrored in x and in y


def turn(images: Float[torch.Tensor, "*b n n"], element: int) -> Float[torch.Tensor, "*b n n"]:
    """Images under one element: bit 0 mirrors x, bit 1 mirrors y, bit 2 transposes afterwards.

    Raises:
        ValueError: for images that are not square, or an element outside 0 .. 7.
    """
    if images.dim() < 2 or images.shape[-1] != images.shape[-2]:
        raise ValueError(f"images must be square; got {tuple(images.shape)}")
    if not 0 <= element < COUNT:
        raise ValueError(f"element must lie between 0 and {COUNT - 1}; got {element}")
    mirrored = [dim for bit, dim in ((1, -1), (2, -2)) if element & bit]
    images = fourier.mirror(images, mirrored)
    return images.mT if element & 4 else images


def matrices(*, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Float[torch.Tensor, "8 3 3"]:
    """M_g of every element g: g(P_R V) = P_{M_g R} V; float64 unless a dtype is given."""
    across = torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64))
    down = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    transposed = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]], dtype=torch.float64)
    found = []
    for element in range(COUNT):
        total = torch.eye(3, dtype=torch.float64)
        for bit, matrix in ((1, across), (2, down), (4, transposed)):
            if element & bit:
                total = matrix @ total
        found.append(total)
    return torch.stack(found).to(device, dtype or torch.float64)
