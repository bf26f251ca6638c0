"""Numbers without their last digits, which depend on the order in which sums were taken."""

from __future__ import annotations

import math

from jaxtyping import Float

from unpicked._lazy import torch

BITS = 26  # that are kept of the largest number: two more than single precision has


def rounded(values: Float[torch.Tensor, " *any"]) -> Float[torch.Tensor, " *any"]:
    """Values to 26 bits of the largest of them, as far as a step in single precision can tell them apart.

    Sums over the same data on another number of processes differ in the sixteenth digit. A single-precision step that
    follows makes of a few of these differences some in the eighth, which grow until a run converges; numbers that were
    rounded before it are all but always the very same.

    Args:
        values: of any shape; where one is not finite, all stay as they are.
    """
    largest = float(values.abs().max()) if values.numel() else 0.0
    if not 0 < largest < math.inf:
        return values
    step = 2.0 ** (math.frexp(largest)[1] - BITS)
    return (values / step).round() * step if step > 0 else values
