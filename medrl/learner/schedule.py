"""Which rows go into which mini-batch and onto which rank, and the learning rate. Every rank computes all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np


def minibatch_schedule(n: int, epochs: int, mini_batches: int, seed: int) -> list[list[np.ndarray]]:
    """Row sets [epoch][mini-batch] of a batch of `n` rows: each epoch is a fresh permutation drawn from `seed`.

    The sets of an epoch share out all rows, their sizes differing by at most one.
    """
    rng = np.random.default_rng(seed)
    return [np.array_split(rng.permutation(n), mini_batches) for _ in range(epochs)]


def rank_rows(rows: np.ndarray, rank: int, world: int) -> np.ndarray:
    """The consecutive share of `rows` that belongs to `rank`; shares differ by at most one row."""
    return np.array_split(rows, world)[rank]


def lr_factor(schedule: Literal["linear", "constant"], warmup: int, total: int) -> Callable[[int], float]:
    """Factor of the peak learning rate at optimizer step 0, 1, …: linear warm-up, then linear decay to 0 or none.

    Step 0 already learns (1 / (warmup + 1)), the first step after the warm-up is at the peak, and step `total` would
    be at 0.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if schedule == "constant":
            return 1.0
        return max(0.0, (total - step) / max(1, total - warmup))

    return factor
