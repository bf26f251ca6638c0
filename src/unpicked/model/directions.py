"""From where particles are seen: a smooth density over directions of view, which every grid of views can read.

Micrographs have no preferred direction in their plane, so the angle in it is uniform and the density lives on the
sphere of directions d, the third rows of the rotations, in the frame of the object. Its logarithm is a sum of few
spherical harmonics, log f(d) = sum_{l >= 1} a_lm B_lm(d) - log Z, B orthonormal under the mean over the sphere: it is
positive, and one preferred direction (von Mises-Fisher, degree 1) or axis (Bingham, degree 2) is one of them.

Smooth densities are believed: in every degree l a multivariate t law of nu degrees of freedom on
(l (l + 1) / 2) a_lm / scale, which is a Gaussian on the Laplacian of log f whose variance is unknown. A degree of which
the data tell nothing so is smoothed away, one that is clear is hardly held back, and says nothing of the others: twenty
views from one side tell of that side. One law for all degrees together would smooth such a side away, for the sake of
the degrees that it does not have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.ops import solve, special

LMAX = 6  # degree of the log-density
FREEDOM, SCALE = 1.0, 0.5  # nu, and the scale, of the t laws
_NODES, _AXES = 48, 16  # circles of latitude of the quadratures over directions of view, and those of Fourier space
_CIRCLE = 72  # nodes of a great circle
_STEPS = 60  # of Newton's method at most
_LEAST, _LENGTH, _LONGEST = 0.05, 0.9, 1.0  # of scoring: information, step in Newton's own, r.m.s. step of log f
_LARGEST = 1e6  # concentration that is told


@dataclass(frozen=True, eq=False)
class Directions:
    """A density of directions of view.

    Attributes:
        coefficients: ``((lmax + 1)^2 - 1,)`` float64 a_lm of its logarithm, degrees 1 .. lmax; zeros mean uniform.

    Raises:
        ValueError: for coefficients that are not finite, or of a number that no degree has.
    """

    coefficients: torch.Tensor

    def __post_init__(self) -> None:
        a = self.coefficients
        if a.dim() != 1 or (math.isqrt(len(a) + 1)) ** 2 != len(a) + 1 or len(a) < 3:
            raise ValueError(f"coefficients must be ((lmax + 1)^2 - 1,) for an lmax >= 1; got {tuple(a.shape)}")
        if not bool(torch.isfinite(a).all()):
            raise ValueError("coefficients must be finite; got NaN or infinity")

    @staticmethod
    def uniform(lmax: int = LMAX) -> Directions:
        """All directions alike."""
        if lmax < 1:
            raise ValueError(f"lmax must be at least 1; got {lmax}")
        return Directions(torch.zeros((lmax + 1) ** 2 - 1, dtype=torch.float64))

    @staticmethod
    def around(axis: Float[torch.Tensor, " 3"], concentration: float, lmax: int = LMAX) -> Directions:
        """Von Mises-Fisher's density: proportional to exp(concentration axis . d)."""
        a = Directions.uniform(lmax).coefficients
        y_z_x = axis.double()[[1, 2, 0]] / axis.double().norm()
        a[:3] = concentration / math.sqrt(3) * y_z_x
        return Directions(a)

    @property
    def lmax(self) -> int:
        """Degree of the logarithm."""
        return math.isqrt(len(self.coefficients) + 1) - 1

    def log_weights(self, directions: Float[torch.Tensor, "k 3"]) -> Float[torch.Tensor, " k"]:
        """Logarithms of the probabilities of views of these directions, no others being possible; float64."""
        return torch.log_softmax(basis(self.lmax, directions) @ self._on(directions), 0)

    def density(self, directions: Float[torch.Tensor, "*b 3"]) -> Float[torch.Tensor, "*b"]:
        """The density over that of uniform views: its mean over the sphere is 1; float64."""
        return (basis(self.lmax, directions) @ self._on(directions) - self._log_mean.to(directions.device)).exp()

    @cached_property
    def energy(self) -> float:
        """-log of the t laws, up to a constant."""
        return float(_energy(self.coefficients, _stiffness(self.lmax).to(self.coefficients)))

    @cached_property
    def share(self) -> float:
        """exp(entropy) over that of uniform views: the share of the sphere from which particles are seen, about."""
        nodes, areas = _sphere(_NODES)
        density = self.density(nodes)
        return float((-(areas * density * density.clamp(min=1e-300).log()).sum()).exp())

    @cached_property
    def mean(self) -> Float[torch.Tensor, " 3"]:
        """The mean direction, of length 0 to 1."""
        nodes, areas = _sphere(_NODES)
        return (areas * self.density(nodes)) @ nodes

    @cached_property
    def axis(self) -> Float[torch.Tensor, " 3"]:
        """The line nearest to which particles are seen, pointing to the side from which more are."""
        line = self._moments[1][:, -1]
        return line * (1.0 if float(line @ self.mean) >= 0 else -1.0)

    @property
    def concentration(self) -> float:
        """That of the von Mises-Fisher density with the same mean square of axis . d, whichever its side.

        Views from opposite sides are mirror images, which noise hardly tells apart: it is the better known part.
        """
        wanted = float(self._moments[0][-1])
        low, high = 0.0, 1.0
        while _square(high) < wanted and high < _LARGEST:
            high *= 2
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if _square(middle) < wanted else (low, middle)
        return (low + high) / 2

    @cached_property
    def sampling(self) -> tuple[float, float, float]:
        """How often directions of Fourier space are seen, over uniform views: harmonic mean, least, greatest.

        A view fills the plane across it, so a direction is seen by the views of the circle across it. The harmonic mean
        is the sampling compensation factor (Baldwin & Lyumkis 2020): of the information that uniform views would give,
        what is left where directions are averaged over.
        """
        nodes, areas = _sphere(_AXES)
        half = nodes[:, 2] > 0  # opposite directions are seen alike
        seen = self._circles(nodes[half])
        return float(1 / ((2 * areas[half]) / seen.clamp(min=1e-300)).sum()), float(seen.min()), float(seen.max())

    def to_json(self) -> dict[str, Any]:
        """Plain values: what was found, and the coefficients that say it all."""
        sampling = self.sampling
        return {
            "share": self.share,
            "concentration": self.concentration,
            "axis": self.axis.tolist(),
            "mean": self.mean.tolist(),
            "sampling": sampling[0],
            "sampling_least": sampling[1],
            "sampling_greatest": sampling[2],
            "coefficients": self.coefficients.tolist(),
        }

    def turned(self, rotation: Float[torch.Tensor, "3 3"]) -> Directions:
        """That of the object turned by ``rotation``: its point p, and the direction d, move to Q p and Q d.

        The mirror image at the origin has the same projections from the same directions, turned by 180 degrees in
        their plane: its density is that of the object.
        """
        out, first = [], 0
        for degree, matrix in enumerate(special.wigner_d(self.lmax, rotation.double().cpu())):
            if degree:
                out.append(matrix @ self.coefficients.double().cpu()[first : first + 2 * degree + 1])
                first += 2 * degree + 1
        return Directions(torch.cat(out))

    def fitted(self, directions: Float[torch.Tensor, "k 3"], counts: Float[torch.Tensor, " k"]) -> Directions:
        """The likeliest density, smoothness believed, given the expected copies ``counts`` seen along ``directions``.

        Damped Newton steps from this density: the objective, EM's with the t laws, never falls.
        """
        functions, counts = basis(self.lmax, directions), counts.to(directions.device, torch.float64)
        stiffness = _stiffness(self.lmax).to(functions)
        total, seen = counts.sum(), counts @ functions

        def objective(a: torch.Tensor) -> torch.Tensor:
            return seen @ a - total * torch.logsumexp(functions @ a, 0) - _energy(a, stiffness)

        a = self._on(directions)
        value = objective(a)
        for _ in range(_STEPS):
            weights = torch.softmax(functions @ a, 0)
            mean = weights @ functions
            pull = _pull(a, stiffness) * stiffness
            centred = functions - mean
            curvature = total * (centred.mT * weights) @ centred + torch.diag(pull)
            step = torch.linalg.solve(curvature, seen - total * mean - pull * a)
            length = 1.0
            while not (new := objective(a + length * step)) >= value and length > 1e-6:
                length /= 2
            if not new > value:
                break
            gained, a, value = float(new - value), a + length * step, new
            if gained <= 1e-9 * max(1.0, float(total)):
                break
        return Directions(a.cpu())

    def scores(self, directions: Float[torch.Tensor, "k 3"]) -> Float[torch.Tensor, "k m"]:
        """Gradients of :meth:`log_weights` by the coefficients."""
        functions = basis(self.lmax, directions)
        return functions - torch.softmax(functions @ self._on(directions), 0) @ functions

    def stepped(
        self,
        directions: Float[torch.Tensor, "k 3"],
        counts: Float[torch.Tensor, " k"],
        information: Float[torch.Tensor, "m m"],
    ) -> Directions:
        """A step of scoring from this density, from expected copies that it has led to.

        Where noise hides the directions nearly all information is missing, opposite directions are told apart by least,
        and the density that explains the expected copies best, EM's, is hardly another one.

        Args:
            directions: of the views.
            counts: expected copies seen along them.
            information: outer products of the scores of small parts of the data, summed; it is held between a part of
                what known directions would tell, and all of it.
        """
        scores, a, total = self.scores(directions), self._on(directions), counts.sum().to(directions.device)
        stiffness = _stiffness(self.lmax).to(scores)
        whole = (scores.mT * (total * self.log_weights(directions).exp())) @ scores
        whole = whole + 1e-6 * total * torch.eye(len(a)).to(whole)
        told = solve.between(information.to(scores), whole, _LEAST) + torch.diag(_pull(a, stiffness) * stiffness)
        step = torch.linalg.solve(told, self.gradient(directions, counts))
        return Directions((a + step * (_LONGEST / step.norm().clamp(min=1e-300)).clamp(max=_LENGTH)).cpu())

    def gradient(
        self, directions: Float[torch.Tensor, "k 3"], counts: Float[torch.Tensor, " k"]
    ) -> Float[torch.Tensor, " m"]:
        """Of the log-posterior, by the coefficients, where this density has led to these expected copies."""
        scores, a = self.scores(directions), self._on(directions)
        stiffness = _stiffness(self.lmax).to(scores)
        return counts.to(scores) @ scores - _pull(a, stiffness) * stiffness * a

    @cached_property
    def _moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Eigenvalues, ascending, and eigenvectors of the mean of d d^T."""
        nodes, areas = _sphere(_NODES)
        found = torch.linalg.eigh((nodes.mT * (areas * self.density(nodes))) @ nodes)
        return found.eigenvalues, found.eigenvectors

    def _on(self, like: torch.Tensor) -> torch.Tensor:
        return self.coefficients.to(like.device, torch.float64)

    @cached_property
    def _log_mean(self) -> torch.Tensor:
        """Logarithm of the mean of exp(a . B) over the sphere."""
        nodes, areas = _sphere(_NODES)
        return torch.logsumexp(basis(self.lmax, nodes) @ self.coefficients.double().cpu() + areas.log(), 0)

    def _circles(self, axes: torch.Tensor) -> torch.Tensor:
        """``(n,)`` mean of the density over the great circles across ``axes``, ``(n, 3)``."""
        helper = torch.eye(3, dtype=torch.float64)[axes.abs().argmin(1)]
        first = torch.linalg.cross(axes, helper)
        first = first / first.norm(dim=1, keepdim=True)
        second = torch.linalg.cross(axes, first)
        angle = torch.arange(_CIRCLE, dtype=torch.float64) * (2 * math.pi / _CIRCLE)
        circle = angle.cos()[:, None] * first[:, None] + angle.sin()[:, None] * second[:, None]
        return self.density(circle).mean(1)


def basis(lmax: int, directions: Float[torch.Tensor, "*b 3"]) -> Float[torch.Tensor, "*b n"]:
    """Real spherical harmonics of degrees 1 .. lmax of mean square 1, float64; order as in ``ops.special``."""
    return math.sqrt(4 * math.pi) * special.spherical_harmonics(lmax, directions.double())[..., 1:]


def _square(concentration: float) -> float:
    """Mean of (axis . d)^2 of the von Mises-Fisher density."""
    if concentration < 1e-3:
        return 1 / 3 + 2 * concentration**2 / 45
    return 1 - 2 / concentration * (1 / math.tanh(concentration) - 1 / concentration)


def _stiffness(lmax: int) -> torch.Tensor:
    """Squared Laplacian of every harmonic over that of degree 1."""
    degrees = torch.cat([torch.full((2 * degree + 1,), float(degree)) for degree in range(1, lmax + 1)]).double()
    return (degrees * (degrees + 1) / 2).square()


def _energy(a: torch.Tensor, stiffness: torch.Tensor) -> torch.Tensor:
    sizes, squares = _by_degree(a, stiffness)
    return 0.5 * ((FREEDOM + sizes) * torch.log1p(squares / (FREEDOM * SCALE**2))).sum()


def _pull(a: torch.Tensor, stiffness: torch.Tensor) -> torch.Tensor:
    """The precision of the Gaussians that touch the t laws at a, and lie below them elsewhere."""
    sizes, squares = _by_degree(a, stiffness)
    return ((FREEDOM + sizes) / (FREEDOM * SCALE**2 + squares)).repeat_interleave(sizes.long())


def _by_degree(a: torch.Tensor, stiffness: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Number of coefficients, and sum of ``stiffness * a^2``, of every degree."""
    sizes = torch.arange(1, math.isqrt(len(a) + 1), device=a.device) * 2 + 1
    squares = torch.stack([part.sum() for part in (stiffness * a.square()).split(sizes.tolist())])
    return sizes.to(a), squares


@special.constants(2)
def _sphere(circles: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes ``(n, 3)`` and areas ``(n,)``, of sum 1, of a quadrature over the sphere (Gauss-Legendre in z)."""
    import numpy as np

    heights, widths = np.polynomial.legendre.leggauss(circles)
    z = torch.from_numpy(heights)[:, None].expand(circles, 2 * circles)
    angle = torch.arange(2 * circles, dtype=torch.float64) * (math.pi / circles)
    flat = (1 - z.square()).sqrt()
    nodes = torch.stack([flat * angle.cos(), flat * angle.sin(), z], -1).reshape(-1, 3)
    areas = (torch.from_numpy(widths) / 4 / circles)[:, None].expand(circles, 2 * circles)
    return nodes, areas.reshape(-1).contiguous()
