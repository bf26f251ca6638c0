"""Approximate EM finds signals and images from random starts; several seeds each, and small sizes."""

from __future__ import annotations

import math

import pytest
import torch

from unpicked.evaluate.images import compare_images
from unpicked.evaluate.signals import compare_signals
from unpicked.experiments.consistency import Consistency
from unpicked.experiments.mtd2d_em import Mtd2dEM
from unpicked.experiments.table import Settings
from unpicked.experiments.talk_em1d import TalkEM1D
from unpicked.recipes.images import ImageJob, from_images
from unpicked.recipes.signals import SignalJob, from_signal
from unpicked.simulate.images import random_targets, simulate_images
from unpicked.simulate.signals import simulate_signal


def test_patches_find_a_short_target_from_random_starts() -> None:
    """SNR 2 per sample, L = 8: four signals, one start each, whose answers may first be shifted ones."""
    good = 0
    for seed in range(4):
        target = torch.randn(8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        sigma = math.sqrt(float(target.square().mean()) / 2)
        data, truth = simulate_signal(target, density=0.25, sigma=sigma, samples=8_000, seed=seed)
        answer = from_signal(data, SignalJob(8, method="em", starts=1, moves=2, iterations=60), seed=seed)
        good += compare_signals(answer.target, target).relative_error < 0.15
        assert answer.figures()["sigma"] == pytest.approx(sigma, rel=0.05)
        assert answer.figures()["density"] == pytest.approx(truth.density, rel=0.25)
    assert good >= 3


def test_images_are_found_at_all_angles_by_patches_and_by_the_gas() -> None:
    targets = random_targets(5, 2)
    data, _ = simulate_images(targets, size=(80, 80), density=0.1, sigma=0.5, seed=1)
    for likelihood in ("patches", "gas"):
        job = ImageJob(5, likelihood=likelihood, angles=12, starts=1, moves=1, iterations=(14, 8))
        answer = from_images(data, job, seed=1)
        assert compare_images(answer.target, targets.values[0]).relative_error < 0.15
        assert answer.figures()["sigma"] == pytest.approx(0.5, rel=0.05)


@pytest.mark.slow
def test_the_talks_example_reaches_the_truths_likelihood() -> None:
    table = TalkEM1D(levels=(1.0, 0.5), seeds=3, stride=0.0).run(Settings())
    assert all(check.passed for check in table.checks), table.text()


@pytest.mark.slow
def test_images_of_five_pixels_reach_the_truths_likelihood() -> None:
    table = Mtd2dEM(seeds=5).run(Settings())
    assert sum(row["gap"] >= -1 for row in table.rows) >= 4, table.text()


@pytest.mark.slow
def test_estimated_positions_bias_and_marginalised_ones_do_not() -> None:
    table = Consistency(levels=(0.5,), seeds=2).run(Settings())
    assert all(check.passed for check in table.checks), table.text()
