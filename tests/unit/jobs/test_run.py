"""The command a job runs, and its retries."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Stands in for medrl on the cluster: notes its arguments, exits as the next line of `codes` says.
FAKE = """
import os, sys, time
from pathlib import Path
with open("calls", "a") as file:
    print(*sys.argv[1:], file=file)
code, *rest = Path("codes").read_text().split()
Path("codes").write_text(" ".join(rest))
if code == "wait":
    time.sleep(60)
os.kill(os.getpid(), 9) if code == "killed" else sys.exit(int(code))
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A job's folder as it lies on a node: the real package, its command line replaced."""
    root = Path(__file__).parents[3]
    (tmp_path / "medrl").mkdir()
    for name in ("__init__.py", "errors.py", "jobs"):
        os.symlink(root / "medrl" / name, tmp_path / "medrl" / name)
    (tmp_path / "medrl/__main__.py").write_text(FAKE)
    return tmp_path


def start(folder: Path, codes: str, *words: str) -> subprocess.Popen:
    (folder / "codes").write_text(codes)
    python = ".".join(map(str, sys.version_info[:2]))
    command = [sys.executable, "-m", "medrl.jobs.run", "--python", python, *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize(("codes", "retries", "words", "code", "made"), [
    ("0", 2, "ppo c", 0, ["ppo c"]),
    ("3 killed 0", 2, "ppo c", 0, ["ppo c", "ppo c --resume", "ppo c --resume"]),
    ("3 0", 1, "ppo c --resume", 0, ["ppo c --resume"] * 2),
    ("3 0", 1, "pipeline c", 0, ["pipeline c"] * 2),
    ("3 3 0", 1, "ppo c", 3, ["ppo c", "ppo c --resume"]),
    ("killed", 0, "ppo c", 137, ["ppo c"]),
    ("2 0", 3, "ppo c", 2, ["ppo c"]),
])
def test_a_command_that_fails_is_started_again(
    cluster: Path, codes: str, retries: int, words: str, code: int, made: list[str]
) -> None:
    process = start(cluster, codes, "--retries", str(retries), *words.split())
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, calls(cluster)) == (code, made), output


def test_a_job_that_is_stopped_is_not_started_again(cluster: Path) -> None:
    process = start(cluster, "wait 0", "--retries", "3", "ppo", "c")
    deadline = time.monotonic() + 30
    while not (cluster / "calls").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    for pid in (process.pid, *map(int, children)):  # as Ray does it
        os.kill(pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143 and calls(cluster) == ["ppo c"]


def test_another_python_is_refused(cluster: Path) -> None:
    command = [sys.executable, "-m", "medrl.jobs.run", "--python", "3.9", "ppo", "c"]
    done = subprocess.run(command, cwd=cluster, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3 and "Python 3.9, as here" in done.stderr and not (cluster / "calls").exists()
