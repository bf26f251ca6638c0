"""Verdicts on noise of many kinds, where none may be "supported", and on data with a structure, where most must be."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.signal import Signal
from unpicked.data.snr import energy
from unpicked.evaluate.compare import compare
from unpicked.evaluate.images import compare_images
from unpicked.evaluate.signals import compare_signals
from unpicked.experiments.table import Check, Column, Experiment, Line, Plot, Row, Settings, Table
from unpicked.ops import fourier, seeding
from unpicked.recipes import ImageJob, MicrographJob, SignalJob, from_images, from_micrographs, from_signal
from unpicked.recipes import ready as micrographs_ready
from unpicked.recipes.images import ready as images_ready
from unpicked.recipes.trials import ImageTrial, MicrographTrial, SignalTrial
from unpicked.simulate.images import random_targets, simulate_images
from unpicked.simulate.micrographs import Specimen, place, simulate_micrographs
from unpicked.simulate.phantom import bead_chain
from unpicked.simulate.signals import simulate_signal, target
from unpicked.verify import verify
from unpicked.verify.verdict import Verdict

COLUMNS = (
    Column("data"),
    Column("kind"),
    Column("runs"),
    Column("supported"),
    Column("undecided"),
    Column("not supported"),
    Column("largest z", ".1f"),
    Column("seconds", ".1f"),
)
KINDS = ("white", "AR(0.15)", "1/f", "gradient", "blobs", "ice", "template")
ALL = "all noise"
MOST = 0.01  # part of noise-only runs that may be "supported"
LEAST = 0.9  # part of those with a structure that must be
FAITHFUL = 0.5  # correlation with the truth from which an answer counts as right


@dataclass(frozen=True)
class NoiseOnly:
    """Noise-only data in one, two and three dimensions, and data with a structure beside them.

    Attributes:
        kinds: of noise.
        runs: of every kind of noise, in one and in two dimensions.
        with_structure: runs with a structure, in one and in two dimensions.
        runs_3d: noise-only runs of micrographs, kinds in turn.
        with_structure_3d: micrographs of a molecule.
        samples: of a signal.
        size: of an image.
        images: of a set.
        signal_energy: of a copy of a signal's target, in the hardest run; up to four times as much in the others.
        image_energy: the same of an image's target.
        signals: how signals are reconstructed.
        planar: how images are reconstructed.
        volumes: how volumes are reconstructed.
        micrographs: number and size of micrographs.
        level: energy of a molecule.
    """

    kinds: tuple[str, ...] = KINDS
    runs: int = 15
    with_structure: int = 25
    runs_3d: int = 20
    with_structure_3d: int = 10
    samples: int = 20_000
    size: int = 96
    images: int = 8
    signal_energy: float = 3.0
    image_energy: float = 15.0
    signals: SignalJob = field(default_factory=lambda: SignalJob(5, starts=2, iterations=60, moves=1))
    planar: ImageJob = field(
        default_factory=lambda: ImageJob(5, reach=2.3, angles=16, starts=2, moves=1, iterations=(15, 15))
    )
    volumes: MicrographJob = field(default_factory=lambda: MicrographJob(box=7))
    micrographs: tuple[int, int] = (8, 150)
    level: float = 100.0

    def run(self, settings: Settings) -> Table:
        """All kinds, in all dimensions."""
        rows: list[Row] = []
        runs = settings.runs(self.runs)
        for dims, judged in (("1-D", self.signal), ("2-D", self.image)):
            for kind in self.kinds:
                rows.append(settings.row(COLUMNS, (dims, kind), _summed, dims, kind, judged, runs))
            wanted = settings.runs(self.with_structure)
            rows.append(settings.row(COLUMNS, (dims, "structure"), _summed, dims, "structure", judged, wanted))
        if self.runs_3d:
            for kind, number in ((ALL, self.runs_3d), ("structure", self.with_structure_3d)):
                rows.append(
                    settings.row(COLUMNS, ("3-D", kind), _summed, "3-D", kind, self.volume, settings.runs(number))
                )
        return Table(
            name="noise-only",
            title="verdicts on noise of many kinds, and on data that hold a structure",
            source="this package's own design (docs/verify.md)",
            columns=COLUMNS,
            rows=tuple(rows),
            checks=self.checks(rows),
            notes=(
                "blobs: round particles at the density of the others; ice: a few large bright patches; template: white "
                "noise, and a start that looks like a structure, from which the pipeline goes some passes",
                f"structure: runs whose answer on all the data correlates to more than {FAITHFUL:g} with the truth "
                "(volumes: at half of Nyquist's frequency); the energy of a copy rises over the runs to four "
                f"times what it was, of volumes it is {self.level:g}",
            ),
            plot=Plot(
                tuple(
                    Line(dims, list(range(len(some))), [row["supported"] / max(row["runs"], 1) for row in some], "o")
                    for dims in ("1-D", "2-D", "3-D")
                    if (some := [row for row in rows if row["data"] == dims])
                ),
                "kind of data, in the order of the table",
                "part of the runs that is supported",
            ),
            settings=asdict(self),
        )

    def checks(self, rows: Sequence[Row]) -> tuple[Check, ...]:
        """False positives and power."""
        flat = [row for row in rows if row["data"] != "3-D"]
        nothing, structure = ([row for row in flat if (row["kind"] == "structure") == real] for real in (False, True))
        found = [
            _check("noise in 1-D and 2-D", nothing, f"at most {100 * MOST:g} % supported", lambda part: part <= MOST),
            _check("structures in 1-D and 2-D", structure, f"at least {100 * LEAST:g} %", lambda part: part >= LEAST),
        ]
        for kind, wanted, good in (
            (ALL, "none supported", lambda part: part == 0),
            ("structure", f"at least {100 * LEAST:g} %", lambda part: part >= LEAST),
        ):
            some = [row for row in rows if row["data"] == "3-D" and row["kind"] == kind]
            if some:
                found.append(_check(f"3-D, {kind}", some, wanted, good))
        return tuple(found)

    def signal(self, kind: str, seed: int) -> _Judged:
        """One signal."""
        job, length, start = self.signals, self.signals.length, None
        shape, truth = (self.samples,), None
        if kind == "structure":
            step = seed % self.with_structure / max(1, self.with_structure - 1)
            level = self.signal_energy * 4**step
            hidden = _random_target(length, seed)
            sigma = float(hidden.norm()) / math.sqrt(level)
            data, _ = simulate_signal(hidden, samples=self.samples, density=0.28, sigma=sigma, seed=seed)
            truth = hidden
        else:
            data = Signal.of(noise(kind, shape, length, seed))
            if kind == "template":
                start, job = target("bump", length), replace(job, iterations=5)
        faithful = True
        if truth is not None:
            answer = from_signal(data, job, seed=seed)
            faithful = compare_signals(answer.target, truth).relative_error_shifted < math.sqrt(1 - FAITHFUL**2)
        return _judged(lambda: verify(SignalTrial(data, job, start), seed=seed), faithful)

    def image(self, kind: str, seed: int) -> _Judged:
        """One set of images."""
        job, start, truth = self.planar, None, None
        if kind == "structure":
            step = seed % self.with_structure / max(1, self.with_structure - 1)
            hidden = random_targets(job.length, seed, reach=job.reach)
            truth = hidden.values[0]
            sigma = float(truth.norm()) / math.sqrt(self.image_energy * 4**step)
            data, _ = simulate_images(
                hidden, size=(self.size,) * 2, count=self.images, density=0.1, sigma=sigma, seed=seed
            )
        else:
            data = self._noisy(kind, self.size, self.images, job.length, seed, 1.0)
            if kind == "template":
                start, job = (
                    random_targets(job.length, seed, reach=job.reach).values[0],
                    replace(job, iterations=(3, 2)),
                )
        found, faithful = images_ready(data, job), True
        if truth is not None:
            answer = from_images(found, job, seed=seed)
            error = compare_images(answer.target, truth, rotations=True).relative_error
            faithful = error < math.sqrt(1 - FAITHFUL**2)
        return _judged(lambda: verify(ImageTrial(found, job, start), seed=seed), faithful)

    def volume(self, kind: str, seed: int) -> _Judged:
        """One set of micrographs; of all noise, the kinds in turn."""
        job, start, truth = self.volumes, None, None
        count, size = self.micrographs
        if kind == ALL:
            kind = self.kinds[seed % len(self.kinds)]
        if kind == "structure":
            specimen = bead_chain(job.box, seed)
            data, _ = simulate_micrographs(
                specimen, count=count, size=(size, size), density=0.12, noise=energy(self.level), seed=seed
            )
            truth = _map(specimen)
        else:
            data = self._noisy(kind, size, count, job.box, seed, 5.0)
            if kind == "template":
                start = Map(specimen_values(job.box, seed).float(), 5.0)
        prepared, faithful = micrographs_ready(data, job, start), True
        if truth is not None:
            answer = from_micrographs(prepared, job, seed=seed)
            found = compare(answer.map, truth).fsc
            faithful = found[max(1, len(found) // 2)] > FAITHFUL
        return _judged(lambda: verify(MicrographTrial(prepared, job, start), seed=seed), faithful)

    def _noisy(self, kind: str, size: int, count: int, length: int, seed: int, pixel: float) -> Micrographs:
        images = [noise(kind, (size, size), length, seeding.derive(seed, kind, index)) for index in range(count)]
        names = tuple(f"{kind} {index}" for index in range(count))
        return Micrographs(InMemory(torch.stack(images).float()), pixel, names)


def noise(kind: str, shape: tuple[int, ...], length: int, seed: int) -> torch.Tensor:
    """Data without a structure, float64, of one or two dimensions and a noise of variance 1.

    Args:
        kind: one of :data:`KINDS`; "template" is white.
        shape: of the data.
        length: of the target that would be sought.
        seed: of everything random.
    """
    generator = seeding.generator(seed, f"noise only: {kind}")
    white = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind in ("AR(0.15)", "1/f"):
        radius = fourier.radius(shape) / shape[-1]  # cycles per sample
        power = (
            1 / (1.0225 - 0.3 * torch.cos(2 * math.pi * radius)) if kind == "AR(0.15)" else 1 + 0.05 / (radius + 0.01)
        )
        return torch.fft.ifftn(torch.fft.fftn(white) * power.sqrt()).real
    if kind == "gradient":
        for axis in range(len(shape)):
            ramp = torch.linspace(-1, 1, shape[axis], dtype=torch.float64)
            ways = torch.randn(2, generator=generator, dtype=torch.float64)
            white = white + (ways[0] * ramp + ways[1] * ramp.square()).view(
                *(-1 if i == axis else 1 for i in range(len(shape)))
            )
        return white
    if kind == "blobs":
        return _with_blobs(white, length, generator)
    if kind == "ice":
        for _ in range(max(2, math.prod(shape) // 4000)):
            centre = [float(torch.rand((), generator=generator)) * n for n in shape]
            width = (1 + 3 * float(torch.rand((), generator=generator))) * length
            bump = white.new_ones(())
            for axis, middle in enumerate(centre):
                line = torch.exp(-0.5 * ((torch.arange(shape[axis], dtype=torch.float64) - middle) / width).square())
                bump = bump[..., None] * line
            white = white + 2 * bump
    return white


def _with_blobs(white: torch.Tensor, length: int, generator: torch.Generator) -> torch.Tensor:
    """Round particles of energy 25 at 12 % (of a signal 28 %) of the data."""
    axis = torch.arange(length, dtype=torch.float64) - (length - 1) / 2
    line = torch.exp(-0.5 * (axis / (length / 5)).square())
    out = white.clone()
    if white.dim() == 1:
        blob, at = 5 * line / line.norm(), 0
        while True:
            at += int(torch.empty(1).exponential_(1 / (2 * length), generator=generator)) + 2 * length - 1
            if at + length > len(white):
                return out
            out[at : at + length] += blob
    blob = line[:, None] * line
    blob = 5 * blob / blob.norm()
    count = int(0.12 * white.numel() / length**2)
    for y, x in place((white.shape[0], white.shape[1]), length, 2 * length - 1, count, generator).tolist():
        out[y : y + length, x : x + length] += blob
    return out


def specimen_values(box: int, seed: int) -> torch.Tensor:
    """A chain of beads as a map, of about the grey values that noise of variance 1 could hide."""
    values = _map(bead_chain(box, seed + 1000)).values.double()
    return values / values.norm() * 8


def _map(specimen: Specimen) -> Map:
    """What a perfect reconstruction would give."""
    return Map(specimen.object.values(specimen.x), specimen.voxel_size).rescale(specimen.box)


def _random_target(length: int, seed: int) -> torch.Tensor:
    return torch.randn(length, generator=seeding.generator(seed, "target"), dtype=torch.float64)


@dataclass(frozen=True)
class _Judged:
    verdict: Verdict
    faithful: bool
    seconds: float


def _judged(asked: Callable[[], Verdict], faithful: bool) -> _Judged:
    began = time.perf_counter()
    return _Judged(asked(), faithful, time.perf_counter() - began)


def _summed(data: str, kind: str, judged: Callable[[str, int], _Judged], seeds: Sequence[int]) -> Row:
    some = [one for one in (judged(kind, seed) for seed in seeds) if one.faithful]
    words = [one.verdict.verdict for one in some]
    zs = [one.verdict.z for one in some if math.isfinite(one.verdict.z)]
    return {
        "data": data,
        "kind": kind,
        "runs": len(some),
        "supported": words.count("supported"),
        "undecided": words.count("undecided"),
        "not supported": words.count("not supported"),
        "largest z": max(zs, default=math.nan),
        "all z": zs,
        "seconds": sum(one.seconds for one in some) / max(1, len(some)),
    }


def _check(what: str, rows: Sequence[Row], target: str, good: Callable[[float], bool]) -> Check:
    runs, supported = (sum(row[name] for row in rows) for name in ("runs", "supported"))
    return Check(
        what=what,
        published="not published",
        target=target,
        ours=f"{supported} of {runs} supported",
        passed=good(supported / runs) if runs else None,
    )


EXPERIMENT = Experiment(
    name="noise-only",
    summary="verdicts on noise of many kinds, where none may be supported, and on data with a structure",
    source="this package's own design",
    minutes=(40, 120),
    quick=NoiseOnly(),
    full=NoiseOnly(runs=40, with_structure=50),
    cases=("kinds",),
)
