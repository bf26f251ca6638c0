"""``unpicked compare`` and ``unpicked report``."""

from __future__ import annotations

import json as js
from pathlib import Path


def compare(
    estimate: Path,
    truth: Path,
    /,
    *,
    symmetry: str = "C1",
    voxel: float | None = None,
    json: bool = False,
) -> int:
    """Compare a map with the truth, over rotation, shift and hand.

    Example:
        unpicked compare run/volume.mrc sim/truth.mrc --json

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
    from unpicked.evaluate.compare import compare as judge
    from unpicked.io.mrc import read_map

    found = judge(read_map(estimate, voxel_size=voxel), read_map(truth, voxel_size=voxel), symmetry=symmetry)
    figures = found.to_json()
    if json:
        print(js.dumps(figures))
        return 0
    rotation = found.rotation
    print(f"correlation        {found.correlation:.4f}")
    print(f"relative error     {found.relative_error:.4f}")
    print(f"resolution at 0.5  {_angstrom(found.resolution_05)}{' (Nyquist)' if found.at_nyquist else ''}")
    print(f"resolution at .143 {_angstrom(found.resolution_0143)}")
    print(f"hand               {found.hand} (margin {found.hand_margin:.4f})")
    print(f"shift              {', '.join(f'{value:.2f}' for value in found.shift)} A (x, y, z)")
    print("rotation           " + "; ".join(" ".join(f"{value:+.4f}" for value in row) for row in rotation))
    print("FSC                " + " ".join(f"{value:.3f}" for value in found.fsc))
    for note in found.notes:
        print(note)
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


def _angstrom(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f} A"
