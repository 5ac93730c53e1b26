"""How far another machine's clock is from ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

PINGS = 8


class Offset(NamedTuple):
    """Nanoseconds to add to the other clock's times, and how far off that may be."""

    shift: int
    error: int


SAME_CLOCK = Offset(0, 0)


def measure_offset(ask: Callable[[], int], now: Callable[[], int]) -> Offset:
    """Ask for the other clock's time a few times; the fastest answer counts, as if it were from half-way.

    The error is at most half that round trip (Cristian, Probabilistic clock synchronization, 1989).
    """

    def ping() -> tuple[int, int, int]:
        sent, answer, received = now(), ask(), now()
        return received - sent, answer, (sent + received) // 2

    trip, answer, middle = min(ping() for _ in range(PINGS))
    return Offset(middle - answer, (trip + 1) // 2)
