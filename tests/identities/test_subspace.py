"""A belief in other conformations of given structures: against dense algebra, from files, and what is refused."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import unpicked
from unpicked.data.maps import Map
from unpicked.data.snr import energy
from unpicked.io.mrc import write_map
from unpicked.io.structure import read_structure
from unpicked.objects.ball import Ball
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation
from unpicked.priors import Positive, Subspace, Wilson, precision
from unpicked.recipes import MicrographJob, ready
from unpicked.recipes.micrographs import begun
from unpicked.recipes.structures import belief, given
from unpicked.simulate.conformers import deformed, twisted
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.specimens import specimen_from_structure

BPTI = read_structure(Path(unpicked.__file__).parent / "simulate" / "5pti.cif")


def volumes(count: int, box: int) -> torch.Tensor:
    return torch.randn(count, box, box, box, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("object", [Ball(6, 3), Voxels(5)], ids=["ball", "voxels"])
def test_it_is_the_gaussian_of_mean_and_covariance(object: Ball | Voxels) -> None:
    maps, rest = volumes(4, object.shape[0]), Wilson(0.2, 1.3)
    prior = Subspace(maps, 1.7, rest)
    x = 1.7 * object.fit(maps)
    mean, away = x.mean(0), (x - x.mean(0)) / math.sqrt(3)
    covariance = torch.outer(mean, mean) + away.mT @ away + torch.linalg.inv(precision(rest, object, mean))
    inverse = torch.linalg.inv(covariance)
    at = object.fit(volumes(1, object.shape[0])[0] + 0.3)
    wanted = float(at @ inverse @ at) / 2
    assert float(prior.energy(at, object)) == pytest.approx(wanted, rel=1e-8)
    assert torch.allclose(precision(prior, object, at), inverse, rtol=0, atol=1e-8 * float(inverse.abs().max()))
    assert torch.allclose(prior.mean(object), mean, rtol=0, atol=1e-12)
    assert float(prior.energy(mean, object)) < 0.5, "the height of the whole costs one standard deviation"


def test_where_they_shall_say_nothing_every_voxel_is_free() -> None:
    maps, voxels = volumes(4, 5).abs(), Voxels(5)
    free = torch.zeros(5, 5, 5, dtype=torch.bool)
    free[1:3, 2, 2:4] = True
    open_, shut = (Subspace(maps, 1.0, Wilson(1e-4, 1.3), which) for which in (free, None))
    some = voxels.fit(torch.randn(5, 5, 5, generator=torch.Generator().manual_seed(2)).double() * free)
    assert float(open_.energy(some, voxels)) < 20 * int(free.sum()), "about half a square of a standard deviation each"
    assert float(open_.energy(some, voxels)) < 1e-2 * float(shut.energy(some, voxels))
    assert float((voxels.values(open_.mean(voxels)) * free).abs().max()) < 1e-9
    assert repr(open_) != repr(shut)
    with pytest.raises(ValueError, match="free must have"):
        Subspace(maps, 1.0, Wilson(1.0, 1.3), free[1:])


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


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Three conformations: an atomic model, and maps in other units, off the centre, one turned half about an axis."""
    out, folder = [str(Path(unpicked.__file__).parent / "simulate" / "5pti.cif")], tmp_path_factory.mktemp("structures")
    for seed in (1, 2):
        map = specimen_from_structure(deformed(BPTI, seed, 2.0), 32, 2.0).truth()
        values = map.values.roll(seed, 0)
        if seed == 2:  # -y and -x: a turn about z, on a grid whose centre stays
            values = values.flip(1).flip(2).roll((1, 1), (1, 2))
        path = folder / f"{seed}.mrc"
        write_map(Map(1e-3 * values.contiguous() + 5, 2.0), path)
        out.append(str(path))
    return tuple(out)


def test_files_are_laid_on_the_first_in_its_units_and_its_hand(files: tuple[str, ...]) -> None:
    found = given(files, 11, 5.0).volumes
    wanted = [
        specimen_from_structure(BPTI, 11, 5.0),
        *(specimen_from_structure(deformed(BPTI, s, 2.0), 11, 5.0) for s in (1, 2)),
    ]
    units = float(found[0].norm() / wanted[0].truth().values.norm())
    for map, specimen in zip(found, wanted, strict=True):
        truth = units * specimen.truth().values.double()
        assert float((map - truth).norm() / truth.norm()) < 0.3, "turned, shifted and scaled back"
    mirrored = [float((map.flip(0).roll(1, 0) - found[0]).norm() / (map - found[0]).norm()) for map in found[1:]]
    assert min(mirrored) > 1.1


