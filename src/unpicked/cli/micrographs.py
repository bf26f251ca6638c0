"""How the commands read micrographs: options, and what a run folder keeps of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

from unpicked.cli import common as shared
from unpicked.cli import runs
from unpicked.io._files import read_json

if TYPE_CHECKING:
    from unpicked.data.gains import Gains
    from unpicked.data.micrographs import Micrographs
    from unpicked.recipes import MicrographJob

_PATHS = ("ctf", "passthrough", "masks")
LISTS = (".star", ".star.gz", ".star.bz2", ".cs")
WHITENING = "whitening.json"  # factors per frequency that made the noise of every micrograph of a run white


@Parameter(name="*")
@dataclass(frozen=True)
class Input:
    """How micrographs are read."""

    pixel_size: float | None = None
    """Pixel size of the files in angstrom, where they do not say or are wrong."""
    contrast: Literal["dark", "bright"] | None = None
    """Sign of the files: matter dark, if not given, as a microscope writes, or bright."""
    ctf: tuple[Path, ...] = ()
    """Text files of CTFFIND4, or a folder of them: one row per micrograph, or one file per micrograph, by name."""
    passthrough: tuple[Path, ...] = ()
    """More .cs files of the same exposures, joined by their uid."""
    voltage: float | None = None
    """Acceleration voltage in kV, where the files do not say it."""
    cs: float | None = None
    """Spherical aberration in mm, where the files do not say it."""
    amplitude_contrast: float | None = None
    """Fraction in [0, 1], where the files do not say it."""
    masks: tuple[Path, ...] = ()
    """MRC masks of carbon, ice and contamination, which are left out: files, folders or quoted globs. The mask of a.mrc
    is a_mask.mrc, or a.mrc of another folder, of the micrograph's size or smaller by a whole factor."""
    masks_mark: Literal["junk", "good"] | None = None
    """What the masks' pixels that are not zero mark: junk, as MicrographCleaner writes, or good. If not given,
    junk, which is refused where it would take more than half of the area."""

    masks_auto: bool = False
    """Leave out also what is grossly unlike the rest of its micrograph: carbon film, thick ice, contamination."""

    def given(self) -> dict[str, Any]:
        """The options that were given."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in values.items() if value is not False and value not in (None, ())}

    def read(self, files: Sequence[str]) -> Micrographs:
        """The micrographs."""
        from unpicked.io.micrographs import read_micrographs
        from unpicked.preprocess.outlying import without_outlying

        data = read_micrographs(
            list(files),
            pixel_size=self.pixel_size,
            contrast=self.contrast or "dark",
            ctf=self.ctf,
            passthrough=self.passthrough,
            voltage_kv=self.voltage,
            cs_mm=self.cs,
            amplitude_contrast=self.amplitude_contrast,
            masks=self.masks,
            masks_mark=self.masks_mark,
        )
        return without_outlying(data) if self.masks_auto else data

    def sources(self, files: Sequence[str], data: Micrographs) -> list[Path]:
        """Every file that the data come from: images, masks, lists, CTFFIND's."""
        from unpicked.io.ctffind import ctffind_files
        from unpicked.io.micrographs import files_of

        lists = [Path(name) for name in files if name.lower().endswith(LISTS)]
        return [*lists, *self.passthrough, *ctffind_files(self.ctf)[0], *files_of(data)]

    def settings(self) -> dict[str, Any]:
        """As ``result.json`` tells them: pixel size and contrast always, the others where they were given."""
        told: dict[str, Any] = {"pixel_size": self.pixel_size, "contrast": self.contrast or "dark"}
        told |= {name: [str(path) for path in getattr(self, name)] for name in _PATHS}
        told |= {name: getattr(self, name) for name in ("voltage", "cs", "amplitude_contrast", "masks_mark")}
        told["masks_auto"] = self.masks_auto or None
        return {name: value for name, value in told.items() if name == "pixel_size" or value not in (None, [])}

    @staticmethod
    def of(settings: Mapping[str, Any]) -> Input:
        """From what :meth:`settings` told."""
        told = {entry.name: settings[entry.name] for entry in fields(Input) if entry.name in settings}
        for name in _PATHS:
            told[name] = tuple(Path(path) for path in told.get(name) or ())
        return Input(**told)


def job_of_run(settings: Mapping[str, Any]) -> MicrographJob:
    """How a run on micrographs was made, by the settings of its folder.

    A folder that an earlier version wrote says nothing of contrast transfer and noise: that version knew of neither.
    """
    from unpicked.recipes import MicrographJob

    before = {} if "noise" in settings else {"ignore_ctf": True, "noise": "white"}
    return runs.job_of(MicrographJob, before | dict(settings))


def settings_of_run(folder: Path) -> dict[str, Any]:
    """Settings of a finished run on micrographs.

    Raises:
        ValueError: for a folder that holds none.
    """
    summary, settings = runs.finished(folder)
    kind = dict(summary.get("data") or {}).get("kind", "micrographs")
    if kind != "micrographs":
        raise ValueError(f"{folder} holds a run on {kind}; expected one on micrographs, or give a map")
    return settings


def gains_of_run(folder: Path) -> Gains | None:
    """By what a run whitened its micrographs at the end, one entry for each; None where its folder does not say.

    Raises:
        ValueError: for a damaged file.
    """
    from unpicked.data.gains import Gains

    path = folder / WHITENING
    if not path.exists():
        return None
    try:
        return Gains.of_json(read_json(path))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); run the reconstruction again") from error


def places_in_run(folder: Path, data: Micrographs) -> list[int | None]:
    """For every micrograph its number among those of a run, by file, size and time of change; None: not one of them."""
    from unpicked.io.micrographs import images_of

    summary, settings = runs.finished(folder)
    held, count = runs.held_files(folder), int(summary["data"]["files"])
    end = len(held) - (count if settings.get("masks") else 0)  # masks come last, one for each
    numbers = {entry: number for number, entry in enumerate(held[max(0, end - count) : max(0, end)])}
    return [numbers.get(entry) for entry in shared.identity(images_of(data))]
