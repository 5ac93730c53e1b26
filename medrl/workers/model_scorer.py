"""A reward model in this process as a scorer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medrl.config.rewards import RewardPoolConfig, RewardSource
from medrl.types import ScoreRequest


def model_scorer(source: RewardSource, pool: RewardPoolConfig) -> Callable[[list[ScoreRequest]], np.ndarray]:
    """Raw scores: the pool calibrates."""
    from medrl.models.reward_model import RewardModel  # torch: in the workers only

    assert source.model is not None
    model = RewardModel(
        source.model, source.dtype, name=f"reward source {source.name!r}", max_length=pool.max_length,
        micro_batch_size=pool.micro_batch_size,
    )
    return model.score
