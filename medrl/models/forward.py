"""The one forward pass behind old, new and reference log-probs, and the one behind values.

All of them must take the same path (explicit position_ids, no cache, the same temperature), else the probability
ratio of the first mini-batch is not 1 and the KL to an equal reference not 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medrl.algo.logprobs import token_logprobs, token_stats
from medrl.algo.masking import position_ids
from medrl.models.head import over_logits
from medrl.models.scalar_head import last_token_scores


def policy_forward(
    model: Any,
    ids: Tensor,
    attention_mask: Tensor,
    response_mask: Tensor,
    temperature: float,
    entropy: bool,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs (and entropies, nats) of the response tokens under `model`: ids [B, T] → [B, T] float32, 0 elsewhere.

    `model` is a causal LM, a PeftModel around one or a DeepSpeed engine around either. Padding may stand on either
    side. Logits are computed only where they predict a response token; a token at position 0, which nothing predicts,
    has log-prob 0. Gradients flow unless the caller turns them off.
    """
    response = response_mask.bool()
    predicted = torch.cat([torch.zeros_like(response[:, :1]), response[:, 1:]], dim=1)
    predicting = predicted.roll(-1, dims=1)  # the logits at position i predict token i + 1
    inputs = {
        "input_ids": ids, "attention_mask": attention_mask.long(), "position_ids": position_ids(attention_mask),
        "use_cache": False,
    }

    def of_logits(logits: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        if entropy:
            return token_stats(logits, tokens, temperature)
        return (token_logprobs(logits, tokens, temperature),)

    logprobs, *entropies = (
        torch.zeros(ids.shape, dtype=values.dtype, device=values.device).masked_scatter(predicted, values)
        for values in over_logits(model, inputs, predicting, ids[predicted], of_logits)
    )
    return logprobs, entropies[0] if entropy else None


def value_forward(model: Any, ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Values of the states before each response token [B, T] (0 elsewhere) and after the last real token [B], float32.

    `model` is a ScalarModel, a PeftModel or a DeepSpeed engine around one. The value that belongs to token i is the
    scalar at i − 1, where the logits that chose the token come from.
    """
    scalars = model(ids, attention_mask, position_ids(attention_mask))
    before = torch.cat([torch.zeros_like(scalars[:, :1]), scalars[:, :-1]], dim=1)
    return torch.where(response_mask.bool(), before, 0.0), last_token_scores(scalars, attention_mask)
