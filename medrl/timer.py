"""Seconds per named phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Span(NamedTuple):
    """What went on between two moments, in nanoseconds since 1970."""

    name: str
    start: int
    end: int


class Timer:
    """`with timer("generate"): …` adds to `timer.seconds["generate"]`, and a span to `timer.spans`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.spans: list[Span] = []

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start, began = time.perf_counter(), time.time_ns()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start
            self.spans.append(Span(phase, began, time.time_ns()))


def duration(seconds: float) -> str:
    """A time span for people: 42s, 3m05s, 2h07m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
