"""The half disc of Fourier coefficients, and the record of a stack of particles."""

import pytest
import torch

from unpicked.data.micrographs import InMemory
from unpicked.data.optics import Optics
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.ops import fourier
from unpicked.ops.band import Band
from unpicked.ops.ctf import ctf
from unpicked.ops.shift import shift_image


def images(count: int, box: int) -> torch.Tensor:
    return torch.randn(count, box, box, generator=torch.Generator().manual_seed(box), dtype=torch.float64)


@pytest.mark.parametrize("box", [15, 16])
def test_coefficients_are_those_of_the_transform_and_images_is_twice_the_adjoint(box: int) -> None:
    band, x = Band(box, 6.5), images(3, box)
    found = band.coefficients(x)
    qx, qy = band.points.unbind(1)
    torch.testing.assert_close(found, fourier.fft2(x)[:, qy % box, qx % box])
    assert not bool((band.points.double().norm(dim=1) > 6.5).any())
    both = torch.cat([band.points, -band.points]).tolist()
    assert len({tuple(q) for q in both}) == 2 * len(band)  # no coefficient twice
    c = band.coefficients(images(3, box).roll(1, 0))
    inner = 2 * (found * c.conj()).real.sum()
    torch.testing.assert_close((x * band.images(c)).sum(), inner)
    torch.testing.assert_close(band.coefficients(band.images(c)), c)


@pytest.mark.parametrize("box", [15, 16])
def test_ramp_moves_images(box: int) -> None:
    band, x = Band(box, 7), images(2, box)
    t = torch.tensor([[1.3, -2.0], [0.4, 0.7]], dtype=torch.float64)
    moved = band.coefficients(shift_image(x, t))
    torch.testing.assert_close(moved, band.coefficients(x) * band.ramp(t))


def test_a_smaller_band_is_the_first_part_of_a_larger_one() -> None:
    wide = Band(32, 15)
    for radius in (1, 4, 9, 15):
        narrow = Band(32, radius)
        assert wide.first(radius) == len(narrow)
        torch.testing.assert_close(wide.points[: len(narrow)], narrow.points)


def test_shell_means() -> None:
    band = Band(32, 12)
    means = band.shell_mean(band.shells.double().expand(2, -1))
    torch.testing.assert_close(means, torch.arange(13.0, dtype=torch.float64).expand(2, -1))


@pytest.mark.parametrize(("box", "radius", "least"), [(3, 1, 1), (16, 8, 1), (16, 0.5, 1), (16, 4, 0)])
def test_bands_that_are_refused(box: int, radius: float, least: float) -> None:
    with pytest.raises(ValueError, match="got"):
        Band(box, radius, least)


def optics(count: int) -> Optics:
    ones = (1.0, 1.0, 1.0)
    return Optics(
        (8000.0, 12000.0, 16000.0),
        (7000.0, 12000.0, 17000.0),
        (10.0, 20.0, 30.0),
        (300.0, 300.0, 200.0),
        (2.7, 2.7, 2.0),
        (0.1, 0.1, 0.07),
        (0.0, 90.0, 0.0),
        (0.0, 0.0, 50.0),
        ones,
        tuple(i % 3 for i in range(count)),
    )


def stack(count: int, box: int = 16) -> Particles:
    poses = Poses(torch.eye(3).expand(count, 3, 3), torch.arange(2.0 * count).reshape(count, 2))
    halves = tuple(1 + i % 2 for i in range(count))
    names = tuple(f"{i + 1:06d}@stack.mrcs" for i in range(count))
    return Particles(InMemory(images(count, box)), 2.0, names, optics(count), poses, halves)


def test_optics_of_items() -> None:
    band, given = Band(16, 7), optics(6)
    sx, sy = band.frequencies(2.0)
    table = given.values(sx, sy)
    assert tuple(table.shape) == (6, len(band))
    torch.testing.assert_close(table[4], table[1])
    direct = ctf(
        sx,
        sy,
        defocus_u=16000.0,
        defocus_v=17000.0,
        astigmatism_angle=30.0,
        voltage_kv=200.0,
        cs_mm=2.0,
        amplitude_contrast=0.07,
        b_factor=50.0,
    )
    torch.testing.assert_close(table[5], direct)
    part = given.part([5, 1])
    assert len(part.defocus_u) == 2
    torch.testing.assert_close(part.values(sx, sy), table[[5, 1]])


def test_parts_keep_what_belongs_to_an_image() -> None:
    whole = stack(6)
    part = whole.part([4, 1])
    assert part.names == ("000005@stack.mrcs", "000002@stack.mrcs")
    assert part.halves == (1, 2)
    assert part.poses is not None and part.poses.shifts.tolist() == [[8.0, 9.0], [2.0, 3.0]]
    torch.testing.assert_close(part[0], whole[4])
    assert whole.split() == ((0, 2, 4), (1, 3, 5))


def test_cropping_keeps_coefficients_and_noise() -> None:
    whole = stack(6)
    small = whole.cropped(8)
    assert small.pixel_size == 4.0 and small.box == 8
    wide, narrow = Band(16, 3), Band(8, 3)
    torch.testing.assert_close(narrow.coefficients(small.images()), wide.coefficients(whole.images()))


@pytest.mark.parametrize("broken", ["names", "halves", "none", "oblong"])
def test_stacks_that_are_refused(broken: str) -> None:
    source = InMemory(images(0 if broken == "none" else 2, 16))
    if broken == "oblong":
        source = InMemory(torch.zeros(2, 16, 12))
    names = ("a",) * (1 if broken == "names" else len(source))
    with pytest.raises(ValueError, match="got"):
        Particles(source, 1.0, names, halves=(1, 3) if broken == "halves" else None)
