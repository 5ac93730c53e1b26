"""What one case took."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median

from tests.benchmarks.step.cases import Case
from tests.benchmarks.step.own import PHASES, OwnRun


@dataclass(frozen=True)
class Figures:
    """What was measured, and the least that each phase could take."""

    case: Case
    own: OwnRun
    peer: dict[str, list[float]]  # seconds of each step, in all and of the generation; empty: not measured
    least: dict[str, float]  # seconds, by phase
    base_bytes: int  # the policy's parameters, without adapters

    @property
    def step(self) -> float:
        """Median seconds."""
        return median(self.own.seconds["step"])

    @property
    def phases(self) -> dict[str, float]:
        """Median seconds."""
        return {phase: median(self.own.seconds[phase]) for phase in PHASES}

    @property
    def other(self) -> float:
        """Share of a step in which no worker was at work, median."""
        steps = zip(self.own.seconds["busy"], self.own.seconds["step"], strict=True)
        return median(1 - busy / step for busy, step in steps)

    @property
    def ratio(self) -> float | None:
        """samples/s over the peer's."""
        return median(self.peer["step"]) / self.step if self.peer else None

    def plain(self) -> dict:
        return asdict(self) | {"ratio": self.ratio, "other": self.other}
