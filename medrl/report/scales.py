"""Numbers on axes and in text: round ticks, scaling, labels, thinning."""

from __future__ import annotations

import math
from collections.abc import Sequence

Value = float | None  # None, NaN or infinite: undefined
Series = Sequence[tuple[float, Value]]  # (step, value), steps rising


def defined(points: Series) -> list[tuple[float, float]]:
    """The points whose value can be drawn."""
    return [(step, value) for step, value in points if value is not None and math.isfinite(value)]


def thinned(points: Series, limit: int) -> list[tuple[float, Value]]:
    """At most `limit` points: the means of equal groups of neighbours, each at its group's last step."""
    size = max(1, math.ceil(len(points) / limit))
    groups = [points[start:start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], _mean([value for _, value in defined(group)])) for group in groups]


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, 1, 2 or 5 · 10^k apart: `count` + 2 at most."""
    if low == high:
        room = abs(low) / 2 or 1.0
        low, high = low - room, high + room
    step = round_step((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def whole_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round whole numbers within low … high."""
    step = max(1.0, round_step((high - low) / count)) if low < high else 1.0
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def round_step(size: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below `size`."""
    power = 10.0 ** _exponent(size)
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= size * (1 - 1e-9))


def scale(value: float, low: float, high: float, start: float, end: float) -> float:
    """`value` of the range low … high as a coordinate between `start` and `end`; the middle when the range is empty."""
    return (start + end) / 2 if low == high else start + (value - low) / (high - low) * (end - start)


def label(value: float, among: Sequence[float]) -> str:
    """A tick's number with the digits that tell it from its neighbours `among`."""
    step, largest = among[1] - among[0], max(abs(among[0]), abs(among[-1]))
    if abs(value) < step / 1e6:
        return "0"
    if largest < 1e-3:
        text = f"{value:.0e}".replace("e-0", "e-")
    elif largest >= 1e4:
        text = f"{value / 1000:.{max(0, 3 - _exponent(step))}f}k"
    else:
        text = f"{value:.{max(0, -_exponent(step))}f}"
    return text.replace("-", "−")


def short(value: Value) -> str:
    """A number for people: three significant digits, and a real minus; a dash when it is undefined."""
    if value is None or not math.isfinite(value):
        return "–"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        text = f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e")
    else:
        text = f"{value:,.{2 if value == 0 else max(0, 2 - _exponent(value))}f}"
    return text.replace("-", "−")


def signed(value: Value) -> str:
    """The same with a plus, for differences."""
    return ("+" if value is not None and value > 0 else "") + short(value)


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)) + 1e-9)


def _mean(values: Sequence[float]) -> Value:
    return sum(values) / len(values) if values else None
