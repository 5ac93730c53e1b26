"""What Ray's workers do and hold while a run goes on, seen from outside: their titles, and Linux' /proc."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import psutil

# Looking takes time from what is measured: so about 1.5 % of one core.
LOOK_S = 0.05  # between two looks at the titles
LIST_S = 2.0  # between two looks for new workers, and at their memory
TITLE = re.compile(r"ray::(\w+)Worker(\.\w+)?$")  # "ray::PolicyWorker", or at work "ray::PolicyWorker.update"
PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


@dataclass
class Watched:
    """What was seen so far."""

    looks: list[tuple[float, bool]] = field(default_factory=list)  # seconds since 1970; whether any worker was at work
    peak_bytes: dict[str, int] = field(default_factory=dict)  # role → the largest resident set that a worker ever had

    def busy(self, start: float, end: float) -> float:
        """Seconds of start … end in which at least one worker was at work. A look holds until the next."""
        spans = [(max(begun, start), min(over, end)) for (begun, at_work), (over, _) in pairwise(self.looks) if at_work]
        return sum(max(0.0, over - begun) for begun, over in spans)


@contextmanager
def watch(process: int) -> Iterator[Watched]:
    """Look at all workers below the process with this id while the block runs."""
    seen, done = Watched(), threading.Event()

    def look() -> None:
        workers: dict[int, str] = {}
        listed = 0.0
        while not done.wait(LOOK_S):
            if time.monotonic() - listed > LIST_S:
                workers, listed = _workers(process), time.monotonic()
                for pid, role in workers.items():
                    seen.peak_bytes[role] = max(seen.peak_bytes.get(role, 0), _peak(pid))
            titles = [TITLE.match(_title(pid)) for pid in workers]
            seen.looks.append((time.time(), any(title and title[2] for title in titles)))

    thread = threading.Thread(target=look, name="watch", daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def _workers(process: int) -> dict[int, str]:
    """Process id → role."""
    try:
        below = psutil.Process(process).children(recursive=True)
    except psutil.NoSuchProcess:
        return {}
    titles = {child.pid: TITLE.match(_title(child.pid)) for child in below}
    return {pid: title[1].lower() for pid, title in titles.items() if title}


def _title(pid: int) -> str:
    return _read(pid, "cmdline").partition("\0")[0]


def _peak(pid: int) -> int:
    found = PEAK.search(_read(pid, "status"))
    return 1024 * int(found[1]) if found else 0


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it has ended
