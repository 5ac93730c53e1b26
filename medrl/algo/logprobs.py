"""Log-probabilities and entropy of the tempered next-token distribution, from logits.

The vocabulary axis is worked through in chunks of positions, recomputed in the backward pass: beside the logits and
their gradient, memory holds the float32 copy of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medrl.algo.masking import at_least_float32

_CHUNK_ELEMENTS = 1 << 24  # 64 MiB of float32


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / τ) of the tokens drawn from them: [N, V], tokens [N] → [N], at least float32.

    Ziegler 2019. top-p and top-k do not enter.
    """

    def chosen(chunk: Tensor, drawn: Tensor) -> Tensor:
        scaled = at_least_float32(chunk) / temperature
        return scaled.gather(-1, drawn.unsqueeze(-1)).squeeze(-1) - scaled.logsumexp(-1)

    return _chunked(chosen, logits, tokens)


def token_entropy(logits: Tensor, temperature: float) -> Tensor:
    """−Σ_v p_v log p_v in nats of the tempered distributions: [N, V] → [N], at least float32.

    Schulman 2017, eq. 9 (the entropy bonus), of the same scaled logits as `token_logprobs`.
    """

    def entropy(chunk: Tensor) -> Tensor:
        logp = (at_least_float32(chunk) / temperature).log_softmax(-1)
        return -(logp.exp() * logp).sum(-1)

    return _chunked(entropy, logits)


def _chunked(function: Callable[..., Tensor], logits: Tensor, *per_position: Tensor) -> Tensor:
    """`function` over chunks of positions."""
    size = max(1, _CHUNK_ELEMENTS // logits.shape[-1])
    chunks = zip(*(x.split(size) for x in (logits, *per_position)), strict=True)
    return torch.cat([checkpoint(function, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks])
