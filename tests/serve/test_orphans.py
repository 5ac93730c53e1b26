"""A spawned process ends with the one that spawned it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PARENT = """
import multiprocessing, time
from serve.orphans import end_with_parent

def child(watch):
    if watch:
        end_with_parent()
    print("ready", multiprocessing.current_process().pid, flush=True)
    time.sleep(30)

if __name__ == "__main__":
    end_with_parent()  # nobody has spawned this one
    context = multiprocessing.get_context("spawn")
    for watch in (True, False):
        context.Process(target=child, args=(watch,)).start()
    time.sleep(30)
"""


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_killed_parent_takes_its_child_along(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout
    children = {int(parent.stdout.readline().split()[1]) for _ in range(2)}
    parent.kill()
    parent.wait()
    limit = time.monotonic() + 20
    while not any(map(_gone, children)):
        assert time.monotonic() < limit
        time.sleep(0.05)
    time.sleep(0.5)
    left = {pid for pid in children if not _gone(pid)}
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(left) == 1  # the one that does not watch is still there
