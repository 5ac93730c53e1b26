"""A number over the rows of a set, with the interval it would fall into had other rows been drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A metric's value over `n` rows; `low` and `high` are None where there is no interval."""

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Bootstrap:
    """The percentile bootstrap over rows (Efron 1979): `samples` sets of as many rows, drawn with replacement.

    The interval says how much the choice of rows matters, and nothing about what the rows are like. It is the same
    for the same seed.
    """

    samples: int
    seed: int

    def mean(self, values: Sequence[float] | np.ndarray) -> Estimate:
        """The mean of `values` [n]."""
        parts = np.asarray(values, dtype=np.float64)[:, None]
        return self.of_sums(parts, lambda sums: float(sums[0]) / len(parts))

    def of_sums(self, parts: Sequence[Sequence[float]] | np.ndarray, number: Callable[[np.ndarray], float]) -> Estimate:
        """`number` of the column sums [k] of `parts` [n, k], what each row contributes."""
        parts = np.asarray(parts, dtype=np.float64)
        n, value = len(parts), number(parts.sum(0))
        if n < 2:
            return Estimate(value, None, None, n)
        rng = np.random.default_rng(self.seed)
        drawn = (np.bincount(rng.integers(0, n, n), minlength=n) @ parts for _ in range(self.samples))
        low, high = np.quantile([number(sums) for sums in drawn], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(value, float(low), float(high), n)
