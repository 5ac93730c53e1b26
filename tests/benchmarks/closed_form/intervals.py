"""95 % intervals of means over few seeds, by Student's t."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, variance

import numpy as np


@dataclass(frozen=True)
class Estimate:
    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def mean_interval(values: list[float]) -> Estimate:
    """Of the mean of at least two values."""
    return _around(fmean(values), variance(values) / len(values), len(values) - 1)


def difference_interval(a: list[float], b: list[float]) -> Estimate:
    """Of mean(a) − mean(b), at least two values each, spreads not taken for equal (Welch 1947)."""
    parts = [(variance(values) / len(values), len(values) - 1) for values in (a, b)]
    total = sum(part for part, _ in parts)
    freedom = total**2 / sum(part**2 / n for part, n in parts) if total else 1.0
    return _around(fmean(a) - fmean(b), total, freedom)


def t_quantile(freedom: float, share: float = 0.975) -> float:
    """Of Student's t with ≥ 1 degrees of freedom: under the substitution t = √ν·tan u its density is cos^(ν−1) u."""
    edges = np.linspace(-math.pi / 2, math.pi / 2, 20_001)
    density = np.cos((edges[:-1] + edges[1:]) / 2) ** (freedom - 1)
    below = np.concatenate(([0.0], np.cumsum(density)))
    return math.sqrt(freedom) * math.tan(np.interp(share * below[-1], below, edges))


def _around(mean: float, squared_error: float, freedom: float) -> Estimate:
    half = t_quantile(freedom) * math.sqrt(squared_error)
    return Estimate(mean, mean - half, mean + half)
