"""What Ray and the loop's Python add to the workers' work."""

from __future__ import annotations

from statistics import median

from tests.benchmarks.step.cases import DEMO, FULL
from tests.benchmarks.step.figures import Figures
from tests.benchmarks.step.section import Section

TARGET = 0.10
JUDGED = (FULL.name, DEMO.name)
NOTE = ("Other: no worker is at work. It lies within the phases (calls and data on their way) or between them (the "
        "loop's own arithmetic, logs). Workers are seen at work by their titles, every 50 ms; Python inside a "
        f"worker's call counts as its work. Target: under {TARGET:.0%} in {' and '.join(JUDGED)}.")
COLUMNS = ("case", "s a step", "workers at work, s", "other within phases, s", "other between phases, s", "other",
           "target")


def section(found: list[Figures]) -> Section:
    return Section("Overhead: Ray and Python", NOTE, COLUMNS, [_row(figures) for figures in found])


def _row(figures: Figures) -> list[str]:
    phases, busy = sum(figures.phases.values()), median(figures.own.seconds["busy"])  # z: no minus before a zero
    verdict = "pass" if figures.other < TARGET else "FAIL"
    return [figures.case.name, f"{figures.step:.2f}", f"{busy:.2f}", f"{phases - busy:z.2f}",
            f"{figures.step - phases:z.2f}", f"{figures.other:.1%}", verdict if figures.case.name in JUDGED else ""]
