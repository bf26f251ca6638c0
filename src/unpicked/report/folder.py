"""The run folder of a reconstruction made in Python, as the commands write one: then there is a page of it, too."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import unpicked
from unpicked.data.maps import Map
from unpicked.io._files import output
from unpicked.io.mrc import write_map
from unpicked.recipes import parts
from unpicked.reconstruct import Reconstruction
from unpicked.report.write import report

_FIGURES = ("log_likelihood", "objective", "judge", "energy", "density", "particles", "sigma")


def write_run(
    run: Reconstruction,
    folder: Path | str,
    *,
    truth: Map | None = None,
    notes: Iterable[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write ``volume.mrc``, ``history.csv``, ``result.json`` and ``report.html`` of a reconstruction.

    With a prior the page tells, shell by shell, how much of the map comes from the data
    (:func:`unpicked.recipes.parts.share`). Grey values are those of the data that were given to ``reconstruct``.

    Args:
        run: of a volume.
        folder: made where it does not exist.
        truth: map to compare with, on this page only.
        notes: sentences on the data, for the page.
        overwrite: replace the files of these names.

    Returns:
        The path of the page.

    Raises:
        ValueError: if the reconstruction is not of a volume, or made no pass over the data.
        FileExistsError: if the folder holds a run and ``overwrite`` is False.

    Example:
        >>> write_run(reconstruct(data, model, EM(), prior=Denoiser(smooth, 4.0)), "run")  # doctest: +SKIP
        PosixPath('run/report.html')
    """
    if run.map is None or not run.history:
        raise ValueError(
            "a run folder holds a volume and its passes; got a reconstruction without; try more iterations"
        )
    place = Path(folder)
    found = next((name for name in ("result.json", "volume.mrc", "report.html") if (place / name).exists()), None)
    if found is not None and not overwrite:
        raise FileExistsError(f"{place / found} exists; give overwrite=True or another folder")
    result = _result(run, tuple(notes))
    place.mkdir(parents=True, exist_ok=True)
    write_map(Map(run.map.values.cpu(), run.map.voxel_size), place / "volume.mrc", overwrite=True)
    rows = ((name, row) for name, history in run.histories.items() for row in history)
    for name, text in (("history.csv", history_text(rows)), ("result.json", json.dumps(result, indent=2) + "\n")):
        with output(place / name, True) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return report(place, truth=truth)


def history_text(rows: Iterable[tuple[str, Mapping[str, float]]]) -> str:
    """``history.csv``: one row per pass, with the sub-run's name."""
    rows = list(rows)
    longest = sorted((row for _, row in rows), key=len, reverse=True)  # not every row is judged
    names = ["run", *dict.fromkeys(name for row in longest for name in row)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([run, *(repr(row[name]) if name in row else "" for name in names[1:])] for run, row in rows)
    return buffer.getvalue()


def _result(run: Reconstruction, notes: tuple[str, ...]) -> dict[str, Any]:
    """What ``result.json`` tells."""
    row = run.history[-1]
    figures: dict[str, Any] = {name: row[name] for name in _FIGURES if math.isfinite(row.get(name, math.nan))}
    share, kind = parts.share(run)
    if share:
        figures |= {
            "data_share": list(share),
            "data_share_kind": kind,
            "data_share_observed": run.information is not None,
        }
    single = run.model.placement.single
    believed = parts.belief_note(run, run) or (f"prior: {run.prior!r}",)
    return {
        "command": "",
        "settings": {},
        "version": unpicked.__version__,
        "seed": int(run.state["seed"]) if "seed" in run.state else None,
        "data": {
            "kind": "images" if single else "micrographs",
            "notes": [*notes, *believed, *run.notes],
            "truth": None,
        },
        "result": run.result.value,
        "verdict": "not verified",
        "figures": figures,
        "seconds": run.seconds,
    }
