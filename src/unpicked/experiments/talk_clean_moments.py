"""Volumes from autocorrelations of their projections without noise, as in a talk of 2022."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field

from unpicked._lazy import torch
from unpicked.estimators.bispectrum_fit import Inversion, invert
from unpicked.evaluate.coefficients import lay
from unpicked.evaluate.fsc import fsc
from unpicked.experiments.recovery import Volume, talk_volumes
from unpicked.experiments.table import Check, Column, Experiment, Line, Plot, Row, Settings, Table
from unpicked.model import expected_volumes
from unpicked.model.expected_volumes import VolumeMoments
from unpicked.objects.ball import Ball
from unpicked.ops import seeding
from unpicked.simulate.phantom import CHAINS, bead_chain

COLUMNS = (
    Column("volume"),
    Column("box"),
    Column("lmax"),
    Column("seed"),
    Column("coefficients"),
    Column("energy", ".3f"),
    Column("relative error", ".2g"),
    Column("of the starts", ".2g"),
    Column("cost", ".1e"),
    Column("density error", ".1e"),
    Column("FSC", ".3f"),
    Column("seconds", ".0f"),
)
SOURCE = "Bendory, talk of 2022; Bendory et al., arXiv 1810.00226"
DENSITY = 0.1  # of the copies in the moments; the fit does not know it


@dataclass(frozen=True)
class Size:
    """A box and a degree.

    Attributes:
        box: edge in voxels.
        lmax: largest degree of the volumes, which are hidden as their expansions.
        radii: of the moments.
        wanted: relative error at most in three volumes of five; None asks for nothing.
    """

    box: int
    lmax: int
    radii: int
    wanted: float | None = None

    @property
    def name(self) -> str:
        """For ``--only``."""
        return f"lmax {self.lmax}, box {self.box}"


@dataclass(frozen=True)
class TalkCleanMoments:
    """Every volume at every size: moments of one copy times a density, and back.

    Attributes:
        sizes: boxes and degrees.
        how: the inversion.
        voxel: working voxel of BPTI in angstrom, at 11 voxels; larger boxes have smaller ones.
        seeds: runs per volume and size.
    """

    sizes: tuple[Size, ...] = (Size(11, 2, 16, 0.1), Size(11, 3, 16, 0.2))
    how: Inversion = field(default_factory=Inversion)
    voxel: float = 5.0
    seeds: int = 1

    def run(self, settings: Settings) -> Table:
        """All sizes, all volumes, all seeds."""
        rows: list[Row] = []
        notes: dict[str, None] = {}
        for size in self.sizes:
            volumes, left_out = talk_volumes(size.box, self.voxel * 11 / size.box, settings)
            if size.box in CHAINS:
                volumes = [*volumes, Volume("beads", bead_chain(size.box, 10))]
            notes |= dict.fromkeys([*(volume.note for volume in volumes if volume.note), *left_out])
            for seed in settings.runs(self.seeds):
                for volume in volumes:
                    rows.append(settings.row(COLUMNS, (volume.name, size.name, seed), self.invert, volume, size, seed))
        return Table(
            name="talk-clean-moments",
            title="volumes of low degree from autocorrelations without noise",
            source=SOURCE,
            columns=COLUMNS,
            rows=tuple(rows),
            checks=tuple(check for size in self.sizes if (check := _check(size, rows)) is not None),
            notes=(
                "hidden are expansions of degree lmax, of unit norm; energy: their share of the volume's",
                "relative error: of the start of least cost, on the better hand, turned onto the truth; no scale is "
                "fitted; of the starts: the errors of all, by their cost",
                "cost: half the sum of squared residuals, each over the power at its sides; below 1e-24 it is rounding",
                "neither a mirror nor a rotation can be seen in these moments",
                *notes,
            ),
            plot=_plot(rows),
            settings=asdict(self),
        )

    def invert(self, volume: Volume, size: Size, seed: int) -> Row:
        """One volume."""
        ball, places = Ball(size.box, size.lmax), expected_volumes.triangles(size.radii)
        values = volume.specimen.truth().values.double()
        truth = ball.fit(values)
        share = float((ball.values(truth).norm() / values.norm()).square())
        truth = truth / truth.norm()
        clean = expected_volumes.expected_volumes(truth[None], ball, places)
        target = VolumeMoments(*(DENSITY * part for part in clean))
        began = time.perf_counter()
        found = invert(target, ball, places, self.how, seeding.derive(seed, "inversion"))
        seconds = time.perf_counter() - began
        laid = [lay(x, truth, ball) for x in found.x]
        curve = fsc(ball.values(laid[0].x), ball.values(truth))
        return {
            "volume": volume.name,
            "box": size.box,
            "lmax": size.lmax,
            "seed": seed,
            "coefficients": ball.size,
            "energy": share,
            "relative error": laid[0].error,
            "of the starts": [one.error for one in laid],
            "cost": float(found.cost[0]),
            "density error": abs(float(found.density[0]) / DENSITY - 1),
            "FSC": torch.as_tensor(curve)[1:].tolist(),
            "seconds": seconds,
        }


def _check(size: Size, rows: list[Row]) -> Check | None:
    """Three volumes of five."""
    errors = [row["relative error"] for row in rows if (row["box"], row["lmax"]) == (size.box, size.lmax)]
    if size.wanted is None:
        return None
    good = sum(error <= size.wanted for error in errors)
    return Check(
        what=f"lmax {size.lmax}, {size.box} voxels: volumes recovered",
        published="lmax 5 at 20 voxels: a picture, no figures",
        target=f"relative error <= {size.wanted:g} in 3 of 5",
        ours=f"{good} of {len(errors)}; errors {', '.join(f'{error:.2g}' for error in errors)}",
        passed=good >= 0.6 * len(errors),
    )


def _plot(rows: list[Row]) -> Plot:
    lines = [
        Line(f"{row['volume']}, lmax {row['lmax']}", range(1, len(row["FSC"]) + 1), row["FSC"]) for row in rows[:10]
    ]
    return Plot(tuple(lines), "shell", "Fourier shell correlation with the expansion")


EXPERIMENT = Experiment(
    name="talk-clean-moments",
    summary="volumes of low degree from their autocorrelations without noise",
    source=SOURCE,
    minutes=(5, 60),
    quick=TalkCleanMoments(),
    full=TalkCleanMoments(
        sizes=(
            Size(11, 2, 16, 0.1),
            Size(11, 3, 16, 0.2),
            Size(11, 4, 16),
            Size(11, 5, 16),
            Size(20, 5, 24),
        )
    ),
    cases=("sizes",),
)
