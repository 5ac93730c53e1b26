"""The critic on Ray: ranks of its own, or inside the policy's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import ray

from medrl.setup.memory import give_back_freed_memory
from medrl.types import Experience, RolloutBatch
from medrl.workers.group import Pending
from medrl.workers.policy import LearnerGroup, LearnerWorker, PolicyGroup
from medrl.workers.runtime import in_row_order

if TYPE_CHECKING:
    from medrl.learner.critic import DeepSpeedCritic


@ray.remote
class CriticWorker(LearnerWorker):
    """One rank of the critic's DeepSpeed engine."""

    learner: DeepSpeedCritic

    def start(self, host: str, port: int, total_updates: int) -> dict:
        from medrl.learner.critic import DeepSpeedCritic

        self.join(host, port)
        self.learner = DeepSpeedCritic(self.config, total_updates)
        return self.learner.describe()

    def values(self, batch: RolloutBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows, share = self._share(batch)
        return rows, *self.learner.values(share)

    def update(self, experience: Experience, seed: int) -> dict[str, float]:
        metrics = self.learner.update(experience, seed)
        give_back_freed_memory()
        return metrics

    def save(self, path: str) -> None:
        self.learner.save(path)

    def load(self, path: str) -> None:
        self.learner.load(path)


class CriticGroup(LearnerGroup):
    """The critic's ranks."""

    def values(self, batch: ray.ObjectRef) -> Pending[tuple[np.ndarray, np.ndarray]]:
        """Values before each response token [B, T], and after the last one [B]."""
        return self.pending([h.values.remote(batch) for h in self.handles], "values", self.timeouts.score, _stacked)

    def update(self, experience: ray.ObjectRef, seed: int) -> Pending[dict[str, float]]:
        """One update on the returns; metrics over all ranks."""
        return self.pending([h.update.remote(experience, seed) for h in self.handles], "update", self.timeouts.update)


class SharedCritic:
    """The critic inside the policy's ranks, on its base or a head on the policy itself: no workers of its own."""

    def __init__(self, policy: PolicyGroup) -> None:
        self._policy = policy

    def values(self, batch: ray.ObjectRef) -> Pending[tuple[np.ndarray, np.ndarray]]:
        """Values before each response token [B, T], and after the last one [B]."""
        refs = [h.critic_values.remote(batch) for h in self._policy.handles]
        return self._policy.pending(refs, "critic values", self._policy.timeouts.score, _stacked)

    def update(self, experience: ray.ObjectRef, seed: int) -> Pending[dict[str, float]]:
        """One update on the returns, once the policy's is done; metrics over all ranks."""
        refs = [h.critic_update.remote(experience, seed) for h in self._policy.handles]
        return self._policy.pending(refs, "critic update", self._policy.timeouts.update)

    def save(self, path: str) -> Pending[None]:
        refs = [h.critic_save.remote(path) for h in self._policy.handles]
        return self._policy.pending(refs, "critic checkpoint", self._policy.timeouts.checkpoint)

    def load(self, path: str) -> Pending[None]:
        refs = [h.critic_load.remote(path) for h in self._policy.handles]
        return self._policy.pending(refs, "critic restore", self._policy.timeouts.checkpoint)


def _stacked(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return (in_row_order([(rows, values) for rows, values, _ in parts]),
            in_row_order([(rows, last) for rows, _, last in parts]))
