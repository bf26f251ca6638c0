"""What a verdict is, and what the gains of some folds amount to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from unpicked._lazy import torch
from unpicked.evaluate.halves import Halves
from unpicked.verify.agreement import Rival, determined, floor
from unpicked.verify.omit import Omitted

SIGMAS = 3.0  # standard errors by which a structure must be better
LEAST = 3.0  # log units that it must gain, so that no rounding of large sums is taken for evidence
FEATURELESS = "particles without structure"

Word = Literal["supported", "not supported", "undecided"]
Score = Callable[[Any], Any]  # tiles (n, *tile) to their log-likelihoods (n,) float64


@dataclass(frozen=True)
class Fold:
    """What the structure of one fold was worth on the other.

    Attributes:
        units: pieces or tiles that were judged.
        gain: log-likelihood of the structure over the best null, summed over the units.
        error: standard error of ``gain``.
        nulls: log-likelihood of the structure over each null, by name.
        best: name of the best null.
        plain: whether the best null is that of particles without structure.
        over_noise: gain of particles, with this structure or featureless, over the best null that knows none.
        over_noise_error: its standard error.
    """

    units: int
    gain: float
    error: float
    nulls: dict[str, float]
    best: str
    plain: bool
    over_noise: float
    over_noise_error: float


@dataclass(frozen=True)
class Verdict:
    """The answer, and what it rests on.

    Attributes:
        verdict: supported, not supported or undecided.
        sentence: one that heads a report.
        z: gain over its standard error, of all folds; NaN where nothing could be judged.
        folds: in order.
        unit: what was judged one by one, in words.
        agreement: how far the maps of the folds agree; None where there are none, or nothing is supported.
        surrogates: what one fold of data of random phases gave in the same pipeline.
        starts: what other random starts gave on the first fold.
        omitted: what came back on the first fold of removed parts of the start map.
    """

    verdict: Word
    sentence: str
    z: float
    folds: tuple[Fold, ...] = ()
    unit: str = ""
    agreement: Halves | None = None
    surrogates: tuple[Rival, ...] = ()
    starts: tuple[Rival, ...] = ()
    omitted: tuple[Omitted, ...] = ()

    @property
    def p_limit(self) -> float | None:
        """The least p that so many surrogates can show."""
        return 1 / (len(self.surrogates) + 1) if self.surrogates else None

    @property
    def p(self) -> float | None:
        """(1 + surrogates that gain as much) / (1 + surrogates)."""
        if not self.surrogates:
            return None
        return (1 + self.above) / (1 + len(self.surrogates))

    @property
    def above(self) -> int:
        """Surrogates that one fold explains as well as the data's worse fold."""
        least = min(fold.gain for fold in self.folds) if self.folds else 0.0
        return sum(rival.gain >= least for rival in self.surrogates)

    @property
    def floor(self) -> tuple[float, ...]:
        """Agreement per shell that is reached without any structure; empty without surrogates or maps."""
        return floor(self.surrogates)

    @property
    def resolution(self) -> float | None:
        """Angstrom to which the folds agree, above the floor where there is one; of folds that had no common start."""
        found = self.agreement
        return None if found is None or found.shared_start else determined(found, self.floor)

    @property
    def gain(self) -> float:
        """Log-likelihood over the best null, of all folds."""
        return sum(fold.gain for fold in self.folds)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "z": self.z if math.isfinite(self.z) else None,
            "evidence": {
                "gain": self.gain,
                "unit": self.unit,
                "folds": [
                    {
                        "units": fold.units,
                        "gain": fold.gain,
                        "standard_error": fold.error if math.isfinite(fold.error) else None,
                        "best_null": fold.best,
                        "over": fold.nulls,
                    }
                    for fold in self.folds
                ],
                "agreement": None if self.agreement is None else self.agreement.to_json(),
                "resolution": self.resolution,
                "surrogates": [rival.to_json() for rival in self.surrogates],
                "floor": list(self.floor),
                "p": self.p,
                "p_limit": self.p_limit,
                "starts": [rival.to_json() for rival in self.starts],
                "omitted": [part.to_json() for part in self.omitted],
                "not_run": [
                    *([] if self.surrogates else ["surrogates of random phases"]),
                    *([] if self.starts else ["other random starts"]),
                    *([] if self.omitted else ["omit test"]),
                ],
            },
        }


ONE_PIECE = Verdict("undecided", "Undecided: the data are one piece, and none can be held apart.", math.nan)


