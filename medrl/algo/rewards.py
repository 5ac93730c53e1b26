"""From raw scores of whole answers to rewards of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from medrl.algo.masking import at_least_float32


def shape_scores(raw: Tensor, penalties: Tensor, *, clip: float | None) -> Tensor:
    """Scores [B], calibrated where their scorers are, → shaped scores [B]: clip to ± `clip`, less `penalties` [B].

    The penalties come last so that the clip cannot swallow them (Huang 2024).
    """
    scores = at_least_float32(raw)
    if clip is not None:
        scores = scores.clamp(-clip, clip)
    return scores - penalties


def answer_penalties(
    ended: Tensor,
    lengths: Tensor,
    repeated: Tensor,
    *,
    missing_eos: float,
    length: float,
    length_allowed: int,
    repetition: float,
) -> Tensor:
    """What is taken off the score of each answer, [B] float32, never negative.

    `missing_eos` where `ended` [B] is False; `length` for each of an answer's `lengths` [B] tokens beyond
    `length_allowed`; `repetition` · `repeated` [B], the share of its n-grams that it said before.
    """
    cut = torch.where(ended.bool(), 0.0, missing_eos)
    return cut + length * (lengths - length_allowed).clamp(min=0) + repetition * repeated


def token_rewards(scores: Tensor, kl: Tensor, response_mask: Tensor, coef: float) -> Tensor:
    """−β·kl_t on every response token, plus the answer's score on its last one: [B], [B, T] → [B, T], 0 outside.

    Ziegler 2019, eq. 2. A row without response tokens has nowhere to put its score and stays 0.
    """
    mask = response_mask.bool()
    rewards = torch.where(mask, -coef * at_least_float32(kl), 0.0)
    is_last = mask & (mask.flip(1).long().cumsum(1).flip(1) == 1)
    return rewards + is_last * at_least_float32(scores).unsqueeze(1)
