"""Worker processes of a local Ray, found by their titles and brought to grief."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


def workers(title: str) -> list[psutil.Process]:
    """Those whose title begins so: "ray::RolloutWorker" or, while it generates, "ray::RolloutWorker.generate"."""
    return [process for process in psutil.process_iter() if _title(process).startswith(title)]


def _title(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""


@contextmanager
def struck(
    kind: str, method: str, signum: signal.Signals = signal.SIGKILL, seconds: float = 60.0
) -> Iterator[list[int]]:
    """In this block one worker of the kind gets the signal while it runs `method`; yields the list of those hit."""
    hit: list[int] = []
    over, found = threading.Event(), workers(f"ray::{kind}")
    assert found

    def watch() -> None:
        until = time.monotonic() + seconds
        while not hit and not over.is_set() and time.monotonic() < until:
            for process in found:
                if _title(process) == f"ray::{kind}.{method}":
                    process.send_signal(signum)
                    hit.append(process.pid)
                    return
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield hit
    finally:
        over.set()
        thread.join()
