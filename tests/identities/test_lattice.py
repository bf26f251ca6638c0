"""The hard-core lattice gas against all its configurations, written down one by one."""

from __future__ import annotations

import math

import pytest

from enumeration import Site, configurations, draw
from unpicked._lazy import torch
from unpicked.ops import lattice, seeding


def enumerate_gas(logs: torch.Tensor, width: int) -> tuple[torch.Tensor, float]:
    """Marginals, and the expected number of sites at which one more copy could start."""
    height, length = logs.shape
    total, free, marginals = 0.0, 0.0, torch.zeros_like(logs)
    for chosen in configurations(height, length, width):
        weight = math.exp(sum(float(logs[site]) for site in chosen))
        total += weight
        for site in chosen:
            marginals[site] += weight
        free += weight * sum(
            all(max(abs(y - v), abs(x - u)) >= width for v, u in chosen) for y in range(height) for x in range(length)
        )
    return marginals / total, free / total


CASES = {
    "crowded": ((5, 6), 3, 1.0),
    "sparse": ((5, 6), 3, -3.0),
    "no exclusion": ((3, 4), 1, 0.0),
    "neighbours": ((4, 4), 2, 0.5),
    "a line": ((1, 9), 2, 1.0),
    "one cell": ((3, 2), 5, 1.0),
}
cases = pytest.mark.parametrize(("shape", "width", "level"), CASES.values(), ids=CASES.keys())


@cases
def test_gibbs_equals_enumeration(shape: Site, width: int, level: float) -> None:
    logs = level + draw(1, *shape)
    marginals, free = enumerate_gas(logs, width)
    ours, sites = lattice.gibbs(logs, width, sweeps=100_000, burn=100, generator=seeding.generator(0, "test"))
    assert ours.dtype == logs.dtype
    assert float((ours - marginals).abs().max()) < 0.006  # measured at most 0.003
    assert sites == pytest.approx(free, rel=0.01)


def test_expected_copies_are_activity_times_free_sites() -> None:
    """The identity from which EM estimates the activity, for equal activities: exact by enumeration and sampled."""
    logs = torch.full((5, 6), -0.7, dtype=torch.float64)
    marginals, free = enumerate_gas(logs, 3)
    assert float(marginals.sum()) == pytest.approx(math.exp(-0.7) * free, rel=1e-12)
    ours, sites = lattice.gibbs(logs, 3, sweeps=100_000, burn=100, generator=seeding.generator(0, "test"))
    assert float(ours.sum()) == pytest.approx(math.exp(-0.7) * sites, rel=1e-2)


def test_gibbs_depends_on_its_generator_only() -> None:
    logs = draw(1, 20, 31)
    kept = logs.clone()
    run = [lattice.gibbs(logs, 4, sweeps=3, burn=1, generator=seeding.generator(seed, "test")) for seed in (0, 0, 1)]
    assert torch.equal(run[0][0], run[1][0]) and run[0][1] == run[1][1]
    assert not torch.equal(run[0][0], run[2][0])
    assert torch.equal(logs, kept)
    single, _ = lattice.gibbs(logs.float(), 4, sweeps=3, burn=1, generator=seeding.generator(0, "test"))
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), run[0][0], atol=1e-5)


def test_no_two_copies_come_closer_than_the_width() -> None:
    """Whatever the offsets of the cells: certain copies exclude what lies near, also across the borders of cells."""
    logs = torch.full((23, 19), -200.0, dtype=torch.float64)
    peaks = [(0, 0), (0, 5), (5, 1), (22, 18), (11, 9), (16, 9)]
    for site in peaks:
        logs[site] = 200.0
    beaten = [(4, 4), (12, 13), (22, 14)]  # less likely, and too close to a peak
    for site in beaten:
        logs[site] = 100.0
    ours, _ = lattice.gibbs(logs, 5, sweeps=40, burn=10, generator=seeding.generator(0, "test"))
    assert all(float(ours[site]) == pytest.approx(1) for site in peaks)
    assert float(ours.sum()) == pytest.approx(len(peaks))


def test_gibbs_tells_apart_what_no_exponential_can_hold() -> None:
    logs = torch.full((9, 9), -50.0, dtype=torch.float64)
    logs[4, 4], logs[4, 5], logs[0, 0], logs[8, 8] = 2000.0, 1900.0, 700.0, 800.0
    ours, free = lattice.gibbs(logs, 3, sweeps=10, burn=2, generator=seeding.generator(0, "test"))
    assert float(ours[4, 4]) == pytest.approx(1, abs=1e-12)
    assert float(ours[0, 0]) == pytest.approx(1, abs=1e-12)
    assert float(ours[8, 8]) == pytest.approx(1, abs=1e-12)
    assert float(ours[4, 5]) < 1e-12
    assert math.isfinite(free)


def test_impossible_sites_stay_empty() -> None:
    logs = torch.full((6, 7), -torch.inf, dtype=torch.float64)
    ours, free = lattice.gibbs(logs, 3, sweeps=2, burn=0, generator=seeding.generator(0, "test"))
    assert not bool(ours.any())
    assert free == pytest.approx(42)


def within(logs: torch.Tensor, width: int, y: int, x: int) -> torch.Tensor:
    return logs[max(0, y - width + 1) : y + width, max(0, x - width + 1) : x + width]


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 12])
def test_window_marginals_equal_direct_sums(width: int) -> None:
    logs = 3 * draw(2, 8, 11)
    ours, peaks = lattice.window_marginals(logs, width), lattice.windowed_maximum(logs, width)
    for y in range(8):
        for x in range(11):
            near = within(logs, width, y, x)
            expected = float(logs[y, x].exp() / (1 + near.exp().sum()))
            assert float(ours[y, x]) == pytest.approx(expected, rel=1e-8)  # softplus is linear beyond 20
            assert float(peaks[y, x]) == float(near.max())
    assert ours.dtype == logs.dtype
    assert lattice.window_marginals(logs.float(), width).dtype == torch.float32


def test_window_marginals_are_exact_for_one_cell_and_far_out() -> None:
    logs = draw(3, 3, 3)
    assert torch.allclose(lattice.window_marginals(logs, 3), enumerate_gas(logs, 3)[0], rtol=1e-12)
    logs[1, 1] = 900.0
    certain = lattice.window_marginals(logs, 3)
    assert float(certain[1, 1]) == 1 and float(certain.sum()) == pytest.approx(1)


@pytest.mark.parametrize("settings", [{"width": 0}, {"sweeps": 0}, {"burn": -1}])
def test_bad_settings_are_refused(settings: dict[str, int]) -> None:
    given = {"width": 3, "sweeps": 2, "burn": 1} | settings
    with pytest.raises(ValueError, match=next(iter(settings))) as caught:
        lattice.gibbs(
            torch.zeros(4, 4), given["width"], sweeps=given["sweeps"], burn=given["burn"], generator=torch.Generator()
        )
    assert "\n" not in str(caught.value)
