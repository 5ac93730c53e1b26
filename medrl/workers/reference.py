"""A reference of its own: frozen copies of the starting model."""

from __future__ import annotations

import numpy as np
import ray

from medrl.config.ppo import PpoConfig
from medrl.types import RolloutBatch
from medrl.workers.group import Pending, WorkerGroup
from medrl.workers.runtime import prepare_worker, split_evenly, stack_rows


@ray.remote
class ReferenceWorker:
    """One frozen copy; forward passes only."""

    def __init__(self, config: PpoConfig, index: int, pool: int, threads: int) -> None:
        prepare_worker(threads, seed=config.seed)
        self.config, self.index, self.pool = config, index, pool

    def start(self) -> None:
        from medrl.models.device import pick_device
        from medrl.models.loading import load_causal_lm

        self.device = pick_device()
        self.model = load_causal_lm(self.config.model).requires_grad_(False)
        self.model.to(self.device)  # type: ignore[arg-type]

    def logprobs(self, batch: RolloutBatch) -> np.ndarray:
        """[b, T] of this worker's share of the rows."""
        mine = split_evenly(len(batch.ids), self.pool)[self.index]
        return self._logprobs(batch.rows(np.arange(len(batch.ids))[mine]))

    def canary(self) -> list[float]:
        from medrl.lora.reference_proofs import canary_batch

        return self._logprobs(canary_batch(self.model.config.get_text_config().vocab_size))[0].tolist()

    def _logprobs(self, share: RolloutBatch) -> np.ndarray:
        import torch

        from medrl.data.batching import micro_batches
        from medrl.models.forward import policy_forward

        out = np.zeros(share.ids.shape, np.float32)
        for rows in micro_batches(share.attention_mask.sum(1), self.config.learner.micro_batch_size):
            part = share.rows(rows)
            ids, mask, response = (
                torch.tensor(x, device=self.device) for x in (part.ids, part.attention_mask, part.response_mask)
            )
            with torch.no_grad():
                temperature = self.config.sampling.temperature
                logprobs, _ = policy_forward(self.model, ids, mask, response, temperature, entropy=False)
            out[rows, : part.ids.shape[1]] = logprobs.cpu().numpy()
        return out


class ReferenceGroup(WorkerGroup):
    """A pool of frozen copies that share the rows of a batch."""

    def __init__(self, handles: list, placement, config: PpoConfig) -> None:
        super().__init__("reference", handles, placement)
        self.timeouts = config.timeouts

    def start(self) -> Pending[None]:
        return self.pending([h.start.remote() for h in self.handles], "start", self.timeouts.start)

    def logprobs(self, batch: ray.ObjectRef) -> Pending[np.ndarray]:
        """[B, T] reference log-probs."""
        return self.pending(
            [h.logprobs.remote(batch) for h in self.handles], "log-probs", self.timeouts.score, stack_rows
        )

    def canary(self) -> Pending[list[float]]:
        """Reference log-probs of a fixed sequence, by every copy in turn: they must never change."""

        def joined(parts: list[list[float]]) -> list[float]:
            return [value for part in parts for value in part]

        return self.pending(
            [h.canary.remote() for h in self.handles], "reference canary", self.timeouts.score, joined
        )
