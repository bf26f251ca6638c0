"""``unpicked compare``, ``unpicked halves`` and ``unpicked report``."""

from __future__ import annotations

import json as js
from pathlib import Path
from typing import TYPE_CHECKING

from unpicked.cli import agreement
from unpicked.cli.agreement import More

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unpicked.evaluate.compare import Comparison
    from unpicked.evaluate.halves import Halves


def compare(
    estimate: Path,
    truth: Path,
    /,
    *,
    symmetry: str = "C1",
    more: More = More(),
    voxel: float | None = None,
    json: bool = False,
) -> int:
    """Compare a map with the truth, over rotation, shift and hand.

    Example:
        unpicked compare run/volume.mrc sim/truth.mrc --local local.mrc --directional --json

    Parameters
    ----------
    estimate
        MRC map.
    truth
        MRC map that it should be.
    symmetry
        Point group of the truth, e.g. C1, C4, D2.
    voxel
        Voxel size in angstrom for maps whose header has none.
    json
        Print one JSON object.
    """
    more.check(estimate, truth)
    from unpicked.evaluate.compare import compared
    from unpicked.io.mrc import read_map

    target = read_map(truth, voxel_size=voxel)
    more.check_window(target)
    found, laid = compared(read_map(estimate, voxel_size=voxel), target, symmetry=symmetry)
    also = agreement.found(more, target, laid, 0.5)
    agreement.write(more, also, found.fsc, (found.fsc_low, found.fsc_high), target, 0.5)
    if json:
        print(js.dumps(found.to_json() | also.to_json()))
        return 0
    print(f"correlation        {found.correlation:.4f}")
    print(f"relative error     {found.relative_error:.4f}")
    print(f"resolution at 0.5  {_limited(found.resolution_05, found.nyquist)}")
    print(f"resolution at .143 {_limited(found.resolution_0143, found.nyquist)}")
    print(f"mean FSC           {found.fsc_area:.4f}")
    _tell(found, [("FSC", found.fsc), ("FSC, 95 % from", found.fsc_low), ("to", found.fsc_high)], also.lines())
    return 0


def halves(
    half1: Path,
    half2: Path,
    /,
    *,
    mask: Path | None = None,
    cutoff_shell: int | None = None,
    shared_start: bool = False,
    more: More = More(),
    voxel: float | None = None,
    json: bool = False,
) -> int:
    """Compare two independently solved halves: aligned by their low shells only, then the FSC.

    Example:
        unpicked halves run/half1.mrc run/half2.mrc --local local.mrc --directional --picture halves.png

    Parameters
    ----------
    half1
        MRC map.
    half2
        MRC map; it is moved onto the first.
    mask
        MRC map of values 0 to 1 in the orientation of the first half.
    cutoff_shell
        Last shell that the alignment may use; the lower third of the band, 3 at least, if not given.
    shared_start
        Say so where both halves had one start: their agreement is then no validation.
    voxel
        Voxel size in angstrom for maps whose header has none.
    json
        Print one JSON object.
    """
    more.check(half1, half2, mask)
    from unpicked.evaluate.halves import halves as judge
    from unpicked.io.mrc import read_map

    first, second = (read_map(path, voxel_size=voxel) for path in (half1, half2))
    more.check_window(first)
    window = None if mask is None else read_map(mask, voxel_size=voxel)
    found, laid = judge(first, second, mask=window, shared_start=shared_start, cutoff_shell=cutoff_shell)
    also = agreement.found(more, first, laid, 0.143, window)
    agreement.write(more, also, found.fsc, (found.fsc_low, found.fsc_high), first, 0.143)
    if json:
        print(js.dumps(found.to_json() | also.to_json()))
        return 0
    print(f"resolution at .143 {_limited(found.resolution_0143, found.nyquist)}")
    print(f"mean FSC           {found.fsc_area:.4f}")
    curves = [("FSC", found.fsc), ("FSC, 95 % from", found.fsc_low), ("to", found.fsc_high)]
    curves += [("error", found.error), ("FSC, whole data", found.fsc_full)]
    if found.fsc_masked is not None and found.fsc_randomised is not None and found.fsc_corrected is not None:
        print(f"masked             {_limited(found.resolution_masked, found.nyquist)}")
        print(f"corrected          {_limited(found.resolution_corrected, found.nyquist)}")
        curves += [
            ("FSC, masked", found.fsc_masked),
            ("random phases", found.fsc_randomised),
            ("corrected", found.fsc_corrected),
        ]
    print(f"aligned by shells  1 to {found.cutoff_shell}")
    _tell(found, curves, also.lines())
    return 0


def report(run: Path, /, *, truth: Path | None = None) -> int:
    """Write the report page of a finished run again.

    Example:
        unpicked report run

    Parameters
    ----------
    run
        Run folder.
    truth
        Map to compare with.
    """
    from unpicked.io.mrc import read_map
    from unpicked.report import report as write

    print(write(run, truth=None if truth is None else read_map(truth)))
    return 0


def _limited(resolution: float | None, nyquist: float) -> str:
    """A resolution; one at Nyquist's frequency is a curve that never falls, and no measurement of it."""
    return _angstrom(resolution) + (" (Nyquist)" if resolution is not None and resolution <= nyquist else "")


def _angstrom(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f} A"


def _tell(found: Comparison | Halves, curves: Sequence[tuple[str, Sequence[float]]], lines: Sequence[str]) -> None:
    """Further lines, how the second map was laid on the first, curves by shell, and notes."""
    for line in lines:
        print(line)
    print(f"hand               {found.hand} (margin {found.hand_margin:.4f})")
    print(f"shift              {', '.join(f'{value:.2f}' for value in found.shift)} A (x, y, z)")
    print("rotation           " + "; ".join(" ".join(f"{value:+.4f}" for value in row) for row in found.rotation))
    for name, curve in curves:
        print(f"{name:18s} " + " ".join(f"{value:.3f}" for value in curve))
    for note in found.notes:
        print(note)
