"""From raw scores of whole answers to rewards of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from medrl.algo.masking import at_least_float32


def shape_scores(raw: Tensor, ended: Tensor, *, clip: float | None, missing_eos_penalty: float) -> Tensor:
    """Scores [B], calibrated where their scorers are, → shaped scores [B]: clipped first, then penalised.

    Clipped to ± `clip`; then `missing_eos_penalty` off an answer whose `ended` [B] is False. The penalty comes last so
    that the clip cannot swallow it (Huang 2024).
    """
    scores = at_least_float32(raw)
    if clip is not None:
        scores = scores.clamp(-clip, clip)
    return torch.where(ended.bool(), scores, scores - missing_eos_penalty)


def token_rewards(scores: Tensor, kl: Tensor, response_mask: Tensor, coef: float) -> Tensor:
    """−β·kl_t on every response token, plus the answer's score on its last one: [B], [B, T] → [B, T], 0 outside.

    Ziegler 2019, eq. 2. A row without response tokens has nowhere to put its score and stays 0.
    """
    mask = response_mask.bool()
    rewards = torch.where(mask, -coef * at_least_float32(kl), 0.0)
    is_last = mask & (mask.flip(1).long().cumsum(1).flip(1) == 1)
    return rewards + is_last * at_least_float32(scores).unsqueeze(1)
