"""Autocorrelations of micrographs in one pass, and what they surely tell: how much of them particles cover, and where.

A volume hardly follows from moments that are the same for all its rotations (``unpicked reproduce conditioning``); its
density, the noise level and the mean projection do (Bendory et al., arXiv 1810.00226).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from unpicked._lazy import torch
from unpicked.data.micrographs import Micrographs
from unpicked.data.moments import Moments, merge
from unpicked.estimators import gmm, image_fit
from unpicked.estimators.autocorrelation import Autocorrelation
from unpicked.estimators.gmm import Fit
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.patches import Patches
from unpicked.model.placements import Anywhere
from unpicked.model.views import Projection
from unpicked.objects.ball import Ball
from unpicked.ops import rotation, steerable
from unpicked.preprocess import prepare
from unpicked.priors import Flat

BLANK = 3.0  # standard errors of its density, below which a micrograph is called blank
GUESS = 0.1  # density at which fits start
LEAST_BLOCKS = 40  # below which no error is told


@dataclass(frozen=True, eq=False)
class Told:
    """What moments tell of micrographs.

    Attributes:
        density: covered fraction of all micrographs together.
        density_error: its standard error.
        sigma: of the noise, in units of the prepared micrographs, whose robust standard deviation is 1.
        sigma_error: its standard error.
        energy: mean over views of a projection's sum of squares over sigma^2.
        chi2: of the fit per degree of freedom.
        agrees: whether the fit agrees with the moments within their errors.
        x: ``(size,)`` coefficients of the fitted volume, of which little is known beyond its radial part.
        rows: of every micrograph its density, standard error and z; None where their sums were not kept.
    """

    density: float
    density_error: float
    sigma: float
    sigma_error: float
    energy: float
    chi2: float
    agrees: bool
    x: torch.Tensor
    rows: list[tuple[float, float, float]] | None

    @property
    def blank(self) -> list[int]:
        """Micrographs in which no particles are seen."""
        return [place for place, row in enumerate(self.rows or []) if row[2] < BLANK]


def moments_of(
    data: Micrographs,
    box: int,
    *,
    voxel: float | None = None,
    report: Callable[[int], None] | None = None,
) -> Moments:
    """Moments of micrographs about their means, prepared as for a reconstruction; the sums of each are kept.

    Args:
        data: as read.
        box: side of the particle's box in voxels.
        voxel: working voxel in angstrom; the pixel if not given.
        report: called with the number of micrographs that are done.

    Raises:
        ValueError: for a box that is too small or larger than the micrographs, masked micrographs, or values that are
            not finite.
    """
    ready = prepare(data, voxel_size=voxel, memory=0).micrographs
    if box < 4 or min(ready.shape) < 4 * box:
        raise ValueError(
            f"the box must have at least 4 voxels, and the micrographs at least four boxes a side; got a box of {box} "
            f"and micrographs of {ready.shape[0]} x {ready.shape[1]} voxels"
        )
    model, method, parts = _model(box, 0), _method(1), []
    for index, name in enumerate(ready.names):
        one = method.measure(ready, model, [index])
        if not bool(torch.isfinite(one.sums).all()):
            raise ValueError(f"{name} holds values that are not finite; leave it out")
        parts.append(replace(one, pieces=one.sums[None], names=(name,)))
        if report is not None:
            report(index + 1)
    whole = merge(parts)
    return replace(whole, kind=f"{whole.kind}, voxels of {ready.pixel_size:.5g} A")


def possible(box: int, lmax: int) -> None:
    """Whether a volume of this degree fits the box.

    Raises:
        ValueError: if it does not.
    """
    Ball(box, lmax)


def told_by(record: Moments, *, lmax: int = 4, starts: int = 10, seed: int = 0) -> Told:
    """Density, noise and energy from moments, by the fit of a volume of low degree; no data are read.

    What a volume has beyond the degree is left out: at energies per particle of several hundred and more the fit then
    says that it does not agree, and the density may be off by a few of its errors.

    Args:
        record: of :func:`moments_of`, or several merged.
        lmax: largest degree of the volume.
        starts: random ones of the fit.
        seed: of the starts.

    Raises:
        ValueError: for moments of anything else, or too few of them.
    """
    if not record.kind.startswith("image, steerable") or "centred" not in record.kind:
        raise ValueError(f"these are not moments of micrographs about their means: {record.kind}")
    if record.blocks < LEAST_BLOCKS:
        raise ValueError(f"moments of {record.blocks} blocks tell no error; take larger or more micrographs")
    model, method = _model(record.length, lmax), _method(starts)
    fit = method.fit(record, model, Flat(), seed)
    errors = fit.covariance.diagonal().clamp(min=0).sqrt()
    functions = steerable.discs(record.length - 1, image_fit.BAND)
    return Told(
        density=float(fit.density.sum()),
        density_error=float(errors[-2]),
        sigma=float(fit.sigma),
        sigma_error=float(errors[-1]),
        energy=_energy(model, fit),
        chi2=fit.chi2,
        agrees=fit.chi2 < 1 + 5 * math.sqrt(2 / max(1, functions.third - model.object.size)),
        x=fit.x,
        rows=None if record.pieces is None else _rows(record, record.pieces, model, method, fit),
    )


def _rows(
    record: Moments, pieces: torch.Tensor, model: Model, method: Autocorrelation, fit: Fit
) -> list[tuple[float, float, float]]:
    """Of every micrograph the density and noise that its moments, in the shape of all, say with the best weights."""
    unknowns = image_fit.unknowns_of(record, model, method)
    theta = gmm.pack(unknowns, fit.x[None], fit.density, float(fit.sigma))
    noise = steerable.steerable_noise(unknowns.functions, 1.0, 0.0)
    signal = unknowns.slope(theta)[0][0] - float(fit.sigma) ** 2 * noise
    white = image_fit.whitener(record, unknowns, method, float(fit.sigma))
    shapes = white @ torch.stack([signal, noise], 1) / math.sqrt(record.points)
    rows = []
    for sums in pieces:
        points = float(sums[0])
        means = sums[1 : 1 + len(signal)] / points
        means[0] = 0
        inverse = torch.linalg.inv(shapes.mT @ shapes)
        share = float((inverse @ (shapes.mT @ (white @ means / math.sqrt(record.points))))[0])
        error = math.sqrt(float(inverse[0, 0]) / points)
        density = float(fit.density.sum())
        rows.append((density * share, density * error, share / error))
    return rows


def _energy(model: Model, fit: Fit) -> float:
    """Of a projection, by views that are spread evenly."""
    images = model.object.project(fit.x, rotation.super_fibonacci(400))  # type: ignore[attr-defined]
    return float(images.square().sum((-2, -1)).mean() / fit.sigma**2)


def _model(box: int, lmax: int) -> Model:
    some = Projection(rotation.super_fibonacci(8))  # stands for all
    return Model(Ball(box, lmax), some, Anywhere(GUESS, Patches(), "separated"), noise=White(1.0))


def _method(starts: int) -> Autocorrelation:
    return Autocorrelation(starts=starts, form="cumulant")


def merged(records: Sequence[Moments]) -> Moments:
    """Records of several passes, as one.

    Raises:
        ValueError: for records of different kinds, or a micrograph that is in two of them.
    """
    whole = merge(records)
    twice = {name for name in whole.names if whole.names.count(name) > 1}
    if twice:
        raise ValueError(f"a micrograph must be in one file only; {sorted(twice)[0]} is in several")
    return whole
