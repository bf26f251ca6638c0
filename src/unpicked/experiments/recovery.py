"""What the experiments with micrographs share: objects to hide in them, and one recovery with its figures."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import unpicked
from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.micrographs import Micrographs
from unpicked.data.snr import NoiseLevel
from unpicked.estimators import maximisation
from unpicked.evaluate.compare import compare
from unpicked.evaluate.featureless import ball_error
from unpicked.experiments.table import Row, Settings
from unpicked.io.mrc import read_map
from unpicked.io.structure import read_structure
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.objects.ball import Ball
from unpicked.ops import fourier, seeding
from unpicked.preprocess import prepare
from unpicked.priors import expected_error, precision
from unpicked.recipes import MicrographAnswer, MicrographJob, from_micrographs
from unpicked.recipes.parts import fitted
from unpicked.simulate.micrographs import Simulation, Specimen, simulate_micrographs
from unpicked.simulate.phantom import shepp_logan
from unpicked.simulate.specimens import specimen_from_map, specimen_from_structure

RIBOSOME_VOXEL = 5.0  # angstrom; the file of the 70S map does not say
PER_COEFFICIENT = 16  # particles of which the information is summed, for each coefficient


@dataclass(frozen=True, eq=False)
class Volume:
    """An object to hide in micrographs.

    Attributes:
        name: in the table.
        specimen: what is seen.
        note: a sentence, e.g. what it stands in for.
    """

    name: str
    specimen: Specimen
    note: str = ""


@dataclass(frozen=True)
class Fields:
    """Micrographs to simulate: how many, of which side in pixels, at which covered fraction."""

    count: int
    size: int
    density: float

    @staticmethod
    def of(particles: int, box: int, density: float, largest: int = 1024) -> Fields:
        """Square micrographs of at most ``largest`` pixels a side for about this many particles."""
        pixels = particles * box**2 / density
        count = max(1, -(-round(pixels) // largest**2))
        return Fields(count, round((pixels / count) ** 0.5), density)

    def particles(self, box: int) -> int:
        """About so many are in them."""
        return max(1, round(self.count * self.size**2 * self.density / box**2))

    def simulate(self, specimen: Specimen, noise: NoiseLevel, seed: int) -> tuple[Micrographs, Simulation]:
        """Micrographs of a specimen, and what is in them."""
        size = (self.size, self.size)
        return simulate_micrographs(specimen, count=self.count, size=size, density=self.density, noise=noise, seed=seed)


def recover(
    volume: Volume,
    fields: Fields,
    noise: NoiseLevel,
    job: MicrographJob,
    seed: int,
    device: str,
    *,
    beside: bool = False,
    bound: bool = False,
    start: Callable[[Micrographs], Map | None] = lambda data: None,
) -> Row:
    """Simulate, reconstruct, and compare with the band-limited truth.

    Args:
        volume: what is hidden.
        fields: in what.
        noise: level of the white noise.
        job: the reconstruction.
        seed: of the data; the reconstruction has a stream of its own.
        device: torch device.
        beside: make the run that starts at the truth, too.
        bound: take the information of such data at the truth, too.
        start: makes of the data what the reconstruction starts from; None: random starts.

    Returns:
        A row: volume, seed, particles, correlation (after removal of the mean), cosine (without), relative error, ball
        error, bound (None where it was not asked for, or the likelihood takes no scores), FSC (shells from 1),
        resolution at 0.5 in angstrom (None below shell 1), at Nyquist, gap (log-likelihood less that of the run from
        the truth, None without it), seconds.
    """
    data, truth = fields.simulate(volume.specimen, noise, seed)
    began = time.perf_counter()
    answer = from_micrographs(data, job, seed=seeding.derive(seed, "reconstruct"), start=start(data), device=device)
    seconds = time.perf_counter() - began
    wanted = volume.specimen.truth()
    found = compare(answer.map, wanted)
    least = _bound(answer, volume, fields, noise, seed) if bound else None
    gap = None
    if beside:
        ideal = from_micrographs(data, job, seed=seeding.derive(seed, "reconstruct"), start=wanted, device=device)
        gap = answer.last.objective - ideal.last.objective
    return {
        "volume": volume.name,
        "seed": seed,
        "particles": truth.per_micrograph * truth.count,
        "correlation": found.correlation,
        "cosine": found.cosine,
        "relative error": found.relative_error,
        "ball error": ball_error(wanted),
        "bound": least,
        "FSC": found.fsc[1:],
        "resolution": found.resolution_05,
        "at Nyquist": found.at_nyquist,
        "gap": gap,
        "seconds": seconds,
    }


def _bound(answer: MicrographAnswer, volume: Volume, fields: Fields, noise: NoiseLevel, seed: int) -> float | None:
    """Relative error to be expected at best: information at the truth per particle, and the prior of the run.

    The information is a sum over particles of outer products, of full rank only where they are many: it is taken from
    more micrographs than the run had, and brought to the run's number of particles.
    """
    run = answer.last
    model = run.model
    if not model.placement.scored or model.object.size > maximisation.DENSE:
        return None
    x, information = observed_information(volume.specimen, fields, noise, model, seed)
    told = precision(run.prior, model.object, x)
    return expected_error(model.object, x, information, told, within=model.side / 2)


def observed_information(
    specimen: Specimen, fields: Fields, noise: NoiseLevel, model: Model, seed: int, *, each: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What micrographs tell of the truth: its coefficients in their normalised grey values, and the information.

    The information is a sum over particles of outer products, of full rank only where they are many: it is taken from
    more micrographs than ``fields`` has, and brought to their number.

    Args:
        specimen: the truth.
        fields: the micrographs.
        noise: level of the white noise.
        model: by which they are seen, at the true noise; its likelihood takes scores.
        seed: of the simulation.
        each: particles for each coefficient, at least; None means 16.

    Returns:
        Coefficients ``(n,)`` and the information in all of ``fields``, ``(n, n)``.
    """
    wanted = fields.particles(model.side)
    least = (PER_COEFFICIENT if each is None else each) * model.object.size
    more = replace(fields, count=fields.count * max(1, -(-least // wanted)))
    data, truth = more.simulate(specimen, noise, seeding.derive(seed, "bound"))
    prepared = prepare(data)
    grey = prepared.scale / prepared.source.grid.ratio**2
    model = replace(model, noise=White(truth.sigma / prepared.scale))
    x = fitted(model.object, specimen.truth().values.double() / grey).to(model.log_weights.device)
    step = model.placement.step(
        model.templates(x).float(), model.log_weights, model.noise, score=maximisation.score(model, x.float())
    )
    for index, image in enumerate(prepared.micrographs):
        step.add(image, seeding.derive(seed, "bound", index))
    return x, step.finish()["information"] / (more.count / fields.count)


def bpti(box: int, voxel: float) -> Volume:
    """BPTI (5PTI, 6.5 kDa), shipped with the package."""
    path = Path(unpicked.__file__).parent / "simulate" / "5pti.cif"
    return Volume("BPTI", specimen_from_structure(read_structure(path), box, voxel))


def talk_volumes(box: int, voxel: float, settings: Settings) -> tuple[list[Volume], list[str]]:
    """The volumes of the talk, or what stands in for them, and sentences on what is left out.

    Args:
        box: edge in voxels.
        voxel: of BPTI, in angstrom.
        settings: maps of the user's take the place of the stand-ins.
    """
    out = [Volume("Shepp-Logan", specimen_from_map(shepp_logan(4 * box, 0.25), box)), bpti(box, voxel)]
    if settings.maps:
        return out + [from_map(path, box, settings.map_voxel) for path in settings.maps], []
    left_out = []
    chain = shared("structures/adk_open_4ake_chain_heavy.pdb")
    if chain is not None:
        specimen = specimen_from_structure(read_structure(chain), box)
        out.append(Volume("4AKE chain", specimen, "4AKE chain stands in for TRPV1 (EMD-5778); give it with --map"))
    else:
        left_out.append("TRPV1 left out: give its map (EMD-5778) with --map")
    ribosome = shared("maps/clean70SRibosome_vol_65p.mrc")
    if ribosome is not None:
        note = (
            "70S ribosome stands in for the 80S one (EMD-2660); give that with --map. "
            f"Its voxel size is not known: {RIBOSOME_VOXEL:g} A assumed"
        )
        out.append(from_map(ribosome, box, RIBOSOME_VOXEL, "70S ribosome", note, fill=0.85))
    else:
        left_out.append("80S ribosome left out: give its map (EMD-2660) with --map")
    return out, left_out


def from_map(
    path: Path, box: int, voxel_size: float | None = None, name: str = "", note: str = "", fill: float = 1.0
) -> Volume:
    """A map at ``box`` voxels, of which its field of view takes the share ``fill``."""
    map = read_map(path, voxel_size=voxel_size)
    voxel = None if fill == 1 else map.box * map.voxel_size / (fill * box)
    return Volume(name or path.stem, specimen_from_map(map, box, voxel), note)


def expanded(volume: Volume, lmax: int) -> Volume:
    """A volume as its spherical-Bessel expansion at the working box: what the published experiments hide.

    Everything of it lies within the band, and within what the expansion of an estimate of the same degree can say.
    """
    truth = volume.specimen.truth()
    basis = Ball(truth.box, lmax)
    values = basis.values(basis.fit(truth.values.double()))
    fine = Map(fourier.resize_volume(values, 4 * truth.box), truth.voxel_size / 4)
    return replace(volume, specimen=specimen_from_map(fine, truth.box))


def shared(name: str) -> Path | None:
    """A file of the shared data: folder UNPICKED_SHARED, else ../shared; None where it is absent."""
    root = Path(os.environ.get("UNPICKED_SHARED", "../shared"))
    for path in (root / "data" / name, root / name):
        if path.exists():
            return path
    return None


def require(name: str, what: str) -> Path:
    """A file of the shared data that an experiment cannot do without.

    Raises:
        ValueError: where it is absent.
    """
    path = shared(name)
    if path is None:
        root = os.environ.get("UNPICKED_SHARED", "../shared")
        raise ValueError(
            f"{what} needs {name}, which is not shipped; it was not found in {root}/data; set UNPICKED_SHARED to a "
            "folder that holds it"
        )
    return path
