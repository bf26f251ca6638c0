"""Filters of micrographs: what templates look like through contrast transfer and whitening, and what sums suffice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from unpicked.data.gains import Gains
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.optics import Optics
from unpicked.estimators import maximisation
from unpicked.estimators.base import Batch, _fewer, judge
from unpicked.estimators.em import EM
from unpicked.model.gas import Gas, Window, _Whole
from unpicked.model.likelihoods import Score, Stats
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.patches import Patches
from unpicked.model.placements import Anywhere
from unpicked.model.transfer import Transfer, transfer
from unpicked.model.views import Projection
from unpicked.objects.voxels import Voxels
from unpicked.ops import filters, rotation
from unpicked.priors import Flat, Ridge
from unpicked.reconstruct import reconstruct

SIDE, WIDE = 5, 128


def optics(*defoci: float, astigmatism: float = 900.0) -> Optics:
    """One setting per micrograph."""
    count = len(defoci)

    def same(value: float) -> tuple[float, ...]:
        return (value,) * count

    return Optics(
        defocus_u=tuple(z + astigmatism / 2 for z in defoci),
        defocus_v=tuple(z - astigmatism / 2 for z in defoci),
        astigmatism_angle=same(33.0), voltage_kv=same(300.0), cs_mm=same(2.7), amplitude_contrast=same(0.1),
        phase_shift=same(0.0), b_factor=same(400.0), scale=same(1.0), group=tuple(range(count)),
    )  # fmt: skip


def gains(count: int) -> Gains:
    curve = tuple(1 + 0.5 * math.cos(2 * math.pi * k / 90) for k in range(91))
    return Gains((curve, tuple(2 * value for value in curve)), tuple(k % 2 for k in range(count)))


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=["optics", "gains", "both"])
def through(request) -> Transfer:
    seen = None if request.param == "gains" else optics(9000.0, 14000.0)
    return transfer(8.0, SIDE, seen, None if request.param == "optics" else gains(2))


def shown(through: Transfer, image: torch.Tensor, group: int) -> torch.Tensor:
    """A copy in the middle of a wide field, through a filter, by its definition."""
    field, first = torch.zeros(WIDE, WIDE, dtype=torch.float64), (WIDE - SIDE) // 2
    field[first : first + SIDE, first : first + SIDE] = image
    factors = through.factors(group)(*filters.half_plane((WIDE, WIDE)))
    return torch.fft.irfft2(torch.fft.rfft2(field) * factors, s=(WIDE, WIDE))


@pytest.mark.parametrize("group", [0, 1])
def test_a_filtered_micrograph_is_compared_with_plain_templates(through: Transfer, group: int) -> None:
    """<y, h * T> = <h * y, T>, and |h * T|^2 from lags below the side; the field is its own periodic neighbour here."""
    image, y = draw(0, SIDE, SIDE), draw(1, WIDE, WIDE)
    wide = shown(through, image, group)
    first = (WIDE - SIDE) // 2
    factors = through.factors(group)(*filters.half_plane((WIDE, WIDE)))
    once_more = torch.fft.irfft2(torch.fft.rfft2(y) * factors, s=(WIDE, WIDE))
    window = (slice(first, first + SIDE),) * 2
    assert float((once_more[window] * image).sum()) == pytest.approx(float((y * wide).sum()), rel=1e-9)
    seen = through.seen(y.float(), group).double()  # beyond the border another field than the periodic one
    assert float((seen - once_more)[window].norm() / once_more[window].norm()) < 0.03
    squares = through.squares[group]
    norm = float((through.coefficients(image).square() * squares).sum())
    assert norm == pytest.approx(float(wide.square().sum()), rel=5e-3)  # 256 frequencies against 128
    assert norm == pytest.approx(float((image * through.weighted(image, squares)).sum()), rel=1e-12)


@pytest.mark.parametrize("group", [0, 1])
def test_whole_templates_are_those_of_the_wide_field(through: Transfer, group: int) -> None:
    image = draw(2, SIDE, SIDE)
    margin, first = through.margin(), (WIDE - SIDE) // 2
    inner = slice(first - margin, first + SIDE + margin)
    wide = shown(through, image, group)[inner, inner]
    assert float((through.whole(image[None], group)[0] - wide).norm() / wide.norm()) < 0.02


@pytest.mark.parametrize(("pixel", "defocus"), [(5.0, 20000.0), (1.5, 30000.0)])
def test_a_far_kernel_does_not_come_back_at_small_lags(pixel: float, defocus: float) -> None:
    """The kernel of h^2 reaches twice as far as h: of fine pixels beyond any fixed number of frequencies."""
    through = transfer(pixel, 32, replace(optics(defocus), b_factor=(0.0,)), None)
    h = through.factors(0)
    exact = filters.lags(lambda fx, fy: h(fx, fy).square(), 31, 2048)
    found = torch.fft.irfft2(through.squares[0].view(through.size, -1) + 0j, s=(through.size,) * 2)
    found = found.roll((31, 31), (0, 1))[:63, :63]
    assert float((found - exact).norm() / exact.norm()) < 0.03


def test_filters_of_other_micrographs_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Micrographs have filters of their own: a step must not prepare all of them for the few that it sees."""
    made: list[int] = []
    seen = Transfer.weighted
    monkeypatch.setattr(Transfer, "weighted", lambda self, *rest: made.append(1) or seen(self, *rest))
    y = draw(15, 4, 40, 44)
    data = Micrographs(InMemory(y.float()), 8.0, tuple("abcd"), gains=replace(gains(4), group=(0, 1, 0, 1)))
    here = model().measured(data)
    x = draw(16, SIDE**3) * 0.3
    score = maximisation.score(here, x)
    step = here.placement.step(here.templates(x), here.log_weights, here.noise, score=score)
    step.add(data[0].double(), 0, 0)
    step.add(data[2].double(), 0, 2)
    assert len(made) == 1


