"""What a likelihood of ``Anywhere`` is: how the sum over all configurations of copies is done, or approximated.

Every hypothesis is one window of the micrograph compared with one template; likelihoods differ only in how the
hypotheses compete. Patches cut the micrograph into windows taken as independent; the lattice gas takes the
micrograph whole; the window is the gas to first order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from unpicked._lazy import torch
from unpicked.data.gains import Gains
from unpicked.data.micrographs import Source
from unpicked.data.optics import Optics
from unpicked.model.noise import Noise, variance_of
from unpicked.model.transfer import Transfer

Stats = dict[str, Any]  # of tensors; Any because torch is imported late
Score = Callable[[Any, Any, int], Any]  # of tensors and the number of a filter, see Scene


@dataclass(frozen=True, eq=False)
class Scene:
    """What a micrograph is compared with.

    Attributes:
        templates: ``(k, L, L)``, one per view, in the dtype in which scores are computed; of signals ``(k, L)``.
        log_weights: ``(k,)`` logarithms of the views' probabilities.
        noise: present estimate; its mean is subtracted from the image.
        density: covered fraction, copies x L^2 / pixels; of signals copies x L / samples.
        activity: odds of a copy at a free site in the lattice gas.
        width: least distance of two copies in pixels.
        shifts: ``(s, s)`` log-probabilities of the offsets within a window, or None where they are equal.
        score: makes of weighted windows ``(n, k, L, L)`` and weights, ``(n, k, L, L)`` or where all pixels are seen
            alike ``(n, k)``, of n parts of a micrograph their scores ``(n, size)``, the gradients of their
            log-likelihoods; their outer products are then summed as ``information`` ``(size, size)``. None: no
            information. Its third argument is the number of the micrograph's filter, 0 without filters.
        through: filters of the micrographs, or None; templates are without them.
        margin: pixels on every side of the templates that hold but their tails.
        masks: which pixels of every piece of the data count, or None where all do.
    """

    templates: torch.Tensor
    log_weights: torch.Tensor
    noise: Noise
    density: float
    activity: float
    width: int
    shifts: torch.Tensor | None = None
    score: Score | None = None
    through: Transfer | None = None
    margin: int = 0
    masks: Source | None = None

    @property
    def length(self) -> int:
        """Side L of the templates."""
        return int(self.templates.shape[-1])


class Step(Protocol):
    """One E-step: images are added one by one."""

    stats: Stats

    def add(self, image: torch.Tensor, seed: int, index: int = 0) -> None:
        """Add piece ``index`` of the data; ``seed`` feeds whatever is drawn at random."""

    def finish(self) -> Stats:
        """The sums over all images added."""


@runtime_checkable
class Separate(Protocol):
    """A step that knows the log-likelihoods of all pieces that were added to it."""

    def log_likelihoods(self) -> torch.Tensor:
        """``(n,)`` float64, in the order of adding; of a step without statistics."""


class Likelihood(Protocol):
    """How hypotheses compete; a frozen dataclass that holds the settings."""

    @property
    def exact(self) -> bool:
        """Whether ``log_likelihood`` is that of a model (else it is zero, and another likelihood must judge)."""

    def step(self, scene: Scene, *, statistics: bool = True) -> Step:
        """Begin an E-step; without ``statistics`` only the log-likelihood is summed."""

    @property
    def scored(self) -> bool:
        """Whether it can take a score of every part of a micrograph (``Scene.score``)."""

    def density(self, stats: Stats, length: int, width: int) -> torch.Tensor:
        """Covered fraction that maximises the expected log-likelihood, for templates of side ``length``.

        ``width`` is the least distance of two copies.
        """


def empty(templates: torch.Tensor) -> Stats:
    """The statistics of no data: float64 zeros.

    ``numerator`` and ``weight`` ``(k, L, L)``, of signals ``(k, L)``: posterior-weighted windows, and how often each
    template pixel was seen; ``views`` ``(k,)`` expected copies per view; and the scalars ``occupied`` (expected copies,
    or windows that are not empty), ``windows`` (sites, or windows), ``free`` (expected sites where one more copy could
    start, or those that were left empty), ``square`` and ``sum`` of y - mean, ``pixels`` and ``log_likelihood``.
    """
    zeros = torch.zeros_like(templates, dtype=torch.float64)
    stats = {"numerator": zeros, "weight": zeros.clone(), "views": zeros.flatten(1)[:, 0].clone()}
    names = ("occupied", "windows", "free", "square", "sum", "pixels", "log_likelihood")
    return stats | {name: zeros.new_zeros(()) for name in names}


class Plain:
    """What placements have in common that know no optics and only white noise: lengths are pixels, or samples."""

    def measured(
        self, pixel_size: float, side: int, optics: Optics | None, gains: Gains | None, masks: Source | None = None
    ) -> Self:
        """Itself: neither contrast transfer nor whitening is modelled."""
        if masks is not None:
            raise ValueError(f"masks are for images that are looked through; got {self!r}")
        return self

    def variance(self, noise: Noise, side: int, like: torch.Tensor) -> float:
        """That of white noise."""
        return variance_of(noise)

    def powers(self, templates: torch.Tensor) -> torch.Tensor:
        """Sum of squares of every template."""
        return templates.square().flatten(1).sum(1)

    def noise(
        self, stats: Stats, templates: torch.Tensor, noise: Noise, *, mean: bool, sigma: bool
    ) -> dict[str, torch.Tensor]:
        """Background and variance from the residual of the templates."""
        return white_noise(stats, templates, noise, mean=mean, sigma=sigma)


def white_noise(
    stats: Stats, templates: torch.Tensor, noise: Noise, *, mean: bool, sigma: bool
) -> dict[str, torch.Tensor]:
    """Background and variance of white noise, as asked for, from the residual of templates in their pixels."""
    pixels, new = stats["pixels"], {}
    shift = torch.zeros_like(pixels)
    if mean:
        shift = (stats["sum"] - (stats["weight"] * templates).sum()) / pixels
        new["mean"] = noise.mean + shift.cpu()
    if sigma:
        cross = (stats["numerator"] * templates).sum() - shift * (stats["weight"] * templates).sum()
        own = (stats["weight"] * templates.square()).sum()
        square = stats["square"] - 2 * shift * stats["sum"] + pixels * shift**2
        new["variance"] = torch.maximum((square - 2 * cross + own) / pixels, 1e-3 * square / pixels).cpu()
    return new
