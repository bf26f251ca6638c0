"""Options of simulations: what is seen, through which microscope, at which noise level."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

from unpicked.data import snr

if TYPE_CHECKING:
    from unpicked.simulate.micrographs import Specimen
    from unpicked.simulate.preference import OnTilted, Preference

LEVELS = {
    "energy": snr.energy,
    "snr_box": snr.snr_box,
    "snr_disc": snr.snr_disc,
    "snr_db": snr.snr_db,
    "sigma": snr.sigma,
}


@Parameter(name="*")
@dataclass(frozen=True)
class Level:
    """The noise level, in one of five ways."""

    energy: float | None = None
    """Noise level by the energy per particle: mean sum of squares of a clean image over sigma^2."""
    snr_box: float | None = None
    """Noise level by energy / box^2."""
    snr_disc: float | None = None
    """Noise level by energy / (pi floor(box / 2)^2)."""
    snr_db: float | None = None
    """Noise level by 10 log10(variance of the clean image in its box / sigma^2)."""
    sigma: float | None = None
    """Noise level by its standard deviation per pixel."""

    def found(self) -> snr.NoiseLevel | None:
        """The one that is given, or None.

        Raises:
            ValueError: for several.
        """
        told = given(self)
        if len(told) > 1:
            raise ValueError(f"give exactly one noise level; got {' and '.join(map(option, told))}")
        return next((LEVELS[name](value) for name, value in told.items()), None)

    def needed(self, other: str = "") -> snr.NoiseLevel:
        """The one that is given; ``other`` names what might have been given in its place.

        Raises:
            ValueError: for none, or several.
        """
        found = self.found()
        if found is None:
            raise ValueError(f"give exactly one noise level of {', '.join(map(option, LEVELS))}{other}; got none")
        return found


@Parameter(name="*")
@dataclass(frozen=True)
class Seen:
    """What is seen: a structure, a map or a phantom."""

    structure: Path | None = None
    """PDB or mmCIF file that is seen; for a dataset 4AKE, sought in the shared data (UNPICKED_SHARED) if not given."""
    map: Path | None = None
    """MRC map that is seen."""
    phantom: Literal["shepp-logan", "beads"] | None = None
    """Built-in object that is seen: Shepp-Logan's, or a chain of beads drawn from --seed (box 7 or 11)."""
    map_voxel: float | None = None
    """Voxel size of the map in angstrom, where its header has none."""
    voxel: float | None = None
    """Pixel size in angstrom; chosen so that the object fills the box if not given."""

    def specimen(self, box: int, b_factor: float, seed: int) -> tuple[Specimen, tuple[str, ...]]:
        """The specimen, and what was noted in reading it.

        Raises:
            ValueError: for none or several objects, or lengths that are not positive.
        """
        if box < 4:
            raise ValueError(f"--box must be at least 4 pixels; got {box}")
        for name, value in (("--voxel", self.voxel), ("--b-factor", b_factor)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number; got {value}")
        told = [option(name) for name in ("structure", "map", "phantom") if getattr(self, name)]
        if len(told) != 1:
            raise ValueError(
                f"give exactly one of --structure, --map and --phantom; got {' and '.join(told) or 'none'}"
            )
        from unpicked.io import mrc
        from unpicked.io.structure import read_structure
        from unpicked.simulate.phantom import bead_chain, shepp_logan
        from unpicked.simulate.specimens import specimen_from_map, specimen_from_structure

        if self.structure is not None:
            atoms = read_structure(self.structure)
            return specimen_from_structure(atoms, box, self.voxel, b_factor=b_factor), atoms.notes
        if self.map is not None:
            return specimen_from_map(mrc.read_map(self.map, voxel_size=self.map_voxel), box, self.voxel), ()
        if self.phantom == "beads":
            return bead_chain(box, seed, voxel_size=self.voxel or 1.0), ()
        return specimen_from_map(shepp_logan(4 * box, (self.voxel or 1.0) / 4), box, self.voxel), ()


@Parameter(name="*")
@dataclass(frozen=True)
class Physical:
    """Micrographs as a camera counts them; the noise is then that of the electrons and of the ice."""

    physical: bool = False
    """Electrons are counted: protein in ice, radiation damage, Poisson noise; the energy per particle is a result."""
    pixel: float | None = None
    """Pixel size of the files in angstrom, at most half of --voxel; 1 if not given. --size counts these pixels."""
    dose: float | None = None
    """Electrons per square angstrom; 50 if not given."""
    ice: float | None = None
    """Thickness of the ice in nanometres; 30 if not given."""
    dqe: float | None = None
    """Detective quantum efficiency, above 0 and at most 1; 0.6 if not given."""

    def settings(self) -> dict[str, float]:
        """What is asked for; empty without --physical.

        Raises:
            ValueError: for settings without --physical, or a pixel size that is not positive.
        """
        told = given(self)
        if not told.pop("physical", False):
            if told:
                raise ValueError(f"{option(next(iter(told)))} needs --physical")
            return {}
        found = {"pixel": 1.0, **told}
        if not (math.isfinite(found["pixel"]) and found["pixel"] > 0):
            raise ValueError(f"--pixel must be positive, in angstrom; got {found['pixel']}")
        return found


@Parameter(name="*")
@dataclass(frozen=True)
class Microscope:
    """The contrast transfer, one of a defocus drawn for every image or group."""

    ctf: bool = False
    """Images are seen through a microscope."""
    defocus: tuple[float, float] | None = None
    """Least and largest defocus in angstrom, underfocus positive; 4000 12000 if not given."""
    ctf_groups: int | None = None
    """Number of different defocus settings; one per image if not given."""
    astigmatism: float | None = None
    """Difference of the two defocus values in angstrom, at random angles; 0 if not given."""
    voltage: float | None = None
    """Acceleration voltage in kV; 300 if not given."""
    cs: float | None = None
    """Spherical aberration in mm; 2.7 if not given."""
    amplitude_contrast: float | None = None
    """Fraction in [0, 1]; 0.1 if not given."""
    phase_shift: float | None = None
    """Of a phase plate, in degrees; 0 if not given."""

    def settings(self) -> dict[str, Any]:
        """What is asked for; empty without a microscope.

        Raises:
            ValueError: for settings of a microscope that is not asked for.
        """
        told = given(self)
        if not told.pop("ctf", False):
            if told:
                raise ValueError(f"{option(next(iter(told)))} needs --ctf")
            return {}
        return {"defocus": (4000.0, 12000.0), **told}


@Parameter(name="*")
@dataclass(frozen=True)
class Field:
    """Micrographs and how particles lie in them."""

    count: int = 4
    """Number of micrographs."""
    size: tuple[int, ...] = (1024,)
    """Height and width in pixels, or one number for both."""
    density: float = 0.1
    """Covered fraction: copies x box^2 / pixels."""
    spacing: Literal["separated", "arbitrary"] = "separated"
    """Least distance of copies: separated (2 box - 1 pixels) or arbitrary (box pixels)."""
    positions: Literal["pixel", "continuous"] = "pixel"
    """Whole pixels, as published, or continuous."""
    contamination: float | None = None
    """Share of the area on which carbon and ice lie, none if not given; where they do is told by masks (1: they do)."""


@Parameter(name="*")
@dataclass(frozen=True)
class Preferred:
    """From where particles are seen."""

    preferred: float | None = None
    """Particles prefer to be seen along one axis of theirs, with this concentration (von Mises-Fisher): at 4 half of
    them from within 34 degrees of it. All directions alike if not given."""
    preferred_axis: tuple[float, float, float] | None = None
    """That axis x y z, in the frame of the map; 0 0 1 if not given."""
    tilt: float | None = None
    """Particles lie alike on a grid that is tilted by so many degrees, each turned in the plane of the grid at will
    (random conical tilt)."""
    tilt_axis: float | None = None
    """Direction of the tilt axis in the image, in degrees from +y towards +x; 0 if not given."""

    def found(self) -> Preference | OnTilted:
        """The law of the directions.

        Raises:
            ValueError: for an axis alone, both laws, or a law that there is not.
        """
        from unpicked.simulate.preference import UNIFORM, OnTilted, Preference

        if self.tilt is not None:
            others = {name: value for name, value in given(self).items() if name.startswith("preferred")}
            refuse(others, "{} cannot be given with --tilt")
            try:
                return OnTilted(self.tilt, self.tilt_axis or 0.0)
            except ValueError as error:
                raise ValueError(f"--tilt: {error}") from error
        if self.tilt_axis is not None:
            raise ValueError("--tilt-axis needs --tilt")
        if self.preferred is None:
            refuse(given(self), "{} needs --preferred")
            return UNIFORM
        try:
            return Preference(self.preferred, self.preferred_axis or UNIFORM.axis)
        except ValueError as error:
            raise ValueError(f"--preferred: {error}") from error


def given(options: Any) -> dict[str, Any]:
    """The fields of some options that were given."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in values.items() if value is not None and value is not False}


def option(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def refuse(options: Iterable[str], why: str) -> None:
    """ValueError that names the first of some options, where there is one."""
    for name in options:
        raise ValueError(why.format(option(name)))
