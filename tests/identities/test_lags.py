"""Moments at all lags: counted once each, additive, those of templates on nothing, and of white noise."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from unpicked.data import snr
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.moments import Moments, merge
from unpicked.estimators import lag_fit
from unpicked.estimators.autocorrelation import Autocorrelation
from unpicked.evaluate.compare import compare
from unpicked.model.conical import Conical, conical
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.patches import Patches
from unpicked.model.placements import Anywhere
from unpicked.objects.ball import Ball
from unpicked.objects.voxels import Voxels
from unpicked.ops import lags
from unpicked.priors import Flat
from unpicked.recipes import MicrographJob, from_micrographs
from unpicked.simulate.micrographs import place, simulate_micrographs
from unpicked.simulate.phantom import bead_chain
from unpicked.simulate.preference import OnTilted


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_every_product_of_three_pixels_stands_once(radius: int) -> None:
    of = lags.lags(radius)
    line = range(-radius, radius + 1)
    points = [(y, x) for y in line for x in line]
    shapes = set()
    for a, b in itertools.product(points, points):
        three = sorted([(0, 0), a, b])
        if all(math.dist(p, q) <= radius for p, q in itertools.combinations(three, 2)):
            shapes.add(tuple((y - three[0][0], x - three[0][1]) for y, x in three[1:]))
    values = [tuple(lag) for lag in of.values.tolist()]
    held = [(values[i], values[j]) for i, j in zip(of.first.tolist(), of.second.tolist(), strict=True)]
    assert len(held) == len(set(held)) and set(held) == shapes
    between = of.values[of.second] - of.values[of.first]
    assert torch.equal(of.values[of.between], between)
    with pytest.raises(ValueError, match="radius must be at least 1"):
        lags.lags(0)


def test_sums_are_those_of_the_definition_and_add_over_parts() -> None:
    of, image = lags.lags(2), drawn(75, 90)
    sums, squares, tiles = lags.lag_sums(image, of)
    height, width = 75 - 2, 90 - 4
    base = image[:height, 2 : 2 + width]

    def at(lag: list[int]) -> torch.Tensor:
        return image[lag[0] : lag[0] + height, 2 + lag[1] : 2 + lag[1] + width]

    count, told = float(sums[0]), sums[1:]
    mean, second, third = of.split(told)
    assert count == height * width and tiles == 4
    corners = [(top, left) for top in (0, lags.TILE) for left in (0, lags.TILE)]
    cut = [image[top : top + lags.TILE + 2, left : left + lags.TILE + 4] for top, left in corners]
    parts = [lags.lag_sums(part, of) for part in cut]
    torch.testing.assert_close(squares, torch.stack([part[0].square() for part in parts]).sum(0))
    assert float(mean) == pytest.approx(float(base.sum()))
    for number, lag in enumerate(of.values.tolist()):
        assert float(second[number]) == pytest.approx(float((base * at(lag)).sum()), abs=1e-9)
    for number in range(0, len(third), 7):
        a, b = (of.values[part[number]].tolist() for part in (of.first, of.second))
        assert float(third[number]) == pytest.approx(float((base * at(a) * at(b)).sum()), abs=1e-9)
    upper, lower = lags.lag_sums(image[:42], of)[0], lags.lag_sums(image[40:], of)[0]
    torch.testing.assert_close(upper + lower, sums, atol=1e-9, rtol=0)
    assert lags.lag_sums(drawn(2, 5), of)[2] == 0


def test_templates_have_the_moments_of_an_image_that_holds_them() -> None:
    of, template = lags.lags(4), drawn(2, 5, 5)
    expected = torch.zeros(of.size, dtype=torch.float64)
    for one in template:
        field = torch.zeros(25, 25, dtype=torch.float64)
        field[10:15, 10:15] = one
        expected += lags.lag_sums(field, of)[0][1:] / 2
    torch.testing.assert_close(lags.template_moments(template, of), expected)


def test_slopes_are_those_of_differentiation() -> None:
    of, template, ways = lags.lags(3), drawn(3, 5, 5), drawn(4, 3, 5, 5, seed=1)

    def moments(t: torch.Tensor) -> torch.Tensor:
        return lags.central(0.02 * lags.template_moments(template + t * ways[2], of), of)

    found = lags.template_slope(template, ways, of)
    raw = lags.template_moments(template, of)
    slope = lags.central_slope(0.02 * raw, 0.02 * found, of)[2]
    step = 1e-4
    numeric = (moments(torch.tensor(step)) - moments(torch.tensor(-step))) / (2 * step)
    torch.testing.assert_close(slope, numeric, atol=1e-7, rtol=1e-5)


def test_the_sign_of_the_tilt_tells_the_hand_by_the_third_moments_alone() -> None:
    of, object = lags.lags(4), Voxels(5)
    values = drawn(5, 5, 5)

    def moments(volume: torch.Tensor, tilt: float) -> tuple[torch.Tensor, ...]:
        seen = Conical(tilt, 40).operator(object, volume).project(volume.flatten())
        return of.split(lags.template_moments(seen, of))

    one, mirrored, other = moments(values, 60.0), moments(values.flip(0), 60.0), moments(values.flip(0), -60.0)
    for first, second in zip(one, other, strict=True):
        torch.testing.assert_close(first, second)
    torch.testing.assert_close(one[1], mirrored[1])
    assert float((one[2] - mirrored[2]).norm()) > 0.3 * float(one[2].norm())


def test_central_moments_do_not_know_the_background() -> None:
    of, image = lags.lags(2), drawn(400, 400)
    image = image + (drawn(400, 400, seed=1) > 1.5).double()
    one = lags.lag_sums(image - image.mean(), of)[0]
    raw = lags.lag_sums(image + 3.0, of)[0]
    central = lags.central(raw[1:] / raw[0], of)
    torch.testing.assert_close(central[1:], (one[1:] / one[0])[1:], atol=0.05, rtol=0)


def test_white_noise_scatters_as_predicted() -> None:
    of, rows = lags.lags(1), []
    for seed in range(300):
        noise = 2 * drawn(40, 40, seed=seed)
        sums = lags.lag_sums(noise - noise.mean(), of)[0]
        rows.append(sums[1:] / sums[0])
    seen = torch.stack(rows).var(0) * float(sums[0])
    expected = lags.noise_variance(of, 4.0)
    # a sixth moment about the mean loses what goes along with the mean: 6 of the 15 s^6 of a cube, as predicted
    torch.testing.assert_close(seen[1:], expected[1:], rtol=0.35, atol=0)


SIDE = 7
MODEL = Model(Ball(SIDE, 5), Conical(60.0), Anywhere(0.1, Patches(), "separated"), noise=White(1.0))
METHOD = Autocorrelation(starts=2, form="cumulant")


def tilted(count: int, size: int, seed: int, level: float = 60.0) -> Micrographs:
    return simulate_micrographs(
        bead_chain(SIDE, 3), count=count, size=(size, size), density=0.12, noise=snr.energy(level), seed=seed,
        preference=OnTilted(60.0),
    )[0]  # fmt: skip


def of_the_model(x: torch.Tensor, count: int, size: int) -> Micrographs:
    """Micrographs that hold exactly the model's projections, at whole pixels, in noise of variance 1."""
    images = []
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        image = torch.randn(size, size, generator=generator, dtype=torch.float64)
        copies = round(0.12 * size**2 / SIDE**2)
        angles = 360 * torch.rand(copies, generator=generator, dtype=torch.float64)
        seen = MODEL.object.project(x, conical(angles, 60.0))  # type: ignore[attr-defined]
        places = place((size, size), SIDE, 2 * SIDE - 1, copies, generator)
        for (y, x_), one in zip(places.tolist(), seen, strict=True):
            image[y : y + SIDE, x_ : x_ + SIDE] += one
        images.append(image)
    return Micrographs(InMemory(torch.stack(images)), 5.0, tuple(map(str, range(count))))


