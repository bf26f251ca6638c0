"""``unpicked templates``: the projector's images, evenly spread, on the picker's pixel."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch

from answers import answered, is_refused
from unpicked.data.maps import Map
from unpicked.io.mrc import write_map
from unpicked.io.particles import read_particles
from unpicked.io.star import read_star
from unpicked.objects.gaussians import Gaussians
from unpicked.objects.voxels import Voxels
from unpicked.ops import fourier
from unpicked.ops.rotation import direction_grid
from unpicked.recipes.templates import templates

BOX, VOXEL = 24, 2.0


@pytest.fixture
def command(capsys):
    return partial(answered, capsys, "templates")


def blobs(box: int, scale: float = 1.0) -> torch.Tensor:
    """A compact chiral object; ``scale`` is its size in voxels relative to a box of 24."""
    drawn = torch.Generator().manual_seed(5)
    centres = (torch.rand(8, 3, generator=drawn, dtype=torch.float64) - 0.5) * 9 * scale
    widths = torch.full((8,), 1.5 * scale, dtype=torch.float64)
    return Gaussians(box, centres, widths).values(1 + torch.rand(8, generator=drawn, dtype=torch.float64))


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    write_map(Map(blobs(BOX), VOXEL), tmp_path / "volume.mrc")
    return tmp_path / "volume.mrc"


def correlation(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    a, b = (x.double().flatten(1) - x.double().flatten(1).mean(1, keepdim=True) for x in (one, other))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def test_templates_are_the_projector_s_images(command, volume):
    out = volume.with_name("t.mrcs")
    status, said, _ = command(volume, "--angle", 30, "--out", out)
    assert status == 0 and "46 templates of 24 x 24 pixels of 2 A, matter bright" in said
    found = read_particles(volume.with_name("t.star"), check=0)  # angles as RELION reads them
    assert found.poses is not None and found.pixel_size == VOXEL and len(found) == 46
    expected = Voxels(BOX).projector(found.poses.rotations).project(blobs(BOX).flatten())
    assert torch.allclose(found.images().double(), expected, atol=1e-4 * float(expected.abs().max()))
    psi = read_star(volume.with_name("t.star"))["particles"].floats("rlnAnglePsi")
    assert abs(psi).max() < 1e-9 and found.poses.shifts.abs().max() == 0


@pytest.mark.parametrize("angle", [7.5, 15, 30, 60])
def test_directions_are_spread_evenly(angle):
    rotations = direction_grid(angle)
    assert torch.allclose(rotations @ rotations.mT, torch.eye(3, dtype=torch.float64).expand(len(rotations), 3, 3))
    assert len(rotations) == round(4 * math.pi / math.radians(angle) ** 2)
    views = rotations[:, 2]
    apart = torch.rad2deg(torch.arccos((views @ views.T).clamp(-1, 1).fill_diagonal_(-1)))
    nearest = apart.amin(1)
    assert float(nearest.min()) > 0.8 * angle and float(nearest.max()) < 1.2 * angle
    anywhere = torch.nn.functional.normalize(torch.randn(2000, 3, generator=torch.Generator().manual_seed(1)).double())
    gap = torch.rad2deg(torch.arccos((anywhere @ views.T).amax(1).clamp(-1, 1)))
    assert float(gap.max()) < 0.9 * angle
    for wrong in (0, 0.5, 91, float("nan")):
        with pytest.raises(ValueError, match="between 1 and 90"):
            direction_grid(wrong)


def test_dark(command, volume):
    out = volume.with_name("t.mrcs")
    assert command(volume, "--angle", 60, "--out", out)[0] == 0
    bright = read_particles(out, check=0).images()
    assert command(volume, "--angle", 60, "--out", out, "--contrast", "dark", "--overwrite")[0] == 0
    assert torch.equal(read_particles(out, check=0).images(), -bright)


def test_a_coarser_pixel_is_a_fourier_crop(command, volume):
    """The projection of the cropped map is the cropped projection, but for a factor."""
    out = volume.with_name("t.mrcs")
    assert command(volume, "--angle", 60, "--voxel", 4, "--out", out)[0] == 0
    found = read_particles(volume.with_name("t.star"), check=0)
    assert found.shape == (12, 12) and found.pixel_size == 4
    fine = Voxels(BOX).projector(found.poses.rotations).project(blobs(BOX).flatten())
    assert float(correlation(found.images(), fourier.resize_image(fine, (12, 12))).min()) > 0.999


def test_another_box_and_another_pixel(command, volume):
    """Against the same object made on that grid: 40 pixels of 1.25 A, where the map had 24 of 2."""
    out = volume.with_name("t.mrcs")
    status, said, _ = command(volume, "--angle", 60, "--voxel", 1.25, "--box", 40, "--out", out)
    assert status == 0 and "brought to 40 of 1.25 A" in said and "no detail beyond the map's 4 A" in said
    found = read_particles(volume.with_name("t.star"), check=0)
    assert found.shape == (40, 40) and found.pixel_size == 1.25
    same = Voxels(40).projector(found.poses.rotations).project(blobs(40, VOXEL / 1.25).flatten())
    assert float(correlation(found.images(), same).min()) > 0.999


def test_a_larger_box_pads_and_a_smaller_one_cuts(command, volume):
    out = volume.with_name("t.mrcs")
    assert command(volume, "--angle", 60, "--box", 32, "--out", out)[0] == 0
    wide = read_particles(out, check=0).images()
    expected = Voxels(32).projector(direction_grid(60)).project(blobs(32).flatten())
    assert float(correlation(wide, expected).min()) > 0.9999
    status, said, _ = command(volume, "--angle", 60, "--box", 8, "--out", out, "--overwrite")
    assert status == 0 and "% of the map's power" in said
    assert read_particles(out, check=0).shape == (8, 8)


def test_background_is_taken_off():
    values = blobs(BOX)
    plain = torch.stack(list(templates(Map(values, VOXEL), 60)))
    found = templates(Map(values + 3, VOXEL), 60)
    assert any("background of the map, 3, is taken off" in note for note in found.notes)
    assert torch.allclose(torch.stack(list(found)), plain, atol=1e-4 * float(plain.max()))
    odd = templates(Map(blobs(25), VOXEL), 60, voxel=2.9)
    assert odd.map.box == 18 and odd.map.voxel_size == 2.9


def test_the_folder_of_a_run_and_json(command, volume):
    status, said, _ = command(volume.parent, "--angle", 60, "--out", volume.with_name("t.mrcs"), "--json")
    found = json.loads(said.splitlines()[-1])
    assert status == 0 and found["count"] == 11 and found["box"] == BOX and found["voxel_size"] == VOXEL


def test_refusals(command, volume, shared_data):
    out = volume.with_name("t.mrcs")
    block = shared_data("maps/50S-vol.mrc")
    assert is_refused(command(block, "--out", out), "50S-vol.mrc", "128 x 32 x 32", "cubic")
    assert is_refused(command(volume, "--out", volume.with_name("t.mrc")), ".mrcs")
    assert is_refused(command(volume.with_name("no.mrc"), "--out", out), "no.mrc", "not found")
    assert is_refused(command(volume, "--angle", 0, "--out", out), "between 1 and 90")
    assert is_refused(command(volume, "--box", 2, "--out", out), "at least 4 pixels")
    assert is_refused(command(volume, "--voxel", -1, "--out", out), "--voxel must be positive")
    assert is_refused(command(shared_data("maps/BPTI-5A.mrc"), "--out", out), "--map-voxel")
    write_map(Map(torch.zeros(8, 8, 8), 1.0), volume.with_name("flat.mrc"))
    assert is_refused(command(volume.with_name("flat.mrc"), "--out", out), "no structure")
    volume.with_name("t.star").write_text("mine")
    assert is_refused(command(volume, "--out", out), "t.star exists", "--overwrite")
    assert not out.exists() and volume.with_name("t.star").read_text() == "mine"
