"""Steps made by hand, in seconds."""

from __future__ import annotations

from medrl.profile.step import StepRecord
from medrl.timer import Span

S = 10**9


def spans(*rows: tuple[str, float, float]) -> tuple[Span, ...]:
    return tuple(Span(name, round(start * S), round(end * S)) for name, start, end in rows)


def record(step: int = 2, at: float = 0, slowed: bool = False, clock_error: float = 0) -> StepRecord:
    """Ten seconds: rollout 1 is the slower engine; the reference is slower than the reward; a sync in two links."""

    def later(*rows: tuple[str, float, float]) -> tuple[Span, ...]:
        return spans(*((name, start + at, end + at) for name, start, end in rows))

    calls = {
        "policy 0": later(("update", 6, 8), ("export_weights", 8, 8.5)),
        "reference 0": later(("logprobs", 4, 5.5)),
        "reward 0": later(("score", 4, 5)),
        "rollout 0": later(("generate", 0, 2), ("receive", 8.5, 9)),
        "rollout 1": later(("generate", 0.5, 3.5), ("receive", 8.5, 9.5)),
    }
    phases = later(("generate", 0, 4), ("score", 4, 6), ("update", 6, 8), ("sync", 8, 9.5))
    errors = dict.fromkeys(calls, 0) | {"rollout 1": round(clock_error * S)}
    return StepRecord(step, round(at * S), round((at + 10) * S), phases, calls, errors, slowed)
