"""Busy time and the critical path, against hand-made steps, ticks and the definition."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from medrl.profile.step import BETWEEN, DRIVER, StepRecord, busy, critical_path
from medrl.timer import Span
from tests.unit.profile.steps import S, record

times = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted)
calls_of_a_worker = st.lists(times.map(lambda t: Span("call", *t)), max_size=5).map(tuple)


@st.composite
def steps(draw: st.DrawFn) -> StepRecord:
    """Phases that follow one another with or without a gap, and any calls, also across phases and outside the step."""
    edges = sorted(draw(st.lists(st.integers(5, 30), min_size=2, max_size=8)))
    phases = tuple(Span(f"phase {i}", *pair) for i, pair in enumerate(zip(edges[::2], edges[1::2], strict=False)))
    calls = draw(st.dictionaries(st.sampled_from(["policy 0", "reward 0", "rollout 0"]), calls_of_a_worker))
    return StepRecord(1, 5, 30, phases, calls, dict.fromkeys(calls, 0), slowed=False)


@given(calls_of_a_worker, times)
def test_busy_counts_the_ticks_with_a_call(calls: tuple[Span, ...], window: list[int]) -> None:
    start, end = window
    ticks = {tick for call in calls for tick in range(call.start, call.end)}
    assert busy(calls, start, end) == len(ticks & set(range(start, end)))


def test_the_critical_path_of_a_step_by_hand() -> None:
    path = [(link.worker, link.phase, link.call, link.start / S, link.end / S) for link in critical_path(record())]
    assert path == [
        (DRIVER, "generate", "", 0, 0.5),
        ("rollout 1", "generate", "generate", 0.5, 3.5),
        (DRIVER, "generate", "", 3.5, 4),
        ("reference 0", "score", "logprobs", 4, 5.5),
        (DRIVER, "score", "", 5.5, 6),
        ("policy 0", "update", "update", 6, 8),
        ("policy 0", "sync", "export_weights", 8, 8.5),
        ("rollout 1", "sync", "receive", 8.5, 9.5),
        (DRIVER, BETWEEN, "", 9.5, 10),
    ]


def test_a_call_that_outlasts_the_phase_was_not_waited_for() -> None:
    calls = {"rollout 0": (Span("generate", 0, 20),), "policy 0": (Span("update", 2, 8),)}
    step = StepRecord(1, 0, 30, (Span("update", 0, 10), Span("generate", 10, 21)), calls,
                      {"rollout 0": 0, "policy 0": 0}, slowed=False)
    assert [(link.worker, link.phase, link.start, link.end) for link in critical_path(step)] == [
        (DRIVER, "update", 0, 2), ("policy 0", "update", 2, 8), (DRIVER, "update", 8, 10),
        ("rollout 0", "generate", 10, 20), (DRIVER, "generate", 20, 21), (DRIVER, BETWEEN, 21, 30)]


def test_an_end_a_little_after_the_phase_is_the_other_clock_s_error() -> None:
    late = record().calls["rollout 1"][0]._replace(end=4 * S + 1000)
    step = replace(record(), calls=record().calls | {"rollout 1": (late,)})

    def holder(error: int) -> str:
        path = critical_path(replace(step, clock_errors=step.clock_errors | {"rollout 1": error}))
        return max((link for link in path if link.phase == "generate"), key=lambda link: link.end).worker

    assert (holder(0), holder(1000)) == (DRIVER, "rollout 1")


@given(steps())
def test_the_path_is_made_of_awaited_calls_and_has_no_gap(step: StepRecord) -> None:
    path = critical_path(step)
    assert [link.start for link in path] + [step.end] == [step.start] + [link.end for link in path]
    for link in path:
        phase = next((p for p in step.phases if p.name == link.phase), None)
        if phase is None:
            assert link.worker == DRIVER and not any(p.start < link.end and link.start < p.end for p in step.phases)
            continue
        assert phase.start <= link.start < link.end <= phase.end
        ends = {c.end for calls in step.calls.values() for c in calls if c.start < c.end and c.end > phase.start}
        if link.worker == DRIVER:  # no call that could have been waited for ended meanwhile
            assert not any(link.start < end <= link.end for end in ends)
        else:
            assert any(c.end == link.end and max(c.start, phase.start) == link.start for c in step.calls[link.worker])
