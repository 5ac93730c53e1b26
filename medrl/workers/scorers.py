"""Scorers: a reward model, a Python function or a remote scorer, one float an answer. A scorer that fails raises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medrl.config.rewards import RewardPoolConfig, RewardSource
from medrl.types import ScoreRequest
from medrl.workers.function_scorer import function_scorer
from medrl.workers.http_scorer import http_scorer
from medrl.workers.model_scorer import model_scorer
from medrl.workers.score_checks import checked_scores

Scorer = Callable[[list[ScoreRequest]], np.ndarray]  # → [n] float32

SCORERS: dict[str, Callable[[RewardSource, RewardPoolConfig], Callable]] = {
    "model": model_scorer,
    "function": function_scorer,
    "url": http_scorer,
}


def make_scorer(source: RewardSource, pool: RewardPoolConfig) -> Scorer:
    """The scorer of one reward source: one finite number an answer, or RewardError."""
    score = SCORERS[source.kind](source, pool)
    return lambda requests: checked_scores(source.name, score(requests), len(requests))
