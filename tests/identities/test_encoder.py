"""The encoder's branches and outputs, its network, and the decoder's misfit, against what they must be."""

from __future__ import annotations

import math

import pytest
import torch

from unpicked.data.micrographs import InMemory
from unpicked.data.optics import Optics
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.estimators import decoder, network
from unpicked.estimators.base import Batch
from unpicked.estimators.gradient import Gradient
from unpicked.estimators.poses import Encoder, Table
from unpicked.estimators.seen import Proposal, Seen, look
from unpicked.model.centred import Centred
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.views import Projection
from unpicked.objects.gaussians import Gaussians
from unpicked.objects.voxels import Voxels
from unpicked.ops import dihedral, fourier, rotation, shift, trilinear
from unpicked.priors import Flat

PIXEL = 3.0


def draw(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turns(count: int, seed: int = 3) -> torch.Tensor:
    return rotation.random_rotations(count, torch.Generator().manual_seed(seed))


def molecule(box: int) -> tuple[Gaussians, torch.Tensor]:
    places = 0.13 * box * torch.tanh(draw(1, 9, 3))
    return Gaussians(box, places, torch.full((9,), 1.3, dtype=torch.float64)), 1 + draw(2, 9).abs()


def optics(count: int, defocus: float = 9000.0) -> Optics:
    one = (defocus,)
    group = (0,) * count
    return Optics(one, (defocus + 900,), (20.0,), (300.0,), (2.7,), (0.1,), (0.0,), (0.0,), (1.0,), group)


def view(images: torch.Tensor, *, of: Optics | None = None, max_shift: float = 0.0) -> Seen:
    names = tuple(str(index) for index in range(len(images)))
    data = Particles(InMemory(images), PIXEL, names, optics=of)
    return look(data, range(len(images)), max_shift, torch.tensor([0.0, 1.0]), images)


@pytest.mark.parametrize(("box", "millions"), [(128, 17.3), (64, 4.7), (32, 1.6)])
def test_the_published_network_has_its_number_of_weights(box: int, millions: float) -> None:
    count = network.size(Encoder(branches="none").shape(box))
    assert round(count / 1e6, 1) == millions
    if box < 128:
        assert network.start(Encoder(branches="none").shape(box), 0).shape == (count,)


def test_the_network_is_what_the_paper_says() -> None:
    """Written out with functions of torch on the same weights."""
    shape = network.Shape(13, (2, 3), 5, 4)
    weights, images = network.start(shape, 7).double() + 0.1, draw(4, 6, 13, 13)
    rest, value = weights, images[:, None]

    def take(*size: int) -> torch.Tensor:
        nonlocal rest
        count = math.prod(size)
        out, rest = rest[:count].view(size), rest[count:]
        return out

    before = 1
    for width in shape.widths:
        for channels in (before, width):
            value = torch.relu(torch.conv2d(value, take(width, channels, 3, 3), take(width), padding=1))
        value, before = torch.max_pool2d(value, 2), width
    value = value.flatten(1)
    for inputs in (3 * 3 * 3, 5):
        value = torch.relu(value @ take(5, inputs).T + take(5))
    expected = value @ take(4, 5).T + take(4)
    assert len(rest) == 0
    assert torch.allclose(network.call(shape, weights, images), expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["s2s2", "quaternion", "euler"])
def test_every_form_gives_rotations_and_covers_them(kind: str) -> None:
    encoder = Encoder(rotation=kind, branches="heads", heads=512)  # type: ignore[arg-type]
    numbers = 3 * draw(5, 4, 50, 6 if kind == "s2s2" else 3)
    found = encoder._poses(numbers, torch.zeros(4, 50, dtype=torch.long), view(draw(6, 4, 8, 8))).rotations
    identity = torch.eye(3, dtype=torch.float64)
    assert torch.allclose(found @ found.mT, identity.expand_as(found), atol=1e-7)
    assert torch.allclose(torch.linalg.det(found), torch.ones(4, 50).double(), atol=1e-7)
    # numbers that stand for given rotations
    wanted = turns(200)
    given = encoder._numbers(wanted)
    again = encoder._poses(given[:, None], torch.zeros(200, 1, dtype=torch.long), view(draw(6, 200, 8, 8)))
    errors = rotation.geodesic_distance(again.rotations[:, 0], wanted)
    assert float(errors.median()) < (0.5 if kind == "quaternion" else 1e-4)  # u and turns keep off the ends
    # heads begin spread over all rotations: every one has its nearest within the spacing of 512
    weights = encoder.start(Particles(InMemory(draw(6, 2, 8, 8).float()), 1.0, ("a", "b")), 0)
    bias = network.last_layer(weights, encoder.hidden, 512 * given.shape[1])[1].view(1, 512, -1)
    heads = encoder._poses(bias, torch.zeros(1, 512, dtype=torch.long), view(draw(6, 1, 8, 8))).rotations[0]
    nearest = rotation.geodesic_distance(heads[:, None], turns(300).float()[None]).min(0).values
    assert float(nearest.max()) < 45


def test_three_numbers_are_uniform_where_their_sigmoids_are() -> None:
    uniform = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = rotation.unit_cube_to_matrix(torch.logit(uniform))
    assert float(found.mean(0).abs().max()) < 0.02
    assert float((found.square().mean(0) - 1 / 3).abs().max()) < 0.02
    angle = torch.deg2rad(rotation.geodesic_distance(found, torch.eye(3, dtype=torch.float64)))
    assert float(angle.mean()) == pytest.approx(math.pi / 2 + 2 / math.pi, abs=0.01)  # of the law (1 - cos a) / pi


@pytest.mark.parametrize("box", [16, 17])
@pytest.mark.parametrize("heads", [1, 2])
def test_an_encoder_that_knows_the_poses_gives_one_pose_for_all_flips(
    box: int, heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A toy network that recognises every flipped image by its exact projection, and measures its shift."""
    object, x = molecule(box)
    true = turns(5)
    views = (dihedral.matrices()[:, None] @ true).flatten(0, 1)
    templates = object.projector(views).project(x)
    shifts = 2.5 * torch.rand(5, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64) - 1.25
    images = shift.shift_image(templates[:5], shifts)
    grid = (torch.arange(box) - box // 2).double()

    def centre(image: torch.Tensor) -> torch.Tensor:
        mass = image.sum((-2, -1))
        return torch.stack([(image.sum(-2) * grid).sum(-1), (image.sum(-1) * grid).sum(-1)], -1) / mass[..., None]

    def call(shape: network.Shape, weights: torch.Tensor, shown: torch.Tensor, half: bool = False) -> torch.Tensor:
        moved = centre(shown)[:, None] - centre(templates)  # where the image would lie beside each template
        undone = shift.shift_image(shown[:, None], -moved)
        inner = (undone - templates)[..., 2:-2, 2:-2]
        best = inner.square().sum((-2, -1)).argmin(1)
        t = moved[torch.arange(len(shown)), best] * PIXEL / 12.0
        one = torch.cat([views[best][:, :2].flatten(1), torch.atanh(t)], 1)
        other = torch.cat([torch.eye(3, dtype=torch.float64)[:2].flatten(), torch.zeros(2).double()])
        return torch.stack([one, other.expand_as(one)], 1)[:, :heads].flatten(1)

    monkeypatch.setattr(network, "call", call)
    encoder = Encoder(heads=heads, shifts="estimated")
    seen = view(images, max_shift=12.0)
    every = encoder.propose(torch.zeros(1), seen)
    assert every.rotations.shape == (5, 8 * heads, 3, 3)
    assert every.shifts is not None
    error = (every.rotations[:, ::heads] - true[:, None]).abs().max()
    assert float(error) < 1e-7
    # the last rows and columns that a shift wraps around cost a little
    assert float((every.shifts[:, ::heads] / PIXEL - shifts[:, None]).abs().max()) < 0.05
    picks = torch.randint(0, 8 * heads, (5, 3), generator=torch.Generator().manual_seed(4))
    some, same = encoder.propose(torch.zeros(1), seen, picks), every.chosen(picks)
    assert same.shifts is not None and some.shifts is not None
    assert torch.allclose(some.rotations, same.rotations, atol=1e-12)
    assert torch.allclose(some.shifts, same.shifts, atol=1e-9)


@pytest.mark.parametrize("branches", ["none", "mirror", "heads", "orbit"])
def test_branches_that_are_wanted_are_those_of_all(branches: str) -> None:
    encoder = Encoder(branches=branches, heads=0 if branches == "none" else 3, widths=(2, 3), hidden=7, defocus=300.0)  # type: ignore[arg-type]
    images = draw(5, 6, 16, 16)
    data = Particles(InMemory(images), PIXEL, tuple("abcdef"), optics=optics(6))
    weights, seen = encoder.start(data, 1).double(), view(images, of=optics(6))
    every = encoder.propose(weights, seen)
    assert every.rotations.shape == (6, encoder.count, 3, 3)
    assert encoder.count == {"none": 1, "mirror": 6, "heads": 3, "orbit": 24}[branches]
    picks = torch.randint(0, encoder.count, (6, 2), generator=torch.Generator().manual_seed(4))
    some, same = encoder.propose(weights, seen, picks), every.chosen(picks)
    assert some.defocus is not None and same.defocus is not None
    assert torch.allclose(some.rotations, same.rotations, atol=1e-12)
    assert torch.allclose(some.defocus, same.defocus, atol=1e-9)
    assert float(some.defocus.abs().max()) < 300


def test_the_network_is_shown_cropped_images_of_flipped_phases() -> None:
    images, of = 3 + 2 * draw(5, 6, 16, 16), optics(6, 12000.0)
    data = Particles(InMemory(images.float()), PIXEL, tuple("abcdef"), optics=of)
    encoder = Encoder(crop=12, flip_phases=True)
    scale = encoder.scale(data)
    shown = encoder._shown(look(data, range(6), 0.0, scale, images))
    assert shown.shape == (6, 12, 12)
    assert float(shown.mean()) == pytest.approx(0, abs=1e-5) and float(shown.std()) == pytest.approx(1, abs=1e-5)
    small = fourier.resize_image(images.float().double(), (12, 12))
    s = fourier.frequencies(12).double() / (12 * (PIXEL * 16 / 12))
    sy, sx = torch.meshgrid(s, s, indexing="ij")
    transfer = of.values(sx, sy)
    assert bool((transfer < 0).any())
    expected = fourier.fft2(small) * torch.sign(transfer)
    inner = fourier.radius((12, 12)) < 6
    found = fourier.fft2(shown * float(scale[1]) + float(scale[0]))
    assert torch.allclose(found[:, inner], expected[:, inner], atol=1e-5)


def test_misfit_is_the_squared_distance_of_images() -> None:
    """Parseval: twice the sum over the half disc is the real-space sum, for images within the band, with CTF."""
    box, radius = 16, 7
    object, x = molecule(box)
    band, true, of = decoder.band(box, radius), turns(4), optics(4)
    images = band.images(band.coefficients(draw(5, 4, box, box)))
    seen = view(images, of=of, max_shift=9.0)
    voxels, moved = Voxels(box), 4 * draw(6, 4, 1, 2)
    cube = decoder.spectrum(voxels, voxels.fit(object.values(x)), radius)
    poses = Proposal(true[:, None], moved)
    found = decoder.misfit(cube, poses, decoder.measured(seen, radius), 2)[:, 0]
    transfer = of.values(*band.frequencies(PIXEL))
    ramp = band.ramp(moved[:, 0] / PIXEL)
    decoded = band.images(trilinear.slices_by_gather(cube, true, band.points.double()) * transfer * ramp)
    expected = (images - decoded).square().sum((-2, -1)) / (2 * len(band))
    assert torch.allclose(found, expected, rtol=1e-10)
    # moved by a phase is moved in space
    still = band.images(trilinear.slices_by_gather(cube, true, band.points.double()) * transfer)
    assert torch.allclose(shift.shift_image(still, moved[:, 0] / PIXEL), decoded, atol=1e-10)


def test_a_change_of_defocus_is_another_defocus() -> None:
    box = 16
    object, x = molecule(box)
    voxels, poses = Voxels(box), turns(3)[:, None]
    cube = decoder.spectrum(voxels, voxels.fit(object.values(x)), 7)
    images = draw(5, 3, box, box)
    wrong, right = (decoder.measured(view(images, of=optics(3, value)), 7) for value in (9000.0, 9700.0))
    change = torch.full((3, 1), 700.0, dtype=torch.float64)
    found = decoder.predicted(cube, Proposal(poses, defocus=change), wrong, 2)
    assert torch.allclose(found, decoder.predicted(cube, Proposal(poses), right, 2), atol=1e-12)
    plain = decoder.predicted(cube, Proposal(poses), wrong, 2)
    assert float((plain - found).abs().max()) > 0.05 * float(found.abs().max())


def test_shifts_are_found_at_the_true_map() -> None:
    """The table from true rotations and shifts of zero; images are moved by up to two pixels."""
    box, count = 16, 24
    object, x = molecule(box)
    true = turns(count)
    shifts = 2 * (2 * torch.rand(count, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 1)
    images = shift.shift_image(object.projector(true).project(x), shifts)
    names = tuple(str(index) for index in range(count))
    data = Particles(InMemory(images.float()), PIXEL, names, poses=Poses(true, 0 * shifts))
    identity = Projection(torch.eye(3, dtype=torch.float64)[None])
    model = Model(Voxels(box), identity, Centred(max_shift=12.0), noise=White(0.01))
    table = Table(shifts="estimated", learning_rate=0.03, least_rate=1e-4)
    estimator = Gradient(table, iterations=150, batch=24, map_rate=1e-9, least_map_rate=0, every=50)
    state = estimator.init(data, model, model.object.fit(object.values(x)), 0)
    state["poses"][:, :6] = true[:, :2].flatten(1).to(state["poses"])
    for _ in range(150):
        stats = estimator.accumulate(model, Batch(data, range(count)), state)
        state = estimator.update(model, state, stats, Flat())
    found = estimator.poses_of(model, state, data)
    assert float((found.shifts / PIXEL - shifts).norm(dim=1).median()) < 0.1


def test_heads_that_never_win_become_turned_copies() -> None:
    for kind in ("s2s2", "quaternion", "euler"):
        encoder = Encoder(rotation=kind, branches="heads", heads=4, widths=(2,), hidden=5)  # type: ignore[arg-type]
        images = draw(5, 3, 8, 8)
        data = Particles(InMemory(images), PIXEL, tuple("abc"))
        weights = encoder.start(data, 1).double() + 0.1 * draw(6, network.size(encoder.shape(8)))
        usage = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64)
        before, seen = encoder.propose(weights, view(images)).rotations, view(images)
        kept = weights.clone()
        revived = encoder.revived(weights, usage, 3)
        assert torch.equal(weights, kept)
        after = encoder.propose(revived, seen).rotations
        assert torch.equal(after[:, :2], before[:, :2])
        for head in (2, 3):
            distances = rotation.geodesic_distance(after[:, head, None], before[:, :2])
            assert float(distances.min(1).values.max()) < (30.1 if kind == "s2s2" else 180)
            assert float(distances.min()) > 1e-3
            if kind == "s2s2":  # the object turned by 30 degrees, whatever the image
                assert torch.allclose(distances.min(1).values, torch.full((3,), 30.0).double(), atol=1e-3)
        assert torch.equal(encoder.revived(weights, torch.full((4,), 0.25), 3), weights)


def test_same_heads_stay_the_same() -> None:
    """Equal outputs win and learn together: heads must begin apart."""
    encoder = Encoder(branches="heads", heads=3, widths=(2, 3), hidden=6)
    images = draw(5, 4, 16, 16).float()
    data = Particles(InMemory(images), PIXEL, tuple("abcd"))
    weights = encoder.start(data, 0)
    heads = encoder.propose(weights, view(images)).rotations
    assert float(rotation.geodesic_distance(heads[:, 0], heads[:, 1]).min()) > 30
    last, bias = network.last_layer(weights, 6, 18)
    for part in (last.view(3, 6, 6), bias.view(3, 6)):
        part[:] = part[:1].clone()
    same = encoder.propose(weights, view(images)).rotations
    assert torch.equal(same[:, 0], same[:, 2])
