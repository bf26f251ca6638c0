"""Evidence on nested views: a lower bound of the whole grid's, and a tight one, at every energy."""

import math

import pytest
import torch

from stacks import stack
from unpicked.estimators import search
from unpicked.ops import nested, orientations, rotation
from unpicked.ops.band import Band
from unpicked.ops.nested import Nested

VIEWS, BAND = 36864, Band(24, 7)


@pytest.fixture(scope="module")
def slices() -> Nested:
    """Those of the beads' map."""
    truth = stack(count=2, level=math.inf)[1].truth()
    return Nested.of(truth.values.float(), BAND, VIEWS)


def seen(energy: float, lens: bool = False) -> tuple[orientations.Images, torch.Tensor]:
    """Some images' coefficients, and the noise's power, for images of white noise."""
    noisy, truth = stack(count=24, level=energy, shift=2.2, lens=lens)
    power = torch.full((len(BAND),), truth.sigma**2)
    return search.coefficients(noisy, range(len(noisy)), BAND, torch.device("cpu")), power


def exact(images: orientations.Images, fine: torch.Tensor, noise: torch.Tensor, ramps: torch.Tensor) -> torch.Tensor:
    found = [rows.double().flatten(1).logsumexp(1) for _, rows in orientations.scores(images, fine, noise, ramps)]
    return torch.cat(found) - math.log(len(fine) * len(ramps))


def test_every_fine_view_is_in_the_cell_of_its_nearest_coarse_view() -> None:
    found = nested.cells(9216)
    members = found[found >= 0]
    assert members.sort().values.tolist() == list(range(9216)) and len(found) == 4608
    coarse, fine = (rotation.super_fibonacci(count) for count in (4608, 9216))
    for cell in (0, 600, 4607):
        for view in found[cell][found[cell] >= 0]:
            angles = rotation.geodesic_distance(coarse, fine[view].expand_as(coarse))
            assert float(angles[cell]) == pytest.approx(float(angles.min()), abs=1e-3)


@pytest.mark.parametrize("lens", [False, True])
@pytest.mark.parametrize("energy", [10.0, 100.0, 1000.0, 10000.0])
def test_it_is_a_tight_lower_bound(slices: Nested, energy: float, lens: bool) -> None:
    images, noise = seen(energy, lens)
    ramps = BAND.ramp(orientations.shift_grid(2.0))
    whole = exact(images, slices.fine, noise, ramps)
    found = nested.log_evidence(images, slices, noise, ramps)
    assert float((found - whole).max()) < 1e-5 * energy + 1e-4, "but for rounding"
    assert float((whole - found).mean()) < 0.001 * float(whole.mean())
    assert found.mean() > 0 or energy < 1000, "the truth explains its images"


def test_a_grid_too_small_for_cells_is_taken_whole() -> None:
    assert len(nested.cells(200)) == 200
    few = Nested.of(torch.randn(24, 24, 24, generator=torch.Generator().manual_seed(0)), BAND, 200)
    images, noise = seen(1000.0)
    ramps = BAND.ramp(orientations.shift_grid(0.0))
    found = nested.log_evidence(images, few, noise, ramps)
    assert torch.allclose(found, exact(images, few.fine, noise, ramps), rtol=1e-5, atol=1e-3)
    assert len(nested.log_evidence(images[:0], few, noise, ramps)) == 0
