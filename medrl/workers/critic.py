"""The critic on Ray: its own ranks and engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import ray

from medrl.types import Experience, RolloutBatch
from medrl.workers.group import Pending
from medrl.workers.policy import LearnerGroup, LearnerWorker, _own
from medrl.workers.runtime import stack_rows

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

    def values(self, batch: RolloutBatch) -> tuple[np.ndarray, np.ndarray]:
        return self.learner.values(_own(batch, self.rank, self.world))

    def update(self, experience: Experience, seed: int) -> dict[str, float]:
        return self.learner.update(experience, seed)

    def save(self, path: str) -> None:
        self.learner.save(path)

    def load(self, path: str) -> None:
        self.learner.load(path)


class CriticGroup(LearnerGroup):
    """The critic's ranks."""

    def values(self, batch: ray.ObjectRef) -> Pending[tuple[np.ndarray, np.ndarray]]:
        """Values before each response token [B, T], and after the last one [B]."""

        def combine(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
            return stack_rows([values for values, _ in parts]), np.concatenate([last for _, last in parts])

        return self.pending([h.values.remote(batch) for h in self.handles], "values", self.timeouts.score, combine)

    def update(self, experience: ray.ObjectRef, seed: int) -> Pending[dict[str, float]]:
        """One update on the returns; metrics over all ranks."""
        return self.pending([h.update.remote(experience, seed) for h in self.handles], "update", self.timeouts.update)
