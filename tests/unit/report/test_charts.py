"""Where lines and bars go, against coordinates worked out by hand: the plot is 46 … 368 wide and 178 … 10 high."""

from __future__ import annotations

import math

import pytest

from medrl.report.charts import Chart, bar_chart, line_chart


def made(chart: Chart | None) -> Chart:
    assert chart is not None
    return chart


def test_a_line_of_three_points() -> None:
    chart = made(line_chart("KL", "nats", {"policy": [(1, 0.0), (2, 1.0), (3, 2.0)]}))
    (line,) = chart.lines
    assert line.path == "M46.0 178.0 L207.0 94.0 L368.0 10.0"
    assert [(tick.at, tick.text) for tick in chart.x_ticks] == [(46, "1"), (207, "2"), (368, "3")]
    assert [(tick.at, tick.text) for tick in chart.y_ticks] == [
        (178, "0"), (136, "0.5"), (94, "1.0"), (52, "1.5"), (10, "2.0")]
    assert line.marks[1].text == "step 2: 1.00 nats"
    assert chart.summary == "policy from 0.00 at step 1 to 2.00 at step 3"


@pytest.mark.parametrize("hole", [None, math.nan, math.inf])
def test_a_line_has_a_gap_where_the_value_is_undefined(hole: float | None) -> None:
    chart = made(line_chart("", "", {"a": [(0, 0.0), (1, hole), (2, 2.0), (4, 0.0)]}))
    assert chart.lines[0].path == "M46.0 178.0 M207.0 10.0 L368.0 178.0" and len(chart.lines[0].marks) == 3


def test_one_point_and_a_constant_line_are_in_sight() -> None:
    (point,) = made(line_chart("", "", {"a": [(3, 5.0)]})).lines[0].marks
    assert (point.x, point.y) == (207, 94)  # ticks 2 … 8: 5 is in the middle
    constant = made(line_chart("", "", {"a": [(1, 0.0), (2, 0.0)]})).lines[0]
    assert constant.path == "M46.0 94.0 L368.0 94.0"


def test_lines_share_their_axes_and_undefined_ones_are_left_out() -> None:
    chart = made(line_chart("", "", {"a": [(1, 1.0), (2, 2.0)], "b": [(0, 0.0), (2, None)], "c": [(9, None)]}))
    assert chart.names == ["a", "b"]
    assert chart.lines[0].path == "M207.0 94.0 L368.0 10.0" and chart.lines[1].path == "M46.0 178.0"


def test_nothing_defined_is_no_chart() -> None:
    assert line_chart("", "", {"a": [(1, None), (2, math.nan)]}) is None and line_chart("", "", {}) is None
    assert bar_chart("", "", [1, 2], {"a": [None, 0.0]}) is None and bar_chart("", "", [], {"a": []}) is None


def test_a_long_line_is_thinned() -> None:
    (line,) = made(line_chart("", "", {"a": [(step, 1.0) for step in range(1, 1001)]})).lines
    assert len(line.marks) == 112  # groups of 9: ⌈1000 / 120⌉


def test_bars_stand_on_each_other() -> None:
    chart = made(bar_chart("Time", "s", [1, 2], {"generate": [2.0, 1.0], "update": [6.0, None]}))
    # Two slots 161 wide, bars at most 40, on the ticks 0, 2, … 8: 21 units a second.
    assert [(b.x, b.y, b.width, b.height, b.series) for b in chart.bars] == [
        (106.5, 136, 40, 42, 0), (267.5, 157, 40, 21, 0), (106.5, 10, 40, 126, 1)]
    assert chart.bars[2].text == "step 1: update 6.00 s"
    assert [(tick.at, tick.text) for tick in chart.x_ticks] == [(126.5, "1"), (287.5, "2")]
