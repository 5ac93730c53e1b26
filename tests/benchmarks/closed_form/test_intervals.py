"""Student's t against printed tables and against many draws."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.closed_form.intervals import difference_interval, mean_interval, t_quantile


@pytest.mark.parametrize(("freedom", "expected"), [(1, 12.706), (2, 4.303), (4, 2.776), (10, 2.228), (120, 1.980)])
def test_quantiles_are_those_of_printed_tables(freedom, expected):
    assert t_quantile(freedom) == pytest.approx(expected, abs=6e-4)


def test_intervals_by_hand():
    mean = mean_interval([1.0, 2.0, 3.0])  # standard error 1/√3
    assert (mean.mean, mean.high) == pytest.approx((2, 2 + 4.303 / 3**0.5), abs=1e-3)
    same_spread = difference_interval([1.0, 2.0, 3.0], [5.0, 6.0, 7.0])  # √(2/3), 4 degrees of freedom
    assert (same_spread.low, same_spread.high) == pytest.approx((-4 - 2.2667, -4 + 2.2667), abs=1e-3)
    one_spread = difference_interval([1.0, 2.0, 3.0], [6.0, 6.0, 6.0])  # all of it from one side: 2 degrees
    assert one_spread.high == pytest.approx(-4 + 4.303 / 3**0.5, abs=1e-3)


def test_nineteen_of_twenty_intervals_hold_the_difference():
    rng = np.random.default_rng(0)
    drawn = [difference_interval(list(rng.normal(1, 1, 3)), list(rng.normal(0, 3, 3))) for _ in range(400)]
    assert 0.92 <= np.mean([each.low <= 1 <= each.high for each in drawn]) <= 0.99
