"""The bootstrap against known statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medrl.evaluation.bootstrap import Bootstrap

pytestmark = pytest.mark.heavy


def test_a_mean_and_its_value() -> None:
    estimate = Bootstrap(200, seed=0).mean([1, 2, 6])
    assert (estimate.value, estimate.n) == (3.0, 3)
    assert 1 <= estimate.low <= 3 <= estimate.high <= 6


def test_the_interval_is_that_of_the_normal_approximation_when_there_are_many_rows() -> None:
    values = np.random.default_rng(1).normal(5, 2, 2000)
    estimate = Bootstrap(2000, seed=0).mean(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_about_95_of_100_intervals_hold_the_true_rate() -> None:
    rng = np.random.default_rng(2)
    estimates = [Bootstrap(200, seed=i).mean(rng.random(80) < 0.3) for i in range(400)]
    share = np.mean([e.low <= 0.3 <= e.high for e in estimates])
    assert 0.91 <= share <= 0.98


def test_a_ratio_of_sums_is_resampled_by_rows() -> None:
    """Rows with equal ratios leave nothing to vary, whatever their sizes; a mean of the sizes would vary."""
    estimate = Bootstrap(100, seed=0).of_sums([(2, 1), (20, 10), (200, 100)], lambda sums: sums[0] / sums[1])
    assert (estimate.value, estimate.low, estimate.high) == (2.0, 2.0, 2.0)


def test_the_same_seed_gives_the_same_interval_and_another_another() -> None:
    values = list(range(30))
    first, again, other = (Bootstrap(50, seed).mean(values) for seed in (0, 0, 1))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)


def test_one_row_has_no_interval() -> None:
    estimate = Bootstrap(50, seed=0).mean([7])
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (7.0, None, None, 1)
