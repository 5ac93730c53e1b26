"""The one forward pass behind old, new and reference log-probs, the one behind values, and the one behind both.

All of them must take the same path (explicit position_ids, no cache, the same temperature), else the probability
ratio of the first mini-batch is not 1 and the KL to an equal reference not 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medrl.algo.logprobs import token_logprobs, token_stats
from medrl.algo.masking import position_ids
from medrl.errors import ModelError
from medrl.models.head import inner_model, over_logits
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
    return _policy_pass(model, ids, attention_mask, response_mask, temperature, entropy, packed)[:2]


def actor_critic_forward(
    model: Any,
    ids: Tensor,
    attention_mask: Tensor,
    response_mask: Tensor,
    temperature: float,
    entropy: bool,
    *,
    packed: bool = False,
) -> tuple[tuple[Tensor, Tensor | None], tuple[Tensor, Tensor]]:
    """What `policy_forward` and `value_forward` give, from one pass through an ActorCritic or an engine around it.

    Raises ModelError if the model does not call its output head as a module, so that nobody sees what it reads.
    """
    logprobs, entropies, hidden = _policy_pass(
        model, ids, attention_mask, response_mask, temperature, entropy, packed)
    inner = inner_model(model)
    if hidden is None:
        raise ModelError(
            f"{type(inner.policy).__name__} shows nobody what its output head reads: a value head cannot stand there",
            remedy="set critic.mode: separate")
    return (logprobs, entropies), _values(inner.scalars(hidden), attention_mask, response_mask, packed)


def _policy_pass(
    model: Any, ids: Tensor, attention_mask: Tensor, response_mask: Tensor, temperature: float, entropy: bool,
    packed: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Log-probs, entropies, and the hidden states [B, T, d], or [1, n, d] where packed, that the output head reads."""
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

    results, hidden = over_logits(model, inputs, predicting, ids[predicted], of_logits)
    logprobs, *entropies = (
        torch.zeros(ids.shape, dtype=values.dtype, device=values.device).masked_scatter(predicted, values)
        for values in results
    )
    return logprobs, entropies[0] if entropy else None, hidden


def value_forward(
    model: Any, ids: Tensor, attention_mask: Tensor, response_mask: Tensor, *, packed: bool = False
) -> tuple[Tensor, Tensor]:
    """Values of the states before each response token [B, T] (0 elsewhere) and after the last real token [B], float32.

    `model` is a ScalarModel, a PeftModel or a DeepSpeed engine around one. The value that belongs to token i is the
    scalar at i − 1, where the logits that chose the token come from. `packed` as in `policy_forward`.
    """
    return _values(model(*_layout(ids, attention_mask, packed)), attention_mask, response_mask, packed)


def _values(
    scalars: Tensor, attention_mask: Tensor, response_mask: Tensor, packed: bool
) -> tuple[Tensor, Tensor]:
    """From scalars at every position, [B, T] or [1, n] where packed, to what `value_forward` returns."""
    if packed:
        real = attention_mask.bool()
        scalars = torch.zeros(real.shape, device=real.device).masked_scatter(real, scalars)
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
