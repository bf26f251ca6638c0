"""Stacks of particle images in MRC files: read image by image, and written as a stream."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unpicked._lazy import torch
from unpicked.io._files import existing, output
from unpicked.io._mrc import Header, by, read_header
from unpicked.io.mrc import Contrast, check_contrast

if TYPE_CHECKING:
    from unpicked.io.particle_table import ParticleTable

ENDINGS = (".mrcs", ".mrc", ".st")


@dataclass(frozen=True)
class StackSource:
    """Particle images of one size in MRC stacks, mapped into memory and read when asked for.

    A :class:`~unpicked.data.micrographs.Source`. All headers are read at construction.

    Attributes:
        files: the stacks.
        which: for every image, which of the files holds it.
        indices: for every image its place in that file, counted from 0.
        names: for every image the name that messages use.
        signs: for every image the factor, 1 or -1, that makes matter bright; None is 1 for all.
        table: what the metadata say of the images, where they came with some.
        headers: what the headers say.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is no stack or damaged, an index lies outside it, or the images are not square and of
            one size.
    """

    files: tuple[Path, ...]
    which: tuple[int, ...]
    indices: tuple[int, ...]
    names: tuple[str, ...]
    signs: tuple[int, ...] | None = None
    table: ParticleTable | None = field(default=None, repr=False, compare=False)
    headers: tuple[Header, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("files must name at least one stack; got none")
        headers = tuple(stack_header(path, named=self.table is not None) for path in self.files)
        object.__setattr__(self, "headers", headers)
        first = headers[0]
        for header in headers:
            if header.shape[1] != header.shape[2]:
                raise ValueError(f"{header.path} holds images of {by(header.shape[1:])}; expected square images")
            if header.shape[1:] != first.shape[1:]:
                raise ValueError(
                    f"particle images must have one size: {first.path} has {by(first.shape[1:])}, {header.path} has "
                    f"{by(header.shape[1:])}; treat them as separate sets, or extract them again in one box"
                )
        for row, (file, index, name) in enumerate(zip(self.which, self.indices, self.names, strict=True), start=1):
            if not 0 <= index < headers[file].shape[0]:
                count = headers[file].shape[0]
                where = f"{self.table.path}, row {row}" if self.table else f"image {row}"
                raise ValueError(
                    f"{where}: {name} lies outside its stack: {headers[file].path} holds {count} images; "
                    "give the stack that belongs to this file"
                )

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.headers[0].shape[1:]

    def read(self, index: int) -> torch.Tensor:
        """Image ``index`` as ``(box, box)`` float32, matter bright.

        Raises:
            ValueError: if the file is damaged, or the image holds pixels that are not finite or only one value.
        """
        header = self.headers[self.which[index]]
        stored = _mapped(header)[self.indices[index]]
        values = np.array(stored, dtype=np.float32, order="C")
        with np.errstate(invalid="ignore"):
            low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            bad = values.size - int(np.isfinite(values).sum())
            raise ValueError(
                f"image {self.names[index]} ({header.path}) holds {bad} of {values.size} pixels that are not finite "
                "(NaN or infinite); mend it or leave it out"
            )
        if low == high:
            raise ValueError(
                f"image {self.names[index]} ({header.path}) is constant: every pixel is {low:g}; leave it out"
            )
        if self.signs is not None and self.signs[index] < 0:
            np.negative(values, out=values)
        return torch.from_numpy(values)


def stack_header(path: Path | str, *, named: bool = False) -> Header:
    """The header of a stack of images.

    Args:
        path: MRC file, not compressed.
        named: some metadata name single images of this file: then a header that says "volume" is believed only for
            a cube, since several programs write stacks so.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an MRC file, truncated, compressed, or a volume.
    """
    header = read_header(path)
    if header.compression != "none":
        raise ValueError(f"{path} is compressed ({header.compression}); stacks are read in place: unpack it first")
    stack = header.path.name.lower().endswith(".mrcs") or header.space_group == 0 or header.shape[0] == 1
    cube = len(set(header.shape)) == 1
    if header.space_group >= 401 or not (stack or (named and not cube)):
        raise ValueError(
            f"{path} holds {header.kind}, space group {header.space_group}; expected a stack of particle images; "
            "if it is one, name it .mrcs"
        )
    return header


def stack_notes(header: Header) -> list[str]:
    """Sentences on what was assumed to read a stack."""
    notes = list(header.notes)
    if header.space_group != 0 and header.shape[0] > 1:
        why = (
            "its name ends in .mrcs" if header.path.name.lower().endswith(".mrcs") else "single images of it are named"
        )
        notes.append(f"{header.path}: the header says volume (space group {header.space_group}); a stack, as {why}")
    elif header.path.suffix.lower() != ".mrcs" and len(set(header.shape)) == 1:
        notes.append(f"{header.path}: a cube with space group 0, read as a stack of {header.shape[0]} images")
    return notes


def write_stack_of(
    images: Iterable[torch.Tensor],
    path: Path | str,
    count: int,
    pixel_size: float,
    *,
    contrast: Contrast = "bright",
    overwrite: bool = False,
) -> None:
    """Write a float32 MRC stack image by image: it may be larger than memory. It appears whole or not at all.

    Args:
        images: ``(height, width)`` each, matter bright; a generator is used up.
        path: file name, ending in .mrcs.
        count: how many images there are.
        pixel_size: angstrom.
        contrast: "bright" writes the values as they are, "dark" multiplies them by -1.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        ValueError: for another number of images, images of different shapes, a bad pixel size, or values that are not
            finite (it names the image).
    """
    path = Path(path)
    check_contrast(contrast)
    if not (math.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"the pixel size of {path} must be positive, in angstrom; got {pixel_size}")
    if not 1 <= count < 2**31:
        raise ValueError(f"count must be at least 1, the number of images of {path}; got {count}")
    shape: tuple[int, ...] | None = None
    written, low, high, total, square = 0, math.inf, -math.inf, 0.0, 0.0
    with output(path, overwrite) as temporary, temporary.open("wb") as file:
        file.write(bytes(1024))
        for image in images:
            if written == count:
                raise ValueError(f"not written, {path}: more images than the {count} that were announced")
            if image.dim() != 2 or (shape is not None and tuple(image.shape) != shape):
                want = "(height, width)" if shape is None else str(shape)
                raise ValueError(f"image {written + 1} of {path} must be {want}; got shape {tuple(image.shape)}")
            shape = tuple(image.shape)
            values = image.detach().to("cpu", torch.float32).numpy()
            values = np.ascontiguousarray(-values if contrast == "dark" else values, dtype="<f4")
            bad = values.size - int(np.isfinite(values).sum())
            if bad or values.size == 0:
                raise ValueError(
                    f"not written, {path}: {bad} of {values.size} values of image {written + 1} not finite"
                )
            file.write(values.data)
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            total += float(values.sum(dtype=np.float64))
            square += float(np.square(values, dtype=np.float64).sum())
            written += 1
        if written != count or shape is None:
            raise ValueError(f"not written, {path}: {written} images came, {count} were announced")
        size = count * shape[0] * shape[1]
        mean = total / size
        file.seek(0)
        statistics = (low, high, mean, math.sqrt(max(square / size - mean**2, 0.0)))
        file.write(_head((count, *shape), pixel_size, statistics))


def stack_files(files: Path | str | Sequence[Path | str]) -> tuple[Path, ...]:
    """Paths of bare stacks that exist."""
    items = [files] if isinstance(files, str | Path) else list(files)
    return tuple(existing(item, "stack of particle images") for item in items)


def _head(shape: tuple[int, ...], pixel_size: float, statistics: tuple[float, float, float, float]) -> bytes:
    from mrcfile.dtypes import HEADER_DTYPE

    head = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    head["nz"], head["ny"], head["nx"] = shape
    head["mx"], head["my"], head["mz"] = shape[2], shape[1], 1  # an image stack: one section per volume
    head["mode"] = 2
    head["cella"] = (shape[2] * pixel_size, shape[1] * pixel_size, pixel_size)
    head["cellb"] = (90.0, 90.0, 90.0)
    head["mapc"], head["mapr"], head["maps"] = 1, 2, 3
    head["dmin"], head["dmax"], head["dmean"], head["rms"] = statistics
    head["nversion"], head["map"], head["machst"] = 20141, b"MAP ", (0x44, 0x44, 0, 0)
    head["label"][0], head["nlabl"] = b"written by unpicked", 1
    return head.tobytes()


def _mapped(header: Header) -> NDArray[Any]:
    """The values of a stack, z y x, mapped; the file must be as long as its header says."""
    found = header.path.stat()
    expected = header.offset + math.prod(header.stored) * header.dtype.itemsize
    if found.st_size < expected:
        raise ValueError(f"{header.path} is truncated: expected {expected} bytes, found {found.st_size}")
    key = (header.path, header.dtype.str, header.offset, header.stored, header.order)
    return _map(*key, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=64)  # a set may lie in thousands of stacks: no more than this many files are held open
def _map(
    path: Path, dtype: str, offset: int, stored: tuple[int, ...], order: tuple[int, ...], size: int, changed: int
) -> NDArray[Any]:
    del size, changed  # they make the entry of another file with this name another entry
    return np.memmap(path, np.dtype(dtype), "r", offset, stored).transpose(order)
