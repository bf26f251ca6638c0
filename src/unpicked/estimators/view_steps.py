"""Steps of the weights of views in EM: shares of the expected copies, or a smooth density of directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unpicked._lazy import torch
from unpicked.estimators.acceleration import nothing_observed, observed
from unpicked.model.likelihoods import Stats
from unpicked.model.views import Projection, Weighable

_MOMENTUM, _PAST = 0.8, 0.5  # of EM's last step; weight of the past in the average of the information
Memory = dict[str, Any]  # of tensors; Any because torch is imported late


def begun(view: Weighable, *, scored: bool) -> Memory:
    """First ``views``, and of a density of directions what is remembered: EM's last answer, information to come."""
    views = view.parameters.double().cpu()
    if not isinstance(view, Projection):
        return {"views": views}
    memory = {"last": views.clone()} | (nothing_observed(views) if scored else {})
    return {"views": views} | {f"views.{name}": value for name, value in memory.items()}


def forgotten(state: Mapping[str, Any]) -> Memory:
    """The memory of other coefficients, emptied; nothing where none is kept."""
    if "views.last" not in state:
        return {}
    memory = nothing_observed(state["views"]) if "views.held" in state else {}
    return {f"views.{name}": value for name, value in ({"last": state["views"].clone()} | memory).items()}


def counted(view: Weighable, stats: Stats, *, turning: bool) -> torch.Tensor:
    """The ``views`` that explain the expected copies best."""
    return view.estimated(_copies(len(view.log_weights), stats), turning=turning).cpu()


def directed(
    view: Projection,
    state: Mapping[str, Any],
    stats: Stats,
    information: torch.Tensor | None,
    rate: float,
    *,
    scored: bool,
    ahead: bool,
) -> tuple[Memory, torch.Tensor]:
    """A density of directions beyond EM's, and what the objective gains by it to first order, about.

    Noise hides nearly all information on some of it (of opposite views, mirror images), where EM crawls. Steps of
    scoring do not, but while the map is still wrong they take its errors for preferences. Before, Nesterov's momentum:
    it is stable for any map as contracting as EM's (restarts: O'Donoghue & Candes 2015).

    Args:
        view: the present density.
        state: holds ``views`` and what is remembered.
        stats: of this update's data; densities are comparable between views that turn, counts are not.
        information: of this update's data, or None.
        rate: part of the way that is gone.
        scored: go by the information, once there is some.
        ahead: go on with the momentum of the last step, unless that led the wrong way.
    """
    before, counts = state["views"], _copies(len(view), stats)
    memory = {name: state[f"views.{name}"] for name in ("last", "information", "held") if f"views.{name}" in state}
    if "held" in memory:
        memory |= observed(memory, information, _PAST)
    if scored and int(memory.get("held", 0)):
        found = target = before.lerp(view.stepped(counts, memory["information"]), rate)
    else:
        found = before.lerp(view.estimated(counts, turning=True).cpu(), rate)
        step = found - memory["last"]
        target = found + _MOMENTUM * step if ahead and float(step @ (found - before)) > 0 else found
    gain = 0.5 * view.gradient(counts).cpu().dot(found - before)
    return {"views": target} | {f"views.{name}": value for name, value in (memory | {"last": found}).items()}, gain


def _copies(views: int, stats: Stats) -> torch.Tensor:
    """``(views,)``: at whichever position between pixels."""
    return stats["views"].unflatten(0, (views, -1)).sum(1)
