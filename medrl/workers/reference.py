"""A reference of its own: frozen copies of the starting model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import ray

from medrl.config.ppo import PpoConfig
from medrl.faults.budget import FaultBudget
from medrl.faults.pool import Limits
from medrl.types import RolloutBatch
from medrl.workers.capacity import RolePlan
from medrl.workers.pool import FETCH_S, Call, Pool, PoolWorker
from medrl.workers.runtime import prepare_worker, stack_rows


@ray.remote
class ReferenceWorker(PoolWorker):
    """One frozen copy; forward passes only."""

    def __init__(self, config: PpoConfig, threads: int) -> None:
        prepare_worker(threads, seed=config.seed)
        self.config = config

    def start(self) -> int:
        """Load the model; returns the bytes of its parameters."""
        from medrl.models.device import pick_device
        from medrl.models.loading import load_causal_lm
        from medrl.models.sharing import storage_bytes

        self.device = pick_device()
        self.model = load_causal_lm(self.config.model).requires_grad_(False)
        self.model.to(self.device)  # type: ignore[arg-type]
        return storage_bytes(self.model)

    def logprobs(self, batch: RolloutBatch, rows: list[int]) -> np.ndarray:
        """[b, t] of these rows, t the longest of them."""
        return self._logprobs(batch.rows(np.array(rows)))

    def canary(self, times: int) -> list[list[float]]:
        """Log-probs of a fixed sequence, computed so many times."""
        from medrl.lora.reference_proofs import canary_batch

        sequence = canary_batch(self.model.config.get_text_config().vocab_size)
        return [self._logprobs(sequence)[0].tolist() for _ in range(times)]

    def _logprobs(self, share: RolloutBatch) -> np.ndarray:
        import torch

        from medrl.data.batching import micro_batches
        from medrl.models.device import pass_tokens
        from medrl.models.forward import policy_forward

        out = np.zeros(share.ids.shape, np.float32)
        limits = self.config.learner
        groups = micro_batches(share.attention_mask.sum(1), limits.micro_batch_size, limits.micro_batch_tokens,
                               padded=not limits.packing, pass_tokens=pass_tokens(self.device))
        for rows in groups:
            part = share.rows(rows)
            ids, mask, response = (
                torch.tensor(x, device=self.device) for x in (part.ids, part.attention_mask, part.response_mask)
            )
            with torch.no_grad():
                temperature = self.config.sampling.temperature
                logprobs, _ = policy_forward(
                    self.model, ids, mask, response, temperature, entropy=False, packed=limits.packing)
            out[rows, : part.ids.shape[1]] = logprobs.cpu().numpy()
        return out


class ReferenceGroup(Pool):
    """A pool of frozen copies that share the rows of a batch."""

    def __init__(
        self, plan: RolePlan, config: PpoConfig, threads: int, budget: FaultBudget, make_room: Callable[[], None]
    ) -> None:
        limits = Limits(config.timeouts.start, config.timeouts.sync, config.timeouts.score)
        super().__init__(plan, ReferenceWorker, (config, threads), limits, budget, make_room=make_room)

    def logprobs(self, batch: ray.ObjectRef) -> Call[np.ndarray]:
        """[B, T] reference log-probs."""
        lengths = ray.get(batch, timeout=FETCH_S).attention_mask.sum(1).tolist()
        return self.submit(
            lengths, lambda worker, rows: worker.logprobs.remote(batch, list(rows)),
            lambda rows: stack_rows([row[None] for row in rows]))

    def canary(self) -> Call[list[float]]:
        """Reference log-probs of a fixed sequence, by every copy in turn: they must never change."""
        return self.submit(
            [1.0] * self.plan.workers, lambda worker, items: worker.canary.remote(len(items)),
            lambda parts: [value for part in parts for value in part])
