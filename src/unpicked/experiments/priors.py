"""How many particles a prior saves: those needed for an equal FSC, with it and without."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import unpicked
from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.snr import energy
from unpicked.data.structure import Structure
from unpicked.evaluate.compare import compare
from unpicked.experiments.recovery import Fields, Volume, recover
from unpicked.experiments.table import Check, Column, Experiment, Line, Plot, Row, Settings, Table
from unpicked.io.mrc import write_map
from unpicked.io.structure import read_structure
from unpicked.ops import seeding
from unpicked.recipes import MicrographJob, ready
from unpicked.recipes.micrographs import begun
from unpicked.recipes.structures import given
from unpicked.recipes.trials import MicrographTrial
from unpicked.simulate.conformers import deformed, twisted
from unpicked.simulate.phantom import bead_chain
from unpicked.simulate.specimens import specimen_from_structure
from unpicked.verify import omit_test

COLUMNS = (
    Column("volume"),
    Column("E"),
    Column("prior"),
    Column("particles"),
    Column("seed"),
    Column("mean FSC", ".3f"),
    Column("FSC", ".3f"),
    Column("relative error", ".3f"),
    Column("ball error", ".3f"),
    Column("recovered", ".2f"),
    Column("without data", ".2f"),
    Column("p", ".2f"),
    Column("came back"),
    Column("seconds", ".0f"),
)
SOURCE = "Bendory, talk of 2022 (priors are named as future work; no figures)"
NONE, UNTOLD = "none", "the mean of the structures, no data"
PRIORS: Mapping[str, Mapping[str, object]] = {
    NONE: {"prior": "none", "signed": True},
    "wilson": {"signed": True},
    "wilson, positive": {},
    "structures": {},
}
CONFORMER = "BPTI, another conformation"
FIELD = 55.0  # working voxels of BPTI times their size, angstrom
FINE = 55  # voxels of the given conformations
GIVEN = range(100, 112)  # seeds of the given conformations
BENT, TWIST = 4.0, 180.0  # angstrom and degrees: how far the given ones are bent, and the true one twisted
SAVED = {"wilson": 2.0, "best": 3.0}  # times as few particles, wanted
BEST = "best"


@dataclass(frozen=True)
class Study:
    """One volume at one energy.

    Attributes:
        volume: "beads" or "BPTI, another conformation".
        box: edge in voxels.
        energy: E.
        particles: sizes of the data.
        priors: names of ``PRIORS``.
        more: sizes of the run without a prior alone.
        seeds: data sets of every size.
        omits: noise-only omit tests of every prior.
    """

    volume: str
    box: int
    energy: float
    particles: tuple[int, ...]
    priors: tuple[str, ...]
    more: tuple[int, ...] = ()
    seeds: int = 5
    omits: int = 0

    @property
    def name(self) -> str:
        """On the command line and in the table of checks."""
        return f"{self.volume} {self.box}, E = {self.energy:g}"


@dataclass(frozen=True)
class Priors:
    """Reconstructions with several priors, on the same micrographs, and from the same starts.

    Of beads these are random, of the conformation the mean of the given ones, of which none is the truth,
    nor of its kind: they are bent by waves, the truth is twisted.

    Attributes:
        studies: volumes, energies and sizes.
        chain: seed of the chain of beads.
        density: covered fraction.
        starts: random starts of a run.
    """

    studies: tuple[Study, ...]
    chain: int = 10
    density: float = 0.12
    starts: int = 2

    def run(self, settings: Settings) -> Table:
        """All studies, priors, sizes and seeds."""
        rows: list[Row] = []
        with tempfile.TemporaryDirectory() as folder:
            files = conformations(Path(folder)) if any("structures" in study.priors for study in self.studies) else []
            for study in self.studies:
                if "structures" in study.priors:
                    rows.append(settings.row(COLUMNS, (study.name, "no data"), self.untold, study, files))
                for prior in study.priors:
                    for count in (*study.particles, *(study.more if prior == NONE else ())):
                        for seed in settings.runs(study.seeds):
                            key = (study.name, prior, count, seed)
                            rows.append(
                                settings.row(COLUMNS, key, self.row, study, prior, count, seed, files, settings)
                            )
                    for seed in settings.runs(study.omits) if study.omits else ():
                        noise = (study.name, prior, "noise", seed)
                        rows.append(settings.row(COLUMNS, noise, self.omitted, study, prior, seed, files, settings))
        return Table(
            name="priors",
            title="mean FSC against the number of particles, with and without priors",
            source=SOURCE,
            columns=COLUMNS,
            rows=tuple(rows),
            checks=tuple(check for study in self.studies for check in checks(rows, study)),
            notes=(
                "mean FSC: with the truth, over the shells from 1; saved: particles that a run without a prior needs "
                "for an equal mean FSC, over those of the run with it",
                "rows on noise: the omit test, from the true map (of given structures: their mean) without 15 % of it; "
                "nothing may come back",
            ),
            plot=_plot(rows),
            settings=asdict(self),
        )

    def job(self, study: Study, prior: str, files: Sequence[str]) -> MicrographJob:
        """The reconstruction."""
        job = MicrographJob(box=study.box, starts=self.starts, **PRIORS[prior])  # type: ignore[arg-type]
        return replace(job, structures=tuple(files)) if prior == "structures" else job

    def volume(self, study: Study) -> Volume:
        """What is hidden."""
        if study.volume == "beads":
            return Volume(f"beads {study.box}", bead_chain(study.box, self.chain))
        return Volume(study.volume, specimen_from_structure(twisted(_bpti(), TWIST), study.box, FIELD / study.box))

    def row(self, study: Study, prior: str, count: int, seed: int, files: Sequence[str], settings: Settings) -> Row:
        """One run."""
        fields = Fields.of(count, study.box, self.density)
        job = self.job(study, prior, files)
        known = replace(MicrographJob(box=study.box), structures=tuple(files)) if study.volume == CONFORMER else None

        def start(data: Micrographs) -> Map | None:
            """The mean of the given conformations, for runs that believe in them or not."""
            if known is None or job.structures:
                return None
            found = begun(ready(data, known), known, None)
            return found if isinstance(found, Map) else None

        found = recover(self.volume(study), fields, energy(study.energy), job, seed, settings.device, start=start)
        mean = sum(found["FSC"]) / len(found["FSC"])
        return {**found, "study": study.name, "E": study.energy, "prior": prior, "asked": count, "mean FSC": mean}

    def untold(self, study: Study, files: Sequence[str]) -> Row:
        """The mean of the given conformations beside the truth, without any data."""
        truth = self.volume(study).specimen.truth()
        mean = given(files, study.box, truth.voxel_size).volumes.mean(0)
        found = compare(Map(mean, truth.voxel_size), truth)
        fsc = found.fsc[1:]
        row = {"volume": study.volume, "study": study.name, "E": study.energy, "prior": UNTOLD, "particles": 0}
        return row | {"FSC": fsc, "mean FSC": sum(fsc) / len(fsc), "relative error": found.relative_error}

    def omitted(self, study: Study, prior: str, seed: int, files: Sequence[str], settings: Settings) -> Row:
        """The omit test on noise alone."""
        volume, job = self.volume(study), self.job(study, prior, files)
        fields = Fields.of(study.particles[0], study.box, self.density)
        data, truth = fields.simulate(volume.specimen, energy(study.energy), seed)
        generator = seeding.generator(seed, "noise alone")
        noise = truth.sigma * torch.randn((len(data), *data.shape), generator=generator)
        prepared = ready(Micrographs(InMemory(noise), data.pixel_size, data.names), job)
        start = begun(prepared, job, None if prior == "structures" else volume.specimen.truth())
        if not isinstance(start, Map):
            raise ValueError("an omit test needs a start map; got none")
        trial = MicrographTrial(prepared, job, start, settings.device)
        judged = omit_test(trial, start, prepared.micrographs, seeding.derive(seed, "omit", 0))
        row = {"volume": volume.name, "study": study.name, "E": study.energy, "prior": prior, "particles": 0}
        row |= {"seed": seed, "came back": judged is not None and judged.came_back}
        return (
            row
            if judged is None
            else row | {"recovered": judged.recovered, "without data": judged.blank, "p": judged.p}
        )


def conformations(folder: Path) -> list[str]:
    """Files of BPTI's other conformations, at a fine grid."""
    out = []
    for seed in GIVEN:
        map = specimen_from_structure(deformed(_bpti(), seed, BENT), FINE, FIELD / FINE).truth()
        path = folder / f"conformation-{seed}.mrc"
        write_map(map, path)
        out.append(str(path))
    return out


