"""How much memory a process tree takes at its peak."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

SECONDS_BETWEEN_LOOKS = 10.0  # a look walks the page tables of every process, which takes most of a second


@dataclass
class PeakMemory:
    """The highest sum seen so far, in bytes."""

    bytes: int = 0

    @property
    def gib(self) -> float:
        return self.bytes / 2**30


def tree_memory() -> int:
    """Bytes of this process and all below it; pages that several share count once (PSS)."""
    total = 0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended between the listing and the look
    return total


@contextmanager
def watch_memory() -> Iterator[PeakMemory]:
    """Look every few seconds while the block runs."""
    peak, done = PeakMemory(), threading.Event()

    def look() -> None:
        while not done.wait(SECONDS_BETWEEN_LOOKS):
            peak.bytes = max(peak.bytes, tree_memory())

    thread = threading.Thread(target=look, name="memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
