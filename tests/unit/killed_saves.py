"""Run as a program: saves a second checkpoint again and again, each time killed one system call later.

`python killed_saves.py ROOT` leaves ROOT/0, ROOT/1, …: runs whose save of step 2 was cut off by SIGKILL after that
many file operations, and prints how many there are. The last one is not killed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from medrl import checkpoint

# What changes the file system, as Python's audit events; `open` counts when it is for writing.
CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "killed_saves.wrote")


def write(step: int):
    def write_files(folder: Path) -> None:
        (folder / "policy").mkdir()
        for name in ("policy/weights", "policy/optimizer", "rng"):
            with open(folder / name, "wb") as file:
                for part in range(3):
                    file.write(bytes([step]) * 100_000)
                    file.flush()
                    sys.audit("killed_saves.wrote", part)

    return write_files


def save(root: Path, step: int) -> None:
    checkpoint.save(root, step, write(step), keep_last=1, meta={"step": step})


def save_until_killed(root: Path, allowed: int) -> None:
    seen = 0

    def count(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event in CHANGES:
            seen += 1
            if seen > allowed:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    save(root, 2)


def main(base: Path) -> None:
    allowed, killed = 0, True
    while killed:
        root = base / str(allowed)
        save(root, 1)
        child = os.fork()
        if child == 0:
            save_until_killed(root, allowed)
            os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        allowed += 1
    print(allowed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
