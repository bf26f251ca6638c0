"""The same questions after a run: what its particles measured, and how many of them a resolution would take.

Energy, density and time are those of the run; only what N particles tell comes from the table of
:mod:`unpicked.plan.information`, and beyond the table's shells from the model's fall of the signal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unpicked.ops.scattering import VOLUME_PER_KDA
from unpicked.plan import FILL, Outcome, Range, Regime, boundary_of, outcome_of, particles_for, regime
from unpicked.plan.physics import Microscope

REACHED = (  # where a run tells its resolution, the best first: place, key, in words
    (("compare",), "resolution_05", "FSC 0.5 with the truth"),
    (("verify", "evidence"), "resolution", "FSC 0.143 between the verification's folds"),
    (("halves",), "resolution_0143", "FSC 0.143 between half maps"),
)
# beyond the table all frequencies are taken as passed alike: a run does not know the transfer of its micrographs
PASSED = Microscope(phase_plate=True)


@dataclass(frozen=True)
class Measured:
    """What a finished run on micrographs found.

    Attributes:
        energy: E of one particle.
        density: covered fraction of the area.
        particles: on all micrographs.
        sigma: noise per working pixel in the grey values of the data.
        box: edge in voxels.
        voxel: in angstrom.
        size: height and width of a micrograph in working pixels.
        micrographs: of the run.
        seconds: that it took, with its verification if it had one.
        verdict: supported, not supported, undecided or not verified.
        reached: resolution in angstrom, or None.
        reached_by: what tells it.
    """

    energy: float
    density: float
    particles: float
    sigma: float
    box: int
    voxel: float
    size: tuple[int, int]
    micrographs: int
    seconds: float
    verdict: str
    reached: float | None = None
    reached_by: str = ""

    @property
    def field(self) -> float:
        """Edge of the box in angstrom."""
        return self.box * self.voxel

    @property
    def nyquist(self) -> float:
        """Resolution of the run's voxels, angstrom."""
        return 2 * self.voxel

    @property
    def per_micrograph(self) -> float:
        """Particles on each."""
        return self.particles / self.micrographs

    @property
    def target(self) -> float:
        """Resolution that the run did not reach: that of its voxels, or where it did, one shell more."""
        if self.reached is None or self.reached > 1.01 * self.nyquist:
            return self.nyquist
        return self.field / (self.field / self.nyquist + 1)


@dataclass(frozen=True)
class Forecast:
    """What more of the same micrographs would give.

    Attributes:
        measured: by the run.
        resolution: wanted, in angstrom.
        regime: what can be done at the measured E.
        patch_boundary: E above which one particle stands out in one box.
        micrograph_boundary: E above which it stands out of a whole micrograph.
        particles: for ``resolution``; None where nothing can be said.
        own: what so many particles as the run's give.
        micrographs: asked about, or None.
        outcome: what they give.
        seconds: of such a run from ``micrographs``, or from as many as it takes.
    """

    measured: Measured
    resolution: float
    regime: Regime
    patch_boundary: float
    micrograph_boundary: float
    particles: Range | None
    own: Outcome | None
    micrographs: int | None = None
    outcome: Outcome | None = None
    seconds: Range | None = None

    @property
    def finer(self) -> bool:
        """Whether the wanted resolution needs smaller voxels than the run's."""
        return self.resolution < 0.999 * self.measured.nyquist

    def to_json(self) -> dict[str, Any]:
        """Plain values, named as those of a plan."""

        def told(found: Range | None, per: float = 1.0) -> dict[str, Any] | None:
            return None if found is None else found.times(1 / per).to_json()

        def ends(found: Outcome | None) -> dict[str, Any] | None:
            return None if found is None else {"error": told(found.error), "resolution": told(found.resolution)}

        run = self.measured
        out = {
            "box": run.box,
            "voxel": run.voxel,
            "energy": run.energy,
            "d_prime": math.sqrt(run.energy),
            "snr_box": run.energy / run.box**2,
            "sigma": run.sigma,
            "density": run.density,
            "boundary_patch": self.patch_boundary,
            "boundary_micrograph": self.micrograph_boundary,
            "regime": self.regime,
            "resolution": self.resolution,
            "particles": told(self.particles),
            "per_micrograph": run.per_micrograph,
            "micrographs_needed": told(self.particles, run.per_micrograph),
            "seconds_expected": told(self.seconds),
            "run": {
                "micrographs": run.micrographs,
                "size": list(run.size),
                "particles": run.particles,
                "seconds": run.seconds,
                "verdict": run.verdict,
                "resolution": run.reached,
                "resolution_by": run.reached_by,
                "outcome": ends(self.own),
            },
            "status": {
                "energy": "measured: of the run's map, over its noise",
                "boundaries": "rule: E = 2 ln(places x views)",
                "particles": "estimate: Fisher information of simulated micrographs, with a prior; four structures",
                "seconds_expected": "measured: the run's own, in proportion to pixels, at its views",
            },
        }
        if self.micrographs is not None:
            out |= {"micrographs": self.micrographs, "outcome": ends(self.outcome)}
        return out


