"""The Chrome trace of hand-made steps."""

from __future__ import annotations

import json

from medrl.profile.timeline import chrome_trace
from tests.unit.profile.steps import record


def rows(trace: dict) -> dict[str, list[tuple[str, float, float]]]:
    """Row title → (name, start, end) in seconds, as a viewer shows them."""
    titles = {(e["pid"], e["tid"]): e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    shown: dict[str, list[tuple[str, float, float]]] = {title: [] for title in titles.values()}
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            start, seconds = event["ts"] / 1e6, event["dur"] / 1e6
            shown[titles[event["pid"], event["tid"]]].append((event["name"], start, start + seconds))
    return shown


def test_each_worker_has_a_row_and_the_driver_two() -> None:
    trace = json.loads(json.dumps(chrome_trace([record(), record(3, at=20, slowed=True)])))
    shown = rows(trace)
    assert list(shown) == ["loop", "waits for", "policy 0", "reference 0", "reward 0", "rollout 0", "rollout 1"]
    assert shown["rollout 1"] == [("generate", 0.5, 3.5), ("receive", 8.5, 9.5),
                                  ("generate", 20.5, 23.5), ("receive", 28.5, 29.5)]
    assert shown["loop"][:3] == [("step 2", 0, 10), ("generate", 0, 4), ("score", 4, 6)]
    assert shown["loop"][5] == ("step 3 (slowed: operators recorded)", 20, 30)
    assert shown["waits for"][:5] == [
        ("rollout 1 generate", 0.5, 3.5), ("reference 0 logprobs", 4, 5.5), ("policy 0 update", 6, 8),
        ("policy 0 export_weights", 8, 8.5), ("rollout 1 receive", 8.5, 9.5)]


def test_roles_are_processes_in_the_order_of_the_workers() -> None:
    events = chrome_trace([record()])["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    order = {e["pid"]: e["args"]["sort_index"] for e in events if e["name"] == "process_sort_index"}
    assert [names[pid] for pid in sorted(order, key=order.__getitem__)] == [
        "driver", "policy", "reference", "reward", "rollout"]


def test_what_a_foreign_clock_may_be_off_stands_in_the_row_s_title() -> None:
    assert "rollout 1 (clock ± 0.25 ms)" in rows(chrome_trace([record(clock_error=0.00025)]))
