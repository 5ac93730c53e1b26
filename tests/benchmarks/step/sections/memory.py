"""Memory by role, and how often the base model is held."""

from __future__ import annotations

from tests.benchmarks.step.cases import CASES
from tests.benchmarks.step.figures import Figures
from tests.benchmarks.step.plots import bars
from tests.benchmarks.step.section import Section

ROLES = ("policy", "critic", "reference", "reward", "rollout")
TRAINED = ("policy", "critic", "reference")  # whose parameters a run reports
NOTE = ("Peak resident set (VmHWM) of the largest worker of each role, shared libraries and object store included, "
        "and bytes of parameters that each worker holds beyond what it shares with the policy. In all: of every rank "
        "and the reference. Bases: whole copies of the base model among them; adapters and heads are less than one.")
COLUMNS = ("case", *(f"{role}, peak MiB" for role in ROLES), *(f"{role}, parameters MiB" for role in TRAINED),
           "in all, MiB", "bases, MiB", "bases")


def section(found: list[Figures]) -> Section | None:
    """None when only sweeps were measured."""
    shown = [figures for figures in found if figures.case.name in CASES]
    if not shown:
        return None
    stacks = {figures.case.name: {role: size / 2**20 for role, size in figures.own.parameter_bytes.items()}
              for figures in shown}
    plots = {"memory.svg": bars("Parameters of learners and reference", "MiB", stacks, TRAINED)}
    return Section("Memory", NOTE, COLUMNS, [_row(figures) for figures in shown], plots)


def bases(figures: Figures) -> int:
    """Whole copies of the base model's parameters."""
    return _held(figures) // figures.base_bytes


def _held(figures: Figures) -> int:
    """Bytes of the parameters of all learner ranks and the reference."""
    held = figures.own.parameter_bytes
    return held["reference"] + figures.case.ranks * sum(held[role] for role in held.keys() - {"reference"})


def _row(figures: Figures) -> list[str]:
    peak, held, copies = figures.own.peak_bytes, figures.own.parameter_bytes, bases(figures)
    return [figures.case.name, *(f"{peak[role] / 2**20:.0f}" if role in peak else "" for role in ROLES),
            *(f"{held[role] / 2**20:.2f}" if role in held else "" for role in TRAINED),
            f"{_held(figures) / 2**20:.2f}", f"{copies * figures.base_bytes / 2**20:.2f}", str(copies)]
