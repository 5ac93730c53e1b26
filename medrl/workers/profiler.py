"""Records chosen steps of a PPO run: every worker's calls on one time axis, and the operators of one step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError
from rich.console import Console

from medrl.errors import ConfigError
from medrl.profile.clocks import SAME_CLOCK, Offset, measure_offset
from medrl.profile.recorder import BOOT_ID, Recording
from medrl.profile.step import StepRecord
from medrl.profile.table import profile_table
from medrl.profile.timeline import chrome_trace
from medrl.run_dir import write_json
from medrl.timer import Span, Timer
from medrl.workers.launch import Workers

ANSWER_S = 600.0  # for a worker to write its trace; a step of a large model has millions of operators
PING_S = 10.0
GONE = (RayActorError, ObjectLostError, GetTimeoutError)  # a worker that is lost or stuck: the loop finds out by itself


class Profiler:
    """Records `steps` (maybe none), the last of them with its operators; writes to `folder` as each step ends.

    A worker that is lost meanwhile, or joins, is missing in that step. That does not disturb the run.
    """

    def __init__(self, steps: Sequence[int], folder: Path) -> None:
        self._steps = steps
        self._folder = folder
        self._recorded: dict[int, StepRecord] = {}  # a step that is done again after a loss replaces what was
        self._handles: dict[str, Any] = {}  # of the workers that record now
        self._start = 0

    def check(self, done: int, last: int) -> None:
        """ConfigError unless all chosen steps are to come: the run is at step `done` and ends with `last`."""
        if not self._steps or (done < self._steps[0] and self._steps[-1] <= last):
            return
        warm = min(done + 2, last)
        raise ConfigError("there are no such steps to profile", limit=f"steps {done + 1} to {last}",
                          got=f"steps {self._steps[0]} to {self._steps[-1]}", remedy=f"--profile-steps {warm}")

    def begin(self, step: int, workers: Workers) -> None:
        """Have all workers record if this step is to be."""
        if step not in self._steps:
            return
        handles, operators = workers.by_name(), step == self._steps[-1]
        answers = _ask({name: handle.start_recording.remote(operators) for name, handle in handles.items()})
        self._handles = {name: handles[name] for name in answers}
        self._start = time.time_ns()

    def end(self, step: int, timer: Timer) -> None:
        """Take in what was recorded in this step, and write it."""
        if step not in self._steps:
            return
        end = time.time_ns()
        recordings = _ask({name: handle.stop_recording.remote() for name, handle in self._handles.items()})
        offsets = self._offsets(recordings)
        recordings = {name: recording for name, recording in recordings.items() if recording.clock in offsets}
        calls = {name: _shifted(recording.calls, offsets[recording.clock]) for name, recording in recordings.items()}
        errors = {name: offsets[recording.clock].error for name, recording in recordings.items()}
        self._recorded[step] = StepRecord(
            step, self._start, end, tuple(timer.spans), calls, errors, slowed=step == self._steps[-1])
        self._folder.mkdir(exist_ok=True)
        for name, recording in recordings.items():
            if recording.trace:
                (self._folder / f"{name.replace(' ', '-')}.json.gz").write_bytes(recording.trace)
        write_json(self._folder / "timeline.json", chrome_trace(self._records))

    def report(self) -> None:
        """Print the table, if anything was recorded."""
        if not self._recorded:
            return
        console = Console()
        console.print(profile_table(self._records))
        console.print(f"timeline: {self._folder / 'timeline.json'} (ui.perfetto.dev opens it)", soft_wrap=True)

    @property
    def _records(self) -> list[StepRecord]:
        return [self._recorded[step] for step in sorted(self._recorded)]

    def _offsets(self, recordings: dict[str, Recording]) -> dict[str, Offset]:
        """Each clock's that a worker still answers for, by pings of the first one that reads it."""
        offsets = {BOOT_ID.read_text().strip(): SAME_CLOCK}
        for name, recording in recordings.items():
            if recording.clock in offsets:
                continue
            with suppress(*GONE):
                offsets[recording.clock] = measure_offset(partial(_clock_of, self._handles[name]), time.time_ns)
        return offsets


def _clock_of(worker: Any) -> int:
    return ray.get(worker.now.remote(), timeout=PING_S)


def _shifted(calls: Sequence[Span], offset: Offset) -> tuple[Span, ...]:
    return tuple(Span(call.name, call.start + offset.shift, call.end + offset.shift) for call in calls)


def _ask(asked: dict[str, ray.ObjectRef]) -> dict[str, Any]:
    """The answers of the workers that give one."""
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_S)
    answers = {}
    for name, ref in asked.items():
        with suppress(*GONE):
            answers[name] = ray.get(ref, timeout=0)
    return answers
