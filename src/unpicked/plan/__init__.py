"""Whether an experiment can work, before it is done: energy per particle, particles and micrographs that it takes.

Each part has its own status: the energy E of a particle is a model of an ideal instrument
(:mod:`unpicked.plan.physics`), the boundary of detection is a rule of thumb, what N particles tell is estimated
from the Fisher information of simulated micrographs (:mod:`unpicked.plan.information`), and time is told by a measured
constant (:mod:`unpicked.plan.cost`). What a finished run measured stands in the model's place in
:mod:`unpicked.plan.measured`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from unpicked.plan.cost import UNIT, seconds_of
from unpicked.plan.information import Range, expected, least, needed
from unpicked.plan.physics import Microscope, energy_slope, particle_energy, radius

__all__ = ["Microscope", "Outcome", "Plan", "Range", "plan"]

BOX = 11  # working voxels
FILL = 1.3  # edge of the box over the diameter
VIEWS = 4608  # that a search tells apart
REALISTIC = 0.5  # of the ideal E
HOPELESS, MARGINAL = 2.0, 5.0
GOOD = 0.1  # relative error of a good map
LAST = 5  # shell of the working grid
LIGHTEST, HEAVIEST = 0.1, 1e5  # kDa
FINEST = 1.0  # angstrom

Regime = Literal["pick", "detection-free", "marginal", "hopeless"]


@dataclass(frozen=True)
class Outcome:
    """What so many micrographs may give.

    Attributes:
        error: relative error of the map.
        resolution: FSC 0.5 with the truth, in angstrom, no finer than the working grid; infinite below its first shell.
    """

    error: Range
    resolution: Range


@dataclass(frozen=True)
class Plan:
    """What to expect of micrographs of a protein.

    Attributes:
        mass_kda: of the particle.
        microscope: how they are taken.
        resolution: wanted, in angstrom; E counts frequencies down to the working grid's.
        voxel: working voxel size in angstrom, of a box of 11.
        area: of a micrograph in square angstrom.
        energy: E of one particle, ideal instrument.
        regime: what can be done at that E.
        realistic_regime: at half of it.
        patch_boundary: E above which one particle stands out in one box.
        micrograph_boundary: E above which it stands out of a whole micrograph.
        per_micrograph: particles on each.
        particles: for ``resolution``; None where nothing can be said.
        realistic_particles: the same at half of E.
        particles_error: for a relative error of 0.1 at the working voxel.
        micrographs: given, or None.
        outcome: with them, ideally.
        realistic_outcome: with them at half of E.
        helps: changes of the experiment, with the E of each and the particles that it would take.
        seconds: of a reconstruction from ``micrographs``, or from as many as it takes; None where nothing can be said.
        realistic_seconds: the same at half of E.
    """

    mass_kda: float
    microscope: Microscope
    resolution: float
    voxel: float
    area: float
    energy: float
    regime: Regime
    realistic_regime: Regime
    patch_boundary: float
    micrograph_boundary: float
    per_micrograph: float
    particles: Range | None
    realistic_particles: Range | None
    particles_error: Range | None
    micrographs: int | None = None
    outcome: Outcome | None = None
    realistic_outcome: Outcome | None = None
    helps: tuple[tuple[str, float, Range | None], ...] = ()
    seconds: Range | None = None
    realistic_seconds: Range | None = None

    @property
    def field(self) -> float:
        """Edge of the box in angstrom."""
        return BOX * self.voxel

    def to_json(self) -> dict[str, Any]:
        """Plain values; every figure beside what it rests on."""

        def told(found: Range | None, per: float = 1.0) -> dict[str, Any] | None:
            return None if found is None else found.times(1 / per).to_json()

        each = self.per_micrograph
        out: dict[str, Any] = {
            "mass_kda": self.mass_kda,
            "microscope": vars(self.microscope),
            "diameter": 2 * radius(self.mass_kda),
            "box": BOX,
            "voxel": self.voxel,
            "energy": self.energy,
            "energy_realistic": REALISTIC * self.energy,
            "d_prime": math.sqrt(self.energy),
            "snr_box": self.energy / BOX**2,
            "boundary_patch": self.patch_boundary,
            "boundary_micrograph": self.micrograph_boundary,
            "regime": self.regime,
            "regime_realistic": self.realistic_regime,
            "resolution": self.resolution,
            "particles": told(self.particles),
            "particles_realistic": told(self.realistic_particles),
            "particles_error_0.1": told(self.particles_error),
            "per_micrograph": each,
            "micrographs_needed": told(self.particles, each),
            "micrographs_needed_realistic": told(self.realistic_particles, each),
            "seconds_expected": told(self.seconds),
            "seconds_expected_realistic": told(self.realistic_seconds),
            "helps": [
                {"change": change, "energy": value, "particles": told(found)} for change, value, found in self.helps
            ],
            "status": {
                "energy": "model of an ideal instrument; about half of it is to be expected",
                "boundaries": "rule: E = 2 ln(places x views)",
                "particles": "estimate: Fisher information of simulated micrographs, with a prior; four structures",
                "seconds_expected": f"constant: {UNIT:g} s per pixel, view and pass on one core, with verification",
            },
        }
        if self.micrographs is not None:
            out["micrographs"] = self.micrographs
            for name, found in (("outcome", self.outcome), ("outcome_realistic", self.realistic_outcome)):
                out[name] = found and {"error": told(found.error), "resolution": told(found.resolution)}
        return out


def plan(
    mass_kda: float,
    microscope: Microscope = Microscope(),
    *,
    resolution: float | None = None,
    micrographs: int | None = None,
    density: float = 0.12,
    area: float = 4096.0**2,
) -> Plan:
    """Energy, regime, and how many particles and micrographs a resolution takes.

    Args:
        mass_kda: of a globular protein.
        microscope: dose, defocus and so on.
        resolution: wanted, FSC 0.5 with the truth, in angstrom; None means what the working grid of 11 voxels can show.
        micrographs: tell what comes of so many.
        density: covered fraction of the area.
        area: of a micrograph in square angstrom.

    Raises:
        ValueError: for values that make no sense.
    """
    _check(mass_kda, resolution, micrographs, density, area)
    site = _Site(mass_kda, resolution, density, area)
    energy = grid_energy(mass_kda, microscope)
    boundary = boundary_of(area / site.voxel**2)
    helps = []
    for change, other in _changes(microscope):
        better = grid_energy(mass_kda, other)
        if better > 1.05 * energy:
            helps.append((change, better, site.takes(better, other)))
    takes = {level: site.takes(level, microscope) for level in (energy, REALISTIC * energy)}
    return Plan(
        mass_kda=mass_kda,
        microscope=microscope,
        resolution=site.wanted,
        voxel=site.voxel,
        area=area,
        energy=energy,
        regime=regime(energy, boundary),
        realistic_regime=regime(REALISTIC * energy, boundary),
        patch_boundary=boundary_of((2 * BOX - 1) ** 2),
        micrograph_boundary=boundary,
        per_micrograph=site.each,
        particles=takes[energy],
        realistic_particles=takes[REALISTIC * energy],
        particles_error=needed(energy, error=GOOD) if energy >= HOPELESS else None,
        micrographs=micrographs,
        outcome=site.comes(energy, micrographs),
        realistic_outcome=site.comes(REALISTIC * energy, micrographs),
        helps=tuple(sorted(helps, key=lambda entry: -entry[1])),
        seconds=site.lasts(energy, takes[energy], micrographs),
        realistic_seconds=site.lasts(REALISTIC * energy, takes[REALISTIC * energy], micrographs),
    )


def _check(mass_kda: float, resolution: float | None, micrographs: int | None, density: float, area: float) -> None:
    if not LIGHTEST <= mass_kda <= HEAVIEST:
        raise ValueError(f"mass_kda must lie between {LIGHTEST:g} and {HEAVIEST:g}; got {mass_kda}")
    if resolution is not None and not FINEST <= resolution < math.inf:
        raise ValueError(f"resolution must be at least {FINEST:g} A; got {resolution}")
    if not 0 < density <= 1:
        raise ValueError(f"density must lie between 0 and 1, as a covered fraction; got {density}")
    if micrographs is not None and micrographs < 1:
        raise ValueError(f"micrographs must be at least 1; got {micrographs}")
    field = BOX * voxel_of(mass_kda)
    if not field**2 <= area < math.inf:
        told = f"{area**0.5:.0f}" if area > 0 else f"{area}"
        raise ValueError(f"a micrograph must be larger than a box of {field:.0f} A; got {told} A; try --size 4096")


@dataclass(frozen=True)
class _Site:
    """The particle on its working grid, and how densely it lies on a micrograph."""

    mass_kda: float
    resolution: float | None
    density: float
    area: float

    @property
    def voxel(self) -> float:
        return voxel_of(self.mass_kda)

    @property
    def field(self) -> float:
        return BOX * self.voxel

    @property
    def finest(self) -> float:
        """Resolution of the last shell of the working grid."""
        return self.field / LAST

    @property
    def wanted(self) -> float:
        return self.finest if self.resolution is None else self.resolution

    @property
    def each(self) -> float:
        """Particles on a micrograph."""
        return self.density * self.area / self.field**2

    def takes(self, level: float, scope: Microscope) -> Range | None:
        """Particles of this energy for the wanted resolution."""
        return particles_for(level, self.field, self.wanted, self.mass_kda, scope)

    def comes(self, level: float, micrographs: int | None) -> Outcome | None:
        """What so many micrographs give."""
        return None if micrographs is None else outcome_of(level, self.field, micrographs * self.each)

    def lasts(self, level: float, particles: Range | None, micrographs: int | None) -> Range | None:
        """Seconds of a reconstruction from so many micrographs, or from as many as hold the particles."""
        one = seconds_of(self.area / min(self.voxel, self.wanted / 2) ** 2, level)
        if micrographs is not None:
            return Range(*3 * (micrographs * one,))
        return None if particles is None else particles.times(one / self.each)


def particles_for(level: float, field: float, wanted: float, mass_kda: float, scope: Microscope) -> Range | None:
    """Particles for a resolution; beyond the table's shells by the energy per coefficient that the model has there.

    Args:
        level: E of one particle.
        field: edge of its box in angstrom.
        wanted: resolution in angstrom.
        mass_kda: of the model.
        scope: of the model.
    """
    if level < HOPELESS:
        return None
    finest = field / LAST
    found = needed(level, shell=min(field / wanted, LAST))
    if wanted >= finest:
        return found
    more = found.times(_slope(mass_kda, scope, finest) / _slope(mass_kda, scope, wanted))
    return replace(more, extrapolated=True)


def outcome_of(level: float, field: float, particles: float) -> Outcome | None:
    """What so many particles in boxes of ``field`` angstrom give; None for too few, or too faint ones."""
    if level < HOPELESS or particles < least():
        return None
    error, shells = expected(level, particles)
    middle, worst, best = (field / shell if shell > 0 else math.inf for shell in shells)
    return Outcome(error, Range(middle, best, worst, middle <= field / LAST, error.extrapolated))


def voxel_of(mass_kda: float) -> float:
    """Of the working grid of 11 voxels, angstrom."""
    return FILL * 2 * radius(mass_kda) / BOX


def grid_energy(mass_kda: float, microscope: Microscope) -> float:
    """E in the frequencies that the working grid of 11 voxels holds."""
    return particle_energy(mass_kda, microscope, 2 * voxel_of(mass_kda))


def boundary_of(places: float) -> float:
    """E above which the best of so many places and 4,608 views is the right one, rather than noise: 2 ln M."""
    return 2 * math.log(places * VIEWS)


def regime(energy: float, boundary: float) -> Regime:
    """What can be done with particles of energy E."""
    if energy > boundary:
        return "pick"
    if energy >= MARGINAL:
        return "detection-free"
    return "marginal" if energy >= HOPELESS else "hopeless"


def _slope(mass_kda: float, microscope: Microscope, resolution: float) -> float:
    """Energy of one particle per coefficient of the volume at a resolution, but for a factor."""
    return energy_slope(mass_kda, microscope, resolution) * resolution**2


def _changes(microscope: Microscope) -> list[tuple[str, Microscope]]:
    changes = []
    if not microscope.phase_plate:
        changes.append(("an ideal phase plate", replace(microscope, phase_plate=True)))
        further = 2 * microscope.defocus_um
        if 0 < further < 4:
            changes.append((f"a defocus of {further:g} um", replace(microscope, defocus_um=further)))
    if microscope.dose < 80:
        changes.append(("a dose of 80 e/A^2", replace(microscope, dose=80.0)))
    if microscope.dqe < 0.9:
        changes.append(("a detector with a DQE of 0.9", replace(microscope, dqe=0.9)))
    return changes
