"""From micrographs and a map to positions: a short readable function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.data.gains import Gains
from unpicked.data.maps import Map
from unpicked.data.micrographs import Micrographs
from unpicked.picking import fit_scale, pick
from unpicked.recipes.job import MicrographJob
from unpicked.recipes.micrographs import fixed, ready
from unpicked.reconstruct import Reconstruction

LARGEST = 64  # voxels of a map that is looked for


@dataclass(frozen=True, eq=False)
class PickAnswer:
    """Particles of all micrographs, in the pixels of the files.

    Attributes:
        names: the micrograph of every particle.
        centres: ``(n, 2)`` x (column) and y (row), from 0.
        posterior: ``(n,)`` probability that a particle is there.
        rotations: ``(n, 3, 3)`` active, object to image.
        run: scale of the map, noise and density as fitted.
    """

    names: tuple[str, ...]
    centres: torch.Tensor
    posterior: torch.Tensor
    rotations: torch.Tensor
    run: Reconstruction


def pick_from_map(
    data: Micrographs,
    map: Map,
    job: MicrographJob,
    *,
    views: int,
    least: float,
    gains: Gains | None = None,
    seed: int = 0,
    device: str = "cpu",
    tell: Callable[[str, int], None] | None = None,
) -> PickAnswer:
    """Particles of a map, with what micrographs say of its scale, of noise and density; its structure is not fitted.

    Args:
        data: as read.
        map: matter bright, at most 64 voxels.
        job: density, spacing, noise, contrast transfer and view distribution; its box and voxel are those of the map.
        views: orientations that are tried.
        least: probability that a pick has at least.
        gains: by which a run whitened these very micrographs; None: by what they hold, where their noise is not white.
        seed: of the sampler.
        device: torch device.
        tell: called with the name of every micrograph and the particles found on it.

    Raises:
        ValueError: for a map that cannot be looked for in these data, or where nothing is found.
    """
    if map.box > LARGEST:
        raise ValueError(f"the map has {map.box} voxels, more than {LARGEST}; bring it to a coarser voxel first")
    if not float(map.values.max()) > -float(map.values.min()):
        raise ValueError("the map must have matter bright, and some density; try it times -1")
    prepared = ready(data, job)
    working = prepared.micrographs
    if abs(working.pixel_size / map.voxel_size - 1) > 0.01:
        raise ValueError(
            f"the map's voxel of {map.voxel_size:.4g} A cannot be reached from pixels of {data.pixel_size:.4g} A: the "
            f"nearest is {working.pixel_size:.4g} A; rescale the map"
        )
    working = fixed(prepared, job, gains).micrographs
    run = fit_scale(
        working, map, density=job.density, spacing=job.spacing, view_distribution=job.view_distribution,
        seed=seed, device=device,
    )  # fmt: skip
    found = list[tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]]()
    for name, one in zip(working.names, pick(working, run, views=views, least=least, seed=seed), strict=True):
        if tell is not None:
            tell(name, len(one))
        found.append((name, one.centres, one.posterior, one.rotations))
    if not any(len(posterior) for _, _, posterior, _ in found):
        raise ValueError(f"no place has a particle with a probability of {least:g} or more; try a lower --least")
    return PickAnswer(
        names=tuple(name for name, centres, _, _ in found for _ in range(len(centres))),
        centres=prepared.to_file_pixels(torch.cat([centres for _, centres, _, _ in found])),
        posterior=torch.cat([posterior for _, _, posterior, _ in found]),
        rotations=torch.cat([rotations for _, _, _, rotations in found]),
        run=run,
    )
