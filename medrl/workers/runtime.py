"""What every worker process does first, and how row-split results come together."""

from __future__ import annotations

import os

import numpy as np

from medrl.setup.choices import KEEPS, choose_allocator, choose_spins
from medrl.setup.machine import this_machine
from medrl.setup.memory import keep_freed_memory


def prepare_worker(threads: int, seed: int) -> None:
    """Threads, allocator and seeds of this process. Must run before torch is imported: OpenMP reads its variable only
    once."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["GOMP_SPINCOUNT"] = choose_spins(os.environ).value
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    prepare_memory()


def prepare_memory() -> None:
    """The allocator that is chosen for a worker like this process."""
    if choose_allocator(os.environ, this_machine()).value == KEEPS:
        keep_freed_memory()


def stack_rows(parts: list[np.ndarray]) -> np.ndarray:
    """Consecutive rows [b, t] as one array [B, T]; each part may be trimmed to its own width."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts])


def in_row_order(parts: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(Numbers of rows, their values [b, t] or [b]) of all ranks as one array [B, T] or [B]; widths may differ."""
    numbers, values = ([part[i] for part in parts] for i in (0, 1))
    stacked = np.concatenate(values) if values[0].ndim == 1 else stack_rows(values)
    return stacked[np.argsort(np.concatenate(numbers))]


def split_evenly(n: int, parts: int) -> list[slice]:
    """Consecutive slices of 0 … n-1, their sizes differing by at most one."""
    edges = [n * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
