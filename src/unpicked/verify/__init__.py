"""Whether data support a structure at all: fitted to one part of them, it must explain the other better than nulls do.

Half maps that agree prove little: two halves of pure noise, begun with one template, agree to 0.97. What is asked here
is that the structure of one fold explains the other fold, by its marginal likelihood, better than the best of three
nulls that were fitted to the same fold: white noise, stationary noise of any spectrum, and particles that have no
structure. Pipeline and data come as a :class:`Trial`, so that nothing here depends on what is reconstructed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol, TypeVar, runtime_checkable

from unpicked import processes
from unpicked._lazy import torch
from unpicked.data.base import Data
from unpicked.data.maps import Map
from unpicked.evaluate.nulls import Null
from unpicked.ops import seeding
from unpicked.reconstruct import Reconstruction
from unpicked.verify import omit
from unpicked.verify.agreement import Rival, agreement, shells
from unpicked.verify.omit import Omitted
from unpicked.verify.verdict import (
    FEATURELESS,
    ONE_PIECE,
    Fold,
    Score,
    Verdict,
    concluded,
    gains,
    judged,
    with_surrogates,
)

UNITS = 8  # pieces of a fold that make a standard error; of fewer, their tiles do
REPEATED = ("surrogates", "starts", "omits")  # what may be added to a verdict

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
        """What every fit starts from, or the name of a method that finds it in the fit's data; None: random starts."""

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
    """A trial whose answer may repeat what it was told: a part of that can be removed."""

    @property
    def knowing(self) -> bool:
        """Whether the prior may know the part that is removed: then it must not come back of scrambled data either."""

    def template(self, run: Reconstruction) -> Map | None:
        """What the answer may repeat: the start map, or under a strong prior what a run made; None where neither is."""

    def without(self, whole: Map, part: torch.Tensor) -> Trial[Any]:
        """The same pipeline from a map that lacks a part ``(d, d, d)``, of which its prior knows nothing either."""


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
        omits: times that a part of the start map, or of what a strong prior made, is removed; none without either.
        seed: of fits, phases and parts.
        known: the first "surrogates", "starts" (:class:`Rival`) and "omits" (:class:`Omitted`), from an earlier call;
            all of them count.
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

    own, _ = folds_of(trial)[0]
    model, agreed = trial.score(first, own), first.map if found.agreement is not None else None
    for number in range(len(kept["starts"]), starts):
        run = trial.fit(own, seeding.derive(seed, "verify start", number), f"start {number + 2}")
        gain = _gains(trial, 1, trial.score(run, own), {"first": model}, few=False)["first"].sum()
        add("starts", Rival(float(gain), shells(agreed, run.map)))
    if omits and isinstance(trial, Template) and (whole := trial.template(first)) is not None:
        for number in range(len(kept["omits"]), omits):
            drawn = seeding.derive(seed, "omit", number)
            part = omit_test(trial, whole, own, drawn, f"omit {number + 1}", kept=first.map)
            if part is not None:
                add("omits", part)
    for number in range(len(kept["surrogates"]), count):
        drawn = seeding.derive(seed, "surrogate", number)
        scrambled = trial.surrogate(drawn)
        runs: list[Reconstruction] = []
        fold = _fold(scrambled, _fitted(scrambled, runs), drawn, 1, folds_of(scrambled)[0][0])
        add("surrogates", Rival(fold.gain, shells(agreed, runs[0].map)))
    # what an earlier call has seen counts, however little is asked of this one
    found = replace(found, starts=tuple(kept["starts"]), omitted=tuple(kept["omits"]))
    return with_surrogates(found, kept["surrogates"])


def omit_test(
    trial: Template, whole: Map, data: Any, seed: int, name: str = "omit", *, kept: Map | None = None
) -> Omitted | None:
    """What a part of a map, drawn by the seed, is found to be by the pipeline from the map without it.

    Args:
        trial: the pipeline.
        whole: the map.
        data: a part of the trial's data.
        seed: of the part and of the fit.
        name: of the fit.
        kept: the answer of the run from the whole map.
    """
    part = omit.region(whole, seed)
    begun = trial.without(whole, part)
    run, blank = begun.fit(data, seed, name), None
    if trial.knowing:
        scrambled = begun.surrogate(seed)
        blank = scrambled.fit(folds_of(scrambled)[0][0], seed, name).map
    return None if run.map is None else omit.judged(whole, part, run.map, seed, kept=kept, blank=blank)


def _verify(trial: Trial[D], seed: int) -> tuple[Verdict, Reconstruction | None]:
    """The verdict, and the run of the first fold, if there is one."""
    runs: list[Reconstruction] = []
    found = cross_fit(trial, _fitted(trial, runs), seed)
    if not runs:
        return found, None
    one, other = runs
    if found.verdict != "supported":  # how far the maps of nothing agree is of no use to anyone
        return found, one
    # a method that every fold applies to its own data is no common start
    shared = trial.start is not None and not isinstance(trial.start, str)
    return replace(found, agreement=agreement(one.map, other.map, shared_start=shared)), one


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

    def looked() -> None:
        for part in folds_of(pieces)[0]:
            next(iter(pieces.tiles(part)), None)

    try:  # before anything is fitted
        processes.agreed(looked)
    except Unjudged as error:
        return Verdict("undecided", f"Undecided: {error}.", math.nan)
    folds = [_fold(pieces, fitted, seed, number, own) for number, (own, _) in enumerate(folds_of(pieces), 1)]
    return concluded(folds, "tile" if _few(pieces) else pieces.piece, pieces.piece)


def _fold(pieces: Pieces[D], fitted: Fitted[D], seed: int, number: int, own: D) -> Fold:
    """One fold: fitted to its own pieces, judged on the others."""
    model, plain = fitted(own, seeding.derive(seed, "verify", number), number)
    nulls = processes.agreed(lambda: [null.fitted(pieces.tiles(own)) for null in pieces.nulls])
    judges: dict[str, Score] = {null.name: null.log_likelihood for null in nulls}
    return judged(_gains(pieces, number % 2, model, judges | {FEATURELESS: plain}, few=_few(pieces)))


def _gains(
    pieces: Pieces[D], first: int, model: Score, nulls: Mapping[str, Score], *, few: bool
) -> dict[str, torch.Tensor]:
    """Gains on every other piece from the first one (0 or 1) on, which processes share out."""
    rank, count = processes.place()
    others = range(first, pieces.count, 2)
    if len(others) < count or count == 1:
        return processes.agreed(lambda: gains(pieces.tiles(pieces.part(others)), model, nulls, few))
    mine = processes.together(lambda: gains(_left(pieces, others[rank::count]), model, nulls, few))
    parts = processes.gathered(mine)
    return {name: torch.cat([part[name] for part in parts]) for name in mine}


def _left(pieces: Pieces[D], indices: Sequence[int]) -> Iterator[Any]:
    """Tiles of some pieces, if masks leave any."""
    with suppress(Unjudged):
        yield from pieces.tiles(pieces.part(indices))


def _few(pieces: Pieces[D]) -> bool:
    """Whether the pieces are too few to make a standard error, so that their tiles do."""
    return pieces.count // 2 < UNITS


def folds_of(pieces: Pieces[D]) -> list[tuple[D, D]]:
    """Both ways to fit one half of the pieces, every other one, and to judge the other."""
    one, other = (pieces.part(range(first, pieces.count, 2)) for first in range(2))
    return [(one, other), (other, one)]
