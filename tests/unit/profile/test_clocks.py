"""The offset of another clock, against a simulated wire."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from medrl.profile.clocks import PINGS, measure_offset

nanoseconds = st.integers(0, 10**9)


@given(st.integers(-(10**12), 10**12), st.lists(st.tuples(nanoseconds, nanoseconds), min_size=PINGS, max_size=PINGS))
def test_the_true_offset_is_within_half_the_fastest_round_trip(ahead: int, delays: list[tuple[int, int]]) -> None:
    """`ahead`: how far the other clock goes ahead of ours; `delays`: of each ping's way there and back."""
    time, wires = 10**15, iter(delays)

    def ask() -> int:
        nonlocal time
        there, back = next(wires)
        answer = time + there + ahead
        time += there + back
        return answer

    offset = measure_offset(ask, lambda: time)
    assert abs(offset.shift + ahead) <= offset.error
    assert offset.error == (min(there + back for there, back in delays) + 1) // 2


def test_the_fastest_answer_counts() -> None:
    trips = iter([40, 10, 30] + [50] * PINGS)
    time = 1000

    def ask() -> int:
        nonlocal time
        trip = next(trips)
        time += trip
        return time - trip // 2 + 500

    assert measure_offset(ask, lambda: time) == (-500, 5)
