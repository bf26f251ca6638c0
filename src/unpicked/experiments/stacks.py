"""What the experiments with particle stacks share: the sets of Nashed et al. (2021), and an answer's figures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.micrographs import InMemory
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.estimators.base import State
from unpicked.estimators.gradient import Gradient, Learned
from unpicked.evaluate.compare import Comparison, compare
from unpicked.evaluate.poses import compare_poses
from unpicked.evaluate.pseudosymmetry import PseudoSymmetry, pseudo_symmetries
from unpicked.experiments.recovery import require
from unpicked.experiments.table import Column
from unpicked.io.structure import read_structure
from unpicked.model.centred import Centred
from unpicked.model.model import Model
from unpicked.model.placements import Stats
from unpicked.model.views import Projection
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation, seeding
from unpicked.priors import Prior
from unpicked.recipes.particle_job import ParticleJob
from unpicked.recipes.particle_methods import short_steps
from unpicked.recipes.particles import ParticleAnswer, from_particles
from unpicked.reconstruct import Reconstruction, reconstruct
from unpicked.simulate.datasets import dataset

SOURCE = "Nashed, Peck, Martel et al. 2021, arXiv 2104.02058"
NEEDED = "structures/4ake_dimer_workshop.pdb"  # 4AKE, both chains
COLUMNS = (
    Column("set"),
    Column("method"),
    Column("seed"),
    Column("before", ".1f"),
    Column("median", ".2f"),
    Column("held out", ".1f"),
    Column("plain mean", ".1f"),
    Column("FSC 0.143", ".2f"),
    Column("FSC 0.5", ".2f"),
    Column("seconds", ".0f"),
)
NOTES = (
    "median: pose error in degrees modulo the pseudo-C2 of the dimer; before: that of the first stage, before "
    "refinement; held out: that of the encoder on images that it has not seen; plain mean: what a mean absolute error "
    "is without the pseudo-symmetry, near 90 where images end at either side of it",
    "FSC 0.143 and 0.5: angstrom where the FSC with the band-limited truth falls below; Nyquist where it never does",
)


@dataclass(frozen=True)
class Stacks:
    """Sizes of the sets.

    Attributes:
        box: edge of the images in pixels; 128 as published, fewer show the same field of view.
        fitted: images that are fitted.
        held: images that are held out.
    """

    box: int = 32
    fitted: int = 1800
    held: int = 200

    def read(self, name: str, seed: int) -> Stack:
        """One of the sets, in memory.

        Raises:
            ValueError: where the structure is not at hand.
        """
        atoms = read_structure(require(NEEDED, "the dimer 4AKE"))
        data, truth = dataset(name, atoms, count=self.fitted + self.held, box=self.box, seed=seed)
        data = replace(data, source=InMemory(data.images().float()))
        return Stack(
            name,
            data.part(range(self.fitted)),
            data.part(range(self.fitted, self.fitted + self.held)),
            truth.poses(),
            truth.truth(),
            tuple(pseudo_symmetries(atoms)),
        )


@dataclass(frozen=True, eq=False)
class Stack:
    """A set that is known.

    Attributes:
        name: of the set.
        fitted: images to fit, without poses.
        held: images to judge by.
        truth: poses of all of them.
        map: band-limited truth.
        pseudo: rotations among which images hardly choose.
    """

    name: str
    fitted: Particles
    held: Particles
    truth: Poses
    map: Map
    pseudo: tuple[PseudoSymmetry, ...]

    @property
    def nyquist(self) -> float:
        """Two pixels, in angstrom."""
        return 2 * self.map.voxel_size

    def known(self) -> Particles:
        """The images to fit with their true poses."""
        return replace(self.fitted, poses=self._true(range(len(self.fitted))))

    def errors(self, poses: Poses, *, held: bool = False) -> tuple[float, float, float]:
        """Median and mean error modulo the pseudo-symmetry, and the plain mean, in degrees."""
        first = len(self.fitted) if held else 0
        truth = self._true(range(first, first + len(poses)))
        found = compare_poses(_on_cpu(poses), truth, pseudo=self.pseudo or None)
        if found.median_deg_pseudo is None or found.mean_deg_pseudo is None:
            return found.median_deg, found.mean_deg, found.mean_deg
        return found.median_deg_pseudo, found.mean_deg_pseudo, found.mean_deg

    def judged(self, map: Map) -> Comparison:
        """The map beside the truth."""
        return compare(Map(map.values.cpu(), map.voxel_size), self.map)

    def _true(self, places: Sequence[int]) -> Poses:
        rows = torch.tensor(list(places))
        return Poses(self.truth.rotations[rows], self.truth.shifts[rows])


def solve(stack: Stack, job: ParticleJob, seed: int, device: str) -> tuple[dict[str, Any], ParticleAnswer, Comparison]:
    """Reconstruct, and compare with the truth: a row of :data:`COLUMNS`, the answer, and how its map compares."""
    data = stack.known() if job.method == "known" else stack.fitted
    began = time.perf_counter()
    answer = from_particles(data, job, seed=seeding.derive(seed, "reconstruct"), device=device)
    seconds = time.perf_counter() - began
    found = stack.judged(answer.map)
    median, _, plain = (None, None, None) if job.method == "known" else stack.errors(answer.poses)
    row: dict[str, Any] = {
        "set": stack.name,
        "method": job.method,
        "seed": seed,
        "before": None if answer.before is None else stack.errors(answer.before)[0],
        "median": median,
        "held out": encoder_error(stack, answer, job) if job.method == "encoder" else None,
        "plain mean": plain,
        "FSC 0.143": found.resolution_0143,
        "FSC 0.5": found.resolution_05,
        "FSC": found.fsc[1:],
        "seconds": seconds,
    }
    return row, answer, found


def solved(stack: Stack, job: ParticleJob, seed: int, device: str) -> dict[str, Any]:
    """The row of :func:`solve`."""
    return solve(stack, job, seed, device)[0]


def encoder_error(stack: Stack, answer: ParticleAnswer, job: ParticleJob) -> float:
    """Median error of the poses that an encoder reads from images it was not fitted to, before any refinement."""
    run = answer.stages["encoder-1"]
    edge = run.model.side
    held = replace(stack.held if edge == stack.held.box else stack.held.cropped(edge), poses=None)
    return stack.errors(short_steps(held, job).poses_of(run.model, run.state, held), held=True)[0]


Watch = Callable[[State, dict[str, float]], None]


@dataclass(frozen=True)
class Watched(Gradient):
    """Gradients whose map and poses are looked at in every row of the history.

    Attributes:
        watch: called with the state and its row.
    """

    watch: Watch = field(default=lambda state, row: None, repr=False, compare=False)

    def record(self, model: Model, state: State, stats: Stats, prior: Prior) -> dict[str, float]:
        """The row, once it was shown."""
        row = super().record(model, state, stats, prior)
        self.watch(state, row)
        return row


def watched(method: Gradient, watch: Watch) -> Watched:
    """The same gradients, looked at."""
    return Watched(**{one.name: getattr(method, one.name) for one in fields(method)}, watch=watch)


def descend(
    stack: Stack, methods: Sequence[Gradient], watch: Watch, seed: int, device: str, *, known: bool = False
) -> Reconstruction:
    """Runs by gradients, each of which begins with the map and the weights of the one before it; gives the last.

    Args:
        stack: images to fit.
        methods: in order; updates are counted on in the rows that are watched.
        watch: called with every state and row.
        seed: of everything random.
        device: torch device.
        known: give the true poses.
    """
    model = Model(Voxels(stack.fitted.box), Projection(rotation.super_fibonacci(8).to(device)), Centred())
    x, begin, before = None, None, 0
    for number, method in enumerate(methods):

        def told(state: State, row: dict[str, float], before: int = before) -> None:
            watch(state, row | {"step": float(before + int(state["step"]))})

        one = watched(replace(method, begin=begin), told)
        data = stack.known() if known else stack.fitted
        run = reconstruct(data, model, one, start=x, seed=seeding.derive(seed, "descend", number), moves=0)
        x, begin, before = run.x, Learned.of(run.state), before + method.iterations
    return run


def crossing(steps: Sequence[int], values: Sequence[float | None], level: float) -> int | None:
    """The first step from which no value is missing or above the level; None where the last one is."""
    found = None
    for step, value in zip(steps, values, strict=True):
        if value is None or value > level * (1 + 1e-9):
            found = None
        elif found is None:
            found = step
    return found


def reached(rows: Sequence[Any], name: str) -> float:
    """The worst of the values, in words of resolution: the coarsest; infinite where one is missing or none is there."""
    values = [row[name] for row in rows]
    return max((math.inf if value is None else value for value in values), default=math.inf)


def _on_cpu(poses: Poses) -> Poses:
    return Poses(poses.rotations.cpu(), poses.shifts.cpu())
