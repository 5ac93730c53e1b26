from __future__ import annotations

from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks.step.growth import growth

SIZES = st.lists(st.integers(1, 1000), min_size=2, max_size=5, unique=True)


@given(SIZES, st.floats(-2, 3), st.floats(0.01, 100))
def test_a_power_law_has_its_exponent_and_no_spread(sizes: list[int], exponent: float, factor: float) -> None:
    found = growth({size: [factor * size**exponent] * 3 for size in sizes})
    assert [found.exponent, found.low, found.high] == pytest.approx([exponent] * 3, abs=1e-9)


def test_two_sizes_are_a_straight_line_through_the_medians() -> None:
    found = growth({10: [3.0, 1.0, 2.0], 30: [6.0, 5.0, 40.0]})
    assert found.exponent == pytest.approx(log(6 / 2) / log(30 / 10))


def test_the_interval_holds_the_extremes_that_the_steps_allow_and_no_more() -> None:
    found = growth({1: [1.0, 2.0, 4.0], 2: [4.0, 8.0, 16.0]})
    # A median of three draws is the smallest of all with 7/27: both ends are within the interval.
    assert (found.low, found.high) == pytest.approx((0.0, 4.0)) and found.exponent == pytest.approx(2.0)


def test_equal_steps_leave_no_interval_and_spread_steps_do() -> None:
    still, spread = growth({1: [1.0] * 5, 2: [2.0] * 5}), growth({1: [1, 1.1, 1.2, 1, 1], 2: [2, 2.4, 2, 2.2, 2]})
    assert still.low == still.high == pytest.approx(1.0)
    assert spread.low < spread.exponent < spread.high
