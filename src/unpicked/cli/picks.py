"""``unpicked compare-picks``."""

from __future__ import annotations

import json as js
from pathlib import Path

SHARE = 0.4  # of the box: about half a particle's diameter


def compare(
    estimate: Path,
    truth: Path,
    /,
    *,
    radius: float | None = None,
    pixel_size: float | None = None,
    json: bool = False,
) -> int:
    """Compare picked positions with true ones, matched one to one within a radius.

    Example:
        unpicked compare-picks picks.star sim/truth.star --radius 30 --json

    Parameters
    ----------
    estimate
        STAR file with rlnCoordinateX and rlnCoordinateY; rlnAutopickFigureOfMerit ranks them.
    truth
        STAR file of the true positions on the same micrographs, in pixels of the same size.
    radius
        Largest distance of a pair in angstrom: about half the particle's diameter; 0.4 of the truth's box if not given.
    pixel_size
        Of the micrographs in angstrom, where neither file says it.
    json
        Print one JSON object.
    """
    from unpicked.evaluate.picks import compare_picks
    from unpicked.io.picks import read_picks
    from unpicked.io.poses import matched

    ours, true = read_picks(estimate), read_picks(truth)
    size = next((one for one in (pixel_size, true.pixel_size, ours.pixel_size) if one is not None), None)
    if size is None:
        raise ValueError(f"neither {estimate} nor {truth} has rlnMicrographPixelSize; give --pixel-size")
    if not size > 0:
        raise ValueError(f"--pixel-size must be positive; got {size}")
    sizes = {one.pixel_size for one in (ours, true) if one.pixel_size is not None}
    if max(sizes, default=size) > 1.001 * min(sizes, default=size):
        told = " and of ".join(f"{one:g} A" for one in sorted(sizes))
        raise ValueError(f"the positions are in pixels of {told}; bring them to one size")
    if radius is None and true.box is None:
        raise ValueError(f"{truth} does not say how large a particle's box is; give --radius in angstrom")
    within = SHARE * (true.box or 0.0) if radius is None else radius
    names, others = list(ours.positions), list(true.positions)
    rows, same, notes = matched(names, others, "micrograph")
    known = {others[there]: names[row] for row, there in zip(rows, same, strict=True)}
    found = compare_picks(
        {name: size * places for name, places in ours.positions.items()},
        {known.get(name, name): size * places for name, places in true.positions.items()},
        within,
        ours.scores,
    )
    if json:
        print(js.dumps({**found.to_json(), "radius": within, "notes": list(notes)}))
        return 0
    count, total, pairs = found.count
    print(f"positions          {count}, of {total} true ones; {pairs} matched within {within:.3g} A")
    print(f"precision, recall  {found.precision:.3f}, {found.recall:.3f}")
    print(f"F1                 {found.f1:.3f}")
    if found.distance is not None:
        print(f"distance r.m.s.    {found.distance:.3g} A")
    if found.average_precision is not None:
        print(f"average precision  {found.average_precision:.3f}")
    for note in notes:
        print(note)
    return 0
