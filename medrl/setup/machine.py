"""What a worker finds where it runs."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

BF16_SETS = ("amx_bf16", "avx512_bf16")  # of x86, the faster one first; as /proc/cpuinfo names them
MATRIX, REPEATS = 1024, 5


@dataclass(frozen=True)
class Gpu:
    """The accelerator that torch would use. `capability`: CUDA's compute capability; None for other kinds."""

    name: str
    capability: tuple[int, int] | None = None


@dataclass(frozen=True)
class Machine:
    """A node as one of its processes sees it."""

    cpu: str  # name of the model
    sets: tuple[str, ...]  # those of BF16_SETS that the CPU has
    gpu: Gpu | None = None
    glibc: bool = True  # whether the C library is GNU's
    flash_attention: bool = False  # whether transformers accepts the installed flash_attn package


def this_machine() -> Machine:
    """The node of this process."""
    import torch
    from transformers.utils import is_flash_attn_2_available

    name, flags = _cpu(Path("/proc/cpuinfo"))
    gpu = None
    if (device := torch.accelerator.current_accelerator(check_available=True)) is not None:
        cuda = device.type == "cuda" and torch.version.hip is None
        gpu = Gpu(torch.cuda.get_device_name() if cuda else device.type,
                  torch.cuda.get_device_capability() if cuda else None)
    glibc, sets = platform.libc_ver()[0] == "glibc", tuple(s for s in BF16_SETS if s in flags)
    return Machine(name, sets, gpu, glibc, is_flash_attn_2_available())


def _cpu(cpuinfo: Path) -> tuple[str, set[str]]:
    """Name and flags of the first CPU."""
    fields: dict[str, str] = {}
    for line in cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else ():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields.get("model name", "CPU"), set(fields.get("flags", "").split())


def bfloat16_gain(threads: int) -> float:
    """How many times as fast as float32 this process's CPU multiplies square matrices in bfloat16; below 1: slower."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = torch.rand(MATRIX, MATRIX)
        half = whole.bfloat16()
        return _seconds(lambda: whole @ whole) / _seconds(lambda: half @ half)
    finally:
        torch.set_num_threads(before)


def _seconds(work: Callable[[], object]) -> float:
    """Median over some calls, the first one left out."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times[1:])
