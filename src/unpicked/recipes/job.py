"""How to reconstruct from micrographs: the settings, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from unpicked.priors import (
    group,
)

LEAST_TILT, MOST_TILT = 5.0, 85.0  # degrees: below, one side is seen; at 90 both hands look alike
LARGEST_OF_MOMENTS = 20  # voxels of a box whose moments at all lags are summed
ERRORS = (0.02, 2.0)  # that can be asked for of given structures
Noise = Literal["auto", "white", "coloured"]


def coloured(noise: Noise, *, optics: bool) -> bool:
    """Whether micrographs are whitened; ``optics``: they state their contrast transfer."""
    return noise == "coloured" or (noise == "auto" and optics)


@dataclass(frozen=True)
class MicrographJob:
    """How to reconstruct a volume from micrographs; the flags of ``unpicked reconstruct micrographs``.

    The views are refined in stages: few of them for the random starts, more for the best one.
    """

    box: int
    """Edge of the particle's box in working voxels: about 1.2 diameters of the particle."""
    voxel: float | None = None
    """Working voxel size in angstrom; the pixel size of the data if not given."""
    object: Literal["ball", "voxels"] = "ball"
    """How the volume is described: spherical-Bessel expansion, or voxels."""
    lmax: int = 10
    """Largest angular degree of the ball; lowered to what the box can hold."""
    march: tuple[int, ...] = ()
    """Largest degree in each stage, rising to --lmax: coarse structure first. All stages take --lmax if not given."""
    method: Literal["em", "autocorrelation"] = "em"
    """Estimator: expectation-maximization, or, of a tilted grid, a fit to the micrographs' autocorrelations: one pass
    over the data."""
    likelihood: Literal["gas", "window", "patches", "patches-2l"] = "gas"
    """How the sum over all places is done: lattice gas of the whole micrograph, the same to first order, or
    independent patches of the box's side (as published) or of twice that."""
    spacing: Literal["separated", "arbitrary"] = "separated"
    """Least distance of two particles: 2 box - 1 pixels, or box pixels."""
    subpixel: Literal[1, 2] = 1
    """Positions per pixel and axis."""
    starts: int = 4
    """Random starts."""
    refined: int = 1
    """So many of them, the likeliest, go through all stages, and those that end equally likely are averaged."""
    views: tuple[int, ...] = ()
    """Number of views in each stage. If not given, 100 in the first and four times as many in each that follows; in
    the last 16 times as many where single particles stand out of the noise, and so tell their views exactly. Of a
    tilted grid 36 angles, and twice as many in each stage that follows."""
    view_distribution: Literal["uniform", "estimated"] = "uniform"
    """From where particles are seen: from all sides alike, or by a smooth density of directions that is estimated with
    the map."""
    tilt: float | None = None
    """The particles lie alike on a grid that is tilted by so many degrees, each turned in the plane of the grid at will
    (random conical tilt). The sign tells the hand. If not given, they lie anyhow."""
    tilt_axis: float = 0.0
    """Direction of the tilt axis in the image, in degrees from +y towards +x."""
    iterations: tuple[int, ...] = (12, 8, 12)
    """Passes over the data in each stage, at most."""
    batch: float = 1.0
    """Part of the micrographs that one update of the first stage takes, where others follow; below 1, up to four such
    updates stand for a pass of --iterations."""
    solver: Literal["auto", "fisher", "em", "squarem", "anderson", "lbfgs"] = "auto"
    """Steps, all from EM's statistics: scoring by the observed information (fisher), or EM until the last stage's
    frozen views and there one of the others. auto: fisher where single particles hardly stand out of the noise,
    anderson elsewhere."""
    prior: Literal["wilson", "shells", "ridge", "none"] = "wilson"
    """Belief about the volume: a compact molecule of random density (Wilson statistics), whose size, smoothness and
    strength are learned from the data between stages; a spectrum of compact molecules; one variance for all
    coefficients; or none."""
    ignore_ctf: bool = False
    """Leave the contrast transfer that the files state out of the model."""
    noise: Noise = "auto"
    """Spectrum of the noise: flat, or measured in every micrograph, which is then whitened. auto: measured where the
    files state contrast transfer, as those of real micrographs do."""
    signed: bool = False
    """Density may have either sign; if not given, it is believed to be hardly negative where particles hardly stand out
    of the noise."""
    support: float | None = None
    """Believe also that there is no density beyond this radius, in working voxels."""
    symmetry: str = "C1"
    """Believe also in a point group, Cn or Dn, about the z axis."""
    denoiser: str = ""
    """Believe also what a denoiser leaves of a map: a function of yours, FILE.py:FUNCTION or package.module:FUNCTION,
    that takes a map (z, y, x), a torch tensor of grey values in which the molecule is about 1 high, and gives as many
    values, as a tensor or an array. The file is executed."""
    denoiser_noise: float = 0.1
    """Standard deviation of the noise that the denoiser is made for, in the same grey values: the smaller, the stronger
    the belief."""
    structures: tuple[str, ...] = ()
    """Believe instead of --prior that the molecule is another conformation of these structures: at least two files
    (PDB, mmCIF, or MRC maps), which are laid on one another. The run starts from their mean."""
    structures_error: float = 0.3
    """What these structures do not know of the molecule: size of the difference that is left, in parts of it."""
    sigma: float | None = None
    """Standard deviation of the noise in the grey values of the data; estimated if not given."""
    density: float | None = None
    """Fraction of the micrographs' area that boxes of particles cover; estimated if not given."""
    moves: int = 1
    """Rounds of recentre moves tried on the answer of the first stage."""
    held_out: int = 0
    """So many micrographs are kept apart to choose between starts and to stop before over-fitting."""
    halves: bool = False
    """Solve two halves of the data as well, from starts of their own, and compare them."""

    def __post_init__(self) -> None:
        if self.box < 4:
            raise ValueError(f"--box must be at least 4 voxels; got {self.box}")
        if self.voxel is not None and not (math.isfinite(self.voxel) and self.voxel > 0):
            raise ValueError(f"--voxel must be positive, in angstrom; got {self.voxel}")
        if not self.iterations or (self.views and len(self.views) != self.stages):
            raise ValueError(
                f"--views and --iterations must have one number per stage; got {len(self.views)} and {self.stages}"
            )
        if min((*self.views, *self.iterations)) < 1:
            raise ValueError(f"--views and --iterations must be positive; got {self.views} and {self.iterations}")
        if not 0 < self.batch <= 1:
            raise ValueError(f"--batch must be a part of the micrographs, above 0 and at most 1; got {self.batch}")
        if self.moves < 0:
            raise ValueError(f"--moves must not be negative; got {self.moves}")
        if self.starts < 1:
            raise ValueError(f"--starts must be at least 1; got {self.starts}")
        if not 1 <= self.refined <= self.starts:
            raise ValueError(f"--refined must lie between 1 and --starts, {self.starts}; got {self.refined}")
        if self.tilt is None and self.tilt_axis:
            raise ValueError("--tilt-axis needs --tilt")
        if not (LEAST_TILT <= abs(LEAST_TILT if self.tilt is None else self.tilt) <= MOST_TILT):
            raise ValueError(
                f"--tilt must be {LEAST_TILT:g} to {MOST_TILT:g} degrees to either side; got {self.tilt}: a flat grid "
                "shows its particles from one side only, one on edge both hands alike"
            )
        if not math.isfinite(self.tilt_axis):
            raise ValueError(f"--tilt-axis must be an angle in degrees; got {self.tilt_axis}")
        if self.tilt is not None and self.view_distribution == "estimated":
            raise ValueError("--view-distribution estimated is for particles that lie anyhow; leave it or --tilt out")
        if self.method == "autocorrelation":
            self._check_moments()
        if self.lmax < 0:
            raise ValueError(f"--lmax must not be negative; got {self.lmax}")
        if self.sigma is not None and not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(f"--sigma must be positive; got {self.sigma}")
        if self.march and (len(self.march) != self.stages or min(self.march) < 0):
            raise ValueError(f"--march must have one degree per stage, {self.stages}; got {self.march}")
        if self.held_out < 0:
            raise ValueError(f"--held-out must not be negative; got {self.held_out}")
        if self.support is not None and not self.support > 0:
            raise ValueError(f"--support must be positive, in working voxels; got {self.support}")
        if not (math.isfinite(self.denoiser_noise) and self.denoiser_noise > 0):
            raise ValueError(f"--denoiser-noise must be positive; got {self.denoiser_noise}")
        self._check_structures()
        try:
            group(self.symmetry)
        except ValueError as error:
            raise ValueError(f"--symmetry: {error}") from error
        apart = 2 * self.box - 1 if self.spacing == "separated" else self.box
        patch = {"patches": 2 * self.box - 1, "patches-2l": 3 * self.box - 1}.get(self.likelihood, 0)
        limit = (self.box / max(apart, patch)) ** 2  # where particles would touch, or no patch would be empty
        if self.density is not None and not 0 < self.density < limit:
            raise ValueError(
                f"--density must lie between 0 and {limit:.3f} for {self.spacing} particles in a box of {self.box} "
                f"(likelihood {self.likelihood}); got {self.density}"
            )

    def _check_structures(self) -> None:
        """Raise for what --structures do not go with."""
        least, most = ERRORS
        if not least <= self.structures_error <= most:
            raise ValueError(f"--structures-error must be {least:g} to {most:g}; got {self.structures_error}")
        if not self.structures:
            if self.structures_error != type(self).__dataclass_fields__["structures_error"].default:
                raise ValueError("--structures-error needs --structures")
            return
        if self.prior != "wilson":
            raise ValueError(f"--structures take the place of --prior; got {self.prior}; leave one of them out")
        for name, given in (("--tilt", self.tilt is not None), ("--symmetry", self.symmetry.upper() != "C1")):
            if given:
                raise ValueError(f"{name} fixes a frame, and so do --structures; leave one of them out")

    def _check_moments(self) -> None:
        """Raise for what moments do not know."""
        if self.tilt is None:
            raise ValueError(
                "--method autocorrelation needs --tilt: moments of views from all sides hardly tell a volume; try "
                "--method em, or `unpicked moments` for density and noise"
            )
        if self.spacing != "separated" or self.noise == "coloured":
            raise ValueError(
                "--method autocorrelation is for separated particles in white noise; leave --spacing and --noise out"
            )
        if self.object != "ball" or self.box > LARGEST_OF_MOMENTS:
            raise ValueError(
                f"--method autocorrelation is for a ball in a box of at most {LARGEST_OF_MOMENTS} working voxels: its "
                f"moments grow as the fourth power; got {self.object} and {self.box}; try a larger --voxel"
            )
        others = (
            "march", "likelihood", "subpixel", "refined", "views", "iterations", "batch", "solver", "moves", "held_out"
        )  # fmt: skip
        for name in others:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ValueError(f"--{name.replace('_', '-')} is not for --method autocorrelation; leave it out")

    def coloured(self, *, optics: bool) -> bool:
        """Whether micrographs are whitened; ``optics``: they state their contrast transfer."""
        return coloured(self.noise, optics=optics)

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.iterations)
