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
    *,
    packed: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs (and entropies, nats) of the response tokens under `model`: ids [B, T] → [B, T] float32, 0 elsewhere.

    `model` is a causal LM, a PeftModel around one or a DeepSpeed engine around either. Padding may stand on either
    side. Logits are computed only where they predict a response token; a token at position 0, which nothing predicts,
    has log-prob 0. Gradients flow unless the caller turns them off. `packed`: the rows go through the model one after
    the other in one row without padding; only for models that `check_packing` has passed.
    """
    response = response_mask.bool()
    predicted = torch.cat([torch.zeros_like(response[:, :1]), response[:, 1:]], dim=1)
    predicting = predicted.roll(-1, dims=1)  # the logits at position i predict token i + 1
    tokens, mask, positions = _layout(ids, attention_mask, packed)
    inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions, "use_cache": False}
    if packed:
        predicting = predicting[attention_mask.bool()][None]

    def of_logits(logits: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        if entropy:
            return token_stats(logits, tokens, temperature)
        return (token_logprobs(logits, tokens, temperature),)

    logprobs, *entropies = (
        torch.zeros(ids.shape, dtype=values.dtype, device=values.device).masked_scatter(predicted, values)
        for values in over_logits(model, inputs, predicting, ids[predicted], of_logits)
    )
    return logprobs, entropies[0] if entropy else None


def value_forward(
    model: Any, ids: Tensor, attention_mask: Tensor, response_mask: Tensor, *, packed: bool = False
) -> tuple[Tensor, Tensor]:
    """Values of the states before each response token [B, T] (0 elsewhere) and after the last real token [B], float32.

    `model` is a ScalarModel, a PeftModel or a DeepSpeed engine around one. The value that belongs to token i is the
    scalar at i − 1, where the logits that chose the token come from. `packed` as in `policy_forward`.
    """
    scalars = model(*_layout(ids, attention_mask, packed))
    if packed:
        scalars = torch.zeros(ids.shape, device=ids.device).masked_scatter(attention_mask.bool(), scalars)
    before = torch.cat([torch.zeros_like(scalars[:, :1]), scalars[:, :-1]], dim=1)
    return torch.where(response_mask.bool(), before, 0.0), last_token_scores(scalars, attention_mask)


def _layout(ids: Tensor, attention_mask: Tensor, packed: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    """Ids, attention mask and position ids [B, T] as they are, or the real tokens of all rows as one row [1, n].

    Without a mask, transformers lets a token see only back to where the position ids last started again.
    """
    positions = position_ids(attention_mask)
    if not packed:
        return ids, attention_mask.long(), positions
    real = attention_mask.bool()
    return ids[real][None], None, positions[real][None]
