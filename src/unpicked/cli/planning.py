"""``unpicked plan``: whether an experiment can work, before it is done, and what more of a finished one would give."""

from __future__ import annotations

import json as js
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from unpicked.cli import runs
from unpicked.cli.common import check_picture, height_and_width
from unpicked.cli.specimens import option
from unpicked.plan import Microscope, Outcome, Plan, Range
from unpicked.plan import plan as planned
from unpicked.plan.cost import UNIT
from unpicked.plan.measured import Forecast, forecast, measured

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
    from_: Annotated[Path | None, Parameter(name="--from")] = None,
    microscope: Annotated[Microscope, Parameter(name="*")] = Microscope(),
    fields: Fields = Fields(),
    resolution: float | None = None,
    picture: Path | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Tell whether micrographs of a protein can give its structure, and how many it takes.

    Energy per particle is that of an ideal instrument; expect about half. What so many particles tell is estimated
    from the Fisher information of simulated micrographs. With --from energy, density and time are those that a finished
    run measured. Every figure says what it rests on.

    Example:
        unpicked plan --mass-kda 20 --defocus-um 1 --micrographs 500
        unpicked plan --from run --resolution 8

    Parameters
    ----------
    mass_kda
        Mass of the particle in kDa, or
    structure
        PDB or mmCIF file, of which only the number of heavy atoms is taken, or
    from_
        Folder of a finished run on micrographs: how many more of them it would take.
    resolution
        Wanted, in angstrom. If not given, that of a working grid of 11 voxels; with --from what the run did not reach.
    picture
        Write the phase diagram, energy against mass, to this PNG, SVG or PDF file.
    overwrite
        Replace that file.
    json
        Print one JSON object.
    """
    if from_ is not None:
        told_of = {"mass_kda": mass_kda, "structure": structure, "picture": picture}
        _refuse_beside_a_run({name for name, value in told_of.items() if value is not None}, microscope, fields)
        return _from(from_, resolution, fields.micrographs, json)
    if (mass_kda is None) == (structure is None):
        raise ValueError("give --mass-kda, --structure or --from, one of the three; try --mass-kda 20")
    if picture is not None:
        check_picture(picture, overwrite)
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
        f"SNR {found.energy / 121:.2g} per pixel of its box, d' = {math.sqrt(found.energy):.3g}",
        f"seen one by one from  E = {found.patch_boundary:.0f} in one box, {found.micrograph_boundary:.0f} in a whole "
        "micrograph [rule]",
        f"so, ideally           {found.regime}: {REGIMES[found.regime]}",
        f"and at half of E      {found.realistic_regime}: {REGIMES[found.realistic_regime]}",
    ]
    each, aim = found.per_micrograph, f"for {found.resolution:.1f} A"
    for name, count in ((aim, found.particles), (f"{aim}, half of E", found.realistic_particles)):
        lines.append(f"{name:<21s} {_particles(count, each)}")
    lines.append(f"{'for 10 % error':<21s} {_particles(found.particles_error, each)}")
    for name, outcome in (("ideally", found.outcome), ("at half of E", found.realistic_outcome)):
        if outcome is not None:
            lines.append(f"{f'{found.micrographs} micrographs':<21s} {name}: {_outcome(outcome)}")
    if found.micrographs is not None and found.outcome is None:
        lines.append(f"{found.micrographs} micrographs: too few particles, or too faint, for any figure")
    for name, seconds in (("run time", found.seconds), ("run time, half of E", found.realistic_seconds)):
        if seconds is not None:
            lines.append(
                f"{name:<21s} {_time(seconds, found.micrographs)} on one core, verified "
                f"[constant: {UNIT:g} s per pixel, view and pass]"
            )
    if found.helps:
        lines.append("what would help most:")
        lines += [
            f"  {change}: E = {energy:.3g}, {_particles(count, each)}" for change, energy, count in found.helps[:3]
        ]
    return "\n".join(lines)


def told_of_run(found: Forecast) -> str:
    """What more micrographs would give, in words, each line with what it rests on."""
    run, each = found.measured, found.measured.per_micrograph
    fields = f"{run.micrographs} micrograph{'' if run.micrographs == 1 else 's'}"
    reached = f"{run.reached:.1f} A ({run.reached_by})" if run.reached is not None else "no resolution is told"
    gives = f"; so many particles should give {_outcome(found.own)}" if found.own is not None else ""
    lines = [
        f"{run.particles:,.0f} particles on {fields} of {run.size[0]} x {run.size[1]} pixels of {run.voxel:.2f} A, "
        f"{each:.0f} on each (density {run.density:.3g})",
        f"energy per particle   E = {run.energy:.3g}, SNR {run.energy / run.box**2:.2g} per pixel of its box of "
        f"{run.box} [measured]",
        f"verdict of the run    {run.verdict}{_caution(run.verdict)}",
        f"seen one by one from  E = {found.patch_boundary:.0f} in one box, {found.micrograph_boundary:.0f} in a whole "
        "micrograph [rule]",
        f"so                    {found.regime}: {REGIMES[found.regime]}",
        f"the run reached       {reached}{gives}",
        f"{f'for {found.resolution:.1f} A':<21s} {_particles(found.particles, each)}",
    ]
    if found.finer:
        lines.append(f"{'':<21s} finer than the run's voxels: reconstruct with --voxel {found.resolution / 2:.2g}")
    if found.micrographs is not None:
        more = _outcome(found.outcome) if found.outcome else "too few particles, or too faint, for any figure"
        lines.append(f"{f'{found.micrographs} micrographs':<21s} {more}")
    if found.seconds is not None:
        own = f"[measured: the run's {_duration(run.seconds)}, in proportion to pixels x views]"
        lines.append(f"{'run time':<21s} {_time(found.seconds, found.micrographs)} {own}")
    return "\n".join(lines)


def _from(folder: Path, resolution: float | None, micrographs: int | None, json: bool) -> int:
    summary, _ = runs.finished(folder)
    try:
        run = measured(summary)
    except ValueError as error:
        raise ValueError(f"--from {folder} cannot be planned from: {error}; try --mass-kda") from None
    found = forecast(run, resolution=resolution, micrographs=micrographs)
    print(js.dumps(_finite(found.to_json())) if json else told_of_run(found))
    return 0


def _refuse_beside_a_run(told: set[str], microscope: Microscope, fields: Fields) -> None:
    """Options whose place is taken by what a run measured."""
    for given, plain in ((microscope, Microscope()), (fields, Fields())):
        told |= {name for name, value in vars(given).items() if value != vars(plain)[name]}
    for name in sorted(told - {"micrographs"}):
        raise ValueError(f"{option(name)} is not for --from: a run has measured what it would tell; leave it out")


def _caution(verdict: str) -> str:
    return "" if verdict == "supported" else ": E is of a map that its own data have not confirmed"


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


def _outcome(found: Outcome) -> str:
    finest = " or finer" if found.resolution.at_most else ""
    kind = "[extrapolated]" if found.error.extrapolated else "[estimate]"
    return f"relative error {_range(found.error)}, {_range(found.resolution)} A{finest} {kind}"


def _time(found: Range, micrographs: int | None) -> str:
    """Of a run on so many micrographs, or on as many as it takes."""
    if micrographs is not None:
        return f"{_duration(found.middle)} for {micrographs} micrograph{'' if micrographs == 1 else 's'}"
    most = "at most " if found.at_most else ""
    low, middle, high = (_duration(value) for value in (found.low, found.middle, found.high))
    return f"{most}{middle}" + (f" ({low} to {high})" if low != high else "")


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{float(f'{seconds / length:.2g}'):,.0f} {unit}"
    return f"{max(seconds, 1):.0f} s"


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
    from unpicked.ops.scattering import DALTONS_PER_ATOM

    return len(read_structure(path)) * DALTONS_PER_ATOM / 1000


def _finite(value: Any) -> Any:
    """JSON knows no infinity: None stands for it."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
