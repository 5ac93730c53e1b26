"""In a worker: when each of its calls began and ended, and on demand every operator that ran in them."""

from __future__ import annotations

import functools
import inspect
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrl.timer import Span

if TYPE_CHECKING:
    from torch.profiler import profile

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Recording:
    """What one worker did: names and times, never what a call was given or what it answered."""

    clock: str  # workers with the same one read the same clock
    calls: tuple[Span, ...]  # by that clock, in the order of their ends
    trace: bytes  # Chrome trace, gzip; empty without operators


class Recorded:
    """Base of workers: between `start_recording` and `stop_recording` the calls of their public methods are timed.

    At other times a call costs one look at an attribute more.
    """

    _calls: list[Span] | None = None  # None: nothing is recorded
    _operators: profile | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, method in list(vars(cls).items()):
            if inspect.isfunction(method) and not name.startswith("_"):
                setattr(cls, name, _recorded(method))

    def start_recording(self, operators: bool) -> None:
        """Begin anew. `operators`: by torch.profiler too, on the CPU and the accelerator; this slows the worker."""
        if self._operators:  # of a step that broke off
            self._operators.stop()
        self._calls, self._operators = [], None
        if operators:
            from torch.profiler import profile  # not at the top: a worker sets its threads before it imports torch

            self._operators = profile()  # without shapes and stacks, which are large
            self._operators.start()

    def stop_recording(self) -> Recording:
        """What happened since `start_recording`."""
        calls, self._calls = self._calls or [], None
        operators, self._operators = self._operators, None
        return Recording(BOOT_ID.read_text().strip(), tuple(calls), _chrome_trace(operators) if operators else b"")

    def now(self) -> int:
        """This worker's clock, in nanoseconds since 1970."""
        return time.time_ns()


def _recorded(method: Callable) -> Callable:
    @functools.wraps(method)
    def call(self: Recorded, *args: Any, **kwargs: Any) -> Any:
        if self._calls is None:
            return method(self, *args, **kwargs)
        start = time.time_ns()
        try:
            with _named(method.__name__) if self._operators else nullcontext():
                return method(self, *args, **kwargs)
        finally:
            self._calls.append(Span(method.__name__, start, time.time_ns()))

    return call


def _named(name: str) -> Any:
    from torch.profiler import record_function

    return record_function(name)


def _chrome_trace(operators: profile) -> bytes:
    operators.stop()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json.gz"
        operators.export_chrome_trace(str(path))
        return path.read_bytes()
