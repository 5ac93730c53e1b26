"""A file larger than the memory that is allowed for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

GIB = 2**30
PROGRAM = """
import atexit, re, sys
from medrl.cli import main
peak = re.compile(r"VmHWM:\\s+(\\d+) kB")
atexit.register(lambda: print("peak", int(peak.search(open("/proc/self/status").read())[1]) * 1024))
main(sys.argv[1:])
"""


def medrl(*arguments: str) -> tuple[int, list[str], int]:
    """(exit status, what it printed, most memory it held in bytes)."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=1800)
    *said, last = done.stdout.splitlines()
    return done.returncode, said, int(last.split()[1])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_gigabytes_are_checked_and_converted_in_less_than_one_of_memory(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "感冒了怎么办？" * 20}, {"from": "gpt", "value": "Rest. " * 200}]
    block = (json.dumps({"conversations": turns}, ensure_ascii=False) + "\n").encode() * 2500
    path, blocks = tmp_path / "large.jsonl", -(-2 * GIB // len(block))
    with path.open("wb") as file:
        for _ in range(blocks):
            file.write(block)
        file.write(b'{"conversations": []}\n')
    rows = blocks * 2500
    assert path.stat().st_size > 2 * GIB

    status, said, peak = medrl("data", "check", str(path))
    assert status == 2 and peak < GIB
    assert said == [
        f"{path}:{rows + 1}: `conversations` must be a list of turns that is not empty, got an empty array",
        f"{path}: {rows:,} ShareGPT conversations, 1 bad rows"]

    out = tmp_path / "out.jsonl"
    status, said, peak = medrl("data", "convert", str(path), "--out", str(out), "--on-bad-row", "skip")
    assert status == 0 and said[-1] == f"{out}: {rows:,} rows written" and peak < GIB
    assert out.stat().st_size > 0.9 * path.stat().st_size
    path.unlink()
    out.unlink()
