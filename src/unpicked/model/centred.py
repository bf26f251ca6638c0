"""Copies of the object at the centre of particle images: marginalised likelihood of a band of Fourier coefficients.

    log p(Y | R, t) = sum over the half disc of [2 Re(conj(C Y e^{2 pi i q.t / N}) S(R)) - C^2 |S(R)|^2] / s2 + const

with Y the coefficients of an image, S(R) those of a view, C the image's contrast transfer and s2 the noise's power per
coefficient. The model is circular: a shift moves the image round the box, and C multiplies the transform of the box,
so that what delocalisation carries across its border comes in on the other side.

A template is a view's coefficients, real and imaginary parts times sqrt(2), ``(k, 2, p)``: sums of squares over
it are those of the band-limited image. Whatever shifts and contrast transfers the images have, one numerator and one
weight per coefficient and view are sufficient (Scheres 2012, eq. 6), because the transfer is a multiplication there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar

from unpicked._lazy import torch
from unpicked.data.gains import Gains
from unpicked.data.micrographs import Source
from unpicked.data.optics import Optics
from unpicked.model.likelihoods import Score, Stats
from unpicked.model.noise import Noise, White
from unpicked.model.views import Projection, View
from unpicked.objects.base import Object, Projector, Sliced
from unpicked.ops import orientations
from unpicked.ops.band import Band
from unpicked.ops.orientations import Images

FLOOR = 1e-4  # of the largest shell: least noise power


@dataclass(frozen=True)
class Centred:
    """One copy per image, within ``max_shift`` of its centre.

    Attributes:
        max_shift: angstrom.
        subpixel: positions per pixel and axis.
        radius: largest frequency that is used, Fourier pixels of the box; None means all below Nyquist. The mean of an
            image is never used.
        spread: standard deviation of the shifts along an axis, angstrom; None means that all are equally likely.
        precise: slices of voxels in double precision, and an M-step that applies them one by one, exact to rounding;
            otherwise slices are float32, and the M-step's products, by one convolution for all views, good to 1e-3.
        pixel_size: angstrom; that of the data, see :meth:`measured`.
        optics: contrast transfer of the images; None means none. That of the data, see :meth:`measured`.
    """

    max_shift: float = 0.0
    subpixel: int = 1
    radius: int | None = None
    spread: float | None = None
    precise: bool = False
    pixel_size: float = field(default=1.0, repr=False)
    optics: Optics | None = field(default=None, repr=False, compare=False)
    exact: ClassVar[bool] = True
    scored: ClassVar[bool] = False
    single: ClassVar[bool] = True
    positions: ClassVar[int] = 1
    density: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_shift) and self.max_shift >= 0):
            raise ValueError(f"max_shift must not be negative, in angstrom; got {self.max_shift}")
        if self.subpixel < 1:
            raise ValueError(f"subpixel must be at least 1; got {self.subpixel}")
        if self.radius is not None and self.radius < 1:
            raise ValueError(f"radius must be at least 1 Fourier pixel, or None; got {self.radius}")
        if self.spread is not None and not self.spread > 0:
            raise ValueError(f"spread must be positive, in angstrom, or None; got {self.spread}")
        if not self.pixel_size > 0:
            raise ValueError(f"pixel_size must be positive, in angstrom; got {self.pixel_size}")

    def band(self, side: int) -> Band:
        """Coefficients of images of ``side`` pixels that are compared."""
        return _band(side, (side - 1) // 2 if self.radius is None else self.radius)

    def shifts(self, like: torch.Tensor) -> torch.Tensor:
        """``(t, 2)`` positions of the copy, pixels."""
        return orientations.shift_grid(self.max_shift / self.pixel_size, 1 / self.subpixel).to(like)

    def log_shifts(self, like: torch.Tensor) -> torch.Tensor | None:
        """``(t,)`` logarithms of their probabilities, or None where they are equal."""
        if self.spread is None:
            return None
        squares = (self.shifts(like) * self.pixel_size).square().sum(1)
        return (-squares / (2 * self.spread**2)).log_softmax(0)

    def step(
        self,
        templates: torch.Tensor,
        log_weights: torch.Tensor,
        noise: Noise,
        *,
        statistics: bool = True,
        score: Score | None = None,
    ) -> CentredStep:
        """Begin an E-step against templates ``(k, 2, p)`` of :meth:`seen`.

        Raises:
            ValueError: for templates of another shape, or a wish for scores.
        """
        if templates.dim() != 3 or templates.shape[1] != 2:
            raise ValueError(f"templates must be (k, 2, p); got {tuple(templates.shape)}")
        if score is not None:
            raise ValueError("particle images take no scores; try another acceleration")
        return CentredStep(self, templates, log_weights, noise, statistics)

    def estimates(self, stats: Stats | None, side: int, *, known: bool) -> dict[str, torch.Tensor]:
        """The density, 1: there is nothing to estimate."""
        return {"density": torch.tensor(self.density, dtype=torch.float64)}

    def present(self, estimates: Mapping[str, torch.Tensor]) -> Centred:
        """Itself."""
        return self

    def most(self, side: int, dims: int) -> float:
        """Twice the density, which is known."""
        return 2.0

    def seen(self, view: View, object: Any, like: torch.Tensor) -> Projector:
        """Coefficients ``(..., k, 2, p)`` of the views' images, real and imaginary parts times sqrt(2)."""
        band, root = self.band(view.image_shape(object)[-1]), math.sqrt(2)
        operator = self._slices(view, object, like, band)

        def project(x: torch.Tensor) -> torch.Tensor:
            found = operator.project(x)
            return root * torch.stack([found.real, found.imag], -2)

        def backproject(templates: torch.Tensor) -> torch.Tensor:
            return operator.backproject(torch.complex(templates[..., 0, :], templates[..., 1, :]) / root)

        make = operator.normal
        return Projector(project, backproject, None if make is None else lambda weights: make(weights[:, 0]))

    def _slices(self, view: View, object: Any, like: torch.Tensor, band: Band) -> Projector:
        """Complex coefficients ``(..., k, p)``; the adjoint counts them twice, as themselves and their conjugates."""
        if isinstance(view, Projection) and isinstance(object, Sliced):
            return object.slicer(view.rotations, band.points, band.radius, like=like, precise=self.precise)
        operator = view.operator(object, like)
        return Projector(
            lambda x: band.coefficients(operator.project(x)),
            lambda slices: operator.backproject(band.images(slices)),
        )

    def measured(
        self, pixel_size: float, side: int, optics: Optics | None, gains: Gains | None, masks: Source | None = None
    ) -> Centred:
        """The placement in data of this pixel size and contrast transfer; images of particles are not whitened."""
        if masks is not None:
            raise ValueError("images of particles are taken whole: they have no masks")
        return replace(self, pixel_size=pixel_size, optics=optics)

    def variance(self, noise: Noise, side: int, like: torch.Tensor) -> float | torch.Tensor:
        """Of every coefficient of a template: one value, or ``(p,)``."""
        if isinstance(noise, White):
            return noise.sigma**2
        power = torch.tensor(noise.power, dtype=like.dtype, device=like.device)
        return power[self.band(side).shells.clamp(max=len(power) - 1).to(like.device)]

    def powers(self, templates: torch.Tensor) -> torch.Tensor:
        """Sum of squares of every template."""
        return templates.square().flatten(1).sum(1)

    def noise(
        self, stats: Stats, templates: torch.Tensor, noise: Noise, *, mean: bool, sigma: bool
    ) -> dict[str, torch.Tensor]:
        """Variance, or power per shell, from the residual; the band holds nothing of the background."""
        if not sigma:
            return {}
        cross = (stats["numerator"] * templates).sum((0, 1))
        own = (stats["weight"] * templates.square()).sum((0, 1))
        rest, count = stats["square"] - 2 * cross + own, 2 * stats["windows"]
        if isinstance(noise, White):
            floor = 1e-3 * stats["square"].sum()
            return {"variance": (torch.maximum(rest.sum(), floor) / (count * len(rest))).cpu()}
        old = torch.tensor(noise.power, dtype=rest.dtype, device=rest.device)
        side = round(math.sqrt(float(stats["pixels"] / stats["windows"])))
        shells = self.band(side).shells.clamp(max=len(old) - 1).to(rest.device)
        sums, counts = torch.zeros_like(old).index_add_(0, shells, rest), torch.bincount(shells, minlength=len(old))
        new = sums / (counts * count).clamp(min=1)
        new = new.clamp(min=FLOOR * float(new.max()))
        return {"power": torch.where(counts > 0, new, old).cpu()}

    def moves(self, object: Object, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """None: images of particles say where their centres are."""
        yield from ()


class CentredStep:
    """One E-step of particle images; they are scored some thousand at a time, against all views.

    Statistics: ``numerator`` ``(k, 2, p)`` sum of posterior x C Y shifted back, ``weight`` ``(k, 1, p)`` sum of
    posterior x C^2, ``views`` ``(k,)``, ``square`` ``(p,)`` sum of |Y|^2, both parts' times 2; the scalars ``windows``
    (images), ``pixels``, ``effective`` (sum of the images' effective numbers of views and shifts) and
    ``log_likelihood``.
    """

    def __init__(
        self, placement: Centred, templates: torch.Tensor, log_weights: torch.Tensor, noise: Noise, statistics: bool
    ) -> None:
        self.placement, self.noise, self.statistics = placement, noise, statistics
        self.slices = torch.complex(templates[:, 0], templates[:, 1]) / math.sqrt(2)
        self.real = templates.detach()[:1, 0]  # dtype and device of what is compared
        self.log_prior = log_prior(placement, log_weights.to(self.real))
        self.held: list[tuple[torch.Tensor, int]] = []
        self.each: list[torch.Tensor] = []
        views, _, points = templates.shape
        zeros = self.real.new_zeros((views, 2, points), dtype=torch.float64)
        self.stats: Stats = {
            "numerator": zeros,
            "weight": zeros[:, :1].clone(),
            "views": zeros.new_zeros(views),
            "square": zeros.new_zeros(points),
        }
        names = ("windows", "pixels", "effective", "log_likelihood")
        self.stats |= {name: zeros.new_zeros(()) for name in names}

    def add(self, image: torch.Tensor, seed: int, index: int = 0) -> None:
        """Add image ``index`` of the data."""
        self.held.append((image, index))
        if len(self.held) * image.numel() >= _HELD:
            self._flush()

    def finish(self) -> Stats:
        """The sums over all images added."""
        self._flush()
        return self.stats

    def log_likelihoods(self) -> torch.Tensor:
        """Of every image added, ``(n,)`` float64; of a step without statistics."""
        self._flush()
        return torch.cat(self.each) if self.each else self.stats["square"].new_zeros(0)

    def _flush(self) -> None:
        if not self.held:
            return
        pieces, indices = zip(*self.held, strict=True)
        self.held = []
        side = pieces[0].shape[-1]
        images, band = observed(self.placement, torch.stack(pieces).to(self.real), indices)
        if len(band) != self.slices.shape[1]:
            raise ValueError(
                f"images must have the box of the model's views; got {side} pixels: {len(band)} coefficients "
                f"instead of {self.slices.shape[1]}"
            )
        power = self.placement.variance(self.noise, side, self.real)
        noise = torch.as_tensor(power, dtype=self.real.dtype, device=self.real.device).expand(len(band))
        ramps = band.ramp(self.placement.shifts(self.real))
        squares = 2 * (images.coefficients.real.square() + images.coefficients.imag.square()).double()
        empty = -(squares / (2 * noise.double())).sum(1) - (2 * math.pi * noise.double()).log().sum()
        if self.statistics:
            self._sum(images, noise, ramps, empty.sum())
        else:
            found = [
                (scores if self.log_prior is None else scores + self.log_prior).flatten(1).logsumexp(1).double()
                for _, scores in orientations.scores(images, self.slices, noise, ramps)
            ]
            equal = math.log(len(ramps) * len(self.slices)) if self.log_prior is None else 0.0
            self.each.append(torch.cat(found) - equal + empty)
            self.stats["log_likelihood"] = self.stats["log_likelihood"] + self.each[-1].sum()
        self.stats["square"] += squares.sum(0)
        self.stats["windows"] += len(pieces)
        self.stats["pixels"] += len(pieces) * side**2
        if not bool(torch.isfinite(self.stats["log_likelihood"])):
            raise FloatingPointError(
                "the log-likelihood is not finite: the data or the present estimate hold NaN or infinity"
            )

    def _sum(self, images: Images, noise: torch.Tensor, ramps: torch.Tensor, empty: torch.Tensor) -> None:
        sums = orientations.posterior_sums(images, self.slices, noise, ramps, log_prior=self.log_prior)
        numerator = torch.stack([sums.numerator.real, sums.numerator.imag], 1)
        self.stats["numerator"] += math.sqrt(2) * numerator.double()
        self.stats["weight"] += sums.weight[:, None].double()
        self.stats["views"] += sums.views
        self.stats["effective"] += sums.effective
        self.stats["log_likelihood"] += sums.log_likelihood + empty


_HELD = 1 << 22  # pixels of the images that are scored together


def observed(placement: Centred, images: torch.Tensor, indices: tuple[int, ...]) -> tuple[Images, Band]:
    """What the likelihood takes of some images ``(n, L, L)`` of the data, and the band of it."""
    band = placement.band(images.shape[-1])
    found = band.coefficients(images)
    if placement.optics is None:
        return Images(found), band
    sx, sy = band.frequencies(placement.pixel_size)
    return Images(found, placement.optics.values(sx, sy, indices).to(images)), band


def log_prior(placement: Centred, log_weights: torch.Tensor) -> torch.Tensor | None:
    """``(t, k)`` of shifts and views, or None where all are equally likely."""
    shifts = placement.log_shifts(log_weights)
    even = bool((log_weights - log_weights[0]).abs().max() < 1e-12 * len(log_weights))
    if shifts is None and even:
        return None
    if shifts is None:
        count = len(placement.shifts(log_weights))
        shifts = log_weights.new_full((count,), -math.log(count))
    return shifts[:, None] + log_weights


@lru_cache(maxsize=16)
def _band(side: int, radius: int) -> Band:
    return Band(side, radius)
