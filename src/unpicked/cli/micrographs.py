"""How the commands read micrographs: options, and what a run folder keeps of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from unpicked.data.micrographs import Micrographs

_PATHS = ("ctf", "passthrough", "masks")
LISTS = (".star", ".star.gz", ".star.bz2", ".cs")


@Parameter(name="*")
@dataclass(frozen=True)
class Input:
    """How micrographs are read."""

    pixel_size: float | None = None
    """Pixel size of the files in angstrom, where they do not say or are wrong."""
    contrast: Literal["dark", "bright"] = "dark"
    """Sign of the files: matter dark, as a microscope writes, or bright."""
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
    is a.mrc of another folder, or a_mask.mrc, of the micrograph's size or smaller by a whole factor."""
    masks_mark: Literal["junk", "good"] | None = None
    """What the masks' pixels that are not zero mark: junk, as MicrographCleaner writes, or good. If not given,
    junk, which is refused where it would take more than half of the area."""

    masks_auto: bool = False
    """Leave out also what is grossly unlike the rest of its micrograph: carbon film, thick ice, contamination."""

    def read(self, files: Sequence[str]) -> Micrographs:
        """The micrographs."""
        from unpicked.io.micrographs import read_micrographs
        from unpicked.preprocess.outlying import without_outlying

        data = read_micrographs(
            list(files),
            pixel_size=self.pixel_size,
            contrast=self.contrast,
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
        told: dict[str, Any] = {"pixel_size": self.pixel_size, "contrast": self.contrast}
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
