"""Peak memory of a run beside its number of micrographs: it holds a bounded part of them, whatever their number.

Eight micrographs of 1024 x 1024 pixels are written to disk, each several times, and the command reconstructs from 50,
100 and 200 files, two passes over the data with 12 views. Two passes touch everything that a longer run touches. Its
scratch file holds what does not stay in memory; the pages of files are the system's, not the run's. The verdict is left
out: its folds read the same micrographs in the same way.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from common import save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--size", type=int, default=1024)
    options = parser.parse_args()
    figures: dict[str, object] = {"size": options.size}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shown = "--phantom shepp-logan --box 11 --snr-box 3.5"
        run(place, f"simulate micrographs {shown} --count 8 --size {options.size} --out data")
        made = sorted((place / "data" / "micrographs").glob("*.mrc"))
        files = [
            shutil.copy(made[number % len(made)], place / f"{number}.mrc") for number in range(max(options.counts))
        ]
        peaks = []
        for count in options.counts:
            names = " ".join(file.name for file in files[:count])
            job = "--box 11 --starts 1 --moves 0 --iterations 2 --views 12 --lmax 4 --no-verify"
            seconds, peak = run(place, f"reconstruct micrographs {names} {job} --out run-{count}")
            peaks.append(peak)
            figures[f"{count} micrographs, peak in MB, seconds"] = [round(peak / 1e6), round(seconds)]
        figures["peak of the most over that of the fewest"] = round(peaks[-1] / peaks[0], 3)
    save("memory", figures)


def run(folder: Path, words: str) -> tuple[float, int]:
    """Seconds and peak resident bytes of a command in a process of its own."""
    began = time.perf_counter()
    child = os.fork()
    if not child:
        os.chdir(folder)
        os.execv(sys.executable, [sys.executable, "-m", "unpicked", *words.split(), "--quiet", "--threads", "1"])
    _, status, used = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"unpicked {words[:60]} ... ended with {os.waitstatus_to_exitcode(status)}")
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - began, used.ru_maxrss * unit


if __name__ == "__main__":
    main()
