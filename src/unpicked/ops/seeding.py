"""One integer seed, many independent random streams (`docs/conventions.md`, section 12)."""

from __future__ import annotations

from unpicked._lazy import torch

_MASK = (1 << 64) - 1


def derive(seed: int, name: str, index: int = 0) -> int:
    """Child seed of the stream (seed, name, index), by SplitMix64 (Steele et al. 2014).

    Args:
        seed: the run's seed, any integer.
        name: what the stream is for, e.g. ``"views"``.
        index: which one of them, e.g. the number of the micrograph.

    Returns:
        An integer in [0, 2^63).
    """
    state = _mix(seed & _MASK)
    for byte in name.encode():
        state = _mix(state ^ byte)
    return _mix(state ^ (index & _MASK)) >> 1


def generator(seed: int, name: str, index: int = 0) -> torch.Generator:
    """A CPU generator for the stream (seed, name, index); nothing global is read or changed."""
    return torch.Generator().manual_seed(derive(seed, name, index))


def _mix(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)
