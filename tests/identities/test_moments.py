"""Moments of signals: kernels, conversion, noise, and what a model predicts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from unpicked.data.moments import Moments, merge
from unpicked.estimators import gmm
from unpicked.estimators.gmm import Settings
from unpicked.estimators.signal_unknowns import SignalUnknowns
from unpicked.model import expected_moments
from unpicked.ops import hamiltonian, moments
from unpicked.ops.least_squares import levenberg_marquardt


def draw(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(y: torch.Tensor, length: int) -> torch.Tensor:
    n = len(y) - length + 1
    second = [y[:n] @ y[lag : n + lag] for lag in range(length)]
    third = [(y[:n] * y[a : n + a]) @ y[b : n + b] for a in range(length) for b in range(a + 1)]
    return torch.stack([torch.tensor(float(n), dtype=torch.float64), y[:n].sum(), *second, *third])


@pytest.mark.parametrize("method", ["compiled", "gemm"])
@pytest.mark.parametrize("length", [1, 2, 4, 7, 21])
def test_sums_are_those_of_the_definition(method: str, length: int) -> None:
    y = draw(0, 5000) + 0.3
    ours = moments.lag_sums(y, length, block=2048, method=method)  # type: ignore[arg-type]
    assert ours.shape == (3, 1 + moments.count(length))
    torch.testing.assert_close(ours.sum(0), naive(y, length), rtol=1e-12, atol=1e-10)
    single = moments.lag_sums(y.float(), length, method=method).sum(0)  # type: ignore[arg-type]
    assert float((single - naive(y.float().double(), length)).abs().max()) < 1e-3 * math.sqrt(5000)


@pytest.mark.parametrize("cut", [21, 1000, 2048, 4979])
def test_a_signal_cut_anywhere_gives_the_same_sums(cut: int) -> None:
    y, length = draw(1, 5000), 21
    parts = [moments.lag_sums(part, length).sum(0) for part in (y[: cut + length - 1], y[cut:])]
    torch.testing.assert_close(parts[0] + parts[1], moments.lag_sums(y, length).sum(0), rtol=1e-12, atol=1e-10)


def test_padded_edges_take_every_base_point() -> None:
    y, length = draw(2, 300), 6
    whole = torch.cat([y, torch.zeros(length - 1, dtype=torch.float64)])
    padded = moments.lag_sums(y, length, edges="padded").sum(0)
    torch.testing.assert_close(padded, naive(whole, length), rtol=1e-12, atol=1e-11)


def test_too_short_signals_have_no_base_points_and_bad_ones_are_refused() -> None:
    assert not moments.lag_sums(draw(0, 4), 5).any()
    for arguments in ((draw(0, 4, 4), 5), (draw(0, 40).int(), 5), (draw(0, 40), 0)):
        with pytest.raises(ValueError, match="got"):
            moments.lag_sums(*arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="multiple of 2048"):
        moments.lag_sums(draw(0, 40), 5, block=1000)


def cyclic(y: torch.Tensor, length: int) -> torch.Tensor:
    """Moments of a periodic signal: every sample is a base point."""
    sums = naive(torch.cat([y, y[: length - 1]]), length)
    return sums[1:] / sums[0]


def test_cumulants_are_the_moments_of_centred_data() -> None:
    y, length = draw(3, 200) + 2, 5
    centred = cyclic(y - y.mean(), length)
    ours = moments.cumulants(cyclic(y, length), length)
    torch.testing.assert_close(ours[1:], centred[1:], rtol=0, atol=1e-12)
    shifted = moments.cumulants(cyclic(y + 5, length), length)
    torch.testing.assert_close(shifted[1:], ours[1:], rtol=0, atol=1e-10)


def test_slope_of_the_cumulants() -> None:
    means = draw(4, moments.count(5))
    ours = moments.cumulant_slope(means, 5)
    auto = torch.autograd.functional.jacobian(lambda m: moments.cumulants(m, 5), means)
    torch.testing.assert_close(ours, auto, rtol=0, atol=1e-12)


def test_coloured_noise_has_no_third_cumulant() -> None:
    length, n = 5, 1 << 17
    white = draw(5, n)
    y = white + 0.8 * white.roll(1) - 0.3 * white.roll(2) + 0.5 * white.roll(3) + 7
    rows = moments.lag_sums(y, length, block=2048)
    blocks = moments.cumulants(rows[:, 1:] / rows[:, :1], length)[:, 1 + length :]
    z = blocks.mean(0) / (blocks.std(0) / math.sqrt(len(blocks)))
    assert float(z.abs().max()) < 4.5


def test_well_separated_copies_without_noise() -> None:
    length, copies = 6, 40
    x = draw(6, length)
    gaps = torch.randint(2 * length - 1, 30, (copies,), generator=torch.Generator().manual_seed(0))
    starts = gaps.cumsum(0)
    y = torch.zeros(int(starts[-1]) + 2 * length, dtype=torch.float64)
    for start in starts.tolist():
        y[start : start + length] += x
    sums = moments.lag_sums(y, length, edges="padded").sum(0)
    rate = torch.tensor([copies / len(y)], dtype=torch.float64)
    ours = expected_moments.expected(x[None], rate, length)
    torch.testing.assert_close(sums[1:] / sums[0], ours, rtol=0, atol=1e-12)


def test_copies_at_any_distance_without_noise() -> None:
    """The law of the distances is that of this signal, so that there is no chance in it."""
    length, copies = 6, 300
    x = draw(7, length)
    gaps = length + torch.randint(0, 9, (copies,), generator=torch.Generator().manual_seed(1))
    starts = gaps.cumsum(0)
    y = torch.zeros(int(starts[-1]) + 3 * length, dtype=torch.float64)
    for start in starts.tolist():
        y[start : start + length] += x
    sums = moments.lag_sums(y, length).sum(0)
    near = torch.tensor([float((gaps[1:] == d).sum()) / copies for d in range(length, 2 * length - 1)])
    rate = torch.tensor([copies / float(sums[0])], dtype=torch.float64)
    ours = expected_moments.expected_near(x[None], rate, near.double(), length)
    torch.testing.assert_close(sums[1:] / sums[0], ours, rtol=0, atol=1e-8)
    separated = expected_moments.expected(x[None], rate, length)
    assert float((separated - ours).abs().max()) > 0.01


def test_scale_law() -> None:
    x, rate, length = draw(8, 2, 5), torch.tensor([0.01, 0.02], dtype=torch.float64), 5
    one, two = (expected_moments.expected(t * x, rate, length) for t in (1.0, 2.0))
    powers = torch.cat([torch.full((n,), 2.0**k) for k, n in ((1, 1), (2, 5), (3, 15))])
    torch.testing.assert_close(two, one * powers.double(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("form", ["raw", "cumulant"])
@pytest.mark.parametrize("near", [False, True])
def test_slope_of_the_prediction(form: str, near: bool) -> None:
    operator = draw(9, 3, 5, 4)
    unknowns = SignalUnknowns(
        operator,
        torch.tensor([0, 0, 1]),
        torch.tensor([0.4, 0.6, 1.0]).double(),
        5,
        None,
        None,
        near,
        form,  # type: ignore[arg-type]
    )
    near_law = torch.full((4,), 0.1, dtype=torch.float64) if near else None
    theta = gmm.pack(unknowns, draw(10, 2, 4), torch.tensor([0.1, 0.2]).double(), 1.5, near_law)
    assert theta.shape == (2, unknowns.count)
    values, slope = unknowns.slope(theta)
    torch.testing.assert_close(values, unknowns.predict(theta), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        seen, pull = unknowns.pull(theta)
    weights = draw(16, *values.shape)
    torch.testing.assert_close(seen, values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(pull(weights), (weights[:, None] @ slope)[:, 0], rtol=1e-9, atol=1e-9)
    for row in range(2):
        auto = torch.autograd.functional.jacobian(unknowns.predict, theta[row])
        torch.testing.assert_close(slope[row], auto, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("form", ["raw", "cumulant"])
def test_covariance_of_the_noise(form: str) -> None:
    length, n, draws, sigma = 4, 1000, 3000, 1.5
    y = sigma * draw(11, draws, n)
    rows = torch.stack([moments.lag_sums(one, length).sum(0) for one in y])
    means = rows[:, 1:] / rows[:, :1]
    if form == "cumulant":
        means = moments.cumulants(means, length)
    measured = torch.cov(means.mT) * (n - length + 1)
    ours = moments.noise_covariance(length, sigma, form)  # type: ignore[arg-type]
    scale = ours.diagonal().sqrt()
    assert float(((measured - ours) / torch.outer(scale, scale)).abs().max()) < 0.13  # 5 standard errors are 0.13
    bias = moments.noise_moments(length, sigma)
    if form == "raw":
        error = (scale / math.sqrt(draws * (n - length + 1))).clamp(min=1e-12)
        assert float(((means.mean(0) - bias) / error).abs().max()) < 4.5


def test_bias_of_noise_on_a_constant() -> None:
    length, sigma, mean, n = 4, 1.2, 0.7, 400_000
    sums = moments.lag_sums(mean + sigma * draw(12, n), length).sum(0)
    m = torch.full((moments.count(length),), mean, dtype=torch.float64)
    m[1 : 1 + length], m[1 + length :] = mean**2, mean**3
    expected = m + moments.noise_moments(length, sigma, mean)
    assert float((sums[1:] / sums[0] - expected).abs().max()) < 0.05


def test_records_merge_and_come_back(tmp_path: Path) -> None:
    y, length = draw(13, 9000), 3
    rows = moments.lag_sums(y, length, block=2048)
    records = [Moments("signal", length, part.sum(0), part.mT @ part, len(part)) for part in (rows[:2], rows[2:])]
    both = merge(records)
    assert both.blocks == len(rows)
    torch.testing.assert_close(both.sums, rows.sum(0))
    both.save(tmp_path / "m.npz")
    again = Moments.load(tmp_path / "m.npz")
    assert (again.kind, again.length, again.blocks) == (both.kind, both.length, both.blocks)
    assert torch.equal(again.sums, both.sums)
    assert torch.equal(again.squares, both.squares)
    centred = rows[:, 1:] - rows[:, :1] * both.means
    measured = centred.mT @ centred / both.points * len(rows) / (len(rows) - 1)
    torch.testing.assert_close(both.covariance(), measured, rtol=1e-9, atol=1e-9)
    other = Moments("image", length, rows.sum(0), rows.mT @ rows, 1)
    with pytest.raises(ValueError, match="one kind"):
        merge([both, other])
    with pytest.raises(ValueError, match="at least one"):
        merge([])
    (tmp_path / "no.npz").write_text("nothing")
    with pytest.raises(ValueError, match="holds no moments"):
        Moments.load(tmp_path / "no.npz")


def test_least_squares_finds_the_valley() -> None:
    def residuals(theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # Rosenbrock's valley
        x, y = theta.unbind(-1)
        r = torch.stack([10 * (y - x.square()), 1 - x], -1)
        zero = torch.zeros_like(x)
        rows = [torch.stack([-20 * x, zero + 10], -1), torch.stack([zero - 1, zero], -1)]
        return r, torch.stack(rows, -2)

    found = levenberg_marquardt(residuals, 2 * draw(14, 6, 2))
    assert bool(found.converged.all())
    assert float(found.cost.max()) < 1e-12
    torch.testing.assert_close(found.theta, torch.ones(6, 2, dtype=torch.float64), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="finite cost"):
        levenberg_marquardt(residuals, torch.full((1, 2), math.nan, dtype=torch.float64))


def test_hamiltonian_draws_of_a_normal_law() -> None:
    mixing = draw(15, 3, 3)
    precision = torch.linalg.inv(mixing @ mixing.mT)
    centre = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    def energy(theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        away = (theta - centre) @ precision
        return 0.5 * (away * (theta - centre)).sum(-1), away

    start = centre + 0.3
    drawn = hamiltonian.draws(energy, start, mixing, torch.Generator().manual_seed(0), chains=40, keep=100)
    flat = (drawn.flatten(0, 1) - centre) @ torch.linalg.inv(mixing).mT
    assert float(flat.mean(0).abs().max()) < 0.1
    assert float((torch.cov(flat.mT) - torch.eye(3, dtype=torch.float64)).abs().max()) < 0.15


def test_settings_of_the_way_are_coarser() -> None:
    assert Settings(steps=300).coarse.steps < 300
    assert Settings(steps=10).coarse.steps == 10
