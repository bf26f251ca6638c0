"""The single likeliest configuration of copies in a signal (Viterbi 1967), where their posterior has many."""

from __future__ import annotations

from jaxtyping import Float, Int

from unpicked._lazy import torch


def likeliest_starts(log_activity: Float[torch.Tensor, " n"], width: int) -> Int[torch.Tensor, " k"]:
    """Starts, at least ``width`` apart, whose log-activities have the largest sum; rising.

    Args:
        log_activity: log of (odds of a copy at a free site x likelihood ratio) of a start at every site, float64.
        width: least distance of two starts.

    Raises:
        ValueError: unless log_activity is ``(n,)`` and width at least 1.
    """
    if log_activity.dim() != 1 or width < 1:
        raise ValueError(f"log_activity must be (n,) and width at least 1; got {tuple(log_activity.shape)} and {width}")
    from unpicked.ops._viterbi import starts  # compiled, so imported late

    return torch.from_numpy(starts(log_activity.detach().double().cpu().numpy(), width)).to(log_activity.device)
