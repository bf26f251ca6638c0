"""``report``: the page of a run folder, whatever the run found."""

from __future__ import annotations

from pathlib import Path

from unpicked.data.maps import Map
from unpicked.io._files import output
from unpicked.report import page, stack, target
from unpicked.report.reading import read


def report(run: Path | str, *, truth: Map | None = None, overwrite: bool = True) -> Path:
    """Write ``report.html`` into a run folder: one page that needs no other file and no network.

    The same folder gives the same bytes: the page holds no date.

    Args:
        run: folder that holds ``result.json``, ``history.csv`` and ``volume.mrc`` (or ``target.npy``, of a signal or
            an image, with its standard errors in ``errors.npy``); ``half1.mrc`` with
            ``half2.mrc``, and ``patches.npz`` (``patches``, ``projections`` and, if there are any, ``averages``,
            ``(n, L, L)`` each; ``posterior``, ``(n,)``), are shown where they exist; so are ``micrographs.npz`` (see
            :func:`unpicked.recipes.pictures.pictures`) and ``particles.star`` of a run on a particle stack.
        truth: map to compare with; default the one that ``result.json`` names under ``data.truth``, where the
            file still exists.
        overwrite: replace an existing page.

    Returns:
        The path of the page.

    Raises:
        ValueError: if the folder is no run folder, one of its files cannot be understood, or the maps cannot
            be compared.
        FileExistsError: if the page exists and ``overwrite`` is False.

    Example:
        >>> report("run/")  # doctest: +SKIP
        PosixPath('run/report.html')
    """
    folder = Path(run)
    if (folder / "target.npy").is_file():
        text = target.render(target.read(folder))
    else:
        found = read(folder, truth)
        text = stack.render(found) if found.stack else page.render(found)
    path = folder / "report.html"
    with output(path, overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path
