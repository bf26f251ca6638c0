"""Changes that damage a file: bits, words, cuts and splices of bytes; words, lines and columns of text; values of JSON;
headers of arrays; members of archives; the content of compressed files. Shared by what fuzzes the readers.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any

INTEGERS = (0, 1, -1, 2, 3, 4, 6, 127, 128, 255, 1024, 65535, 2**31 - 1, -(2**31), 2**30, 0x01010101)
FLOATS = (0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e30, 1e-30, 3.4e38)
WORDS = (
    "0", "1", "-1", "2", "7", "1e999", "nan", "-inf", "1e-320", "1e30", "-1e300", "2147483648", "18446744073709551616",
    "9" * 30, "9" * 5000, "0x10", "1_0", "?", ".", "''", '"', "'", ";", "#", "None", "x", "é", "\0", "\t", "\r\n", "@",
    "1@", "0@s.mrcs", "3@s.mrcs", "1@../s.mrcs", "/dev/zero", "m0.mrc", "..", "a" * 300, "a/" * 2000, "data_", "loop_",
    "[", "{", "(", "|O", "<f8", "|S0", "|V0", "<U9", ">i2", "True", "(-1,)", "[" * 3000, "%s", "$", "*", "-0",
)  # fmt: skip


def changed(random: Random, data: bytes, other: bytes, kind: str) -> bytes:
    """A file changed in one to five places: by its structure, or as mere bytes."""
    if kind in STRUCTURED and random.random() < 0.8:
        return STRUCTURED[kind](random, data, other)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        data = random.choice(BYTES)(random, data, other)
    return data


def flip(random: Random, data: bytes, _: bytes) -> bytes:
    out = bytearray(data or b"\0")
    for _ in range(random.choice((1, 1, 8))):
        out[early(random, len(out))] ^= 1 << random.randrange(8)
    return bytes(out)


def word(random: Random, data: bytes, _: bytes) -> bytes:
    number = random.choice(INTEGERS + FLOATS)
    order = random.choice("<<>")
    size = random.choice("iiiqh") if isinstance(number, int) else random.choice("ffd")
    size = "i" if size == "h" and not -(2**15) <= number < 2**15 else size
    value = struct.pack(order + size, number)
    place = early(random, max(1, len(data) // 4)) * 4
    return data[:place] + value + data[place + len(value) :]


def cut(random: Random, data: bytes, _: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def grow(random: Random, data: bytes, _: bytes) -> bytes:
    place = early(random, len(data) + 1)
    return data[:place] + random.randbytes(random.choice((1, 4, 64))) + data[place:]


def drop(random: Random, data: bytes, _: bytes) -> bytes:
    place = random.randrange(len(data) + 1)
    return data[:place] + data[place + random.choice((1, 4, 64, 1024)) :]


def splice(random: Random, data: bytes, other: bytes) -> bytes:
    place = random.randrange(min(len(data), len(other)) + 1)
    return data[:place] + other[place if random.random() < 0.5 else random.randrange(len(other) + 1) :]


def double(random: Random, data: bytes, _: bytes) -> bytes:
    start = random.randrange(len(data) + 1)
    piece = data[start : start + random.choice((1, 16, 256, 4096))]
    return data[:start] + piece * random.choice((2, 2, 20)) + data[start:]


BYTES = (flip, flip, word, word, word, word, cut, grow, drop, splice, double)


def early(random: Random, length: int) -> int:
    """A place, more often near the beginning, where headers are."""
    return int(length * random.random() ** random.choice((1, 3)))


def text(random: Random, data: bytes, other: bytes) -> bytes:
    """Text changed by words, lines and columns."""
    lines, others = (piece.decode("latin-1").split("\n") for piece in (data, other))
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        row = random.randrange(len(lines))
        what = random.randrange(14)
        if what < 8:
            lines[row] = reworded(random, lines[row])
        elif what == 8:
            del lines[row : row + random.choice((1, 1, 4))]
        elif what == 9:
            lines[row:row] = [lines[random.randrange(len(lines))]] * random.choice((1, 1, 3, 50))
        elif what == 10:
            lines.insert(row, random.choice(others))
        elif what == 11:
            swap = random.randrange(len(lines))
            lines[row], lines[swap] = lines[swap], lines[row]
        elif what == 12:
            column, value = random.randrange(8), random.choice((None, *WORDS[:12]))
            lines[row:] = [recolumned(line, column, value) for line in lines[row:]]
        else:
            lines[row:] = others[random.randrange(len(others)) :]
        lines = lines or [""]
    return "\n".join(lines).encode("latin-1")


def reworded(random: Random, line: str) -> str:
    found = list(re.finditer(r"[^\s,:=(){}\[\]'\"]+", line))
    new = random.choice(WORDS)
    if not found:
        return line + new
    chosen = random.choice(found)
    if random.random() < 0.1:
        return line[: chosen.start()] + new + line[chosen.start() :]
    if random.random() < 0.3:  # where columns have their places, the others keep them
        new = new[: len(chosen[0])].rjust(len(chosen[0]))
    return line[: chosen.start()] + new + line[chosen.end() :]


def recolumned(line: str, column: int, value: str | None) -> str:
    words = line.split(" ")
    if column < len(words) > 1:
        words[column : column + 1] = [] if value is None else [value]
    return " ".join(words)


def npy(random: Random, data: bytes, other: bytes) -> bytes:
    """A ``.npy`` file whose header says something else, or whose values do."""
    length = 10 + int.from_bytes(data[8:10], "little")
    if data[:6] != b"\x93NUMPY" or random.random() < 0.3:
        return data[:length] + changed(random, data[length:], other[length:], "bytes")
    head = text(random, data[10:length].rstrip(), other[10:length].rstrip())
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    version = random.choice((b"\1\0", b"\1\0", b"\1\0", b"\2\0", b"\3\0"))
    size = len(head) & 0xFFFFFFFF
    said = struct.pack("<H", size & 0xFFFF) if version == b"\1\0" else struct.pack("<I", size)
    return data[:6] + version + said + head + data[length:]


def archive(random: Random, data: bytes, other: bytes) -> bytes:
    """A zip archive with members changed, left out or renamed, and other ways of packing."""
    members, others = unzipped(data), unzipped(other)
    name = random.choice(list(members))
    what = random.randrange(10)
    if what == 0:
        del members[name]
    elif what == 1:
        members[random.choice([*members, "../x.npy", "/x", "a" * 300])] = members.pop(name)
    elif what == 2:
        members[name] = random.choice(list(others.values()))
    else:
        partner = others.get(name, members[name])
        members[name] = changed(random, members[name], partner, "npy" if name.endswith(".npy") else "bytes")
    packing = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    return zipped(members, packing)


def zipped(members: dict[str, bytes], packing: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive without times: the same members give the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content, packing)
    return out.getvalue()


def unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def tree(random: Random, data: bytes, other: bytes) -> bytes:
    """JSON with a value replaced, left out or nested, or changed as text."""
    if random.random() < 0.3:
        return text(random, data, other)
    held = json.loads(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        places = list(nodes(held))
        if places:
            room, key = random.choice(places)
            value = random.choice(
                (None, True, -1, 0, 1.5, 10**400, 1e300, float("nan"), "", "x", [], {}, [1], {"a": []})
            )
            room[key] = [room[key]] if random.random() < 0.1 else value
            if random.random() < 0.2:
                del room[key]
    return json.dumps(held).encode()


def nodes(held: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a value: what holds it, and its key."""
    items = held.items() if isinstance(held, dict) else enumerate(held) if isinstance(held, list) else ()
    for key, value in list(items):
        yield held, key
        yield from nodes(value)


def packed(random: Random, data: bytes, other: bytes, *, inner: str, pack: Any) -> bytes:
    """A compressed file whose content is changed."""
    content, more = pack.decompress(data), pack.decompress(other)
    new = changed(random, content, more, inner)
    return gzip.compress(new, 1, mtime=0) if pack is gzip else bz2.compress(new, 1)


STRUCTURED: dict[str, Callable[[Random, bytes, bytes], bytes]] = {
    "text": text,
    "npy": npy,
    "zip": archive,
    "json": tree,
    "gzip": partial(packed, inner="bytes", pack=gzip),
    "gzip text": partial(packed, inner="text", pack=gzip),
    "bzip2": partial(packed, inner="bytes", pack=bz2),
}
