"""Outcomes as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from statistics import mean

from rich.table import Table

from tests.benchmarks.closed_form.exact import Bound, Quality
from tests.benchmarks.closed_form.runs import TASKS, Outcome
from tests.benchmarks.closed_form.world import World

COLUMNS = ("J", "score", "KL", "gold", "length", "ended", "tokens", "seconds")


def passed(name: str, gap: float) -> bool:
    """Whether a mean gap meets its target; of the control, that it is no larger."""
    task = TASKS[name]
    return gap <= task.target if task.permuted else gap >= task.target


def make_table(world: World, outcomes: list[Outcome]) -> Table:
    """A block a task: the reference, each seed, their mean, and the optimum."""
    table = Table(title="share of the gap (J − J_ref) / (J* − J_ref) closed, exact over all answers")
    for column in ("task", "run", "gap closed", *COLUMNS):
        table.add_column(column, justify="left" if column in ("task", "run") else "right")
    for name in dict.fromkeys(outcome.task for outcome in outcomes):
        bound = world.bounds[TASKS[name].reward]
        mine = [outcome for outcome in outcomes if outcome.task == name]
        table.add_row(name, "reference", "0", *_cells(bound.quality(bound.ref_logprobs)), "")
        for outcome in mine:
            gap, seconds = f"{outcome.gap_closed:.3f}", f"{outcome.seconds:.0f}"
            table.add_row("", f"seed {outcome.seed}", gap, *_cells(outcome.quality), seconds)
        gap, sign = mean(o.gap_closed for o in mine), "≤" if TASKS[name].permuted else "≥"
        verdict = "pass" if passed(name, gap) else "FAIL"
        table.add_row("", f"mean, {sign} {TASKS[name].target}: {verdict}", f"{gap:.3f}", style="bold")
        table.add_row("", "optimum", "1", *_cells(bound.quality(bound.optimum())), "", end_section=True)
    return table


def make_summary(world: World, outcomes: list[Outcome]) -> dict:
    """The same as plain values."""
    tasks = {}
    for name in dict.fromkeys(outcome.task for outcome in outcomes):
        bound = world.bounds[TASKS[name].reward]
        mine = [asdict(outcome) for outcome in outcomes if outcome.task == name]
        gap = mean(outcome["gap_closed"] for outcome in mine)
        tasks[name] = {
            "gap_closed": gap, "target": TASKS[name].target, "passed": passed(name, gap), "runs": mine, **_ends(bound)}
    return {"reward_model_accuracy": world.accuracy, "tasks": tasks}


def _ends(bound: Bound) -> dict:
    return {"reference": asdict(bound.quality(bound.ref_logprobs)), "optimum": asdict(bound.quality(bound.optimum()))}


def _cells(q: Quality) -> list[str]:
    return [f"{q.objective:.3f}", f"{q.score:.3f}", f"{q.kl:.2f}", f"{q.gold:.2f}", f"{q.length:.2f}", f"{q.ended:.1%}",
            f"{q.distinct:.2f}"]
