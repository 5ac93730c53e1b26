"""Recorded steps as one Chrome trace, which ui.perfetto.dev and chrome://tracing open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medrl.profile.step import DRIVER, StepRecord, critical_path

LOOP, WAITING = 0, 1  # the driver's two rows


def chrome_trace(records: Sequence[StepRecord]) -> dict[str, Any]:
    """The trace as a JSON object: a process for each role, a row for each worker, microseconds since the first step.

    The driver has two rows: steps and their phases, and whom it waited for.
    Format: "Trace Event Format", Google, 2016.
    """
    zero = records[0].start
    workers = list(dict.fromkeys(worker for record in records for worker in record.calls))
    roles = list(dict.fromkeys(_role(worker) for worker in workers))
    rows = {worker: (roles.index(_role(worker)) + 1, int(worker.split()[1])) for worker in workers}
    events = [_name("process_name", role, pid) for pid, role in enumerate([DRIVER, *roles])]
    events += [{"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": pid}}
               for pid in range(len(roles) + 1)]
    events += [_name("thread_name", "loop", 0, LOOP), _name("thread_name", "waits for", 0, WAITING)]
    events += [_name("thread_name", _title(worker, records), *row) for worker, row in rows.items()]

    def add(name: str, start: int, end: int, pid: int, tid: int) -> None:
        events.append({"ph": "X", "name": name, "pid": pid, "tid": tid, "ts": (start - zero) / 1e3,
                       "dur": (end - start) / 1e3})

    for record in records:
        slowed = " (slowed: operators recorded)" if record.slowed else ""
        add(f"step {record.step}{slowed}", record.start, record.end, 0, LOOP)
        for phase in record.phases:
            add(*phase, 0, LOOP)
        for link in critical_path(record):
            if link.worker != DRIVER:
                add(f"{link.worker} {link.call}", link.start, link.end, 0, WAITING)
        for worker, calls in record.calls.items():
            for call in calls:
                add(*call, *rows[worker])
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _role(worker: str) -> str:
    return worker.split()[0]


def _title(worker: str, records: Sequence[StepRecord]) -> str:
    error = max(record.clock_errors.get(worker, 0) for record in records)
    return f"{worker} (clock ± {error / 1e6:.2f} ms)" if error else worker


def _name(kind: str, name: str, pid: int, tid: int = 0) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}
