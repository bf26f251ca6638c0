"""What the commands share: run folders, progress, the last line as JSON."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import resource
import shlex
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cyclopts import Parameter

import unpicked
from unpicked import processes
from unpicked._lazy import torch
from unpicked.cli import COMMAND
from unpicked.io._files import read_json, write_durably

IN_USE = ".in-use"  # file of a folder that a process keeps to itself
_SETTINGS = "settings.json"


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """Options of every command that computes."""

    seed: int = 0
    """Makes the run repeatable."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    threads: int | None = None
    """Threads of the CPU; all of them if not given."""
    quiet: bool = False
    """No progress."""
    json: bool = False
    """Print the result as one JSON object on the last line."""

    def begin(self, *, many: bool = False, sums: str | None = None) -> str:
        """Set threads, turn SIGTERM into an orderly stop, and return the device's name.

        Args:
            many: whether the command runs on several processes, which then join.
            sums: device of what they add up, where it is not that device.
        """
        if self.threads is not None:
            if self.threads < 1:
                raise ValueError(f"--threads must be at least 1; got {self.threads}")
            torch.set_num_threads(self.threads)
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"--seed must be a whole number from 0 to 2^63 - 1; got {self.seed}")
        if processes.asked() > 1 and not many:
            raise ValueError(
                f"this command runs on one process; got {processes.asked()}; start it without torchrun, or with "
                "--nproc-per-node 1"
            )
        signal.signal(signal.SIGTERM, _stop)
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda needs a CUDA device; none was found; try --device cpu")
        processes.begin(sums or device)
        return device

    def progress(self, name: str, row: Mapping[str, float]) -> None:
        """One line per pass on standard error."""
        if not self.quiet and processes.leads():
            print(
                f"{name}, pass {int(row['step']) + 1} of {int(row['passes'])}: "
                + (f"log-likelihood {row['log_likelihood']:.1f}, " if "log_likelihood" in row else "")
                + (f"to gain {row['gain']:.2f}, " if "gain" in row else "")
                + f"E {row['energy']:.1f}, "
                + (f"particles {row['particles']:.0f}, " if "particles" in row else "")
                + (f"poses to {row['spread']:.2g} degrees, " if "spread" in row else "")
                + f"sigma {row['sigma']:.4g}, "
                f"{row['seconds']:.1f} s, at most {row['seconds_left']:.0f} s to the end of this part",
                file=sys.stderr,
                flush=True,
            )

    def say(self, text: str) -> None:
        """A sentence for the reader, on standard output, unless quiet or JSON."""
        if not (self.quiet or self.json) and processes.leads():
            print(text, flush=True)

    def end(self, result: Mapping[str, Any]) -> int:
        """Print the result where JSON is asked for; the exit status."""
        if self.json and processes.leads():
            print(json.dumps(result))
        return 0


@Parameter(name="*")
@dataclass(frozen=True)
class Output:
    """Where results go."""

    out: Path
    """Folder for the results."""
    overwrite: bool = False
    """Replace the results of an earlier run in that folder."""


@contextmanager
def alone(folder: Path, what: str = "") -> Iterator[None]:
    """Keep a folder, or ``what`` in it, to this process until the block ends; a folder left empty goes again.

    A file in it is locked, which the system undoes however the process ends; where the file system has no locks, or
    lets no file be written, two processes are not kept apart.

    Raises:
        ValueError: where another process keeps it.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    if not made and not folder.is_dir():
        yield  # told by `claim`
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{what}{IN_USE}"
    handle = _locked(path)
    try:
        yield
    finally:
        with suppress(OSError):
            if handle is not None:
                path.unlink(missing_ok=True)
            for empty in made:
                empty.rmdir()
        if handle is not None:
            os.close(handle)


def _locked(path: Path) -> int | None:
    """A file, made where it is not there, that is locked as long as it is open; None where there are no locks."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                with suppress(OSError):
                    path.unlink()
                return None
            told = f"{path.parent} is in use by another process; wait for its end, or take another folder"
            raise ValueError(told) from None
        with suppress(OSError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)  # its owner removed it meanwhile


def claim(folder: Path, *, overwrite: bool, resume: bool = False, settings: Mapping[str, Any] | None = None) -> bool:
    """Take a run folder; True if a finished run with the same settings is already there.

    An existing folder that is not empty is refused unless ``resume`` (same settings only) or ``overwrite`` (only
    files that the same command writes are removed). Check all input before: from here on the old files are gone.
    """
    if overwrite and resume:
        raise ValueError("give --resume or --overwrite, not both")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; give a folder")
    held = folder / _SETTINGS
    begun = (IN_USE, f"{_SETTINGS}.part")  # all that a run leaves which was killed at once
    if folder.exists() and any(path.name not in begun for path in folder.iterdir()):
        if overwrite:
            _clear(folder, run=settings is not None)
        elif not resume or not held.exists():
            raise ValueError(f"--out {folder} is not empty; try --resume to go on, --overwrite, or another folder")
        elif settings is not None:
            try:
                old = dict(read_json(held))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{held} is damaged ({error}); try --overwrite or another folder") from error
            new = json.loads(json.dumps(settings))
            changed = [
                _change(key, old.get(key), new.get(key)) for key in sorted({*old, *new}) if old.get(key) != new.get(key)
            ]
            if changed:
                raise ValueError(f"--resume needs the settings of the first run: {'; '.join(changed)}")
            if (folder / "result.json").exists():
                return True
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(".*"):  # a killed process was writing it
        if re.fullmatch(
            r"\.\d+\.(volume|mask|half[12]|target|errors|particles|report)\.(mrc|npy|star|html)", path.name
        ):
            path.unlink()
    if settings is not None:
        write_text(held, json.dumps(settings, indent=2) + "\n")
    return False


