"""The control's scorer: the reward model's own scores, each given to another answer of the batch."""

from __future__ import annotations

import os
from functools import cache
from hashlib import sha256

import numpy as np

from medrl.config.rewards import RewardPoolConfig, RewardSource
from medrl.models.export import load_calibration
from medrl.types import ScoreRequest

REWARD_DIR = "CLOSED_FORM_REWARD_DIR"  # environment variable: a reward function gets no settings


def score(messages: list, answers: list[str]) -> list[float]:
    """Calibrated scores, shuffled among prompts: as many good ones as ever, and nothing to learn from them."""
    source, mean, std = _source()
    requests = [ScoreRequest(tuple(m), answer, ended=True) for m, answer in zip(messages, answers, strict=True)]
    scores = (source(requests) - mean) / std
    seed = int.from_bytes(sha256("\n".join(answers).encode()).digest()[:8], "big")
    return np.random.default_rng(seed).permutation(scores).tolist()


@cache
def _source():
    from medrl.workers.scorers import make_scorer

    path = os.environ[REWARD_DIR]
    source = RewardSource(name="reward", model=path)
    mean, std = load_calibration(path) or (0.0, 1.0)
    return make_scorer(source, RewardPoolConfig(sources=[source])), mean, std
