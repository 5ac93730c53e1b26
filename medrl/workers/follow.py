"""The driver follows the metrics.jsonl that a training worker writes, and hands its rows on to the run's trackers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medrl.tracking.base import Tracker, open_tracker
from medrl.tracking.jsonl import drop_later_steps


@contextmanager
def following(names: Sequence[str], metrics: Path, resume_step: int | None) -> Iterator[Callable[[], None]]:
    """A function that hands on what is new in `metrics`. The trackers `names` (jsonl: the file itself) are open inside
    the block; with `resume_step` they go on after that step."""
    if resume_step is not None and metrics.exists():
        drop_later_steps(metrics, resume_step)  # of the run that broke off
    others = [name for name in names if name != "jsonl"]
    with open_tracker(others, metrics.parent, resume_step=resume_step) as tracker:
        yield Follower(metrics, tracker, -1 if resume_step is None else resume_step).read


class Follower:
    """Each row of a growing metrics.jsonl is handed on once, even if workers that start again write it again."""

    def __init__(self, metrics: Path, tracker: Tracker, last: int = -1) -> None:
        self.metrics, self.tracker = metrics, tracker
        self.position, self.file = 0, 0  # where reading stopped, in which file
        self.last = last  # the last step that was handed on

    def read(self) -> None:
        if not self.metrics.exists():
            return
        with self.metrics.open("rb") as file:
            if (number := os.fstat(file.fileno()).st_ino) != self.file:  # rewritten by workers that started again
                self.file, self.position = number, 0
            file.seek(self.position)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # still being written
                self.position += len(line)
                row = json.loads(line)
                if row["step"] > self.last:
                    self.last, skipped = row["step"], ("step", "wall_time")
                    self.tracker.log(self.last, {k: v for k, v in row.items() if k not in skipped and v is not None})
