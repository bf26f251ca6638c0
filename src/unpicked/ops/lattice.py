"""The hard-core lattice gas: chances that a copy starts at each site, given every site's activity.

A configuration is a set of sites of which no two lie within ``width`` of each other in both directions; its weight is
the product of its sites' activities a. For well separated copies that is the exact posterior of their positions.
"""

from __future__ import annotations

from jaxtyping import Float

from unpicked._lazy import torch

_LARGEST = 500.0  # log-activities above it are certain to be chosen, and are lowered with all that they outdo


def gibbs(
    log_activity: Float[torch.Tensor, "h w"], width: int, *, sweeps: int, burn: int, generator: torch.Generator
) -> tuple[Float[torch.Tensor, "h w"], float]:
    """Marginals by Rao-Blackwellised block Gibbs sampling.

    A square cell of ``width`` sites holds at most one copy. A sweep lays cells at a random offset and visits them all:
    the copy is taken out, the sites that its neighbours forbid are left out, the conditional chances of the others
    are added to the marginals, and a new state is drawn from them.

    Args:
        log_activity: ``(h, w)`` on any device; computed on the CPU in float64.
        width: least distance of two copies in the larger of the two directions, in sites.
        sweeps: sweeps that count.
        burn: sweeps before them, from no copies at all.
        generator: CPU generator, the only source of chance.

    Returns:
        Marginals ``(h, w)`` in the dtype and on the device of the input, and the expected number of sites where one
        more copy could start.

    Raises:
        ValueError: for width < 1, sweeps < 1 or burn < 0.
    """
    if width < 1 or sweeps < 1 or burn < 0:
        raise ValueError(f"width and sweeps must be at least 1, burn at least 0; got {width}, {sweeps}, {burn}")
    height, length = log_activity.shape
    total = burn + sweeps
    offsets = torch.randint(0, width, (total, 2), generator=generator)
    cells = (height // width + 2, length // width + 2)
    chances = torch.rand(total, *cells, generator=generator, dtype=torch.float64)
    logs = log_activity.detach().double().cpu()
    if logs.numel() and float(logs.max()) > _LARGEST:
        logs = logs - (windowed_maximum(logs, width) - _LARGEST).clamp(min=0)
    marginals = torch.zeros(height, length, dtype=torch.float64)
    from unpicked.ops._lattice import sweeps as kernel  # compiled, so imported late

    free = kernel(logs.exp().numpy(), width, offsets.numpy(), chances.numpy(), burn, marginals.numpy())
    return marginals.div_(sweeps).to(log_activity), free / sweeps


def window_marginals(log_activity: Float[torch.Tensor, "h w"], width: int) -> Float[torch.Tensor, "h w"]:
    """First-order marginals a / (1 + sum of the activities within ``width``); too low where copies are crowded."""
    around = log_activity
    for dim in (0, 1):
        around = _windowed_logsumexp(around, width, dim)
    return (log_activity - torch.nn.functional.softplus(around)).exp()


def windowed_maximum(values: Float[torch.Tensor, "h w"], width: int) -> Float[torch.Tensor, "h w"]:
    """Largest value less than ``width`` away in both directions."""
    side = 2 * width - 1
    pooled = values[None, None]
    pooled = torch.nn.functional.max_pool2d(pooled, (side, 1), 1, (width - 1, 0))
    return torch.nn.functional.max_pool2d(pooled, (1, side), 1, (0, width - 1))[0, 0]


def _windowed_logsumexp(values: torch.Tensor, width: int, dim: int) -> torch.Tensor:
    """Log of the sum of exponentials over -(width - 1) .. width - 1 along one axis, by windows of doubled length."""
    length = 2 * width - 1
    last = values.dim() - 1 - dim
    pad = (0, 0) * last + (width - 1, width - 1)
    block = torch.nn.functional.pad(values, pad, value=-torch.inf)  # block[i]: window of ``size`` from i
    total = block.narrow(dim, 0, values.shape[dim])  # the length is odd: one window of one site
    done, size, rest = 1, 1, length >> 1
    while rest:
        kept = block.shape[dim] - size
        block = torch.logaddexp(block.narrow(dim, 0, kept), block.narrow(dim, size, kept))
        size *= 2
        if rest & 1:
            total = torch.logaddexp(total, block.narrow(dim, done, values.shape[dim]))
            done += size
        rest >>= 1
    return total
