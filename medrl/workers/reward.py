"""The pool of stateless scoring workers."""

from __future__ import annotations

import numpy as np
import ray

from medrl.config.common import ModelConfig
from medrl.config.evaluate import EvaluateConfig
from medrl.config.ppo import PpoConfig
from medrl.config.rewards import RewardPoolConfig
from medrl.data.chat import check_tokenizer
from medrl.models.export import load_calibration
from medrl.models.loading import check_model_dir, load_tokenizer
from medrl.types import ScoreRequest, Scores
from medrl.workers.function_scorer import load_function
from medrl.workers.group import Pending, WorkerGroup
from medrl.workers.runtime import prepare_worker, split_evenly


@ray.remote
class RewardWorker:
    """Holds every reward source of the run."""

    def __init__(self, config: PpoConfig | EvaluateConfig, threads: int) -> None:
        prepare_worker(threads, seed=config.seed)
        self.config = config

    def start(self) -> None:
        from medrl.workers.scorers import make_scorer

        pool = pool_config(self.config)
        self.scorers = {source.name: make_scorer(source, pool) for source in pool.sources}

    def score(self, requests: list[ScoreRequest]) -> dict[str, np.ndarray]:
        return {name: scorer(requests) for name, scorer in self.scorers.items()}


class RewardPool(WorkerGroup):
    """Answers are shared out evenly; scores come back in order."""

    def __init__(
        self, handles: list, placement, config: PpoConfig | EvaluateConfig, calibrations: dict[str, tuple[float, float]]
    ) -> None:
        super().__init__("reward", handles, placement)
        self.timeouts = config.timeouts
        self.weights = {source.name: source.weight for source in pool_config(config).sources}
        self.calibrations = calibrations

    def start(self) -> Pending[None]:
        return self.pending([h.start.remote() for h in self.handles], "start", self.timeouts.start)

    def score(self, requests: list[ScoreRequest]) -> Pending[Scores]:
        """[B] weighted sums of the sources' calibrated scores, and each source's own raw ones."""
        slices = [s for s in split_evenly(len(requests), len(self.handles)) if s.stop > s.start]
        refs = [h.score.remote(requests[s]) for h, s in zip(self.handles, slices, strict=False)]
        return self.pending(
            refs, "scoring", self.timeouts.score, lambda results: combine(results, self.weights, self.calibrations)
        )


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


def combine(
    results: list[dict[str, np.ndarray]], weights: dict[str, float], calibrations: dict[str, tuple[float, float]]
) -> Scores:
    """Σ weight · (raw − mean) / std over the sources, [B] float32; a source without calibration has mean 0 and std 1.

    `results`: source → raw scores, one dict for each worker's share of the answers, in order.
    """
    parts = {name: np.concatenate([result[name] for result in results]) for name in weights}
    total = np.zeros_like(next(iter(parts.values())))
    for name, weight in weights.items():
        mean, std = calibrations.get(name, (0.0, 1.0))
        total += np.float32(weight) * (parts[name] - np.float32(mean)) / np.float32(std)
    return Scores(total, parts)