def test_the_slope_of_the_cost_is_right_and_the_truth_agrees_with_the_moments() -> None:
    truth = MODEL.object.fit(bead_chain(SIDE, 3).truth().values.double())
    truth = truth * math.sqrt(40.0 / float(MODEL.templates(truth).square().sum((1, 2)).mean()))
    record = METHOD.measure(of_the_model(truth, 6, 400), MODEL)
    assert record.kind == "image, all lags, L = 7, tilt 60 at 0, centred" and record.squares.dim() == 1
    problem = lag_fit._problem(record, MODEL, METHOD, Flat())
    rate = torch.tensor(math.log(0.12), dtype=torch.float64)
    used = int((problem.weights > 0).sum())
    assert float(2 * problem.misfit(truth, rate)) / used == pytest.approx(1, abs=0.25)
    assert float(2 * problem.misfit(0.9 * truth, rate)) / used > 1.5
    x = (truth + 0.1 * drawn(len(truth))).requires_grad_()
    (slope,) = torch.autograd.grad(problem.misfit(x, rate), x)
    way = drawn(len(truth), seed=5)
    step = 1e-2
    ahead, behind = (float(problem.misfit(x.detach() + sign * step * way, rate)) for sign in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(float(slope @ way), rel=0.02)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_volume_comes_from_the_moments_of_a_tilted_grid(seed: int) -> None:
    job = MicrographJob(box=SIDE, lmax=5, tilt=60.0, method="autocorrelation", starts=1)
    found = from_micrographs(tilted(5, 400, seed, 150.0), job, seed=seed)
    assert compare(found.map, bead_chain(SIDE, 3).truth()).correlation > 0.85
    assert found.last.history[-1]["density"] == pytest.approx(0.12, rel=0.15)
    assert found.sigma == pytest.approx(float(found.prepared.scale), rel=0.05)


def test_records_of_two_halves_add_and_other_tilts_do_not() -> None:
    data = tilted(2, 150, 0)
    whole = METHOD.measure(data, MODEL)
    both = merge([METHOD.measure(data, MODEL, [0]), METHOD.measure(data, MODEL, [1])])
    torch.testing.assert_close(both.sums, whole.sums)
    torch.testing.assert_close(both.squares, whole.squares)
    other = METHOD.measure(data, Model(MODEL.object, Conical(50.0), MODEL.placement, noise=MODEL.noise), [1])
    with pytest.raises(ValueError, match="tilt"):
        merge([METHOD.measure(data, MODEL, [0]), other])


def test_what_such_moments_do_not_know_is_refused(tmp_path: object) -> None:
    for bad, told in (
        ({"tilt": None}, "needs --tilt"),
        ({"spacing": "arbitrary"}, "separated"),
        ({"noise": "coloured"}, "white noise"),
        ({"held_out": 1}, "--held-out"),
        ({"moves": 0}, "--moves"),
        ({"box": 32}, "at most 20"),
        ({"object": "voxels"}, "for a ball"),
    ):
        with pytest.raises(ValueError, match=told):
            MicrographJob(**({"box": 7, "tilt": 60.0, "method": "autocorrelation"} | bad))
    record = METHOD.measure(tilted(1, 100, 0), MODEL)
    with pytest.raises(ValueError, match="published"):
        Autocorrelation(form="cumulant", weights="published").fit(record, MODEL, Flat(), 0)
    crowded = Model(MODEL.object, MODEL.view, Anywhere(0.1, Patches(), "arbitrary"), noise=MODEL.noise)
    with pytest.raises(ValueError, match="well separated"):
        METHOD.fit(record, crowded, Flat(), 0)
    empty = METHOD.measure(Micrographs(InMemory(drawn(1, 10, 10).float()), 5.0, ("a",)), MODEL)
    with pytest.raises(ValueError, match="no base point"):
        METHOD.fit(empty, MODEL, Flat(), 0)
    with pytest.raises(ValueError, match="all its lags"):
        METHOD.fit(Moments("signal, L = 7", 7, record.sums, record.squares, 1), MODEL, Flat(), 0)
