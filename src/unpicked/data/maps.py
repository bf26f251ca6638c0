"""A three-dimensional map: values and the size of a voxel."""

from __future__ import annotations

from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.ops import fourier


@dataclass(frozen=True)
class Map:
    """A density map on a cubic grid.

    Attributes:
        values: ``(d, d, d)``, axes z, y, x; the origin of coordinates is voxel d // 2.
        voxel_size: edge of a voxel in angstrom.
        origin: the file's origin in angstrom (x, y, z), kept, never applied.
    """

    values: torch.Tensor
    voxel_size: float
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        shape = tuple(self.values.shape)
        if len(shape) != 3 or len(set(shape)) != 1:
            raise ValueError(f"a map must be a cube (d, d, d); got shape {shape}; crop or pad it to a cube first")
        if not self.voxel_size > 0:
            raise ValueError(f"voxel_size must be positive, in angstrom; got {self.voxel_size}")

    @property
    def box(self) -> int:
        """Number of voxels along an edge."""
        return int(self.values.shape[-1])

    def rescale(self, box: int) -> Map:
        """The same field of view on another number of voxels, by Fourier crop or pad; grey values are kept.

        (The operator :func:`unpicked.ops.fourier.resize_volume` keeps Fourier coefficients instead.)
        """
        values = fourier.resize_volume(self.values, box) * (box / self.box) ** 2
        return Map(values, self.voxel_size * self.box / box, self.origin)

    def crop(self, box: int) -> Map:
        """Crop or zero-pad about the centre to another number of voxels of the same size."""
        from unpicked.ops.window import crop_or_pad

        return Map(crop_or_pad(self.values, (box, box, box)), self.voxel_size, self.origin)
