"""Error against the number of particles where single particles can hardly be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from unpicked.data.snr import energy
from unpicked.experiments.recovery import Fields, Volume, bpti, recover
from unpicked.experiments.table import Check, Column, Experiment, Line, Plot, Row, Settings, Table
from unpicked.recipes import MicrographJob
from unpicked.simulate.phantom import bead_chain

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
    Column("seconds", ".0f"),
)
SOURCE = "Bendory, talk of 2022 and arXiv 2303.02157 (the method; no figures at these levels)"


@dataclass(frozen=True)
class LowSNR:
    """Bead chains and BPTI in micrographs, from random starts, with the default reconstruction.

    Attributes:
        energies: E = 42, 24 and 12 are SNR 0.35, 0.2 and 0.1 per pixel of a box of 11.
        particles: about so many of each.
        chains: boxes of the bead chains.
        molecule: box of BPTI; 0 leaves it out.
        chain: seed of the chains.
        field: working voxels of BPTI times their size, angstrom.
        density: covered fraction.
        starts: random starts of a run.
        seeds: runs per setting.
        judged: levels at which the error of the largest number of particles must be below the ball's.
    """

    energies: tuple[float, ...] = (42.0, 24.0, 12.0)
    particles: tuple[int, ...] = (300, 1000)
    chains: tuple[int, ...] = (7,)
    molecule: int = 7
    chain: int = 10
    field: float = 55.0
    density: float = 0.12
    starts: int = 2
    seeds: int = 1
    judged: tuple[float, ...] = (42.0, 24.0)

    def run(self, settings: Settings) -> Table:
        """All volumes, levels and numbers of particles; few particles first."""
        rows: list[Row] = []
        for seed in settings.runs(self.seeds):
            for particles in self.particles:
                for volume in self.volumes():
                    for level in self.energies:
                        row = self.row(volume, level, particles, seed, settings.device)
                        rows.append(settings.done(row, COLUMNS))
        return Table(
            name="low-snr",
            title="relative error against the number of particles, random starts",
            source=SOURCE,
            columns=COLUMNS,
            rows=tuple(rows),
            checks=tuple(self.check(rows, level) for level in self.energies),
            notes=(
                "ball error: relative error of the best map without features; above it nothing of the structure is "
                "determined",
                "bound: relative error at best (van Trees), from the data's information at the truth and the prior; "
                "too high where particles are not many times the coefficients, as little information is then summed",
                "FSC: with the truth, shells from 1",
            ),
            plot=_plot(rows),
            settings=asdict(self),
        )

    def volumes(self) -> list[Volume]:
        """Bead chains, and BPTI."""
        out = [Volume(f"beads {box}", bead_chain(box, self.chain)) for box in self.chains]
        return out + ([bpti(self.molecule, self.field / self.molecule)] if self.molecule else [])

    def row(self, volume: Volume, level: float, particles: int, seed: int, device: str) -> Row:
        """One run."""
        box = volume.specimen.box
        job = MicrographJob(box=box, starts=self.starts)
        fields = Fields.of(particles, box, self.density)
        return {"E": level, **recover(volume, fields, energy(level), job, seed, device)}

    def check(self, rows: Sequence[Row], level: float) -> Check:
        """Whether something of the structure is determined with the most particles."""
        there = [row for row in rows if row["E"] == level]
        most: dict[str, int] = {}
        for row in there:
            most[row["volume"]] = max(row["particles"], most.get(row["volume"], 0))
        last = [row for row in there if row["particles"] == most[row["volume"]]]
        good = sum(row["relative error"] < row["ball error"] for row in last)
        judged = level in self.judged
        return Check(
            what=f"E = {level:g}, {max(most.values())} particles",
            published="none",
            target="error below the ball's in every run" if judged else "none at this number of particles",
            ours=f"{good} of {len(last)}",
            passed=good == len(last) if judged else None,
        )


def _plot(rows: Sequence[Row]) -> Plot:
    lines = []
    for volume in dict.fromkeys(row["volume"] for row in rows):
        for level in dict.fromkeys(row["E"] for row in rows):
            there = sorted((r for r in rows if (r["volume"], r["E"]) == (volume, level)), key=lambda r: r["particles"])
            x, label = [row["particles"] for row in there], f"{volume}, E = {level:g}"
            lines.append(Line(label, x, [row["relative error"] for row in there]))
        here = [row for row in rows if row["volume"] == volume]
        ends = [min(row["particles"] for row in here), max(row["particles"] for row in here)]
        lines.append(Line(f"{volume}, ball", ends, [here[0]["ball error"]] * 2, "--"))
    return Plot(tuple(lines), "particles", "relative error", "x")


EXPERIMENT = Experiment(
    name="low-snr",
    summary="error against the number of particles at E = 42, 24 and 12",
    source=SOURCE,
    minutes=(10, 3000),
    quick=LowSNR(),
    full=LowSNR(particles=(500, 1000, 3000, 10_000, 30_000, 100_000), chains=(7, 11), molecule=11, starts=4, seeds=3),
)
