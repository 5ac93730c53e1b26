from __future__ import annotations

import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks.step.watch import Watched, watch


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=20), st.integers(0, 200), st.integers(0, 200))
def test_busy_seconds_are_those_counted_one_by_one(steps: list[tuple[int, bool]], one: int, other: int) -> None:
    start, end = sorted((one, other))
    looks, now, working = [], 0, set()
    for pause, at_work in steps:
        looks.append((float(now), at_work))
        if at_work and len(looks) < len(steps):  # nobody knows how long the last look holds
            working |= set(range(now, now + pause))
        now += pause
    assert Watched(looks).busy(start, end) == pytest.approx(len(working & set(range(start, end))))


def test_workers_below_a_process_are_seen_by_role_and_others_are_not() -> None:
    script = "(exec -a ray::RolloutWorker.generate sleep 60) & (exec -a ray::PolicyWorker sleep 60) & sleep 60"
    stranger = subprocess.Popen(["bash", "-c", "exec -a ray::CriticWorker.update sleep 60"])
    with subprocess.Popen(["bash", "-c", script], start_new_session=True) as parent:
        try:
            with watch(parent.pid) as seen:
                until = time.monotonic() + 30
                while len(seen.peak_bytes) < 2 and time.monotonic() < until:
                    time.sleep(0.01)
                time.sleep(0.1)
        finally:
            stranger.kill()
            stranger.wait()
            subprocess.run(["kill", "--", f"-{parent.pid}"], check=True)
    assert seen.peak_bytes.keys() == {"rollout", "policy"} and min(seen.peak_bytes.values()) > 0
    assert any(at_work for _, at_work in seen.looks)
