"""For programs that are killed one system call later each time."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

# What changes the file system, as Python's audit events; `open` counts when it is for writing.
CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree", "killing.wrote")


def kill_everywhere(base: Path, prepare: Callable[[Path], None], act: Callable[[Path], None]) -> int:
    """base/0, base/1, …: `prepare(folder)`, then `act(folder)` cut off by SIGKILL after that many file operations.

    Returns how many there are; the last one is not killed.
    """
    allowed, killed = 0, True
    while killed:
        folder = base / str(allowed)
        prepare(folder)
        child = os.fork()
        if child == 0:
            _act_until_killed(folder, act, allowed)
            os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        allowed += 1
    return allowed


def _act_until_killed(folder: Path, act: Callable[[Path], None], allowed: int) -> None:
    seen = 0

    def count(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event in CHANGES:
            seen += 1
            if seen > allowed:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    act(folder)
