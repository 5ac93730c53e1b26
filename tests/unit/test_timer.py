"""Phases, as sums and as spans."""

from __future__ import annotations

import time

import pytest

from medrl.timer import Timer


def test_a_phase_that_comes_twice_is_added_up_and_has_two_spans() -> None:
    timer, before = Timer(), time.time_ns()
    for phase in ("generate", "update", "generate"):
        with timer(phase):
            time.sleep(0.001)
    edges = [edge for span in timer.spans for edge in (span.start, span.end)]
    assert [span.name for span in timer.spans] == ["generate", "update", "generate"]
    assert edges == sorted(edges) and before <= edges[0] and edges[-1] <= time.time_ns()
    assert timer.seconds.keys() == {"generate", "update"} and timer.seconds["generate"] >= 0.002


def test_a_phase_that_fails_counts() -> None:
    timer = Timer()
    with pytest.raises(KeyError), timer("sync"):
        raise KeyError
    assert [span.name for span in timer.spans] == ["sync"] and timer.seconds["sync"] > 0
