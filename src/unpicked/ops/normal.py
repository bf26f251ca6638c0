"""Normal random numbers, fast: long signals are simulated in a fraction of the time that their analysis takes."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.ops import seeding


def normal(count: int, seed: int, name: str, index: int = 0, *, scale: float = 1.0) -> Float[torch.Tensor, " n"]:
    """Independent normal numbers of the stream (seed, name, index).

    Args:
        count: how many.
        seed: the run's seed.
        name: what the stream is for.
        index: which one of them.
        scale: standard deviation.

    Returns:
        ``(count,)`` float32, the same on every machine up to rounding.
    """
    import numpy as np

    from unpicked.ops import _normal  # compiled, so imported late

    out = np.empty(count, np.float32)
    _normal.fill(_state(seeding.derive(seed, name, index), _normal.LANES), out, np.float32(scale))
    return torch.from_numpy(out)


def _state(seed: int, lanes: int) -> Any:
    """Bits that start every lane, from SplitMix64."""
    import numpy as np

    words = [seeding.derive(seed, "lane", number) for number in range(2 * lanes)]
    bits = np.array(words, np.uint64)
    return np.stack([bits & np.uint64(0xFFFFFFFF), bits >> np.uint64(31)]).astype(np.uint32).reshape(4, lanes)