def test_the_belief_has_the_power_that_is_asked_for(files: tuple[str, ...]) -> None:
    ball = Ball(11, 5)
    found = given(files, 11, 5.0)
    prior = belief(found, ball, 3.0, 0.2)
    seen = ball.projector(rotation.super_fibonacci(300)).project(prior.mean(ball))
    assert float(seen.square().sum((-2, -1)).mean()) == pytest.approx(3.0, rel=0.05)
    assert torch.allclose(2**0.5 * prior.mean(ball), belief(found, ball, 6.0, 0.2).mean(ball), rtol=1e-8)


def test_wrong_files_are_refused_before_all_else(files: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least two files"):
        given(files[:1], 11, 5.0)
    with pytest.raises(ValueError, match="was not found"):
        given((files[0], str(tmp_path / "none.mrc")), 11, 5.0)
    with pytest.raises(ValueError, match="all alike"):
        given((files[0], files[0]), 11, 5.0)
    with pytest.raises(ValueError, match="does not fit"):
        given(files, 7, 5.0)
    (tmp_path / "text.pdb.mrc").write_text("no map")
    with pytest.raises(ValueError, match=r"text\.pdb\.mrc"):
        given((files[0], str(tmp_path / "text.pdb.mrc")), 11, 5.0)
    noise = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0))
    write_map(Map(noise, 2.0), tmp_path / "noise.mrc")
    with pytest.raises(ValueError, match="no conformation of the first"):
        given((files[0], str(tmp_path / "noise.mrc")), 11, 5.0)


def test_a_file_that_was_changed_is_read_again(files: tuple[str, ...], tmp_path: Path) -> None:
    own = (files[0], str(tmp_path / "own.mrc"))
    shutil.copy(files[1], own[1])
    before = given(own, 11, 5.0)
    assert given(own, 11, 5.0) is before
    write_map(specimen_from_structure(deformed(BPTI, 7, 2.0), 32, 2.0).truth(), Path(own[1]), overwrite=True)
    after = given(own, 11, 5.0)
    assert after.digest != before.digest and not torch.equal(after.volumes, before.volumes)


def test_a_run_begins_at_their_mean_in_the_grey_values_of_the_data(files: tuple[str, ...]) -> None:
    specimen = specimen_from_structure(deformed(BPTI, 5, 2.0), 11, 5.0)
    data, _ = simulate_micrographs(specimen, count=1, size=(200, 200), density=0.12, noise=energy(300.0), seed=0)
    job = MicrographJob(box=11, structures=files)
    start = begun(ready(data, job), job, None)
    assert start is not None and start.voxel_size == pytest.approx(data.pixel_size)
    truth = specimen.truth().values
    assert 0.5 < float(start.values.norm() / truth.norm()) < 2, "as far as the variance of the data tells it"
    with pytest.raises(ValueError, match="leave them or --start out"):
        ready(data, job, start)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"structures_error": 0.0}, "--structures-error must be"),
        ({"structures": (), "structures_error": 0.5}, "needs --structures"),
        ({"prior": "none"}, "take the place of --prior"),
        ({"tilt": 60.0}, "--tilt fixes a frame"),
        ({"symmetry": "C2"}, "--symmetry fixes a frame"),
    ],
)
def test_what_does_not_go_with_them_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MicrographJob(**({"box": 11, "structures": ("a.cif", "b.cif")} | wrong))


def test_a_twist_turns_the_ends_against_each_other() -> None:
    bent = twisted(BPTI, 40.0)
    centre = BPTI.positions.mean(0)
    axis = torch.linalg.svd(BPTI.positions - centre, full_matrices=False)[2][0]
    along = [(places - centre) @ axis for places in (BPTI.positions, bent.positions)]
    assert torch.allclose(along[0], along[1], atol=1e-9), "nothing moves along the axis"
    away = [
        (places - centre) - a[:, None] * axis for places, a in zip((BPTI.positions, bent.positions), along, strict=True)
    ]
    assert torch.allclose(away[0].norm(dim=1), away[1].norm(dim=1), atol=1e-9)
    ends = [int(along[0].argmax()), int(along[0].argmin())]
    turns = [
        math.degrees(math.atan2(float(torch.linalg.cross(a, b) @ axis), float(a @ b)))
        for a, b in ((away[0][e], away[1][e]) for e in ends)
    ]
    assert turns[0] - turns[1] == pytest.approx(40.0)
    assert torch.allclose(twisted(BPTI, 0.0).positions, BPTI.positions)
    with pytest.raises(ValueError, match="finite"):
        twisted(BPTI, math.nan)
