"""What becomes of memory that a process frees."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """From now on glibc keeps what is freed for the next tensors (mallopt(3)).

    As it is, it hands large blocks back to the kernel, which gives them out again page by page and cleared: for the
    same activations in every micro-batch.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)  # never


def give_back_freed_memory() -> None:
    """Whole free pages to the kernel at once (malloc_trim(3)), for other workers of the machine."""
    ctypes.CDLL(None).malloc_trim(0)
