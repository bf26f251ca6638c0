"""MRC files: maps, and micrographs that are read one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.io._files import output
from unpicked.io._mrc import Header, by, check_finite, header_pixel_size, one_voxel, read_header, read_values

Contrast = Literal["dark", "bright"]


def read_map(path: Path | str, *, voxel_size: float | None = None) -> Map:
    """Read a cubic map, float32, axes in the order z, y, x whatever their order in the file.

    Args:
        path: MRC file, plain, .gz or .bz2.
        voxel_size: angstrom; overrides the header.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an MRC file, truncated, not a cube, holds values that are not finite, or has
            no voxel size or one that differs between axes by more than 0.1 %.
    """
    header = read_header(path)
    if len(set(header.shape)) != 1 or header.space_group >= 401:
        raise ValueError(f"{path} holds {header.kind}; expected a cubic map (d x d x d); crop or pad it to a cube")
    if header.space_group == 0 and header.path.name.lower().endswith((".mrcs", ".mrcs.gz", ".mrcs.bz2")):
        raise ValueError(f"{path} holds an image stack ({by(header.shape)}); expected a map")
    if voxel_size is None:
        voxel_size = one_voxel(header, header.voxel, "voxel size", "voxel_size= (command line: --map-voxel)")
    elif not (math.isfinite(voxel_size) and voxel_size > 0):
        raise ValueError(f"voxel_size must be positive, in angstrom; got {voxel_size}")
    values = read_values(header)
    check_finite(header.path, values, "voxels")
    return Map(torch.from_numpy(values), voxel_size, header.origin)


def map_notes(path: Path | str) -> tuple[str, ...]:
    """Sentences on what :func:`read_map` assumes for this file (header faults, a voxel size of exactly 1).

    Raises:
        FileNotFoundError, ValueError: as :func:`read_header`.
    """
    header = read_header(path)
    notes = list(header.notes)
    if header.space_group == 0 and header.shape[0] > 1:
        notes.append(f"{path}: space group 0 does not tell a volume from an image stack; read as volume")
    if header.voxel[0] == 1.0:
        notes.append(f"{path}: the voxel size is exactly 1 A in the header, a common filler; check it")
    return tuple(notes)


def write_map(map: Map, path: Path | str, *, overwrite: bool = False) -> None:
    """Write a map as float32 MRC volume with its voxel size and origin; ``nstart`` is 0.

    The file appears whole or not at all. A name ending in .gz or .bz2 is compressed.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        ValueError: if a value is not finite.
    """
    _write(map.values, path, map.voxel_size, "volume", map.origin, overwrite)


def write_image(
    image: torch.Tensor,
    path: Path | str,
    pixel_size: float,
    *,
    contrast: Contrast = "bright",
    overwrite: bool = False,
) -> None:
    """Write one micrograph as float32 MRC.

    Args:
        image: ``(height, width)``, matter bright.
        path: file name.
        pixel_size: angstrom.
        contrast: "bright" writes the values as they are, "dark" multiplies them by -1, as microscopes do.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        ValueError: for another shape, a bad pixel size, or values that are not finite.
    """
    if image.dim() != 2:
        raise ValueError(f"image must be (height, width); got shape {tuple(image.shape)}")
    _write(_signed(image, contrast), path, pixel_size, "image", (0.0, 0.0, 0.0), overwrite)


def write_stack(
    images: torch.Tensor,
    path: Path | str,
    pixel_size: float,
    *,
    contrast: Contrast = "bright",
    overwrite: bool = False,
) -> None:
    """Write ``(n, height, width)`` images as a float32 MRC stack; arguments as :func:`write_image`.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        ValueError: for another shape, a bad pixel size, or values that are not finite.
    """
    if images.dim() != 3:
        raise ValueError(f"images must be (n, height, width); got shape {tuple(images.shape)}")
    _write(_signed(images, contrast), path, pixel_size, "stack", (0.0, 0.0, 0.0), overwrite)


@dataclass(frozen=True)
class MrcSource:
    """Micrographs in MRC files, one image per file, read when asked for.

    A :class:`~unpicked.data.micrographs.Source`. All headers are read at construction.

    Attributes:
        files: the files.
        contrast: "dark" files are multiplied by -1, so that matter is bright.
        pixel_size: angstrom; None takes the headers', which must then agree.
        headers: what the headers say.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is not MRC, truncated or not one image, or if sizes or pixel sizes differ.
    """

    files: tuple[Path, ...]
    contrast: Contrast = "dark"
    pixel_size: float | None = None
    headers: tuple[Header, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_contrast(self.contrast)
        if not self.files:
            raise ValueError("files must name at least one micrograph; got none")
        if self.pixel_size is not None and not (math.isfinite(self.pixel_size) and self.pixel_size > 0):
            raise ValueError(f"pixel_size must be positive, in angstrom; got {self.pixel_size}")
        headers = tuple(read_header(path) for path in self.files)
        object.__setattr__(self, "headers", headers)
        first = headers[0]
        for header in headers:
            if header.shape[0] != 1 or header.space_group >= 401:
                raise ValueError(f"{header.path} holds {header.kind}; expected one micrograph per file")
            if header.shape != first.shape:
                raise ValueError(
                    f"micrographs must have one size: {first.path} is {by(first.shape[1:])}, "
                    f"{header.path} is {by(header.shape[1:])}; treat them as separate sets"
                )
        if self.pixel_size is None:
            sizes = [header_pixel_size(header) for header in headers]
            for header, size in zip(headers, sizes, strict=True):
                if abs(size - sizes[0]) > 1e-3 * sizes[0]:
                    raise ValueError(
                        f"micrographs must have one pixel size: {first.path} has {sizes[0]:g} A, "
                        f"{header.path} has {size:g} A; give pixel_size= (--pixel-size) if one is wrong"
                    )
            object.__setattr__(self, "pixel_size", sizes[0])

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.headers[0].shape[1:]

    @property
    def types(self) -> tuple[str, ...]:
        """Names of the types of the pixels in the files."""
        return tuple(sorted({header.dtype.name for header in self.headers}))

    @property
    def stated(self) -> float:
        """Pixel size that the first header states, angstrom; 0 for none."""
        return self.headers[0].voxel[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be assumed to read the files."""
        return tuple(note for header in self.headers for note in header.notes)

    def read(self, index: int) -> torch.Tensor:
        """Micrograph ``index`` as ``(height, width)`` float32, matter bright.

        Raises:
            ValueError: if the file is damaged, holds pixels that are not finite, or only one value.
        """
        header = self.headers[index]
        values = read_values(header)[0]
        check_finite(header.path, values, "pixels")
        low = values.min()
        if low == values.max():
            raise ValueError(f"{header.path} is constant: every pixel is {low:g}; leave this micrograph out")
        return torch.from_numpy(np.negative(values, out=values) if self.contrast == "dark" else values)


