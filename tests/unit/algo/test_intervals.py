"""Wilson's interval against its definition: the shares p that n trials would not reject."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from medrl.algo.intervals import wilson_interval


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_both_ends_lie_196_deviations_from_what_was_counted(counted: tuple[int, int]) -> None:
    successes, trials = counted
    for end in wilson_interval(successes, trials):
        distance = abs(successes / trials - end)
        if 1e-9 < end < 1 - 1e-9:
            assert math.isclose(distance, 1.959964 * math.sqrt(end * (1 - end) / trials), rel_tol=1e-4, abs_tol=1e-9)
        else:
            assert distance < 1e-9  # none, or all of them


def test_a_known_interval() -> None:
    low, high = wilson_interval(10, 20)
    assert (round(low, 4), round(high, 4)) == (0.2993, 0.7007)
