"""Arrays in NumPy's files, read without trust: no pickles, no memory for what a header claims and the file lacks."""

from __future__ import annotations

import ast
import math
import re
import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

MOST = 1100  # bytes that a packed byte may become: deflate cannot pack more than 1032 into one
_LONGEST = 10_000  # of a header, in bytes, as NumPy has it: long expressions could bring down Python's parser
_PACKING = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class Head:
    """What the header of a ``.npy`` file says, checked.

    Attributes:
        shape: of the array.
        order: "C", the last axis runs fastest, or "F", the first one.
        dtype: of its entries.
        offset: bytes before them.
    """

    shape: tuple[int, ...]
    order: Literal["C", "F"]
    dtype: np.dtype[Any]
    offset: int

    @property
    def size(self) -> int:
        """Bytes of the entries."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_head(path: Path) -> Head:
    """The header of a ``.npy`` file that is as long as it says.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: for any other file; one line that says why, without the file's name.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        return _head(file, size)


def mapped(path: Path) -> NDArray[Any]:
    """The array of a ``.npy`` file, mapped into memory; raises as :func:`read_head`, and for text that is none."""
    head = read_head(path)
    if head.size == 0:
        return np.zeros(head.shape, head.dtype)
    return _sound(np.memmap(path, head.dtype, "r", head.offset, head.shape, head.order))


def members(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Those of some arrays that an ``.npz`` file holds.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: for a file of another kind, or a damaged one; one line that says why, without the file's name.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        try:
            with zipfile.ZipFile(file) as held:
                infos = {info.filename: info for info in held.infolist()}
                found = {name: infos[f"{name}.npy"] for name in names if f"{name}.npy" in infos}
                return {name: _member(held, info, size) for name, info in found.items()}
        except Exception as error:  # zipfile and its decoders raise many kinds
            raise ValueError(_reason(error)) from None


def _member(held: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> NDArray[Any]:
    """An array of an archive of ``size`` bytes."""
    if info.compress_type not in _PACKING or info.compress_size > size or info.file_size > MOST * size:
        raise ValueError(f"{info.filename} is packed in an unknown way, or claims more bytes than it can have")
    with held.open(info) as stream:
        head = _head(stream, info.file_size)
        data = bytearray()
        while len(data) < head.size and (piece := stream.read(min(head.size - len(data), 1 << 20))):
            data += piece
    if len(data) < head.size:
        raise ValueError(f"{info.filename} ends too early: {len(data)} of {head.size} bytes")
    return _sound(np.frombuffer(data, head.dtype).reshape(head.shape, order=head.order))


def _head(stream: IO[bytes], size: int) -> Head:
    """The header at the beginning of ``size`` bytes."""
    start = stream.read(8)
    if start[:6] != b"\x93NUMPY" or len(start) < 8 or start[6] not in (1, 2, 3):
        raise ValueError("it does not begin as one")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    if length > min(size, _LONGEST):
        raise ValueError(f"its header is said to have {length} bytes")
    text = stream.read(length).decode("utf-8" if start[6] == 3 else "latin-1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old names of types, and of backslashes
            said = _literal(text)
            shape, turned, kind = said["shape"], said["fortran_order"], np.lib.format.descr_to_dtype(said["descr"])
        whole = all(type(count) is int and count >= 0 for count in shape)
    except Exception as error:  # Python's parser and NumPy's of types raise many kinds
        raise ValueError(f"its header cannot be understood: {_reason(error)}") from None
    if not isinstance(shape, tuple) or not whole or kind.hasobject or kind.itemsize == 0:
        raise ValueError(f"it should hold {str(shape)[:60]} of {str(kind)[:60]}; expected numbers or text")
    head = Head(shape, "F" if turned else "C", kind, len(start) + width + length)
    if head.offset + head.size > size:
        raise ValueError(f"its header needs {head.offset + head.size} bytes, it has {size}")
    return head


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except SyntaxError:  # Python 2 wrote shapes like (5L,)
        return ast.literal_eval(re.sub(r"(?<=\d)L\b", "", text.strip()))


def _sound(found: NDArray[Any]) -> NDArray[Any]:
    """The array, unless text in it is none: NumPy would take any number for a letter."""
    for column in (found[name] for name in found.dtype.names) if found.dtype.names else (found,):
        if column.dtype.kind == "U" and column.size and column.dtype.itemsize:
            codes = np.ascontiguousarray(column).view(np.dtype("u4").newbyteorder(column.dtype.byteorder))
            if codes.max() > 0x10FFFF:
                raise ValueError("it holds text that is no Unicode")
    return found


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
