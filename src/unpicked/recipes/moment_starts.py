"""What autocorrelations give EM to begin with: a volume of low degree, the covered fraction and the noise level.

One pass over the data sums moments up to the third order, and a ball of low degree is fitted to them under the Wilson
prior. They leave much of a volume open, and EM may go from the fit to a wrong optimum as from anywhere: it joins the
random starts, and the likeliest is kept (``benchmarks/start_autocorrelation.py``). The mirror image of a volume
explains particles seen from all sides equally well: it is no other start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unpicked._lazy import torch
from unpicked.data.gains import Gains
from unpicked.data.micrographs import Micrographs
from unpicked.estimators.autocorrelation import Autocorrelation
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.patches import Patches
from unpicked.model.placements import Anywhere
from unpicked.model.views import Projection
from unpicked.objects.base import Volume
from unpicked.ops import fourier, rotation
from unpicked.priors import wilson
from unpicked.recipes import parts
from unpicked.recipes.job import MicrographJob
from unpicked.recipes.known import Known, once
from unpicked.recipes.moments import GUESS, LARGEST
from unpicked.reconstruct import Reconstruction, Report, Result, reconstruct

DEGREE = 2  # of the fitted ball: what moments tell of higher ones is hardly more than the prior does
FITS = 5  # random starts of the fit
SURE = 0.5  # relative error up to which the covered fraction is believed
QUIETEST = 0.01  # noise level, of that of the data, below which data without noise are fitted
BOXES = 4  # a micrograph is so many boxes wide at least


@dataclass(frozen=True, eq=False)
class Begun:
    """What EM begins with.

    Attributes:
        run: the pass over the data and the fit.
        x: ``(1, size)`` coefficients of the object of a job, or None where the fit failed.
        density: covered fraction, None where the moments do not tell it.
        sigma: noise level in units of the data that were summed.
        notes: sentences on what was found.
    """

    run: Reconstruction
    x: torch.Tensor | None
    density: float | None
    sigma: float
    notes: tuple[str, ...]


def check(job: MicrographJob, data: Micrographs) -> None:
    """Refuse what moments do not know.

    Args:
        job: what is to start from them.
        data: prepared micrographs.

    Raises:
        ValueError: for another estimator, a tilted grid, contrast transfer, masks, crowded particles, uneven views, or
            a box that is too large, or too large for the micrographs.
    """
    try_this = "try --start random"
    if job.method == "autocorrelation":
        raise ValueError("--start autocorrelation is for another method; got --method autocorrelation; leave it out")
    if job.tilt is not None:
        raise ValueError(
            f"--start autocorrelation is for particles that lie anyhow; got --tilt {job.tilt:g}; {try_this}, or "
            "--method autocorrelation"
        )
    if data.optics is not None:
        raise ValueError(f"--start autocorrelation knows no contrast transfer; try --ignore-ctf, or {try_this[4:]}")
    if data.masks is not None:
        raise ValueError(f"--start autocorrelation knows no masks; {try_this}, or leave the masked micrographs out")
    if job.spacing != "separated":
        raise ValueError(f"--start autocorrelation needs --spacing separated; got {job.spacing}; {try_this}")
    if job.view_distribution != "uniform":
        raise ValueError(
            f"--start autocorrelation needs --view-distribution uniform; got {job.view_distribution}; {try_this}"
        )
    if job.box > LARGEST:
        raise ValueError(
            f"--start autocorrelation needs a --box of at most {LARGEST} working voxels; got {job.box}; try a coarser "
            "--voxel, or --start random"
        )
    if min(data.shape) < BOXES * job.box:
        raise ValueError(
            f"--start autocorrelation needs micrographs of at least {BOXES} boxes a side, {BOXES * job.box} pixels; "
            f"got {data.shape[0]} x {data.shape[1]}; {try_this}"
        )


def moment_starts(
    data: Micrographs,
    job: MicrographJob,
    object: Volume,
    known: Known,
    *,
    seed: int,
    place: Path | None = None,
    resume: bool = False,
    report: Report | None = None,
) -> Begun:
    """One pass over micrographs, a fit, and what EM begins with.

    Args:
        data: prepared micrographs; where they were whitened, the gains are taken off the fit again.
        job: its noise level and density are kept where it has them.
        object: of the coefficients.
        known: power of a projection in these data, as far as their variance tells.
        seed: of the fit.
        place: folder for the state.
        resume: go on from that folder.
        report: called after the pass and after the fit.

    Raises:
        ValueError: for a checkpoint of another run, or one that cannot be read.
    """
    ball, _ = parts.volume(replace(job, object="ball", lmax=min(DEGREE, job.lmax)))
    some = Projection(rotation.super_fibonacci(8))  # stands for all
    placement = Anywhere(job.density or GUESS, Patches(), "separated")
    model = Model(ball, some, placement, noise=White(job.sigma or 1.0))
    belief = wilson(ball, known.power)
    run = reconstruct(
        replace(data, gains=None),
        model,
        Autocorrelation(
            starts=FITS,
            form="cumulant",
            estimate_sigma=job.sigma is None,
            estimate_density=job.density is None,
            steps=100,
            tolerance=1e-5,  # EM needs no last digits of its starts
        ),
        prior=replace(belief, variance=float(f"{belief.variance:.9g}")),  # sums differ in the last digit
        seed=seed,
        moves=0,
        checkpoint=place,
        resume=resume,
        report=report,
    )
    density, error = float(run.state["density"].sum()), _density_error(run)
    most = Anywhere(GUESS, parts.LIKELIHOODS[job.likelihood](job.box), job.spacing).most(job.box, 2)
    told = density < most and error <= SURE * density
    failed = run.result is Result.NOT_FINITE
    notes = (_sentence(run, density, error, told=told, failed=failed),)
    if failed:
        return Begun(run, None, None, model.noise.sigma, notes)
    path = None if place is None else place / "starts.json"
    x = once(path, resume, lambda: _fitted(run, object, data.gains), torch.Tensor.tolist, _rows)
    sigma = float(run.state["sigma"])
    sigma = sigma if sigma > QUIETEST * model.noise.sigma else model.noise.sigma
    return Begun(run, x, density if told else None, sigma, notes)


def _fitted(run: Reconstruction, object: Volume, gains: Gains | None) -> torch.Tensor:
    """The fit as coefficients of an object, ``(1, size)``."""
    maps = run.model.object.values(run.x[None])
    return torch.stack([object.fit(one) for one in (maps if gains is None else _unwhitened(maps, gains))])


def _unwhitened(maps: torch.Tensor, gains: Gains) -> torch.Tensor:
    """Maps ``(s, d, d, d)`` without the mean of the factors by which micrographs were multiplied."""
    side = 2 * maps.shape[-1]
    length = fourier.radius((side,) * 3) / side
    mean = torch.stack([gains.at(item, length, torch.zeros_like(length)) for item in range(len(gains))]).mean(0)
    dims = (-3, -2, -1)
    found = torch.fft.ifftn(torch.fft.fftn(maps, s=(side,) * 3, dim=dims) / mean, dim=dims).real
    return found[..., : side // 2, : side // 2, : side // 2]


def _density_error(run: Reconstruction) -> float:
    """Predicted standard error of the covered fraction, 0 where it was given."""
    return math.sqrt(max(float(run.state["covariance"][-2, -2]), 0.0))


def _sentence(run: Reconstruction, density: float, error: float, *, told: bool, failed: bool) -> str:
    """What the moments told."""
    if failed:
        return "the fit to the moments failed: random starts were taken"
    covered = f"density {density:.3g} +- {error:.2g}" if told else "a density that they hardly tell"
    degree, chi2 = run.model.object.lmax, float(run.state["chi2"])  # type: ignore[attr-defined]
    return (
        f"started from moments: the fit of a ball of degree {degree} beside the random starts; {covered}, sigma "
        f"{float(run.state['sigma']):.4g} of the prepared data, chi2 {chi2:.2f} per degree of freedom"
    )


def _rows(read: Any) -> torch.Tensor:
    """Coefficients as they were kept, so that a run that goes on has the very same."""
    rows = torch.tensor(read, dtype=torch.float64)
    if rows.dim() != 2 or not bool(torch.isfinite(rows).all()):
        raise ValueError("not rows of finite numbers")
    return rows
