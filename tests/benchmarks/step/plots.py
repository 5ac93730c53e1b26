"""Plots as SVG files that stand alone, on the geometry of medrl's reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log2
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medrl.report import charts
from medrl.report.charts import Chart, Plot, Tick, bar_chart, line_chart
from medrl.report.scales import short, ticks

COLOURS = ("#1f6fd1", "#d4691e", "#16897a", "#8a4fc4", "#b8940f", "#c23a6b")


def bars(title: str, unit: str, stacks: Mapping[str, Mapping[str, float]], parts: Sequence[str]) -> str:
    """A bar a name, of the parts that it has."""
    places = list(range(len(stacks)))
    chart = _drawn(bar_chart(title, unit, places, {
        part: [stack.get(part, 0.0) for stack in stacks.values()] for part in parts}))
    plot = Plot(0, len(stacks), [0.0])
    return _svg(replace(chart, x_ticks=[Tick(plot.x(i + 0.5), name) for i, name in zip(places, stacks, strict=True)]),
                tilted=True)


def lines(title: str, unit: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """A line a series over the same x, both axes logarithmic. All numbers are above zero."""
    logs = {name: [(log2(x), log2(y)) for x, y in points] for name, points in series.items()}
    chart = _drawn(line_chart(title, unit, logs))
    xs, ys = (sorted({point[axis] for points in logs.values() for point in points}) for axis in (0, 1))
    plot = Plot(xs[0], xs[-1], ticks(ys[0], ys[-1]))
    y_ticks = [Tick(plot.y(value), short(2**value)) for value in plot.values]
    return _svg(replace(chart, x_ticks=[Tick(plot.x(x), f"{2**x:g}") for x in xs], y_ticks=y_ticks), tilted=False)


def _drawn(chart: Chart | None) -> Chart:
    assert chart is not None, "nothing to draw"
    return chart


def _svg(chart: Chart, *, tilted: bool) -> str:
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("plot.svg.jinja").render(c=chart, plot=charts, colours=COLOURS, tilted=tilted)
