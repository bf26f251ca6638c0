"""Steps that go farther than EM's own, from the same statistics.

EM's map is G(x) = x + M^-1 g with the gradient g of the objective and the complete-data information M (Fisher's
identity), so f = G(x) - x is a preconditioned gradient, and what accelerates a fixed-point iteration, or a gradient
method with M as preconditioner, costs no second pass over the data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

from unpicked._lazy import torch

Memory = dict[str, Any]  # of tensors; Any because torch is imported late


class Curvature(Protocol):
    """What steps may ask of an M-step."""

    def maximise(self, start: torch.Tensor) -> torch.Tensor:
        """EM's answer G(x)."""

    def solve(self, right: torch.Tensor) -> torch.Tensor:
        """M^-1 of a vector."""

    def newton(
        self, x: torch.Tensor, information: torch.Tensor, right: torch.Tensor, least: float = ...
    ) -> torch.Tensor:
        """(J + P)^-1 of a vector: J observed, at least so large a part of the complete data's, P the prior's at x."""


@dataclass(frozen=True, eq=False)
class Point:
    """One evaluation.

    Attributes:
        x: the coefficients.
        gradient: of the objective there.
        problem: the M-step.
        information: observed information of the data, where it was asked for.
    """

    x: torch.Tensor
    gradient: torch.Tensor
    problem: Curvature
    information: torch.Tensor | None = None

    @cached_property
    def image(self) -> torch.Tensor:
        """EM's answer G(x)."""
        return self.problem.maximise(self.x)

    @property
    def residual(self) -> torch.Tensor:
        """F = G(x) - x."""
        return self.image - self.x


class Acceleration(Protocol):
    """Where to evaluate next; what it remembers are tensors of fixed shapes."""

    @property
    def turning(self) -> bool:
        """Whether its steps also serve while the views turn."""

    def informed(self, step: int, memory: Memory) -> bool:
        """Whether it wants the observed information of the data in this pass."""

    def memory(self, x: torch.Tensor) -> Memory:
        """Nothing remembered yet."""

    def propose(self, memory: Memory, point: Point) -> tuple[torch.Tensor, Memory]:
        """Next coefficients and memory."""


class _FromGradients:
    """What all accelerations share that need gradients alone, on views that stay."""

    turning: ClassVar[bool] = False

    def informed(self, step: int, memory: Memory) -> bool:
        """Never."""
        return False


class Mixing(_FromGradients, ABC):
    """Steps from points and EM's answers alone: they serve any parameters, whatever M-step gave the answers."""

    def propose(self, memory: Memory, point: Point) -> tuple[torch.Tensor, Memory]:
        """Next coefficients and memory."""
        return self.mix(memory, point.x, point.image)

    @abstractmethod
    def mix(self, memory: Memory, x: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, Memory]:
        """Next parameters and memory, from the present ones and EM's answer to them."""


@dataclass(frozen=True)
class Relaxed(_FromGradients):
    """x + factor f; between 1 (plain EM) and 2 every step still ascends where the objective is quadratic."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.factor < 2:
            raise ValueError(f"factor must lie between 0 and 2; got {self.factor}")

    def memory(self, x: torch.Tensor) -> Memory:
        """Empty."""
        return {}

    def propose(self, memory: Memory, point: Point) -> tuple[torch.Tensor, Memory]:
        """X + factor f."""
        if self.factor == 1:
            return point.image, memory
        return point.x + self.factor * point.residual, memory


@dataclass(frozen=True)
class Squarem(Mixing):
    """Squared extrapolation from two EM steps, then one EM step (Varadhan & Roland 2008, scheme S3)."""

    def memory(self, x: torch.Tensor) -> Memory:
        """Position in the cycle of three, and the residual of its first step."""
        return {"phase": torch.tensor(0), "first": torch.zeros_like(x), "origin": x.clone()}

    def mix(self, memory: Memory, x: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, Memory]:
        """EM, extrapolate, EM."""
        phase = int(memory["phase"])
        if phase == 0:
            return image, {"phase": torch.tensor(1), "first": image - x, "origin": x}
        if phase == 2:
            return image, memory | {"phase": torch.tensor(0)}
        r, v = memory["first"], image - x - memory["first"]
        alpha = -(r.norm() / v.norm().clamp(min=1e-300)).clamp(1.0, 50.0)
        return memory["origin"] - 2 * alpha * r + alpha**2 * v, memory | {"phase": torch.tensor(2)}


@dataclass(frozen=True)
class Anderson(Mixing):
    """Anderson's mixing of the last steps: the combination whose residual is least, then moved by it."""

    depth: int = 6

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1; got {self.depth}")

    def memory(self, x: torch.Tensor) -> Memory:
        """The last points and residuals."""
        rows = torch.zeros(self.depth + 1, len(x), dtype=x.dtype, device=x.device)
        return {"points": rows, "residuals": rows.clone(), "held": torch.tensor(0)}

    def mix(self, memory: Memory, x: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, Memory]:
        """Least squares over differences of residuals (Walker & Ni 2011)."""
        held = min(int(memory["held"]) + 1, self.depth + 1)
        points, residuals = memory["points"].roll(1, 0), memory["residuals"].roll(1, 0)
        points[0], residuals[0] = x, image - x
        memory = {"points": points, "residuals": residuals, "held": torch.tensor(held)}
        if held == 1:
            return image, memory
        steps, changes = points[0] - points[1:held], residuals[0] - residuals[1:held]
        gram = changes @ changes.mT
        gram = gram + (1e-10 * gram.trace() + 1e-200) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        share = torch.linalg.solve(gram, changes @ residuals[0])
        return image - share @ (steps + changes), memory


