"""Ticks, scales and labels against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrl.report.scales import label, scale, short, signed, thinned, ticks, whole_ticks


@pytest.mark.parametrize(("low", "high", "expected"), [
    (0, 1.68, [0, 0.5, 1.0, 1.5, 2.0]),  # 1.68 / 4 = 0.42, so 0.5 apart
    (-0.156, 0.626, [-0.2, 0, 0.2, 0.4, 0.6, 0.8]),  # 0.1955 → 0.2
    (10, 30, [10, 15, 20, 25, 30]),
    (1e-5, 3e-5, [1e-5, 1.5e-5, 2e-5, 2.5e-5, 3e-5]),
    (5, 5, [2, 4, 6, 8]),  # 2.5 … 7.5, 1.25 → 2 apart
    (0, 0, [-1, -0.5, 0, 0.5, 1]),
    (-3, -3, [-5, -4, -3, -2, -1]),
])
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@given(st.floats(-1e6, 1e6), st.floats(1e-2, 1e9))
def test_ticks_are_few_even_and_cover_the_range(low: float, width: float) -> None:
    found = ticks(low, low + width)
    step = found[1] - found[0]
    assert 3 <= len(found) <= 6
    assert found == pytest.approx([found[0] + index * step for index in range(len(found))], abs=1e-4 * step)
    assert found[0] <= low + 1e-4 * step and found[-1] >= low + width - 1e-4 * step


@pytest.mark.parametrize(("low", "high", "expected"), [
    (0, 10, [0, 2, 4, 6, 8, 10]), (1, 10, [2, 4, 6, 8, 10]), (1, 3, [1, 2, 3]), (7, 7, [7]),
    (1, 746, [200, 400, 600]), (0, 12, [0, 5, 10])])
def test_steps_are_whole_numbers_within_the_run(low: float, high: float, expected: list[float]) -> None:
    assert whole_ticks(low, high) == expected


def test_scale() -> None:
    assert scale(0.25, 0, 1, 100, 200) == 125
    assert scale(0.25, 0, 1, 200, 100) == 175  # an axis that rises upwards
    assert scale(3, 3, 3, 100, 200) == 150  # no range: the middle


@pytest.mark.parametrize(("values", "texts"), [
    ([0, 0.5, 1.0], ["0", "0.5", "1.0"]), ([-0.2, 0, 0.2], ["−0.2", "0", "0.2"]), ([10, 20, 30], ["10", "20", "30"]),
    ([0, 1e-4, 2e-4], ["0", "1e−4", "2e−4"]), ([0, 5000, 10000], ["0", "5k", "10k"]),
    ([10000, 10500], ["10.0k", "10.5k"]), ([0.24, 0.26], ["0.24", "0.26"])])
def test_labels_tell_ticks_apart(values: list[float], texts: list[str]) -> None:
    assert [label(value, values) for value in values] == texts


@pytest.mark.parametrize(("value", "text"), [
    (0, "0.00"), (0.56004, "0.560"), (-0.156, "−0.156"), (1.68008, "1.68"), (21.14, "21.1"), (335872.0, "3.36e5"),
    (12345.6, "12,346"), (3.8e-06, "3.80e−6"), (None, "–"), (math.nan, "–"), (math.inf, "–")])
def test_short_numbers(value: float | None, text: str) -> None:
    assert short(value) == text


def test_differences_have_a_sign() -> None:
    assert [signed(value) for value in (0.5, -0.5, 0, None)] == ["+0.500", "−0.500", "0.00", "–"]


def test_thinning_averages_neighbours_and_leaves_short_series_alone() -> None:
    points = [(1, 1.0), (2, 3.0), (3, None), (4, 7.0), (5, math.nan)]
    assert thinned(points, 5) == [(1, 1.0), (2, 3.0), (3, None), (4, 7.0), (5, None)]
    assert thinned(points, 3) == [(2, 2.0), (4, 7.0), (5, None)]
    assert thinned([], 3) == []
