"""The MRC header (1024 bytes, MRC2014), checked, and the values behind it.

It is read here, so that a damaged or hostile header costs nothing: sizes are compared with the file's length
before anything is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpicked.data.arrays import MOST
from unpicked.io._files import BROKEN, CHUNK, Compression, compression, existing, one_line, opened, unpacked

CODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
MODES = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16"}
BZIP2 = 1 << 27  # bytes that the smallest of bzip2 files may become: zeros vanish in it
REFUSED = {3: "complex int16", 4: "complex float32", 101: "4-bit integers"}


@dataclass(frozen=True)
class Header:
    """What an MRC header says, checked.

    Attributes:
        path: the file.
        compression: how it is packed.
        dtype: of the values, with their byte order.
        stored: sections, rows, columns as they lie in the file.
        order: axes of the stored array that are z, y, x.
        voxel: x, y, z in angstrom; 0 where the header gives none.
        origin: x, y, z in angstrom, from ``origin``, else ``nstart``.
        space_group: 0 image or stack, 1 volume, from 401 on stacks of volumes.
        offset: bytes before the values.
        notes: what had to be assumed to read it.
        changed: when the file was last changed, in ns.
    """

    path: Path
    compression: Compression
    dtype: np.dtype[Any]
    stored: tuple[int, int, int]
    order: tuple[int, int, int]
    voxel: tuple[float, float, float]
    origin: tuple[float, float, float]
    space_group: int
    offset: int
    notes: tuple[str, ...]
    changed: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Lengths of z, y, x."""
        z, y, x = (self.stored[axis] for axis in self.order)
        return z, y, x

    @property
    def kind(self) -> str:
        """What the file holds, in words."""
        z, y, x = self.shape
        if self.space_group >= 401:
            return f"a stack of volumes (space group {self.space_group}, {z} x {y} x {x} in all)"
        if z == 1:
            return f"one image ({y} x {x})"
        if self.space_group == 0 or self.path.name.lower().endswith((".mrcs", ".mrcs.gz", ".mrcs.bz2")):
            return f"an image stack or a volume without space group ({z} x {y} x {x})"
        return f"a volume ({z} x {y} x {x})"


def read_header(path: Path | str) -> Header:
    """Read and check the first 1024 bytes, and the file's length where it is not compressed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an MRC file, of an unsupported mode, or shorter than its header says.
    """
    path = existing(path, "MRC file")
    packed = compression(path)
    try:
        with opened(path, packed) as file:
            head = file.read(1024)
    except BROKEN as error:
        if packed == "none":
            raise
        raise ValueError(f"{path} is a damaged {packed} file: {one_line(error)}") from None
    if not head:
        raise ValueError(f"{path} is empty; expected an MRC file")
    if len(head) < 1024:
        raise ValueError(f"{path} is not an MRC file: {len(head)} bytes, shorter than the header of 1024")
    header = replace(_parse(path, packed, head), changed=path.stat().st_mtime_ns)
    expected = header.offset + math.prod(header.stored) * header.dtype.itemsize
    size = path.stat().st_size
    if packed == "none" and size < expected:
        raise ValueError(
            f"{path} is truncated: its header ({by(header.stored)} {header.dtype.name}) needs "
            f"{expected} bytes, the file has {size}; copy it again"
        )
    most = MOST * size if packed == "gzip" else max(MOST * size, BZIP2)
    if packed != "none" and expected > most:
        raise ValueError(
            f"{path} is truncated: its header ({by(header.stored)} {header.dtype.name}) needs "
            f"{expected} bytes, which {size} bytes of {packed} cannot hold, or must not; copy it again, or unpack it"
        )
    return header


def header_pixel_size(header: Header) -> float:
    """Pixel size of an image file in angstrom.

    Raises:
        ValueError: if the header gives none, or x and y differ by more than 0.1 %.
    """
    return one_voxel(header, header.voxel[:2], "pixel size", "pixel_size= (command line: --pixel-size)")