def _change(key: str, old: Any, new: Any) -> str:
    """What became of a setting; of long lists, the files of the data for one, the first entry that differs."""
    if not (isinstance(old, list) and isinstance(new, list)) or max(len(old), len(new)) < 2:
        return f"{key} was {old!r}, now {new!r}"
    if len(old) != len(new):
        return f"{key} had {len(old)} entries, now {len(new)}"
    first, *others = (pair for pair in zip(old, new, strict=True) if pair[0] != pair[1])
    return f"{key} was {first[0]!r}, now {first[1]!r}" + (f", and {len(others)} more" if others else "")


def height_and_width(size: tuple[int, ...]) -> tuple[int, int]:
    """What --size says; one number is both."""
    if len(size) not in (1, 2):
        raise ValueError(f"--size must be one or two lengths in pixels; got {len(size)}")
    return size[0], size[-1]


def identity(paths: Iterable[str | Path]) -> list[str]:
    """Absolute path, bytes and time of change of each file, by which changed data are told."""
    out = []
    for name in paths:
        path = Path(name).resolve()
        found = path.stat() if path.exists() else None
        out.append(f"{path} {found.st_size} {found.st_mtime_ns}" if found else str(path))
    return out


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, and for good."""
    write_durably(path, text.encode())


def write_facts(path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write facts as JSON; returns them as written: a number that is not finite is None."""
    plain = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in facts.items()}
    write_text(path, json.dumps(plain, indent=2, allow_nan=False) + "\n")
    return plain


def write_history(path: Path, rows: Sequence[tuple[str, Mapping[str, float]]]) -> None:
    """``history.csv``: one row per pass, with the sub-run's name."""
    from unpicked.report.folder import history_text

    write_text(path, history_text(rows))


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """A NumPy archive of tensors, numbers and words, under a temporary name first."""
    import numpy as np

    temporary, held = path.with_name(path.name + ".part"), dict(arrays)
    with open(temporary, "wb") as file:
        np.savez(file, **held)
    os.replace(temporary, path)


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def refuse_input(option: str, path: Path, inputs: Sequence[Path | str | None]) -> None:
    """Refuse a file to write that is one to be read: --overwrite is not meant for data."""
    for given in inputs:
        if given is not None and path.exists() and Path(given).exists() and path.samefile(given):
            raise ValueError(f"{option} {path} is a file that is read here, and is not replaced; try another name")


def check_picture(path: Path, overwrite: bool) -> None:
    """Refuse a name by which no picture can be written."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--picture must end in .png, .svg or .pdf; got {path}")
    if path.is_dir():
        raise ValueError(f"--picture {path} is a folder; give the name of a file")
    if path.exists() and not overwrite:
        raise ValueError(f"--picture {path} is there; try another name, or --overwrite")
    if not path.parent.is_dir():
        raise ValueError(f"--picture {path}: there is no folder {path.parent}")


def header(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The first keys of every ``result.json``."""
    return {
        "command": shlex.join(COMMAND.get()),
        "settings": dict(settings),
        "version": unpicked.__version__,
        "seed": seed,
    }


def _clear(folder: Path, *, run: bool) -> None:
    """Remove what an earlier run, or an earlier simulation, wrote: by name, so that nothing else is touched."""
    ours: tuple[str, ...]
    if run:
        ours = ("result.json", "settings.json", "history.csv", "report.html", "volume.mrc", "mask.mrc", "half1.mrc")
        ours += (
            "half2.mrc",
            "target.npy",
            "errors.npy",
            "patches.npz",
            "micrographs.npz",
            "whitening.json",
            "verify.json",
            "checkpoint/**/*.pt*",
            "checkpoint/**/known.json*",
            "checkpoint/**/starts.json*",
        )
    else:
        ours = ("truth.json", "truth.star", "truth.mrc", "micrographs.star", "micrographs/micrograph_[0-9]*.mrc")
        ours += ("masks/micrograph_[0-9]*.mrc",)
        ours += ("target.npy", "images/image_[0-9]*.mrc", "particles.mrcs", "particles.star", "held.star")
    for pattern in ours:
        for path in folder.glob(pattern):
            path.unlink()


def _stop(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
