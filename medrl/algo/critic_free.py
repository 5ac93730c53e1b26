"""Advantages without a critic: an answer against the other answers to its prompt, or against the batch.

Group functions take the returns [B] of whole answers, the G answers to a prompt side by side, and give advantages [B].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medrl.algo.masking import at_least_float32


def rloo(returns: Tensor, group_size: int) -> Tensor:
    """Return minus the mean of the other G − 1 (Ahmadian 2024, eq. 9)."""
    groups = _groups(returns, group_size)
    others = (groups.sum(1, keepdim=True) - groups) / (group_size - 1)
    return (groups - others).flatten()


def grpo(returns: Tensor, group_size: int) -> Tensor:
    """(return − mean) / (std + 1e−6) of the group, std with Bessel's correction (Shao 2024)."""
    groups = _groups(returns, group_size)
    return (_centred(groups) / (groups.std(1, keepdim=True) + 1e-6)).flatten()


def group_centred(returns: Tensor, group_size: int) -> Tensor:
    """Return minus the group's mean (Liu 2025, Dr. GRPO; with whitening afterwards Hu 2025, REINFORCE++-baseline)."""
    return _centred(_groups(returns, group_size)).flatten()


GROUP_ADVANTAGES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "rloo": rloo,
    "grpo": grpo,
    "dr_grpo": group_centred,
    "reinforce_pp_baseline": group_centred,
}


def returns_to_go(rewards: Tensor, response_mask: Tensor) -> Tensor:
    """Σ_{u ≥ t} r_u over response tokens, [B, T] → [B, T], 0 outside (Hu 2025, REINFORCE++, before whitening)."""
    mask = response_mask.bool()
    inside = torch.where(mask, at_least_float32(rewards), 0.0)
    return torch.where(mask, inside.flip(1).cumsum(1).flip(1), 0.0)


def _groups(returns: Tensor, group_size: int) -> Tensor:
    return at_least_float32(returns).view(-1, group_size)


def _centred(groups: Tensor) -> Tensor:
    return groups - groups.mean(1, keepdim=True)
