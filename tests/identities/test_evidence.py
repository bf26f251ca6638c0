"""Template banks against loops over windows and templates, and the choice of representatives."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from unpicked._lazy import torch
from unpicked.model.gas import Gas, Screen
from unpicked.model.likelihoods import Scene
from unpicked.model.noise import White
from unpicked.ops import evidence, seeding


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=[None, 16, 3], ids=["one block", "many blocks", "blocks shorter than a line"])
def bank(request: pytest.FixtureRequest) -> evidence.Bank:
    made = evidence.Bank(draw(1, 6, 16), draw(2, 6), 4)
    made.rows = request.param or made.rows
    return made


IMAGE = draw(3, 9, 12)


def scores(bank: evidence.Bank) -> torch.Tensor:
    """``(y, x, k)``."""
    out = torch.zeros(6, 9, 6, dtype=torch.float64)
    for y in range(6):
        for x in range(9):
            for k in range(6):
                window = IMAGE[y : y + 4, x : x + 4]
                out[y, x, k] = (window * bank.templates[k].view(4, 4)).sum() + bank.bias[k]
    return out


def test_everywhere_and_at_equal_loops(bank: evidence.Bank) -> None:
    expected = scores(bank).logsumexp(-1)
    assert torch.allclose(bank.everywhere(IMAGE), expected, rtol=1e-12, atol=1e-12)
    sites = torch.tensor([53, 0, 7, 8, 9, 8, 31])
    assert torch.allclose(bank.at(IMAGE, sites), expected.flatten()[sites], rtol=1e-12, atol=1e-12)
    assert bank.at(IMAGE, sites[:0]).shape == (0,)
    single = evidence.Bank(bank.templates.float(), bank.bias.float(), 4)
    assert single.everywhere(IMAGE.float()).dtype == torch.float32
    assert torch.allclose(single.everywhere(IMAGE.float()).double(), expected, atol=1e-4)


def test_gather_equals_loops(bank: evidence.Bank) -> None:
    chances = scores(bank).flatten(0, 1).softmax(-1)
    sites = torch.tensor([53, 0, 7, 8, 9, 31] * 4)
    weights = draw(4, len(sites)).square()
    expected, counts = torch.zeros(6, 16, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    for site, weight in zip(sites.tolist(), weights, strict=True):
        y, x = divmod(site, 9)
        for k in range(6):
            expected[k] += weight * chances[site, k] * IMAGE[y : y + 4, x : x + 4].flatten()
            counts[k] += weight * chances[site, k]
    numerator = torch.ones(6, 16, dtype=torch.float64)
    ours = bank.gather(IMAGE, sites, weights, numerator)
    assert torch.allclose(ours, counts, rtol=1e-12)
    assert torch.allclose(numerator - 1, expected, rtol=1e-12, atol=1e-12)
    assert float(ours.sum()) == pytest.approx(float(weights.sum()), rel=1e-12)
    nothing = bank.gather(IMAGE, sites[:0], weights[:0], numerator)
    assert not bool(nothing.any())


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_add_up_to_gather(bank: evidence.Bank, threads: int, dtype: torch.dtype) -> None:
    rows, tolerance = bank.rows, 1e-12 if dtype == torch.float64 else 1e-5
    bank = evidence.Bank(bank.templates.to(dtype), bank.bias.to(dtype), 4)
    bank.rows, image = rows, IMAGE.to(dtype)
    sites = torch.tensor([53, 0, 7, 8, 9, 31] * 4)
    weights, ends = draw(4, len(sites)).square().to(dtype), [1, 6, 7, 20, 24]
    numerators, counts = bank.gather_parts(image, sites, weights, ends)
    assert numerators.shape == (5, 6, 16)
    assert counts.shape == (5, 6)
    assert counts.dtype == torch.float64
    whole = torch.zeros(6, 16, dtype=dtype)
    total = bank.gather(image, sites, weights, whole)
    assert torch.allclose(counts.sum(0), total, rtol=tolerance)
    assert torch.allclose(numerators.sum(0), whole, rtol=tolerance, atol=10 * tolerance)
    for index, (first, last) in enumerate(pairwise([0, *ends])):
        one = torch.zeros(6, 16, dtype=dtype)
        own = bank.gather(image, sites[first:last], weights[first:last], one)
        assert torch.allclose(counts[index], own, rtol=tolerance)
        assert torch.allclose(numerators[index], one, rtol=tolerance, atol=tolerance)


def test_large_scores_neither_overflow_nor_vanish() -> None:
    bank = evidence.Bank(300 * draw(1, 6, 16), draw(2, 6), 4)
    expected = scores(bank)
    assert torch.allclose(bank.everywhere(IMAGE), expected.logsumexp(-1), rtol=1e-12)
    numerator = torch.zeros(6, 16, dtype=torch.float64)
    counts = bank.gather(IMAGE, torch.tensor([5]), torch.ones(1, dtype=torch.float64), numerator)
    assert int(counts.argmax()) == int(expected.flatten(0, 1)[5].argmax())


@pytest.mark.parametrize("count", [1, 2, 7, 20])
def test_representatives_share_out_all_weight(count: int) -> None:
    templates, weights = draw(5, 20, 9), draw(6, 20).softmax(0)
    chosen, shares = evidence.representatives(templates, weights, count)
    assert len(set(chosen.tolist())) == count
    assert float(shares.sum()) == pytest.approx(1, rel=1e-12)
    nearest = torch.cdist(templates, templates[chosen]).argmin(1)
    for index in range(count):
        assert float(shares[index]) == pytest.approx(float(weights[nearest == index].sum()), rel=1e-12)
    if count == 20:
        assert torch.allclose(shares, weights[chosen])


def test_representatives_lie_far_apart() -> None:
    clusters = torch.eye(4, dtype=torch.float64).repeat_interleave(5, 0) + 1e-3 * draw(5, 20, 4)
    chosen, shares = evidence.representatives(clusters, torch.full((20,), 0.05, dtype=torch.float64), 4)
    assert sorted((chosen // 5).tolist()) == [0, 1, 2, 3]
    assert torch.allclose(shares, torch.full((4,), 0.25, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_representatives_of_equal_templates_are_distinct(dtype: torch.dtype) -> None:
    """As for the empty start, or an object that no turn changes: every chosen one still stands for itself."""
    for templates in (torch.zeros(12, 9), draw(5, 3, 9).repeat(4, 1)):
        weights = torch.full((12,), 1 / 12, dtype=dtype)
        chosen, shares = evidence.representatives(templates.to(dtype), weights, 8)
        assert len(set(chosen.tolist())) == 8
        assert float(shares.min()) > 0
        assert float(shares.sum()) == pytest.approx(1, rel=1e-5)


def test_thinning_keeps_expectations() -> None:
    """Means over seeds of the thinned statistics are those of all sites; sites above the threshold always count."""
    templates = 0.2 * draw(1, 3, 4, 4)
    scene = Scene(templates, torch.zeros(3, dtype=torch.float64) - 1.0986, White(), 0.1, 0.02, 4)
    image = draw(7, 14, 15)
    gas = Gas(screen=Screen(thin=0.2))
    step = gas.step(scene)
    chances = torch.rand(11 * 12, generator=seeding.generator(0, "test"), dtype=torch.float64) ** 3
    whole = Gas(screen=None).step(scene)
    whole._gather(image, chances, 0)
    count = 3000
    for seed in range(count):
        step._gather(image, chances, seed)
    sums = step.finish()
    expected, mean = whole.finish(), {name: sums[name] / count for name in ("views", "numerator")}
    small = chances[chances < 0.2]
    scale = float((small * (0.2 - small)).sum().sqrt()) / count**0.5  # standard error of the total weight
    assert abs(float(mean["views"].sum() - expected["views"].sum())) < 4 * scale
    assert float((mean["numerator"] - expected["numerator"]).abs().max()) < 4 * scale * float(image.abs().max())
    certain = chances.clone().where(chances >= 0.2, 0.0)
    one, other = gas.step(scene), gas.step(scene)
    one._gather(image, certain, 1)
    other._gather(image, certain, 2)
    assert torch.equal(one.stats["numerator"], other.stats["numerator"])
