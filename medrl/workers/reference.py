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
        from medrl.data.batching import micro_batches

        share = batch.rows(np.arange(len(batch.ids))[split_evenly(len(batch.ids), self.pool)[self.index]])
        out = np.zeros(share.ids.shape, np.float32)
        for rows in micro_batches(share.attention_mask.sum(1), self.config.learner.micro_batch_size):
            part = share.rows(rows)
            logprobs = self._forward(part.ids, part.attention_mask, part.response_mask)
            out[rows, : part.ids.shape[1]] = logprobs
        return out

    def canary(self) -> list[float]:
        """Log-probs of a fixed sequence: they must never change."""
        from medrl.lora.reference import canary_ids

        ids = canary_ids(self.model.config.get_text_config().vocab_size).numpy()
        real = np.ones_like(ids, dtype=bool)
        return self._forward(ids, real, real)[0, 1:].tolist()

    def _forward(self, ids: np.ndarray, mask: np.ndarray, response: np.ndarray) -> np.ndarray:
        """[b, t] log-probs."""
        import torch

        from medrl.models.forward import policy_forward

        tensors = (torch.tensor(x, device=self.device) for x in (ids, mask, response))
        temperature = self.config.sampling.temperature
        with torch.no_grad():
            logprobs, _ = policy_forward(self.model, *tensors, temperature=temperature, entropy=False)
        return logprobs.cpu().numpy()


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
        """Log-probs of a fixed sequence from every copy, one after the other."""
        return self.pending(
            [h.canary.remote() for h in self.handles], "canary", self.timeouts.score,
            lambda copies: [x for copy in copies for x in copy],
        )
