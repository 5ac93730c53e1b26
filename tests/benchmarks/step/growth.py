"""How seconds grow with a size: t ∝ size^exponent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

SAMPLES, SEED = 2000, 0
LEVEL = 0.95


@dataclass(frozen=True)
class Growth:
    """An exponent and the interval it would fall into had other steps been measured."""

    exponent: float
    low: float
    high: float


def growth(seconds: Mapping[int, Sequence[float]]) -> Growth:
    """The slope of log(median seconds of a step) over log(size), by least squares. `seconds`: of each step, by size.

    The interval is the percentile bootstrap (Efron 1979) over the steps of each size. It knows the spread of the steps,
    not whether the points lie on a line.
    """
    rng, sizes = np.random.default_rng(SEED), list(seconds)
    drawn = np.stack([
        np.median(rng.choice(np.asarray(steps), (SAMPLES, len(steps))), axis=1) for steps in seconds.values()])
    low, high = np.quantile(_slope(sizes, drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    medians = np.array([[median(steps)] for steps in seconds.values()])
    return Growth(float(_slope(sizes, medians)[0]), float(low), float(high))


def _slope(sizes: Sequence[int], seconds: np.ndarray) -> np.ndarray:
    """[n] slopes of `seconds` [sizes, n]."""
    x, y = np.log(np.asarray(sizes, dtype=np.float64)), np.log(seconds)
    x = x - x.mean()
    return x @ y / (x @ x)
