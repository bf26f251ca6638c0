"""Steerable moments of volumes: against rendered views and simulated micrographs; the density that they tell."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import roots_legendre

from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.moments import Moments, merge
from unpicked.data.snr import snr_box
from unpicked.estimators import gmm, image_fit
from unpicked.estimators.autocorrelation import Autocorrelation
from unpicked.experiments.recovery import Fields, bpti, expanded
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.patches import Patches
from unpicked.model.placements import Anywhere
from unpicked.model.steerable_volumes import volume_table
from unpicked.model.views import Projection
from unpicked.objects.ball import Ball
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation, seeding, steerable
from unpicked.priors import Flat
from unpicked.recipes import moments

BOX = 7


def drawn(ball: Ball, count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, ball.size, generator=seeding.generator(seed, "volumes"), dtype=torch.float64)


def test_slopes_are_those_of_autograd() -> None:
    ball = Ball(5, 2)
    table, x = volume_table(ball, steerable.discs(4)), drawn(ball, 2)
    values, slope = table.slope(x)
    torch.testing.assert_close(values, table.values(x))
    by_hand = torch.autograd.functional.jacobian(lambda x: table.values(x).sum(0), x).movedim(1, 0)
    torch.testing.assert_close(slope, by_hand, rtol=1e-10, atol=1e-9)


def test_moments_are_those_of_all_views_on_pixels() -> None:
    """A small volume of low frequencies in a large box: nothing is cut off, and no three frequencies alias."""
    ball = Ball(9, 2, 2.5)
    functions = steerable.discs(8, 0.6)
    x = drawn(ball, 1, 3)
    nodes, weights = (torch.as_tensor(values) for values in roots_legendre(4))
    azimuth, turn = (torch.arange(n, dtype=torch.float64) * (360 / n) for n in (7, 16))
    angles = torch.meshgrid(azimuth, torch.rad2deg(torch.acos(nodes)), turn, indexing="ij")
    rotations = rotation.euler_to_matrix(torch.stack(angles, -1).reshape(-1, 3))
    share = weights[None, :, None].expand_as(angles[0]).reshape(-1) / 2 / 7 / 16
    images = torch.nn.functional.pad(ball.project(x, rotations)[0], (16,) * 4)
    seen = sum(
        w * steerable.steerable_sums(image, functions).sum(0)[1:] for image, w in zip(images, share, strict=True)
    )
    assert isinstance(seen, torch.Tensor)
    found = volume_table(ball, functions).values(x)[0]
    second = 1 + functions.groups[0].stop
    for part, error in ((slice(0, 1), 0.01), (slice(1, second), 0.01), (slice(second, None), 0.02)):
        assert float((seen[part] - found[part]).norm() / found[part].norm()) < error


def test_lags_that_do_not_reach_are_refused() -> None:
    with pytest.raises(ValueError, match="lags must reach"):
        volume_table(Ball(7, 2), steerable.discs(4))


def test_a_background_changes_moments_as_told() -> None:
    functions = steerable.discs(3, 1.0)
    image = torch.zeros(40, 40, dtype=torch.float64)
    inner = torch.randn(22, 22, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    image[9:31, 9:31] = inner - inner.mean()  # of mean 0, and nothing near the edges
    plain = steerable.steerable_sums(image, functions, pairs=True).sum(0)
    lifted = steerable.steerable_sums(image + 0.3, functions).sum(0)
    means, wanted = plain[1:] / plain[0], lifted[1:] / lifted[0]
    b = torch.tensor([0.3], dtype=torch.float64)
    gain, slope = steerable.about(means, functions, b)
    found = means[: functions.size] + gain[0]
    second = 1 + functions.groups[0].stop
    first = second + functions.groups[0].stop * (functions.groups[0].stop + 1) // 2
    torch.testing.assert_close(found[:first], wanted[:first], rtol=1e-10, atol=1e-12)
    # functions of order 4 do not quite sum to zero over pixels, which is left out
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.01 * float(wanted[second:].abs().max()))
    more, less = (steerable.about(means, functions, b + step)[0] for step in (1e-5, -1e-5))
    torch.testing.assert_close(slope, (more - less) / 2e-5, rtol=1e-6, atol=1e-8)


def simulated(level: float, seed: int, offset: float = 0.0) -> tuple[Micrographs, torch.Tensor, Model, float]:
    """Micrographs of BPTI's expansion, its coefficients, the model at the truth, and the realised density."""
    ball = Ball(BOX, 2)
    volume = expanded(bpti(BOX, 8.0), 2)
    data, truth = Fields(4, 384, 0.1).simulate(volume.specimen, snr_box(level), seed)
    images = torch.stack([data.source.read(index) for index in range(4)]).float() / truth.sigma
    places = torch.linspace(0, offset, 4)
    data = replace(data, source=InMemory(images + places[:, None, None]))
    density = truth.per_micrograph * 4 * BOX**2 / (4 * 384**2)
    x = ball.fit(volume.specimen.truth().values.double() / truth.sigma)
    spread = Projection(rotation.super_fibonacci(8))
    return data, x, Model(ball, spread, Anywhere(density, Patches(), "separated"), noise=White(1.0)), density


