"""What all formats share: opening compressed files, and output that appears whole or not at all."""

from __future__ import annotations

import bz2
import glob
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, cast

Compression = Literal["none", "gzip", "bzip2"]
CHUNK = 1 << 20  # bytes that are unpacked at once
TEXT = 256  # bytes of text that a compressed byte may hold
BROKEN = (EOFError, zlib.error, OSError)  # what a damaged compressed file raises on reading


def existing(path: Path | str, what: str) -> Path:
    """The path of a file that exists.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: if it is a folder, or the name cannot be a path.
    """
    path = Path(path)
    if "\0" in str(path):
        raise ValueError(f"{what} has a name with a zero byte: {str(path)!r}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected {what}")
    if not path.exists():
        raise FileNotFoundError(f"{what} not found: {path} (looked in {Path.cwd()})")
    return path


def expanded(item: Path | str, endings: tuple[str, ...], what: str) -> list[Path]:
    """The files that a path names: itself, those of a folder with one of some endings, or what a pattern matches.

    Raises:
        FileNotFoundError: if there are none.
    """
    path = Path(item)
    if path.is_dir():
        visible = sorted(p for p in path.iterdir() if not p.name.startswith("."))
        if found := [p for p in visible if p.name.lower().endswith(endings)]:
            return found
        raise FileNotFoundError(f"{path} holds no {what}s; expected files {', '.join(endings)}")
    if glob.has_magic(str(item)) and not path.exists():
        found = sorted(Path(name) for name in glob.glob(str(item), recursive=True))
        if not found:
            raise FileNotFoundError(f"no file matches {str(item)!r} (looked from {Path.cwd()})")
        return found
    return [existing(path, what)]


def found_among(places: Iterable[Path], name: str) -> tuple[Path | None, str]:
    """The first of some places that is a file, or None, and the places in words; ``name`` is as a list has it."""
    tried = list(dict.fromkeys(places))
    for path in tried:
        try:
            if "\0" not in name and path.is_file():
                return path, ""
        except OSError:  # a name longer than the system takes
            break
    return None, ", ".join(str(path)[:400] for path in tried)


def around(listed: Path) -> list[Path]:
    """Folders in which the files of a list are looked for: its own, the working one, and those above it."""
    above = [folder for folder in listed.resolve().parents[1:5] if folder != Path(folder.anchor)]
    return [listed.parent, Path.cwd(), *above]


def compression(path: Path) -> Compression:
    """How a file is compressed, from its first bytes."""
    with path.open("rb") as file:
        first = file.read(3)
    if first == b"\x1f\x8b\x08":
        return "gzip"
    return "bzip2" if first == b"BZh" else "none"


def opened(path: Path, kind: Compression) -> IO[bytes]:
    """The file's bytes, decompressed on the way."""
    if kind == "gzip":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if kind == "bzip2":
        return cast("IO[bytes]", bz2.open(path, "rb"))
    return path.open("rb")


def unpacked(file: IO[bytes], most: int) -> bytearray:
    """The bytes of a compressed file up to so many; memory grows with what there really is."""
    data = bytearray()
    while len(data) < most and (piece := file.read(min(most - len(data), CHUNK))):
        data += piece
    return data


def read_text(path: Path) -> str:
    """The whole text of a file, plain or compressed.

    Raises:
        ValueError: if it is damaged or not text.
    """
    kind, limit = compression(path), max(TEXT * path.stat().st_size, CHUNK)
    try:
        with opened(path, kind) as file:
            data = file.read() if kind == "none" else unpacked(file, limit + 1)
    except BROKEN as error:
        if kind == "none":
            raise
        raise ValueError(f"{path} is a damaged {kind} file: {one_line(error)}") from None
    if kind != "none" and len(data) > limit:
        raise ValueError(f"{path} unpacks to more than {TEXT} times its size; expected text; unpack it first if it is")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: byte {error.start} is not UTF-8") from None


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is not JSON, nested too deeply, or holds a whole number that no float can hold.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {one_line(error)}") from None


def _whole(digits: str) -> int:
    if len(digits) > 300:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def one_line(error: BaseException) -> str:
    """The message of another library's error on one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def output(path: Path | str, overwrite: bool) -> Iterator[Path]:
    """A temporary name in the same folder, which becomes ``path`` when the block ends without an error.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        FileNotFoundError: if the folder does not exist.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected the name of a file to write")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; give overwrite=True (--overwrite) or another name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"folder {path.parent} does not exist; make it before writing {path.name}")
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # the ending stays: it tells the compression
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_durably(path: Path, *parts: bytes | memoryview, before: Path | None = None) -> None:
    """Write a file whole or not at all, and for good: once this returns, it survives a power cut.

    Args:
        path: its name; one that exists is replaced.
        parts: what it holds.
        before: the name that the file takes which is replaced; None: it goes.

    Raises:
        OSError: where it cannot be written; the old one is then as it was.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        if before is not None and path.exists():
            os.replace(path, before)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    with suppress(OSError):  # not every file system knows this of folders
        sync(path.parent)


def sync(path: Path) -> None:
    """Have the system put a file, or the names in a folder, on its disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
