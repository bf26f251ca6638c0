"""Error against the number of particles where single particles can hardly be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from unpicked.data.snr import energy
from unpicked.experiments.recovery import Fields, Volume, bpti, recover, shared
from unpicked.experiments.table import Check, Column, Experiment, Line, Plot, Row, Settings, Table
from unpicked.io.structure import read_structure
from unpicked.recipes import MicrographJob
from unpicked.simulate.phantom import bead_chain
from unpicked.simulate.specimens import specimen_from_structure

COLUMNS = (
    Column("volume"),
    Column("E"),
    Column("particles"),
    Column("seed"),
    Column("relative error", ".3f"),
    Column("ball error", ".3f"),
    Column("bound", ".3f"),
    Column("correlation", ".4f"),
    Column("FSC", ".3f"),
    Column("FSC at 0.7 Nyquist", ".3f"),
    Column("gap", ".1f"),
    Column("seconds", ".0f"),
)
SOURCE = "Bendory, talk of 2022 and arXiv 2303.02157 (the method; no figures at these levels)"
CHAIN = "structures/adk_open_4ake_chain_heavy.pdb"
WITHIN = 3.0  # log units by which equally good answers differ
HIGH = 0.7  # of the Nyquist frequency, where the FSC is read


@dataclass(frozen=True)
class Level:
    """One setting, and what is expected of it.

    Attributes:
        volume: "beads", "BPTI" or "4AKE chain".
        box: edge in voxels.
        energy: E; 42, 24 and 12 are SNR 0.35, 0.2 and 0.1 per pixel of a box of 11.
        particles: about so many.
        seeds: runs.
        error: relative error at most, in ``share`` of the runs; None expects nothing.
        best: relative error at most, in one run.
        mean: relative error at most, on average.
        fsc: FSC with the truth at 0.7 of the Nyquist frequency, at least, in ``share`` of the runs.
        share: of the runs.
        beside: whether the run from the truth is made, too: no more likely than 3 log units is expected.
    """

    volume: str
    box: int
    energy: float
    particles: int
    seeds: int = 5
    error: float | None = None
    best: float | None = None
    mean: float | None = None
    fsc: float | None = None
    share: float = 1.0
    beside: bool = False

    @property
    def name(self) -> str:
        """In the table of checks."""
        return f"{self.volume} {self.box}, E = {self.energy:g}, {self.particles} particles"


@dataclass(frozen=True)
class LowSNR:
    """Bead chains and molecules in micrographs, from random starts, with the default reconstruction.

    Attributes:
        levels: settings, in this order.
        chain: seed of the chains of beads.
        field: working voxels of BPTI times their size, angstrom.
        density: covered fraction.
        starts: random starts of a run.
        refined: how many of them, the most likely, go through all stages; their mean is the answer.
    """

    levels: tuple[Level, ...]
    chain: int = 10
    field: float = 55.0
    density: float = 0.12
    starts: int = 2
    refined: int = 1

    def run(self, settings: Settings) -> Table:
        """All settings, all seeds."""
        rows: list[Row] = []
        left_out = []
        for level in self.levels:
            volume = self.volume(level)
            if volume is None:
                left_out.append(f"{level.name} left out: no file {CHAIN}")
                continue
            for number, seed in enumerate(settings.runs(level.seeds)):
                rows.append(
                    settings.row(
                        COLUMNS, (level.name, seed), self.row, level, volume, seed, settings.device, number == 0
                    )
                )
        return Table(
            name="low-snr",
            title="relative error against the number of particles, random starts",
            source=SOURCE,
            columns=COLUMNS,
            rows=tuple(rows),
            checks=tuple(check for level in self.levels for check in self.checks(rows, level)),
            notes=(
                "ball error: relative error of the best map without features; above it nothing of the structure is "
                "determined",
                "bound: relative error at best (van Trees), from such data's information at the truth and the prior",
                "gap: log-likelihood less that of a run that starts at the truth; FSC: with the truth, shells from 1",
                *left_out,
            ),
            plot=_plot(rows),
            settings=asdict(self),
        )

    def volume(self, level: Level) -> Volume | None:
        """What is hidden; None where the shared data are absent."""
        if level.volume == "beads":
            return Volume(f"beads {level.box}", bead_chain(level.box, self.chain))
        if level.volume == "BPTI":
            return bpti(level.box, self.field / level.box)
        chain = shared(CHAIN)
        if chain is None:
            return None
        return Volume(level.volume, specimen_from_structure(read_structure(chain), level.box))

    def row(self, level: Level, volume: Volume, seed: int, device: str, first: bool) -> Row:
        """One run."""
        job = MicrographJob(box=level.box, starts=self.starts, refined=self.refined)
        fields = Fields.of(level.particles, level.box, self.density)
        row = recover(volume, fields, energy(level.energy), job, seed, device, beside=level.beside, bound=first)
        return {"E": level.energy, "level": level.name, "FSC at 0.7 Nyquist": _high(row["FSC"], level.box), **row}

    def checks(self, rows: Sequence[Row], level: Level) -> list[Check]:
        """What is expected of a setting."""
        there = [row for row in rows if row["level"] == level.name]
        if not there:
            return []
        out = []

        def add(figure: str, target: str, good: Sequence[bool], least: float) -> None:
            ours = f"{sum(good)} of {len(good)}"
            out.append(Check(f"{level.name}: {figure}", "none", target, ours, sum(good) >= least))

        errors = [row["relative error"] for row in there]
        wanted = level.share * len(there)
        if level.error is not None:
            add("error", f"at most {level.error:g} in {level.share:.0%}", [e <= level.error for e in errors], wanted)
        if level.best is not None:
            add("best error", f"at most {level.best:g} in one", [e <= level.best for e in errors], 1)
        if level.mean is not None:
            mean = sum(errors) / len(errors)
            out.append(
                Check(f"{level.name}: mean error", "none", f"at most {level.mean:g}", f"{mean:.3f}", mean <= level.mean)
            )
        if level.fsc is not None:
            high = [row["FSC at 0.7 Nyquist"] for row in there]
            target = f"at least {level.fsc:g} in {level.share:.0%}"
            add("FSC at 0.7 Nyquist", target, [value >= level.fsc for value in high], wanted)
        if level.beside:
            add("gap", f"at least {-WITHIN:g} in {level.share:.0%}", [row["gap"] >= -WITHIN for row in there], wanted)
        return out


def _high(fsc: Sequence[float], box: int) -> float:
    """FSC, shells from 1, at 0.7 of the Nyquist frequency, between its two shells."""
    at = HIGH * box / 2 - 1
    below = min(int(at), len(fsc) - 2)
    share = min(1.0, at - below)
    return (1 - share) * fsc[below] + share * fsc[below + 1]


def _plot(rows: Sequence[Row]) -> Plot:
    lines = []
    for volume in dict.fromkeys(row["volume"] for row in rows):
        for level in dict.fromkeys(row["E"] for row in rows if row["volume"] == volume):
            there = sorted((r for r in rows if (r["volume"], r["E"]) == (volume, level)), key=lambda r: r["particles"])
            x, label = [row["particles"] for row in there], f"{volume}, E = {level:g}"
            lines.append(Line(label, x, [row["relative error"] for row in there], "o"))
        here = [row for row in rows if row["volume"] == volume]
        ends = [min(row["particles"] for row in here), max(row["particles"] for row in here)]
        lines.append(Line(f"{volume}, ball", ends, [here[0]["ball error"]] * 2, "--"))
    return Plot(tuple(lines), "particles", "relative error", "x")


LEVELS = (
    Level("beads", 7, 24.0, 1080, mean=0.21),
    Level("beads", 11, 24.0, 312, error=0.35),
    Level("beads", 11, 42.0, 1014, error=0.31, best=0.28),
    Level("beads", 11, 24.0, 1014, error=0.32),
    Level("beads", 11, 42.0, 4056, error=0.22, share=0.8, beside=True),
    Level("BPTI", 11, 24.0, 5000, fsc=0.5, share=0.8),
    Level("4AKE chain", 11, 24.0, 5000, fsc=0.5, share=0.8),
    Level("beads", 11, 12.0, 20_000, seeds=3),
)
"""What a prototype reached, and beyond."""
CURVE = tuple(
    Level("beads", 11, level, particles, seeds=3)
    for particles in (500, 1000, 3000, 10_000, 30_000, 100_000)
    for level in (42.0, 24.0, 12.0)
)
EXPERIMENT = Experiment(
    name="low-snr",
    summary="error against the number of particles at E = 42, 24 and 12",
    source=SOURCE,
    minutes=(240, 3000),
    quick=LowSNR(LEVELS),
    full=LowSNR(CURVE, starts=4),
    cases=("levels",),
)
