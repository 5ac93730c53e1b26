"""Proofs that a policy starts at its reference, and that the reference never changes (R7, R9)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medrl.errors import AdapterError
from medrl.types import RolloutBatch


def check_policy_start(policy: Tensor, reference: Tensor, bound: float = 1e-6) -> None:
    """AdapterError unless the fresh policy's log-probs are its reference's: KL is 0 (R9)."""
    gap = (policy - reference).abs().max().item()
    if not gap <= bound:
        raise AdapterError(
            "the policy does not start at the reference: KL would not start at 0",
            limit=f"log-probs within {bound:g}",
            got=f"a gap of {gap:.3g}",
            remedy="start from a merged model with a fresh adapter, or name the adapter it continues as the reference",
        )


def check_first_loss(loss: float, expected: float, bound: float = 1e-6) -> None:
    """AdapterError unless DPO's mean loss before the first update is that of margins of 0 (R9): ln 2 for the sigmoid.

    `bound` is relative.
    """
    if not abs(loss - expected) <= bound * expected:
        raise AdapterError(
            "the DPO policy does not start at its reference",
            limit=f"a first loss of {expected:.6f} within {bound:g}",
            got=f"{loss:.6f}",
            remedy="leave the reference out (with LoRA it is the base), or name the adapter the policy continues",
        )


def canary_batch(vocab_size: int, length: int = 32) -> RolloutBatch:
    """One fixed sequence [1, length], the same in every process and run; all but its first token count as response."""
    generator = torch.Generator().manual_seed(20240229)
    ids = torch.randint(vocab_size, (1, length), generator=generator).numpy()
    real = np.ones_like(ids, dtype=bool)
    response = real.copy()
    response[:, 0] = False
    return RolloutBatch(ids, real, response, np.zeros(ids.shape, np.float32), np.ones(1, dtype=bool))


def check_reference_canary(expected: Tensor, got: Tensor, tolerance: float = 0.0) -> None:
    """AdapterError unless the canary's reference log-probs are the recorded ones (bit-identical within a process; after
    a resume within 1e-5)."""
    same_shape = expected.shape == got.shape
    gap = (expected - got).abs().max().item() if same_shape else float("inf")
    if not gap <= tolerance:  # NaN is a difference too
        raise AdapterError(
            "the reference has changed since the start of the run",
            limit=f"canary log-probs within {tolerance:g}",
            got=f"largest difference {gap:g}",
            remedy="the base weights were written to: restart from the last checkpoint",
        )
