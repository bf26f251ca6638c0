"""What ``unpicked halves`` and ``unpicked compare`` tell beyond the curve: by place, by direction, and in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from unpicked.cli.common import check_picture, refuse_input

if TYPE_CHECKING:
    from unpicked.data.maps import Map
    from unpicked.evaluate.directional import Directional
    from unpicked.evaluate.local import LocalResolution


@Parameter(name="*")
@dataclass(frozen=True)
class More:
    """By place and by direction."""

    local: Path | None = None
    """MRC map to write: the resolution around every voxel, in angstrom, on the grid of the map that the other is laid
    on; the window's diameter stands for "no finer than that"."""
    window: float | None = None
    """Diameter in angstrom of the soft ball in which --local compares; five times the resolution of the whole map, 7
    voxels at least, if not given."""
    directional: bool = False
    """Tell the resolution by direction of Fourier space, in cones of 20 degrees, and how even it is (sphericity)."""
    picture: Path | None = None
    """File to draw the curve in, with what --local and --directional found: PNG, SVG or PDF by the name's end."""
    overwrite: bool = False
    """Replace an existing file of --local or --picture."""

    def check_window(self, map: Map) -> None:
        """Refuse a window that does not fit the map, before anything is computed."""
        if self.window is not None:
            from unpicked.evaluate.local import window_width

            window_width(map, self.window)

    def check(self, *inputs: Path | None) -> None:
        """Refuse names of files that cannot be written, or that are those of the inputs, before anything is read."""
        if self.local is not None:
            refuse_input("--local", self.local, inputs)
        if self.window is not None and self.local is None:
            raise ValueError("--window is that of --local; give --local FILE.mrc, too")
        if self.picture is not None:
            check_picture(self.picture, self.overwrite)
        if self.local is not None:
            if self.local.suffix.lower() not in (".mrc", ".map"):
                raise ValueError(f"--local must end in .mrc or .map; got {self.local}")
            if self.local.is_dir():
                raise ValueError(f"--local {self.local} is a folder; give the name of a file")
            if self.local.exists() and not self.overwrite:
                raise ValueError(f"--local {self.local} is there; try another name, or --overwrite")
            if not self.local.parent.is_dir():
                raise ValueError(f"--local {self.local}: there is no folder {self.local.parent}")


@dataclass(frozen=True)
class Found:
    """What was asked for."""

    local: LocalResolution | None
    directional: Directional | None

    def to_json(self) -> dict[str, Any]:
        """Plain values of what was found."""
        parts = {"local": self.local, "directional": self.directional}
        return {name: part.to_json() for name, part in parts.items() if part is not None}

    def lines(self) -> list[str]:
        """For the reader."""
        said = []
        if self.local is not None:
            one = self.local
            said.append(
                f"local resolution   {one.median:.2f} A median, {one.best:.2f} to {one.worst:.2f} A in 80 % of "
                f"{one.voxels} voxels, {100 * one.unresolved:.0f} % unresolved (window {one.window:.1f} A)"
            )
        if self.directional is not None:
            one_way = self.directional
            for name, value, axis in (
                ("best direction", one_way.best, one_way.best_direction),
                ("worst direction", one_way.worst, one_way.worst_direction),
            ):
                place = ", ".join(f"{part:+.2f}" for part in axis)
                said.append(f"{name:18s} {'none' if value is None else f'{value:.2f} A'} along ({place}) (x, y, z)")
            said.append(f"sphericity         {one_way.sphericity:.3f}")
        return said


def found(options: More, first: Map, second: Map, threshold: float, mask: Map | None = None) -> Found:
    """By place and by direction, as far as asked for; the map of places is not written yet."""
    from unpicked.evaluate.directional import directional
    from unpicked.evaluate.local import local_resolution

    local = None
    if options.local is not None:
        local = local_resolution(first, second, mask=mask, diameter=options.window, threshold=threshold)
    return Found(local, directional(first, second, threshold=threshold) if options.directional else None)


def write(
    options: More,
    found: Found,
    curve: Sequence[float],
    interval: tuple[Sequence[float], Sequence[float]],
    of: Map,
    threshold: float,
) -> None:
    """The files that were asked for.

    Args:
        options: as given.
        found: by place and by direction.
        curve: of all directions and places.
        interval: its lower and upper ends.
        of: the map that the other was laid on.
        threshold: of the correlation.
    """
    if found.local is not None and options.local is not None:
        from unpicked.io.mrc import write_map

        write_map(found.local.map, options.local, overwrite=options.overwrite)
    if options.picture is not None:
        from unpicked.report.agreement import draw

        draw(options.picture, curve, interval, of, threshold, found.local, found.directional)
