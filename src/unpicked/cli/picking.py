"""``unpicked pick``: where particles of a map are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

from unpicked.cli.common import Common, refuse_input
from unpicked.cli.micrographs import WHITENING, Input, gains_of_run, job_of_run, places_in_run, settings_of_run

if TYPE_CHECKING:
    from unpicked.data.gains import Gains
    from unpicked.data.maps import Map
    from unpicked.data.micrographs import Micrographs
    from unpicked.recipes import MicrographJob


@Parameter(name="*")
@dataclass(frozen=True)
class Assumed:
    """What is believed of the particles, and which of them are written."""

    least: float = 0.5
    """Probability that a pick has at least."""
    views: int = 800
    """Orientations that are tried."""
    density: float | None = None
    """Fraction of the area that boxes of particles cover; estimated if not given."""
    spacing: Literal["separated", "arbitrary"] | None = None
    """Least distance of two particles: separated (2 box - 1 voxels, if not given) or arbitrary (box voxels)."""
    map_voxel: float | None = None
    """Voxel size of the map in angstrom, where its header has none."""
    ignore_ctf: bool | None = None
    """Leave the contrast transfer that the files state out of the model."""
    noise: Literal["auto", "white", "coloured"] | None = None
    """Spectrum of the noise: white, or measured in every micrograph; auto, if not given: measured where there is
    contrast transfer."""
    view_distribution: Literal["uniform", "estimated"] | None = None
    """How often each direction is seen: equally often, if not given, or as the micrographs say."""

    def __post_init__(self) -> None:
        if self.views < 1:
            raise ValueError(f"--views must be at least 1; got {self.views}")
        if not 0 <= self.least <= 1:
            raise ValueError(f"--least must be a probability from 0 to 1; got {self.least}")
        if self.density is not None and not 0 < self.density < 1:
            raise ValueError(f"--density must lie between 0 and 1, as a covered fraction; got {self.density}")

    def of_job(self) -> dict[str, Any]:
        """What is given of how a reconstruction would take the same micrographs."""
        told = {
            name: getattr(self, name) for name in ("density", "spacing", "ignore_ctf", "noise", "view_distribution")
        }
        return {name: value for name, value in told.items() if value is not None}


def pick(
    volume: Path,
    files: list[str],
    /,
    *,
    out: Path,
    assumed: Assumed = Assumed(),
    input: Input = Input(),
    overwrite: bool = False,
    common: Common = Common(),
) -> int:
    """Pick particles: maxima of the posterior occupancy, given a map, its neighbours, the noise and the optics.

    Scale of the map, noise and density are fitted to the micrographs; the structure is not. Every pick has the
    probability that a particle is there (rlnAutopickFigureOfMerit) and its likeliest rotation. RELION and cryoSPARC
    read the STAR file.

    With the folder of a run, what is not given is as in that run: spacing, noise, contrast transfer, view distribution,
    how the files are read; and its own micrographs are whitened as it whitened them at the end.

    Example:
        unpicked pick run sim/micrographs.star --out picks.star

    Parameters
    ----------
    volume
        MRC map of the particle, matter bright, of at most 64 voxels; or the folder of a finished run.
    files
        Micrographs: MRC or TIFF files, folders, quoted globs, a STAR file or a .cs file.
    out
        STAR file of positions to write.
    overwrite
        Replace an existing file.
    """
    device = common.begin()
    _writable(out, overwrite)
    refuse_input("--out", out, files)
    from unpicked.io import star_layouts
    from unpicked.recipes.parts import seen
    from unpicked.recipes.picks import pick_from_map

    data, map, job, gains = _read(volume, files, assumed, input, common)
    found = pick_from_map(
        data, map, job, views=assumed.views, least=assumed.least, gains=gains, seed=common.seed, device=device,
        tell=lambda name, count: common.say(f"{name}: {count} particles"),
    )  # fmt: skip
    box = round(map.box * map.voxel_size / data.pixel_size)
    star_layouts.write_particles_star(
        out, found.names, found.centres, found.rotations, data.pixel_size, box,
        scores=found.posterior, overwrite=overwrite,
    )  # fmt: skip
    last, count = found.run.history[-1], len(found.names)
    common.say(
        f"{out}: {count} particles on {len(data)} micrographs; E = {last['energy']:.1f} per particle, "
        f"about {last['particles']:.0f} are expected"
    )
    fitted: dict[str, Any] = {"energy": last["energy"], "density": last["density"], "expected": last["particles"]}
    if (views := seen(found.run)) is not None:
        told = views.to_json()
        common.say(f"views: from about {told['share']:.2f} of the sphere, along {_direction(told['axis'])} of the map")
        fitted["views"] = told
    return common.end({"out": str(out), "count": count, "micrographs": len(data), **fitted})


def _read(
    volume: Path, files: list[str], assumed: Assumed, input: Input, common: Common
) -> tuple[Micrographs, Map, MicrographJob, Gains | None]:
    """Micrographs, the map, how they are taken, and by what a run whitened them."""
    from unpicked.io import mrc
    from unpicked.recipes import MicrographJob

    told, gains, run = assumed.of_job(), None, volume.is_dir()
    if run:
        told, input, notes = _as_run(volume, files, told, input)
        for note in notes:
            common.say(note)
    map = mrc.read_map(volume / "volume.mrc" if run else volume, voxel_size=assumed.map_voxel)
    data = input.read(files)
    job = MicrographJob(box=map.box, voxel=map.voxel_size, **told)
    if run and job.coloured(optics=data.optics is not None and not job.ignore_ctf):
        gains, note = _as_whitened(volume, data)
        common.say(note)
    return data, map, job, gains


def _as_run(
    run: Path, files: list[str], told: dict[str, Any], input: Input
) -> tuple[dict[str, Any], Input, tuple[str, ...]]:
    """Spacing, contrast transfer and noise, and how files are read: what is not given as in a run; and sentences.

    Masks belong to micrographs: those of the run hide nothing in others.
    """
    settings, notes = settings_of_run(run), tuple[str, ...]()
    job, own, given = job_of_run(settings), Input.of(settings), input.given()
    if job.tilt is not None:
        raise ValueError(
            f"{run} is of a tilted grid, of which pick knows nothing; a map of an untilted run can be picked by"
        )
    if own.masks:
        bare = replace(own, masks=(), masks_mark=None)
        if input.masks:
            own = bare
        elif None in places_in_run(run, replace(bare, **given).read(files)):
            own, notes = bare, (f"masks of {run} are not used: not all micrographs are its own, or as they were",)
        else:
            notes = (f"masks as in {run}",)
    before = {name: getattr(job, name) for name in ("spacing", "ignore_ctf", "noise", "view_distribution")}
    return before | told, replace(own, **given), notes


def _as_whitened(run: Path, data: Micrographs) -> tuple[Gains | None, str]:
    """By what a run whitened these micrographs, None where they are not all its own; and a sentence that says so."""
    gains, places = gains_of_run(run), places_in_run(run, data)
    known = [place for place in places if place is not None]
    if gains is None:
        return None, f"{run / WHITENING} is not there: the noise is measured in these micrographs"
    if len(known) < len(places) or max(known) >= len(gains):
        others = f"{len(places) - len(known)} of {len(places)} micrographs"
        return None, f"{others} are not those of the run, or were changed since: the noise is measured in all of them"
    return gains.part(known), f"whitened as the run in {run} whitened them"


def _direction(axis: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.2f}" for value in axis) + ")"


def _writable(out: Path, overwrite: bool) -> None:
    """Refuse a file that cannot be written, before anything is read."""
    if out.suffix.lower() != ".star":
        raise ValueError(f"--out {out} must end in .star")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; give --overwrite or another --out")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"folder {out.parent} does not exist; make it before writing {out.name}")