def with_surrogates(found: Verdict, rivals: Sequence[Rival]) -> Verdict:
    """A verdict in the light of what surrogates gained."""
    found = replace(found, surrogates=tuple(rivals))
    above, count = found.above, len(rivals)
    if not rivals:
        return found
    if found.verdict == "supported" and above:
        told = f"Undecided: {above} of {count} data sets of random phases are explained as well as the data"
        told += f", p = {found.p:.2g}."
        return replace(found, verdict="undecided", sentence=told)
    told = f"; {count - above} of {count} surrogates of random phases below, p = {found.p:.2g}"
    least = "" if above else ", the least that so many can show"
    return replace(found, sentence=found.sentence.removesuffix(".") + told + least + ".")


def gains(pieces: Iterator[Any], model: Score, nulls: Mapping[str, Score], few: bool) -> dict[str, torch.Tensor]:
    """What a model gains over each null, piece by piece in tiles; of ``few`` pieces tile by tile."""
    rows: dict[str, list[torch.Tensor]] = {name: [torch.zeros(0, dtype=torch.float64)] for name in nulls}
    for tiles in pieces:
        ours = model(tiles).cpu()
        for name, null in nulls.items():
            gain = ours - null(tiles).cpu()
            rows[name].append(gain if few else gain.sum()[None])
    return {name: torch.cat(some) for name, some in rows.items()}


def judged(gains: Mapping[str, torch.Tensor]) -> Fold:
    """The fold of some gains on a part that nothing was fitted to."""
    totals = {name: float(gain.sum()) for name, gain in gains.items()}
    best = min(totals, key=lambda name: totals[name])
    noise = min((name for name in totals if name != FEATURELESS), key=lambda name: totals[name])
    over_noise = gains[noise] - gains[FEATURELESS] if totals.get(FEATURELESS, 0.0) < 0 else gains[noise]
    return Fold(
        units=len(gains[best]),
        gain=totals[best],
        error=_error(gains[best]),
        nulls=totals,
        best=best,
        plain=best == FEATURELESS,
        over_noise=float(over_noise.sum()),
        over_noise_error=_error(over_noise),
    )


def concluded(folds: Sequence[Fold], unit: str, piece: str = "piece") -> Verdict:
    """The verdict that some folds of pieces amount to, judged unit by unit."""
    gain = sum(fold.gain for fold in folds)
    error = math.sqrt(sum(fold.error**2 for fold in folds))
    z = gain / error if 0 < error < math.inf else math.nan
    if not math.isfinite(z):
        return Verdict("undecided", _without_error(folds, unit, piece), z, tuple(folds), unit)
    units, worst = sum(fold.units for fold in folds), min(folds, key=lambda fold: fold.gain)
    told = f"held-out evidence {_signed(gain)} log units over {worst.best}, z = {z:.1f}"
    if all(fold.gain > 0 for fold in folds) and z > SIGMAS and gain > LEAST:
        return Verdict("supported", f"The data support this structure: {told}.", z, tuple(folds), unit)
    noise = sum(fold.over_noise for fold in folds)
    spread = math.sqrt(sum(fold.over_noise_error**2 for fold in folds))
    there = all(fold.over_noise > 0 for fold in folds) and noise > SIGMAS * spread
    if all(fold.gain <= 0 for fold in folds):
        if there:
            sentence = f"Not supported: particles are there, their structure is not determined; {told}."
        else:
            sentence = f"Not supported: {told}; the data hold nothing that this structure explains."
        return Verdict("not supported", sentence, z, tuple(folds), unit)
    more = ""
    if z > SIGMAS and gain <= LEAST:
        more = f"; it takes at least {LEAST:g} log units"
    elif z > SIGMAS:
        more = "; but what one fold gave explains the other no better: a poor optimum? try more starts"
    elif z > 0:
        wanted = math.ceil(units * (SIGMAS / z) ** 2)
        more = f"; with about {_round(wanted / units)} times as many data it could be decided"
    return Verdict("undecided", f"Undecided: {told}{more}.", z, tuple(folds), unit)


def _without_error(folds: Sequence[Fold], unit: str, piece: str) -> str:
    """Why there is no standard error, and what would make one."""
    least = min(fold.units for fold in folds)
    if least > 1:
        return f"Undecided: no {unit} gains more than another, so that the gain has no standard error."
    return (
        f"Undecided: too few data for a standard error: one fold holds {least} {unit}{'' if least == 1 else 's'}, and "
        f"either needs at least 2; give at least {2 * len(folds)} {piece}s of this size, or larger ones."
    )


def _error(values: torch.Tensor) -> float:
    """Standard error of a sum."""
    return float(values.std() * math.sqrt(len(values))) if len(values) > 1 else math.inf


def _signed(value: float) -> str:
    return f"{value:+,.0f}" if abs(value) >= 10 else f"{value:+.1f}"


def _round(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:.0f}"
