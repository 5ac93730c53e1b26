"""How many cores this process may use: what its set-up starts from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def usable_cores(root: Path = Path("/"), cpus: Iterable[int] | None = None) -> int:
    """Physical cores among the logical CPUs that this process may run on, at most what its container may use.

    The threads of matrix products share the arithmetic units of a core, so a second one on it adds nothing: PyTorch
    and vLLM count alike. `os.cpu_count()` knows neither the affinity nor the quota. `root`, `cpus`: of another machine,
    for tests.
    """
    allowed = sorted(os.sched_getaffinity(0) if cpus is None else cpus)
    siblings = {_read(root / f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list") or str(n) for n in allowed}
    return max(1, min(len(siblings), _quota(root / "sys/fs/cgroup") or len(siblings)))


def _quota(cgroup: Path) -> int:
    """Whole CPUs that the container may use, of version 2 or version 1 of control groups; 0 without a limit."""
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    if not period:
        quota, period = (_read(cgroup / f"cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
    if not (quota.isdigit() and period.isdigit()):  # "max" and "-1" are no limit
        return 0
    return max(1, int(quota) // int(period))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return ""
