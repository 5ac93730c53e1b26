"""Where the metrics of a run go. A caller never needs to know how many trackers listen, or which."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from medrl.errors import ConfigError
from medrl.tracking.console import ConsoleTracker
from medrl.tracking.jsonl import JsonlTracker
from medrl.tracking.lines import LineTracker
from medrl.tracking.tensorboard import TensorBoardTracker


class Tracker(Protocol):
    """One destination of metrics (keys: docs/metrics.md). A value may be NaN where a metric is undefined."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of one finished step. Each step is logged once, in rising order."""
        ...

    def log_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Answers of one step, plain JSON values. A tracker that has no place for text ignores them."""
        ...

    def close(self) -> None:
        """Everything logged is on disk afterwards. May be called twice."""
        ...


@dataclass(frozen=True)
class RunInfo:
    """What a tracker may want to know about the run."""

    run_dir: Path
    total_steps: int | None  # None: each row says it (`steps`)
    resume_step: int | None  # the run continues after this step; None: it starts from nothing


def _mlflow(run: RunInfo) -> Tracker:
    from medrl.tracking.mlflow import MlflowTracker

    return MlflowTracker(run.run_dir, run.resume_step)


def _console(run: RunInfo) -> Tracker:
    if run.total_steps is None:
        return LineTracker(run.run_dir.name)
    return ConsoleTracker(run.total_steps, run.resume_step)


# Choose from these by `tracking: [...]` in a config.
TRACKERS: dict[str, Callable[[RunInfo], Tracker]] = {
    "console": _console,
    "jsonl": lambda run: JsonlTracker(run.run_dir, run.resume_step),
    "tensorboard": lambda run: TensorBoardTracker(run.run_dir, run.resume_step),
    "mlflow": _mlflow,
}


def check_trackers(names: Sequence[str]) -> None:
    """ConfigError when one of them needs a package that is not installed."""
    if "mlflow" in names and find_spec("mlflow") is None:
        raise ConfigError("tracking: mlflow is not installed", remedy="pip install 'medrl[mlflow]', or leave it out")


class Trackers:
    """Several trackers as one."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, metrics)

    def log_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        for tracker in self._trackers:
            tracker.log_samples(step, rows)

    def close(self) -> None:
        with ExitStack() as stack:  # every one is closed, even if an earlier one fails
            for tracker in self._trackers:
                stack.callback(tracker.close)


@contextmanager
def open_tracker(
    names: Sequence[str], run_dir: str | Path, total_steps: int | None = None, resume_step: int | None = None
) -> Iterator[Tracker]:
    """The trackers `names`, open inside the block.

    With `resume_step`, whatever an earlier process logged after that step is dropped: a resumed run leaves no step
    twice. Raises MedrlError when the files of an earlier run cannot be read or continued.
    """
    run = RunInfo(Path(run_dir), total_steps, resume_step)
    run.run_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        opened: list[Tracker] = []
        for name in names:
            tracker = TRACKERS[name](run)
            stack.callback(tracker.close)
            opened.append(tracker)
        yield Trackers(opened)
