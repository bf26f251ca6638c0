"""Runs killed at random times, resumed, and compared bit by bit with the run that nobody disturbed.

Every command runs once to its end on small simulated data. Then it is begun again and again, each time killed by
SIGKILL at a time drawn uniformly from its length (every fourth run three times in a row, the second and third while it
resumes), resumed to its end, and compared: all its files, the states in its checkpoints, ``result.json`` and
``history.csv`` without their times. A run that ended before the kill does not count and is begun anew.

The kills are real: the command is a process of its own, and SIGKILL leaves it no chance to do anything. To spare every
process the import of torch, it is forked from one that has imported everything and computed nothing.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import json
import os
import pkgutil
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import unpicked
from common import save
from unpicked.cli import main as command_line

TIMES = ("seconds", "peak_memory_mb", "command")  # keys of result.json that differ between two runs
LEFT_OUT = (".old", ".in-use", "report.html", ".svg")  # the state before the last one, a lock, pages that tell times
COUNTS = ("kills", "runs", "identical", "different", "refused", "failed")
RESULTS = Path(__file__).parent / "results" / "kills.json"
DONE = ("result.json", "m.npz", "conditioning.json")  # what a command writes last
FEW, MANY = (
    f"reconstruct micrographs {name}/micrographs.star --box 6 --lmax 2 --no-verify --views 4 6 --iterations"
    for name in ("few", "many")
)
COMMANDS = {
    "micrographs": f"{FEW} 3 2 --starts 2 --moves 1",
    "micrographs, refined starts and halves": f"{FEW} 2 1 --starts 2 --moves 0 --refined 2 --halves",
    "micrographs, saved after every batch": f"{MANY} 3 1 --starts 1 --moves 0",
    "micrographs, starts by moments": f"{FEW} 2 1 --starts 1 --moves 0 --start autocorrelation",
    "signal, with its verdict": "reconstruct signal y.npy --length 4 --starts 1 --iterations 6 --moves 1",
    "images": "reconstruct image images/*.mrc --length 4 --starts 2 --iterations 3 2 --moves 1 --no-verify",
    "particles, encoder": "reconstruct particles particles/particles.star --method encoder --steps 12 --no-verify",
    "rows of an experiment": "reproduce conditioning",
    "moments, which start again": "moments few/micrographs.star --box 6 --lmax 1 --starts 1",
}
MICROGRAPHS = "simulate micrographs --phantom shepp-logan --box 6 --voxel 8 --energy 100"
DATA = (
    f"{MICROGRAPHS} --size 40 --count 4 --density 0.1 --out few",
    f"{MICROGRAPHS} --size 24 --count 18 --density 0.08 --out many",
    "simulate signal --target step --length 4 --samples 1000 --density 0.3 --sigma 0.5 --out y.npy",
    "simulate image --target random --length 4 --size 32 --count 2 --density 0.15 --sigma 0.5 --out small",
    "simulate particles --phantom shepp-logan --box 16 --voxel 6 --count 16 --energy 200 --out particles",
)
HEAVY = ("matplotlib.figure", "matplotlib.backends.backend_svg", "scipy.ndimage", "mrcfile", "jinja2")  # imported late


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="runs that are killed, once or three times each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="commands of this in their name; the figures of others are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(unpicked.__path__, "unpicked."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in HEAVY:
        importlib.import_module(name)
    here = Path(tempfile.mkdtemp(prefix="kills-"))
    os.chdir(here)
    for words in DATA:
        finished(words.split())
    shutil.move("small/images", "images")
    chosen = [name for name in COMMANDS if options.only in name]
    tries = {name: Try(name, random.Random(f"{options.seed} {name}")) for name in chosen}
    for number in range(options.kills):
        name = chosen[number % len(chosen)]
        tries[name].once(3 if number // len(chosen) % 4 == 3 else 1)
        print(f"{number + 1} of {options.kills}: {name}: {tries[name].found}", flush=True)
    earlier = json.loads(RESULTS.read_text()) if options.only and RESULTS.exists() else {}
    told = {name: tries[name].told() if name in tries else earlier.get(name, {}) for name in COMMANDS}
    total, places = Counter[str](), Counter[str]()
    for one in told.values():
        total.update({key: one.get(key, 0) for key in COUNTS})
        places.update(one.get("where", {}))
    save("kills", {**told, "all": {**total, "where": dict(places.most_common())}, "seed": options.seed})
    if all(one.found["identical"] == one.found["runs"] for one in tries.values()):
        shutil.rmtree(here)
    else:
        sys.exit(f"what differs lies in {here}")


class Try:
    """One command: its undisturbed run, and what came of killed ones."""

    def __init__(self, name: str, drawn: random.Random) -> None:
        self.words, self.drawn = COMMANDS[name].split(), drawn
        self.words += ["--seed", "1", "--threads", "1", "--quiet"]
        self.often = name.endswith("every batch")  # as runs do whose passes are long
        self.found, self.places = Counter[str](), Counter[str]()
        self.folder = Path("runs") / name.replace(" ", "-").replace(",", "")
        self.folder.mkdir(parents=True)
        self.whole = self.folder / "whole"
        began = time.perf_counter()
        finished(self.begun(self.whole), often=self.often)
        self.seconds = time.perf_counter() - began

    def begun(self, out: Path) -> list[str]:
        """The command's words."""
        if self.words[0] == "moments":  # it writes one file, into a folder that is there
            out.mkdir(exist_ok=True)
            out = out / "m.npz"
        return [*self.words, "--out", str(out)]

    def once(self, times: int) -> None:
        """One run: killed so often, resumed, compared."""
        out = self.folder / f"run-{self.found['runs']}"
        while not self.killed(out, times):
            shutil.rmtree(out)
        self.found["runs"] += 1
        if status := 0 if self.ends(out) else ended(begun(self.again(out), self.often)):
            self.found["refused" if status == 2 else "failed"] += 1
            return
        others = differences(self.whole, out)
        self.found["different" if others else "identical"] += 1
        if others:
            print(f"{out}: {', '.join(others)}", flush=True)
        else:
            shutil.rmtree(out)

    def killed(self, out: Path, times: int) -> bool:
        """Kill a run at random times; False where it ended before the first."""
        for number in range(times):
            process = begun(self.again(out) if number else self.begun(out), self.often)
            time.sleep(self.drawn.uniform(0, self.seconds))
            if os.waitpid(process, os.WNOHANG)[0]:
                return number > 0
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            self.found["kills"] += 1
            self.places[place(out)] += 1
        return True

    def ends(self, out: Path) -> bool:
        """Whether all is done and the command, which knows no --resume, would refuse to replace it."""
        names = {path.name for path in out.iterdir()} if out.exists() and self.words[0] != "reconstruct" else set()
        return not names.isdisjoint(DONE) and not any(name.endswith(".rows.json") for name in names)

    def again(self, out: Path) -> list[str]:
        """The words of the command that goes on."""
        return [*self.begun(out), *(["--resume"] if self.words[0] == "reconstruct" else [])]

    def told(self) -> dict[str, Any]:
        """Figures."""
        counts = {key: self.found[key] for key in COUNTS}
        return {**counts, "where": dict(self.places.most_common()), "seconds undisturbed": round(self.seconds, 1)}


