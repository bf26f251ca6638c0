"""A belief in other conformations of given structures: against dense algebra, from files, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import unpicked
from unpicked.data.snr import energy
from unpicked.io.mrc import write_map
from unpicked.io.structure import read_structure
from unpicked.objects.ball import Ball
from unpicked.objects.voxels import Voxels
from unpicked.priors import Positive, Subspace, Wilson, precision
from unpicked.recipes import MicrographJob, ready
from unpicked.recipes.micrographs import begun
from unpicked.recipes.structures import belief, check, given
from unpicked.simulate.conformers import deformed
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.specimens import specimen_from_structure

BPTI = read_structure(Path(unpicked.__file__).parent / "simulate" / "5pti.cif")
VOXEL = 55 / 7


def volumes(count: int, box: int) -> torch.Tensor:
    return torch.randn(count, box, box, box, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("object", [Ball(6, 3), Voxels(5)], ids=["ball", "voxels"])
def test_it_is_the_gaussian_of_mean_and_covariance(object: Ball | Voxels) -> None:
    maps, rest = volumes(4, object.shape[0]), Wilson(0.2, 1.3)
    prior = Subspace(maps, 1.7, rest)
    x = 1.7 * object.fit(maps)
    mean, away = x.mean(0), (x - x.mean(0)) / math.sqrt(3)
    inverse = torch.linalg.inv(away.mT @ away + torch.linalg.inv(precision(rest, object, mean)))
    at = object.fit(volumes(1, object.shape[0])[0] + 0.3)
    wanted = float((at - mean) @ inverse @ (at - mean)) / 2
    assert float(prior.energy(at, object)) == pytest.approx(wanted, rel=1e-8)
    assert torch.allclose(precision(prior, object, at), inverse, rtol=0, atol=1e-8 * float(inverse.abs().max()))
    assert torch.allclose(prior.mean(object), mean, rtol=0, atol=1e-12)
    assert float(prior.energy(mean, object)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("given_volumes", "scale", "rest", "said"),
    [
        (volumes(1, 5), 1.0, Wilson(1.0, 1.3), "n >= 2"),
        (volumes(2, 5)[0], 1.0, Wilson(1.0, 1.3), "n >= 2"),
        (volumes(2, 5) * math.nan, 1.0, Wilson(1.0, 1.3), "finite"),
        (volumes(1, 5).expand(3, -1, -1, -1), 1.0, Wilson(1.0, 1.3), "differ"),
        (volumes(2, 5), 0.0, Wilson(1.0, 1.3), "scale must be positive"),
        (volumes(2, 5), 1.0, Positive(0.1), "quadratic"),
    ],
)
def test_what_is_no_subspace_is_refused(given_volumes: torch.Tensor, scale: float, rest: Wilson, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Subspace(given_volumes, scale, rest)


def test_another_grid_is_refused_and_another_library_is_another_prior() -> None:
    prior = Subspace(volumes(3, 5), 1.0, Wilson(1.0, 1.3))
    with pytest.raises(ValueError, match="do not fit"):
        prior.energy(torch.zeros(Ball(6, 2).size, dtype=torch.float64), Ball(6, 2))
    assert repr(prior) != repr(Subspace(volumes(4, 5)[1:], 1.0, Wilson(1.0, 1.3))), "checkpoints tell them apart"
    assert repr(prior) == repr(Subspace(volumes(3, 5), 1.0, Wilson(1.0, 1.3)))


def test_deformations_have_their_size_and_keep_neighbours() -> None:
    one, again, other = (deformed(BPTI, seed, 3.0) for seed in (1, 1, 2))
    moved = one.positions - BPTI.positions
    assert float(moved.square().sum(1).mean().sqrt()) == pytest.approx(3.0)
    assert float(moved.mean(0).norm()) < 1e-9
    assert torch.equal(one.positions, again.positions) and not torch.equal(one.positions, other.positions)
    near = (BPTI.positions[1:] - BPTI.positions[:-1]).norm(dim=1) < 2
    change = (moved[1:] - moved[:-1]).norm(dim=1)[near]
    assert float(change.mean()) < 1.0, "atoms of a bond move together"
    for size in (0.0, math.inf):
        with pytest.raises(ValueError, match="size must be positive"):
            deformed(BPTI, 1, size)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, ...]:
    """Three conformations: an atomic model, and two maps of finer grids, one of them turned."""
    out = [str(Path(unpicked.__file__).parent / "simulate" / "5pti.cif")]
    for seed in (1, 2):
        map = specimen_from_structure(deformed(BPTI, seed), 28, 55 / 28).truth()
        values = map.values.flip(0).transpose(1, 2) if seed == 2 else map.values  # a turn by 180 degrees
        path = tmp_path / f"{seed}.mrc"
        write_map(type(map)(values.contiguous(), map.voxel_size), path)
        out.append(str(path))
    return tuple(out)


def test_files_are_laid_on_the_first(files: tuple[str, ...]) -> None:
    found = given(files, 7, VOXEL)
    assert tuple(found.shape) == (3, 7, 7, 7)
    for map in found[1:]:
        cosine = float((map * found[0]).sum() / map.norm() / found[0].norm())
        assert cosine > 0.85
    check(files, 7, VOXEL)


def test_the_belief_has_the_power_that_is_asked_for(files: tuple[str, ...]) -> None:
    ball = Ball(7, 5)
    prior = belief(given(files, 7, VOXEL), ball, 3.0, 0.2)
    views = torch.eye(3, dtype=torch.float64)[None]
    mean = prior.mean(ball)
    assert float(ball.projector(views).project(mean).square().sum()) == pytest.approx(3.0, rel=0.5)
    assert torch.allclose(2**0.5 * mean, belief(given(files, 7, VOXEL), ball, 6.0, 0.2).mean(ball), rtol=1e-8)


def test_wrong_files_are_refused_before_all_else(files: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least two files"):
        check(files[:1], 7, VOXEL)
    with pytest.raises(ValueError, match="was not found"):
        check((files[0], str(tmp_path / "none.mrc")), 7, VOXEL)
    with pytest.raises(ValueError, match="all alike"):
        check((files[0], files[0]), 7, VOXEL)
    with pytest.raises(ValueError, match="wide"):
        check((files[0], files[1]), 9, VOXEL)
    (tmp_path / "text.mrc").write_text("no map")
    with pytest.raises(ValueError, match=r"text\.mrc"):
        check((files[0], str(tmp_path / "text.mrc")), 7, VOXEL)


def test_a_run_begins_at_their_mean_in_the_grey_values_of_the_data(files: tuple[str, ...]) -> None:
    specimen = specimen_from_structure(deformed(BPTI, 5), 7, VOXEL)
    data, _ = simulate_micrographs(specimen, count=1, size=(200, 200), density=0.12, noise=energy(100.0), seed=0)
    job = MicrographJob(box=7, structures=files)
    start = begun(ready(data, job), job, None)
    assert start is not None and start.voxel_size == pytest.approx(data.pixel_size)
    truth = specimen.truth().values
    assert 0.5 < float(start.values.norm() / truth.norm()) < 2, "as far as the variance of the data tells it"
    assert begun(ready(data, job), job, start) is start
    with pytest.raises(ValueError, match="--structures-error must be positive"):
        MicrographJob(box=7, structures=files, structures_error=0.0)