@dataclass(frozen=True)
class LBFGS(_FromGradients):
    """Limited-memory quasi-Newton steps whose first guess of the curvature is EM's own, M, or the observed one.

    Attributes:
        depth: steps that are remembered.
        scored: guess J + P, J the observed information (see :class:`Fisher`), once EM has gone a few steps, and where
            there is one. The remembered steps correct what J, a sum of not very many outer products, has wrong.
    """

    depth: int = 12
    scored: bool = False

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1; got {self.depth}")

    def informed(self, step: int, memory: Memory) -> bool:
        """In every pass after EM's, where scores are wanted."""
        return self.scored and step >= _WARM

    def memory(self, x: torch.Tensor) -> Memory:
        """The last points and gradients, and the average of J."""
        rows = torch.zeros(self.depth + 1, len(x), dtype=x.dtype, device=x.device)
        past = nothing_observed(x) if self.scored else {}
        return {"points": rows, "gradients": rows.clone(), "steps": torch.tensor(0), **past}

    def propose(self, memory: Memory, point: Point) -> tuple[torch.Tensor, Memory]:
        """Two-loop recursion (Nocedal & Wright 2006, algorithm 7.4)."""
        held = min(int(memory["steps"]) + 1, self.depth + 1)
        points, gradients = memory["points"].roll(1, 0), memory["gradients"].roll(1, 0)
        points[0], gradients[0] = point.x, point.gradient
        memory = memory | {"points": points, "gradients": gradients, "steps": torch.tensor(held)}
        if self.scored:
            memory |= observed(memory, point.information, 0.5)
        informed = self.scored and bool(memory["held"])
        pairs = []
        for newer in range(held - 1):
            step, change = points[newer] - points[newer + 1], gradients[newer + 1] - gradients[newer]
            if float(step.dot(change)) > 1e-12 * float(step.norm() * change.norm()):
                pairs.append((step, change, 1 / step.dot(change)))
        if not informed and (not pairs or (self.scored and held <= _WARM)):
            return point.image, memory
        q, shares = point.gradient.clone(), []
        for step, change, rho in pairs:
            shares.append(rho * step.dot(q))
            q = q - shares[-1] * change
        z = point.problem.newton(point.x, memory["information"], q, _LEAST) if informed else point.problem.solve(q)
        for (step, change, rho), share in zip(reversed(pairs), reversed(shares), strict=True):
            z = z + (share - rho * change.dot(z)) * step
        return point.x + (_limited(z, point.x, 0.5) if informed else z), memory


_WARM = 3  # steps of EM before scored ones
_LEAST = 0.01  # part of the complete data's information in their curvature, which remembered steps correct


def nothing_observed(x: torch.Tensor) -> Memory:
    """No J about x yet."""
    return {"information": torch.zeros(len(x), len(x), dtype=x.dtype, device=x.device), "held": torch.tensor(0)}


def observed(memory: Memory, new: torch.Tensor | None, past: float) -> Memory:
    """The average of J with another, if there is one; ``past`` is the weight of what was held."""
    held = int(memory["held"])
    if new is None:
        return {"information": memory["information"], "held": memory["held"]}
    new = new.to(memory["information"])
    mean = past * memory["information"] + (1 - past) * new if held else new
    return {"information": mean, "held": torch.tensor(held + 1)}


def _limited(step: torch.Tensor, x: torch.Tensor, limit: float, length: float = 1.0) -> torch.Tensor:
    """``length`` of a step, or less, so that it is no longer than ``limit`` times x."""
    longest = limit * x.norm() / step.norm().clamp(min=1e-300)
    return step * longest.clamp(max=length)


@dataclass(frozen=True)
class Fisher:
    """Scoring: x + (J + P)^-1 g with the observed information J, the outer products of the scores of small tiles.

    EM's matrix M counts the information that complete data would hold, of which at low signal-to-noise nearly all is
    missing, so EM crawls where J is small. J follows from the same E-step (Fisher's identity, tile by tile), is
    averaged over passes, and needs no pass to spare.

    Attributes:
        warm: passes of EM before the first, over-relaxed.
        every: passes from one J to the next.
        length: of the steps, in Newton's own.
        memory_share: weight of the past in the average of J.
        limit: longest step, in lengths of x.
        relaxation: length of EM's steps, in their own.
    """

    warm: int = 4
    every: int = 6
    length: float = 0.9
    memory_share: float = 0.5
    limit: float = 0.5
    relaxation: float = 1.6
    turning: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.warm < 0 or self.every < 1:
            raise ValueError(f"warm must not be negative and every at least 1; got {self.warm} and {self.every}")
        for name in ("length", "limit"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1]; got {getattr(self, name)}")
        if not 1 <= self.relaxation < 2:
            raise ValueError(f"relaxation must be at least 1 and below 2; got {self.relaxation}")
        if not 0 <= self.memory_share < 1:
            raise ValueError(f"memory_share must lie in [0, 1); got {self.memory_share}")

    def informed(self, step: int, memory: Memory) -> bool:
        """From ``warm`` on, every so many; at once where nothing is remembered."""
        return step >= self.warm and (not int(memory["held"]) or (step - self.warm) % self.every == 0)

    def memory(self, x: torch.Tensor) -> Memory:
        """The average of J."""
        return nothing_observed(x)

    def propose(self, memory: Memory, point: Point) -> tuple[torch.Tensor, Memory]:
        """A Newton step of limited length; EM's own before the first J."""
        memory = observed(memory, point.information, self.memory_share)
        if not int(memory["held"]):
            return point.x + self.relaxation * point.residual, memory
        step = point.problem.newton(point.x, memory["information"], point.gradient)
        return point.x + _limited(step, point.x, self.limit, self.length), memory
