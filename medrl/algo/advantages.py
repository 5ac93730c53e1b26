"""Generalised advantage estimation."""

from __future__ import annotations

import torch
from torch import Tensor

from medrl.algo.masking import at_least_float32


def gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float, bootstrap: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, both [B, T] and 0 outside the mask (Schulman 2016, eq. 16).

    δ_t = r_t + γ·V_{t+1} − V_t, A_t = δ_t + γλ·A_{t+1}, R_t = A_t + V_t, over response tokens only: what stands
    between or around them is skipped, never summed. V after the last token is 0, or `bootstrap` [B] where an answer
    that was cut goes on (0 for those that ended).
    """
    rewards, values, mask = at_least_float32(rewards), at_least_float32(values), response_mask.bool()
    next_value = torch.zeros_like(values[:, 0]) if bootstrap is None else at_least_float32(bootstrap)
    next_advantage = torch.zeros_like(next_value)
    advantages = torch.zeros_like(rewards)
    for t in range(rewards.shape[1] - 1, -1, -1):
        inside = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = torch.where(inside, advantage, 0.0)
        next_advantage = torch.where(inside, advantage, next_advantage)
        next_value = torch.where(inside, values[:, t], next_value)
    return advantages, torch.where(mask, advantages + values, 0.0)
