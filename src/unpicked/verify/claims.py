"""Whether data contain a given map: it must explain them better than nulls do, and than other folds of its spectrum.

Nothing of the map is fitted. That a map beats noise, or a ball, says only that particles of about that size are there:
any compact fold of the same spectrum does. So the map is ranked among many such decoys, by the same likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from unpicked._lazy import torch
from unpicked.data.base import Data
from unpicked.data.maps import Map
from unpicked.verify import Pieces, cross_fit, folds_of
from unpicked.verify.verdict import Score, Verdict, Word

SURE = 4.0  # standard errors by which a decoy is behind or ahead for good
LEAST = 24  # tiles before that is said
GROUP = 25  # decoys that race together
FUTILE = 0.01  # probability, at most, that a race ends because so many are ahead though fewer would stay so
RARE = 1e-3  # and that a map at the level has so many decoys above it
LEVEL, DOUBTFUL = 0.01, 0.05  # p up to which a map is in the data, and above which nothing says so

D = TypeVar("D", bound=Data)
Fitted = TypeVar("Fitted")


class Claim(Pieces[D], Protocol[D, Fitted]):
    """Data in pieces, and a map."""

    @property
    def map(self) -> Map:
        """The map."""

    def plain(self, data: D, seed: int) -> Fitted:
        """Particles without structure, fitted; they give noise, density and scale to all that follows."""

    def score(self, plain: Fitted, map: Map | None) -> Score:
        """Log-likelihood of tiles under a map at what was fitted; None means the particles without structure."""

    def decoy(self, number: int) -> Map:
        """A wrong map that looks as right as may be."""


@dataclass(frozen=True)
class Claimed:
    """The answer.

    Attributes:
        verdict: supported, not supported or undecided.
        sentence: one that says why.
        held_out: how the map does against nulls.
        decoys: how many were judged.
        above: how many of them explain the data as well as the map.
    """

    verdict: Word
    sentence: str
    held_out: Verdict
    decoys: int = 0
    above: int = 0

    @property
    def p(self) -> float | None:
        """(1 + decoys above) / (1 + decoys): exact where the map is one of them; None where none was judged."""
        return (1 + self.above) / (1 + self.decoys) if self.decoys else None

    @property
    def p_limit(self) -> float | None:
        """The least p that so many decoys can show."""
        return 1 / (1 + self.decoys) if self.decoys else None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        told = self.held_out.to_json()
        evidence = {name: told["evidence"][name] for name in ("gain", "unit", "folds")}
        return {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "z": told["z"],
            "p": self.p,
            "p_limit": self.p_limit,
            "hand": "undetermined",  # by untilted data: the mirror image explains them as well
            "evidence": {**evidence, "decoys": self.decoys, "above": self.above},
        }


def judge_claim(
    claim: Claim[D, Fitted], decoys: int, *, seed: int = 0, tell: Callable[[int, int, int], None] | None = None
) -> Claimed:
    """Do these data contain this map?

    Source: rank test among exchangeable decoys, which ends early where more are above than a map in the data would have
    (Besag & Clifford 1991). Decoys are dropped where the tiles that are left would have to turn what is by four
    standard errors of that; and all of them where it is settled how many will be above (stochastic curtailment, Lan,
    Simon & Halperin 1982).

    Args:
        claim: data, map and decoys.
        decoys: how many at most.
        seed: of what is fitted.
        tell: called after every piece with decoys that are done with, those still in the race, and those above.

    Returns:
        "supported" where the map beats all nulls by three standard errors and p <= 0.01; "not supported" where it beats
        no null, or p > 0.05; else "undecided". Of too few data for a standard error no decoy is judged.

    Raises:
        ValueError: if decoys is not positive.
    """
    if decoys < 1:
        raise ValueError(f"decoys must be at least 1; got {decoys}")
    plains: list[Fitted] = []

    def fitted(data: D, seed: int, number: int) -> tuple[Score, Score]:
        plains.append(claim.plain(data, seed))
        return claim.score(plains[-1], claim.map), claim.score(plains[-1], None)

    held = cross_fit(claim, fitted, seed)
    if not math.isfinite(held.z):  # one piece, or too few for a standard error: ranks would mean nothing either
        return Claimed(held.verdict, held.sentence, held)
    if held.verdict == "not supported":
        best = min(held.folds, key=lambda fold: fold.gain).best
        sentence = f"Not supported: the map explains the data no better than {best}, z = {held.z:.1f}."
        return Claimed("not supported", sentence, held)
    others = [other for _, other in folds_of(claim)]
    done = above = 0
    while done < decoys and above < enough(max(done, 1)):
        group = range(done, min(done + GROUP, decoys))
        batches = _alternating(*(claim.tiles(other) for other in others))

        def told(left: int, ahead: int, done: int = group.stop, before: int = above) -> None:
            if tell is not None:
                tell(done - left, left, before + ahead)

        above += _race(claim, plains, batches, group, enough(group.stop) - above, told)
        done = group.stop
        if tell is not None:
            tell(done, 0, above)
    return _concluded(held, done, above)


def _concluded(held: Verdict, decoys: int, above: int) -> Claimed:
    """What ranks and nulls amount to."""
    p, limit = (1 + above) / (1 + decoys), 1 / (1 + decoys)
    told = f"{decoys - above} of {decoys} other folds of its spectrum explain the data worse, p = {p:.2g}"
    gain = f"z = {held.z:.1f} over {min(held.folds, key=lambda fold: fold.gain).best}"
    word: Word = "undecided"
    sentence = f"Undecided: {told}; {gain}"
    if p > DOUBTFUL and above >= enough(decoys):
        word, sentence = "not supported", f"Not supported: {told}; the data do not single this map out ({gain})"
    elif held.verdict == "supported" and p <= LEVEL:
        word, sentence = "supported", f"The data contain this map: {told}; {gain}"
    elif limit > LEVEL:
        sentence += "; more decoys could say more"
    elif held.verdict != "supported":
        sentence += "; it does not beat the nulls by three standard errors in every fold"
    return Claimed(word, sentence + ".", held, decoys, above)


def _alternating(*iterators: Iterator[torch.Tensor]) -> Iterator[tuple[int, torch.Tensor]]:
    """Tiles of all, in turns, with the number of the iterator."""
    left = dict(enumerate(iterators))
    while left:
        for number, iterator in list(left.items()):
            tiles = next(iterator, None)
            if tiles is None:
                del left[number]
            else:
                yield number, tiles


def _race(
    claim: Claim[D, Fitted],
    plains: Sequence[Fitted],
    batches: Iterator[tuple[int, torch.Tensor]],
    decoys: range,
    enough: int,
    tell: Callable[[int, int], None],
) -> int:
    """How many decoys end above the map; where it is settled that ``enough`` do the race ends, and so many are told."""
    own_scores = [claim.score(plain, claim.map) for plain in plains]
    maps = (claim.decoy(number) for number in decoys)
    scores = [[claim.score(plain, decoy) for plain in plains] for decoy in maps]
    running = torch.arange(len(decoys))
    sums, squares = torch.zeros(2, len(decoys), dtype=torch.float64)
    seen = ahead = 0
    for passed, (fold, tiles) in enumerate(batches, 1):
        own = own_scores[fold](tiles)
        seen += len(own)
        for number in running.tolist():
            lead = (own - scores[number][fold](tiles)).double()
            sums[number] += lead.sum()
            squares[number] += lead.square().sum()
        if seen < LEAST:
            continue
        sure = _sureness(sums[running], squares[running], seen, 1 - passed / claim.count)
        ahead += int((sure < -SURE).sum())
        running, sure = running[sure.abs() <= SURE], sure[sure.abs() <= SURE]
        tell(len(running), ahead)
        if not len(running):
            return ahead
        if settled(sure, enough - ahead):
            return max(ahead, enough)
    return ahead + int((sums[running] <= 0).sum())


def _sureness(sums: torch.Tensor, squares: torch.Tensor, seen: int, left: float) -> torch.Tensor:
    """Standard errors by which the leads that ``seen`` tiles sum to will keep their signs through a share that is left.

    Without belief in any drift the final sum is expected in proportion; its standard deviation about that, over the
    sum that is expected, is sqrt(left) times the relative error of the present sum.
    """
    spread = (squares - sums.square() / seen).clamp(min=0).sqrt()
    return torch.nan_to_num(sums / (spread * math.sqrt(left)), nan=0.0)  # no lead and no spread: the very same map


def enough(decoys: int) -> int:
    """So many of some decoys above a map that one at p = 0.01 would have them in a thousandth of cases only."""
    number, share = 0, 1.0  # of cases with at least so many
    while share > RARE:
        share -= math.comb(decoys, number) * LEVEL**number * (1 - LEVEL) ** (decoys - number)
        number += 1
    return number


def settled(sure: torch.Tensor, enough: int) -> bool:
    """Whether at least ``enough`` leads end negative, but for a probability of one in a hundred at one look.

    Of the m leads that are most surely negative, fewer than ``enough`` stay so with a probability of at most the sum of
    their chances to turn over m - enough + 1 (Markov), however they hang together; the best m counts.

    Args:
        sure: leads in standard errors of what they end at, ``(n,)``.
        enough: number of leads; none are there already.
    """
    if enough < 1 or len(sure) < enough:
        return enough < 1
    turned = torch.special.ndtr(sure.sort().values).cumsum(0)[enough - 1 :]
    return bool((turned / torch.arange(1, len(turned) + 1)).min() <= FUTILE)
