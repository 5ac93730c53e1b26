"""What happened to the workers of a run: a line of JSON each in events.jsonl, and a line on the console."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path


class EventLog:
    """Events of one run, on disk as soon as they are told. The file only grows: it is the history of all attempts."""

    def __init__(self, path: Path, report: Callable[[str], None] = print) -> None:
        self.step = 0  # the step the run is at, part of every event
        self._path = path
        self._report = report

    def record(self, event: str, **facts: str | int | float | None) -> None:
        """`event` is one of those in docs/cluster.md; `facts` that are None are left out. Never a prompt's text."""
        known = {name: fact for name, fact in facts.items() if fact is not None}
        row = {"time": round(time.time(), 3), "step": self.step, "event": event} | known
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        words = ", ".join(f"{name} {fact}" for name, fact in known.items())
        self._report(f"step {self.step}: {event.replace('_', ' ')}" + (f" ({words})" if words else ""))
