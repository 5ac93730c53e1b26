"""Run as a program: saves a second checkpoint again and again, each time killed one system call later.

`python -m tests.unit.killed_saves ROOT` leaves ROOT/0, ROOT/1, …: runs whose save of step 2 was cut off by SIGKILL
after that many file operations, and prints how many there are. The last one is not killed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from medrl import checkpoint
from tests.unit.killing import kill_everywhere


def write(step: int):
    def write_files(folder: Path) -> None:
        (folder / "policy").mkdir()
        for name in ("policy/weights", "policy/optimizer", "rng"):
            with open(folder / name, "wb") as file:
                for part in range(3):
                    file.write(bytes([step]) * 100_000)
                    file.flush()
                    sys.audit("killing.wrote", part)

    return write_files


def save(root: Path, step: int) -> None:
    checkpoint.save(root, step, write(step), keep_last=1, meta={"step": step})


if __name__ == "__main__":
    print(kill_everywhere(Path(sys.argv[1]), lambda root: save(root, 1), lambda root: save(root, 2)))
