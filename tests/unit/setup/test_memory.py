"""Memory that is freed, in processes of their own: what the kernel says they hold."""

from __future__ import annotations

import subprocess
import sys

import pytest

SIZE, TIMES = 64 << 20, 20
SCRIPT = f"""
import ctypes, resource, sys
from medrl.setup.memory import give_back_freed_memory, keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def held():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def use():
    block = libc.malloc({SIZE})
    ctypes.memset(block, 1, {SIZE})
    libc.free(block)

if sys.argv[1] == "keep":
    keep_freed_memory()
start, faults = held(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({TIMES}):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults, held() - start)
give_back_freed_memory()
print(held() - start)
"""


@pytest.mark.parametrize("keep", [True, False])
def test_blocks_come_again_without_the_kernel_until_they_are_given_back(keep):
    command = [sys.executable, "-c", SCRIPT, "keep" if keep else "as it is"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    faults, held, given_back = map(int, done.stdout.split())
    pages = SIZE // 4096
    assert (faults < 2 * pages) == keep and (held > SIZE / 2) == keep
    assert given_back < SIZE / 2