def test_patches_through_filters_are_judged_from_all_sides() -> None:
    """Every so many views of an even set lie on a few lines: fewer views are a set of their own."""
    data = measured(draw(17, 2, 40, 44))
    few = _fewer(model(views=1600).measured(data)).view
    assert isinstance(few, Projection) and len(few) == 256
    assert len(_fewer(model(views=1600)).view) == 1600


def test_information_of_uniform_views_is_that_through_the_filters(through: Transfer) -> None:
    object, like = Voxels(SIDE), draw(18, 1)
    found = maximisation.complete_information(object, Projection(rotation.super_fibonacci(8)), like, through)
    views = rotation.super_fibonacci(60).double()
    images = object.projector(views).project(torch.eye(object.size, dtype=torch.float64))
    numbers = through.coefficients(images)
    exact = (numbers * through.mean).flatten(1) @ numbers.flatten(1).mT / 60
    assert torch.allclose(found, exact, atol=1e-9 * float(exact.abs().max()))


def test_numbers_of_templates_keep_squares_and_are_adjoint(through: Transfer) -> None:
    image, numbers = draw(3, 4, SIDE, SIDE), draw(4, 4, 2, through.size * (through.size // 2 + 1))
    assert torch.allclose(through.images(through.coefficients(image)), image, atol=1e-12)
    assert float(through.coefficients(image).square().sum()) == pytest.approx(float(image.square().sum()), rel=1e-12)
    left, right = (through.coefficients(image) * numbers).sum(), (image * through.images(numbers)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-10)


def model(likelihood: Gas | Window | None = None, views: int = 6) -> Model:
    placement = Anywhere(0.1, likelihood or Window(screen=None), "separated")
    return Model(Voxels(SIDE), Projection(rotation.super_fibonacci(views).double()), placement, noise=White(1.3))


def measured(y: torch.Tensor, defoci: tuple[float, ...] = (9000.0, 14000.0)) -> Micrographs:
    names = tuple(f"{k}" for k in range(len(y)))
    return Micrographs(InMemory(y.float()), 8.0, names, optics(*defoci), gains=gains(len(y)))


def summed(data: Micrographs, x: torch.Tensor, score: Score | None = None) -> tuple[Model, Stats]:
    """Statistics of an E-step with the window likelihood."""
    here = model().measured(data)
    step = here.placement.step(here.templates(x), here.log_weights, here.noise, score=score)
    for index, image in enumerate(data):
        step.add(image.double(), 0, index)
    return here, step.finish()


def slope(here: Model, stats: Stats, x: torch.Tensor) -> torch.Tensor:
    """What the statistics say is the gradient."""
    return maximisation.Problem(
        here.object, here.operator(x), stats["numerator"], stats["weight"], here.variance(x), Flat(),
        through=here.placement.through,
    ).gradient(x)  # fmt: skip


def test_statistics_are_the_slope_of_the_evidence() -> None:
    """Fisher's identity: numerators and weights give the gradient of sum_l w(l) log sum_r exp(score), w held fixed."""
    data, x = measured(draw(5, 2, 40, 44)), draw(6, SIDE**3) * 0.3
    here, stats = summed(data, x)

    def logs(y: torch.Tensor) -> Iterator[tuple[_Whole, torch.Tensor]]:
        step = here.placement.step(here.templates(y), here.log_weights, here.noise, statistics=False)
        for index, image in enumerate(data):
            yield step, step._log_activities(*step._seen(image.double(), index))

    held = [step.likelihood.marginals(found, step.scene.width, 0)[0] for step, found in logs(x)]

    y = x.clone().requires_grad_()
    value = torch.stack([(w * found).sum() for w, (_, found) in zip(held, logs(y), strict=True)]).sum()
    (found,), told = torch.autograd.grad(value, y), slope(here, stats, x)
    assert torch.allclose(found, told, atol=1e-6 * float(told.abs().max()))


def test_scores_sum_to_the_slope() -> None:
    data, x = measured(draw(7, 2, 40, 44)), draw(8, SIDE**3) * 0.3
    own, seen = maximisation.score(model().measured(data), x), []

    def score(*parts: Any) -> torch.Tensor:
        seen.append(own(*parts))
        return seen[-1]

    here, stats = summed(data, x, score)
    scores = torch.cat(seen).double()
    told = slope(here, stats, x)
    assert torch.allclose(scores.sum(0), told, atol=1e-5 * float(told.abs().max()))
    assert torch.allclose(stats["information"], scores.mT @ scores, rtol=1e-6, atol=1e-9)


def test_uniform_filters_change_nothing() -> None:
    """A filter of 1 everywhere, against none: the same answer to rounding."""
    y = draw(9, 2, 48, 48)
    flat = Gains(((1.0, 1.0),), (0, 0))
    plain = Micrographs(InMemory(y.float()), 8.0, ("a", "b"))
    estimator = EM(iterations=4, frozen=2, estimate_mean=False)
    found = [
        reconstruct(data, model(Gas()), estimator, prior=Ridge(1.0), seed=3, moves=0)
        for data in (plain, replace(plain, gains=flat))
    ]
    assert float((found[0].x - found[1].x).norm() / found[0].x.norm()) < 1e-4
    assert found[1].judged == pytest.approx(found[0].judged, abs=1e-2 * max(1.0, abs(found[0].judged)))


def test_groups_are_told_apart() -> None:
    """Micrographs of another setting are seen through another filter; parts keep theirs."""
    data = measured(draw(10, 3, 30, 30), (9000.0, 9000.0, 14000.0))
    whole = transfer(8.0, SIDE, data.optics, None)
    assert whole.groups == (0, 1, 2) and len(whole.squares) == 3  # settings are groups even where they are equal
    part = data.part([2, 0])
    assert part.optics is not None and part.gains is not None
    assert torch.equal(
        part.optics.values(torch.zeros(1) + 0.02, torch.zeros(1))[0],
        data.optics.values(torch.zeros(1) + 0.02, torch.zeros(1))[2],
    )


def test_the_truth_is_judged_likelier_through_its_own_filter() -> None:
    clean = draw(11, SIDE, SIDE, SIDE).abs() * 2
    here = model(Gas(), views=20)
    x = here.object.fit(clean)
    field = torch.zeros(2, 60, 60, dtype=torch.float64)
    images = here.templates(x)
    for number, at in enumerate(range(4, 54, 12)):
        field[0, at : at + SIDE, 8 : 8 + SIDE] += images[number]
        field[1, at : at + SIDE, 40 : 40 + SIDE] += images[-1 - number]
    seen = optics(6000.0, 16000.0)
    through = transfer(8.0, SIDE, seen, None)
    y = torch.stack([filters.filtered(field[k], through.factors(k), 30) for k in range(2)]) * 6 + draw(12, 2, 60, 60)
    right = Micrographs(InMemory(y.float()), 8.0, ("a", "b"), seen)
    wrong = replace(right, optics=optics(16000.0, 6000.0))
    values = [float(judge(Batch(data, range(2)), here, 6 * x)) for data in (right, wrong, replace(right, optics=None))]
    assert values[0] > max(values[1:]) + 20


def test_patches_refuse_filters() -> None:
    here = replace(model(), placement=Anywhere(0.05, Patches())).measured(measured(draw(13, 1, 30, 30), (9000.0,)))
    with pytest.raises(ValueError, match="neither contrast transfer nor whitening"):
        here.placement.step(here.templates(draw(14, here.object.size)), here.log_weights, here.noise)


def test_gains_refuse_what_they_cannot_be() -> None:
    for curves, group, what in (
        (((1.0,),), (0,), "two values"),
        (((1.0, -1.0),), (0,), "positive"),
        (((1.0, 1.0),), (1,), "number the curves"),
    ):
        with pytest.raises(ValueError, match=what):
            Gains(curves, group)
    assert Gains.of_json(gains(3).to_json()) == gains(3)
    with pytest.raises(ValueError, match="one entry per micrograph"):
        Micrographs(InMemory(torch.zeros(2, 8, 8)), 1.0, ("a", "b"), gains=gains(3))
