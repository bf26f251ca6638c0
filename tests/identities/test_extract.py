"""Pickers of the usual kinds, and particle images cut out of micrographs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from unpicked.data.gains import Gains
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.optics import Optics
from unpicked.data.snr import sigma
from unpicked.picking.extract import extract
from unpicked.picking.peaks import blobs, correlated, peaks, seen
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.particles import simulate_particles
from unpicked.simulate.phantom import bead_chain

PIXEL, BOX = 6.0, 11
SIZE = (96, 120)


def settings(count: int) -> Optics:
    """Defoci that differ, astigmatic, and an envelope without power at Nyquist, whose tails end."""
    every = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "phase_shift": 0.0, "b_factor": 6000.0}
    return Optics(
        defocus_u=tuple(9000.0 + 3000 * n for n in range(count)),
        defocus_v=tuple(8000.0 + 3000 * n for n in range(count)),
        astigmatism_angle=(30.0,) * count,
        scale=(1.0,) * count,
        group=tuple(range(count)),
        **{name: (value,) * count for name, value in every.items()},
    )


def shown(views: torch.Tensor, index: int, margin: int) -> torch.Tensor:
    """Views through the optics of a micrograph."""
    optics = settings(2)
    return seen(views, lambda fx, fy: optics.values(fx / PIXEL, fy / PIXEL, [index])[0], margin)


@pytest.fixture(scope="module")
def clean():
    """Two micrographs without noise, and what is in them."""
    _, truth = simulate_micrographs(
        bead_chain(BOX, 1, voxel_size=PIXEL), count=2, size=SIZE, density=0.05, noise=sigma(1.0), seed=3,
        optics=settings(2),
    )  # fmt: skip
    images = torch.stack([truth.clean(index) for index in range(2)])
    return Micrographs(InMemory(images), PIXEL, ("a.mrc", "b.mrc"), settings(2)), truth


def true_centres(truth, index: int) -> torch.Tensor:
    return truth.occurrences(index).corners.flip(1).double() + truth.specimen.box // 2


def test_images_are_those_of_the_particle_simulator(clean) -> None:
    """A lone particle, as nothing overlaps it: its projection through its optics, to rounding.

    The stack's simulator does not cut projections to their box before the optics, micrographs do: hence 1e-3.
    """
    data, _ = clean
    lone, truth = simulate_micrographs(
        bead_chain(BOX, 1, voxel_size=PIXEL), count=2, size=SIZE, density=BOX**2 / (SIZE[0] * SIZE[1]),
        noise=sigma(1.0), seed=3, optics=settings(2),
    )  # fmt: skip
    lone = replace(lone, source=InMemory(torch.stack([truth.clean(index) for index in range(2)])))
    found = extract(lone, [true_centres(truth, index) for index in range(2)], BOX)
    assert len(found) == 2 and found.pixel_size == PIXEL and found.optics == data.optics
    _, alone = simulate_particles(truth.specimen, count=2, noise=None, seed=0, defocus=(8e3, 9e3), precise=True)
    alone = replace(alone, optics=settings(2))
    for index, image in enumerate(found):
        turns = truth.occurrences(index).rotations.double()
        projected = shown(truth.specimen.images(turns), index, 20)[0, 20 : 20 + BOX, 20 : 20 + BOX]
        assert float((image - projected).norm() / projected.norm()) < 1e-7
        wanted = alone.seen(turns[0], torch.zeros(2).double(), index)
        assert float((image - wanted).norm() / wanted.norm()) < 1e-3


def test_every_image_has_the_pixels_and_the_optics_of_its_micrograph(clean) -> None:
    data, _ = clean
    places = torch.tensor([[20.0, 30.0], [20.4, 29.6], [20.5, 30.49], [60.0, 50.0]], dtype=torch.float64)
    found = extract(data, [places, places[3:]], 8)
    assert torch.equal(found[0], data[0][26:34, 16:24]) and torch.equal(found[1], found[0])
    assert torch.equal(found[2], data[0][26:34, 17:25]), "half a pixel goes up"
    assert torch.equal(found[4], data[1][46:54, 56:64])
    assert found.optics is not None and found.optics.defocus_u == data.optics.defocus_u
    assert found.optics.group == (0, 0, 0, 0, 1) and len(set(found.names)) == 5


def test_the_edges_hold_whole_images_only(clean) -> None:
    data, _ = clean
    inside = torch.tensor([[4, 4], [SIZE[1] - 4, SIZE[0] - 4]], dtype=torch.float64)
    beyond = torch.tensor([[3, 40], [40, 3], [SIZE[1] - 3, 40], [40, SIZE[0] - 3], [-50, 40]], dtype=torch.float64)
    found = extract(data, [torch.cat([beyond, inside]), beyond], 8)
    assert len(found) == 2 and torch.equal(found[1], data[0][-8:, -8:])
    assert any("10 positions too near to an edge" in note for note in found.notes)
    with pytest.raises(ValueError, match="no position"):
        extract(data, [beyond, beyond[:0]], 8)


def test_the_background_sets_the_grey_values(clean) -> None:
    data, truth = clean
    places = [true_centres(truth, index) for index in range(2)]
    plain, found = extract(data, places, BOX), extract(data, places, BOX, background=4.5)
    outside = torch.hypot(*torch.meshgrid(*[torch.arange(BOX) - BOX // 2.0] * 2, indexing="ij")) > 4.5
    spreads: dict[str, list[float]] = {}
    for name, before, after in zip(found.names, plain, found, strict=True):
        assert float(after[outside].mean()) == pytest.approx(0, abs=1e-9)
        spread = before[outside].std(correction=0) / after[outside].std(correction=0)
        spreads.setdefault(name.partition("@")[2], []).append(float(spread))
        assert torch.allclose(after * spread + before[outside].mean(), before)
    assert len(spreads) == 2
    for index, some in enumerate(spreads.values()):
        assert max(some) == pytest.approx(min(some)), "one factor for a micrograph: particles keep their scale"
        own = torch.stack(
            [image[outside] for image, name in zip(plain, found.names, strict=True) if f"_{index + 1}.mrcs" in name]
        )
        assert some[0] == pytest.approx(float(own.var(1, correction=0).median().sqrt()))


def test_what_cannot_be_cut_out_is_refused(clean) -> None:
    data, _ = clean
    place = torch.full((1, 2), 40.0)
    for given, words in (
        ((data, [place], 8), "one list per micrograph, 2"),
        ((data, [place, place], 97), "between 4 and 96"),
        ((data, [place, place[0]], 8), r"\(n, 2\)"),
        ((data, [place, place * torch.nan], 8), "b.mrc has positions that are not finite"),
        ((replace(data, gains=Gains(((1.0, 1.0),), (0, 0))), [place, place], 8), "whitened"),
    ):
        with pytest.raises(ValueError, match=words):
            extract(*given)
    for radius in (0.0, 6.0):
        with pytest.raises(ValueError, match="background"):
            extract(data, [place, place], 8, background=radius)
    flat = Micrographs(InMemory(torch.ones(1, 20, 20)), 1.0, ("flat.mrc",))
    with pytest.raises(ValueError, match="the same all around"):
        extract(flat, [torch.full((1, 2), 9.0)], 8, background=3.0)


def test_both_pickers_find_particles_in_little_noise(clean) -> None:
    data, truth = clean
    wanted = true_centres(truth, 0)
    noise = torch.randn(SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    image = data[0] + 0.1 * data[0].std() * noise
    templates = shown(truth.specimen.images(truth.occurrences(0).rotations), 0, 3)
    assert templates.shape[-1] == BOX + 6
    for scores, near in ((correlated(image, templates), 0.5), (blobs(image, 2.0), 3.0)):
        found = peaks(scores, 2 * BOX - 1).best(len(wanted))
        assert bool((found.scores[:-1] >= found.scores[1:]).all())
        gaps = torch.cdist(found.centres, wanted)
        assert float(gaps.min(0).values.max()) <= near
    assert float(correlated(data[0], templates).max()) <= 1 + 1e-6


def test_a_blob_answers_most_at_its_width() -> None:
    """A disc of radius r, at a width of r / sqrt(2)."""
    y, x = torch.meshgrid(*[torch.arange(64.0) - 32] * 2, indexing="ij")
    disc = (torch.hypot(x, y) <= 8.0).double()
    answers = {width: float(blobs(disc, width)[32, 32]) for width in (3.0, 4.0, 5.0, 5.66, 6.5, 8.0, 10.0)}
    assert max(answers, key=answers.__getitem__) == 5.66
    assert float(blobs(-disc, 5.66)[32, 32]) < 0


def test_pickers_refuse_bad_input() -> None:
    image = torch.randn(32, 32)
    for call, words in (
        (lambda: blobs(image, 0.0), "width must be positive"),
        (lambda: blobs(image[0], 1.0), "must be an image"),
        (lambda: peaks(image, 0), "at least 1 pixel"),
        (lambda: peaks(image[None], 3), "must be an image"),
        (lambda: correlated(image, torch.randn(2, 33, 33)), "do not fit"),
        (lambda: correlated(image, torch.randn(2, 5, 4)), r"\(n, side, side\)"),
        (lambda: correlated(image, torch.ones(2, 5, 5)), "the same everywhere"),
        (lambda: seen(torch.randn(2, 5, 5), lambda fx, fy: fx, -1), "margin"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
