"""Outcomes as a table, as JSON and as Markdown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import fmean

from rich.table import Table

from tests.benchmarks.closed_form.exact import Bound, Quality
from tests.benchmarks.closed_form.intervals import Estimate, difference_interval, mean_interval
from tests.benchmarks.closed_form.runs import Outcome
from tests.benchmarks.closed_form.tasks import COMPARED, MARGIN, TASKS
from tests.benchmarks.closed_form.world import World

COLUMNS = ("J", "score", "KL", "gold", "length", "ended", "tokens", "seconds")


@dataclass(frozen=True)
class Comparison:
    """Gap closed by `task` less that by `other`, over the seeds of each."""

    task: str
    other: str
    difference: Estimate

    @property
    def passed(self) -> bool:
        return self.difference.low >= -MARGIN


def gaps(outcomes: list[Outcome]) -> dict[str, list[float]]:
    """Gap closed of every seed, by task, in the order of the outcomes."""
    found: dict[str, list[float]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.task, []).append(outcome.gap_closed)
    return found


def passed(name: str, gap: float) -> bool:
    """Whether a mean gap meets its target, if there is one; of the control, that it is no larger."""
    task = TASKS[name]
    return task.target is None or (gap <= task.target if task.permuted else gap >= task.target)


def compare(outcomes: list[Outcome]) -> list[Comparison]:
    """Every task beside the best of those it is compared with, where both have at least two seeds."""
    found = {name: values for name, values in gaps(outcomes).items() if len(values) > 1}
    comparisons = []
    for name, others in COMPARED.items():
        others = [other for other in others if other in found]
        if name in found and others:
            best = max(others, key=lambda other: fmean(found[other]))
            comparisons.append(Comparison(name, best, difference_interval(found[name], found[best])))
    return comparisons


def make_table(world: World, outcomes: list[Outcome]) -> Table:
    """A block a task: the reference, each seed, their mean, and the optimum."""
    table = Table(title="share of the gap (J − J_ref) / (J* − J_ref) closed, exact over all answers")
    for column in ("task", "run", "gap closed", *COLUMNS):
        table.add_column(column, justify="left" if column in ("task", "run") else "right")
    for name, values in gaps(outcomes).items():
        bound, gap = world.bounds[TASKS[name].reward], fmean(values)
        table.add_row(name, "reference", "0", *_cells(bound.quality(bound.ref_logprobs)), "")
        for outcome in (outcome for outcome in outcomes if outcome.task == name):
            row = f"{outcome.gap_closed:.3f}", *_cells(outcome.quality), f"{outcome.seconds:.0f}"
            table.add_row("", f"seed {outcome.seed}", *row)
        table.add_row("", f"mean{_verdict(name, gap)}", f"{gap:.3f}", style="bold")
        table.add_row("", "optimum", "1", *_cells(bound.quality(bound.optimum())), "", end_section=True)
    return table


def make_comparison_table(outcomes: list[Outcome]) -> Table:
    table = Table(title=f"gap closed, difference of the means with its 95 % interval; to lie above −{MARGIN:g}")
    for column in ("task", "less that of", "difference", ""):
        table.add_column(column)
    for each in compare(outcomes):
        table.add_row(each.task, each.other, str(each.difference), "pass" if each.passed else "FAIL")
    return table


def make_markdown(outcomes: list[Outcome]) -> str:
    """Two tables: a row a task, and a row a comparison."""
    lines = ["| task | gap closed, by seed | mean, 95 % interval |", "|---|---|---|"]
    for name, values in gaps(outcomes).items():
        mean = mean_interval(values) if len(values) > 1 else f"{values[0]:+.3f}"
        lines.append(f"| {name} | {', '.join(f'{value:.3f}' for value in values)} | {mean} |")
    lines += ["", "| task | less that of | difference, 95 % interval |", "|---|---|---|"]
    lines += [f"| {each.task} | {each.other} | {each.difference} |" for each in compare(outcomes)]
    return "\n".join(lines) + "\n"


def make_summary(world: World, outcomes: list[Outcome]) -> dict:
    """The same as plain values."""
    tasks = {}
    for name, values in gaps(outcomes).items():
        bound, gap = world.bounds[TASKS[name].reward], fmean(values)
        runs = [asdict(outcome) for outcome in outcomes if outcome.task == name]
        tasks[name] = {
            "gap_closed": gap, "target": TASKS[name].target, "passed": passed(name, gap), "runs": runs, **_ends(bound)}
    comparisons = [asdict(each) | {"passed": each.passed} for each in compare(outcomes)]
    return {"reward_model_accuracy": world.accuracy, "tasks": tasks, "comparisons": comparisons}


def all_passed(summary: dict) -> bool:
    return all(each["passed"] for each in (*summary["tasks"].values(), *summary["comparisons"]))


def _verdict(name: str, gap: float) -> str:
    task = TASKS[name]
    if task.target is None:
        return ""
    return f", {'≤' if task.permuted else '≥'} {task.target}: {'pass' if passed(name, gap) else 'FAIL'}"


def _ends(bound: Bound) -> dict:
    return {"reference": asdict(bound.quality(bound.ref_logprobs)), "optimum": asdict(bound.quality(bound.optimum()))}


def _cells(q: Quality) -> list[str]:
    return [f"{q.objective:.3f}", f"{q.score:.3f}", f"{q.kl:.2f}", f"{q.gold:.2f}", f"{q.length:.2f}", f"{q.ended:.1%}",
            f"{q.distinct:.2f}"]
