"""PPO as a process whose disk fills up: the run ends and says why, and costs no checkpoint."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from medrl import checkpoint
from tests.integration.test_ppo_process import WAIT_SECONDS, start, wait_for, write_config
from tests.runs import rows

pytestmark = pytest.mark.ray


@pytest.fixture
def small_disk(tiny_run: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    disk = tiny_run / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all the room that is left."""
    with open(disk / "filler", "wb", buffering=0) as file, pytest.raises(OSError) as caught:
        while True:
            file.write(bytes(1 << 16))
    assert caught.value.errno == errno.ENOSPC
    return disk / "filler"


def test_a_disk_that_fills_up_ends_the_run_and_costs_no_checkpoint(tiny_run: Path, small_disk: Path) -> None:
    config, run = write_config(tiny_run, "full-disk", rollout={"engine": "hf"}), tiny_run / "runs/full-disk"
    process = start(config, "checkpoint.every=1")
    wait_for((run / "versions.json").exists, process)
    (run / "checkpoints").symlink_to(small_disk)
    wait_for((small_disk / "step-000001").is_dir, process)
    filler = fill(small_disk)
    output, _ = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 3 and "cannot save the checkpoint" in output and "the disk is full" in output, output
    found = checkpoint.latest(small_disk)
    assert found and found[0] < 6
    filler.unlink()
    resumed = start(config, "checkpoint.every=1", "--resume")
    output, _ = resumed.communicate(timeout=WAIT_SECONDS)
    assert resumed.returncode == 0 and f"continuing after step {found[0]} from" in output, output
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 4, 5, 6]
