"""One recorded step on the driver's time axis: who was busy, and whom the driver waited for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from medrl.timer import Span

DRIVER = "driver"
BETWEEN = "between phases"


@dataclass(frozen=True)
class StepRecord:
    """A step from its start to its end, in nanoseconds of the driver's clock.

    The driver's phases follow one another. Calls are those of each worker, by its name ("rollout 0").
    """

    step: int
    start: int
    end: int
    phases: tuple[Span, ...]
    calls: Mapping[str, tuple[Span, ...]]
    clock_errors: Mapping[str, int]  # how far a worker's times may be off; 0 on the driver's machine
    slowed: bool  # operators were recorded too


class Link(NamedTuple):
    """A stretch of the critical path: who held the step up, and in which phase."""

    worker: str
    phase: str
    call: str  # "" where it is the driver
    start: int
    end: int


def busy(calls: Sequence[Span], start: int, end: int) -> int:
    """Nanoseconds of [start, end] in which at least one call ran."""
    total, reached = 0, start
    for call in sorted(calls, key=lambda call: call.start):
        until = min(call.end, end)
        if until > reached:
            total += until - max(call.start, reached)
            reached = until
    return total


def critical_path(record: StepRecord) -> list[Link]:
    """The links that make up the step, in order and without gaps.

    From the end of a phase backward: the call that ended last is what the driver waited for; before that call began,
    the one that had ended last by then; what is between is the driver's. A call that goes on after the phase was not
    waited for. Times between phases are the driver's.
    """
    path: list[Link] = []
    reached = record.start
    for phase in record.phases:
        path.append(Link(DRIVER, BETWEEN, "", reached, phase.start))
        path += reversed(list(_backward(phase, record)))
        reached = phase.end
    path.append(Link(DRIVER, BETWEEN, "", reached, record.end))
    return [link for link in path if link.end > link.start]


def _backward(phase: Span, record: StepRecord) -> Iterator[Link]:
    calls = [
        (min(call.end, phase.end), worker, call) for worker, of_worker in record.calls.items() for call in of_worker
        if max(call.start, phase.start) < min(call.end, phase.end)
        and call.end <= phase.end + record.clock_errors[worker]
    ]
    reached = phase.end
    while ended := [found for found in calls if found[0] <= reached]:
        end, worker, call = max(ended)
        start = max(call.start, phase.start)
        yield Link(DRIVER, phase.name, "", end, reached)
        yield Link(worker, phase.name, call.name, start, end)
        reached = start
    yield Link(DRIVER, phase.name, "", phase.start, reached)