def begun(words: list[str], often: bool = False) -> int:
    """A process of a command."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        if often:
            sys.modules["unpicked.reconstruct"]._REST = 0.0  # type: ignore[attr-defined]
        command_line(words)
    except SystemExit as error:
        status = int(error.code or 0)
    finally:
        os._exit(status)


def ended(process: int) -> int:
    """The exit status of a process."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def finished(words: list[str], often: bool = False) -> None:
    """Run a command to its end."""
    if status := ended(begun([*words, *(() if "--quiet" in words else ("--quiet",))], often)):
        sys.exit(f"unpicked {' '.join(words)} ended with status {status}")


def place(out: Path) -> str:
    """Where a kill fell, by what it left."""
    names = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    if any(re.search(r"\.part$|(^|/)\.\d+\.", name) for name in names):
        return "while a file was written"
    if any(name in DONE for name in names):
        return "after the result"
    if any(name.endswith(".rows.json") for name in names):
        return "between rows"
    if not any(name.endswith(".pt") for name in names):
        return "before the first checkpoint"
    return "in the verdict" if any("/verify/" in name for name in names) else "in a stage"


def differences(whole: Path, other: Path) -> list[str]:
    """Files that two runs do not have in common, and those that differ in more than times."""
    held = [
        {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        for folder in (whole, other)
    ]
    ours, theirs = ({name for name in names if not name.endswith(LEFT_OUT)} for names in held)
    return sorted(ours ^ theirs) + [
        name for name in sorted(ours & theirs) if content(whole / name) != content(other / name)
    ]


def content(path: Path) -> object:
    """What a file holds, without times."""
    if path.name.endswith(".pt"):
        return plain(torch.load(io.BytesIO(path.read_bytes().partition(b"\n")[2]), weights_only=True))
    if path.name == "history.csv":
        with path.open() as file:
            return [plain(row) for row in csv.DictReader(file)]
    if path.suffix == ".json":
        return plain(json.loads(path.read_text()))
    return path.read_bytes()


def plain(value: Any) -> Any:
    """Values whose equality is that of their bits."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items() if key not in TIMES}
    return [plain(one) for one in value] if isinstance(value, list) else repr(value)


if __name__ == "__main__":
    main()
