"""``unpicked plan``: whether an experiment can work, before it is done."""

from __future__ import annotations

import json as js
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from unpicked.cli.common import height_and_width
from unpicked.plan import Microscope, Plan, Range
from unpicked.plan import plan as planned

REGIMES = {
    "pick": "single particles stand out: they can be picked",
    "detection-free": "single particles cannot be told from noise; averages over micrographs can",
    "marginal": "hardly anything is told by a particle: very many micrographs",
    "hopeless": "no method that is known to us will work",
}


@Parameter(name="*")
@dataclass(frozen=True)
class Fields:
    """The micrographs."""

    micrographs: int | None = None
    """Tell also what comes of so many."""
    density: float = 0.12
    """Fraction of the micrographs' area that boxes of particles cover."""
    size: tuple[int, ...] = (4096,)
    """Height and width of a micrograph in pixels; one number is both."""
    pixel_size: float = 1.0
    """Of the micrographs, in angstrom."""

    @property
    def area(self) -> float:
        """Of one, in square angstrom; ValueError for lengths that are not positive."""
        height, width = height_and_width(self.size)
        if min(height, width) < 1 or not (math.isfinite(self.pixel_size) and self.pixel_size > 0):
            raise ValueError(f"--size and --pixel-size must be positive; got {height} x {width} and {self.pixel_size}")
        return height * width * self.pixel_size**2


def plan(
    *,
    mass_kda: float | None = None,
    structure: Path | None = None,
    microscope: Annotated[Microscope, Parameter(name="*")] = Microscope(),
    fields: Fields = Fields(),
    resolution: float | None = None,
    picture: Path | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Tell whether micrographs of a protein can give its structure, and how many it takes.

    Energy per particle is that of an ideal instrument; expect about half. What so many particles tell is estimated
    from the Fisher information of simulated micrographs. Every figure says what it rests on.

    Example:
        unpicked plan --mass-kda 20 --defocus-um 1 --micrographs 500

    Parameters
    ----------
    mass_kda
        Mass of the particle in kDa, or
    structure
        PDB or mmCIF file, of which only the number of heavy atoms is taken.
    resolution
        Wanted, in angstrom; that of a working grid of 11 voxels if not given.
    picture
        Write the phase diagram, energy against mass, to this PNG, SVG or PDF file.
    overwrite
        Replace that file.
    json
        Print one JSON object.
    """
    if (mass_kda is None) == (structure is None):
        raise ValueError("give --mass-kda or --structure, one of the two; try --mass-kda 20")
    if picture is not None:
        _check_picture(picture, overwrite)
    mass = _mass(structure) if structure is not None else float(mass_kda or 0)
    found = planned(
        mass,
        microscope,
        resolution=resolution,
        micrographs=fields.micrographs,
        density=fields.density,
        area=fields.area,
    )
    if picture is not None:
        from unpicked.report.phase_diagram import draw

        draw(picture, found)
    if json:
        print(js.dumps(_finite(found.to_json())))
    else:
        print(told(found))
    return 0


def told(found: Plan) -> str:
    """The plan in words, each line with what it rests on."""
    half = f"E = {found.energy / 2:.3g} (half of it, to be expected)"
    lines = [
        f"{found.mass_kda:g} kDa, {_optics(found)}",
        f"energy per particle   E = {found.energy:.3g} of an ideal instrument [model]; {half}",
        f"working grid          11 voxels of {found.voxel:.2f} A, to {2 * found.voxel:.1f} A; "
        f"SNR {found.energy / 121:.2g} per pixel of its box",
        f"seen one by one from  E = {found.patch_boundary:.0f} in one box, {found.micrograph_boundary:.0f} in a whole "
        "micrograph [rule]",
        f"so, ideally           {found.regime}: {REGIMES[found.regime]}",
        f"and at half of E      {found.realistic_regime}: {REGIMES[found.realistic_regime]}",
    ]
    each, aim = found.per_micrograph, f"for {found.resolution:.1f} A"
    for name, count in ((aim, found.particles), (f"{aim}, half of E", found.realistic_particles)):
        lines.append(f"{name:<21s} {_particles(count, each)}")
    for name, outcome in (("ideally", found.outcome), ("at half of E", found.realistic_outcome)):
        if outcome is not None:
            lines.append(
                f"{f'{found.micrographs} micrographs':<21s} {name}: relative error {_range(outcome.error)}, "
                f"{_range(outcome.resolution)} A{' or finer' if outcome.resolution.at_most else ''} "
                f"{'[extrapolated]' if outcome.error.extrapolated else '[estimate]'}"
            )
    if found.micrographs is not None and found.outcome is None:
        lines.append(f"{found.micrographs} micrographs: too few particles, or too faint, for any figure")
    if found.helps:
        lines.append("what would help most:")
        lines += [
            f"  {change}: E = {energy:.3g}, {_particles(count, each)}" for change, energy, count in found.helps[:3]
        ]
    return "\n".join(lines)


def _optics(found: Plan) -> str:
    scope = found.microscope
    contrast = "an ideal phase plate" if scope.phase_plate else f"{scope.defocus_um:g} um of defocus"
    each = f"{found.per_micrograph:.0f} particles on each micrograph"
    return f"{scope.voltage_kv:g} kV, {scope.dose:g} e/A^2, {contrast}, {each}"


def _particles(count: Range | None, each: float) -> str:
    if count is None:
        return "no number of particles is known to be enough"
    fields = _range(count.times(1 / each), whole=True)
    most = "at most " if count.at_most else ""
    kind = "[extrapolated]" if count.extrapolated else "[estimate]"
    return f"{most}{_range(count)} particles, {fields} micrograph{'' if fields == '1' else 's'} {kind}"


def _range(found: Range, *, whole: bool = False) -> str:
    def number(value: float) -> str:
        if not math.isfinite(value):
            return "none"
        if whole:
            value = math.ceil(value)
        return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 or whole else f"{value:.2g}"

    low, high = (number(value) for value in sorted((found.low, found.high)))
    return number(found.middle) if low == high else f"{number(found.middle)} ({low} to {high})"


def _mass(path: Path) -> float:
    from unpicked.io.structure import read_structure
    from unpicked.plan.physics import DALTONS_PER_ATOM

    return len(read_structure(path)) * DALTONS_PER_ATOM / 1000


def _check_picture(path: Path, overwrite: bool) -> None:
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--picture must end in .png, .svg or .pdf; got {path}")
    if path.is_dir():
        raise ValueError(f"--picture {path} is a folder; give the name of a file")
    if path.exists() and not overwrite:
        raise ValueError(f"--picture {path} is there; try another name, or --overwrite")
    if not path.parent.is_dir():
        raise ValueError(f"--picture {path}: there is no folder {path.parent}")


def _finite(value: Any) -> Any:
    """JSON knows no infinity: None stands for it."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