def chi_squared(data: Micrographs, x: torch.Tensor, model: Model, density: float, form: str) -> tuple[float, int]:
    """At the truth, and how many numbers it is of."""
    method = Autocorrelation(form=form)  # type: ignore[arg-type]
    record = method.measure(data, model)
    unknowns = image_fit.unknowns_of(record, model, method)
    theta = gmm.pack(unknowns, x[None], torch.tensor([density], dtype=torch.float64), 1.0)
    white = image_fit.whitener(record, unknowns, method, 1.0)
    target = record.means[: unknowns.functions.size].clone()
    target[0] = 0 if form == "cumulant" else target[0]
    misfit = white @ (target - unknowns.slope(theta)[0][0])
    return float(misfit.square().sum()), len(misfit)


@pytest.mark.parametrize("form", ["raw", "cumulant"])
def test_micrographs_have_the_moments_of_the_model(form: str) -> None:
    """About the mean every micrograph may have a background of its own."""
    offset = 20.0 if form == "cumulant" else 0.0
    found = [chi_squared(*simulated(0.3, seed, offset), form) for seed in range(2)]
    assert 0.7 < sum(square for square, _ in found) / sum(count for _, count in found) < 1.3


@pytest.mark.slow
@pytest.mark.parametrize("form", ["raw", "cumulant"])
def test_clear_micrographs_have_the_moments_of_the_model(form: str) -> None:
    """E = 424: errors are those of the particles' number and views."""
    volume, ball = expanded(bpti(11, 5.0), 4), Ball(11, 4)
    data, truth = Fields(4, 1024, 0.1).simulate(volume.specimen, snr_box(3.5), 1)
    images = torch.stack([data.source.read(index) for index in range(4)]).float() / truth.sigma
    density = truth.per_micrograph * 4 * 121 / (4 * 1024**2)
    spread = Projection(rotation.super_fibonacci(8))
    model = Model(ball, spread, Anywhere(density, Patches(), "separated"), noise=White(1.0))
    x = ball.fit(volume.specimen.truth().values.double() / truth.sigma)
    square, count = chi_squared(replace(data, source=InMemory(images)), x, model, density, form)
    assert 0.8 < square / count < 1.2


@pytest.mark.parametrize("level", [1.0, 0.3])
def test_density_and_noise_are_found(level: float) -> None:
    for seed in range(2):
        data, _, _, density = simulated(level, seed, offset=20.0)
        told = moments.told_by(moments.moments_of(data, BOX)[0], lmax=2, starts=4)
        assert abs(told.density - density) < 3.5 * told.density_error
        assert told.density_error < 0.25 * density
        assert told.agrees and not told.blank and told.rows is not None and len(told.rows) == 4
        assert told.energy == pytest.approx(BOX**2 * level, rel=0.5)


def test_blank_micrographs_are_told_from_others() -> None:
    data, _, _, _ = simulated(0.5, 3)
    images = torch.stack([data.source.read(index) for index in range(4)])
    noise = torch.randn(3, 384, 384, generator=torch.Generator().manual_seed(1))
    mixed = Micrographs(InMemory(torch.cat([images, noise])), 8.0, (*data.names, "a", "b", "c"))
    record = moments.moments_of(mixed, BOX)[0]
    told = moments.told_by(record, lmax=2, starts=4)
    assert told.blank == [4, 5, 6] and told.rows is not None
    assert min(row[2] for row in told.rows[:4]) > 5


