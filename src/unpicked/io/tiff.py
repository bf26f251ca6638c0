"""TIFF files: micrographs that are read one by one. They need the optional package tifffile."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unpicked._lazy import torch
from unpicked.data.arrays import MOST
from unpicked.io._files import existing, one_line
from unpicked.io._mrc import by, check_finite
from unpicked.io.mrc import Contrast, check_contrast

if TYPE_CHECKING:
    from types import ModuleType

ENDINGS = (".tif", ".tiff")
PACKING = {1: 1, 5: 2800, 8: MOST, 32946: MOST, 32773: 64}  # none, LZW, deflate twice, PackBits: bytes of one byte


@dataclass(frozen=True)
class TiffSource:
    """Micrographs in TIFF files, one image per file, read when asked for.

    A :class:`~unpicked.data.micrographs.Source`. All heads are read at construction. The first row of a TIFF file is at
    the top, that of an MRC file at the bottom: rows are read in reverse, as other programs of the field do, so that an
    astigmatism angle means the same in both.

    Attributes:
        files: the files.
        contrast: "dark" files are multiplied by -1, so that matter is bright.
        pixel_size: angstrom; TIFF files do not say it.
        heads: shape and type of every image.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if tifffile is not installed, there is no pixel size, a file is not TIFF or not one grey image, or
            sizes differ.
    """

    files: tuple[Path, ...]
    contrast: Contrast = "dark"
    pixel_size: float | None = None
    heads: tuple[tuple[tuple[int, int], str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_contrast(self.contrast)
        if not self.files:
            raise ValueError("files must name at least one micrograph; got none")
        _tifffile(self.files[0])
        if self.pixel_size is None:
            raise ValueError(
                f"{self.files[0]}: TIFF files state no pixel size that can be relied on; give pixel_size= "
                "(--pixel-size), in angstrom"
            )
        if not (math.isfinite(self.pixel_size) and self.pixel_size > 0):
            raise ValueError(f"pixel_size must be positive, in angstrom; got {self.pixel_size}")
        heads = tuple(_head(path) for path in self.files)
        object.__setattr__(self, "heads", heads)
        for path, (shape, _) in zip(self.files, heads, strict=True):
            if shape != heads[0][0]:
                raise ValueError(
                    f"micrographs must have one size: {self.files[0]} is {by(heads[0][0])}, {path} is {by(shape)}; "
                    "treat them as separate sets"
                )

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.heads[0][0]

    @property
    def types(self) -> tuple[str, ...]:
        """Names of the types of the pixels in the files."""
        return tuple(sorted({kind for _, kind in self.heads}))

    @property
    def stated(self) -> float:
        """Pixel size that the first file states: none, 0."""
        return 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What is assumed to read the files."""
        return ("TIFF: the order of the rows is reversed on reading, as RELION and IMOD do",)

    def read(self, index: int) -> torch.Tensor:
        """Micrograph ``index`` as ``(height, width)`` float32, matter bright.

        Raises:
            ValueError: if the file is damaged, holds pixels that are not finite, or only one value.
        """
        path = self.files[index]
        try:
            with _unheard():
                stored = _tifffile(path).imread(path, key=0)
        except Exception as error:  # tifffile and its decoders raise many kinds
            raise ValueError(f"{path} is a damaged TIFF file, or packed in an unknown way: {one_line(error)}") from None
        with np.errstate(all="ignore"):  # what float32 cannot hold becomes infinite
            values = np.array(stored[::-1], dtype=np.float32, order="C")
        check_finite(path, values, "pixels")
        low = values.min()
        if low == values.max():
            raise ValueError(f"{path} is constant: every pixel is {low:g}; leave this micrograph out")
        return torch.from_numpy(np.negative(values, out=values) if self.contrast == "dark" else values)


def _tifffile(path: Path) -> ModuleType:
    try:
        import tifffile
    except ImportError:
        raise ValueError(
            f"{path} is a TIFF file, which needs the package tifffile: pip install 'unpicked[tiff]'; or convert it to "
            "MRC (IMOD: tif2mrc; RELION: relion_image_handler)"
        ) from None
    return tifffile


@contextmanager
def _unheard() -> Iterator[None]:
    """Without what tifffile logs about a damaged file, and warns of: what it cannot read it also raises."""
    log = logging.getLogger("tifffile")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _head(path: Path) -> tuple[tuple[int, int], str]:
    path, package = existing(path, "micrograph"), _tifffile(path)
    try:
        with _unheard(), package.TiffFile(path) as file:
            frames, page = len(file.pages), file.pages.first
            shape, kind = tuple(int(length) for length in page.shape), page.dtype
            packing = int(page.compression)
            wanted = max(math.prod(lengths) for lengths in (shape, page.chunks)) * np.dtype(kind or "u1").itemsize
            end = max(start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True))
    except Exception as error:  # tifffile raises many kinds
        raise ValueError(f"{path} is not a TIFF file, or damaged: {one_line(error)}") from None
    if frames > 1:
        raise ValueError(
            f"{path} holds {frames} frames; expected one micrograph: correct the motion and sum them first"
        )
    if len(shape) != 2 or min(shape) < 1 or kind is None or np.dtype(kind).kind not in "fiu":
        raise ValueError(f"{path} holds an image of shape {by(shape)}, {kind}; expected one of grey values")
    if packing not in PACKING:
        raise ValueError(f"{path} is packed by method {packing}; expected LZW, deflate, PackBits or none; convert it")
    size = path.stat().st_size
    if wanted > size * PACKING[packing] or end > size:
        needs = f"an image of {wanted} bytes, in places up to byte {end}"
        raise ValueError(f"{path} is truncated: its header tells of {needs}; the file has {size}; copy it again")
    return (shape[0], shape[1]), np.dtype(kind).name
