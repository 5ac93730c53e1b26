"""The table of hand-made steps."""

from __future__ import annotations

from dataclasses import replace

from rich.table import Table

from medrl.profile.table import profile_table
from tests.unit.profile.steps import S, record


def cells(table: Table) -> list[list[str]]:
    return [list(row) for row in zip(*(column._cells for column in table.columns), strict=True)]


def test_one_line_a_worker() -> None:
    table = profile_table([record()])
    assert table.title == "step 2: 10.00 s; longest phase: generate, 4.00 s (40%)"
    assert cells(table) == [
        ["driver", "2.00", "8.00", "20%", "generate 1.00, score 0.50, between phases 0.50"],
        ["policy 0", "2.50", "7.50", "25%", "update 2.00, sync 0.50"],
        ["reference 0", "1.50", "8.50", "15%", "score 1.50"],
        ["reward 0", "1.00", "9.00", "10%", ""],
        ["rollout 0", "2.50", "7.50", "25%", ""],
        ["rollout 1", "4.00", "6.00", "40%", "generate 3.00, sync 1.00"],
    ]


def test_figures_are_means_over_the_steps_that_were_not_slowed() -> None:
    longer = replace(record(3, at=20), end=34 * S)
    table = profile_table([record(), longer, record(4, at=40, slowed=True)])
    assert table.title == "step 2 to 3: 12.00 s; longest phase: generate, 4.00 s (33%)"
    assert cells(table)[0] == ["driver", "4.00", "8.00", "33%", "between phases 2.50, generate 1.00, score 0.50"]
    assert cells(table)[1][:4] == ["policy 0", "2.50", "9.50", "21%"]


def test_a_slowed_step_counts_where_there_is_no_other() -> None:
    title = profile_table([record(slowed=True)]).title
    assert title == "step 2: 10.00 s, slowed by recording operators; longest phase: generate, 4.00 s (40%)"


def test_a_worker_that_came_later_was_idle_before() -> None:
    first = record()
    late = replace(first, calls={name: calls for name, calls in first.calls.items() if name != "rollout 1"})
    line = cells(profile_table([late, record(3, at=20)]))[-1]
    assert line[:4] == ["rollout 1", "2.00", "8.00", "20%"]
