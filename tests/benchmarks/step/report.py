"""Figures as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median

from rich.table import Table

from tests.benchmarks.step.cases import Case

PHASES = ("generate", "score", "update", "sync")
COLUMNS = ("case", "medrl, samples/s", "TRL, samples/s", "ratio", "medrl, s a step", *PHASES, "other", "TRL, s a step",
           "bound, s", "× bound")


@dataclass(frozen=True)
class Figures:
    """What one case took: seconds of each measured step by phase, and the least that each phase could take."""

    case: Case
    own: dict[str, list[float]]
    peer: dict[str, list[float]]  # empty: not measured
    least: dict[str, float]

    def plain(self) -> dict:
        return asdict(self) | {"ratio": self.ratio}

    @property
    def ratio(self) -> float | None:
        """samples/s over the peer's."""
        return median(self.peer["step"]) / median(self.own["step"]) if self.peer else None

    def cells(self) -> list[str]:
        own, bound = median(self.own["step"]), sum(self.least.values())
        phases = [median(self.own[phase]) for phase in PHASES]
        peer = median(self.peer["step"]) if self.peer else None
        with_bound = [f"{seconds:.2f}" + (f" ({self.least[phase]:.2f})" if phase in self.least else "")
                      for phase, seconds in zip(PHASES, phases, strict=True)]
        return [self.case.name, f"{self.case.prompts / own:.1f}", f"{self.case.prompts / peer:.1f}" if peer else "",
                f"{self.ratio:.2f}" if self.ratio else "", f"{own:.2f}", *with_bound, f"{own - sum(phases):.2f}",
                f"{peer:.2f}" if peer else "", f"{bound:.2f}", f"{own / bound:.1f}"]


def make_table(found: list[Figures]) -> Table:
    table = Table(title="medians; in brackets the least a phase can take here")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "case" else "right")
    for figures in found:
        table.add_row(*figures.cells())
    return table


def make_markdown(found: list[Figures]) -> str:
    rows = [COLUMNS, ["---"] * len(COLUMNS), *(figures.cells() for figures in found)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
