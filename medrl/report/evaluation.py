"""The tables of an evaluation: results with intervals, safety rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medrl.report.scales import scale, short, signed


@dataclass(frozen=True)
class Whisker:
    """A value with its interval, and the baseline's value, on a line from 0 to 100 (per cent of its width)."""

    value: float
    low: float | None
    high: float | None
    baseline: float | None


@dataclass(frozen=True)
class Result:
    """One metric on one set of questions, as text."""

    set: str
    metric: str
    n: str
    value: str
    interval: str  # empty: there is none
    baseline: str
    difference: str
    whisker: Whisker


@dataclass(frozen=True)
class Rule:
    """How often a safety rule held. Shares in per cent."""

    set: str
    rule: str
    count: str
    share: float
    baseline: float | None


def results(rows: Sequence[dict[str, Any]]) -> list[Result]:
    """The rows of evaluation.json's `results`."""
    return [_result(row) for row in rows]


def rules(rows: Sequence[dict[str, Any]]) -> list[Rule]:
    """The rows of evaluation.json's `rules`; a rule that was never tried is left out."""
    return [
        Rule(row["set"], row["rule"].replace("_", " "), f"{row['passed']} of {row['total']}",
             100 * row["passed"] / row["total"],
             None if row["baseline_passed"] is None else 100 * row["baseline_passed"] / row["total"])
        for row in rows if row["total"]
    ]


def _result(row: dict[str, Any]) -> Result:
    value, low, high, baseline = row["value"], row["low"], row["high"], row["baseline"]
    there = [number for number in (value, low, high, baseline) if number is not None]
    # Shares keep their natural range, so that rows compare; other metrics fill the line.
    left, right = (0.0, 1.0) if there and 0 <= min(there) and max(there) <= 1 else _padded(there)

    def at(number: float | None) -> float | None:
        return None if number is None else scale(number, left, right, 0, 100)

    return Result(
        row["set"], row["metric"].replace("_", " "), f"{row['n']:,}", short(value),
        f"{short(low)} to {short(high)}" if low is not None and high is not None else "",
        short(baseline) if baseline is not None else "",
        signed(value - baseline) if value is not None and baseline is not None else "",
        Whisker(at(value) or 0.0, at(low), at(high), at(baseline)),
    )


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=0.0)
    room = (high - low) / 10 or 1.0
    return low - room, high + room