def measured(summary: Mapping[str, Any]) -> Measured:
    """What the ``result.json`` of a run tells.

    Raises:
        ValueError: for a run on something else, one that found no particles, or a file that lacks a figure.
    """
    held = [summary.get(name) or {} for name in ("data", "figures", "settings")]
    data, figures, settings = (part if isinstance(part, Mapping) else {} for part in held)
    kind = data.get("kind", "micrographs")
    if kind != "micrographs":
        raise ValueError(f"it must be a run on micrographs; got one on {kind}")
    try:
        height, width = (int(edge) for edge in data["size"])
        found = {name: float(figures[name]) for name in ("energy", "density", "particles", "sigma")}
        found |= {"voxel": float(data["voxel_size"]), "seconds": float(summary["seconds"])}
        box, micrographs = int(settings["box"]), int(data["files"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its result.json lacks a figure ({type(error).__name__}: {error})") from None
    if not all(math.isfinite(value) for value in found.values()):
        bad = ", ".join(f"{name} {value}" for name, value in found.items() if not math.isfinite(value))
        raise ValueError(f"its result.json lacks a figure ({bad})")
    if min(found["energy"], found["particles"]) <= 0:
        raise ValueError(f"it found no particles (E = {found['energy']:g}, {found['particles']:g} particles)")
    if min(height, width, found["voxel"], box, micrographs) <= 0:
        raise ValueError("its result.json has sizes that are not positive")
    reached, by = _reached(figures)
    verdict = str(summary.get("verdict", "not verified"))
    return Measured(
        **found,
        box=box,
        micrographs=micrographs,
        size=(height, width),
        verdict=verdict,
        reached=reached,
        reached_by=by,
    )


def forecast(run: Measured, *, resolution: float | None = None, micrographs: int | None = None) -> Forecast:
    """What more micrographs of the same kind would give.

    Args:
        run: what was measured.
        resolution: wanted, FSC 0.5 with the truth, in angstrom; None means what the run did not reach.
        micrographs: tell what comes of so many.

    Raises:
        ValueError: for values that make no sense.
    """
    if resolution is not None and not 1.0 <= resolution < math.inf:
        raise ValueError(f"resolution must be at least 1 A; got {resolution}")
    if micrographs is not None and micrographs < 1:
        raise ValueError(f"micrographs must be at least 1; got {micrographs}")
    wanted = run.target if resolution is None else resolution
    places = run.size[0] * run.size[1]
    boundary = boundary_of(places)
    particles = particles_for(run.energy, run.field, wanted, _mass(run.field), PASSED)
    more = None if micrographs is None else outcome_of(run.energy, run.field, micrographs * run.per_micrograph)
    # cost goes with pixels x views: at the run's views and, where these must be finer, its field in smaller pixels
    one = run.seconds / run.micrographs * max(1.0, run.nyquist / wanted) ** 2
    if micrographs is not None:
        seconds: Range | None = Range(*3 * (micrographs * one,))
    else:
        seconds = None if particles is None else particles.times(one / run.per_micrograph)
    return Forecast(
        measured=run,
        resolution=wanted,
        regime=regime(run.energy, boundary),
        patch_boundary=boundary_of((2 * run.box - 1) ** 2),
        micrograph_boundary=boundary,
        particles=particles,
        own=outcome_of(run.energy, run.field, run.particles),
        micrographs=micrographs,
        outcome=more,
        seconds=seconds,
    )


def _reached(figures: Mapping[str, Any]) -> tuple[float | None, str]:
    """Resolution that a run shows, and by what."""
    for places, key, words in REACHED:
        held: Any = figures
        for place in places:
            held = held.get(place) if isinstance(held, Mapping) else None
        if not isinstance(held, Mapping) or held.get("shared_start") is True:
            continue
        value = held.get(key)
        if isinstance(value, int | float) and 0 < value < math.inf:
            return float(value), words
    return None, ""


def _mass(field: float) -> float:
    """Of the globular protein that fits a box, kDa."""
    return 4 / 3 * math.pi * (field / (2 * FILL)) ** 3 / VOLUME_PER_KDA