def test_records_keep_their_micrographs(tmp_path) -> None:
    data, _, _, _ = simulated(3.0, 5)
    whole = moments.moments_of(data, BOX)[0]
    parts = []
    for first in (0, 2):
        names, images = data.names[first : first + 2], [data.source.read(first), data.source.read(first + 1)]
        parts.append(moments.moments_of(replace(data, source=InMemory(torch.stack(images)), names=names), BOX)[0])
        parts[-1].save(tmp_path / f"{first}.npz")
    again = moments.merged([Moments.load(tmp_path / f"{first}.npz") for first in (0, 2)])
    assert again.names == whole.names and again.kind == whole.kind and again.blocks == whole.blocks
    assert whole.pieces is not None and again.pieces is not None
    torch.testing.assert_close(again.pieces, whole.pieces)
    torch.testing.assert_close(again.sums, whole.sums)
    torch.testing.assert_close(again.squares, whole.squares)
    torch.testing.assert_close(whole.pieces.sum(0), whole.sums)
    with pytest.raises(ValueError, match="counted once"):
        moments.merged([whole, parts[0]])
    assert merge([whole, replace(parts[0], pieces=None, names=())]).pieces is None


def test_bad_input_is_refused() -> None:
    data, _, model, _ = simulated(3.0, 6)
    for box, words in ((99, "4 to 14"), (13, "four boxes")):
        small = replace(data, source=InMemory(torch.randn(4, 48, 48)))
        with pytest.raises(ValueError, match=words):
            moments.moments_of(small, box)
    with pytest.raises(ValueError, match="not moments"):
        moments.told_by(Moments("signal, L = 7", 7, torch.ones(3), torch.ones(3), 3))
    record = moments.moments_of(data, BOX)[0]
    with pytest.raises(ValueError, match="blocks"):
        moments.told_by(replace(record, blocks=3))
    for changed, words in (
        (replace(model, object=Voxels(BOX)), "Ball seen from all sides"),
        (replace(model, placement=Anywhere(0.1, Patches(), "arbitrary")), "well separated"),
    ):
        with pytest.raises(ValueError, match=words):
            image_fit.fit(record, changed, Autocorrelation(form="cumulant"), Flat(), 0)
    with pytest.raises(ValueError, match="summed in it"):
        image_fit.fit(record, model, Autocorrelation(), Flat(), 0)


@pytest.mark.parametrize("count", [1, 4])
def test_noise_holds_no_particles(count: int) -> None:
    for seed in range(2):
        noise = torch.randn(count, 384, 384, generator=torch.Generator().manual_seed(seed))
        names = tuple(f"{index}" for index in range(count))
        told = moments.told_by(moments.moments_of(Micrographs(InMemory(noise), 8.0, names), BOX)[0], lmax=2, starts=4)
        assert not told.seen and told.blank == list(range(count))


def test_a_spoilt_micrograph_costs_only_itself() -> None:
    data, _, _, _ = simulated(1.0, 6)
    images = torch.stack([data.source.read(index) for index in range(4)])
    images[2] = 7.0
    record, left_out = moments.moments_of(replace(data, source=InMemory(images)), BOX)
    assert record.names == (data.names[0], data.names[1], data.names[3]) and len(left_out) == 1
    assert data.names[2] in left_out[0]
    with pytest.raises(ValueError, match="no micrograph can be used"):
        moments.moments_of(replace(data, source=InMemory(torch.ones(4, 384, 384))), BOX)


def test_spoilt_records_are_refused(tmp_path) -> None:
    data, _, _, _ = simulated(1.0, 6)
    record = moments.moments_of(data, BOX)[0]
    record.save(tmp_path / "good.npz")
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "array.npy", np.ones(3))
    replace(record, sums=record.sums[:5]).save(tmp_path / "short.npz")
    replace(record, sums=record.sums * math.nan).save(tmp_path / "nan.npz")
    replace(record, names=record.names[:2]).save(tmp_path / "names.npz")
    for name in ("cut.npz", "empty.npz", "array.npy", "short.npz", "nan.npz", "names.npz"):
        with pytest.raises(ValueError, match="moments"):
            Moments.load(tmp_path / name)
