"""A million damaged and hostile files: each must be read, or refused in one line that names it.

Small valid files of every kind (``fuzz_readers``) are changed in a few places each (``fuzz_mutations``); input
``number`` of a reader depends on ``--seed`` and that number alone. A reader must end within 5 seconds, without a
warning or a line in a log, and in no error but ValueError, OSError, and TypeError for numbers of another type. While it
reads, the process may grow by 4 x the file's size and 8 MiB: a limit of the system (RLIMIT_AS), under which any larger
request fails. Of one input in 64 the largest allocation is measured as well, as far as Python and NumPy make it.
Findings are kept in ``--findings``, three of a kind at most: the file, and a text that says what happened.

At the end valid files of several MB are read: how far the process grows, in units of the file's size. With ``--only``
the figures of other readers stay in the file.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import logging
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from random import Random

import torch

from common import save
from fuzz_mutations import changed
from fuzz_readers import Reader, large, readers

FACTOR, SLACK = 4, 8 << 20  # what a reader may take: bytes per byte of the file, and bytes
HANG = 5.0  # seconds
TRACED = 64  # one input in so many has its allocations measured
KEPT = 3  # findings of a kind
COUNTS = ("read", "refused", "failed", "hung")
HEAD = ("reader", "inputs", *COUNTS, "peak kB", "slowest s", "per s")


class Tally(ctypes.Structure):
    """How far a process has come, in memory that it shares with the one that watches it."""

    _fields_ = (*((name, ctypes.c_long) for name in ("number", *COUNTS, "peak")), ("slowest", ctypes.c_double))


class Said(logging.Handler):
    """What readers log, and errors that Python could only print."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line."""
        self.lines.append(record.getMessage())


