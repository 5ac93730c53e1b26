"""Charts as geometry: where the lines, bars and ticks of an SVG go. The templates draw them; no numbers are made there.

Coordinates are in SVG user units, (0, 0) at the top left of a WIDTH × HEIGHT view box.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medrl.report.scales import Series, Value, defined, label, scale, short, thinned, ticks, whole_ticks

WIDTH, HEIGHT = 380.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 368.0, 10.0, 178.0  # the plot's edges
MAX_POINTS = 120  # of a line; more are averaged in groups of neighbours
MAX_BARS = 60
MAX_BAR_LABELS = 6


@dataclass(frozen=True)
class Tick:
    """A mark on an axis. `at`: x or y."""

    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A point of a line."""

    x: float
    y: float
    text: str  # what a tooltip says


@dataclass(frozen=True)
class Line:
    """One series. `path` is SVG path data, broken where the value is undefined."""

    name: str
    path: str
    marks: list[Mark]


@dataclass(frozen=True)
class Bar:
    """One part of a stacked bar."""

    x: float
    y: float
    width: float
    height: float
    series: int  # index into the chart's names
    text: str


@dataclass(frozen=True)
class Chart:
    """Lines or stacked bars over the steps of a run."""

    title: str
    unit: str
    names: list[str]  # of the series, for the legend
    lines: list[Line]
    bars: list[Bar]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    summary: str  # the chart in words, for those who cannot see it


def line_chart(title: str, unit: str, series: Mapping[str, Series]) -> Chart | None:
    """A line a series on shared axes; None when no value is defined."""
    drawn = {name: thinned(points, MAX_POINTS) for name, points in series.items() if defined(points)}
    if not drawn:
        return None
    values = [value for points in drawn.values() for _, value in defined(points)]
    steps = [step for points in drawn.values() for step, _ in points]
    plot = Plot(min(steps), max(steps), ticks(min(values), max(values)))
    return Chart(
        title, unit, list(drawn), [_line(name, points, plot, unit) for name, points in drawn.items()], [],
        [Tick(plot.x(step), f"{step:g}") for step in whole_ticks(plot.first, plot.last)], plot.y_ticks(),
        "; ".join(_in_words(name, defined(points)) for name, points in drawn.items()),
    )


def bar_chart(title: str, unit: str, steps: Sequence[float], parts: Mapping[str, Sequence[Value]]) -> Chart | None:
    """A bar a step, its parts on top of each other from zero; None when there is nothing to draw."""
    stacks = {name: thinned(list(zip(steps, values, strict=True)), MAX_BARS) for name, values in parts.items()}
    columns = {name: [(step, value or 0.0) for step, value in points] for name, points in stacks.items()}
    shown = [step for step, _ in next(iter(columns.values()), [])]
    totals = [sum(value for _, value in stack) for stack in zip(*columns.values(), strict=True)]
    if max(totals, default=0.0) <= 0:
        return None
    plot, slot = Plot(0, len(shown), ticks(0.0, max(totals))), (RIGHT - LEFT) / len(shown)
    width = min(0.72 * slot, 40.0)
    bars, tops = [], [0.0] * len(shown)
    for index, (name, points) in enumerate(columns.items()):
        for i, (step, value) in enumerate(points):
            top, bottom = plot.y(tops[i] + value), plot.y(tops[i])
            tops[i] += value
            if value > 0:
                text = f"step {step:g}: {name} {short(value)} {unit}".rstrip()
                bars.append(Bar(plot.x(i + 0.5) - width / 2, top, width, bottom - top, index, text))
    every = math.ceil(len(shown) / MAX_BAR_LABELS)
    x_ticks = [Tick(plot.x(i + 0.5), f"{step:g}") for i, step in enumerate(shown) if i % every == 0]
    means = {name: sum(value for _, value in points) / len(points) for name, points in columns.items()}
    words = "; ".join(f"{name} {short(mean)} {unit} a step".replace("  ", " ") for name, mean in means.items())
    return Chart(title, unit, list(columns), [], bars, x_ticks, plot.y_ticks(), words)


@dataclass(frozen=True)
class Plot:
    """Where the values go: the range of the x axis, and the ticks of the y axis, which span it."""

    first: float
    last: float
    values: list[float]

    def x(self, step: float) -> float:
        return scale(step, self.first, self.last, LEFT, RIGHT)

    def y(self, value: float) -> float:
        return scale(value, self.values[0], self.values[-1], BOTTOM, TOP)

    def y_ticks(self) -> list[Tick]:
        return [Tick(self.y(value), label(value, self.values)) for value in self.values]


def _line(name: str, points: Series, plot: Plot, unit: str) -> Line:
    path, marks, begun = [], [], False
    for step, value in points:
        if value is None:
            begun = False
            continue
        mark = Mark(plot.x(step), plot.y(value), f"step {step:g}: {short(value)} {unit}".rstrip())
        path.append(f"{'L' if begun else 'M'}{mark.x:.1f} {mark.y:.1f}")
        marks.append(mark)
        begun = True
    return Line(name, " ".join(path), marks)


def _in_words(name: str, points: Sequence[tuple[float, float]]) -> str:
    (first, start), (last, end) = points[0], points[-1]
    if first == last:
        return f"{name} {short(start)} at step {first:g}"
    return f"{name} from {short(start)} at step {first:g} to {short(end)} at step {last:g}"
