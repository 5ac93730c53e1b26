"""The console tables."""

from __future__ import annotations

import io

from rich.console import Console

from medrl.stages.evaluate_tables import metric_table, rule_table

ROWS = [
    {"set": "exam", "metric": "accuracy_generated", "value": 0.5, "low": 0.25, "high": 0.75, "n": 60, "baseline": 0.75},
    {"set": "exam", "metric": "distinct_2", "value": 0.5, "low": None, "high": None, "n": 60, "baseline": 0.4},
    {"set": "prompts", "metric": "win_rate", "value": 0.6, "low": 0.5, "high": 0.7, "n": 48, "baseline": None},
]


def lines(table) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    return [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_metrics_fit_80_columns_beside_their_baseline() -> None:
    found = lines(metric_table(ROWS, compared=True))
    assert ["exam", "accuracy_generated", "0.500", "0.250", "…", "0.750", "60", "0.750", "-0.250"] in found
    assert ["distinct_2", "0.500", "60", "0.400", "+0.100"] in found
    assert ["prompts", "win_rate", "0.600", "0.500", "…", "0.700", "48"] in found


def test_without_a_baseline_there_is_nothing_to_compare() -> None:
    found = lines(metric_table(ROWS[:1], compared=False))
    assert ["exam", "accuracy_generated", "0.500", "0.250", "…", "0.750", "60"] in found
    assert not any("baseline" in line for line in found)


def test_rules() -> None:
    row = {"set": "safety", "rule": "refuses", "passed": 2, "total": 6, "baseline_passed": 0}
    assert ["safety", "refuses", "2", "of", "6", "0", "of", "6"] in lines(rule_table([row], compared=True))
    assert ["safety", "refuses", "2", "of", "6"] in lines(rule_table([row | {"baseline_passed": None}], compared=False))
