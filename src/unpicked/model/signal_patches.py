"""Windows of a signal, taken as independent, each with all copies and parts of copies that it may hold.

Inside a window the sum over configurations is exact (a renewal process: at a free site a copy starts with chance p
and forbids the next W - 1 sites; else the site stays empty), and a window may begin anywhere in the process, which is
stationary: copies per site rho = p / (1 + p (W - 1)). A window no longer than the target holds one copy or part of one,
where copies are well separated: the patches of Bendory's talk (2022). Overlapping windows of three targets keep nearly
all the information of the whole signal.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from unpicked._lazy import torch
from unpicked.model.likelihoods import Scene, Stats, empty
from unpicked.model.noise import variance_of

if TYPE_CHECKING:
    from unpicked.model.patches import Patches

_RANGE = 600.0  # of logarithms whose exponentials are numbers
_HELD = 1 << 17  # numbers of the table of scores that are held at once


class SignalStep:
    """The E-step of windows of a signal against templates ``(k, L)``; everything in float64 on the CPU."""

    def __init__(self, likelihood: Patches, scene: Scene, statistics: bool) -> None:
        self.scene, self.statistics, self.length = scene, statistics, scene.length
        self.side, self.stride = likelihood.window(self.length)
        self.rate = scene.density / self.length
        most = self.length / scene.width
        if not scene.density < most:
            raise ValueError(
                f"density must be below {most:.3f} where targets of {self.length} samples keep {scene.width} samples "
                f"apart; got {scene.density}; try a lower density or spacing='arbitrary'"
            )
        self.start = self.rate / (1 - self.rate * (scene.width - 1))
        self.variance = variance_of(scene.noise)
        self.templates = scene.templates.detach().double().cpu().contiguous()
        self.log_weights = scene.log_weights.detach().double().cpu().contiguous()
        self.stats: Stats = empty(self.templates)
        self.ratios: list[torch.Tensor] = []  # per window: log-evidence against noise alone

    def add(self, image: torch.Tensor, seed: int, index: int = 0) -> None:
        """Add the windows that begin in one block of a signal and end in it."""
        signal = image.detach().double().cpu() - self.scene.noise.mean
        if signal.dim() != 1:
            raise ValueError(f"a block of a signal must be (samples,); got {tuple(signal.shape)}")
        count = (len(signal) - self.side) // self.stride + 1
        step = max(1, (_HELD // self.templates.numel() - self.side) // self.stride)
        for first in range(0, count, step):
            last = min(first + step, count)
            self._add(signal[first * self.stride : (last - 1) * self.stride + self.side].contiguous(), last - first)

    def finish(self) -> Stats:
        """The statistics; a sample is seen by side / stride windows, by which all sums are divided."""
        share = self.stride / self.side
        return self.stats if share >= 1 else {name: value * share for name, value in self.stats.items()}

    def _add(self, signal: torch.Tensor, count: int) -> None:
        from unpicked.ops import _segments as compiled  # imported late: compiled

        samples = signal.numpy()
        table = compiled.prefixes(samples, self.templates.numpy(), self.variance)
        totals = torch.empty(count, dtype=torch.float64)
        seen: Any = torch.zeros(table.shape if self.statistics else (0, 0, 0), dtype=torch.float64).numpy()
        most = (self.scene.width + self.side - 2) // self.scene.width + 1  # copies in a window
        highest = float(table.max() - min(table.min(), 0.0))  # of any part of a copy, at most
        sums = compiled.plain_windows if most * highest < _RANGE else compiled.windows
        copies, left = sums(
            table,
            self.log_weights.numpy(),
            self.start,
            self.rate,
            self.scene.width,
            self.side,
            self.stride,
            totals.numpy(),
            seen,
        )
        self._scalars(signal, totals, copies, left)
        if not self.statistics:
            self.ratios.append(totals)
            return
        numerator, weight = torch.zeros_like(self.templates), torch.zeros_like(self.templates)
        compiled.gather(samples, seen, numerator.numpy(), weight.numpy())
        self.stats["numerator"] += numerator
        self.stats["weight"] += weight
        self.stats["views"] += weight.mean(-1)

    def _scalars(self, signal: torch.Tensor, totals: torch.Tensor, copies: float, left: float) -> None:
        stats, pixels = self.stats, len(totals) * self.side
        square, total = (self._over_windows(power, len(totals)) for power in (signal.square(), signal))
        stats["square"] += square
        stats["sum"] += total
        stats["pixels"] += pixels
        stats["windows"] += len(totals)
        stats["occupied"] += copies
        stats["free"] += left
        constant = pixels / 2 * math.log(2 * math.pi * self.variance)
        stats["log_likelihood"] += totals.sum() - square / (2 * self.variance) - constant
        if not bool(torch.isfinite(stats["log_likelihood"])):
            raise FloatingPointError(
                "the log-likelihood is not finite: the data or the present estimate hold NaN or infinity"
            )

    def _over_windows(self, values: torch.Tensor, count: int) -> torch.Tensor:
        """Sum over all windows of what is in them."""
        running = torch.nn.functional.pad(values.cumsum(0), (1, 0))
        first = torch.arange(count) * self.stride
        return (running[first + self.side] - running[first]).sum()


def signal_density(stats: Stats, length: int, width: int) -> torch.Tensor:
    """Covered fraction that maximises the expected log-probability of the copies in all windows.

    With A copies, F sites left empty and M windows it is A log p + F log(1 - p) - M log(1 + p (W - 1)): the root of a
    quadratic equation in p.
    """
    copies, left, windows = (float(stats[name]) for name in ("occupied", "free", "windows"))
    w = width - 1
    square, linear = w * (windows - copies - left), copies * (w - 1) - left - windows * w
    root = math.sqrt(max(linear**2 - 4 * square * copies, 0.0))
    chance = min(max(2 * copies / (root - linear), 1e-9), 0.99)  # the root in (0, 1), in the form that keeps its digits
    return torch.tensor(length * chance / (1 + chance * w), dtype=torch.float64)
