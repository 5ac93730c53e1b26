"""Policy and critic in one model, a value head on the policy: one pass for both, and one update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from medrl.algo.losses import value_loss, value_stats
from medrl.config.ppo import PpoConfig
from medrl.learner.engine import TrainEngine, precision_of
from medrl.learner.policy import DeepSpeedPolicy
from medrl.learner.update import forward_rows, tensors
from medrl.lora.manifest import manifest
from medrl.models.forward import actor_critic_forward
from medrl.models.sharing import storage_bytes
from medrl.models.value_head import ActorCritic
from medrl.types import Experience, RolloutBatch

VALUE_METRICS = ("value_loss", "value_mean", "returns_mean", "value_clip_fraction", "explained_variance")


class DeepSpeedActorCritic(DeepSpeedPolicy):
    """PolicyLearner; its `critic` is a CriticLearner that reads what the policy's passes and updates left for it.

    Raises ModelError where a value head cannot stand on the model.
    """

    def __init__(self, config: PpoConfig, total_updates: int) -> None:
        super().__init__(config, total_updates)
        self.critic.values(self.canary)  # proves that it can stand there

    def logprobs(self, batch: RolloutBatch) -> np.ndarray:
        logprobs, values, last = forward_rows(self.engine, batch, self._both)
        self.critic.seen = batch, (values, last)
        return logprobs

    def update(self, experience: Experience, kl_coef: float, seed: int) -> dict[str, float]:
        self.critic.seen = None
        metrics = super().update(experience, kl_coef, seed)
        self.critic.metrics = {name: metrics.pop(name) for name in VALUE_METRICS}
        return metrics

    def load(self, directory: str | Path) -> None:
        self.critic.seen = None
        super().load(directory)

    def _engine(self, total_updates: int) -> TrainEngine:
        both, config = ActorCritic(self.model), self.config
        engine = TrainEngine(both, config.learner, total_updates, precision_of(config.model, config.lora),
                             (both.value_head, config.critic.optimizer))
        self.critic = ValueHead(self, both, engine)
        return engine

    def _full_tensors(self, *, copied: bool) -> dict[str, Tensor]:
        tensors = super()._full_tensors(copied=copied)
        return {name.removeprefix("policy."): t for name, t in tensors.items() if name.startswith("policy.")}

    def _both(self, rows: RolloutBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probs, values, and the values after the last token."""
        (logprobs, _), values = self._pass(actor_critic_forward, rows, entropy=False)
        return logprobs, *values

    def _loss(self, rows: Experience, weights: Tensor, kl_coef: float) -> tuple[Tensor, dict[str, float]]:
        """Σ weights · (the policy's loss + coef · clipped squared error of the values)."""
        clip = self.config.algorithm.value_clip
        old, returns = tensors(rows, self.engine.device, "values", "returns")
        (logprobs, entropy), (values, _) = self._pass(actor_critic_forward, rows, entropy=True)
        loss, sums = self._token_loss(rows, weights, kl_coef, logprobs, entropy)
        of_values = value_loss(values, old, returns, clip)
        value_sums = value_stats(values, old, returns, weights > 0, clip=clip, loss=of_values)
        return (weights * (loss + self.config.critic.coef * of_values)).sum(), sums | value_sums


class ValueHead:
    """The CriticLearner in an actor-critic. The policy's update must come before its own; both are saved together."""

    seen: tuple[RolloutBatch, tuple[np.ndarray, np.ndarray]] | None = None  # rows, and what `values` says of them
    metrics: dict[str, float]  # of the last update

    def __init__(self, policy: DeepSpeedActorCritic, model: ActorCritic, engine: TrainEngine) -> None:
        self._policy, self._model, self._engine = policy, model, engine

    def describe(self) -> dict[str, Any]:
        policy, head = self._model.policy, self._model.value_head
        facts = {"trainable": manifest(head), "parameter_bytes": storage_bytes(policy, head) - storage_bytes(policy)}
        return self._engine.describe() | facts

    def values(self, batch: RolloutBatch) -> tuple[np.ndarray, np.ndarray]:
        if self.seen is None or not _same_rows(self.seen[0], batch):
            self._policy.logprobs(batch)
        assert self.seen is not None
        return self.seen[1]

    def update(self, experience: Experience, seed: int) -> dict[str, float]:
        return self.metrics

    def save(self, directory: str | Path) -> None:
        """The policy has saved it."""

    def load(self, directory: str | Path) -> None:
        """The policy has loaded it."""


def _same_rows(a: RolloutBatch, b: RolloutBatch) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name))
               for name in ("ids", "attention_mask", "response_mask"))
