"""Whether data support a structure at all: fitted to one part of them, it must explain the other better than nulls do.

Half maps that agree prove little: two halves of pure noise, begun with one template, agree to 0.97. What is asked here
is that the structure of one fold explains the other fold, by its marginal likelihood, better than the best of three
nulls that were fitted to the same fold: white noise, stationary noise of any spectrum, and particles that have no
structure. Pipeline and data come as a :class:`Trial`, so that nothing here depends on what is reconstructed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from unpicked._lazy import torch
from unpicked.data.base import Data
from unpicked.data.maps import Map
from unpicked.evaluate.halves import Halves
from unpicked.evaluate.nulls import Null
from unpicked.ops import seeding
from unpicked.reconstruct import Reconstruction
from unpicked.verify import omit
from unpicked.verify.agreement import Rival, agreement, determined, floor, shells
from unpicked.verify.omit import Omitted

SIGMAS = 3.0  # standard errors by which a structure must be better
LEAST = 3.0  # log units that it must gain, so that no rounding of large sums is taken for evidence
UNITS = 8  # pieces of a fold that make a standard error; of fewer, their tiles do
FEATURELESS = "particles without structure"
REPEATED = ("surrogates", "starts", "omits")  # what may be added to a verdict

Word = Literal["supported", "not supported", "undecided"]
Score = Callable[[Any], Any]  # tiles (n, *tile) to their log-likelihoods (n,) float64


D = TypeVar("D", bound=Data)


class Unjudged(ValueError):
    """Data of which nothing is left by which an answer could be judged."""


class Pieces(Protocol[D]):
    """Data in whole pieces, which are parted into folds; what kinds there are is known to ``recipes``."""

    @property
    def count(self) -> int:
        """Number of whole pieces: micrographs, or blocks of a signal."""

    @property
    def piece(self) -> str:
        """What a piece is called."""

    @property
    def nulls(self) -> tuple[Null, ...]:
        """Nulls of these data, not fitted."""

    def part(self, indices: Sequence[int]) -> D:
        """Some of the pieces."""

    def tiles(self, data: D) -> Iterator[Any]:
        """Every piece of a part in tiles ``(n, *tile)``, all of one shape, or what else scores and nulls take.

        Raises:
            Unjudged: where there are none.
        """


class Trial(Pieces[D], Protocol[D]):
    """Data, and the pipeline that is to be judged."""

    @property
    def start(self) -> Any:
        """What every fit starts from; None means random starts."""

    def fit(self, data: D, seed: int, name: str) -> Reconstruction:
        """The pipeline, on a part of the data."""

    def featureless(self, run: Reconstruction, data: D, seed: int) -> Score:
        """Particles at the same places without any structure, fitted to the same part."""

    def surrogate(self, seed: int) -> Trial[D]:
        """The same with data of random phases, which keep every power and no structure."""

    def score(self, run: Reconstruction, data: D) -> Score:
        """The marginal likelihood of tiles under what was fitted to a part; what is still free is fitted to it too."""


@runtime_checkable
class Template(Protocol):
    """A trial whose start may be a map, of which a part can be removed."""

    def begun_at(self, start: Map) -> Trial[Any]:
        """The same pipeline from another map."""


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


def verify(trial: Trial[D], *, seed: int = 0) -> Verdict:
    """Judge a pipeline by cross-fitting over two folds of whole pieces, against three nulls.

    Source: likelihood-ratio tests on held-out data; the nulls and the thresholds are this package's own.

    Args:
        trial: data and pipeline.
        seed: of the fits.

    Returns:
        "supported" where the structure of each fold is better than every null on the other and the sum by three
        standard errors and three log units; "not supported" where it is worse in both; else "undecided". How far the
        maps of the folds agree is told beside a structure that is supported.
    """
    return _verify(trial, seed)[0]


def verify_with_surrogates(
    trial: Trial[D],
    count: int,
    *,
    starts: int = 0,
    omits: int = 0,
    seed: int = 0,
    known: Mapping[str, Sequence[Any]] | None = None,
    tell: Callable[[str, Any], None] | None = None,
) -> Verdict:
    """:func:`verify`, and its first fold again: on data of random phases, from other random starts, and from parts of a
    start map.

    Args:
        trial: data and pipeline.
        count: data sets of random phases; none may gain as much, and p is at least 1 / (count + 1).
        starts: other random starts.
        omits: times that a part of the start map is removed; none where the trial starts from no map.
        seed: of fits, phases and parts.
        known: the first "surrogates", "starts" (:class:`Rival`) and "omits" (:class:`Omitted`), from a run that was
            stopped.
        tell: called with "surrogates", "starts" or "omits" and every new one.
    """
    found, first = _verify(trial, seed)
    if first is None:  # nothing could be judged
        return found
    kept: dict[str, list[Any]] = {name: list((known or {}).get(name, ())) for name in REPEATED}

    def add(name: str, rival: Rival | Omitted) -> None:
        kept[name].append(rival)
        if tell is not None:
            tell(name, rival)

    own, other = folds_of(trial)[0]
    model, agreed = trial.score(first, own), first.map if found.agreement is not None else None
    for number in range(len(kept["starts"]), starts):
        run = trial.fit(own, seeding.derive(seed, "verify start", number), f"start {number + 2}")
        rival = trial.score(run, own)
        gain = sum(float((rival(tiles) - model(tiles)).sum()) for tiles in trial.tiles(other))
        add("starts", Rival(gain, shells(agreed, run.map)))
    for number in range(len(kept["omits"]), omits if isinstance(trial.start, Map) else 0):
        drawn, whole = seeding.derive(seed, "omit", number), trial.start
        part = omit.region(whole, drawn)
        if isinstance(trial, Template):
            run = trial.begun_at(omit.without(whole, part)).fit(own, drawn, f"omit {number + 1}")
            if run.map is not None:
                add("omits", omit.judged(whole, part, run.map, drawn, kept=first.map))
    for number in range(len(kept["surrogates"]), count):
        drawn = seeding.derive(seed, "surrogate", number)
        scrambled = trial.surrogate(drawn)
        runs: list[Reconstruction] = []
        fold = _fold(scrambled, _fitted(scrambled, runs), drawn, 1, *folds_of(scrambled)[0])
        add("surrogates", Rival(fold.gain, shells(agreed, runs[0].map)))
    found = replace(found, starts=tuple(kept["starts"][:starts]), omitted=tuple(kept["omits"][:omits]))
    return with_surrogates(found, kept["surrogates"][:count])


def _verify(trial: Trial[D], seed: int) -> tuple[Verdict, Reconstruction | None]:
    """The verdict, and the run of the first fold, if there is one."""
    runs: list[Reconstruction] = []
    found = cross_fit(trial, _fitted(trial, runs), seed)
    if not runs:
        return found, None
    one, other = runs
    if found.verdict != "supported":  # how far the maps of nothing agree is of no use to anyone
        return found, one
    return replace(found, agreement=agreement(one.map, other.map, shared_start=trial.start is not None)), one


Fitted = Callable[[D, int, int], tuple[Score, Score]]


def _fitted(trial: Trial[D], runs: list[Reconstruction]) -> Fitted[D]:
    """The fit of a fold; its run is added to ``runs``."""

    def fitted(data: D, seed: int, number: int) -> tuple[Score, Score]:
        run = trial.fit(data, seed, f"fold {number}")
        runs.append(run)
        return trial.score(run, data), trial.featureless(run, data, seed)

    return fitted


def cross_fit(pieces: Pieces[D], fitted: Fitted[D], seed: int) -> Verdict:
    """What is fitted to either half of the pieces, judged on the other half beside the nulls.

    Args:
        pieces: the data.
        fitted: of a part, a seed and the fold's number: the model's score, and that of particles without structure.
        seed: of the fits.
    """
    if pieces.count < 2:
        return ONE_PIECE
    try:  # before anything is fitted
        for part in folds_of(pieces)[0]:
            next(iter(pieces.tiles(part)), None)
    except Unjudged as error:
        return Verdict("undecided", f"Undecided: {error}.", math.nan)
    folds = [_fold(pieces, fitted, seed, number, *parts) for number, parts in enumerate(folds_of(pieces), 1)]
    return concluded(folds, "tile" if _few(pieces) else pieces.piece, pieces.piece)


def _fold(pieces: Pieces[D], fitted: Fitted[D], seed: int, number: int, own: D, other: D) -> Fold:
    """One fold: fitted to its own pieces, judged on the others."""
    model, plain = fitted(own, seeding.derive(seed, "verify", number), number)
    judges: dict[str, Score] = {null.name: null.fitted(pieces.tiles(own)).log_likelihood for null in pieces.nulls}
    return judged(pieces.tiles(other), model, judges | {FEATURELESS: plain}, _few(pieces))


def _few(pieces: Pieces[D]) -> bool:
    """Whether the pieces are too few to make a standard error, so that their tiles do."""
    return pieces.count // 2 < UNITS


def folds_of(pieces: Pieces[D]) -> list[tuple[D, D]]:
    """Both ways to fit one half of the pieces, every other one, and to judge the other."""
    one, other = (pieces.part(range(first, pieces.count, 2)) for first in range(2))
    return [(one, other), (other, one)]


def with_surrogates(found: Verdict, rivals: Sequence[Rival]) -> Verdict:
    """A verdict in the light of what surrogates gained."""
    found = replace(found, surrogates=tuple(rivals))
    above, count = found.above, len(rivals)
    if not rivals:
        return found
    if found.verdict == "supported" and above:
        told = f"Undecided: {above} of {count} data sets of random phases are explained as well as the data."
        return replace(found, verdict="undecided", sentence=told)
    told = f"; {count - above} of {count} surrogates of random phases below."
    return replace(found, sentence=found.sentence.removesuffix(".") + told)


def judged(pieces: Iterator[Any], model: Score, nulls: dict[str, Score], few: bool) -> Fold:
    """The gains on a part that nothing was fitted to, piece by piece in tiles; of ``few`` pieces the tiles count."""
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in nulls}
    for tiles in pieces:
        ours = model(tiles).cpu()
        for name, null in nulls.items():
            gain = ours - null(tiles).cpu()
            rows[name].append(gain if few else gain.sum()[None])
    gains = {name: torch.cat(some) for name, some in rows.items()}
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
