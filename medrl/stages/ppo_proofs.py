"""What must hold while PPO runs; each check ends the run with both numbers when it does not."""

from __future__ import annotations

import torch

from medrl.config.ppo import PpoConfig
from medrl.errors import TrainingError
from medrl.lora.reference_proofs import check_policy_start, check_reference_canary
from medrl.stages.ppo_state import LoopState
from medrl.types import Experience
from medrl.workers.launch import Workers

# The same weights through the same forward pass, but maybe in another process with other batch shapes.
START_TOLERANCE = {"float32": 1e-5, "bfloat16": 0.1}


def check_start(config: PpoConfig, step: int, experience: Experience) -> None:
    """At the first step the policy is the reference, so every per-token KL is 0 (in bfloat16: within rounding)."""
    if step != 1:
        return
    policy, reference = torch.tensor(experience.logprobs), torch.tensor(experience.ref_logprobs)
    check_policy_start(policy, reference, START_TOLERANCE[config.model.dtype])


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
    """The reference gives the very numbers it gave at the start, whatever the policy learned since."""
    now = w.reference.canary().result()
    if not state.canary:
        state.canary = now
        return
    check_reference_canary(torch.tensor(state.canary), torch.tensor(now), state.canary_tolerance)
