"""Sampling ahead (`rollout.max_staleness: 1`) beside taking turns."""

from __future__ import annotations

from statistics import median

from tests.benchmarks.step.figures import Figures
from tests.benchmarks.step.own import PHASES
from tests.benchmarks.step.section import Section
from tests.benchmarks.step.sweeps import AHEAD, IN_TURNS

NOTE = ("The same case with rollout.max_staleness 0 and 1. Engine and learners share the same cores here, so "
        "sampling ahead can save only what a core would idle; with cores of their own the shorter of the two would "
        "vanish. Ahead, generate is the time the loop waits for answers, and every phase has fewer cores to itself. "
        "The last step, which has nothing to sample ahead, is left out.")
COLUMNS = ("max_staleness", "s a step", "steps/s beside 0", *PHASES)


def section(found: list[Figures]) -> Section | None:
    """None unless both were measured."""
    by_name = {figures.case.name: figures for figures in found}
    if not {IN_TURNS.name, AHEAD.name} <= by_name.keys():
        return None
    pair = [_medians(by_name[case.name]) for case in (IN_TURNS, AHEAD)]
    rows = [[str(stale), f"{times['step']:.2f}", f"{pair[0]['step'] / times['step']:.2f}",
             *(f"{times[phase]:.2f}" for phase in PHASES)] for stale, times in enumerate(pair)]
    return Section("Sampling ahead", NOTE, COLUMNS, rows)


def _medians(figures: Figures) -> dict[str, float]:
    """Seconds by phase, without the last step, which has nothing to sample ahead."""
    return {name: median(seconds[:-1]) for name, seconds in figures.own.seconds.items()}
