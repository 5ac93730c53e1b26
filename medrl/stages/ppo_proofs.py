"""What must hold while PPO runs; each check ends the run with both numbers when it does not."""

from __future__ import annotations

import numpy as np

from medrl.config.ppo import PpoConfig
from medrl.errors import AdapterError, TrainingError
from medrl.stages.ppo_state import LoopState
from medrl.types import Experience
from medrl.workers.launch import Workers

# The same weights through the same forward pass, but maybe in another process with other batch shapes.
START_TOLERANCE = {"float32": 1e-5, "bfloat16": 0.1}


def check_start(config: PpoConfig, step: int, experience: Experience) -> None:
    """At the first step the policy is the reference, so every per-token KL is 0 (in bfloat16: within rounding)."""
    if step != 1:
        return
    gap = float(np.abs(experience.logprobs - experience.ref_logprobs).max())
    limit = START_TOLERANCE[config.model.dtype]
    if gap > limit:
        raise AdapterError(
            "the policy does not start at the reference",
            limit=f"log-probs within {limit:g}",
            got=f"a gap of {gap:g}",
            remedy="start from a merged model and a fresh adapter, so that the first policy equals the reference",
        )


def check_kl_limit(config: PpoConfig, step: int, metrics: dict[str, float]) -> None:
    """The policy has not run away from the reference."""
    limit, kl = config.algorithm.kl.limit, metrics["kl_sum_mean"]
    if limit is not None and kl > limit:
        raise TrainingError(
            f"step {step}: the policy has moved too far from the reference",
            limit=f"algorithm.kl.limit {limit:g}",
            got=f"a mean KL of {kl:.3f}",
            remedy="raise algorithm.kl.coef, lower the learning rate, or raise the limit",
        )


def check_reference(state: LoopState, w: Workers) -> None:
    """The reference gives the very numbers it gave at the start, whatever the adapter learned since."""
    now = w.reference.canary().result()
    if not state.canary:
        state.canary = now
        return
    gap = max((abs(a - b) for a, b in zip(state.canary, now, strict=True)), default=0.0)
    if gap > state.canary_tolerance:
        raise AdapterError(
            "the reference policy has changed",
            limit=f"canary log-probs within {state.canary_tolerance:g} of the start",
            got=f"a difference of {gap:g}",
            remedy="the base weights were modified while training: report this",
        )
