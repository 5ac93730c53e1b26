"""The pool of stateless scoring workers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import ray

from medrl.config.common import ModelConfig
from medrl.config.evaluate import EvaluateConfig
from medrl.config.ppo import PpoConfig
from medrl.config.rewards import RewardPoolConfig
from medrl.data.chat import check_tokenizer
from medrl.faults.budget import FaultBudget
from medrl.faults.pool import Limits
from medrl.models.export import load_calibration
from medrl.models.loading import check_model_dir, load_tokenizer
from medrl.types import ScoreRequest, Scores
from medrl.workers.capacity import RolePlan
from medrl.workers.function_scorer import load_function
from medrl.workers.pool import Call, Pool, PoolWorker
from medrl.workers.runtime import prepare_worker


@ray.remote
class RewardWorker(PoolWorker):
    """Holds every reward source of the run."""

    def __init__(self, config: PpoConfig | EvaluateConfig, threads: int) -> None:
        prepare_worker(threads, seed=config.seed)
        self.config = config

    def start(self) -> None:
        from medrl.workers.scorers import make_scorer

        pool = pool_config(self.config)
        self.scorers = {source.name: make_scorer(source, pool) for source in pool.sources}

    def score(self, requests: list[ScoreRequest]) -> np.ndarray:
        """[b, sources] float32 raw scores."""
        return np.stack([scorer(requests) for scorer in self.scorers.values()], axis=1)


class RewardPool(Pool):
    """Answers are shared out evenly; scores come back in order."""

    def __init__(
        self, plan: RolePlan, config: PpoConfig | EvaluateConfig, calibrations: dict[str, tuple[float, float]],
        threads: int, budget: FaultBudget, make_room: Callable[[], None] = lambda: None,
    ) -> None:
        limits = Limits(config.timeouts.start, config.timeouts.sync, config.timeouts.score)
        super().__init__(plan, RewardWorker, (config, threads), limits, budget, make_room=make_room)
        self.weights = {source.name: source.weight for source in pool_config(config).sources}
        self.calibrations = calibrations

    def score(self, requests: list[ScoreRequest]) -> Call[Scores]:
        """[B] weighted sums of the sources' calibrated scores, and each source's own raw ones."""
        return self.submit(
            [1.0] * len(requests), lambda worker, items: worker.score.remote([requests[i] for i in items]),
            lambda rows: combine(np.stack(rows), self.weights, self.calibrations))


def pool_config(config: PpoConfig | EvaluateConfig) -> RewardPoolConfig:
    """The section of a run that has scorers."""
    assert config.reward is not None
    return config.reward


def check_sources(config: RewardPoolConfig, *, calibrate: bool) -> dict[str, tuple[float, float]]:
    """Check, in the driver, that every source can be used; name → (mean, deviation) of those with a calibration.

    Raises ModelError or ConfigError.
    """
    calibrations = {}
    for source in config.sources:
        if source.function:
            load_function(source)
        if source.model:
            check_model_dir(source.model)
            check_tokenizer(load_tokenizer(ModelConfig(path=source.model)))
            if calibrate and (calibration := load_calibration(source.model)):
                calibrations[source.name] = calibration
    return calibrations


def combine(raw: np.ndarray, weights: dict[str, float], calibrations: dict[str, tuple[float, float]]) -> Scores:
    """Σ weight · (raw − mean) / std over the sources, [B] float32; a source without calibration has mean 0 and std 1.

    `raw` [B, sources]: in the order of `weights`.
    """
    parts = dict(zip(weights, raw.T, strict=True))
    total = np.zeros(len(raw), np.float32)
    for name, weight in weights.items():
        mean, std = calibrations.get(name, (0.0, 1.0))
        total += np.float32(weight) * (parts[name] - np.float32(mean)) / np.float32(std)
    return Scores(total, parts)
