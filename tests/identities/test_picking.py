"""Positions of particles from a map of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from unpicked.data.maps import Map
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.snr import energy
from unpicked.ops import rotation
from unpicked.picking import fit_scale, pick
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.phantom import bead_chain
from unpicked.simulate.preference import Preference


@pytest.fixture(scope="module")
def simulated():
    specimen = bead_chain(11, 1, voxel_size=6.0)
    data, truth = simulate_micrographs(specimen, count=1, size=(160, 160), density=0.1, noise=energy(2000), seed=2)
    image = data[0]
    return Micrographs(InMemory((image / truth.sigma)[None]), 6.0, ("a",)), specimen.truth(), truth


def test_a_map_of_both_signs_keeps_its_own(simulated) -> None:
    """Nearest to a random start, which is positive, would be the negative of a map with dark solvent."""
    data, map, _ = simulated
    signed = Map(map.values - 2 * map.values.mean(), map.voxel_size)
    assert float(signed.values.sum()) < 0
    assert float(fit_scale(data, signed).x) > 0


def test_positions_between_pixels_share_the_views(simulated) -> None:
    data, map, truth = simulated
    run = fit_scale(data, map)
    finer = replace(run, model=replace(run.model, placement=replace(run.model.placement, subpixel=2)))
    for one in (run, finer):
        found, wanted = next(iter(pick(data, one, views=400))), truth.occurrences(0)
        near = torch.cdist(found.centres, wanted.corners.flip(1).double() + 5).min(1)
        away = rotation.geodesic_distance(found.rotations, wanted.rotations[near.indices].double())
        assert len(found) == len(wanted.corners) and float(near.values.max()) < 1
        assert float(away.median()) < 25  # degrees; a chain of beads looks much the same from behind


def test_preferred_views_are_found_with_the_scale() -> None:
    """Of a map that is known, particles that stand out of the noise tell from where they are seen."""
    specimen, preference = bead_chain(11, 1, voxel_size=6.0), Preference(8.0, (1.0, 1.0, 0.5))
    data, truth = simulate_micrographs(
        specimen, count=3, size=(160, 160), density=0.1, noise=energy(2000), seed=2, preference=preference
    )
    scaled = Micrographs(InMemory(torch.stack([image / truth.sigma for image in data])), 6.0, ("a", "b", "c"))
    run = fit_scale(scaled, specimen.truth(), view_distribution="estimated")
    seen, wanted = run.model.view.seen, torch.tensor([1.0, 1.0, 0.5]).double()
    assert float(seen.mean @ wanted / (seen.mean.norm() * wanted.norm())) > 0.9
    assert 0.1 < seen.share < 0.35, "the truth is 0.17"
    found = torch.cat([one.rotations[:, 2] for one in pick(scaled, run, views=400)])
    assert float(((found @ wanted) / wanted.norm()).mean()) > 0.6
