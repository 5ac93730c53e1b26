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


def rank_shares(lengths: np.ndarray, world: int) -> list[np.ndarray]:
    """Rows 0 … n − 1 dealt to the ranks by their tokens: the longest first, each to who has fewest.

    The ranks' tokens differ by no more than the longest row, and no rank is left without rows while there are enough
    (Graham 1969, longest processing time first).
    """
    shares: list[list[int]] = [[] for _ in range(world)]
    tokens = np.zeros(world, dtype=np.int64)
    for row in np.argsort(-lengths, kind="stable").tolist():
        rank = int(tokens.argmin())
        shares[rank].append(row)
        tokens[rank] += lengths[row]
    return [np.array(share, dtype=np.int64) for share in shares]


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