def _parse(path: Path, packed: Compression, head: bytes) -> Header:
    stamp = head[212:214]
    likely = ">" if stamp == b"\x11\x11" else "<"
    orders = (likely, "<" if likely == ">" else ">")
    order = next((o for o in orders if _plausible(np.frombuffer(head, o + "i4").tolist())), None)
    if order is None:
        raise ValueError(f"{path} is not an MRC file: no sensible sizes, mode and axes in its header")
    ints = np.frombuffer(head, order + "i4").tolist()
    floats = np.frombuffer(head, order + "f4").tolist()
    columns, rows, sections, mode = ints[:4]
    if mode in REFUSED:
        raise ValueError(f"{path} has mode {mode} ({REFUSED[mode]}); expected one of {_modes()}; convert it first")
    notes = []
    if head[208:211] != b"MAP":
        notes.append(f"{path}: the header has no MAP id; read as MRC because its sizes fit")
    if order != likely or stamp not in (b"DD", b"DA", b"\x11\x11"):
        notes.append(f"{path}: wrong machine stamp {stamp.hex()}; byte order found from the sizes")
    axes = ints[16:19] if any(ints[16:19]) else [1, 2, 3]
    position = {axis: 2 - k for k, axis in enumerate(axes)}  # axis x = 1, y = 2, z = 3 -> stored axis
    start = {axis: value for axis, value in zip(axes, ints[4:7], strict=True)}
    voxel = [_ratio(cell, count) for cell, count in zip(floats[10:13], ints[7:10], strict=True)]
    origin = [value if math.isfinite(value) else 0.0 for value in floats[49:52]]
    if not any(origin):
        origin = [start[k + 1] * voxel[k] for k in range(3)]
    return Header(
        path,
        packed,
        np.dtype(order + CODES[mode]),
        (sections, rows, columns),
        (position[3], position[2], position[1]),
        (voxel[0], voxel[1], voxel[2]),
        (origin[0], origin[1], origin[2]),
        ints[22],
        1024 + ints[23],
        tuple(notes),
    )


def _plausible(ints: list[int]) -> bool:
    known = ints[3] in MODES or ints[3] in REFUSED
    return min(ints[:3]) > 0 and known and sorted(ints[16:19]) in ([0, 0, 0], [1, 2, 3]) and ints[23] >= 0


def _ratio(cell: float, count: int) -> float:
    size = cell / count if count > 0 else 0.0
    return round(size, 7) if math.isfinite(size) and size > 0 else 0.0  # the header is float32


def one_voxel(header: Header, sizes: Sequence[float], what: str, remedy: str) -> float:
    """The common size, or ValueError where there is none."""
    if not all(sizes):
        raise ValueError(f"{header.path} has no {what} (0 in the header); give {remedy}, in angstrom")
    if max(sizes) > 1.001 * min(sizes):
        raise ValueError(
            f"{header.path} has sizes {', '.join(f'{s:g}' for s in sizes)} A along x, y, z; "
            f"expected one {what} within 0.1 %; resample it, or give {remedy}"
        )
    return sizes[0]


def read_values(header: Header) -> NDArray[np.float32]:
    """All values as float32, axes z, y, x; nothing is allocated beyond what the file really holds.

    Raises:
        FileNotFoundError: if the file has gone since its header was read.
        ValueError: if it was changed since, or is truncated or damaged.
    """
    if not header.path.exists():
        raise FileNotFoundError(f"{header.path} has gone since it was first read; put it back")
    if header.path.stat().st_mtime_ns != header.changed:
        raise ValueError(f"{header.path} was changed since it was first read; put the old file back, or start anew")
    if header.compression == "none":
        with header.path.open("rb") as file:
            size = file.seek(0, 2)
        expected = header.offset + math.prod(header.stored) * header.dtype.itemsize
        if size < expected:
            raise ValueError(f"{header.path} is truncated: expected {expected} bytes, found {size}")
        mapped = np.memmap(header.path, header.dtype, "r", header.offset, header.stored)
        return np.array(mapped.transpose(header.order), dtype=np.float32, order="C")
    stored = np.frombuffer(_unpacked(header), header.dtype).reshape(header.stored)
    return np.array(stored.transpose(header.order), dtype=np.float32, order="C")


def _unpacked(header: Header) -> bytearray:
    wanted = math.prod(header.stored) * header.dtype.itemsize
    skip = header.offset
    try:
        with opened(header.path, header.compression) as file:
            while skip > 0 and (chunk := file.read(min(skip, CHUNK))):
                skip -= len(chunk)
            data = unpacked(file, wanted)
            file.read(1)  # past the end: only now is the checksum compared
    except BROKEN as error:
        raise ValueError(f"{header.path} is a damaged {header.compression} file: {one_line(error)}") from None
    if len(data) < wanted:
        raise ValueError(
            f"{header.path} is truncated: its header ({by(header.stored)} {header.dtype.name}) needs "
            f"{wanted} bytes of values, found {len(data)}; copy it again"
        )
    return data


def check_finite(path: Path, values: NDArray[np.float32], what: str) -> None:
    """Raise ValueError with the number of values that are not finite."""
    with np.errstate(invalid="ignore"):
        if np.isfinite(values.min()) and np.isfinite(values.max()):  # which take no memory
            return
    bad = values.size - int(np.isfinite(values).sum())
    raise ValueError(
        f"{path} holds {bad} {what} of {values.size} that are not finite (NaN or infinite); "
        "expected numbers; mend this file or leave it out"
    )


def by(shape: Sequence[int]) -> str:
    """Lengths as text, "2 x 3"."""
    return " x ".join(str(length) for length in shape)


def _modes() -> str:
    return ", ".join(f"{mode} ({name})" for mode, name in MODES.items())