class Watched:
    """A process at work on a range of inputs; where it dies or hangs, another goes on behind that input."""

    def __init__(self, reader: Reader, name: str, options: argparse.Namespace, numbers: range, home: Path) -> None:
        self.reader, self.name, self.options, self.numbers, self.home = reader, name, options, numbers, home
        self.tally = RawValue(Tally)
        self.start(numbers.start)

    def start(self, first: int) -> None:
        """Go on at an input."""
        rest = range(first, self.numbers.stop)
        self.tally.number, self.seen, self.since = first, first, time.perf_counter()
        self.process: BaseProcess = get_context("fork").Process(
            target=work,
            args=(self.reader, self.name, self.options.seed, rest, self.home, self.options.findings, self.tally),
        )
        self.process.start()

    def over(self) -> bool:
        """Look after the process; whether all its inputs are tried."""
        alive, number = self.process.is_alive(), self.tally.number
        if number != self.seen:
            self.seen, self.since = number, time.perf_counter()
        hangs = alive and time.perf_counter() - self.since > HANG
        if alive and not hangs:
            return False
        if hangs:
            self.process.kill()
        self.process.join()
        if number == self.numbers.stop:
            return True
        if not self.home.is_dir():
            raise SystemExit(f"{self.home} is gone; start again")
        what = f"hung for {HANG} s" if hangs else f"died, exit status {self.process.exitcode}"
        keep(self.options.findings, self.name, number, made(self.reader, self.name, self.options.seed, number), what)
        self.tally.hung += hangs
        self.tally.failed += not hangs
        self.start(number + 1)
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="READER")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path(tempfile.gettempdir()) / "unpicked-fuzz")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.findings.mkdir(parents=True, exist_ok=True)
    disk = Path("/dev/shm")  # in memory
    with tempfile.TemporaryDirectory(prefix="unpicked-fuzz-", dir=disk if disk.is_dir() else None) as folder:
        homes = [Path(folder) / str(number) for number in range(options.processes)]
        homes[0].mkdir()
        known = readers(homes[0])
        for home in homes[1:]:
            shutil.copytree(homes[0], home)
        if unknown := set(options.only or ()) - set(known):
            parser.error(f"--only knows {', '.join(known)}; got {', '.join(unknown)}")
        chosen = {name: reader for name, reader in known.items() if name in (options.only or known)}
        whole = sum(reader.share for reader in chosen.values())
        print(told(HEAD), flush=True)
        rows = []
        for name, reader in chosen.items():
            require_read(name, reader, homes[0])
            rows.append(row(name, reader, -int(-options.inputs * reader.share // whole), options, homes))
            print(told(rows[-1]), flush=True)
        found = kept(known, options) | {name: dict(zip(HEAD[1:], entries, strict=True)) for name, *entries in rows}
        memory = {name: growth(known[name], content, homes[0]) for name, content in large(homes[0]).items()}
    total = {count: sum(entry[count] for entry in found.values()) for count in HEAD[1:6]}
    print(told(["all", *total.values()]), flush=True)
    allowed = {"allowed beyond the process": f"{FACTOR} x the file + {SLACK >> 20} MiB"}
    more = {"memory of large valid files, x their size": memory}
    save("fuzz", {"seed": options.seed} | allowed | total | found | more)


def kept(known: dict[str, Reader], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """With ``--only``, the rows that an earlier run with this seed has made of the other readers."""
    path = Path(__file__).parent / "results" / "fuzz.json"
    held = json.loads(path.read_text()) if options.only and path.exists() else {}
    return {name: held[name] for name in known if name in held and held.get("seed") == options.seed}


def row(name: str, reader: Reader, count: int, options: argparse.Namespace, homes: list[Path]) -> list[object]:
    """All inputs of a reader, shared out among processes: a line of the table."""
    began, ends = time.perf_counter(), [count * k // len(homes) for k in range(len(homes) + 1)]
    ranges = [range(start, stop) for start, stop in pairwise(ends)]
    parts = [Watched(reader, name, options, *part) for part in zip(ranges, homes, strict=True)]
    left = parts
    while left := [part for part in left if not part.over()]:
        time.sleep(0.05)
    counts = [sum(getattr(part.tally, kind) for part in parts) for kind in COUNTS]
    peak, slowest = (max(getattr(part.tally, kind) for part in parts) for kind in ("peak", "slowest"))
    return [name, count, *counts, peak >> 10, round(slowest, 3), round(count / (time.perf_counter() - began))]


def told(entries: Sequence[object]) -> str:
    first, *rest = entries
    return f"{first!s:26s}" + "".join(f"{entry!s:>10s}" for entry in rest)


def made(reader: Reader, name: str, seed: int, number: int) -> bytes:
    """One input."""
    random = Random(f"{seed} {name} {number}")
    return changed(random, random.choice(reader.seeds), random.choice(reader.seeds), reader.kind)


def work(reader: Reader, name: str, seed: int, numbers: range, home: Path, findings: Path, tally: Tally) -> None:
    """Try some inputs, in a folder of this process's own."""
    warnings.simplefilter("error")
    said, seen, path = Said(), Counter[str](), home / reader.name
    logging.getLogger().addHandler(said)
    sys.unraisablehook = lambda found: said.lines.append(repr(found.exc_value))
    gc.freeze()  # what is here now need not be looked through again
    for number in numbers:
        tally.number = number
        data = made(reader, name, seed, number)
        path.write_bytes(data)
        traced = number % TRACED == 0
        if traced:
            gc.collect()
            tracemalloc.start()
        began = time.perf_counter()
        accepted, found = attempt(reader, path, len(data), said)
        if traced:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            tally.peak = max(tally.peak, peak)
            if peak > FACTOR * len(data) + SLACK:
                found.append(f"allocated too much\n{peak} bytes for a file of {len(data)}")
        else:
            tally.slowest = max(tally.slowest, time.perf_counter() - began)
        tally.read += accepted and not found
        tally.refused += not accepted and not found
        tally.failed += bool(found)
        for text in found:
            kind = text.partition("\n")[0]
            seen[kind] += 1
            if seen[kind] <= KEPT:
                keep(findings, name, number, data, text)
    tally.number = numbers.stop


def attempt(reader: Reader, path: Path, size: int, said: Said) -> tuple[bool, list[str]]:
    """Whether anything reads the file, and what went wrong: of what kind in a first line, then all of it."""
    accepted, findings = False, []
    for call in reader.calls:
        trouble: Exception | None = None
        with open("/proc/self/statm", "rb") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + FACTOR * size + SLACK, resource.RLIM_INFINITY))
        try:
            call(path)
            accepted = True
        except Exception as error:
            trouble = error
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        if trouble is not None and (kind := wrong(trouble, path)):
            findings.append(f"{kind}\n{''.join(traceback.format_exception(trouble))}")
        if said.lines:
            findings.append(f"logged {said.lines[0][:60]}\n" + "\n".join(said.lines))
            said.lines.clear()
    return accepted, findings


def wrong(error: Exception, path: Path) -> str:
    """Why an error is no plain refusal of a file, and where it comes from; empty where it is one."""
    text, what = str(error), ""
    inner: BaseException | None = error
    while inner is not None:  # what was caught on the way counts too
        if isinstance(inner, MemoryError | Warning) or "allocate" in str(inner):
            what = type(inner).__name__
        inner = inner.__context__
    plain = isinstance(error, ValueError | OSError) or (isinstance(error, TypeError) and " must hold " in text)
    if not plain or isinstance(error, UnicodeError):
        what = what or type(error).__name__
    elif not text or "\n" in text:
        what = what or "not one line"
    elif path.name not in text and str(path.parent) not in text:
        what = what or "does not name the file"
    place = traceback.extract_tb(error.__traceback__)[-1] if what else None
    return f"{what} at {Path(place.filename).name}:{place.lineno}" if place else ""


def keep(findings: Path, name: str, number: int, data: bytes, text: str) -> None:
    """Keep an input and what it did."""
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", f"{name}-{number}")
    (findings / f"{stem}.input").write_bytes(data)
    with (findings / f"{stem}.txt").open("a") as file:
        file.write(text + "\n")


def require_read(name: str, reader: Reader, home: Path) -> None:
    """Stop unless every valid file is read by something; this also loads what is loaded late."""
    path = home / reader.name
    before = path.read_bytes() if path.exists() else None
    for number, seed in enumerate(reader.seeds):
        path.write_bytes(seed)
        refusals = []
        for call in reader.calls:
            try:
                call(path)
            except (ValueError, TypeError) as error:
                refusals.append(str(error))
        if len(refusals) == len(reader.calls):
            raise SystemExit(f"{name}: its valid file {number} is refused: {'; '.join(refusals)}")
    path.unlink() if before is None else path.write_bytes(before)


def growth(reader: Reader, content: bytes, home: Path) -> float:
    """Resident memory by which a process grows that reads a file, in units of the file's size."""
    path, found = home / reader.name, RawValue(ctypes.c_double)
    path.write_bytes(content)

    def read() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        reader.calls[0](path)
        found.value = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / len(content)

    process = get_context("fork").Process(target=read)
    process.start()
    process.join()
    return round(found.value, 1)


if __name__ == "__main__":
    main()
