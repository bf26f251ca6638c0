"""Pickers of the usual kinds, to stand beside the posterior: peaks of blobs, and of correlation with templates.

Both give scores at every pixel, of which :func:`peaks` takes the maxima. They know neither how many particles there are
nor which score is enough: that is left to who calls them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.ops import lattice
from unpicked.ops.correlate import fast_size
from unpicked.ops.filters import Factors, half_plane

TOGETHER = 50  # templates that are correlated at once


@dataclass(frozen=True, eq=False)
class Peaks:
    """Places of one micrograph that may hold a particle, the highest score first.

    Attributes:
        centres: ``(n, 2)`` x (column) and y (row) in pixels, from 0.
        scores: ``(n,)`` in the picker's own measure.
    """

    centres: torch.Tensor
    scores: torch.Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def best(self, count: int) -> Peaks:
        """So many of the highest."""
        return Peaks(self.centres[:count], self.scores[:count])

    def above(self, least: float) -> Peaks:
        """Those of at least this score."""
        kept = self.scores >= least
        return Peaks(self.centres[kept], self.scores[kept])


def peaks(scores: torch.Tensor, distance: int) -> Peaks:
    """Maxima of scores ``(h, w)``, no two closer than ``distance`` pixels in the larger of the two directions.

    Raises:
        ValueError: for scores that are no image, or a distance below 1.
    """
    _image("scores", scores)
    if distance < 1:
        raise ValueError(f"distance must be at least 1 pixel; got {distance}")
    rows, columns = (scores == lattice.windowed_maximum(scores, distance)).nonzero(as_tuple=True)
    values = scores[rows, columns].double()
    order = values.argsort(descending=True, stable=True)
    return Peaks(torch.stack([columns, rows], 1).double()[order].cpu(), values[order].cpu())


def blobs(image: torch.Tensor, width: float) -> torch.Tensor:
    """Laplacian of Gaussian, negative and in units of its width: high where a bright blob of this size lies.

    Source: Lindeberg 1998, doi:10.1023/A:1008045108935; a disc of radius r answers most at a width of r / sqrt(2).

    Args:
        image: ``(h, w)``, matter bright, without its background: beyond its border it is 0.
        width: standard deviation of the Gaussian in pixels.

    Raises:
        ValueError: for anything but an image, or a width that is not positive.
    """
    from scipy.ndimage import gaussian_laplace

    _image("image", image)
    if not 0 < width < math.inf:
        raise ValueError(f"width must be positive, in pixels; got {width}")
    found = gaussian_laplace(image.double().cpu().numpy(), width, mode="constant")
    return torch.from_numpy(-(width**2) * found).to(image)


def correlated(image: torch.Tensor, templates: torch.Tensor) -> torch.Tensor:
    """Largest normalised cross-correlation over the templates, with their centres at every pixel of the image.

    Args:
        image: ``(h, w)``; beyond its border it is its own mirror image.
        templates: ``(n, side, side)`` on the device of the computation.

    Raises:
        ValueError: for anything but an image, templates that are not square, are larger than the image or do not vary.
    """
    _image("image", image)
    if templates.dim() != 3 or len(templates) == 0 or templates.shape[1] != templates.shape[2]:
        raise ValueError(f"templates must be (n, side, side); got {tuple(templates.shape)}")
    side = templates.shape[-1]
    if side > min(image.shape):
        raise ValueError(f"templates of {side} pixels do not fit an image of {image.shape[0]} x {image.shape[1]}")
    flat = templates - templates.mean((-2, -1), keepdim=True)
    norms = flat.square().sum((-2, -1), keepdim=True).sqrt()
    if not bool((norms > 0).all()):
        raise ValueError("a template is the same everywhere; leave it out")
    flat = flat / norms
    before, after = side // 2, side - 1 - side // 2
    image = image.to(flat)
    padded = torch.nn.functional.pad(image[None, None], (before, after) * 2, mode="reflect")
    mean, square = (torch.nn.functional.avg_pool2d(one, side, 1)[0, 0] for one in (padded, padded.square()))
    spread = ((square - mean**2) * side**2).clamp(min=1e-12).sqrt()
    top = torch.full_like(image, -torch.inf)
    for part in flat.split(TOGETHER):
        top = torch.maximum(top, torch.nn.functional.conv2d(padded, part[:, None])[0].amax(0))
    return top / spread


def seen(templates: torch.Tensor, factors: Factors, margin: int) -> torch.Tensor:
    """Templates as a micrograph shows them: ``(n, side + 2 margin, ...)``, filtered without wrap-around.

    Args:
        templates: ``(n, side, side)``.
        factors: of frequencies x and y in cycles per pixel, e.g. contrast transfer.
        margin: pixels around the templates in which their tails are kept.

    Raises:
        ValueError: for a negative margin.
    """
    if margin < 0:
        raise ValueError(f"margin must not be negative, in pixels; got {margin}")
    wide = torch.nn.functional.pad(templates, (margin,) * 4)
    edge = wide.shape[-1]
    size = fast_size(3 * edge)
    spectra = torch.fft.rfft2(wide, s=(size, size))
    spectra = spectra * factors(*half_plane((size, size), device=templates.device)).to(templates.dtype)
    return torch.fft.irfft2(spectra, s=(size, size))[..., :edge, :edge]


def _image(name: str, values: torch.Tensor) -> None:
    if values.dim() != 2:
        raise ValueError(f"{name} must be an image (h, w); got {tuple(values.shape)}")
