"""Small pictures of the micrographs of a run, with what masks leave out of them and the places that were found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unpicked._lazy import torch
from unpicked.preprocess import Prepared

SHOWN = 3
EDGE = 320  # pixels of a picture at most


def pictures(prepared: Prepared, gallery: Mapping[str, torch.Tensor] | None = None) -> dict[str, Any]:
    """The first micrograph and those of which most is left out, as they were read, binned; one is in memory at a time.

    Args:
        prepared: the data of a run.
        gallery: has the places that were found in the first micrograph.

    Returns:
        ``pictures`` ``(n, h, w)``, means of the files' grey values, matter bright; ``names`` ``(n,)``; ``pixel_size``
        of the pictures in angstrom; ``total``, the number of micrographs; with masks ``hidden`` ``(n, h, w)``, the
        share of every pixel that is left out, and ``shares`` ``(n,)``, that of the prepared micrographs; with places
        ``marks`` ``(m, 2)``, x and y of their centres in pixels of the first picture, and ``width`` of their box.
    """
    source, masks = prepared.source, prepared.source.masks
    shares = [correction.hidden for correction in prepared.corrections]
    shown = _chosen(shares)
    factor = min(-(-max(source.source.shape) // EDGE), *source.source.shape)
    pixel = source.voxel_size / source.grid.ratio
    out: dict[str, Any] = {
        "pictures": torch.stack([_mended(_binned(source.source.read(index), factor)) for index in shown]),
        "names": [Path(source.names[index]).name.encode("utf-8", "replace").decode() for index in shown],
        "pixel_size": pixel * factor,
        "total": len(source),
    }
    if masks is not None:
        hidden = [_binned(~masks.source.read(index), factor) for index in shown]
        out |= {"hidden": torch.stack(hidden).half(), "shares": [shares[index] for index in shown]}
    if gallery is not None:
        centres = prepared.to_file_pixels(gallery["places"].double().flip(1))
        box = gallery["patches"].shape[-1] * source.grid.ratio
        out |= {"marks": (centres + 0.5) / factor, "width": box / factor}
    return out


def _chosen(shares: list[float]) -> list[int]:
    """The first, and those of the largest shares; in their order."""
    others = sorted(range(1, len(shares)), key=lambda index: -shares[index])
    return [0, *sorted(others[: SHOWN - 1])]


def _binned(image: torch.Tensor, factor: int) -> torch.Tensor:
    """Means of squares of pixels; what is over at the far edges is left out."""
    return torch.nn.functional.avg_pool2d(image.float()[None, None], factor)[0, 0]


def _mended(picture: torch.Tensor) -> torch.Tensor:
    """Median where pixels, of hidden areas, are no numbers."""
    return torch.where(picture.isfinite(), picture, picture.nanmedian())
