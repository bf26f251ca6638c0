"""``unpicked ctf``: defocus and astigmatism from the micrographs' own spectra."""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from unpicked.cli.common import Common, Output, header, write_facts

if TYPE_CHECKING:
    from unpicked.ctffit import CtfEstimates, CtfFit, CtfSearch
    from unpicked.data.micrographs import Micrographs

MICROSCOPE = {"voltage": "rlnVoltage", "cs": "rlnSphericalAberration", "amplitude_contrast": "rlnAmplitudeContrast"}


@Parameter(name="*")
@dataclass(frozen=True)
class Scope:
    """The microscope."""

    voltage: float | None = None
    """In kV; of the STAR file, else 300."""
    cs: float | None = None
    """Spherical aberration in mm; of the STAR file, else 2.7."""
    amplitude_contrast: float | None = None
    """Between 0 and 1; of the STAR file, else 0.1."""
    phase_shift: str = "0"
    """Of a phase plate in degrees, or "find"."""


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """Where to look."""

    defocus: tuple[float, float] = (3_000.0, 50_000.0)
    """Least and largest mean defocus in angstrom, underfocus positive."""
    astigmatism: float = 4_000.0
    """Largest difference of the two defoci in angstrom."""
    band: tuple[float, ...] = (30.0,)
    """Resolutions in angstrom where the fit begins and ends; one number: it ends at 5, or at two pixels if larger."""


def ctf(
    files: list[str],
    /,
    *,
    output: Output,
    scope: Scope = Scope(),
    where: Where = Where(),
    pixel_size: Annotated[float | None, Parameter(name=("--pixel-size", "--voxel"))] = None,
    contrast: Literal["dark", "bright"] = "dark",
    no_pictures: bool = False,
    common: Common = Common(),
) -> int:
    """Fit defocus and astigmatism to the Thon rings of micrographs, and draw the fits.

    Writes ctf.json, micrographs.star (for reconstruct, RELION and others) and NAME_ctf.png. A micrograph without rings
    is left out, which is told: no value is made up.

    Example:
        unpicked ctf "data/*.mrc" --out ctf --voltage 300 --cs 2.7

    Parameters
    ----------
    files
        Micrographs at full pixel size: MRC files (also .gz, .bz2), folders, quoted globs, or a micrographs STAR file.
    pixel_size
        Pixel size of the files in angstrom, where they do not say or are wrong.
    contrast
        Sign of the files; rings do not depend on it.
    no_pictures
        Do not draw the fits.
    """
    began = time.perf_counter()
    common.begin()
    from unpicked.ctffit import collected
    from unpicked.io import star_layouts
    from unpicked.io._files import output as output_file
    from unpicked.io.micrographs import files_of, read_micrographs

    data = read_micrographs(files, pixel_size=pixel_size, contrast=contrast)
    search = _search(scope, where, files)
    search.limits(data.pixel_size)
    pictures = [] if no_pictures else _pictures(data.names)
    places = files_of(data)
    _vacant(output, [*files, *places])
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder)
        found = collected(_fits(data, search, [held / name for name in pictures], common))
        optics = found.optics  # a ValueError if there is no fit; nothing is written then
        output.out.mkdir(parents=True, exist_ok=True)
        for old in output.out.glob("*_ctf.png"):
            old.unlink()
        for picture in sorted(held.iterdir()):
            with output_file(output.out / picture.name, overwrite=True) as temporary:
                shutil.copyfile(picture, temporary)
    kept = [str(places[index].resolve()) for index in found.kept]
    star_layouts.write_micrographs_star(
        output.out / "micrographs.star", kept, data.pixel_size, optics=optics, overwrite=True
    )
    compared = _given(data, found)
    settings = {"files": files, "pixel_size": data.pixel_size, **_settings(search), "contrast": contrast}
    facts = write_facts(
        output.out / "ctf.json",
        {
            **header(settings, common.seed),
            "micrographs": [_row(one, data, index) for one, index in zip(found.fits, found.kept, strict=True)],
            "left_out": [{"name": name, "reason": reason} for name, reason in found.refused],
            "notes": [*data.notes, *compared],
            "seconds": time.perf_counter() - began,
        },
    )
    for note in (*compared, *(f"left out: {reason}" for _, reason in found.refused)):
        common.say(note)
    left = f", {len(found.refused)} left out" if found.refused else ""
    common.say(f"{output.out / 'micrographs.star'}: {len(found.fits)} micrographs{left}")
    return common.end(facts)


