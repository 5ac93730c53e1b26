"""Seconds of a step by phase, beside TRL's and beside the least possible."""

from __future__ import annotations

from statistics import median

from tests.benchmarks.step.cases import CASES
from tests.benchmarks.step.figures import Figures
from tests.benchmarks.step.own import PHASES
from tests.benchmarks.step.plots import bars
from tests.benchmarks.step.section import Section

TITLE = "Seconds of a step"
NOTE = ("Medians over the steps after the first. In brackets and as bound: the least a phase can take here, its work "
        "over the rates that this machine was measured at.")
COLUMNS = ("case", "medrl, samples/s", "TRL, samples/s", "ratio", "medrl, s a step", *PHASES, "TRL, s a step",
           "bound, s", "× bound")
BETWEEN, REST = "between", "TRL's rest"


def section(found: list[Figures]) -> Section:
    shown = [figures for figures in found if figures.case.name in CASES]
    plots = {"seconds.svg": plot(shown)} if shown else {}
    return Section(TITLE, NOTE, COLUMNS, [row(figures) for figures in found], plots)


def row(figures: Figures) -> list[str]:
    case, own, bound = figures.case, figures.step, sum(figures.least.values())
    peer = median(figures.peer["step"]) if figures.peer else None
    phases = [f"{seconds:.2f}" + (f" ({figures.least[phase]:.2f})" if phase in figures.least else "")
              for phase, seconds in figures.phases.items()]
    return [case.name, f"{case.prompts / own:.1f}", f"{case.prompts / peer:.1f}" if peer else "",
            f"{figures.ratio:.2f}" if figures.ratio else "", f"{own:.2f}", *phases, f"{peer:.2f}" if peer else "",
            f"{bound:.2f}", f"{own / bound:.1f}"]


def plot(found: list[Figures]) -> str:
    """A bar for each side of a case, its phases and what lies between them on top of each other."""
    stacks: dict[str, dict[str, float]] = {}
    for figures in found:
        name, phases = figures.case.name, figures.phases
        stacks[name] = phases | {BETWEEN: max(0.0, figures.step - sum(phases.values()))}
        if figures.peer:
            generate = median(figures.peer["generate"])
            stacks[f"TRL: {figures.case.peer}"] = {"generate": generate, REST: median(figures.peer["step"]) - generate}
    return bars(TITLE, "s", stacks, (*PHASES, BETWEEN, REST))