def _bpti() -> Structure:
    return read_structure(Path(unpicked.__file__).parent / "simulate" / "5pti.cif")


def checks(rows: Sequence[Row], study: Study) -> list[Check]:
    """Particles saved by every prior, and that none brings back what noise does not hold."""
    here = [row for row in rows if row["study"] == study.name]
    curves = {name: curve(here, name) for name in study.priors}
    out = []
    own = [
        name for name in study.priors if name not in (NONE, "structures")
    ]  # whose beliefs are no map of this molecule
    gains = {name: saved(curves[NONE], curves[name]) for name in own if curves.get(NONE)}
    for name, (times, word) in gains.items():
        wanted = SAVED.get(name)
        met = wanted is not None and times >= wanted and word != "at most "
        target, passed = (f"at least {wanted:g} times", met) if wanted else ("-", None)
        what = f"{study.name}: particles saved by {name}"
        out.append(Check(what, "none", target, f"{word}{times:.1f} times", passed))
    if gains:
        times, word, name = max((*found, name) for name, found in gains.items())
        met = times >= SAVED[BEST] and word != "at most "
        ours = f"{word}{times:.1f} times ({name})"
        out.append(Check(f"{study.name}: by the best prior", "none", f"at least {SAVED[BEST]:g} times", ours, met))
    untold = [row["mean FSC"] for row in here if row["prior"] == UNTOLD]
    if untold and curves.get("structures"):
        count, level = curves["structures"][-1]
        what = f"{study.name}: mean FSC of structures beyond that without data, {count:g} particles"
        out.append(Check(what, "none", "above 0", f"{level - untold[0]:+.3f}", level > untold[0]))
    tests = [row for row in here if "came back" in row]
    if tests:
        back = sum(bool(row["came back"]) for row in tests)
        out.append(
            Check(f"{study.name}: omit test on noise", "none", "none passes", f"{back} of {len(tests)}", not back)
        )
    return out


