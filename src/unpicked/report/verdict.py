"""What a report says of verification: the sentence that heads it, and the evidence beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VERDICTS = {
    "supported": "The data support this structure: held-out data prefer it to every null model.",
    "not supported": "The data do not support this structure: held-out data prefer a null model.",
    "undecided": "Undecided: held-out data prefer neither this structure nor the null models.",
    "not verified": "Not verified: nothing has tested yet whether this structure is in the data.",
}


def verdict(result: Mapping[str, Any]) -> str:
    """supported, not supported, undecided or not verified."""
    return str(result.get("verdict", "not verified"))


def heading(result: Mapping[str, Any]) -> str:
    """One sentence: that of the verification, else what its verdict means."""
    told = _found(result).get("sentence")
    word = verdict(result)
    return str(told) if told else VERDICTS.get(word, word)


def statements(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the verdict was come by; nothing where there is none."""
    told = evidence(result)
    if not told.get("folds"):
        return []
    folds = list(told["folds"])
    names = list(folds[0]["over"])
    gains = "; ".join(f"{name} {sum(float(fold['over'][name]) for fold in folds):+,.0f}" for name in names)
    units = " and ".join(str(fold["units"]) for fold in folds)
    plural = f"{told.get('unit', 'piece')}s"
    text = (
        f"Fitted to each half of the data and judged on the other ({units} {plural}). "
        f"Log-likelihood of the held-out halves above each null model, in log units: {gains}."
    )
    starts = [float(each["gain"]) for each in told.get("starts") or []]
    if starts:
        gains = " and ".join(f"{gain:+,.1f}" for gain in starts)
        text += f" Other random starts of the first fold explain the held-out half by {gains} log units beside its own."
    for part in told.get("omitted") or []:
        text += f" Omit test: {part['sentence']}"
    missing = told.get("not_run") or []
    if missing:
        text += f" Not run: {', '.join(map(str, missing))}."
    return [("Verification", text)]


def evidence(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the verdict rests on; empty where there is none."""
    found = _found(result).get("evidence")
    return found if isinstance(found, Mapping) else {}


def _found(result: Mapping[str, Any]) -> Mapping[str, Any]:
    found = dict(result.get("figures") or {}).get("verify")
    return found if isinstance(found, Mapping) else {}
