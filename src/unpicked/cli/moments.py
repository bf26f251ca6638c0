"""``unpicked moments``: sums of products of micrographs in one pass, and the density and noise that they tell."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from unpicked import processes
from unpicked.cli.common import Common, header, refuse_input

if TYPE_CHECKING:
    from unpicked.data.moments import Moments
    from unpicked.recipes.moments import Told


@Parameter(name="*")
@dataclass(frozen=True)
class Reading:
    """How the micrographs are read."""

    voxel: float | None = None
    """Working voxel in angstrom; the pixel size if not given."""
    pixel_size: float | None = None
    """Pixel size of the files in angstrom, where they do not say or are wrong."""
    contrast: Literal["dark", "bright"] = "dark"
    """Sign of the files: matter dark, as recorded, or bright."""


def moments(
    files: list[str],
    /,
    *,
    out: Path,
    box: int | None = None,
    merge: bool = False,
    reading: Reading = Reading(),
    lmax: Annotated[int, Parameter(name="--lmax")] = 4,
    starts: int = 10,
    overwrite: bool = False,
    common: Common = Common(),
) -> int:
    """Autocorrelations of micrographs up to the third order, in one pass: what can be known without seeing particles.

    Tells the covered fraction and the noise level with their errors, the energy per particle, and which micrographs
    are blank. Particles must be seen from all sides alike and lie apart; contrast transfer is not modelled.

    Example:
        unpicked moments "data/*.mrc" --box 11 --voxel 5 --out moments.npz
        unpicked moments one.npz other.npz --merge --out all.npz

    Parameters
    ----------
    files
        Micrographs: MRC files, folders, quoted globs, or a micrographs STAR file; with --merge, files of this command.
    out
        File to write (.npz): sums of all, and of each micrograph. numpy reads it.
    box
        Side of the particle's box in working voxels.
    merge
        Add up files that were made apart, of other micrographs at the same settings.
    lmax
        Largest degree of the volume that is fitted.
    starts
        Random starts of the fit.
    overwrite
        Replace an existing file.
    """
    began = time.perf_counter()
    if common.device == "cuda":
        raise ValueError("moments are summed by the CPU; leave --device out")
    common.begin(many=True, sums="cpu")
    from unpicked.io._files import output
    from unpicked.recipes.moments import LEAST_BLOCKS, known, possible, told_by

    if out.suffix != ".npz":
        raise ValueError(f"--out must name a file that ends in .npz; got {out}")
    if processes.agreed(out.exists) and not overwrite:
        raise FileExistsError(f"{out} exists; give --overwrite, or another --out")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"--out must lie in a folder that exists; got {out}")
    refuse_input("--out", out, [Path(file) for file in files])
    if box is not None:
        possible(box, lmax)  # before anything is read
    record, notes = _merged(files, box, reading) if merge else _measured(files, box, reading, common)
    known(record)
    possible(record.length, lmax)
    if not processes.leads():
        return 0
    with output(out, overwrite) as temporary:
        record.save(temporary)
    for note in notes:
        common.say(note)
    common.say(f"{out}: {record.kind}, {len(record.names)} micrographs, {record.points:.4g} base points")
    settings = {"files": files, "box": record.length, "merge": merge, **vars(reading), "lmax": lmax, "starts": starts}
    facts: dict[str, Any] = {**header(settings, common.seed), "out": str(out), "notes": notes}
    if record.blocks < LEAST_BLOCKS:
        common.say("too few data for errors, so nothing is told yet: merge this file with others")
    else:
        found = told_by(record, lmax=lmax, starts=starts, seed=common.seed)
        for note in _words(record, found):
            common.say(note)
        facts |= _facts(record, found)
    return common.end({**facts, "seconds": time.perf_counter() - began})


def _measured(files: list[str], box: int | None, reading: Reading, common: Common) -> tuple[Moments, list[str]]:
    """One pass over micrographs."""
    from unpicked.io.micrographs import read_micrographs
    from unpicked.recipes.moments import moments_of

    if box is None:
        raise ValueError("--box is needed: the side of the particle's box in working voxels, e.g. --box 11")
    data = read_micrographs(files, pixel_size=reading.pixel_size, contrast=reading.contrast)
    notes = list(data.notes)
    if data.optics is not None:
        notes.append("contrast transfer is known but not modelled: the energy is that of the particles as recorded")
    count = len(data)

    def report(done: int) -> None:
        if done == count or done % 10 == 0:
            common.say(f"{done} of {count} micrographs")

    record, left_out = moments_of(data, box, voxel=reading.voxel, report=report)
    # passes of opposite signs must not be merged: their third moments would cancel
    return replace(record, kind=f"{record.kind}, matter {reading.contrast}"), [*notes, *left_out]


def _merged(files: list[str], box: int | None, reading: Reading) -> tuple[Moments, list[str]]:
    """Records that were made apart."""
    from unpicked.data.moments import Moments
    from unpicked.recipes.moments import merged

    if box is not None or reading != Reading():
        raise ValueError("--merge adds up files as they are: leave out --box, --voxel, --pixel-size and --contrast")
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise ValueError(f"no such file: {missing[0]}; --merge takes files of `unpicked moments`")
    return merged([Moments.load(file) for file in files]), []


def _words(record: Moments, found: Told) -> list[str]:
    """The answer in sentences."""
    out = [
        f"density {found.density:.4f} +- {found.density_error:.4f} of the area, noise {found.sigma:.4f} +- "
        f"{found.sigma_error:.4f} robust standard deviations, E = {found.energy:.3g} per particle"
    ]
    if not found.seen:
        out.append(f"no particles are seen: the fit is no better than noise alone, z = {found.z:.1f} (5 is asked)")
    elif found.density < 3 * found.density_error:
        out.append(
            f"particles are there (z = {found.z:.0f}), but many faint ones or fewer clear ones cannot be told apart"
        )
    if not found.agrees:
        out.append(
            f"the fit does not agree with the moments (chi^2 {found.chi2:.2f} per degree of freedom): a larger --lmax "
            "or --box, more --starts, or uneven views or crowding; the density may be off by more than told"
        )
    if found.seen and found.blank:
        some = ", ".join(Path(record.names[place]).name for place in found.blank[:5])
        more = ", ..." if len(found.blank) > 5 else ""
        out.append(f"{len(found.blank)} of {len(record.names)} micrographs look blank (z < 3): {some}{more}")
    return out


def _facts(record: Moments, found: Told) -> dict[str, Any]:
    rows = found.rows or []
    return {
        "density": found.density,
        "density_error": found.density_error,
        "sigma": found.sigma,
        "sigma_error": found.sigma_error,
        "energy": found.energy,
        "chi2": found.chi2,
        "agrees": found.agrees,
        "z": found.z,
        "micrographs": [
            {"name": name, "density": density, "error": error, "z": z}
            for name, (density, error, z) in zip(record.names, rows, strict=True)
        ],
    }