def _search(scope: Scope, where: Where, files: Sequence[str]) -> CtfSearch:
    from unpicked.ctffit import CtfSearch

    stated = _stated(files)
    told = {name: getattr(scope, name) for name in MICROSCOPE}
    values = {name: stated.get(name) if value is None else value for name, value in told.items()}
    usual = CtfSearch()
    if scope.phase_shift == "find":
        phase = None
    else:
        try:
            phase = float(scope.phase_shift)
        except ValueError:
            phase = math.nan
        if not math.isfinite(phase):
            raise ValueError(f'--phase-shift must be a number of degrees, or "find"; got {scope.phase_shift!r}')
    if len(where.band) not in (1, 2):
        raise ValueError(f"--band must be one or two resolutions in angstrom; got {len(where.band)}")
    return CtfSearch(
        voltage_kv=usual.voltage_kv if values["voltage"] is None else values["voltage"],
        cs_mm=usual.cs_mm if values["cs"] is None else values["cs"],
        amplitude_contrast=(
            usual.amplitude_contrast if values["amplitude_contrast"] is None else values["amplitude_contrast"]
        ),
        phase_shift=phase,
        defocus=where.defocus,
        astigmatism=where.astigmatism,
        band=(where.band[0], where.band[1] if len(where.band) == 2 else None),
    )


def _stated(files: Sequence[str]) -> dict[str, float]:
    """What a STAR file of micrographs says of the microscope."""
    from unpicked.io.star import read_star

    if len(files) != 1 or not files[0].lower().endswith((".star", ".star.gz")):
        return {}
    found = {}
    for table in read_star(files[0]).values():
        for name, title in MICROSCOPE.items():
            if title not in table:
                continue
            values = table.floats(title)
            if values.max() > values.min():
                raise ValueError(
                    f"{files[0]}: {title} goes from {values.min():g} to {values.max():g}; "
                    f"split the file, or give --{name.replace('_', '-')}"
                )
            found[name] = float(values[0])
    return found


def _settings(search: CtfSearch) -> dict[str, Any]:
    return {
        "voltage": search.voltage_kv,
        "cs": search.cs_mm,
        "amplitude_contrast": search.amplitude_contrast,
        "phase_shift": "find" if search.phase_shift is None else search.phase_shift,
        "defocus": list(search.defocus),
        "astigmatism": search.astigmatism,
        "band": list(search.band),
    }


def _pictures(names: Sequence[str]) -> list[str]:
    """A picture's name for every micrograph; those that would be alike are numbered."""
    stems = []
    for name in names:
        path = Path(name)
        while path.suffix.lower() in (".gz", ".bz2", ".mrc", ".map"):
            path = path.with_suffix("")
        stems.append(path.name or "micrograph")
    seen: dict[str, int] = {}
    out = []
    for stem in stems:
        seen[stem] = seen.get(stem, 0) + 1
        out.append(f"{stem}_ctf.png" if stems.count(stem) == 1 else f"{stem}_{seen[stem]}_ctf.png")
    return out


def _vacant(output: Output, inputs: Iterable[str | Path]) -> None:
    """Raise ValueError unless the folder may be written to."""
    folder = output.out
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; give a folder")
    if folder.exists() and any(folder.iterdir()) and not output.overwrite:
        raise ValueError(f"--out {folder} is not empty; try --overwrite, or another folder")
    table = folder / "micrographs.star"
    if any(Path(name).resolve() == table.resolve() for name in inputs):
        raise ValueError(f"--out {folder}: {table} is what is read; try another folder")


def _fits(
    data: Micrographs, search: CtfSearch, pictures: Sequence[Path], common: Common
) -> Iterator[tuple[str, CtfFit | str]]:
    """Fit, draw and tell, one by one."""
    from unpicked.ctffit import tried
    from unpicked.report.ctf import draw

    for index, name in enumerate(data.names):
        found = tried(data[index], data.pixel_size, search, name)
        if not isinstance(found, str):
            if pictures:
                draw(pictures[index], found)
            if not common.quiet:
                print(f"{index + 1} of {len(data)}, {found.note}", file=sys.stderr, flush=True)
        yield name, found


def _row(fit: CtfFit, data: Micrographs, index: int) -> dict[str, Any]:
    """The figures of one micrograph, beside those that its STAR file gave."""
    row: dict[str, Any] = {name: _plain(value) for name, value in fit.facts().items()}
    if data.optics is not None:
        group = data.optics.group[index]
        row["given"] = {
            name: getattr(data.optics, name)[group] for name in ("defocus_u", "defocus_v", "astigmatism_angle")
        }
    return row


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _given(data: Micrographs, found: CtfEstimates) -> list[str]:
    """How the fits compare with what the STAR file gave already."""
    if data.optics is None:
        return []
    given = data.optics
    apart = [
        abs(one.defocus / ((given.defocus_u[group] + given.defocus_v[group]) / 2) - 1)
        for one, group in zip(found.fits, (given.group[index] for index in found.kept), strict=True)
        if given.defocus_u[group] + given.defocus_v[group]
    ]
    most = f"; they differ by {100 * max(apart):.1f} % at most" if apart else ""
    return [f"the file gave defocus values already, which are replaced in the new file only{most}"]
