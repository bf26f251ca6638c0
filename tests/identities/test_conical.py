"""Particles alike on a tilted grid: their views, what they leave unseen, and the hand that they tell."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from unpicked.data import snr
from unpicked.estimators.maximisation import complete_information
from unpicked.evaluate.compare import compare
from unpicked.model.conical import Conical, conical
from unpicked.model.views import Projection
from unpicked.objects.ball import Ball
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation
from unpicked.recipes import MicrographJob, from_micrographs
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.phantom import bead_chain
from unpicked.simulate.preference import OnTilted


def drawn(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def about_z(angle: float) -> torch.Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize("tilt", [60.0, -35.0, 90.0])
def test_directions_of_view_lie_on_a_cone(tilt: float) -> None:
    turns = Conical(tilt, 12, 25.0).rotations
    torch.testing.assert_close(turns[:, 2, 2], torch.full((12,), math.cos(math.radians(tilt))).double())
    assert float(turns[:, 2].sum(0)[:2].norm()) < 1e-12, "evenly about the grid's normal"
    assert torch.allclose(turns.det(), torch.ones(12).double())


def test_the_tilt_axis_is_where_it_is_said_to_be() -> None:
    """What lies along the axis keeps its place in the image when the grid is tilted more."""
    for axis in (0.0, 30.0, -75.0):
        line = torch.tensor([math.sin(math.radians(axis)), math.cos(math.radians(axis)), 0.0]).double()
        flat, tilted = (conical(torch.zeros(1).double(), tilt, axis)[0] for tilt in (0.0, 40.0))
        seen = tilted @ flat.mT @ line
        torch.testing.assert_close(seen, line)


def test_turned_views_see_the_turned_object() -> None:
    ball, view, angle = Ball(7, 4), Conical(50.0, 5, 20.0, 0.3), 0.7
    x = drawn(ball.size)
    seen = view.turned(about_z(angle)).operator(ball, x).project(x)
    turned = ball.rotate(x, about_z(angle))
    torch.testing.assert_close(seen, view.operator(ball, x).project(turned), atol=1e-10, rtol=0)
    assert view.turned(about_z(angle)).digest != view.digest


def test_the_other_sign_of_the_tilt_sees_the_mirrored_object() -> None:
    object = Voxels(9)
    values = drawn(9**3).view(9, 9, 9)
    one = Conical(60.0, 7).operator(object, values).project(values.flatten())
    other = Conical(-60.0, 7).operator(object, values).project(values.flip(0).flatten())
    torch.testing.assert_close(one, other, atol=1e-10, rtol=0)


def test_about_the_normal_of_the_grid_nothing_is_seen() -> None:
    """Information of waves within the missing cone is next to none, of those beyond as of uniform views."""
    object, like = Ball(12, 10), torch.zeros(1, dtype=torch.float64)
    line = torch.arange(12, dtype=torch.float64) - 6
    window = torch.exp(-0.5 * (line / 3.0).square())
    box = window[:, None, None] * window[:, None] * window
    told = {
        name: complete_information(object, law, like)
        for name, law in (("cone", Conical(60.0)), ("all", Projection(rotation.super_fibonacci(8))))
    }
    shares = []
    for axis in (0, 2):  # a wave along z, the grid's normal, and one along x
        wave = torch.cos(2 * math.pi * 0.3 * line).view([-1 if dim == axis else 1 for dim in range(3)]) * box
        flat = object.fit(wave)
        shares.append(float(flat @ told["cone"] @ flat) / float(flat @ told["all"] @ flat))
    assert shares[0] < 0.1 and shares[1] > 0.5, shares


@pytest.mark.parametrize("tilt", [60.0, -60.0])
def test_a_volume_and_its_hand_come_from_tilted_micrographs(tilt: float) -> None:
    specimen = bead_chain(7, 3)
    data, simulation = simulate_micrographs(
        specimen, count=3, size=(150, 150), density=0.15, noise=snr.energy(150), seed=1, preference=OnTilted(60.0)
    )
    assert simulation.facts()["tilt"] == 60.0
    job = MicrographJob(box=7, tilt=tilt, starts=3, iterations=(10, 10), views=(24, 36))
    found = from_micrographs(data, job, seed=1)
    told = compare(found.map, specimen.truth())
    assert told.correlation > 0.93
    assert told.hand == ("same" if tilt > 0 else "mirrored") and told.hand_decidable
    assert any("tilted by" in note and "13 %" in note for note in found.notes)


def test_bad_tilts_are_refused_in_one_line() -> None:
    for tilt in (0.0, 90.0, math.nan):
        with pytest.raises(ValueError, match="--tilt must be 5 to 85"):
            MicrographJob(box=7, tilt=tilt)
    with pytest.raises(ValueError, match="--tilt-axis needs --tilt"):
        MicrographJob(box=7, tilt_axis=20.0)
    with pytest.raises(ValueError, match="--tilt-axis must be an angle"):
        MicrographJob(box=7, tilt=20.0, tilt_axis=math.inf)
    with pytest.raises(ValueError, match="lie anyhow"):
        MicrographJob(box=7, tilt=20.0, view_distribution="estimated")
    for make in (lambda: Conical(100.0), lambda: OnTilted(100.0), lambda: Conical(10.0, axis=math.nan)):
        with pytest.raises(ValueError, match="a tilt must lie between"):
            make()
    with pytest.raises(ValueError, match="count must be at least 1"):
        replace(Conical(10.0), count=0)
