"""Cores that may be used, on made-up machines: files as the kernel writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrl.setup.cores import usable_cores


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


def machine(root: Path, siblings: list[str]) -> Path:
    """A machine whose logical CPU number i shares its core with those that the kernel lists as `siblings[i]`."""
    for number, text in enumerate(siblings):
        write(root / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list", text)
    return root


LAPTOP = ["0,4", "1,5", "2,6", "3,7"] * 2  # four cores, two threads each


def test_two_threads_of_a_core_count_once(tmp_path):
    root = machine(tmp_path, LAPTOP)
    assert usable_cores(root, range(8)) == 4
    assert usable_cores(root, [0, 4]) == 1 and usable_cores(root, [0, 1, 4]) == 2


def test_a_machine_that_says_nothing_of_its_cores_has_one_for_each_cpu(tmp_path):
    assert usable_cores(tmp_path, range(6)) == 6


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 4), ("300000 100000", 3), ("250000 100000", 2), ("20000 100000", 1), ("900000 100000", 4)],
)
def test_a_container_has_no_more_than_its_quota(tmp_path, limit, expected):
    """Version 2 of control groups: microseconds in each period of so many."""
    write(machine(tmp_path, LAPTOP) / "sys/fs/cgroup/cpu.max", limit)
    assert usable_cores(tmp_path, range(8)) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 4), ("200000", 2)])
def test_a_quota_of_version_1(tmp_path, quota, expected):
    root = machine(tmp_path, LAPTOP)
    write(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota)
    write(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    assert usable_cores(root, range(8)) == expected


@given(allowed=st.sets(st.integers(0, 15), min_size=1), quota=st.integers(1, 3_000_000))
def test_there_is_always_a_core_and_never_more_than_allowed(tmp_path_factory, allowed, quota):
    root = machine(tmp_path_factory.mktemp("node"), [f"{i % 8},{i % 8 + 8}" for i in range(16)])
    write(root / "sys/fs/cgroup/cpu.max", f"{quota} 100000")
    assert usable_cores(root, allowed) == min(len({i % 8 for i in allowed}), max(1, quota // 100_000))


def test_this_process_may_use_no_more_than_its_affinity():
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