def curve(rows: Sequence[Row], prior: str) -> list[tuple[float, float]]:
    """Number of particles and mean FSC over seeds, rising in particles."""
    there = [row for row in rows if row["prior"] == prior and row["particles"]]
    out = []
    for count in sorted({row["asked"] for row in there}):
        found = [row["mean FSC"] for row in there if row["asked"] == count]
        out.append((float(count), sum(found) / len(found)))
    return out


def saved(
    plain: Sequence[tuple[float, float]], better: Sequence[tuple[float, float]]
) -> tuple[float, Literal["", "at least ", "at most "]]:
    """Times as few particles for an equal FSC: the highest that both curves reach.

    Curves are made to rise first (:func:`rising`). Where the one with a prior begins above that level, it is at least
    so much; where the one without does, at most.

    Args:
        plain: particles and FSC without a prior, rising in particles.
        better: with it.
    """
    plain, better = rising(plain), rising(better)
    level = min(plain[-1][1], better[-1][1])
    begun = (plain[0][1] >= level, better[0][1] >= level)
    word: Literal["", "at least ", "at most "] = (
        "at least " if begun == (False, True) else "at most " if begun[0] else ""
    )
    return needed(plain, level) / needed(better, level), word


def rising(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The nearest curve that nowhere falls: neighbours that do are replaced by their mean (isotonic regression)."""
    blocks: list[list[float]] = []
    for _, value in points:
        blocks.append([value])
        while len(blocks) > 1 and _mean(blocks[-2]) > _mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    levels = [_mean(block) for block in blocks for _ in block]
    return [(count, level) for (count, _), level in zip(points, levels, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def needed(points: Sequence[tuple[float, float]], level: float) -> float:
    """Particles at which a curve first reaches a level that it does reach, linear in their logarithm."""
    if points[0][1] >= level:
        return points[0][0]
    for (low, below), (high, above) in pairwise(points):
        if above >= level:
            share = (level - below) / (above - below)
            return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    raise ValueError(f"the curve does not reach {level:g}")


def _plot(rows: Sequence[Row]) -> Plot:
    lines = []
    for study in dict.fromkeys(row["study"] for row in rows):
        here = [row for row in rows if row["study"] == study]
        for prior in dict.fromkeys(row["prior"] for row in here):
            points = curve(here, prior)
            lines.append(Line(f"{study}, {prior}", [x for x, _ in points], [y for _, y in points]))
    return Plot(tuple(lines), "particles", "mean FSC with the truth", "x")


ALIKE = (NONE, "wilson", "wilson, positive")
SIZES, MORE = (150, 300, 600, 1200), (4800,)
EXPERIMENT = Experiment(
    name="priors",
    summary="particles needed for equal FSC, with and without priors",
    source=SOURCE,
    minutes=(8, 130),
    quick=Priors((Study("beads", 7, 42.0, SIZES, ALIKE, seeds=2, omits=1),)),
    full=Priors(
        (
            Study("beads", 7, 42.0, SIZES, ALIKE, MORE, omits=2),
            Study("beads", 7, 24.0, SIZES, ALIKE, MORE),
            Study(CONFORMER, 7, 42.0, (150, 600), tuple(PRIORS), seeds=3, omits=2),
            Study("beads", 11, 42.0, (300, 900), ALIKE, seeds=1),
        )
    ),
    cases=("studies",),
)
