"""Marginalised EM of particle stacks: from random starts to the map, in views that no estimator's grid holds."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unpicked.data.maps import Map
from unpicked.data.micrographs import InMemory
from unpicked.data.optics import Optics
from unpicked.data.particles import Particles
from unpicked.data.snr import energy
from unpicked.estimators.base import log_likelihood
from unpicked.estimators.em import random_start
from unpicked.estimators.posterior import best_poses, weighed
from unpicked.evaluate.compare import compare
from unpicked.io.structure import read_structure
from unpicked.model.centred import Centred
from unpicked.model.model import Model
from unpicked.model.noise import Coloured, White
from unpicked.model.placements import Anywhere
from unpicked.model.views import Projection
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation
from unpicked.recipes.particle_em import ParticleEMAnswer, ParticleEMJob, from_particles_em
from unpicked.simulate.micrographs import Specimen
from unpicked.simulate.particles import simulate_particles
from unpicked.simulate.specimens import specimen_from_structure


def solved(
    bpti: Path,
    job: ParticleEMJob,
    seed: int,
    *,
    level: float = 500.0,
    defocus: tuple[float, float] | None = None,
    shift: float = 0.0,
) -> tuple[ParticleEMAnswer, Specimen]:
    specimen = specimen_from_structure(read_structure(bpti), 20)
    data, _ = simulate_particles(specimen, count=800, noise=energy(level), seed=seed, defocus=defocus, max_shift=shift)
    return from_particles_em(data, job, seed=seed), specimen


@pytest.mark.slow
@pytest.mark.parametrize("method", ["em", "sgd"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_protein_from_random_starts(bpti: Path, method: str, seed: int) -> None:
    """E = 500: two starts of two that were tried end on the protein, at the resolution of the grid of views."""
    answer, specimen = solved(bpti, ParticleEMJob(method, starts=2), seed)  # type: ignore[arg-type]
    found = compare(answer.map, specimen.truth())
    assert found.correlation > 0.9
    assert answer.log_likelihoods.shape == (800,)
    assert float(answer.log_likelihoods.std()) > 0
    assert 1 <= answer.effective < 10


@pytest.mark.slow
def test_shifts_and_contrast_transfer(bpti: Path) -> None:
    job = ParticleEMJob(starts=1, max_shift=4.0)
    answer, specimen = solved(bpti, job, 3, defocus=(8000.0, 16000.0), shift=4.0)
    assert compare(answer.map, specimen.truth()).correlation > 0.75


@pytest.mark.slow
def test_noise_alone_gives_no_clear_poses() -> None:
    images = torch.randn(300, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    data = Particles(InMemory(images), 3.0, tuple(str(index) for index in range(300)))
    answer = from_particles_em(data, ParticleEMJob(starts=1, updates=12, polish=0), seed=1)
    assert answer.effective > 30


def small(count: int = 24) -> tuple[Particles, Model, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images of views and shifts of the model's grids, hardly any noise, with contrast transfer."""
    model = Model(Voxels(12), Projection(rotation.super_fibonacci(300)), Centred(3.0, precise=True), noise=White(0.05))
    x = random_start(model, 40.0, 3)
    picks = torch.arange(count) * 11 % 300
    grid = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    shifts = grid[torch.arange(count) % 4]
    same = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "phase_shift": 0.0, "b_factor": 0.0}
    defocus = tuple(9000.0 + 100 * index for index in range(count))
    optics = Optics(
        defocus_u=defocus,
        defocus_v=defocus,
        astigmatism_angle=(0.0,) * count,
        scale=(1.0,) * count,
        group=tuple(range(count)),
        **{name: (value,) * count for name, value in same.items()},
    )
    band = model.placement.band(12)  # type: ignore[attr-defined]
    seen = model.templates(x)[picks] / math.sqrt(2)
    slices = torch.complex(seen[:, 0], seen[:, 1])
    images = band.images(slices * optics.values(*band.frequencies(2.0)) * band.ramp(shifts))
    images = images + 0.01 * torch.randn(images.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    data = Particles(InMemory(images), 2.0, tuple(str(index) for index in range(count)), optics=optics)
    return data, model, x, picks, 2.0 * shifts


def test_best_poses_are_the_views_and_shifts_of_the_images() -> None:
    data, model, x, picks, shifts = small()
    assert isinstance(model.view, Projection)
    found = best_poses(data, model, x)
    torch.testing.assert_close(found.rotations, model.view.rotations[picks].double())
    torch.testing.assert_close(found.shifts, shifts)
    coloured = replace(model, noise=Coloured((0.0025,) * 6), placement=replace(model.placement, spread=3.0))  # type: ignore[type-var]
    torch.testing.assert_close(best_poses(data, coloured, x).rotations, found.rotations)
    with pytest.raises(ValueError, match="poses need"):
        best_poses(data, replace(model, placement=Anywhere(0.1)), x)


def test_density_of_clear_images_is_that_of_their_transfer() -> None:
    """Where poses are sure the weight of a shell is the sum of C^2 / s2 over all images."""
    data, model, x, _, _ = small()
    assert data.optics is not None
    found = weighed(data, model, x)
    assert found.effective < 1.01
    band = model.placement.band(12)  # type: ignore[attr-defined]
    squares = data.optics.values(*band.frequencies(2.0)).square().sum(0) / 0.05**2
    sums = torch.zeros(6, dtype=torch.float64).index_add_(0, band.shells, 2 * squares)
    grid = torch.fft.fftfreq(12, dtype=torch.float64) * 12
    length = (grid**2 + grid[:, None] ** 2 + grid[:, None, None] ** 2).sqrt().round().long()
    counts = torch.bincount(length.flatten())[:6]
    torch.testing.assert_close(found.density, sums / counts, rtol=1e-4, atol=1e-6)


def test_a_resumed_job_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    data, _, x, _, _ = small()
    start = Map(x.view(12, 12, 12), 2.0)
    for method in ("em", "sgd"):
        job = ParticleEMJob(method, max_shift=2.0, updates=3, polish=0, batch=8, starts=1)  # type: ignore[arg-type]
        whole = from_particles_em(data, job, seed=4, start=start)

        class Killed(Exception):
            pass

        def kill(stage: str, row: dict[str, float]) -> None:
            if stage.endswith("band-3"):
                raise Killed

        folder = tmp_path / method
        with pytest.raises(Killed):
            from_particles_em(data, job, seed=4, start=start, checkpoint=folder, report=kill)
        again = from_particles_em(data, job, seed=4, start=start, checkpoint=folder, resume=True)
        assert torch.equal(whole.map.values, again.map.values)
        assert torch.equal(whole.poses.rotations, again.poses.rotations)
        torch.testing.assert_close(whole.log_likelihoods, log_likelihood(data, whole.last.model, whole.last.x))


def test_what_does_not_fit_is_refused() -> None:
    data, _, x, _, _ = small()
    for settings, message in (
        ({"max_shift": -1.0}, "--max-shift must not be negative"),
        ({"updates": 2}, "--updates must be at least 3"),
        ({"starts": 0}, "--starts must be at least 1"),
        ({"batch": 0}, "--batch must be at least 1"),
        ({"polish": -1}, "--polish must not be negative"),
        ({"voxel": 0.0}, "--voxel must be positive"),
        ({"diameter": 0.0}, "--diameter must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            ParticleEMJob(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="below half the box"):
        from_particles_em(data, ParticleEMJob(max_shift=12.0))
    with pytest.raises(ValueError, match="field of view"):
        from_particles_em(data, ParticleEMJob(), start=Map(x.view(12, 12, 12), 3.0))
    with pytest.raises(ValueError, match="at least the pixel size"):
        from_particles_em(data, ParticleEMJob(voxel=1.0))
