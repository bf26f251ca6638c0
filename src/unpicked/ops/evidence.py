"""A bank of templates against every window of a micrograph: log of summed exponential scores, and weighted windows.

Everything is a matrix product of templates with windows in blocks that stay in the cache of a CPU, followed by one
pass over the block; no score is ever stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from jaxtyping import Float, Int

from unpicked._lazy import torch
from unpicked.ops.correlate import exp_

_T = TypeVar("_T")


class Bank:
    """Templates with a bias each; the score of window u and template r is u . t_r + b_r.

    Attributes:
        templates: ``(k, side^2)``.
        bias: ``(k,)``.
        side: edge of a window in pixels.
        more: what windows hold beside their pixels, ``(n, m)`` of corners numbered row by row; templates then hold
            ``side^2 + m`` numbers, and windows are scored at given corners only. None: nothing.
    """

    def __init__(
        self,
        templates: Float[torch.Tensor, "k n"],
        bias: Float[torch.Tensor, " k"],
        side: int,
        more: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.templates, self.bias, self.side, self.more = templates.contiguous(), bias.contiguous(), side, more
        # of few templates, what is cut out for them is the larger block; four times as much of it still fits
        self.rows = min(block_length(len(templates), templates), 4 * block_length(side**2, templates))

    def everywhere(self, image: Float[torch.Tensor, "h w"]) -> Float[torch.Tensor, "y x"]:
        """Log of sum_r exp(score) at every corner of a whole window, ``(h - side + 1, w - side + 1)``."""
        windows = image.unfold(0, self.side, 1).unfold(1, self.side, 1).permute(2, 3, 0, 1)
        height, width = windows.shape[2:]
        lines = max(1, self.rows // width)

        # one work space and one answer: many small pieces of memory between large ones would leave holes
        followed = needs_gradient(image, self.templates, self.bias)

        def some(first: int, last: int) -> torch.Tensor:
            memory, pieces = torch.empty_like(self.templates[:0, 0]), []
            held = image.new_empty(self.side**2 * lines * width)
            out = image.new_empty((last - first) * width)
            for top in range(first, last, lines):
                strip, done = windows[:, :, top : min(top + lines, last)], (top - first) * width
                if followed:
                    block = strip.reshape(self.side**2, -1)
                else:
                    block = held[: strip.numel()].view(strip.shape).copy_(strip).view(self.side**2, -1)
                for part in block.split(self.rows, 1):
                    logs = self._log_sum(part, memory)[0]
                    if followed:
                        pieces.append(logs)
                    else:
                        out[done : done + len(logs)] = logs
                    done += len(logs)
            return torch.cat(pieces) if followed else out

        return torch.cat(share_out(some, height, image, self.templates, self.bias)).view(height, width)

    def at(self, image: Float[torch.Tensor, "h w"], sites: Int[torch.Tensor, " n"]) -> Float[torch.Tensor, " n"]:
        """The same at some corners only, numbered row by row."""
        followed = needs_gradient(image, self.templates, self.bias)

        def some(first: int, last: int) -> torch.Tensor:
            memory, pieces, out = torch.empty_like(self.templates[:0, 0]), [], image.new_empty(last - first)
            for begin in range(first, last, self.rows):
                part = sites[begin : min(begin + self.rows, last)]
                logs = self._log_sum(self.windows(image, part).mT, memory)[0]
                if followed:
                    pieces.append(logs)
                else:
                    out[begin - first : begin - first + len(logs)] = logs
            return torch.cat(pieces) if followed else out

        if not len(sites):
            return image.new_zeros(0)
        return torch.cat(share_out(some, len(sites), image, self.templates, self.bias))

    def gather(
        self,
        image: Float[torch.Tensor, "h w"],
        sites: Int[torch.Tensor, " n"],
        weights: Float[torch.Tensor, " n"],
        numerator: Float[torch.Tensor, "k m"],
    ) -> Float[torch.Tensor, " k"]:
        """Share out each site's weight over the templates by softmax of its scores.

        Args:
            image: the micrograph.
            sites: corners, numbered row by row.
            weights: weight of each.
            numerator: ``(k, side^2)``; the weighted windows are added to it.

        Returns:
            ``(k,)`` float64: the weight that each template received.
        """

        def some(first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
            return self._shared(image, sites[first:last], weights[first:last], torch.empty_like(self.templates[:0, 0]))

        counts = torch.zeros(len(self.templates), dtype=torch.float64, device=image.device)
        for part, sums in share_out(some, len(sites), image, self.templates, self.bias):
            counts += part
            numerator += sums
        return counts

    def gather_parts(
        self,
        image: Float[torch.Tensor, "h w"],
        sites: Int[torch.Tensor, " n"],
        weights: Float[torch.Tensor, " n"],
        ends: Sequence[int],
    ) -> tuple[Float[torch.Tensor, "p k m"], Float[torch.Tensor, "p k"]]:
        """:meth:`gather` of consecutive parts of the sites, which end before ``ends``; numerators, and counts."""
        firsts = [0, *ends[:-1]]

        def some(first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
            widest = max(end - begin for begin, end in zip(firsts[first:last], ends[first:last], strict=True))
            memory, counts, sums = self.templates.new_empty(len(self.templates) * min(widest, self.rows)), [], []
            for begin, end in zip(firsts[first:last], ends[first:last], strict=True):
                part = self._shared(image, sites[begin:end], weights[begin:end], memory)
                counts.append(part[0])
                sums.append(part[1])
            return torch.stack(counts), torch.stack(sums)

        parts = share_out(some, len(ends), image, self.templates, self.bias)
        return torch.cat([part[1] for part in parts]), torch.cat([part[0] for part in parts])

    def _shared(
        self, image: torch.Tensor, sites: torch.Tensor, weights: torch.Tensor, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Counts ``(k,)`` float64 and weighted windows ``(k, side^2)``."""
        counts = torch.zeros(len(self.templates), dtype=torch.float64, device=image.device)
        sums = torch.zeros_like(self.templates)
        for start in range(0, len(sites), self.rows):
            part = slice(start, start + self.rows)
            windows = self.windows(image, sites[part])
            evidence, scores = self._log_sum(windows.mT, memory)
            sums.addmm_(posterior(scores, self.bias, evidence, counts, weights[part]), windows)
        return counts, sums

    def _log_sum(self, windows: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the columns ``(side^2, n)``, and their scores without the bias ``(k, n)``."""
        scores = product(self.templates, windows, memory)
        logs = LogSum(scores)
        logs.add(scores, self.bias)
        return logs.value(), scores

    def windows(self, image: torch.Tensor, sites: torch.Tensor) -> torch.Tensor:
        """Windows at corners numbered row by row, ``(n, side^2)``, and what they hold beside their pixels."""
        pixels = self._cut(image, sites)
        return pixels if self.more is None else torch.cat([pixels, self.more(sites).to(pixels)], 1)

    def _cut(self, image: torch.Tensor, sites: torch.Tensor) -> torch.Tensor:
        if compiled(image):
            from unpicked.ops import _evidence

            out = image.new_empty(len(sites), self.side**2)
            _evidence.cut(image.detach().numpy(), sites.numpy(), self.side, out.numpy())
            return out
        windows = image.unfold(0, self.side, 1).unfold(1, self.side, 1)
        width = windows.shape[1]
        return windows[sites // width, sites % width].reshape(-1, self.side**2)


class LogSum:
    """Running log of sums of exponentials, one for each column of the scores."""

    def __init__(self, scores: Float[torch.Tensor, "k n"]) -> None:
        self._compiled, self._top = compiled(scores), scores.new_full(scores.shape[1:], -1e30)
        self._total = scores.new_zeros(scores.shape[1:], dtype=torch.float64)

    def add(self, scores: Float[torch.Tensor, "k n"], bias: Float[torch.Tensor, " k"]) -> None:
        """Add exp(scores + bias), summed over the rows."""
        if self._compiled and compiled(scores, bias):
            from unpicked.ops import _evidence

            _evidence.add_logs(scores.numpy(), bias.detach().numpy(), self._top.numpy(), self._total.numpy())
        else:
            self._top = torch.logaddexp(self._top, (scores + bias[:, None]).logsumexp(0))

    def value(self) -> Float[torch.Tensor, " n"]:
        """The logarithms."""
        return self._top + self._total.log().to(self._top) if self._compiled else self._top


def posterior(
    scores: Float[torch.Tensor, "k n"],
    bias: Float[torch.Tensor, " k"],
    evidence: Float[torch.Tensor, " n"],
    counts: Float[torch.Tensor, " k"],
    weights: Float[torch.Tensor, " n"] | None = None,
) -> Float[torch.Tensor, "k n"]:
    """Weight x exp(score + bias - evidence), where the scores were; row sums are added to ``counts`` (float64)."""
    if compiled(scores, bias, evidence):
        from unpicked.ops import _evidence

        some = (scores.numpy(), bias.detach().numpy(), evidence.detach().numpy())
        if weights is None:
            _evidence.posterior(*some, counts.numpy())
        else:
            _evidence.weighted_posterior(*some, weights.to(scores).numpy(), counts.numpy())
        return scores
    shares = exp_(scores + bias[:, None] - evidence)
    if weights is not None:
        shares = shares * weights.to(shares)
    counts += shares.sum(1)
    return shares


def product(
    templates: Float[torch.Tensor, "k m"], windows: Float[torch.Tensor, "m n"], memory: Float[torch.Tensor, " _"]
) -> Float[torch.Tensor, "k n"]:
    """Scores without bias, in ``memory`` (which grows as it must) where no gradient is asked for."""
    if needs_gradient(templates, windows):
        return templates @ windows
    shape = (len(templates), windows.shape[1])
    if memory.numel() < shape[0] * shape[1]:
        memory.resize_(shape[0] * shape[1])
    return torch.mm(templates, windows, out=memory[: shape[0] * shape[1]].view(shape))


def block_length(rows: int, like: torch.Tensor) -> int:
    """Columns of a block of scores: one MB of float32 on a CPU, which was measured the fastest; many for a GPU."""
    if like.device.type == "cpu":
        return max(32, (1 << 18) // rows // 32 * 32)
    return max(1024, (1 << 28) // rows)


def compiled(*tensors: torch.Tensor) -> bool:
    """Whether the compiled loops serve: float32 on the CPU, and no gradient is asked for."""
    return not needs_gradient(*tensors) and all(
        tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors
    )


def needs_gradient(*tensors: torch.Tensor) -> bool:
    """Whether any of these is differentiated."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def share_out(work: Callable[[int, int], _T], count: int, *tensors: torch.Tensor) -> list[_T]:
    """``work(first, last)`` on about equal parts of 0 .. count, one for each of torch's threads.

    Each part then runs on a single core, whose cache holds its blocks; a GPU, and anything differentiated, takes all
    at once.
    """
    total = torch.get_num_threads()
    threads = min(total, count)
    if threads <= 1 or not compiled(*tensors):
        return [work(0, count)]
    inference = torch.is_inference_mode_enabled()

    def one(index: int) -> _T:
        torch.get_num_threads()  # so that torch does not set this thread's number later
        torch.set_num_threads(1)
        with torch.inference_mode(inference), torch.no_grad():
            return work(count * index // threads, count * (index + 1) // threads)

    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, range(threads)))
    finally:
        torch.set_num_threads(total)


def representatives(
    templates: Float[torch.Tensor, "k n"], weights: Float[torch.Tensor, " k"], count: int
) -> tuple[Int[torch.Tensor, " c"], Float[torch.Tensor, " c"]]:
    """Templates that lie far apart, one after the other the farthest from those before (Gonzalez 1985).

    Args:
        templates: ``(k, n)``.
        weights: ``(k,)``.
        count: how many, at most k.

    Returns:
        Their indices, and for each the summed weight of the templates that are closest to it.
    """
    squares = templates.square().sum(1)
    chosen = torch.zeros(count, dtype=torch.long, device=templates.device)
    nearest = torch.zeros(len(templates), dtype=torch.long, device=templates.device)
    distance = torch.full_like(squares, torch.inf)
    for index in range(count):
        one = distance.argmax()
        chosen[index] = one
        new = squares + squares[one] - 2 * (templates @ templates[one])
        closer = new < distance
        nearest = torch.where(closer, index, nearest)
        distance = torch.minimum(distance, new)
        nearest[one], distance[one] = index, -torch.inf  # even among equal templates none is chosen twice
    return chosen, torch.zeros_like(squares[:count]).index_add_(0, nearest, weights)