def _write(
    values: torch.Tensor,
    path: Path | str,
    voxel_size: float,
    kind: Literal["volume", "image", "stack"],
    origin: tuple[float, float, float],
    overwrite: bool,
) -> None:
    import mrcfile

    path = Path(path)
    if not (math.isfinite(voxel_size) and voxel_size > 0):
        raise ValueError(f"the pixel or voxel size of {path} must be positive, in angstrom; got {voxel_size}")
    if values.numel() == 0:
        raise ValueError(f"nothing to write to {path}: shape {tuple(values.shape)}")
    array = np.ascontiguousarray(values.detach().cpu().numpy(), dtype=np.float32)
    if not np.isfinite(array).all():
        bad = array.size - int(np.isfinite(array).sum())
        raise ValueError(f"not written, {path}: {bad} of {array.size} values are not finite in float32")
    packed = {".gz": "gzip", ".bz2": "bzip2"}.get(path.suffix.lower())
    with output(path, overwrite) as temporary, mrcfile.new(temporary, compression=packed) as file:
        file.set_data(array)
        if kind == "volume":
            file.set_volume()
        elif kind == "stack":
            file.set_image_stack()
        file.voxel_size = voxel_size
        file.header.nxstart = file.header.nystart = file.header.nzstart = 0
        file.header.origin.x, file.header.origin.y, file.header.origin.z = origin
        file.header.label[0] = b"written by unpicked"  # without a time: the same data give the same bytes
        file.header.nlabl = 1


def _signed(values: torch.Tensor, contrast: Contrast) -> torch.Tensor:
    check_contrast(contrast)
    return -values if contrast == "dark" else values


def check_contrast(contrast: str) -> None:
    """Raise ValueError unless it is "dark" or "bright"."""
    if contrast not in ("dark", "bright"):
        raise ValueError(f"contrast must be 'dark' or 'bright'; got {contrast!r}")
