"""The results of an evaluation as console tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table


def metric_table(rows: Sequence[dict[str, Any]], compared: bool) -> Table:
    """One line a set and metric; `compared`: with the baseline's value and the difference to it."""
    table = Table("set", title="evaluation", box=SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("metric", no_wrap=True)
    for column in ("value", "95 % interval", "n", *(("baseline", "difference") if compared else ())):
        table.add_column(column, justify="right", no_wrap=True)
    before = None
    for row in rows:
        interval = "" if row["low"] is None else f"{row['low']:.3f} … {row['high']:.3f}"
        name = row["set"] if row["set"] != before else ""
        cells = [name, row["metric"], f"{row['value']:.3f}", interval, str(row["n"])]
        if compared:
            other = row["baseline"]
            cells += ["", ""] if other is None else [f"{other:.3f}", f"{row['value'] - other:+.3f}"]
        table.add_row(*cells)
        before = row["set"]
    return table


def rule_table(rows: Sequence[dict[str, Any]], compared: bool) -> Table:
    """One line a set and safety rule, with the number of answers that keep it."""
    table = Table("set", "rule", "kept", *(["baseline"] if compared else []), title="safety rules",
                  box=SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    for row in rows:
        other = [f"{row['baseline_passed']} of {row['total']}"] if compared else []
        table.add_row(row["set"], row["rule"], f"{row['passed']} of {row['total']}", *other)
    return table
