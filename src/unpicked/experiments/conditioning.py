"""How well the moments of projections determine a volume: the spread of their Jacobian's singular values."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from unpicked._lazy import torch
from unpicked.estimators import bispectrum_fit
from unpicked.estimators.bispectrum_fit import Weighting
from unpicked.experiments.recovery import bpti
from unpicked.experiments.table import Check, Column, Experiment, Line, Plot, Row, Settings, Table
from unpicked.model import expected_volumes
from unpicked.objects.ball import Ball

COLUMNS = (
    Column("lmax"),
    Column("coefficients"),
    Column("triangles"),
    Column("uniform", ".1e"),
    Column("bicoherence", ".1e"),
    Column("energy", ".3f"),
    Column("above 1e-3"),
    Column("above 1e-4"),
)
SOURCE = "Bendory, talk of 2022, in words: highly ill-conditioned; no figures"
GAUGE = 3  # rotations, which no moment sees
ILL_FROM, ILL = 4, 1e6  # degree and condition number


@dataclass(frozen=True)
class Conditioning:
    """BPTI at rising degrees.

    Attributes:
        degrees: largest ones.
        box: edge in voxels.
        radii: of the moments.
        voxel: angstrom.
    """

    degrees: tuple[int, ...] = (2, 3, 4, 5, 6)
    box: int = 11
    radii: int = 16
    voxel: float = 5.0

    def run(self, settings: Settings) -> Table:
        """All degrees."""
        rows = [settings.row(COLUMNS, (lmax,), self.row, lmax) for lmax in self.degrees]
        return Table(
            name="conditioning",
            title=f"condition of the moments of BPTI in {self.box} voxels of {self.voxel:g} A",
            source=SOURCE,
            columns=COLUMNS,
            rows=tuple(rows),
            checks=_checks(rows),
            notes=(
                "uniform, bicoherence: largest over least singular value of the weighted Jacobian, the three rotations "
                "left out",
                "energy: share of the volume's in degrees up to lmax",
                "above: singular values, bicoherence weights, above this share of the largest: what data of such a "
                "precision determine",
            ),
            plot=Plot(
                tuple(
                    Line(kind, [row["lmax"] for row in rows], [row[kind] for row in rows])
                    for kind in ("uniform", "bicoherence")
                ),
                "largest degree",
                "condition number",
                "y",
            ),
            settings=asdict(self),
        )

    def row(self, lmax: int) -> Row:
        """One degree."""
        ball, places = Ball(self.box, lmax), expected_volumes.triangles(self.radii)
        values = bpti(self.box, self.voxel).specimen.truth().values.double()
        x = ball.fit(values)
        share = float((ball.values(x).norm() / values.norm()).square())
        moments, slopes = expected_volumes.expected_volumes_slope((x / x.norm())[None], ball, places)
        jacobian, found = torch.cat([part[0] for part in slopes]), {}
        kinds: tuple[Weighting, ...] = ("uniform", "bicoherence")
        for kind in kinds:
            weight = torch.cat(bispectrum_fit.weights(moments.power[0], places, kind))
            found[kind] = torch.linalg.svdvals(jacobian * weight[:, None])
        condition = {kind: float(value[0] / value[-1 - GAUGE]) for kind, value in found.items()}
        sharp = found["bicoherence"] / found["bicoherence"][0]
        return {
            "lmax": lmax,
            "coefficients": ball.size,
            "triangles": len(places.sides),
            "uniform": condition["uniform"],
            "bicoherence": condition["bicoherence"],
            "energy": share,
            "above 1e-3": int((sharp > 1e-3).sum()),
            "above 1e-4": int((sharp > 1e-4).sum()),
        }


def _checks(rows: list[Row]) -> tuple[Check, ...]:
    """What the talk says, and what the weights are for."""
    high = [row for row in rows if row["lmax"] >= ILL_FROM]
    ill = Check(
        what=f"condition from degree {ILL_FROM} on",
        published="highly ill-conditioned",
        target=f"at least {ILL:.0e}, however the moments are weighted",
        ours=", ".join(f"{row['bicoherence']:.1e}" for row in high) or "not run",
        passed=all(row["bicoherence"] >= ILL for row in high) if high else None,
    )
    gains = [row["uniform"] / row["bicoherence"] for row in rows]
    weighted = Check(
        what="gain of bicoherence weights",
        published="not in the talk",
        target="a factor of ten at every degree",
        ours=", ".join(f"{gain:.0f}" for gain in gains),
        passed=min(gains) >= 10,
    )
    return ill, weighted


EXPERIMENT = Experiment(
    name="conditioning",
    summary="how well the moments of projections determine a volume, by degree",
    source=SOURCE,
    minutes=(0.5, 2),
    quick=Conditioning(),
    full=Conditioning(degrees=(2, 3, 4, 5, 6, 8, 10)),
    cases=("degrees",),
)
