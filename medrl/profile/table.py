"""Recorded steps as a console table: how busy each worker was, and where it held the step up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table

from medrl.profile.step import DRIVER, StepRecord, busy, critical_path

SHOWN = 0.005  # a smaller share of the step is left out of the critical path's column


def profile_table(records: Sequence[StepRecord]) -> Table:
    """Seconds a step, mean over the steps that were not slowed, or over all where every one was.

    The driver is busy where the step waits for no worker. The seconds of the critical path's column make up the step.
    """
    records = [record for record in records if not record.slowed] or records
    ns = sum(record.end - record.start for record in records)
    held: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))  # worker → phase → ns
    phases: dict[str, int] = defaultdict(int)
    for record in records:
        for link in critical_path(record):
            held[link.worker][link.phase] += link.end - link.start
            phases[link.phase] += link.end - link.start

    def seconds(part: int) -> str:
        return f"{part / len(records) / 1e9:.2f}"

    longest = max(phases, key=phases.__getitem__)
    steps = f"{records[0].step} to {records[-1].step}" if len(records) > 1 else f"{records[0].step}"
    slowed = ", slowed by recording operators" if records[0].slowed else ""
    table = Table("worker", title=f"step {steps}: {seconds(ns)} s{slowed}; longest phase: {longest}, "
                  f"{seconds(phases[longest])} s ({phases[longest] / ns:.0%})",
                  title_justify="left", box=SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    for column in ("busy s", "idle s", "share"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("critical path, s")
    for worker in [DRIVER, *dict.fromkeys(worker for record in records for worker in record.calls)]:
        worked = sum(held[worker].values()) if worker == DRIVER else sum(
            busy(record.calls.get(worker, ()), record.start, record.end) for record in records)
        where = sorted(held[worker].items(), key=lambda item: -item[1])
        table.add_row(worker, seconds(worked), seconds(ns - worked), f"{worked / ns:.0%}",
                      ", ".join(f"{phase} {seconds(part)}" for phase, part in where if part / ns >= SHOWN))
    return table
