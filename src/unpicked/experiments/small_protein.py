"""Small proteins in simulated exposures: what works at which mass and optics, straight from micrographs or picked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import unpicked
from unpicked.data.micrographs import Micrographs
from unpicked.data.structure import Structure
from unpicked.experiments.picked import NEAR, OFF, Beside, Field, in_steps, likeness, row_of, verdict
from unpicked.experiments.recovery import shared
from unpicked.experiments.table import Check, Column, Experiment, Line, Plot, Row, Settings, Table
from unpicked.io.structure import read_structure
from unpicked.ops import seeding
from unpicked.plan.physics import Microscope, particle_energy
from unpicked.recipes import MicrographJob, ready
from unpicked.recipes.micrographs import fixed
from unpicked.recipes.trials import MicrographTrial
from unpicked.simulate.exposure import Exposure, in_ice
from unpicked.simulate.micrographs import Simulation, Specimen, simulate_micrographs
from unpicked.simulate.optics import draw_optics, drawn
from unpicked.simulate.specimens import specimen_from_structure

COLUMNS = (
    Column("protein"),
    Column("kDa", ".1f"),
    Column("optics"),
    Column("way"),
    Column("particles"),
    Column("picks"),
    Column("precision", ".3f"),
    Column("recall", ".3f"),
    Column("best F1", ".3f"),
    Column("E", ".1f"),
    Column("E planned", ".1f"),
    Column("E found", ".1f"),
    Column("correlation", ".3f"),
    Column("FSC", ".2f"),
    Column("resolution", ".1f"),
    Column("verdict"),
    Column("z", ".1f"),
    Column("seconds", ".0f"),
)
SOURCE = "this package's own design: the smallest proteins of the talk, as a microscope would show them"
DIMER, CHAIN = "structures/4ake_dimer_workshop.pdb", "structures/adk_open_4ake_chain_heavy.pdb"
WANTED = 18.0  # angstrom, of the dimer at 1 um
STRAIGHT = "micrographs"
STYLES = {STRAIGHT: "o-", "LoG picks": ":", "template picks": "--", "posterior picks": "-."}


@dataclass(frozen=True)
class Protein:
    """A molecule, its mass in kDa, and the box in working voxels that holds it.

    Attributes:
        name: in the table.
        file: of the structure; "" is the BPTI that is shipped.
        mass: kDa, of the atoms.
        box: working voxels.
    """

    name: str
    file: str
    mass: float
    box: int


@dataclass(frozen=True)
class Optics:
    """How micrographs are taken.

    Attributes:
        name: in the table.
        defocus: least and largest, angstrom.
        phase_shift: of a phase plate, degrees.
    """

    name: str
    defocus: tuple[float, float]
    phase_shift: float = 0.0


@dataclass(frozen=True)
class SmallProtein:
    """Every protein through all optics, from random starts, with the verdict; picking beside it on the same files.

    Attributes:
        proteins: what is hidden.
        optics: through what.
        pixel: of the files, angstrom.
        size: of a micrograph in these pixels.
        count: micrographs.
        voxel: working voxel, angstrom.
        density: covered fraction.
        exposure: dose, ice, camera.
        b_factor: of all atoms, square angstrom.
        beside: pickers and the particle pipeline.
    """

    proteins: tuple[Protein, ...] = (
        Protein("4AKE dimer", DIMER, 43.8, 13),
        Protein("4AKE chain", CHAIN, 21.9, 10),
        Protein("BPTI", "", 6.5, 7),
    )
    optics: tuple[Optics, ...] = (
        Optics("1 um", (8000.0, 12000.0)),
        Optics("phase plate, 0.5 um", (4000.0, 6000.0), 90.0),
    )
    pixel: float = 2.0
    size: int = 2048
    count: int = 6
    voxel: float = 8.0
    density: float = 0.1
    exposure: Exposure = field(default_factory=Exposure)
    b_factor: float = 60.0
    beside: Beside = field(default_factory=Beside)

    def run(self, settings: Settings) -> Table:
        """All proteins, all optics."""
        rows: list[Row] = []
        left_out = []
        for protein in self.proteins:
            structure = _structure(protein)
            if structure is None:
                left_out.append(f"{protein.name} left out: no file {protein.file}; set UNPICKED_SHARED")
                continue
            for optics in self.optics:
                for seed in settings.runs(1):
                    rows += self.rows(protein, structure, optics, seed, settings)
        return Table(
            name="small-protein",
            title=f"{self.count} simulated exposures of {self.size * self.pixel / 10:g} nm, not picked and picked",
            source=SOURCE,
            columns=COLUMNS,
            rows=tuple(rows),
            checks=self.checks(rows),
            notes=(
                "E: of the simulated images, tails included; planned: the law of `unpicked plan`; found: by the run",
                "resolution: angstrom where the FSC with the truth falls below 0.5; FSC: shells from 1",
                *self.notes_on_picking(),
                *left_out,
            ),
            plot=_plot(rows),
            settings=asdict(self),
        )

    def simulate(
        self, protein: Protein, structure: Structure, optics: Optics, seed: int
    ) -> tuple[Micrographs, Simulation]:
        """Exposures of a protein."""
        scope = {
            "voltage_kv": self.exposure.voltage_kv,
            "cs_mm": 2.7,
            "amplitude_contrast": 0.07,
            "phase_shift": optics.phase_shift,
        }
        box = 2 * round(protein.box * self.voxel / self.pixel / 2)
        object, x = in_ice(structure, self.pixel, box, self.exposure, b_factor=self.b_factor)
        return simulate_micrographs(
            Specimen(object, x, box, self.pixel),
            count=self.count,
            size=(self.size, self.size),
            density=self.density,
            noise=None,
            seed=seed,
            optics=draw_optics(self.count, None, optics.defocus, 0.0, scope, drawn(seed)),
            exposure=self.exposure,
        )

    def rows(self, protein: Protein, structure: Structure, optics: Optics, seed: int, settings: Settings) -> list[Row]:
        """One set of exposures: straight from the micrographs, then with every picker; what fails says so."""
        data, truth = self.simulate(protein, structure, optics, seed)
        wanted = specimen_from_structure(structure, protein.box, self.voxel, b_factor=self.b_factor).truth()
        job = MicrographJob(box=protein.box, voxel=self.voxel)
        base = {
            "protein": protein.name,
            "kDa": protein.mass,
            "optics": optics.name,
            "seed": seed,
            "particles": truth.per_micrograph * truth.count,
            "E": truth.facts()["energy"],
            "E planned": particle_energy(protein.mass, self.plan(optics), 2 * self.voxel),
        }
        held = Field(ready(data, job), job, truth, wanted, seed, settings.device)
        key = protein.name, optics.name, seed
        rows = [settings.row(COLUMNS, (*key, STRAIGHT), straight, held, base)]
        for picker in self.beside.pickers:
            rows.append(settings.row(COLUMNS, (*key, picker), row_of, held, picker, self.beside, base))
        return rows

    def plan(self, optics: Optics) -> Microscope:
        """What `unpicked plan` is told of these exposures."""
        return Microscope(
            dose=self.exposure.dose, defocus_um=sum(optics.defocus) / 2e4, phase_plate=bool(optics.phase_shift),
            b_factor=self.b_factor, dqe=self.exposure.dqe,
        )  # fmt: skip

    def notes_on_picking(self) -> tuple[str, ...]:
        """What the pickers and the particle pipeline were told."""
        if not self.beside.pickers:
            return ()
        return (
            "way: straight from micrographs, or our particle pipeline on images picked from the same files; a pick is "
            f"right within {NEAR:g} of the box; best F1: at the threshold that only the truth knows",
            "blobs: Laplacian of Gaussian, the best of several widths by the truth; templates: "
            f"{self.beside.views} views of the true map, through the optics, on whitened micrographs; both keep the "
            "true least distance and are told how many particles there are",
            "posterior: the map of the row straight from micrographs, picked with as `unpicked pick` does, p >= 0.5: "
            "nothing of the truth enters",
            f"particle pipeline: --method auto from {self.beside.starts} random starts, shifts up to "
            f"{OFF['blobs'] * self.voxel:g} A (blobs) or {OFF['templates'] * self.voxel:g} A, the box as diameter, "
            f"{self.beside.margin:g} A around it for what contrast transfer carries away; the best {self.beside.most} "
            "images at most",
        )

    def checks(self, rows: Sequence[Row]) -> tuple[Check, ...]:
        """The largest protein at the usual defocus."""
        there = [
            row for row in rows if row["protein"] == "4AKE dimer" and row["optics"] == "1 um" and row["way"] == STRAIGHT
        ]
        if not there:
            return ()
        good = sum(row["verdict"] == "supported" and (row.get("resolution") or math.inf) <= WANTED for row in there)
        return (
            Check(
                what="4AKE dimer (44 kDa) at 1 um",
                published="not published",
                target=f"{WANTED:g} A or better, supported",
                ours=", ".join(
                    f"{row['resolution']:.1f} A, {row['verdict']}" if row.get("resolution") else row["verdict"]
                    for row in there
                ),
                passed=good == len(there),
            ),
        )


def straight(held: Field, base: Row) -> Row:
    """Reconstructed without picking, compared, judged."""

    def mapped() -> Row:
        return {**likeness(held.answer.map, held.wanted), "E found": held.answer.figures().get("energy")}

    def judged() -> Row:
        data = fixed(held.prepared, held.job, held.answer.gains)
        return verdict(MicrographTrial(data, held.job, device=held.device), seeding.derive(held.seed, "reconstruct"))

    return in_steps({**base, "way": STRAIGHT}, (mapped, judged))


def _structure(protein: Protein) -> Structure | None:
    """The molecule; None where the shared data are absent."""
    if not protein.file:
        return read_structure(Path(unpicked.__file__).parent / "simulate" / "5pti.cif")
    path = shared(protein.file)
    return None if path is None else read_structure(path)


def _plot(rows: Sequence[Row]) -> Plot:
    lines = tuple(
        Line(
            f"{row['protein']}, {row['optics']}",
            range(1, len(row["FSC"]) + 1),
            row["FSC"],
            STYLES[row["way"]],
        )
        for row in rows
        if row["FSC"]
    )
    return Plot(lines, "shell", "Fourier shell correlation with the truth")


EXPERIMENT = Experiment(
    name="small-protein",
    summary="proteins of 44, 22 and 6.5 kDa in simulated exposures, 1 um and a phase plate, straight and picked",
    source=SOURCE,
    minutes=(80, 180),
    quick=SmallProtein(beside=Beside(starts=1)),
    full=SmallProtein(pixel=1.0, size=4096, count=20),
    cases=("proteins", "optics"),
)
