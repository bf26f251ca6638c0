"""Autocorrelations of micrographs in one pass, and what they surely tell: how much of them particles cover, and where.

A volume hardly follows from moments that are the same for all its rotations (``unpicked reproduce conditioning``); its
density, the noise level and the mean projection do (Bendory et al., arXiv 1810.00226).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from unpicked import processes
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
SEEN = 5.0  # likewise of what the fit gains over noise, below which no particles are seen at all
SAME = 1e-3  # r.m.s. difference of the moments of two micrographs, beside their size, below which they are one
LARGEST = 14  # voxels of a box; the moments of larger ones are thousands
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
        z: of particles at all: the gain in chi^2 over noise alone, less what so many unknowns gain of noise, in its
            standard deviations.
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
    z: float
    x: torch.Tensor
    rows: list[tuple[float, float, float]] | None

    @property
    def seen(self) -> bool:
        """Whether there are particles."""
        return self.z >= SEEN

    @property
    def blank(self) -> list[int]:
        """Micrographs in which no particles are seen: all, where none are seen in all of them together."""
        return [place for place, row in enumerate(self.rows or []) if row[2] < BLANK or not self.seen]


def moments_of(
    data: Micrographs,
    box: int,
    *,
    voxel: float | None = None,
    report: Callable[[int], None] | None = None,
) -> tuple[Moments, list[str]]:
    """Moments of micrographs about their means, prepared as for a reconstruction; the sums of each are kept.

    The sign of the micrographs changes nothing of what is told of them. Several processes share them out, and all
    return the same.

    Args:
        data: as read.
        box: side of the particle's box in voxels.
        voxel: working voxel in angstrom; the pixel if not given.
        report: called with the number of micrographs that are done.

    Returns:
        The record, and sentences on micrographs that were left out: constant ones, or of values that are not finite.

    Raises:
        ValueError: for a box that is too small or too large, masked micrographs, or where none can be used.
    """
    possible(box, 0)
    ready = prepare(data, voxel_size=voxel, keep=False).micrographs
    if min(ready.shape) < 4 * box:
        raise ValueError(
            f"micrographs must have at least four boxes a side; got a box of {box} and micrographs of "
            f"{ready.shape[0]} x {ready.shape[1]} voxels"
        )
    rank, count = processes.place()
    parts = processes.gathered(processes.together(lambda: _summed(ready, box, range(rank, len(ready), count), report)))
    rows = {index: row for part in parts for index, row in part[1].items()}
    told = [sentence for _, sentence in sorted(item for part in parts for item in part[2].items())]
    if not rows:
        raise ValueError(f"no micrograph can be used; {told[0]}")
    whole = merge([part[0] for part in parts if part[0] is not None])
    order = sorted(rows)
    return replace(
        whole,
        kind=f"{whole.kind}, voxels of {ready.pixel_size:.5g} A",
        pieces=torch.stack([rows[index] for index in order]),
        names=tuple(ready.names[index] for index in order),
    ), told


def _summed(
    data: Micrographs, box: int, indices: Sequence[int], report: Callable[[int], None] | None
) -> tuple[Moments | None, dict[int, torch.Tensor], dict[int, str]]:
    """Sums of some prepared micrographs, those of each by number, and why others are left out."""
    model, method = _model(box, 0), _method(1)
    whole: Moments | None = None
    rows, left_out = dict[int, torch.Tensor](), dict[int, str]()
    for number, index in enumerate(indices, 1):
        name = data.names[index]
        try:
            one = method.measure(data, model, [index])
            if not bool(torch.isfinite(one.sums).all()):
                raise ValueError("values that are not finite")
        except ValueError as error:
            if data.masks is not None:
                raise
            left_out[index] = f"left out: {error}" if name in str(error) else f"left out: {name}: {error}"
            continue
        whole = one if whole is None else merge([whole, one])
        rows[index] = one.sums
        if report is not None:
            report(number * len(data) // len(indices))
    return whole, rows, left_out


def possible(box: int, lmax: int) -> None:
    """Whether moments of this box can be summed, and a volume of this degree be fitted to them.

    Raises:
        ValueError: if not.
    """
    if not 4 <= box <= LARGEST:
        raise ValueError(
            f"--box must be 4 to {LARGEST} working voxels; got {box}; a coarser --voxel makes a particle's box smaller"
        )
    Ball(box, lmax)


def known(record: Moments) -> None:
    """Whether a record is of micrographs, about their means.

    Raises:
        ValueError: if it is not.
    """
    if not record.kind.startswith("image, steerable") or "centred" not in record.kind:
        raise ValueError(f"these are not moments of micrographs about their means: {record.kind}")


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
    known(record)
    if record.blocks < LEAST_BLOCKS:
        raise ValueError(f"moments of {record.blocks} blocks tell no error; take larger or more micrographs")
    possible(record.length, lmax)
    model, method = _model(record.length, lmax), _method(starts)
    fit = method.fit(record, model, Flat(), seed)
    errors = fit.covariance.diagonal().clamp(min=0).sqrt()
    functions = steerable.discs(record.length - 1, image_fit.BAND)
    shapes, white = _shapes(record, model, method, fit)
    gain = _gain(record, shapes, white)
    return Told(
        density=float(fit.density.sum()),
        density_error=float(errors[-2]),
        sigma=float(fit.sigma),
        sigma_error=float(errors[-1]),
        energy=_energy(model, fit),
        chi2=fit.chi2,
        agrees=fit.chi2 < 1 + 5 * math.sqrt(2 / max(1, functions.third - model.object.size)),
        z=(gain - model.object.size) / math.sqrt(2 * model.object.size),
        x=fit.x,
        rows=None if record.pieces is None else _rows(record.pieces, shapes, white, fit, gain, model.object.size),
    )


def _shapes(record: Moments, model: Model, method: Autocorrelation, fit: Fit) -> tuple[torch.Tensor, torch.Tensor]:
    """Whitened moments of the fitted particles and of noise, ``(rank, 2)``, for one base point, and the whitening."""
    unknowns = image_fit.unknowns_of(record, model, method)
    theta = gmm.pack(unknowns, fit.x[None], fit.density, float(fit.sigma))
    noise = steerable.steerable_noise(unknowns.functions, 1.0, 0.0)
    signal = unknowns.slope(theta)[0][0] - float(fit.sigma) ** 2 * noise
    white = image_fit.whitener(record, unknowns, method, float(fit.sigma)) / math.sqrt(record.points)
    return white @ torch.stack([signal, noise], 1), white


def _scored(sums: torch.Tensor, shapes: torch.Tensor, white: torch.Tensor) -> tuple[float, float]:
    """Share of the fitted density that some sums say, beside noise of any level, and its standard error."""
    points = float(sums[0])
    means = sums[1 : 1 + white.shape[1]] / points
    means = torch.cat([torch.zeros_like(means[:1]), means[1:]])
    inverse = torch.linalg.inv(shapes.mT @ shapes)
    return float((inverse @ (shapes.mT @ (white @ means)))[0]), math.sqrt(float(inverse[0, 0]) / points)


def _gain(record: Moments, shapes: torch.Tensor, white: torch.Tensor) -> float:
    """By how much chi^2 falls from noise alone to the fit."""
    share, error = _scored(record.sums, shapes, white)
    return (share / error) ** 2


def _rows(
    pieces: torch.Tensor, shapes: torch.Tensor, white: torch.Tensor, fit: Fit, gain: float, unknowns: int
) -> list[tuple[float, float, float]]:
    """Of every micrograph the density that its moments, in the shape of all, say with the best weights.

    A micrograph is a part of what the shape was fitted to: of its own noise so much is taken off as it gains by that.
    """
    rows, density = [], float(fit.density.sum())
    own = unknowns / math.sqrt(len(pieces) * max(gain, 1.0))
    for sums in pieces:
        share, error = _scored(sums, shapes, white)
        rows.append((density * (share - own * error), density * error, share / error - own))
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
        ValueError: for records of different kinds, some without their micrographs apart, or the same micrograph twice.
    """
    whole = merge(records)
    if whole.pieces is None:
        raise ValueError("records must hold the sums of every micrograph apart, by which the same ones are known")
    rows = whole.pieces[:, 1:] / whole.pieces[:, :1]
    rows = rows / rows.square().mean(0).sqrt().clamp(min=1e-300)
    for place, row in enumerate(rows[1:], 1):  # sums of another machine are rounded otherwise
        near = (rows[:place] - row).square().mean(1).min(0)
        if float(near.values) < SAME**2:
            raise ValueError(
                f"a micrograph must be counted once; {whole.names[int(near.indices)]} and {whole.names[place]} "
                "have the same moments"
            )
    return whole
